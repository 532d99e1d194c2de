"""Short versions of the drawn-faces recipes: bits/dim fall below PNG, label edits and directions reach the target.

The whole recipes take twelve minutes each and are measured by `sample.py report` and `scripts/compare.py` (metrics:
flow/README.md). The floors here are for a tenth of that, so that a change which breaks training, labels or edits is
seen.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from data import FaceSet
from editing.subjects import Subjects
from families import open_editor
from flow import train
from flow.density import decode_codes, image_bits_of, most_likely_labels
from flow.density_baselines import sheet_bits
from flow.editor import Editor, Options
from losses.quantise import to_levels

pytestmark = pytest.mark.slow  # about 70 CPU-seconds, two trainings

CONFIGS = Path(__file__).parent.parent / "configs/flow"
CUT = [
    *("data.num_train=3000", "data.num_val=100", "data.num_test=256", "model.num_steps=4", "model.width=32"),
    *("train.total_steps=250", "train.ema=0.98", "train.val_images=32", "train.sample_size=8"),
    *("train.validate_every=0", "train.sample_every=0", "train.save_every=250", "train.alarm_every=0"),
]


def trained(folder: Path, *overrides: str) -> Editor:
    train.main(["--config", str(CONFIGS / "synthetic32.yaml"), "--run-dir", str(folder), *CUT, *overrides])
    return open_editor(folder, device="cpu")


@pytest.fixture(scope="module")
def conditional(tmp_path_factory: pytest.TempPathFactory) -> Editor:
    """A flow with expression labels."""
    return trained(tmp_path_factory.mktemp("flow") / "conditional")


@pytest.fixture(scope="module")
def unconditional(tmp_path_factory: pytest.TempPathFactory) -> Editor:
    """A flow without labels."""
    return trained(tmp_path_factory.mktemp("flow") / "unconditional", "model.condition=none")


def expression_reader(faces: FaceSet) -> Callable[[Tensor], Tensor]:
    """A linear classifier of expressions, ridge regression on pixels. Accuracy 0.75 on real faces."""
    batch = faces.take(range(len(faces)))
    x, y = batch["image"].flatten(1), F.one_hot(batch["label"]).float()
    centre = x.mean(0)
    x = x - centre
    weights = torch.linalg.solve(x.T @ x + 0.03 * len(x) * torch.eye(x.shape[1]), x.T @ (y - y.mean(0)))
    return lambda images: ((images.flatten(1) - centre) @ weights).argmax(1)


@pytest.fixture(scope="module")
def read(conditional: Editor) -> Callable[[Tensor], Tensor]:
    """The classifier of the faces that both flows are trained on."""
    return expression_reader(conditional.split("train"))


def faces_and_targets(editor: Editor) -> tuple[Subjects, Tensor, Tensor]:
    """Test faces, their expressions, and a target expression for each."""
    faces = editor.take("test", range(len(editor.split("test"))))
    label = faces.batch["label"]
    return faces, label, (label + 3) % len(editor.classes)


def edited(editor: Editor, faces: Subjects, target: Tensor) -> Tensor:
    """Each face edited to its target expression, at strength 1."""
    images = faces.images.clone()
    for k, name in enumerate(editor.classes):
        rows = torch.nonzero(target == k).flatten().tolist()
        images[rows] = editor.edit(faces.select(rows), editor.parse(name))[0]
    return images


def rate(read: Tensor, target: Tensor) -> float:
    return (read == target).float().mean().item()


@torch.no_grad()
def test_densities_samples_and_bytes(conditional: Editor, unconditional: Editor) -> None:
    for editor in (conditional, unconditional):
        faces, label, _ = faces_and_targets(editor)
        y = editor.codes(faces).get("y")
        bits = image_bits_of(editor, faces.images, y).mean().item()
        png = sheet_bits(to_levels(faces.images, editor.n_bits), "PNG")
        assert bits < png - 0.3, (bits, png)
        noise = editor.flow.noise(256, torch.Generator().manual_seed(0)).cpu()
        samples = decode_codes(editor, noise, None if y is None else y[:256])
        assert samples.isfinite().all() and samples.abs().max() < 3
        assert torch.equal(editor.reconstruct(faces), faces.images)


def test_label_edits_and_bayes_classifier(conditional: Editor, read: Callable[[Tensor], Tensor]) -> None:
    faces, label, target = faces_and_targets(conditional)
    with torch.no_grad():
        bayes = rate(most_likely_labels(conditional, faces.images, None).argmax(1), label)
    nothing, done = rate(read(faces.images), target), rate(read(edited(conditional, faces, target)), target)
    print(f"{bayes=:.3f} {nothing=:.3f} {done=:.3f}")
    assert bayes > 0.5 and nothing < 0.1 and done > 0.75


def test_direction_edits_reach_the_target(unconditional: Editor, read: Callable[[Tensor], Tensor]) -> None:
    unconditional.options = Options(kind="ols")
    faces, _, target = faces_and_targets(unconditional)
    done = rate(read(edited(unconditional, faces, target)), target)
    print(f"{done=:.3f}")
    assert done > 0.8
