"""Releases: a run directory in one small safetensors file, with what an editor needs.

`pack` writes the file. `unpacked` makes a run directory of it, next to the file, so that a release opens like a
run. Weights that only training needs are left out; a loaded method has NaN in their place. Tensors are rounded.
"""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
import yaml
from safetensors.torch import load_file, save
from torch import Tensor

from engine import UserError, find_checkpoint
from engine.checkpoint import name_of, read_checkpoint, save_checkpoint
from engine.files import atomic_text, atomic_write, cannot_write, lock, sha256

SUFFIX = ".safetensors"
FORMAT = 1  # of the file; another one is refused
LIMIT = 2 * 2**20  # bytes of a release
# Bits of weights and of fitted tables: the first pair that keeps the file within the limit is taken.
BITS = ((16, 16), (12, 12), (10, 10), (8, 8), (8, 4), (7, 4))
SMALL_WEIGHT, SMALL_TABLE = 2**12, 2**16  # elements; smaller tensors have 16 bits in any case
CLIPS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)  # shares of the largest value, tried for the range of the integers
TEXTS = ("config.yaml", "meta.json", "environment.json")
MARK = "release.json"  # in the unpacked folder: hash of the file that it was made from


@dataclass(frozen=True)
class Packed:
    """A written release: its file, its size in bytes, and the bits of weights and of fitted tables."""

    path: Path
    size: int
    bits: tuple[int, int]


def pack(run_dir: Path, path: Path, training_only: tuple[str, ...], files: list[Path], limit: int = LIMIT) -> Packed:
    """Write a run directory as one file.

    Args:
        training_only: prefixes of weights that are left out.
        files: further files of the run directory (.pt, .npz or .json).
        limit: largest size in bytes.

    Raises:
        UserError: the file is larger than `limit` at the fewest bits.
    """
    checkpoint = find_checkpoint(run_dir)
    state, origin = read_checkpoint(checkpoint), sha256(checkpoint)
    for bits in BITS:
        tensors, entries = _weights(state["method"], training_only, bits[0])
        about = {"format": FORMAT, "step": state["step"], "sha256": state.get("sha256", origin), "meta": state["meta"]}
        about |= {"texts": {name: _text(run_dir / name) for name in TEXTS}, "weights": entries, "files": {}}
        for file in files:
            stored, about["files"][file.name] = _table(file, bits[1])
            tensors |= stored
        content = save(tensors, {"release": json.dumps(about)})
        if len(content) <= limit:
            with atomic_write(path) as out:
                out.write(content)
            return Packed(path, len(content), bits)
    raise UserError(
        f"{run_dir}: the release has {len(content) / 2**20:.2f} MiB with {bits[0]} bits a weight, and the limit is "
        f"{limit / 2**20:.2f} MiB; train a smaller model, or raise --max-mb"
    )


def unpacked(path: str | Path) -> Path:
    """The run directory of a release NAME or NAME.safetensors: the folder NAME next to the file.

    It is made if it is missing or of another file. Any other path is returned as it is.

    Raises:
        UserError: the file is damaged or of another format, or the folder cannot be written.
    """
    path = Path(path)
    folder = path.with_suffix("") if path.suffix == SUFFIX else path
    file = folder.with_name(folder.name + SUFFIX)
    mark = folder / MARK
    if not file.is_file() or ((folder / TEXTS[0]).is_file() and not mark.is_file()):
        if path.suffix == SUFFIX:
            raise UserError(f"{path}: no such release; `python scripts/release.py RUN` writes one")
        return path
    try:
        with lock(folder / ".lock"):
            digest = sha256(file)
            if not mark.is_file() or json.loads(mark.read_text(encoding="utf-8")).get("sha256") != digest:
                _unpack(file, folder)
                atomic_text(mark, json.dumps({"file": file.name, "sha256": digest}))
    except OSError as error:
        raise cannot_write(folder, error) from error
    return folder


def read_about(file: Path) -> dict[str, Any]:
    """The content of a release besides its tensors: step, sha256 of the checkpoint, texts, entries.

    Raises:
        UserError: not a release, damaged, or of another format.
    """
    try:
        with safetensors.safe_open(file, "pt") as opened:
            about = json.loads((opened.metadata() or {}).get("release", "{}"))
    except (safetensors.SafetensorError, ValueError, OSError) as error:
        raise UserError(f"{file}: is damaged ({error}); get the file again") from None
    if about.get("format") != FORMAT:
        raise UserError(f"{file}: is no release of this version; expected format {FORMAT}, got {about.get('format')}")
    return about


