"""Configs as typed dataclasses. Precedence: default < YAML file < `key=value` on the command line."""

import contextlib
import dataclasses
import difflib
import inspect
import re
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import yaml

from engine.errors import UserError

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$")


@dataclass
class TrainConfig:
    """Training options of every method. A method's `train` block derives from it and adds its learning rates."""

    total_steps: int = 20_000  # steps; one step is one call of `Method.step`
    batch_size: int = 64  # images of all ranks together; a multiple of the number of ranks
    seed: int = 0  # 0 .. 2^31 - 1
    device: str = "auto"  # auto | cpu | cuda | cuda:N; auto = cuda if there is a GPU, else cpu
    # auto: bf16 on a GPU, fp32 on a CPU; hardware: bf16 where GPU or CPU (AMX, AVX512-BF16) multiply it, else fp32
    precision: Literal["auto", "hardware", "fp32", "bf16"] = "auto"  # of the networks
    channels_last: bool = True  # memory format of convolutions; faster, and equal up to rounding
    compile: bool = False  # torch.compile for the networks in `Method.compilable`; takes minutes to start on a CPU
    deterministic: bool = False  # bit-equal repeats on a GPU, but slower (a CPU is always deterministic)
    threads: int = 0  # CPU threads; 0 = torch's choice; the last bits of a result depend on it
    lr_warmup: int = 100  # steps of linear warm-up
    lr_decay: Literal["cosine", "linear", "none"] = "cosine"  # from the end of hold to the end of the run
    lr_hold: float = 0.0  # share of the run with the full rate, 0 .. 1
    lr_floor: float = 0.05  # final rate as a share of the full rate, 0 .. 1
    log_every: int = 50  # steps
    validate_every: int = 1000  # steps; 0 = never
    sample_every: int = 1000  # steps; 0 = never
    save_every: int = 1000  # steps; the last step is always saved
    keep_last: int = 2  # newest checkpoints to keep, in addition to best.pt
    sample_size: int = 16  # images for `Method.sample`
    val_images: int = 1024  # validation images for `Method.validate`
    stop_at: int = 0  # stop after this step without a change of the lr schedule; 0 = run to the end
    init_from: list[str] = field(default_factory=list)  # RUN[:prefix,...]: initial weights; later entries overwrite

    def __post_init__(self) -> None:
        for name in ("total_steps", "batch_size", "log_every", "save_every", "keep_last", "sample_size", "val_images"):
            require(getattr(self, name) >= 1, name, "a number >= 1", getattr(self, name))
        for name in ("validate_every", "sample_every", "stop_at", "lr_warmup", "threads"):
            require(getattr(self, name) >= 0, name, "a number >= 0", getattr(self, name))
        for name in ("lr_hold", "lr_floor"):
            require(0 <= getattr(self, name) <= 1, name, "a share in 0 .. 1", getattr(self, name))
        require(0 <= self.seed < 2**31, "seed", "0 <= seed < 2^31", self.seed)
        known = re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device)
        require(bool(known), "device", "auto, cpu, cuda or cuda:N", self.device)


@dataclass
class AdamTrainConfig(TrainConfig):
    """Options of Adam and of the averaged weights, for methods that have both. A method overrides the defaults."""

    lr: float = 1.0e-3  # Adam's learning rate, > 0
    beta1: float = 0.9  # Adam's decay of the first moment, [0, 1)
    beta2: float = 0.999  # Adam's decay of the second moment, [0, 1)
    ema_decay: float = 0.999  # of the averaged weights, which make all images, [0, 1); see `ramped_decay`

    def __post_init__(self) -> None:
        require(self.lr > 0, "lr", "more than 0", self.lr)
        for name in ("beta1", "beta2", "ema_decay"):
            require(0 <= getattr(self, name) < 1, name, "a decay in [0, 1)", getattr(self, name))
        super().__post_init__()


# Keys that may change when a run is resumed: device, paths, intervals, length of the run.
CHANGEABLE = {
    *(f"train.{key}" for key in ("log_every", "validate_every", "sample_every", "save_every", "keep_last", "stop_at")),
    *("train.total_steps", "train.device", "train.compile", "train.threads", "data.root", "data.cache"),
}


def require(condition: bool, key: str, expected: str, value: Any) -> None:
    """Raise `UserError("<key>: expected ..., got ...")` unless `condition`. For `__post_init__` of config blocks."""
    if not condition:
        raise UserError(f"{key}: expected {expected}, got {value!r}")


