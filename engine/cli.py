"""The command line of a family's `sample.py`: modes with the same six options everywhere."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.errors import exit_on_user_error
from engine.journal import start_logging


@dataclass(frozen=True)
class Mode:
    """One mode of `sample.py`: what it runs, one line of help, its own options."""

    run: Callable[[argparse.Namespace], None]
    help: str
    add_arguments: Callable[[argparse.ArgumentParser], object] = lambda parser: None


def sample_parser(modes: dict[str, Mode], description: str = "") -> argparse.ArgumentParser:
    """`MODE --run-dir DIR [--step N] [--seed 0] [--out PATH] [--device auto] [--data-root PATH]`, then a mode's own."""
    parser = argparse.ArgumentParser(description=description)
    subparsers = parser.add_subparsers(dest="mode", metavar="MODE", required=True, parser_class=_Intermixed)
    for name, mode in modes.items():
        sub = subparsers.add_parser(
            name, help=mode.help, description=mode.help, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        sub.add_argument("--run-dir", required=True, type=Path, help="a folder that train.py made")
        sub.add_argument("--step", type=int, help="steps of the checkpoint; the best or the newest where not given")
        sub.add_argument("--seed", type=int, default=0, help="of all that is drawn")
        sub.add_argument("--out", type=Path, help="file or folder to write; inside the run directory where not given")
        sub.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
        sub.add_argument("--data-root", type=Path, help="where the run's data lie now, if they have moved")
        mode.add_arguments(sub)
    return parser


def sample_main(modes: dict[str, Mode], description: str, argv: list[str] | None = None) -> None:
    """Run the mode that the command line names, under inference mode; faults become sentences."""
    args = sample_parser(modes, description).parse_args(argv)
    start_logging(None, 0)
    with exit_on_user_error(), torch.inference_mode():
        modes[args.mode].run(args)


class _Intermixed(argparse.ArgumentParser):
    """Lets `edit --attr Smiling=1 photo.jpg` mix options and files."""

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        if getattr(self, "_inside", False):
            return super().parse_known_args(args, namespace)
        self._inside = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._inside = False
