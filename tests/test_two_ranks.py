"""Half batches on two ranks give the gradient of the whole batch, for every system, in double precision.

Both see the same rows and the same random numbers. No weight moves: the optimizers only record gradients. Left out are
losses that are no means over the rows of a batch:
- the guide of aae_cgan, `gcgan_paper` and `model.nets: study` of a2f: BatchNorm's statistics are those of a rank;
- the landmark networks of gcgan: pairs of rows, and each rank draws a whole `geometry_batch`;
- mixed labels and codes from the prior: means over the rows chosen, whose number differs between ranks;
- the feature network of vae: a weighted cross-entropy, divided by the sum of the batch's weights;
- the total correlation of vae: an estimate from all pairs of rows.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from untrained import SYSTEMS, build

from engine import Method
from tests.same import of_one_and_of_two_ranks

pytestmark = pytest.mark.slow  # three processes for each case

ROWS = 16  # of both ranks
CASES = {  # name: (system, overrides, steps)
    "vae": ("vae", [], [1]),
    "vae_own_features": ("vae", ["loss.features=own", "loss.feature_steps=1"], [2]),
    "aae_cgan": (
        "aae_cgan",
        ["loss.lambda_guide=1", "loss.guide_steps=1", "train.autoencode_steps=1", "train.gan_steps=1"]
        + ["loss.prior_fraction=0"],
        [1, 2, 3],  # one step of each phase after the guide's
    ),
    "flow": ("flow", ["loss.max_norm=null"], [1]),  # clipping would hide a wrong factor
    "gcgan": ("gcgan", ["loss.geometry_steps=1"], [2]),
    "interface_gan": ("interface_gan", [], [0]),  # a step with both penalties
} | {name: (name, [], [1]) for name in ("stargan", "a2f_cgan", "a2f_rough", "a2f_sharp", "a2f_face")}
assert {system for system, _, _ in CASES.values()} == set(SYSTEMS)


class Draws(TorchFunctionMode):
    """Random numbers of the whole batch, of which a rank gets those of its rows: rank, rank + world, ...

    Casts to float32 become casts to double.
    """

    def __init__(self, rank: int, world: int) -> None:
        super().__init__()
        self.rank, self.world, self.calls = rank, world, 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.Tensor.float:
            return args[0].double()
        if func is torch.Tensor.roll:  # along the rows: to the next row of the same rank
            return func(args[0], args[1] * 2 // self.world, *args[2:])
        if func in (torch.randn_like, torch.rand_like):
            func, args = {torch.randn_like: torch.randn, torch.rand_like: torch.rand}[func], (args[0].shape,)
        if func not in (torch.rand, torch.randn, torch.randint, torch.randperm) or kwargs.get("generator"):
            return func(*args, **kwargs)
        self.calls += 1
        torch.manual_seed(self.calls)
        if func is torch.randperm:
            return self.permutation(args[0])
        first, size = (args[:-1], args[-1]) if func is torch.randint else ((), args)
        size = list(size[0]) if size and not isinstance(size[0], int) else list(size)
        if not size:  # one number for all rows
            return func(*first, size, **kwargs)
        axis = int(len(size) > 2 and size[1] > 1 and size[-1] == 1)  # (2, N, 1): the rows are the second axis
        size[axis] *= self.world
        rows = torch.arange(self.rank, size[axis], self.world)
        return func(*first, size, **kwargs).index_select(axis, rows)

    def permutation(self, n: int) -> Tensor:
        """A permutation that exchanges rows of the same rank only."""
        parts = [torch.randperm(n * self.world // 2) for _ in range(2)]
        return parts[self.rank] if self.world == 2 else torch.stack([2 * parts[0], 2 * parts[1] + 1], 1).flatten()


@contextmanager
def double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def record_gradients(method: Method) -> list[tuple[str, Tensor]]:
    """Make the optimizers of a method write (name, gradient of all parameters) into the list instead of moving them."""
    record: list[tuple[str, Tensor]] = []
    for name, optimizer in method.optimizers.items():
        params = [p for group in optimizer.param_groups for p in group["params"]]
        optimizer.step = lambda name=name, params=params: record.append(
            (name, torch.cat([p.grad.flatten() for p in params if p.grad is not None]))
        )
    return record


def gradients(name: str, folder: Path, rank: int, world: int) -> list[tuple[str, Tensor]]:
    """What each call of `minimize` in the steps of a case gives, and the weights after the warm start."""
    system, overrides, steps = CASES[name]
    _, method, faces = build(system, folder / f"{rank}_of_{world}", overrides)
    batch = faces.train.take(list(range(ROWS))[rank::world])
    with double_precision(), Draws(rank, world):
        method.double().train()
        batch = {key: value.double() if value.is_floating_point() else value for key, value in batch.items()}
        method.warm_start(batch)
        warm = torch.cat([value.double().flatten() for value in method.state_dict().values()])
        record = record_gradients(method)
        for step in steps:
            method.step(batch, step)
    return [("warm start", warm), *record]


@pytest.mark.parametrize("name", CASES)
def test_half_batches_on_two_ranks_give_the_gradient_of_the_whole_batch(name: str, tmp_path: Path) -> None:
    one, two = of_one_and_of_two_ranks(functools.partial(gradients, name, tmp_path), tmp_path)
    assert len(one) == len(two) > 1
    for (optimizer, whole), (other, halves) in zip(one, two, strict=True):
        assert optimizer == other and whole.norm() > 0
        error = ((whole - halves).norm() / whole.norm()).item()
        assert error < 1e-6, f"{optimizer}: relative difference {error:.1e}"
