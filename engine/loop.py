"""The training loop: one readable function. What is learnt stands in the method, what is seen in `data`."""

import contextlib
import json
import signal
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from engine import ranks
from engine.checkpoint import (
    checkpoints,
    drop_old,
    init_from,
    latest_checkpoint,
    load_weights,
    name_of,
    read_checkpoint,
    save_checkpoint,
)
from engine.config import to_dict
from engine.errors import UserError
from engine.files import atomic_text
from engine.grids import save_grid
from engine.method import Method
from engine.metric_logger import MetricBuffer, MetricLogger, logger, mean_scalars, spared, truncate_log
from engine.precision import seed_everything, seed_of
from engine.run import Run
from engine.schedule import lr


def fit(run: Run, method: Method, train: Any, val: Any = None) -> None:
    """Train `method` from its last checkpoint, or from nothing, up to `train.total_steps` (or `train.stop_at`).

    Args:
        run: from `engine.start`.
        method: what learns; its `meta` is written into the run directory.
        train: has `batches(batch_size, seed, rank, world_size, device, first_step)` and `fixed(n, device)`.
        val: the same, or None; `sample` and `validate` see its images (else the training set's).

    Raises:
        UserError: a batch lacks what the method needs, a scalar is not finite, the run belongs to other data.
    """
    t, device = run.cfg.train, run.device
    state = _State(run, method)
    if state.step >= t.total_steps:
        logger.info(f"{run.dir} is complete ({state.step} steps); a larger train.total_steps goes on")
        return
    _check_validation(t, val, run.world_size)
    batches = train.batches(t.batch_size // run.world_size, t.seed, run.rank, run.world_size, device, state.step)
    shown = (val or train).fixed(t.sample_size, device)
    metric_logger = MetricLogger(run.dir, run.rank == 0, state.step, t.total_steps, t.batch_size)
    method.train()
    with _signals() as told, contextlib.closing(metric_logger):
        for step in range(state.step, t.total_steps):
            seed_everything(seed_of(t.seed, run.rank, step), device)
            batch = next(batches)
            if step == state.step:
                _prepare(run, method, batch, step)
            _set_rates(method, t, step)
            with _autocast(t, device):
                state.metric_buffer.add(step, method.step(batch, step))

            done, signal_told = step + 1, ranks.any_rank(told[0])
            last = done == t.total_steps
            leave = last or bool(signal_told) or done == t.stop_at
            validate = val is not None and _due(done, t.validate_every, last)
            sample, save = _due(done, t.sample_every, last), _due(done, t.save_every, leave)
            if _due(done, t.log_every, last):
                metric_logger.scalars(done, state.metric_buffer.row(state.last_good), final=last)
            if validate or sample or save:
                ranks.broadcast(method.buffers())
                if validate:
                    state.validated(done, _validate(run, method, val), metric_logger)
                if sample:
                    _sample(run, method, shown, done)
                if save:
                    state.save(done)
                metric_logger.restart_clock(done)
            if leave:
                break
    if signal_told:
        logger.info(f"stopped by a signal after step {done}; the same command goes on from there")
        raise SystemExit(128 + signal_told)


def _due(done: int, every: int, in_any_case: bool) -> bool:
    return every > 0 and (done % every == 0 or in_any_case)


def _prepare(run: Run, method: Method, batch: dict, step: int) -> None:
    """Once a process, with its first batch: check it, start warm at step 0, make all ranks equal, seed again."""
    missing = [key for key in method.needs if key not in batch]
    if missing:
        raise UserError(
            f"{type(method).__name__} needs {', '.join(missing)}, and these data have only {', '.join(batch)}; "
            "choose another data.dataset or switch off the option that asks for it"
        )
    if step == 0 and not run.cfg.train.init_from:
        method.warm_start(batch)
    ranks.broadcast(chain(method.parameters(), method.buffers()))
    seed_everything(seed_of(run.cfg.train.seed, run.rank, step), run.device)


class _State:
    """What of a run outlives the process: where it is, what is not logged yet, its best figure, its checkpoints."""

    def __init__(self, run: Run, method: Method) -> None:
        self.run, self.method, self.t = run, method, run.cfg.train
        self.step, self.best, self.metric_buffer, self.last_good = 0, None, MetricBuffer(), None
        method.to(run.device)
        if self.t.channels_last:
            method.to(memory_format=torch.channels_last)
        for group in (g for o in method.optimizers.values() for g in o.param_groups):
            group["initial_lr"] = group["lr"]
        self.plain_meta = json.loads(json.dumps(method.meta))  # tuples become lists
        had_checkpoint = bool(checkpoints(run.dir))
        path = latest_checkpoint(run.dir, logger.warning) if run.rank == 0 else None  # rank 0 sets damaged ones aside
        ranks.barrier()
        path = path or latest_checkpoint(run.dir)
        if path is not None:
            self._resume(path)
        elif had_checkpoint:
            logger.warning(f"{run.dir}: no intact checkpoint is left; starting from nothing")
        if run.rank == 0:
            truncate_log(run.dir / "log.jsonl", self.step)
            atomic_text(run.dir / "meta.json", json.dumps(method.meta, indent=1))
        if self.step == 0:
            for line in init_from(method, self.t.init_from):
                logger.info(f"start from {line}")
        if self.t.compile:
            for name in method.compilable:
                _compile(getattr(method, name), run.device)

    def _resume(self, path: Path) -> None:
        saved = read_checkpoint(path, self.run.device)
        differ = [k for k in self.plain_meta if saved["meta"].get(k) != self.plain_meta[k]]
        if differ:
            raise UserError(
                f"{path} is of other data ({', '.join(differ)} differ); give the same data or another --run-dir"
            )
        load_weights(self.method, saved["method"], path)
        for name, optimizer in self.method.optimizers.items():
            optimizer.load_state_dict(saved["optimizers"][name])
        self.step, self.best, self.last_good = saved["step"], saved["best"], path
        self.metric_buffer = MetricBuffer(saved["pending"])
        if saved["total_steps"] != self.t.total_steps:
            was, now = (_rate(self.t, self.step, total) for total in (saved["total_steps"], self.t.total_steps))
            logger.warning(
                f"train.total_steps was {saved['total_steps']}, is {self.t.total_steps}: the learning rate's factor at "
                f"step {self.step} goes from {was:.4g} to {now:.4g}"
            )
        logger.info(f"resumed from {path} after {self.step} steps")

    def save(self, step: int, name: str = "") -> None:
        """Write the checkpoint of `step` (or one of that name) and drop old ones."""
        path = self.run.dir / "checkpoints" / (name or name_of(step))
        state = {
            "step": step,
            "method": self.method.state_dict(),
            "optimizers": {name: o.state_dict() for name, o in self.method.optimizers.items()},
            "pending": self.metric_buffer.plain(self.last_good),
            "best": self.best,
            "total_steps": self.t.total_steps,
            "meta": self.plain_meta,
            "config": to_dict(self.run.cfg),
        }
        if self.run.rank == 0:
            save_checkpoint(path, state)
            drop_old(self.run.dir, self.t.keep_last)
        self.last_good = path
        ranks.barrier()

    def validated(self, step: int, row: dict[str, float], metric_logger: MetricLogger) -> None:
        """Log a validation; keep the weights if the method's figure has never been better."""
        metric_logger.validation(step, row)
        if self.method.best is None:
            return
        name, sense = self.method.best
        if self.best is None or (row[name] < self.best if sense == "min" else row[name] > self.best):
            self.best = row[name]
            self.save(step, "best.pt")


def _compile(network: torch.nn.Module, device: torch.device) -> None:
    """Compile a network in place; what the compiler lacks stays as it is, with the same numbers."""
    for layer in network.modules() if device.type == "cpu" else ():
        if getattr(layer, "padding_mode", "") == "replicate":  # torch 2.15 on a CPU: no replication_pad2d_backward
            layer.forward = torch.compiler.disable(layer.forward)
    network.compile()


def _rate(t: Any, step: int, total: int) -> float:
    return lr(step, total, t.lr_warmup, t.lr_floor, t.lr_decay, t.lr_hold)


def _set_rates(method: Method, t: Any, step: int) -> None:
    factor = _rate(t, step, t.total_steps)
    for optimizer in method.optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor


def _autocast(t: Any, device: torch.device) -> torch.autocast:
    bf16 = t.precision == "bf16" or (t.precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16)


@contextlib.contextmanager
def _evaluating(method: Method, seed: int, device: torch.device) -> Iterator[None]:
    """Evaluation mode, no graph, a fixed seed; afterwards training mode again."""
    method.eval()
    seed_everything(seed_of(seed, 0, 2**31), device)
    with torch.inference_mode():
        yield
    method.train()


def _check_validation(t: Any, val: Any, world: int) -> None:
    """Before the first step, since the first validation may come hours later and before the first save."""
    if val is not None and t.validate_every and min(t.val_images, len(val)) < world:
        raise UserError(
            f"the validation part has {len(val)} images, fewer than the {world} processes; give more images, or set "
            "train.validate_every=0"
        )


def _validate(run: Run, method: Method, val: Any) -> dict[str, float]:
    """Means of `method.validate` over the first `train.val_images` images, an equal share a rank."""
    t, world = run.cfg.train, run.world_size
    images = min(t.val_images, len(val)) // world * world
    with _evaluating(method, t.seed, run.device):
        mine = {k: v[run.rank :: world] for k, v in val.fixed(images, run.device).items()}
        sums: dict[str, torch.Tensor] = {}
        count, size = images // world, max(1, t.batch_size // world)
        for first in range(0, count, size):
            part = {k: v[first : first + size] for k, v in mine.items()}
            share = len(part["image"]) / count
            for key, value in method.validate(part).items():
                sums[key] = sums.get(key, 0) + value.detach().float() * share
    return mean_scalars({key: float(value) for key, value in sums.items()})


def _sample(run: Run, method: Method, shown: dict, step: int) -> None:
    if run.rank != 0:
        return
    with _evaluating(method, run.cfg.train.seed, run.device):
        for name, grid in method.sample(shown).items():
            path = run.dir / "samples" / f"step_{step:07d}_{name}.png"
            with spared(str(path)):
                save_grid(grid, path)
                logger.debug(f"wrote {path}")


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """SIGTERM, a closed terminal (SIGHUP) and Ctrl-C are noted, and the loop leaves after the step.

    A second Ctrl-C interrupts at once. Under nohup SIGHUP stays ignored.
    """
    told = [0]

    def note(number: int, frame: Any) -> None:
        if told[0] and number == signal.SIGINT:
            raise KeyboardInterrupt
        told[0] = number

    numbers = [signal.SIGTERM, signal.SIGINT]
    numbers += [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN else []
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
