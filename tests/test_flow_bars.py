"""Cuts of the recipes for drawn faces: the likelihood falls below PNG's, labels and directions paint what was asked.

The whole recipes take twelve minutes each and are measured by `sample.py report` and `scripts/compare.py` (figures:
flow/README.md). The floors here are for a tenth of that, so that a change which breaks training, labels or edits is
seen.
"""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from data import FaceSet
from flow import train
from flow.edit import move, transfer
from flow.session import Session
from flow.yardsticks import sheet_bits
from losses.quantise import to_levels

pytestmark = pytest.mark.slow  # about 70 CPU-seconds, two trainings

CONFIGS = Path(__file__).parent.parent / "configs/flow"
CUT = [
    *("data.num_train=4000", "data.num_val=200", "data.num_test=400", "model.num_steps=4", "model.width=32"),
    *("train.total_steps=300", "train.val_images=32", "train.sample_size=8"),
    *("train.validate_every=0", "train.sample_every=0", "train.save_every=300", "train.alarm_every=0"),
]


def trained(config: str, folder: Path) -> Session:
    train.main(["--config", str(CONFIGS / config), "--run-dir", str(folder), *CUT])
    return Session(Namespace(run_dir=folder, step=None, device="cpu", seed=0, out=None))


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """A flow that is told the expression."""
    return trained("synthetic32.yaml", tmp_path_factory.mktemp("flow") / "told")


@pytest.fixture(scope="module")
def untold(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """One that is not."""
    return trained("synthetic32_uncond.yaml", tmp_path_factory.mktemp("flow") / "untold")


def expression_reader(faces: FaceSet) -> Callable[[Tensor], Tensor]:
    """The expression of faces (N, C, H, H), from their pixels by ridge regression. Right on 75 of 100 real ones."""
    batch = faces.take(range(len(faces)))
    x, y = batch["image"].flatten(1), F.one_hot(batch["label"]).float()
    centre = x.mean(0)
    x = x - centre
    weights = torch.linalg.solve(x.T @ x + 0.03 * len(x) * torch.eye(x.shape[1]), x.T @ (y - y.mean(0)))
    return lambda images: ((images.flatten(1) - centre) @ weights).argmax(1)


def faces_and_wishes(session: Session) -> tuple[Tensor, Tensor, Tensor]:
    """Test faces, their expressions, and for each another one."""
    faces = session.split("test")
    batch = faces.take(range(len(faces)))
    return batch["image"], batch["label"], (batch["label"] + 3) % len(session.meta["classes"])


def rate(told: Tensor, asked: Tensor) -> float:
    return (told == asked).float().mean().item()


@torch.inference_mode()
def test_densities_samples_and_bytes(told: Session, untold: Session) -> None:
    for session in (told, untold):
        x, label, _ = faces_and_wishes(session)
        y = session.labels.encode(label) if len(session.labels) else None
        bits, png = session.bits(x, y).mean().item(), sheet_bits(to_levels(x, session.n_bits), "PNG")
        assert bits < png - 0.3, (bits, png)
        samples = session.decoded(session.flow.noise(256, session.generator), None if y is None else y[:256])
        assert samples.isfinite().all() and samples.abs().max() < 3


@torch.inference_mode()
def test_a_label_is_read_and_drawn(told: Session) -> None:
    read = expression_reader(told.split("train"))
    x, label, asked = faces_and_wishes(told)
    y, target = told.labels.encode(label), told.labels.encode(asked)
    bayes = rate(told.guess(x, None).argmax(1), label)
    moved = {
        gain: torch.cat([transfer(told.flow, p, target[rows], gain, told.n_bits) for rows, p in told.coded(x, y)])
        for gain in (0.0, 1.5)
    }
    nothing, done = rate(read(moved[0.0]), asked), rate(read(moved[1.5]), asked)
    print(f"{bayes=:.3f} {nothing=:.3f} {done=:.3f}")
    assert torch.equal(moved[0.0], x)
    assert bayes > 0.5 and nothing < 0.1 and done > 0.75


@torch.inference_mode()
def test_a_direction_draws_what_it_is_of(untold: Session) -> None:
    read = expression_reader(untold.split("train"))
    x, label, asked = faces_and_wishes(untold)
    codes = untold.fit("ols").class_code
    step = 1.6 * (codes[asked] - codes[label])
    moved = torch.cat([move(untold.flow, p, step[rows], untold.n_bits) for rows, p in untold.coded(x, None)])
    done = rate(read(moved), asked)
    print(f"{done=:.3f}")
    assert done > 0.8
