"""Logs of a run: console lines with speed and remaining time, train.log, log.jsonl, TensorBoard."""

import contextlib
import json
import logging
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

from engine.errors import UserError
from engine.files import atomic_text
from engine.ranks import world_size

logger = logging.getLogger("faces")
CONSOLE_INTERVAL = 10.0  # seconds between console lines when there is no terminal for a progress bar


class MetricBuffer:
    """Scalars of the steps since the last log row. They stay on the device until they are read."""

    def __init__(self, rows: list | None = None) -> None:
        self.rows: list[tuple[int, dict[str, Tensor]]] = [
            (step, {k: torch.tensor(v) for k, v in scalars.items()}) for step, scalars in rows or []
        ]

    def add(self, step: int, scalars: dict[str, Any]) -> None:
        """Store one step's scalars without a copy to the CPU."""
        self.rows.append((step, {k: torch.as_tensor(v).detach() for k, v in scalars.items()}))

    def read(self, last_checkpoint: Any) -> dict[int, dict[str, float]]:
        """All scalars as {step: {key: value}}, read in one transfer.

        Raises:
            UserError: a value is not finite. The message names the step, the key and the last checkpoint.
        """
        names = [(step, key) for step, scalars in self.rows for key in scalars]
        if not names:
            return {}
        device = next(iter(self.rows[-1][1].values())).device
        flat = torch.stack([v.to(device, torch.float32).reshape(()) for _, s in self.rows for v in s.values()]).tolist()
        table: dict[int, dict[str, float]] = {}
        for (step, key), value in zip(names, flat, strict=True):
            if not math.isfinite(value):
                saved = f"The last good checkpoint is {last_checkpoint}." if last_checkpoint else "No checkpoint yet."
                raise UserError(
                    f"step {step}: {key} is {value}; expected a finite number. {saved} "
                    "A lower learning rate or train.precision=fp32 may help."
                )
            table.setdefault(step, {})[key] = value
        return table

    def plain(self, last_checkpoint: Any) -> list:
        """All scalars, averaged over ranks, as nested lists for a checkpoint."""
        table = self.read(last_checkpoint)
        flat = iter(mean_scalars({f"{s}/{k}": v for s, row in table.items() for k, v in row.items()}).values())
        return [[step, {key: next(flat) for key in row}] for step, row in table.items()]

    def row(self, last_checkpoint: Any) -> dict[str, float]:
        """The mean of each key over the stored steps and over ranks. Clears the buffer."""
        table, self.rows = self.read(last_checkpoint), []
        lists: dict[str, list[float]] = {}
        for scalars in table.values():
            for key, value in scalars.items():
                lists.setdefault(key, []).append(value)
        return mean_scalars({key: sum(v) / len(v) for key, v in lists.items()})


def mean_scalars(row: dict[str, float]) -> dict[str, float]:
    """The mean over ranks of each value. All ranks must pass the same keys in the same order."""
    if world_size() > 1 and row:
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        values = torch.tensor(list(row.values()), dtype=torch.float64, device=device)
        dist.all_reduce(values)
        row = dict(zip(row, (values / world_size()).tolist(), strict=True))
    return row


