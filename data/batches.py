"""Batches: images are gathered, flipped and scaled on the device, a whole batch at a time."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from data.samplers import AUGMENT, BatchIndices, IndexSampler, PairSampler, uniform
from data.synthetic import MIRROR, MIRROR5

Batch = dict[str, Tensor]

CHUNK_BYTES = 1 << 28  # copied to the GPU at a time


def resolve(device: str | torch.device) -> torch.device:
    """The device with its index, as tensors report it: "cuda" becomes cuda:0."""
    device = torch.device(device)
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


class ImageStore:
    """Images and labels of a pack. The train, val and test sets share it; there is one copy per device."""

    def __init__(self, images: np.ndarray, labels: dict[str, np.ndarray], resident: float = 0.5) -> None:
        """Set up the store without copying.

        Args:
            images: (N, C, H, W) uint8, may be memory-mapped.
            labels: arrays with N rows and the dtypes of a batch.
            resident: copy the images to a GPU if they fit into this share of its free memory.
        """
        self.images = torch.from_numpy(images)
        self.labels = {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in labels.items()}
        self.resident = resident
        self._on: dict[torch.device, tuple[Tensor, dict[str, Tensor]]] = {}

    def on(self, device: torch.device) -> tuple[Tensor, dict[str, Tensor]]:
        """Images (on `device` if they fit there, else in host memory) and labels (on `device`)."""
        if device not in self._on:
            images = self._copy(device) if device.type == "cuda" and self._fits(device) else self.images
            self._on[device] = images, {key: value.to(device) for key, value in self.labels.items()}
        return self._on[device]

    def _fits(self, device: torch.device) -> bool:
        free, _ = torch.cuda.mem_get_info(device)
        return self.images.numel() <= self.resident * free

    def _copy(self, device: torch.device) -> Tensor:
        """Copy in chunks, so that a memory-mapped pack is never completely in host memory."""
        target = torch.empty(self.images.shape, dtype=torch.uint8, device=device)
        rows = max(1, CHUNK_BYTES // self.images[0].numel())
        for start in range(0, len(self.images), rows):
            target[start : start + rows].copy_(self.images[start : start + rows])
        return target


class Augment:
    """Random crop, shift and brightness as a function of (seed, epoch, row). It is False if all three are 0."""

    def __init__(self, crop: float, shift: float, brightness: float) -> None:
        self.crop, self.shift, self.brightness = crop, shift, brightness

    def __bool__(self) -> bool:
        return bool(self.crop or self.shift or self.brightness)

    def numbers(self, draw: BatchIndices, seed: int) -> np.ndarray:
        """Random parameters (N, 4) float32: window scale, x and y of its center in [-1, 1], brightness."""
        u = uniform(AUGMENT, seed, draw.epoch[:, None], draw.rows[:, None], np.arange(4)[None])
        scale = 1 - self.crop * u[:, 0]
        centre = (2 * u[:, 1:3] - 1) * (1 - scale + 2 * self.shift)[:, None]
        return np.column_stack([scale, centre, 1 + self.brightness * (2 * u[:, 3] - 1)]).astype(np.float32)

    def images(self, x: Tensor, numbers: Tensor, light: bool = True) -> Tensor:
        """Augment x (N, C, H, W) in [-1, 1]. Pixels beyond the border repeat it. light: change the brightness, too."""
        scale, centre, gain = numbers[:, 0], numbers[:, 1:3], numbers[:, 3]
        if self.crop or self.shift:
            theta = torch.zeros(len(x), 2, 3, device=x.device)
            theta[:, 0, 0] = theta[:, 1, 1] = scale
            theta[:, :, 2] = centre
            grid = torch.nn.functional.affine_grid(theta, list(x.shape), align_corners=False)
            x = torch.nn.functional.grid_sample(x, grid, padding_mode="border", align_corners=False)
        return ((x + 1) * gain[:, None, None, None] - 1).clamp(-1, 1) if self.brightness and light else x

    @staticmethod
    def points(landmarks: Tensor, numbers: Tensor) -> Tensor:
        """Landmarks (N, P, 2) in the coordinates of the window."""
        return (landmarks - numbers[:, None, 1:3]) / numbers[:, None, :1]


def mirror_points(landmarks: Tensor) -> Tensor:
    """Mirror landmarks (N, 5 or 68, 2) in [-1, 1]: x changes its sign, and left and right points are swapped."""
    swap = torch.from_numpy(MIRROR5 if landmarks.shape[1] == 5 else MIRROR).to(landmarks.device)
    return landmarks[:, swap] * landmarks.new_tensor([-1, 1])


def scaled(x8: Tensor) -> Tensor:
    """Convert uint8 to float32 in [-1, 1]. round((x + 1) * 127.5) is the inverse."""
    if x8.device.type == "cpu":  # in one thread, see `gathered`
        x = x8.numpy().astype(np.float32)
        x /= 127.5
        x -= 1
        return torch.from_numpy(x)
    return x8.float().div_(127.5).sub_(1)


def gathered(images: Tensor, rows: Tensor) -> Tensor:
    """The images with the numbers `rows` (N,), a copy.

    NumPy copies them in one thread. OpenMP would split this small operation over all threads, and each thread waits for
    the slowest one. On cores that other processes share, this takes several times as long as the copy.
    """
    if images.device.type == "cpu":
        return torch.from_numpy(images.numpy()[rows.numpy()])
    return images.index_select(0, rows)


def mirrored(x8: Tensor, mirror: Tensor) -> Tensor:
    """x8 (N, C, H, W) with the images of `mirror` (N,) bool flipped left to right. On a CPU, x8 itself changes."""
    if x8.device.type == "cpu":
        x, rows = x8.numpy(), mirror.numpy()
        x[rows] = x[rows][..., ::-1]
        return x8
    return torch.where(mirror[:, None, None, None], x8.flip(-1), x8)  # no index that the host must wait for


def collate(
    x8: Tensor, labels: dict[str, Tensor], draw: BatchIndices, rows: Tensor, prefix: str = "",
    augment: Augment | None = None,
    numbers: Tensor | None = None,
) -> Batch:  # fmt: skip
    """Make one batch from gathered images x8 (N, C, H, W) uint8 and all labels, which are on the same device."""
    batch = {prefix + key: value.index_select(0, rows) for key, value in labels.items()}
    if draw.mirror.any():
        mirror = _move(draw.mirror, x8.device)
        x8 = mirrored(x8, mirror)
        if "landmarks" in labels:
            points = batch[prefix + "landmarks"]
            batch[prefix + "landmarks"] = torch.where(mirror[:, None, None], mirror_points(points), points)
    if "sketch" in labels:
        batch[prefix + "sketch"] = _sketch(batch[prefix + "sketch"], draw, augment, numbers)
    x = scaled(x8)
    if augment and numbers is not None:
        x = augment.images(x, numbers)
        if "landmarks" in labels:
            batch[prefix + "landmarks"] = augment.points(batch[prefix + "landmarks"], numbers)
    return {prefix + "image": x, **batch, prefix + "index": rows}


def _sketch(x8: Tensor, draw: BatchIndices, augment: Augment | None, numbers: Tensor | None) -> Tensor:
    """Sketches (N, 1, H, W) in [-1, 1], flipped and cropped like their faces, without a change of brightness."""
    s = scaled(mirrored(x8, _move(draw.mirror, x8.device)))
    return augment.images(s, numbers, light=False) if augment and numbers is not None else s


def _move(array: np.ndarray, device: torch.device) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


class Batches:
    """Endless batches of one rank. The batch of step s is a function of (seed, s, rank, world_size)."""

    def __init__(
        self, store: ImageStore, order: IndexSampler, batch_size: int, rank: int = 0, world_size: int = 1,
        device: str | torch.device = "cpu", first_step: int = 0, pair_sampler: PairSampler | None = None,
        augment: Augment | None = None, stride: int = 1,
    ) -> None:  # fmt: skip
        """batch_size is per rank. With stride k, this data set is used in every k-th step only."""
        self.store, self.order, self.pair_sampler = store, order, pair_sampler
        self.augment = augment or None
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size
        self.device = resolve(device)
        self.step = first_step
        self.stride = stride
        images, _ = store.on(self.device)
        # Images in host memory and a GPU: gather one batch in advance in pinned buffers.
        self.prefetcher = Prefetcher(images, self.device, self._rows_at) if images.device != self.device else None

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        batch = self._batch(self.step)
        self.step += 1
        return batch

    def draw(self, step: int) -> BatchIndices:
        """The images of step `step` on this rank."""
        start = (step // self.stride * self.world_size + self.rank) * self.batch_size
        return self.order.at(np.arange(start, start + self.batch_size, dtype=np.int64))

    def _rows_at(self, step: int) -> np.ndarray:
        return self._with_partners(self.draw(step))

    def _with_partners(self, draw: BatchIndices) -> np.ndarray:
        if self.pair_sampler is None:
            return draw.rows
        return np.concatenate([draw.rows, self.pair_sampler.of(draw.rows, draw.epoch, self.order.seed)])

    def _batch(self, step: int) -> Batch:
        draw = self.draw(step)
        images, labels = self.store.on(self.device)
        rows = _move(self._with_partners(draw), self.device)
        x8 = self.prefetcher.take(step) if self.prefetcher else gathered(images, rows)
        numbers = _move(self.augment.numbers(draw, self.order.seed), self.device) if self.augment else None
        n = self.batch_size
        batch = collate(x8[:n], labels, draw, rows[:n], augment=self.augment, numbers=numbers)
        if self.pair_sampler is not None:
            batch |= collate(x8[n:], labels, draw, rows[n:], "pair_", self.augment, numbers)
        return batch


class Prefetcher:
    """Gathers the images of the next step in a thread. It alternates between two pinned buffers."""

    def __init__(self, images: Tensor, device: torch.device, rows_at: Callable[[int], np.ndarray]) -> None:
        self.images, self.device, self.rows_at = images, device, rows_at
        self.buffers: list[Tensor | None] = [None, None]
        self.copied: list[torch.cuda.Event | None] = [None, None]
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="faces")
        self.futures: dict[int, Future] = {}

    def take(self, step: int) -> Tensor:
        """The images (N, C, H, W) uint8 of this step on the device. Starts to gather those of the next step."""
        future = self.futures.pop(step, None) or self.pool.submit(self._gather, step, self.rows_at(step))
        buffer = future.result()
        x8 = buffer.to(self.device, non_blocking=True)
        if self.device.type == "cuda":
            event = torch.cuda.Event()
            event.record()
            self.copied[step % 2] = event
        self.futures = {step + 1: self.pool.submit(self._gather, step + 1, self.rows_at(step + 1))}
        return x8

    def _gather(self, step: int, numbers: np.ndarray) -> Tensor:
        slot, rows = step % 2, torch.from_numpy(numbers)
        event, buffer = self.copied[slot], self.buffers[slot]
        if event is not None:
            event.synchronize()  # wait until the copy to the device has read this buffer
        if buffer is None:
            shape = (len(rows), *self.images.shape[1:])
            buffer = torch.empty(shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
            self.buffers[slot] = buffer
        return torch.index_select(self.images, 0, rows, out=buffer)