def load_config(
    config_class: type, path: str | Path | None = None, overrides: Sequence[str] = (), only: str = ""
) -> Any:
    """Build `config_class` from its defaults, a YAML file and `key=value` strings; later sources win.

    Args:
        config_class: a dataclass whose fields are dataclasses (blocks) or plain values.
        path: the YAML file; None = defaults only.
        overrides: strings `key=value`, as in "train.seed=3".
        only: read this block of the file only; the other blocks belong to another class.

    Raises:
        UserError: a key is unknown or given twice, or a value has a wrong type or is out of range.
    """
    hints = _hints(config_class)
    pairs = [] if path is None else list(_file_pairs(Path(path), hints, only))
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UserError(f"command line: '{text}': expected key=value, for example train.total_steps=6")
        pairs += _pairs(_typed(value, key, hints.get(key)), key, "command line", hints)
    values, places = {}, {}
    for key, node, where in pairs:
        if key not in hints:
            raise UserError(f"{where}: {key}: no such key{_nearest(key, hints)}")
        if places.get(key, "command line").partition(", line")[0] == where.partition(", line")[0] != "command line":
            raise UserError(f"{where}: {key}: the key is given a second time; remove one of the two lines")
        values[key], places[key] = _convert(node, hints[key], where, key), where
    return _build(config_class, values, places, prefix="")


def _typed(text: str, key: str, kind: Any) -> yaml.Node:
    """The value of a command-line override as a YAML node. Strings are taken as typed; other types are parsed."""
    kinds = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    is_list = any(get_origin(k) in (list, tuple) for k in kinds) and text.lstrip().startswith("[")
    if str in kinds and not is_list and not (type(None) in kinds and text in ("", "~", "null")):
        return yaml.ScalarNode("tag:yaml.org,2002:str", text, style="'")
    return _compose(text, f"command line: {key}") or yaml.ScalarNode("tag:yaml.org,2002:null", "")


def read_system(path: str | Path, overrides: Sequence[str], known: Iterable[str]) -> str:
    """The top-level key `system`, which chooses among the systems of one family. `known` are the allowed values."""
    node = _compose(_read_text(Path(path)), str(path))
    items = _items(node, str(path)) if isinstance(node, yaml.MappingNode) else ()
    pairs = {key: value.value for key, value, _ in items if isinstance(value, yaml.ScalarNode)}
    pairs |= dict(text.split("=", 1) for text in overrides if text.startswith("system="))
    system = pairs.get("system")
    if system is None or system not in known:
        raise UserError(f"{path}: system: expected one of {', '.join(known)}, got {system!r}")
    return system