def _unpack(file: Path, folder: Path) -> None:
    about, tensors = read_about(file), load_file(file)
    for old in (folder / "checkpoints").glob("*.pt"):
        old.unlink()
    weights: dict[str, Tensor] = {}
    for name, entry in about["weights"].items():
        weights[name] = weights[entry["as"]] if "as" in entry else _decoded(f"weights/{name}", entry, tensors)
    state = {key: about[key] for key in ("step", "sha256", "meta")} | {"method": weights}
    save_checkpoint(folder / "checkpoints" / name_of(about["step"]), state)
    for name, table in about["files"].items():
        values = {key: _decoded(f"{name}/{key}", e, tensors) for key, e in table["tensors"].items()} | table["plain"]
        _write_table(folder / name, {key: values[key] for key in table["order"]})
    for name, text in about["texts"].items():
        atomic_text(folder / name, text)


# Tensors.


def _weights(state: dict[str, Tensor], training_only: tuple[str, ...], bits: int) -> tuple[dict, dict]:
    """Stored tensors and entries of a state dict. Equal tensors are stored once."""
    stored: dict[str, Tensor] = {}
    entries: dict[str, dict] = {}
    kept: dict[bytes, str] = {}
    for name, value in sorted(state.items(), key=lambda item: item[0].startswith(training_only)):
        key = f"{value.dtype}{tuple(value.shape)}".encode() + value.contiguous().numpy().tobytes()
        if key in kept:
            entries[name] = {"as": kept[key]}
        elif name.startswith(training_only):
            entries[name] = {"form": "left out", "dtype": _dtype(value), "shape": list(value.shape)}
        else:
            kept[key] = name
            parts, entries[name] = _encoded(value, bits if value.numel() >= SMALL_WEIGHT else 16)
            stored |= {f"weights/{name}{suffix}": part.contiguous() for suffix, part in parts.items()}
    return stored, entries


def _encoded(value: Tensor, bits: int) -> tuple[dict[str, Tensor], dict]:
    """A tensor as stored tensors {suffix: tensor} and an entry that says how to decode them.

    Vectors and integers stay exact; of row numbers in order the first is enough. Labels (0, 1, NaN) become bits. Other
    matrices become float16, or integers of a few bits: offset + scale * integer, with one scale and one offset per row
    or per column, whichever are fewer.
    """
    value = value.detach().contiguous()
    entry = {"dtype": _dtype(value), "shape": list(value.shape)}
    unknown = value.isnan() if value.is_floating_point() else torch.zeros_like(value, dtype=torch.bool)
    if value.dtype == torch.int64 and value.ndim == 1 and (value.diff() == 1).all() and len(value):
        return {}, entry | {"form": "range", "start": value[0].item()}
    if value.ndim < 2 or not value.is_floating_point():
        return {"": _narrowed(value)}, entry | {"form": "exact"}
    if ((value == 0) | (value == 1) | unknown).all():
        parts = {"": _bits(value == 1)} | ({"/unknown": _bits(unknown)} if unknown.any() else {})
        return parts, entry | {"form": "labels"}
    half = value.half()
    if bits == 16 or unknown.any():
        return ({"": half}, entry | {"form": "half"}) if half[~unknown].isfinite().all() else (
            {"": value}, entry | {"form": "exact"})  # fmt: skip
    table = value.double().flatten(1)
    table = table if len(table) <= table.shape[1] else table.T  # (rows, columns), fewer rows
    numbers, scale, offset = _integers(table, bits)
    unsigned = (numbers.flatten() + 2 ** (bits - 1)).numpy().astype(">u2")
    packed = np.packbits(np.unpackbits(unsigned[:, None].view(np.uint8), axis=1)[:, 16 - bits :])
    return {"": torch.from_numpy(packed), "/scale": scale, "/offset": offset}, entry | {
        "form": "integers",
        "bits": bits,
    }


