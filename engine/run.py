"""Run directories: `start` opens one for training, `load` rebuilds a trained method from one."""

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
from engine.metric_logger import ignore_write_errors, logger, start_logging
from engine.precision import seed_everything, seed_of, uses_bf16


@dataclass
class Run:
    """One training process: config, run directory, device, rank and number of processes."""

    cfg: Any
    dir: Path
    device: torch.device
    rank: int = 0
    world_size: int = 1


@contextlib.contextmanager
def start(
    config: type | dict[str, type], resolve: Callable | None = None, argv: list[str] | None = None
) -> Iterator[Run]:
    """Read the command line, lock and prepare the run directory, and report errors without a traceback.

    Args:
        config: the method's config class; or {system: class}, where the key `system` of the YAML file chooses.
        resolve: called with the config; returns it completed with values of an earlier run.
        argv: the command line without the program name; `sys.argv[1:]` by default.

    Exit codes: 2 for a `UserError` or when memory runs out, 143 after SIGTERM, 130 after Ctrl-C.
    """
    with exit_on_user_error(), catch_out_of_memory() as known_config, contextlib.ExitStack() as stack:
        args, config_class = _parse(config, sys.argv[1:] if argv is None else argv)
        cfg = load_config(config_class, args.config, args.overrides)
        cfg = resolve(cfg) if resolve else cfg
        known_config.append(cfg)
        run_dir = args.run_dir or Path("runs") / Path(sys.argv[0]).resolve().parent.name / args.config.stem
        stack.callback(ranks.stop_ranks)
        _set_backends(cfg.train)
        rank, world, device = ranks.start_ranks(cfg.train.device)
        _check_device(device)
        if cfg.train.batch_size % world:
            raise UserError(
                f"train.batch_size: {cfg.train.batch_size} is not divisible by {world} processes; "
                f"expected a multiple of {world}"
            )
        if rank == 0:
            stack.enter_context(lock(run_dir / ".lock", wait=False, message="is being trained"))
            _check_same_config(run_dir, cfg)
            atomic_text(run_dir / "config.yaml", to_yaml(cfg))
            _write_environment(run_dir, cfg, device, world)
        ranks.barrier()
        start_logging(run_dir / "train.log", rank)
        kind = "bf16" if uses_bf16(cfg.train.precision, device) else "fp32"
        logger.info(f"device {device}, {torch.get_num_threads()} threads, networks in {kind}")
        stack.callback(logging.shutdown)
        if rank == 0:
            stack.callback(_add_cpu_seconds, run_dir)
        seed_everything(seed_of(cfg.train.seed, -1, 0), device)  # the same initial weights on all ranks
        yield Run(cfg, run_dir, device, rank, world)


def load(
    run_dir: str | Path, config: type | dict[str, type], method: Any, step: int | None = None, device: str = "auto"
) -> Any:
    """Rebuild a trained method from its run directory. The data set is not needed.

    Args:
        run_dir: a folder that `train.py` made.
        config: the config class, or {system: class} for a family with several systems.
        method: the method's class, or {system: class}.
        step: number of completed steps; by default `best.pt` if the run has one, else the newest checkpoint.
        device: auto | cpu | cuda | cuda:N.

    Returns:
        The method in evaluation mode on `device`. `method.origin` holds run, step and sha256 of the checkpoint
        (of a release: of the checkpoint that it was made from).

    Raises:
        UserError: there is no run or no such step, the file is damaged, or the weights do not fit the run's config.
    """
    run_dir = Path(run_dir)
    path = find_checkpoint(run_dir, step)
    if isinstance(config, dict):
        system = read_system(run_dir / "config.yaml", (), config)
        config, method = config[system], method[system]
    cfg = load_config(config, run_dir / "config.yaml")
    state = read_checkpoint(path)
    loaded = method(cfg, state["meta"])
    load_weights(loaded, state["method"], path)
    loaded.optimizers = {}
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded.origin = Origin(str(run_dir), state["step"], state.get("sha256") or sha256(path))
    return loaded.to(device).eval()


