"""The training loop. The method defines the training step; the data set defines the batches."""

import contextlib
import json
import signal
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

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
from engine.metric_logger import MetricBuffer, MetricLogger, ignore_write_errors, logger, mean_scalars, truncate_log
from engine.precision import seed_everything, seed_of, uses_bf16
from engine.run import Run
from engine.schedule import lr

Batch = dict[str, Tensor]


class BatchedDataset(Protocol):
    """What `fit` needs of a data set. `data.FaceSet` has it."""

    def __len__(self) -> int:
        """Number of images."""
        ...

    def batches(
        self,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        device: str | torch.device = "cpu",
        first_step: int = 0,
    ) -> Iterator[Batch]:
        """Endless batches for this rank from step `first_step` on; `batch_size` is the size per rank.

        The batch of a step must depend on (seed, step, rank, world_size) only. Otherwise a resumed run differs.
        """
        ...

    def fixed(self, n: int, device: str | torch.device = "cpu") -> Batch:
        """A batch of n images that is the same on every call."""
        ...


def fit(run: Run, method: Method, train: BatchedDataset, val: BatchedDataset | None = None) -> None:
    """Train `method` up to `train.total_steps` (or `train.stop_at`). An earlier checkpoint of the run is resumed.

    Args:
        run: from `engine.start`.
        method: the networks and their training step. `method.meta` is written into the run directory.
        train: the training set.
        val: the validation set for `method.validate` and `method.sample`. Without it there is no validation, and
            `sample` gets images of the training set.

    Raises:
        UserError: a batch lacks a key that the method needs, a logged scalar is not finite, or the run directory
            belongs to other data.
    """
    cfg, device = run.cfg.train, run.device

    # Restore the last checkpoint, if there is one.
    state = TrainState(run, method)
    if state.step >= cfg.total_steps:
        logger.info(f"{run.dir} is complete ({state.step} steps). To train longer, raise train.total_steps.")
        return
    _check_val_size(cfg, val, run.world_size)
    batches = train.batches(cfg.batch_size // run.world_size, cfg.seed, run.rank, run.world_size, device, state.step)
    fixed_batch = (val or train).fixed(cfg.sample_size, device)
    metric_logger = MetricLogger(run.dir, run.rank == 0, state.step, cfg.total_steps, cfg.batch_size)
    method.train()
    done, received, bf16 = 0, 0, uses_bf16(cfg.precision, device)
    with _catch_signals() as caught, contextlib.closing(metric_logger):
        for step in range(state.step, cfg.total_steps):
            # Each step has its own seed, so that a resumed run draws the same noise.
            seed_everything(seed_of(cfg.seed, run.rank, step), device)
            batch = next(batches)
            if step == state.step:
                _first_batch(run, method, batch, step)

            # Train for one step.
            _set_learning_rates(method, cfg, step)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                state.metric_buffer.add(step, method.step(batch, step))

            # Decide what is due after this step. All ranks decide the same.
            done, received = step + 1, ranks.any_rank(caught[0])
            last = done == cfg.total_steps
            stop = last or bool(received) or done == cfg.stop_at
            validate = val is not None and _is_due(done, cfg.validate_every, last)
            sample, save = _is_due(done, cfg.sample_every, last), _is_due(done, cfg.save_every, stop)

            # Log the means since the last log row.
            if _is_due(done, cfg.log_every, last):
                metric_logger.log_training(done, state.metric_buffer.row(state.last_checkpoint), final=last)

            # Validate, sample, save. BatchNorm statistics differ between ranks; those of rank 0 are used.
            if validate or sample or save:
                ranks.broadcast(method.buffers())
                if val is not None and validate:
                    state.record_validation(done, _validate(run, method, val), metric_logger)
                if sample:
                    _sample(run, method, fixed_batch, done)
                if save:
                    state.save(done)
                metric_logger.restart_clock(done)
            if stop:
                break
    if received:
        logger.info(f"stopped by a signal after step {done}. Run the same command to resume.")
        raise SystemExit(128 + received)


def _is_due(step: int, every: int, always: bool) -> bool:
    """Whether something with the period `every` (0 = never) happens after `step` steps."""
    return every > 0 and (step % every == 0 or always)


def _first_batch(run: Run, method: Method, batch: Batch, step: int) -> None:
    """Run once per process: check the batch, do the warm start at step 0, make all ranks equal, seed again."""
    missing = [key for key in method.needs if key not in batch]
    if missing:
        raise UserError(
            f"{type(method).__name__} needs the batch keys {', '.join(missing)}. The data have {', '.join(batch)}. "
            "Choose another data.dataset, or switch off the option that needs them."
        )
    if step == 0 and not run.cfg.train.init_from:
        method.warm_start(batch)
    ranks.broadcast(chain(method.parameters(), method.buffers()))
    seed_everything(seed_of(run.cfg.train.seed, run.rank, step), run.device)


class TrainState:
    """The part of a run that a checkpoint keeps: step, weights, optimizers, scalars not yet logged, best metric."""

    def __init__(self, run: Run, method: Method) -> None:
        """Move `method` to the device and restore the newest intact checkpoint, if there is one."""
        self.run, self.method, self.cfg = run, method, run.cfg.train
        self.step, self.best, self.metric_buffer, self.last_checkpoint = 0, None, MetricBuffer(), None
        method.to(run.device)
        if self.cfg.channels_last:
            method.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - missing in its stubs
        for group in (g for o in method.optimizers.values() for g in o.param_groups):
            group["initial_lr"] = group["lr"]
        self.plain_meta = json.loads(json.dumps(method.meta))  # tuples become lists, as in a saved file
        had_checkpoint = bool(checkpoints(run.dir))
        path = latest_checkpoint(run.dir, logger.warning) if run.rank == 0 else None  # rank 0 renames damaged files
        ranks.barrier()
        path = path or latest_checkpoint(run.dir)
        if path is not None:
            self._resume(path)
        elif had_checkpoint:
            logger.warning(f"{run.dir}: no intact checkpoint is left. Training starts from step 0.")
        if run.rank == 0:
            truncate_log(run.dir / "log.jsonl", self.step)
            atomic_text(run.dir / "meta.json", json.dumps(method.meta, indent=1))
        if self.step == 0:
            for line in init_from(method, self.cfg.init_from):
                logger.info(f"train.init_from: {line}")
        if self.cfg.compile:
            for name in method.compilable:
                compile_network(getattr(method, name), run.device)

    def _resume(self, path: Path) -> None:
        saved = read_checkpoint(path, self.run.device)
        differ = [k for k in self.plain_meta if saved["meta"].get(k) != self.plain_meta[k]]
        if differ:
            raise UserError(
                f"{path} was trained on other data ({', '.join(differ)} differ). "
                "Use the same data, or another --run-dir."
            )
        load_weights(self.method, saved["method"], path)
        for name, optimizer in self.method.optimizers.items():
            optimizer.load_state_dict(saved["optimizers"][name])
        self.step, self.best, self.last_checkpoint = saved["step"], saved["best"], path
        self.metric_buffer = MetricBuffer(saved["pending"])
        if saved["total_steps"] != self.cfg.total_steps:
            old, new = (
                _lr_factor(self.cfg, self.step, total) for total in (saved["total_steps"], self.cfg.total_steps)
            )
            logger.warning(
                f"train.total_steps was {saved['total_steps']} and is now {self.cfg.total_steps}. "
                f"The learning rate's factor at step {self.step} changes from {old:.4g} to {new:.4g}."
            )
        logger.info(f"resumed from {path} after {self.step} steps")

    def save(self, step: int, name: str = "") -> None:
        """Write the checkpoint after `step` steps, under `name` or its number, and delete old numbered ones."""
        path = self.run.dir / "checkpoints" / (name or name_of(step))
        state = {
            "step": step,
            "method": self.method.state_dict(),
            "optimizers": {name: o.state_dict() for name, o in self.method.optimizers.items()},
            "pending": self.metric_buffer.plain(self.last_checkpoint),
            "best": self.best,
            "total_steps": self.cfg.total_steps,
            "meta": self.plain_meta,
            "config": to_dict(self.run.cfg),
        }
        if self.run.rank == 0:
            save_checkpoint(path, state)
            drop_old(self.run.dir, self.cfg.keep_last)
        self.last_checkpoint = path
        ranks.barrier()

    def record_validation(self, step: int, row: dict[str, float], metric_logger: MetricLogger) -> None:
        """Log validation metrics. Save `best.pt` when the metric named by `method.best` improves."""
        metric_logger.log_validation(step, row)
        if self.method.best is None:
            return
        name, mode = self.method.best
        if self.best is None or (row[name] < self.best if mode == "min" else row[name] > self.best):
            self.best = row[name]
            self.save(step, "best.pt")


def compile_network(network: torch.nn.Module, device: torch.device) -> None:
    """Compile a network in place. Layers that the compiler does not support run as before."""
    for layer in network.modules() if device.type == "cpu" else ():
        if getattr(layer, "padding_mode", "") == "replicate":  # torch 2.15 on a CPU: no replication_pad2d_backward
            layer.forward = torch.compiler.disable(layer.forward)
    network.compile()


def _lr_factor(cfg: Any, step: int, total_steps: int) -> float:
    return lr(step, total_steps, cfg.lr_warmup, cfg.lr_floor, cfg.lr_decay, cfg.lr_hold)


def _set_learning_rates(method: Method, cfg: Any, step: int) -> None:
    for optimizer in method.optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * _lr_factor(cfg, step, cfg.total_steps)


@contextlib.contextmanager
def _evaluation_mode(method: Method, seed: int, device: torch.device) -> Iterator[None]:
    """Evaluation mode, no gradients and a fixed seed inside; training mode again afterwards."""
    method.eval()
    seed_everything(seed_of(seed, 0, 2**31), device)
    with torch.inference_mode():
        yield
    method.train()


def _check_val_size(cfg: Any, val: BatchedDataset | None, world_size: int) -> None:
    """Called before the first step: the first validation may come hours later, before the first checkpoint."""
    if val is not None and cfg.validate_every and min(cfg.val_images, len(val)) < world_size:
        raise UserError(
            f"the validation set has {len(val)} images, fewer than the {world_size} processes. "
            "Add validation images, or set train.validate_every=0."
        )


def _validate(run: Run, method: Method, val: BatchedDataset) -> dict[str, float]:
    """Means of `method.validate` over `train.val_images` validation images; each rank takes an equal share."""
    cfg, world_size = run.cfg.train, run.world_size
    num_images = min(cfg.val_images, len(val)) // world_size * world_size
    with _evaluation_mode(method, cfg.seed, run.device):
        own_share = {k: v[run.rank :: world_size] for k, v in val.fixed(num_images, run.device).items()}
        sums: dict[str, Tensor] = {}
        count, size = num_images // world_size, max(1, cfg.batch_size // world_size)
        for first in range(0, count, size):
            batch = {k: v[first : first + size] for k, v in own_share.items()}
            weight = len(batch["image"]) / count
            for key, value in method.validate(batch).items():
                sums[key] = sums.get(key, 0) + value.detach().float() * weight
    return mean_scalars({key: float(value) for key, value in sums.items()})


def _sample(run: Run, method: Method, fixed_batch: Batch, step: int) -> None:
    """Write the grids of `method.sample` under `samples/`. Rank 0 only."""
    if run.rank != 0:
        return
    with _evaluation_mode(method, run.cfg.train.seed, run.device):
        for name, grid in method.sample(fixed_batch).items():
            path = run.dir / "samples" / f"step_{step:07d}_{name}.png"
            with ignore_write_errors(str(path)):
                save_grid(grid, path)
                logger.debug(f"wrote {path}")


@contextlib.contextmanager
def _catch_signals() -> Iterator[list[int]]:
    """Store SIGTERM, SIGINT (Ctrl-C) and SIGHUP (closed terminal), so that the loop can save and stop after the step.

    Yields a list of one number: the signal received, or 0. A second Ctrl-C interrupts at once. If SIGHUP is ignored
    (nohup), it stays ignored.
    """
    caught = [0]

    def handle(number: int, frame: Any) -> None:
        if caught[0] and number == signal.SIGINT:
            raise KeyboardInterrupt
        caught[0] = number

    numbers = [signal.SIGTERM, signal.SIGINT]
    numbers += [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN else []
    old_handlers = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield caught
    finally:
        for number, handler in old_handlers.items():
            signal.signal(number, handler)