def to_dict(config: Any) -> Any:
    """A config as nested dicts of plain values, as in `config.yaml`. Tuples become lists."""
    if dataclasses.is_dataclass(config):
        return {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
    return [to_dict(v) for v in config] if isinstance(config, (list, tuple)) else config


def to_yaml(config: Any) -> str:
    """The complete config as YAML text. `load_config` reads it back to an equal object."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True, width=120)


def flatten(tree: dict, prefix: str = "") -> dict[str, Any]:
    """{"train": {"seed": 0}} -> {"train.seed": 0}."""
    flat = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def describe(config_class: type) -> str:
    """Help text with one line per option: dotted key, default, type, and the comment of the field."""
    defaults, hints = flatten(to_dict(config_class())), _hints(config_class)
    comments = {}
    for block, kind in typing.get_type_hints(config_class).items():
        for cls in reversed(getattr(kind, "__mro__", (object,))[:-1]):
            if dataclasses.is_dataclass(cls):
                found = re.findall(r"^    (\w+):.*?  # (.+)$", inspect.getsource(cls), flags=re.M)
                comments |= {f"{block}.{name}": text for name, text in found}
    lines = []
    for key, default in defaults.items():
        name = f"{key} = {'null' if default is None else default}"
        lines.append(f"  {name:<38} {_type_name(hints[key])}; {comments.get(key, '')}".rstrip("; "))
    return "\n".join(lines)


def _hints(config_class: Any, prefix: str = "") -> dict[str, Any]:
    """{dotted key: declared type} of all options."""
    found = {}
    for name, kind in typing.get_type_hints(config_class).items():
        found |= _hints(kind, f"{prefix}{name}.") if dataclasses.is_dataclass(kind) else {prefix + name: kind}
    return found


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). The configs are in configs/<method>/.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text; expected a YAML file in UTF-8") from None


def _compose(text: str, where: str) -> yaml.Node | None:
    try:
        return yaml.compose(text)
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(
            f"{where}{line}: is not valid YAML ({problem or 'not readable'}); expected blocks of 'key: value' lines"
        ) from None
    except RecursionError:
        raise UserError(f"{where}: is nested too deeply; expected blocks of 'key: value' lines") from None


def _items(node: yaml.MappingNode, where: str) -> Iterator[tuple[str, yaml.Node, int]]:
    """(key, value, line) for each entry of a mapping."""
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise UserError(f"{where}, line {key.start_mark.line + 1}: expected 'key: value' with a plain name as key")
        yield key.value, value, key.start_mark.line + 1


def _file_pairs(path: Path, hints: dict[str, Any], only: str = "") -> Iterator[tuple[str, yaml.Node, str]]:
    root = _compose(_read_text(path), str(path))
    if root is not None and not isinstance(root, yaml.MappingNode):
        raise UserError(f"{path}, line 1: expected blocks of 'key: value' lines")
    for key, value, line in _items(root, str(path)) if root else ():
        if not only or key == only:
            yield from _pairs(value, key, f"{path}, line {line}", hints)


def _pairs(node: yaml.Node, key: str, where: str, hints: dict[str, Any]) -> Iterator[tuple[str, yaml.Node, str]]:
    """(dotted key, value, place in the file) for every option below `key`."""
    if not any(known.startswith(f"{key}.") for known in hints):
        yield key, node, where
        return
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{where}: {key}: expected a block of 'key: value' lines")
    for name, value, line in _items(node, where.partition(", line")[0]):
        place = where if where == "command line" else f"{where.partition(', line')[0]}, line {line}"
        yield from _pairs(value, f"{key}.{name}", place, hints)


def _nearest(key: str, hints: dict[str, Any]) -> str:
    close = difflib.get_close_matches(key, hints, n=1, cutoff=0.5)
    close = close or [k for k in hints if k.rpartition(".")[2] == key.rpartition(".")[2]][:1]
    return f"; did you mean {close[0]}?" if close else "; --help lists the keys"


def _type_name(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " | ".join(str(a) for a in get_args(kind))
    if get_origin(kind) in (Union, types.UnionType):
        return " | ".join(_type_name(a) for a in get_args(kind))
    if kind is type(None):
        return "null"
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind).replace("typing.", "")


def _convert(node: yaml.Node, kind: Any, where: str, key: str) -> Any:
    """Convert a YAML node to the declared type. So `1e-4` becomes a float and `[0, 0.9]` a pair of floats."""
    try:
        return _coerce(node, kind)
    except (ValueError, yaml.YAMLError):
        text = " ".join(yaml.serialize(node).removesuffix("...\n").split())[:80]
        close = difflib.get_close_matches(text, [str(a) for a in get_args(kind)], n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UserError(f"{where}: {key}: expected {_type_name(kind)}, got {text}{hint}") from None


def _coerce(node: yaml.Node, kind: Any) -> Any:
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        for option in sorted(args, key=lambda a: a is str):  # strings last: they accept any scalar
            with contextlib.suppress(ValueError):
                return _coerce(node, option)
    elif origin in (list, tuple) and isinstance(node, yaml.SequenceNode):
        fixed = origin is tuple and Ellipsis not in args
        if not fixed or len(args) == len(node.value):
            return origin(_coerce(n, args[i] if fixed else args[0]) for i, n in enumerate(node.value))
    elif kind is list and isinstance(node, yaml.SequenceNode):
        return yaml.safe_load(yaml.serialize(node))
    elif isinstance(node, yaml.ScalarNode):
        return _scalar(node, kind, args if origin is Literal else ())
    raise ValueError


def _scalar(node: yaml.ScalarNode, kind: Any, choices: tuple) -> Any:
    text, null = node.value, node.tag.endswith(":null")
    for option in choices:
        if text.lower() == str(option).lower() if isinstance(option, bool) else text == str(option):
            return option
    if kind is type(None) and null:
        return None
    if kind is bool and node.tag.endswith(":bool"):
        return text.lower() in ("true", "yes", "on")
    if kind is int and re.fullmatch(r"[+-]?\d[\d_]*", text) and node.style is None:
        return int(text)
    if kind is float and NUMBER.match(text.replace("_", "")):
        return float(text.replace("_", ""))
    if kind is str and not (null and node.style is None):
        return text
    raise ValueError


def _build(kind: Any, values: dict[str, Any], places: dict[str, str], prefix: str) -> Any:
    given = {}
    for name, hint in typing.get_type_hints(kind).items():
        if dataclasses.is_dataclass(hint):
            given[name] = _build(hint, values, places, f"{prefix}{name}.")
        elif prefix + name in values:
            given[name] = values[prefix + name]
    try:
        return kind(**given)
    except UserError as error:
        key, colon, rest = str(error).partition(":")
        full = key if "." in key else f"{prefix}{key}"
        where = f"{places[full]}: " if full in places else ""
        raise UserError(f"{where}{full}{colon}{rest}") from None
