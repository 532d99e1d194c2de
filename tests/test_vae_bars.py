"""A short version of the drawn-faces recipe: reconstructions keep smiles, and edits reach the target.

The whole recipe takes ten minutes and is measured by `scripts/compare.py` (figures: docs/results.md). The floors here
are for a run of a tenth of that, so that a change which breaks training, reading or moving is seen.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from data import FaceSet, synthetic
from data.drawn_reader import DrawnFaces
from editing.export import ground_truth
from evaluation.counterfactual import MOUTH, boxes
from families import open_editor
from vae import train

pytestmark = pytest.mark.slow  # about 50 CPU-seconds, the fixture's training

CONFIG = Path(__file__).parent.parent / "configs/vae/synthetic32.yaml"
CUT = [
    *("data.num_train=4000", "data.num_val=200", "data.num_test=400", "model.latent_dim=64"),
    *("train.total_steps=1500", "train.batch_size=8", "train.val_images=32", "train.sample_size=4"),
    *("train.validate_every=0", "train.sample_every=0", "train.save_every=1500", "train.ema_decay=0.99"),
]


def smile_reader(faces: FaceSet, column: int) -> tuple[Tensor, Tensor]:
    """A linear classifier of smiles, ridge regression on pixels: weights (D,), offset. Accuracy 0.93 on real faces."""
    batch = faces.take(range(len(faces)))
    x, y = batch["image"].flatten(1), 2 * batch["attr"][:, column] - 1
    centre, mean = x.mean(0), y.mean()
    x = x - centre
    weights = torch.linalg.solve(x.T @ x + 0.03 * len(x) * torch.eye(x.shape[1]), x.T @ (y - mean))
    return weights, mean - centre @ weights


@pytest.fixture(scope="module")
def flips(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Edits of 400 test faces, their targets, and the predictions of the classifier."""
    folder = tmp_path_factory.mktemp("vae") / "run"
    train.main(["--config", str(CONFIG), "--run-dir", str(folder), *CUT])
    editor = open_editor(folder, device="cpu")
    weights, offset = smile_reader(editor.split("train"), editor.attributes.index("Smiling"))
    faces, flip = editor.take("test", range(400)), editor.parse("Smiling=flip")
    x, labels = faces.images, editor.labels(faces)
    smiling = labels[:, editor.label_names().index("Smiling")] == 1
    index = faces.batch["index"].numpy()
    truth = ground_truth(DrawnFaces(editor.method.cfg.data), editor.meta, index, flip, labels)
    pictures = {
        "real": x,
        "truth": truth,
        "source": editor.reconstruct(faces),
        "truth decoded": editor.reconstruct(editor.from_images(truth)),
    }
    for text in ("Smiling=flip", "Smiling=1", "Smiling=0"):
        pictures[text] = editor.edit(faces, editor.parse(text))[0]
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    asked_off = smiling[order][:, None, None, None]  # the same targets, shuffled
    pictures["shuffled"] = torch.where(asked_off, pictures["Smiling=0"], pictures["Smiling=1"])
    factors = DrawnFaces(editor.method.cfg.data).factors_of(index)
    box = boxes(torch.from_numpy(synthetic.landmarks(factors)).float(), [MOUTH], x.shape[-1])[:, None]  # (N, 1, H, H)
    reads = {name: picture.flatten(1) @ weights + offset > 0 for name, picture in pictures.items()}
    return {"smiling": smiling, "box": box, "pictures": pictures, "reads": reads}


def balanced(reads: Tensor, wanted: Tensor) -> float:
    """Balanced accuracy."""
    right = (reads == wanted).float()
    return (right[wanted].mean() + right[~wanted].mean()).item() / 2


def test_edit_changes_the_mouth_most(flips: dict) -> None:
    """One face edited to smile and not to smile: the mouth differs, and more than the rest."""
    pictures, box = flips["pictures"], flips["box"]
    change = (pictures["Smiling=1"] - pictures["Smiling=0"]).abs().mean(1, keepdim=True) * 127.5  # (N, 1, H, H)
    inside, outside = change[box].mean().item(), change[~box].mean().item()
    assert inside > 5 and outside < 0.75 * inside, (inside, outside)


def test_reconstructions_keep_smiles_and_edits_reach_the_target(flips: dict) -> None:
    reads, smiling = flips["reads"], flips["smiling"]
    real, kept = (balanced(reads[name], smiling) for name in ("real", "source"))
    done, nothing, shuffled, due = (
        balanced(reads[name], ~smiling) for name in ("Smiling=flip", "real", "shuffled", "truth")
    )
    figures = f"{real=:.3f} {kept=:.3f} {done=:.3f} {nothing=:.3f} {shuffled=:.3f} {due=:.3f}"
    print(figures)
    assert real > 0.85 and kept > 0.6, figures
    assert nothing < 0.15 and done > 0.65, figures
    assert abs(shuffled - 0.5) < 0.15, figures  # chance
