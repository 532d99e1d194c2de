"""What a run says: console lines with speed and time left, train.log, log.jsonl, TensorBoard."""

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
PLAIN_LINE_EVERY = 10.0  # seconds between console lines where there is no terminal for a bar


class MetricBuffer:
    """Scalars of the steps since the last log row. They stay on the device until somebody looks."""

    def __init__(self, rows: list | None = None) -> None:
        self.rows: list[tuple[int, dict[str, Tensor]]] = [
            (step, {k: torch.tensor(v) for k, v in scalars.items()}) for step, scalars in rows or []
        ]

    def add(self, step: int, scalars: dict[str, Any]) -> None:
        """Remember one step's scalars without reading them."""
        self.rows.append((step, {k: torch.as_tensor(v).detach() for k, v in scalars.items()}))

    def read(self, last_good: Any) -> dict[int, dict[str, float]]:
        """{step: {key: value}} in one transfer.

        Raises:
            UserError: a value is not finite; names the step, the key and the last good checkpoint.
        """
        names = [(step, key) for step, scalars in self.rows for key in scalars]
        if not names:
            return {}
        device = next(iter(self.rows[-1][1].values())).device
        flat = torch.stack([v.to(device, torch.float32).reshape(()) for _, s in self.rows for v in s.values()]).tolist()
        table: dict[int, dict[str, float]] = {}
        for (step, key), value in zip(names, flat, strict=True):
            if not math.isfinite(value):
                good = f"the last good checkpoint is {last_good}" if last_good else "there is no checkpoint yet"
                raise UserError(
                    f"step {step}: {key} is {value}; {good}; a lower learning rate or train.precision=fp32 may help"
                )
            table.setdefault(step, {})[key] = value
        return table

    def plain(self, last_good: Any) -> list:
        """The same as nested lists, the mean over ranks, for a checkpoint."""
        table = self.read(last_good)
        flat = iter(mean_scalars({f"{s}/{k}": v for s, row in table.items() for k, v in row.items()}).values())
        return [[step, {key: next(flat) for key in row}] for step, row in table.items()]

    def row(self, last_good: Any) -> dict[str, float]:
        """The mean of each key since the row before, over steps and ranks; forgets the steps."""
        table = self.read(last_good)
        self.rows = []
        lists: dict[str, list[float]] = {}
        for scalars in table.values():
            for key, value in scalars.items():
                lists.setdefault(key, []).append(value)
        return mean_scalars({key: sum(v) / len(v) for key, v in lists.items()})


def mean_scalars(row: dict[str, float]) -> dict[str, float]:
    """The mean over ranks of equal dicts of floats."""
    if world_size() > 1 and row:
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        values = torch.tensor(list(row.values()), dtype=torch.float64, device=device)
        dist.all_reduce(values)
        row = dict(zip(row, (values / world_size()).tolist(), strict=True))
    return row


def truncate_log(path: Path, step: int) -> None:
    """Drop the rows of a log.jsonl that are later than `step`, and a last line that was cut short."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if float(json.loads(line)["step"]) <= step:
                kept.append(line + "\n")
        except (ValueError, TypeError, LookupError, RecursionError):
            logger.warning("%s: a row that was cut short is dropped", path)
    atomic_text(path, "".join(kept))


class MetricLogger:
    """Rank 0's record of a run. On other ranks it swallows everything."""

    def __init__(self, run_dir: Path, active: bool, first_step: int, total_steps: int, batch_size: int) -> None:
        self.active, self.total, self.batch_size = active, total_steps, batch_size
        self.first = self.clock_step = first_step
        self.clock = self.last_printed = time.perf_counter()
        self.run_dir, self.board, self.bar = run_dir, None, None
        if not active:
            return
        self.file = open(run_dir / "log.jsonl", "a", buffering=1)  # noqa: SIM115 - open as long as the run
        if sys.stderr.isatty():
            self.bar = tqdm(total=total_steps, initial=first_step, unit="step", dynamic_ncols=True)

    def scalars(self, step: int, row: dict[str, float], final: bool = False) -> None:
        """One row of training scalars, with the speed since the last one."""
        if not self.active:
            return
        now = time.perf_counter()
        speed = (step - self.clock_step) / max(1e-9, now - self.clock)
        self._write(step, row | {"steps_per_s": round(speed, 3), "images_per_s": round(speed * self.batch_size, 1)})
        self.restart_clock(step)
        left = (self.total - step) / max(1e-9, speed)
        figures = "  ".join(f"{k} {v:.4g}" for k, v in row.items())
        rates = f"{speed:.1f} steps/s  {speed * self.batch_size:.0f} images/s  ETA {_duration(left)}"
        line = f"step {step}/{self.total}  {figures}  {rates}"
        if self.bar is not None:
            self.bar.update(step - self.bar.n)
            self.bar.set_postfix_str(figures, refresh=False)
            logger.debug(line)
        elif final or now - self.last_printed > PLAIN_LINE_EVERY or step <= self.first + 1:
            self.last_printed = now
            logger.info(line)
        else:
            logger.debug(line)

    def validation(self, step: int, row: dict[str, float]) -> None:
        """One row of validation figures, under val/."""
        if self.active and row:
            self._write(step, {f"val/{k}": v for k, v in row.items()})
            logger.info(f"step {step}  validation: " + "  ".join(f"{k} {v:.4g}" for k, v in row.items()))

    def restart_clock(self, step: int) -> None:
        """Leave what happened since the last row (validation, pictures, saving) out of the speed."""
        self.clock, self.clock_step = time.perf_counter(), step

    def close(self) -> None:
        """Flush and close everything."""
        if self.bar is not None:
            self.bar.close()
        with spared("log"):
            if self.board is not None:
                self.board.close()
            if self.active:
                self.file.close()

    def _write(self, step: int, row: dict[str, float]) -> None:
        with spared(f"{self.run_dir / 'log.jsonl'}"):
            self.file.write(json.dumps({"step": step, **row}) + "\n")
        with spared(f"{self.run_dir / 'tensorboard'}"):
            self._write_board(step, row)

    def _write_board(self, step: int, row: dict[str, float]) -> None:
        if self.board is None:
            from torch.utils.tensorboard import SummaryWriter  # a second of import, paid after the first step

            self.board = SummaryWriter(str(self.run_dir / "tensorboard"), purge_step=self.first + 1)
        for key, value in row.items():
            self.board.add_scalar(key, value, step)


@contextlib.contextmanager
def spared(what: str) -> Iterator[None]:
    """Records and pictures never stop a run: where they cannot be written, that is said, and it goes on."""
    try:
        yield
    except (OSError, UserError) as error:
        logger.warning(f"{what} cannot be written ({error}); the run goes on without it")


def start_logging(path: Path | None, rank: int) -> None:
    """Everything into train.log, the important on the console (past a progress bar), rank 0 only."""
    logger.handlers.clear()
    logger.setLevel(logging.DEBUG if rank == 0 else logging.ERROR)
    logger.propagate = False
    console = _BarFriendly()
    console.setLevel(logging.INFO)
    logger.addHandler(console)
    if path is not None and rank == 0:
        file = _LogFile(path, encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logger.addHandler(file)


class _LogFile(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        logger.removeHandler(self)  # a full disk: once is enough
        logger.warning(f"{self.baseFilename} cannot be written; the run goes on without it")


class _BarFriendly(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
