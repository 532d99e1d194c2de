"""Deep feature interpolation without a VAE."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from vae import sample, train
from vae.dfi import SAME, feature_distances, invert
from vae.model import FeatureNet

SMALL = [
    *("data.num_train=300", "data.num_val=40", "data.num_test=40", "model.width=8", "model.latent_dim=8"),
    *("train.total_steps=12", "train.batch_size=16", "train.val_images=32", "train.sample_size=4"),
]


def make_run(folder: Path, *options: str) -> Path:
    config = Path(__file__).parent.parent / "configs/vae/demo.yaml"
    train.main(["--config", str(config), "--run-dir", str(folder), *SMALL, *options])
    return folder


def test_feature_inversion() -> None:
    torch.manual_seed(0)
    net = FeatureNet(1, 16, 2).requires_grad_(False)
    x = torch.rand(1, 1, 16, 16) - 0.5
    other = x.clone()
    other[..., 6:10, 6:10] += 0.4
    with torch.no_grad():  # as in sample.py
        assert torch.equal(invert(net.features, x, net.features(x), steps=5), x)
        y = invert(net.features, x, net.features(other), tv=0.0, steps=200)
    far, near = ((net.features(p)[0] - net.features(other)[0]).square().sum() for p in (x, y))
    assert near < far / 100 and (y - other).square().mean() < (x - other).square().mean() / 4
    assert y.abs().max() <= 1


def test_a_training_face_is_at_distance_zero_from_itself() -> None:
    """So it is never one of its own neighbours."""
    torch.manual_seed(0)
    net, x = FeatureNet(1, 16, 2).requires_grad_(False), torch.rand(40, 1, 16, 16) * 2 - 1
    scaled = lambda images: [1000 * maps for maps in net.features(images)]  # noqa: E731 - rounding shows
    train = SimpleNamespace(once=lambda n: iter([{"image": x[:30]}, {"image": x[30:]}]))
    distance = feature_distances(SimpleNamespace(split=lambda name: train), scaled, x)
    expected = (scaled(x)[-1][:, None] - scaled(x)[-1][None]).square().flatten(2).sum(2)
    assert torch.allclose(distance, expected, rtol=1e-3, atol=SAME) and (distance.diagonal() <= SAME).all()
    assert (distance[~torch.eye(40, dtype=torch.bool)] > SAME).all()


@pytest.mark.slow
def test_dfi_mode_writes_three_rows(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = make_run(tmp_path / "run", "loss.features=own", "loss.feature_steps=6")
    options = ["--run-dir", str(run), "--device", "cpu", "--attr", "Smiling=flip", "--n", "2", "--steps", "5"]
    sample.main(["dfi", *options, "--num-neighbors", "10"])
    assert (run / "pictures/dfi.png").is_file() and json.loads((run / "pictures/dfi.json").read_text())[
        "num_neighbors"
    ] == 10
    bare = make_run(tmp_path / "bare")
    with pytest.raises(SystemExit, match="2"):
        sample.main(["dfi", "--run-dir", str(bare), "--attr", "Smiling=1"])
    assert "loss.features=own" in capsys.readouterr().err
