"""The command line of `sample.py`: shared modes and options, and the options of the family."""

import argparse
import dataclasses
import inspect
import re
import sys
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from editing.editor import Editor
from editing.release import unpacked
from engine import UserError
from engine.errors import exit_on_user_error
from engine.metric_logger import start_logging


@dataclass(frozen=True)
class Mode:
    """One mode of `sample.py`: its function, help text and options."""

    run: Callable[[Editor, argparse.Namespace], None]
    help: str
    add_arguments: Callable[[argparse.ArgumentParser], object] = lambda parser: None


def sample_parser(editor: type[Editor], modes: dict[str, Mode], description: str = "") -> argparse.ArgumentParser:
    """The parser of `MODE --run-dir DIR [--step N] [--seed 0] [--out PATH] [--device auto] [--data-root PATH]`.

    Each mode also has its own options and those of the family.
    """
    parser = argparse.ArgumentParser(description=description)
    subparsers = parser.add_subparsers(dest="mode", metavar="MODE", required=True, parser_class=_Intermixed)
    for name, mode in modes.items():
        sub = subparsers.add_parser(
            name, help=mode.help, description=mode.help, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        sub.add_argument("--run-dir", required=True, type=Path, help="run directory of train.py")
        sub.add_argument("--step", type=int, help="step of the checkpoint; default: the best or the newest one")
        sub.add_argument("--seed", type=int, default=0, help="random seed; of generated faces the first one")
        sub.add_argument("--out", type=Path, help="file or folder to write; default: in the run directory")
        sub.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
        sub.add_argument("--data-root", type=Path, help="folder of the data, if they have moved since training")
        mode.add_arguments(sub)
        add_options(sub, editor.options_class)
    return parser


def add_options(parser: argparse.ArgumentParser, options_class: type) -> None:
    """Add one option for each field of a dataclass. The comment of the field is the help text."""
    comments = dict(re.findall(r"^    (\w+):.*?  # (.+)$", inspect.getsource(options_class), flags=re.M))
    hints = typing.get_type_hints(options_class)
    group = parser.add_argument_group("options of this family")
    for field in dataclasses.fields(options_class):
        kind, text = hints[field.name], comments.get(field.name, "").replace("%", "%%")
        flag, default = f"--{field.name.replace('_', '-')}", field.default
        if typing.get_origin(kind) is typing.Literal:
            group.add_argument(flag, choices=typing.get_args(kind), default=default, help=text)
        elif typing.get_origin(kind) is tuple:
            group.add_argument(flag, nargs="*", default=default, help=text)
        elif kind is bool:
            group.add_argument(flag, action="store_true", default=default, help=text)
        else:
            group.add_argument(flag, type=kind, default=default, help=text)


def options_of(args: argparse.Namespace, options_class: type) -> Any:
    """The options of the family as an instance of its dataclass."""
    values = {field.name: getattr(args, field.name) for field in dataclasses.fields(options_class)}
    return options_class(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def sample_main(
    editor: type[Editor], own_modes: dict[str, Mode], description: str, argv: Sequence[str] | None = None
) -> None:
    """Run the mode of the command line. A user error prints one message and exits with code 2."""
    from editing.modes import shared_modes

    words = join_negative(list(sys.argv[1:] if argv is None else argv))
    start_logging(None, 0)
    with exit_on_user_error():
        run_dir = _run_dir(words)
        editor = editor.of(run_dir) if run_dir else editor
        modes = shared_modes(editor) | own_modes
        _refuse_unsupported(editor, modes, words)
        args = sample_parser(editor, modes, description).parse_args(words)
        opened = editor(
            run_dir or args.run_dir,
            options_of(args, editor.options_class),
            step=args.step,
            device=args.device,
            data_root=args.data_root,
        )
        with torch.no_grad():  # not inference_mode: an inversion needs gradients
            modes[args.mode].run(opened, args)


def join_negative(words: list[str]) -> list[str]:
    """`--strength -1:2:7` -> `--strength=-1:2:7`, because argparse reads a word that begins with - as an option."""
    joined: list[str] = []
    for word in words:
        if joined and joined[-1] == "--strength" and re.match(r"-[\d.]", word):
            joined[-1] = f"--strength={word}"
        else:
            joined.append(word)
    return joined


def _run_dir(words: Sequence[str]) -> Path | None:
    """--run-dir (of a release its folder), read before the parser is built: the options depend on the run's system."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--run-dir", type=Path)
    found = early.parse_known_args([w for w in words if w not in ("-h", "--help")])[0].run_dir
    found = unpacked(found) if found is not None else None
    return found if found is not None and (found / "config.yaml").is_file() else None


def _refuse_unsupported(editor: type[Editor], modes: dict[str, Mode], words: Sequence[str]) -> None:
    """Raise UserError with the reason if the mode, words[0], is a shared mode that this family does not have."""
    from editing.modes import VERB_OF

    verb = VERB_OF.get(words[0]) if words else None
    if verb in editor.unsupported and words[0] not in modes:
        raise UserError(f"{words[0]}: {editor.unsupported[verb]}")


class _Intermixed(argparse.ArgumentParser):
    """A parser that accepts options and files in any order: `edit --attr Smiling=1 photo.jpg`."""

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        if getattr(self, "_inside", False):
            return super().parse_known_args(args, namespace)
        self._inside = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._inside = False