def _parse(config: type | dict[str, type], argv: list[str]) -> tuple[argparse.Namespace, type]:
    parser = argparse.ArgumentParser(
        usage="%(prog)s --config FILE [--run-dir DIR] [key=value ...]",
        description="Train. Run the same command again to resume.",
        epilog=_options_help(config) if {"-h", "--help"} & set(argv) else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", required=True, type=Path, help="a YAML file in configs/")
    parser.add_argument("--run-dir", type=Path, help="default: runs/<method>/<name of the config file>")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example train.total_steps=6")
    args = parser.parse_intermixed_args(argv)
    if isinstance(config, dict):
        return args, config[read_system(args.config, args.overrides, config)]
    return args, config


def _options_help(config: type | dict[str, type]) -> str:
    systems = config if isinstance(config, dict) else {"": config}
    lists = [f"{name + ': ' if name else ''}options and defaults\n{describe(c)}" for name, c in systems.items()]
    return "\n\n".join(lists).replace("%", "%%")


def _check_device(device: torch.device) -> None:
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"train.device: {device} does not exist (this machine has {torch.cuda.device_count()} GPUs). "
            "Use auto or cpu."
        )


def _set_backends(train: Any) -> None:
    if train.threads:
        torch.set_num_threads(train.threads)
    if train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = not train.deterministic


def _check_same_config(run_dir: Path, cfg: Any) -> None:
    """A run that has a checkpoint must keep its config. The keys in `CHANGEABLE` are exceptions.

    Raises:
        UserError: a key differs. The message names each key with its old and new value.
    """
    path = run_dir / "config.yaml"
    if not checkpoints(run_dir) or not path.is_file():
        return
    old, new = flatten(to_dict(load_config(type(cfg), path))), flatten(to_dict(cfg))
    changed = [f"{k}: was {old.get(k)!r}, is {new[k]!r}" for k in new if old.get(k) != new[k] and k not in CHANGEABLE]
    if changed:
        raise UserError(
            f"{run_dir} has a checkpoint of another config ({'; '.join(changed)}). "
            "To resume, use the old values. To start a new run, use another --run-dir."
        )


def _write_environment(run_dir: Path, cfg: Any, device: torch.device, world: int) -> None:
    launch = {
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
    previous = launches[-1] if launches else launch
    for key in ("threads", "world_size", "torch"):
        if previous.get(key) != launch[key] and checkpoints(run_dir):
            print(
                f"note: {key} was {previous.get(key)} and is now {launch[key]}. The run resumes, but its numbers "
                "differ in the last bits.",
                flush=True,
            )
    atomic_text(path, json.dumps([*launches, launch], indent=1))


def _add_cpu_seconds(run_dir: Path) -> None:
    """Write `cpu_seconds` into the last entry of environment.json: CPU time of rank 0, all launches together."""
    path = run_dir / "environment.json"
    launches = _earlier_launches(path)
    if launches:
        earlier = max(launch.get("cpu_seconds", 0.0) for launch in launches)  # each entry holds the sum so far
        launches[-1]["cpu_seconds"] = round(earlier + time.process_time(), 1)
        with ignore_write_errors(str(path)):
            atomic_text(path, json.dumps(launches, indent=1))


def _git(*args: str) -> str:
    """The output of a git command in this repository; "" without git or outside a repository."""
    try:
        command = ["git", "-C", str(Path(__file__).parent), *args]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def _earlier_launches(path: Path) -> list[dict]:
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(isinstance(launch, dict) for launch in found):
        print(f"note: {path} is damaged. A new file is written.", flush=True)
        return []
    return found


@contextlib.contextmanager
def catch_out_of_memory() -> Iterator[list]:
    """Turn an out-of-memory error, on GPU or CPU, into a `UserError`.

    Yields an empty list; append the config to it, so that the message can name the batch size.
    """
    known_config: list = []
    try:
        yield known_config
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        memory = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)
        if not memory or not known_config:
            raise
        train = known_config[0].train
        remedy = f"train.batch_size={max(1, train.batch_size // 2)}"
        remedy += ", train.precision=bf16" if train.precision != "bf16" else ""
        raise UserError(
            f"out of memory with train.batch_size={train.batch_size}. Try {remedy} or a smaller model.width."
        ) from None
