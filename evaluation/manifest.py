"""The format of an export: `manifest.csv` describes every image, `export.json` the model that made them."""

import difflib
import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from torch import nn

from data.tables import read_csv, read_text
from engine.errors import UserError
from engine.files import atomic_text

MANIFEST, EXPORT = "manifest.csv", "export.json"
KINDS = ("real", "sample", "reconstruction", "edit")


@dataclass(frozen=True)
class Row:
    """One image of an export. Paths are relative to the folder. An empty string means "not applicable"."""

    file: str  # the image itself, a PNG
    kind: str  # real | sample | reconstruction | edit
    source: str = ""  # the image that was edited or reconstructed, a PNG in this folder
    source_index: str = ""  # dataset:split:index of the source in its pack
    source_label: str = ""  # class of the source, "" = unknown
    target: str = ""  # a class, or Name=0 or Name=1; several are joined by ";"
    truth: str = ""  # ground truth (drawn faces, photo pairs), a PNG in this folder
    landmarks: str = ""  # requested landmarks (68, 2) in [-1, 1], a .npy in this folder
    strength: float = 1.0  # 1 = the full edit
    seed: int = 0  # random seed of the image

    def requests(self) -> dict[str, str]:
        """The target as {name: value}: {"Smiling": "1"}; a class as {"happy": ""}."""
        return dict(part.partition("=")[::2] for part in self.target.split(";") if part)


def write_manifest(folder: str | Path, rows: Iterable[Row]) -> Path:
    """Write `manifest.csv` into `folder`: UTF-8, a header, one line per row."""
    path = Path(folder) / MANIFEST
    atomic_text(path, manifest_text(path, rows))
    return path


def manifest_text(path: Path, rows: Iterable[Row]) -> str:
    """The text of `manifest.csv`; `path` is named in errors."""
    names = [f.name for f in fields(Row)]
    lines = [",".join(names)]
    for row in rows:
        cells = [str(value) for value in asdict(row).values()]
        if any("," in cell or "\n" in cell or '"' in cell for cell in cells):
            raise UserError(f"{path}: {row.file}: a value contains a comma, quote or line break; rename the file")
        lines.append(",".join(cells))
    return "\n".join(lines) + "\n"


def weights_sha256(module: nn.Module) -> str:
    """SHA-256 (hex) of the weights and buffers of a network that has no checkpoint file of its own."""
    digest = hashlib.sha256()
    for value in module.state_dict().values():
        digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()


def write_export(
    folder: str | Path, origin: Any, meta: dict, what: str, guides: dict[str, str] | None = None, **facts: Any
) -> Path:
    """Write `export.json`: the weights that made the images, and the data set.

    Args:
        origin: object with `run`, `step` and `sha256` of the weights (`engine.Method.origin`).
        meta: metadata of the pack (classes, attributes, crop, image_size, fingerprint).
        what: sample, reconstruction, edit, or another word of the method.
        guides: {name: sha256} of every other network that was used to train the weights or to make the images.
        facts: further entries of the file.
    """
    keys = ("dataset", "classes", "attributes", "crop", "image_size", "channels", "fingerprint")
    record = {"what": what, "run": origin.run, "step": origin.step, "sha256": origin.sha256, "guides": guides or {}}
    record |= {key: meta.get(key) for key in keys} | facts
    path = Path(folder) / EXPORT
    atomic_text(path, json.dumps(record, indent=1))
    return path


def read_export(folder: str | Path) -> dict:
    """Read `export.json`; an empty dict if the folder has none.

    Raises:
        UserError: the file is not valid JSON, or an entry has the wrong type.
    """
    path = Path(folder) / EXPORT
    if not path.is_file():
        return {}
    try:
        record = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: is not valid JSON; export the folder again") from None
    except RecursionError:
        raise UserError(f"{path}: is nested too deeply; export the folder again") from None
    if not isinstance(record, dict):
        raise UserError(f"{path}: expected an object {{...}}; export the folder again")
    for key, kind in (("classes", list), ("attributes", list), ("guides", dict), ("sha256", str), ("base", str)):
        if not isinstance(record.get(key), (kind, type(None))):
            raise UserError(f"{path}: '{key}' is {record[key]!r}; expected a {kind.__name__}; export the folder again")
    return record


def read_manifest(folder: str | Path) -> list[Row]:
    """Read and check `manifest.csv`. Targets and labels must be names of `export.json`, where it lists them.

    Raises:
        UserError: the manifest, a column or an image is missing; a kind, label or attribute is unknown; a strength is
            not a number; two rows have one file. The message names the line.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(
            f"{path}: is missing; `sample.py export` writes it, and scripts/make_manifest.py for other folders"
        )
    export = read_export(folder)
    classes, attributes = export.get("classes") or (), export.get("attributes") or ()
    rows, seen = [], set()
    table = read_csv(path, [f.name for f in fields(Row)])
    for cells, line in zip(table.rows, table.lines, strict=True):
        if table.separator == ";":  # spreadsheets with semicolons write 1,0 for 1.0
            cells["strength"] = cells["strength"].replace(",", ".")
        row = _check_row(folder, f"{path}, line {line}", cells, classes, attributes)
        if row.file in seen:
            raise UserError(f"{path}, line {line}: {row.file} has two rows; delete one")
        seen.add(row.file)
        rows.append(row)
    if not rows:
        raise UserError(f"{path}: has no rows")
    return rows


def _check_row(folder: Path, where: str, cells: dict, classes: Sequence[str], attributes: Sequence[str]) -> Row:
    try:
        seed = float(cells["seed"] or 0)
        numbers = {"strength": float(cells["strength"] or 1), "seed": int(seed)}
        if seed != numbers["seed"]:
            raise ValueError
    except (ValueError, OverflowError):
        raise UserError(
            f"{where}: strength and seed must be numbers, got {cells['strength']}, {cells['seed']}"
        ) from None
    if not math.isfinite(numbers["strength"]):
        raise UserError(f"{where}: strength is {numbers['strength']}, expected a finite number")
    for name in ("file", "source", "truth", "landmarks"):  # Windows paths
        if "\\" in cells[name] and not (folder / cells[name]).is_file():
            cells[name] = cells[name].replace("\\", "/")
    row = Row(**{f.name: cells[f.name] for f in fields(Row)} | numbers)
    if row.kind not in KINDS:
        raise UserError(f"{where}: unknown kind '{row.kind}'; expected one of {', '.join(KINDS)}")
    for name in ("file", "source", "truth", "landmarks"):
        value = getattr(row, name)
        if (value or name == "file") and not (folder / value).is_file():
            raise UserError(
                f"{where}: {name} '{value}' is not in {folder}; export the folder again or correct the manifest"
            )
    if row.source_label and classes and row.source_label not in classes:
        raise UserError(f"{where}: unknown label '{row.source_label}'{_nearest(row.source_label, classes)}")
    for name, value in row.requests().items():
        known = attributes if value else classes
        if known and name not in known:
            raise UserError(f"{where}: unknown target '{name}'{_nearest(name, known)}")
        if value not in ("", "0", "1"):
            raise UserError(f"{where}: target {name}={value}: expected a class, {name}=0 or {name}=1")
    return row


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known: {', '.join(known)}"
