"""Experiments as typed dataclasses: default < YAML < `key=value`; a fault is one sentence with file, line and key."""

import dataclasses
import difflib
import inspect
import re
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import yaml

from engine.errors import UserError

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$")


@dataclass
class TrainConfig:
    """What every run has. A method's `train` block derives from it and adds its own learning rates."""

    total_steps: int = 20_000  # steps; one step is one call of `Method.step`
    batch_size: int = 64  # images of all ranks together; divisible by their number
    seed: int = 0  # 0 .. 2^31 - 1
    device: str = "auto"  # auto | cpu | cuda | cuda:N; auto = cuda where there is one
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # of the networks; auto = bf16 on a GPU, fp32 on a CPU
    channels_last: bool = True  # memory format of convolutions; the same numbers up to rounding, faster
    compile: bool = False  # torch.compile of the networks that the method names; minutes to start on a CPU
    deterministic: bool = False  # bit-equal repeats on a GPU, at a cost in speed (a CPU always repeats)
    threads: int = 0  # CPU threads; 0 = torch's choice; bits depend on their number
    lr_warmup: int = 100  # steps of linear warm-up
    lr_decay: Literal["cosine", "linear", "none"] = "cosine"  # from the end of hold to the end of the run
    lr_hold: float = 0.0  # share of the run at the full rate, 0 .. 1
    lr_floor: float = 0.05  # last rate as a share of the full one, 0 .. 1
    log_every: int = 50  # steps
    validate_every: int = 1000  # steps; 0 = never
    sample_every: int = 1000  # steps; 0 = never
    save_every: int = 1000  # steps; the last step is saved always
    keep_last: int = 2  # checkpoints kept beside the best
    sample_size: int = 16  # images handed to `Method.sample`
    val_images: int = 1024  # images of the validation set that `Method.validate` sees
    stop_at: int = 0  # leave after this step, the schedule unchanged; 0 = run to the end
    init_from: list[str] = field(default_factory=list)  # RUN[:prefix,...]: start from these weights; later ones win

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


# Keys that may differ when a run is resumed: where it runs, how often it reports, how long it goes on.
CHANGEABLE = {
    *(f"train.{key}" for key in ("log_every", "validate_every", "sample_every", "save_every", "keep_last", "stop_at")),
    *("train.total_steps", "train.device", "train.compile", "train.threads", "data.root", "data.cache"),
}


def require(condition: bool, key: str, expected: str, value: Any) -> None:
    """Raise `UserError("<key>: expected ..., got ...")` unless `condition`. For `__post_init__` of config blocks."""
    if not condition:
        raise UserError(f"{key}: expected {expected}, got {value!r}")


def load_config(config_class: type, path: str | Path | None = None, overrides: typing.Sequence[str] = ()) -> Any:
    """Build `config_class` from its defaults, a YAML file and `key=value` strings, later ones winning.

    Raises:
        UserError: an unknown key, a wrong type or an impossible value, with file, line, key and remedy.
    """
    tree, places = {}, {}
    if path is not None:
        _read_yaml(config_class, Path(path), tree, places)
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UserError(f"command line: '{text}' is not of the form key=value, as in train.total_steps=6")
        node = _compose(value, "command line", key) or yaml.ScalarNode("tag:yaml.org,2002:null", "")
        _insert(config_class, key, node, "command line", tree, places)
    return _build(config_class, tree, places, prefix="")


def read_system(path: str | Path, overrides: typing.Sequence[str], known: typing.Iterable[str]) -> str:
    """The value of the top-level key `system` of a family with several systems."""
    node = _compose(_read_text(Path(path)), str(path), "")
    pairs = {k.value: v.value for k, v in node.value} if isinstance(node, yaml.MappingNode) else {}
    for text in overrides:
        if text.startswith("system="):
            pairs["system"] = text.partition("=")[2]
    if pairs.get("system") not in known:
        raise UserError(f"{path}: system: expected one of {', '.join(known)}, got {pairs.get('system')!r}")
    return pairs["system"]


