"""A run directory is a run: `start` opens one for training, `load` rebuilds a trained method from one."""

import argparse
import contextlib
import json
import logging
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from engine import ranks
from engine.checkpoint import checkpoints, find_checkpoint, load_weights, read_checkpoint
from engine.config import CHANGEABLE, describe, flatten, load_config, read_system, to_dict, to_yaml
from engine.errors import UserError, exit_on_user_error
from engine.files import atomic_text, lock, sha256
from engine.method import Origin
from engine.metric_logger import start_logging
from engine.precision import seed_everything, seed_of


@dataclass
class Run:
    """One training process: its config, folder, device and place among the ranks."""

    cfg: Any
    dir: Path
    device: torch.device
    rank: int = 0
    world_size: int = 1


@contextlib.contextmanager
def start(
    config: type | dict[str, type], resolve: Callable | None = None, argv: list[str] | None = None
) -> Iterator[Run]:
    """Read the command line, lock and prepare the run directory, and turn faults into sentences.

    Args:
        config: the method's config class; or {system: class} where the YAML's key `system` chooses.
        resolve: called with the config, returns it completed with facts of an upstream run.
        argv: the command line without the program; `sys.argv[1:]` by default.

    Exit codes: 2 for a `UserError` or for memory that does not suffice, 143 after SIGTERM, 130 after Ctrl-C.
    """
    with exit_on_user_error(), catch_out_of_memory() as current, contextlib.ExitStack() as stack:
        args, config_class = _parse(config, sys.argv[1:] if argv is None else argv)
        cfg = load_config(config_class, args.config, args.overrides)
        cfg = resolve(cfg) if resolve else cfg
        current.append(cfg)
        run_dir = args.run_dir or Path("runs") / Path(sys.argv[0]).resolve().parent.name / args.config.stem
        stack.callback(ranks.stop_ranks)
        _set_backends(cfg.train)
        rank, world, device = ranks.start_ranks(cfg.train.device)
        _check_device(device)
        if cfg.train.batch_size % world:
            raise UserError(f"train.batch_size: {cfg.train.batch_size} is not divisible by {world} processes")
        if rank == 0:
            stack.enter_context(lock(run_dir / ".lock", wait=False, message="is being trained"))
            _refuse_changes(run_dir, cfg)
            atomic_text(run_dir / "config.yaml", to_yaml(cfg))
            _write_environment(run_dir, cfg, device, world)
        ranks.barrier()
        start_logging(run_dir / "train.log", rank)
        stack.callback(logging.shutdown)
        seed_everything(seed_of(cfg.train.seed, -1, 0), device)  # first weights: the same on all ranks
        yield Run(cfg, run_dir, device, rank, world)


def load(
    run_dir: str | Path, config: type | dict[str, type], method: Any, step: int | None = None, device: str = "auto"
) -> Any:
    """Rebuild a trained method from its run directory, without its data.

    Args:
        run_dir: a folder that `train.py` made.
        config: config class, or {system: class} for a family with several systems.
        method: the method's class (for several systems: {system: class}).
        step: steps completed; by default the best checkpoint where one is kept, else the newest.

    Returns:
        The method in evaluation mode on `device`, with `method.origin` telling run, step and sha256 of the weights.

    Raises:
        UserError: no run, no such step, a damaged file, or weights that do not fit the run's config.
    """
    run_dir = Path(run_dir)
    path = find_checkpoint(run_dir, step)
    if isinstance(config, dict):
        system = read_system(run_dir / "config.yaml", (), config)
        config, method = config[system], method[system]
    cfg = load_config(config, run_dir / "config.yaml")
    state = read_checkpoint(path)
    built = method(cfg, state["meta"])
    load_weights(built, state["method"], path)
    built.optimizers = {}
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    built.origin = Origin(str(run_dir), state["step"], sha256(path))
    return built.to(device).eval()


def _parse(config: type | dict[str, type], argv: list[str]) -> tuple[argparse.Namespace, type]:
    parser = argparse.ArgumentParser(
        usage="%(prog)s --config FILE [--run-dir DIR] [key=value ...]",
        description="Train. The same command again resumes.",
        epilog=_knobs(config) if {"-h", "--help"} & set(argv) else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", required=True, type=Path, help="a YAML file of configs/")
    parser.add_argument("--run-dir", type=Path, help="default: runs/<method>/<the file's name>")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as in train.total_steps=6")
    args = parser.parse_intermixed_args(argv)
    if isinstance(config, dict):
        return args, config[read_system(args.config, args.overrides, config)]
    return args, config


def _knobs(config: type | dict[str, type]) -> str:
    several = config if isinstance(config, dict) else {"": config}
    lists = [f"{name + ': ' if name else ''}knobs and defaults\n{describe(c)}" for name, c in several.items()]
    return "\n\n".join(lists).replace("%", "%%")


def _check_device(device: torch.device) -> None:
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"train.device: {device} is not there ({torch.cuda.device_count()} GPUs are); use auto or cpu")


def _set_backends(train: Any) -> None:
    if train.threads:
        torch.set_num_threads(train.threads)
    if train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = not train.deterministic


def _refuse_changes(run_dir: Path, cfg: Any) -> None:
    """A run with a checkpoint keeps its config, but for cadences, places and length.

    Raises:
        UserError: names each key with its value then and now.
    """
    path = run_dir / "config.yaml"
    if not checkpoints(run_dir) or not path.is_file():
        return
    then, now = flatten(to_dict(load_config(type(cfg), path))), flatten(to_dict(cfg))
    changed = [
        f"{k}: {then.get(k)!r} then, {now.get(k)!r} now"
        for k in now
        if then.get(k) != now.get(k) and k not in CHANGEABLE
    ]
    if changed:
        raise UserError(
            f"{run_dir} has a checkpoint of another config ({'; '.join(changed)}); "
            "give the old values to resume, or another --run-dir to start anew"
        )


def _write_environment(run_dir: Path, cfg: Any, device: torch.device, world: int) -> None:
    facts = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "family": type(cfg).__module__.partition(".")[0],
        "command": sys.argv,
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain")),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "world_size": world,
        "seed": cfg.train.seed,
    }
    path = run_dir / "environment.json"
    launches = _earlier_launches(path)
    before = launches[-1] if launches else facts
    for key in ("threads", "world_size", "torch"):
        if before.get(key) != facts[key] and checkpoints(run_dir):
            print(
                f"note: {key} was {before.get(key)}, is {facts[key]}: the run goes on, but not bit for bit", flush=True
            )
    atomic_text(path, json.dumps([*launches, facts], indent=1))


def _git(*words: str) -> str:
    """What git says of this repository; "" where git is not installed or this is no repository."""
    try:
        command = ["git", "-C", str(Path(__file__).parent), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def _earlier_launches(path: Path) -> list[dict]:
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(isinstance(launch, dict) for launch in found):
        print(f"note: {path} is damaged; it is begun anew", flush=True)
        return []
    return found


@contextlib.contextmanager
def catch_out_of_memory() -> Iterator[list]:
    """Out of memory, on a GPU or a CPU, becomes one sentence with the batch size. Yields a list for the config."""
    current: list = []
    try:
        yield current
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        memory = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)
        if not memory or not current:
            raise
        train = current[0].train
        remedy = f"try train.batch_size={max(1, train.batch_size // 2)}"
        remedy += ", train.precision=bf16" if train.precision != "bf16" else ""
        raise UserError(
            f"out of memory with train.batch_size={train.batch_size}; {remedy} or a smaller model.width"
        ) from None