def _integers(table: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """Integers (R, C), scale (R,), offset (R,): table ~ offset + scale * integers, with the least squared error."""
    top, offset = 2 ** (bits - 1) - 1, table.mean(1).float()
    centred = table - offset[:, None]
    best = (torch.full((len(table),), torch.inf, dtype=torch.float64), torch.zeros(len(table)))
    for clip in CLIPS:
        scale = (clip * centred.abs().amax(1) / top).clamp_min(1e-12).float()
        numbers = (centred / scale[:, None]).round().clamp(-top, top)
        error = (numbers * scale[:, None] - centred).square().sum(1)
        best = (torch.minimum(error, best[0]), torch.where(error < best[0], scale, best[1]))
    scale = best[1]
    return (centred / scale[:, None]).round().clamp(-top, top), scale, offset


def _decoded(name: str, entry: dict, tensors: dict[str, Tensor]) -> Tensor:
    """The inverse of `_encoded`."""
    dtype, shape, form = getattr(torch, entry["dtype"]), entry["shape"], entry["form"]
    if form == "left out":
        missing = torch.nan if dtype.is_floating_point else 0
        return torch.full(shape, missing, dtype=dtype)
    if form == "range":
        return torch.arange(entry["start"], entry["start"] + shape[0])
    value = tensors[name]
    if form in ("exact", "half"):
        return value.to(dtype)
    count = int(np.prod(shape))
    if form == "labels":
        labels = _unbits(value, count).to(dtype)
        if f"{name}/unknown" in tensors:
            labels[_unbits(tensors[f"{name}/unknown"], count)] = torch.nan
        return labels.reshape(shape)
    rows, columns = shape[0], count // shape[0]
    few = (rows, columns) if rows <= columns else (columns, rows)
    bits = entry["bits"]
    digits = np.unpackbits(value.numpy(), count=count * bits).reshape(count, bits)
    unsigned = np.packbits(np.pad(digits, ((0, 0), (16 - bits, 0))), axis=1).view(">u2").astype(np.float32)
    numbers = torch.from_numpy(unsigned).flatten() - 2 ** (bits - 1)
    table = tensors[f"{name}/offset"][:, None] + tensors[f"{name}/scale"][:, None] * numbers.reshape(few)
    return (table if few[0] == rows else table.T).reshape(shape).to(dtype).contiguous()


def _narrowed(value: Tensor) -> Tensor:
    """Integers in the smallest type that holds them; other tensors as they are."""
    if value.dtype not in (torch.int64, torch.int32) or not value.numel():
        return value
    low, high = value.min().item(), value.max().item()
    fits = (
        t for t in (torch.int8, torch.int16, torch.int32) if torch.iinfo(t).min <= low <= high <= torch.iinfo(t).max
    )
    return value.to(next(fits, value.dtype))


def _bits(mask: Tensor) -> Tensor:
    return torch.from_numpy(np.packbits(mask.numpy()))


def _unbits(packed: Tensor, count: int) -> Tensor:
    return torch.from_numpy(np.unpackbits(packed.numpy(), count=count).astype(bool))


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


# Files.


def _text(path: Path) -> str:
    """A text of the run directory without paths of this machine; of environment.json only the last launch."""
    text = path.read_text(encoding="utf-8")
    if path.name == "environment.json":
        return json.dumps(json.loads(text)[-1:], indent=1)
    if path.name == "config.yaml":
        tree = yaml.safe_load(text)
        return yaml.safe_dump(tree | {"data": tree["data"] | {"root": "", "cache": ""}}, sort_keys=False)
    return text


def _table(path: Path, bits: int) -> tuple[dict[str, Tensor], dict]:
    """Stored tensors and an entry of a file: its tensors, its plain values, the order of its keys."""
    if path.suffix == ".pt":
        values = torch.load(path, map_location="cpu", weights_only=True)
    elif path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as opened:
            values = {key: opened[key] for key in opened.files}
        values = {k: v.tolist() if v.dtype.kind == "U" else torch.from_numpy(v) for k, v in values.items()}
    else:
        values = json.loads(path.read_text(encoding="utf-8"))
    stored: dict[str, Tensor] = {}
    entry: dict[str, Any] = {"tensors": {}, "plain": {}, "order": list(values)}
    for key, value in values.items():
        if isinstance(value, Tensor):
            parts, entry["tensors"][key] = _encoded(value, bits if value.numel() >= SMALL_TABLE else 16)
            stored |= {f"{path.name}/{key}{suffix}": part.contiguous() for suffix, part in parts.items()}
        else:
            entry["plain"][key] = value
    return stored, entry


def _write_table(path: Path, values: dict[str, Any]) -> None:
    if path.suffix == ".json":
        return atomic_text(path, json.dumps(values, indent=1))
    buffer = io.BytesIO()
    if path.suffix == ".pt":
        torch.save(values, buffer)
    else:
        np.savez(buffer, **{k: v.numpy() if isinstance(v, Tensor) else np.array(v) for k, v in values.items()})
    with atomic_write(path) as file:
        file.write(buffer.getvalue())