def to_dict(config: Any) -> dict:
    """A config as nested plain values (tuples become lists), as it stands in `config.yaml`."""
    plain = lambda v: [plain(x) for x in v] if isinstance(v, (list, tuple)) else v  # noqa: E731
    return {
        f.name: to_dict(v) if dataclasses.is_dataclass(v := getattr(config, f.name)) else plain(v)
        for f in dataclasses.fields(config)
    }


def to_yaml(config: Any) -> str:
    """The complete config as YAML that `load_config` reads back to an equal object."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True, width=120)


def flatten(tree: dict, prefix: str = "") -> dict[str, Any]:
    """{"train": {"seed": 0}} -> {"train.seed": 0}."""
    flat = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def describe(config_class: type) -> str:
    """One line per knob: dotted key, type, default and the comment that stands beside the field."""
    lines = []
    for block in dataclasses.fields(config_class):
        kind = typing.get_type_hints(config_class)[block.name]
        if not dataclasses.is_dataclass(kind):
            lines.append(f"  {block.name} = {block.default}")
            continue
        comments, hints = _comments(kind), typing.get_type_hints(kind)
        for f in dataclasses.fields(kind):
            default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
            name = f"{block.name}.{f.name} = {'null' if default is None else default}"
            lines.append(f"  {name:<38} {_type_name(hints[f.name])}; {comments.get(f.name, '')}".rstrip("; "))
    return "\n".join(lines)


def _comments(config_class: type) -> dict[str, str]:
    found = {}
    for cls in reversed(config_class.__mro__[:-1]):
        found |= dict(re.findall(r"^    (\w+):.*?  # (.+)$", inspect.getsource(cls), flags=re.M))
    return found


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); configs stand in configs/<method>/") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text; expected a YAML file") from None


def _compose(text: str, where: str, key: str) -> yaml.Node | None:
    try:
        return yaml.compose(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark and not key else f": {key}" if key else ""
        problem = getattr(error, "problem", None) or "not readable"
        raise UserError(f"{where}{line}: is not valid YAML ({problem})") from None


def _read_yaml(config_class: type, path: Path, tree: dict, places: dict) -> None:
    root = _compose(_read_text(path), str(path), "")
    if root is None:
        return
    _insert_mapping(config_class, "", root, str(path), tree, places)


def _insert_mapping(config_class: type, prefix: str, node: yaml.Node, file: str, tree: dict, places: dict) -> None:
    if not isinstance(node, yaml.MappingNode):
        name = prefix.rstrip(".") or "the file"
        raise UserError(f"{file}, line {node.start_mark.line + 1}: {name}: expected a block of 'key: value' lines")
    seen = set()
    for key_node, value_node in node.value:
        where = f"{file}, line {key_node.start_mark.line + 1}"
        key = f"{prefix}{key_node.value}"
        if key in seen:
            raise UserError(f"{where}: {key}: stands here a second time; keep one of the two")
        seen.add(key)
        _insert(config_class, key, value_node, where, tree, places)


def _insert(config_class: type, key: str, node: yaml.Node, where: str, tree: dict, places: dict) -> None:
    kind, branch, parts = config_class, tree, key.split(".")
    for depth, part in enumerate(parts):
        hints = typing.get_type_hints(kind) if dataclasses.is_dataclass(kind) else {}
        if part not in hints:
            raise UserError(f"{where}: {key}: no such key{_nearest(config_class, key)}")
        kind = hints[part]
        if dataclasses.is_dataclass(kind):
            branch = branch.setdefault(part, {})
        elif depth < len(parts) - 1:
            raise UserError(f"{where}: {key}: no such key; {'.'.join(parts[: depth + 1])} is a single value")
    if dataclasses.is_dataclass(kind):
        _insert_mapping(config_class, f"{key}.", node, where.partition(", line")[0], tree, places)
    else:
        branch[parts[-1]] = _convert(node, kind, where, key)
        places[key] = where


def _nearest(config_class: type, key: str) -> str:
    keys = _keys(config_class)
    close = difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
    close = close or [k for k in keys if k.rpartition(".")[2] == key.rpartition(".")[2]][:1]
    return f"; did you mean {close[0]}?" if close else "; --help lists the keys"


def _keys(config_class: type, prefix: str = "") -> list[str]:
    hints = typing.get_type_hints(config_class)
    nested = [_keys(k, f"{prefix}{n}.") if dataclasses.is_dataclass(k) else [prefix + n] for n, k in hints.items()]
    return [key for keys in nested for key in keys]


def _type_name(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " | ".join(str(a) for a in get_args(kind))
    if get_origin(kind) in (Union, types.UnionType):
        return " | ".join(_type_name(a) for a in get_args(kind))
    if kind is type(None):
        return "null"
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind).replace("typing.", "")


def _convert(node: yaml.Node, kind: Any, where: str, key: str) -> Any:
    """A YAML node as the declared type; the type decides, so that `1e-4` is a float and `[0, 0.9]` two floats."""
    try:
        return _coerce(node, kind)
    except ValueError:
        text = yaml.serialize(node, explicit_end=False).strip().removesuffix("\n...").strip()
        close = difflib.get_close_matches(text, [str(a) for a in get_args(kind)], n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UserError(f"{where}: {key}: expected {_type_name(kind)}, got {text}{hint}") from None


def _coerce(node: yaml.Node, kind: Any) -> Any:
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        # Strings last: they accept any scalar.
        for option in sorted(args, key=lambda a: a is str):
            try:
                return _coerce(node, option)
            except ValueError:
                continue
        raise ValueError
    if origin in (list, tuple):
        if not isinstance(node, yaml.SequenceNode):
            raise ValueError
        fixed = origin is tuple and Ellipsis not in args
        if fixed and len(args) != len(node.value):
            raise ValueError
        return origin(_coerce(n, args[i] if fixed else args[0]) for i, n in enumerate(node.value))
    if kind is list or not isinstance(node, yaml.ScalarNode):
        if isinstance(node, yaml.ScalarNode):
            raise ValueError
        return yaml.safe_load(yaml.serialize(node))
    return _scalar(node, kind, origin, args)


def _scalar(node: yaml.ScalarNode, kind: Any, origin: Any, args: tuple) -> Any:
    text, null = node.value, node.tag.endswith(":null")
    if origin is Literal:
        for option in args:
            if text == str(option) or (isinstance(option, bool) and text.lower() == str(option).lower()):
                return option
    elif kind is type(None) and null:
        return None
    elif kind is bool and node.tag.endswith(":bool"):
        return text.lower() in ("true", "yes", "on")
    elif kind is int and re.fullmatch(r"[+-]?\d[\d_]*", text) and node.style is None:
        return int(text)
    elif kind is float and NUMBER.match(text.replace("_", "")):
        return float(text.replace("_", ""))
    elif kind is str and not (null and node.style is None):
        return text
    raise ValueError


def _build(kind: type, tree: dict, places: dict, prefix: str) -> Any:
    hints = typing.get_type_hints(kind)
    values = {
        f.name: _build(hints[f.name], tree.get(f.name, {}), places, f"{prefix}{f.name}.")
        if dataclasses.is_dataclass(hints[f.name])
        else tree[f.name]
        for f in dataclasses.fields(kind)
        if dataclasses.is_dataclass(hints[f.name]) or f.name in tree
    }
    try:
        return kind(**values)
    except UserError as error:
        key, colon, rest = str(error).partition(":")
        full = key if "." in key else f"{prefix}{key}"
        where = f"{places[full]}: " if full in places else ""
        raise UserError(f"{where}{full}{colon}{rest}") from None