def truncate_log(path: Path, step: int) -> None:
    """Drop the rows of a log.jsonl that are later than `step`, and rows that are not valid JSON."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if float(json.loads(line)["step"]) <= step:
                kept.append(line + "\n")
        except (ValueError, TypeError, LookupError, RecursionError):
            logger.warning(f"{path}: an incomplete row is dropped")
    atomic_text(path, "".join(kept))


class MetricLogger:
    """Writes the scalars of a run on rank 0. On other ranks every call does nothing."""

    def __init__(self, run_dir: Path, active: bool, first_step: int, total_steps: int, batch_size: int) -> None:
        self.active, self.total, self.batch_size = active, total_steps, batch_size
        self.first = self.timer_step = first_step
        self.timer_start = self.last_printed = time.perf_counter()
        self.run_dir, self.tensorboard, self.bar = run_dir, None, None
        if not active:
            return
        self.file = open(run_dir / "log.jsonl", "a", buffering=1)  # noqa: SIM115 - open as long as the run
        if sys.stderr.isatty():
            self.bar = tqdm(total=total_steps, initial=first_step, unit="step", dynamic_ncols=True)

    def log_training(self, step: int, row: dict[str, float], final: bool = False) -> None:
        """Log one row of training scalars, with the speed since the last row."""
        if not self.active:
            return
        now = time.perf_counter()
        speed = (step - self.timer_step) / max(1e-9, now - self.timer_start)
        self._write(step, row | {"steps_per_s": round(speed, 3), "images_per_s": round(speed * self.batch_size, 1)})
        self.restart_clock(step)
        remaining = (self.total - step) / max(1e-9, speed)
        metrics = "  ".join(f"{k} {v:.4g}" for k, v in row.items())
        rates = f"{speed:.1f} steps/s  {speed * self.batch_size:.0f} images/s  ETA {_duration(remaining)}"
        line = f"step {step}/{self.total}  {metrics}  {rates}"
        if self.bar is not None:
            self.bar.update(step - self.bar.n)
            self.bar.set_postfix_str(metrics, refresh=False)
            logger.debug(line)
        elif final or now - self.last_printed > CONSOLE_INTERVAL or step <= self.first + 1:
            self.last_printed = now
            logger.info(line)
        else:
            logger.debug(line)

    def log_validation(self, step: int, row: dict[str, float]) -> None:
        """Log one row of validation metrics; keys get the prefix val/."""
        if self.active and row:
            self._write(step, {f"val/{k}": v for k, v in row.items()})
            logger.info(f"step {step}  validation: " + "  ".join(f"{k} {v:.4g}" for k, v in row.items()))

    def restart_clock(self, step: int) -> None:
        """Measure speed from here on: validation, sampling and saving do not count as training time."""
        self.timer_start, self.timer_step = time.perf_counter(), step

    def close(self) -> None:
        """Flush and close everything."""
        if self.bar is not None:
            self.bar.close()
        with ignore_write_errors("log"):
            if self.tensorboard is not None:
                self.tensorboard.close()
            if self.active:
                self.file.close()

    def _write(self, step: int, row: dict[str, float]) -> None:
        with ignore_write_errors(f"{self.run_dir / 'log.jsonl'}"):
            self.file.write(json.dumps({"step": step, **row}) + "\n")
        with ignore_write_errors(f"{self.run_dir / 'tensorboard'}"):
            self._write_tensorboard(step, row)

    def _write_tensorboard(self, step: int, row: dict[str, float]) -> None:
        if self.tensorboard is None:
            from torch.utils.tensorboard import SummaryWriter  # importing it takes a second

            self.tensorboard = SummaryWriter(str(self.run_dir / "tensorboard"), purge_step=self.first + 1)
        for key, value in row.items():
            self.tensorboard.add_scalar(key, value, step)


@contextlib.contextmanager
def ignore_write_errors(what: str) -> Iterator[None]:
    """Log a warning instead of stopping the run when a log or a sample image cannot be written."""
    try:
        yield
    except (OSError, UserError) as error:
        logger.warning(f"{what} cannot be written ({error}). The run continues without it.")


def start_logging(path: Path | None, rank: int) -> None:
    """On rank 0: write all messages to the file `path` (if given) and level INFO and above to the console."""
    logger.handlers.clear()
    logger.setLevel(logging.DEBUG if rank == 0 else logging.ERROR)
    logger.propagate = False
    console = _TqdmHandler()
    console.setLevel(logging.INFO)
    logger.addHandler(console)
    if path is not None and rank == 0:
        file = _LogFile(path, encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logger.addHandler(file)


class _LogFile(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        logger.removeHandler(self)  # on a full disk, warn only once
        logger.warning(f"{self.baseFilename} cannot be written. The run continues without it.")


class _TqdmHandler(logging.Handler):
    """Prints above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
