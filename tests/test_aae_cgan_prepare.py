"""Source of the linear path, and identity of the guide."""

import contextlib
import shutil
from pathlib import Path

import pytest
import torch
from aae_toy import config, run

from aae_cgan import sample, train
from engine import UserError
from engine.checkpoint import checkpoints
from engine.files import sha256
from evaluation import train_classifier
from evaluation.manifest import read_export
from evaluation.run import main as evaluate

pytestmark = pytest.mark.slow  # whole runs

CONFIG = str(Path(__file__).parent.parent / "configs/aae_cgan/synthetic32.yaml")


def fitted(state: dict) -> bool:
    """Whether the basis is a fitted PCA: columns of length 1."""
    return torch.allclose(state["method"]["linear.basis"].norm(dim=0), torch.ones(16), atol=1e-4)


def test_linear_path_is_refitted_if_all_checkpoints_are_damaged(tmp_path):
    run(tmp_path, config(total_steps=2))
    for path in checkpoints(tmp_path):
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert fitted(run(tmp_path, config(total_steps=2)))


def test_linear_path_is_fitted_if_init_from_has_none(tmp_path):
    run(tmp_path / "pca", config(gan_steps=2, total_steps=2))
    run(tmp_path / "none", config({"linear": "none"}, gan_steps=2, total_steps=2))
    straight = run(tmp_path / "straight", config(total_steps=1))["method"]["linear.basis"]
    for name in ("pca", "none"):
        concat = run(tmp_path / f"from_{name}", config(total_steps=1, init_from=[f"{tmp_path / name}:d_image"]))
        assert torch.equal(concat["method"]["linear.basis"], straight)
    whole = run(tmp_path / "whole", config(total_steps=1, init_from=[str(tmp_path / "pca")]))
    assert torch.equal(whole["method"]["linear.basis"], straight)


def test_init_from_needs_matching_linear_paths(tmp_path):
    pca, none = tmp_path / "pca", tmp_path / "none"
    run(pca, config(total_steps=2))
    run(none, config({"linear": "none"}, total_steps=2))
    with pytest.raises(UserError, match="was trained with no linear path; set model.linear=none"):
        run(tmp_path / "a", config(total_steps=1, init_from=[f"{none}:encoder"]))
    with pytest.raises(UserError, match="was trained with a linear path; set model.linear=pca"):
        run(tmp_path / "b", config({"linear": "none"}, total_steps=1, init_from=[f"{pca}:encoder"]))
    for sources in ([f"{none}:d_image", f"{pca}:encoder"], [f"{pca}:encoder", f"{none}:d_image"]):
        with pytest.raises(UserError, match="has another linear path than"):
            run(tmp_path / "c", config(total_steps=1, init_from=sources))


# A guide of evaluation/.

READER = """
data: {dataset: synthetic, image_size: 32, num_train: 70, num_val: 20, num_test: 20}
model: {role: guide, heads: [expression], kind: plain, widths: [8, 16]}
train: {total_steps: 2, batch_size: 16, device: cpu, validate_every: 0, sample_every: 0, save_every: 2, val_images: 20}
"""


def train_guide(folder: Path, seed: int) -> Path:
    """Train a guide for two steps."""
    (folder / "guide.yaml").write_text(READER)
    guide = folder / f"guide{seed}"
    train_classifier.main(["--config", str(folder / "guide.yaml"), "--run-dir", str(guide), f"train.seed={seed}"])
    return guide


def train_run(folder: Path, steps: int) -> Path:
    """Train `steps` steps in folder/run with the guide in folder/guide."""
    small = ["data.num_train=70", "data.num_val=20", "data.num_test=20", "model.width=8", "model.latent_dim=16"]
    short = [f"train.total_steps={steps}", "train.batch_size=4", "train.val_images=8", "train.sample_every=0"]
    guided = ["loss.lambda_guide=1", f"loss.guide={folder / 'guide'}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aae_cgan.linear.MAX_EXACT_DIM", 0)  # randomised PCA; it saves ten seconds
        train.main(["--config", CONFIG, "--run-dir", str(folder / "run"), *small, *short, *guided])
    return folder / "run"


def test_guide_is_recorded_and_refused_as_judge(tmp_path, capsys):
    shutil.copytree(train_guide(tmp_path, 0), tmp_path / "guide")
    learned, out = train_run(tmp_path, 1), tmp_path / "out"
    other = train_guide(tmp_path, 1)
    # The run goes on with the weights it began with, and with no others.
    shutil.move(tmp_path / "guide", tmp_path / "first")
    shutil.copytree(other, tmp_path / "guide")
    with pytest.raises(SystemExit):
        train_run(tmp_path, 2)
    assert "has other weights than the guide of this run" in capsys.readouterr().err
    # Gone, it is still named in an export, ...
    shutil.rmtree(tmp_path / "guide")
    sample.main(["export", "--run-dir", str(learned), "--what", "sample", "--n", "7", "--out", str(out)])
    assert read_export(out)["guides"] == {f"{tmp_path / 'guide'} guide": sha256(checkpoints(tmp_path / "first")[-1])}
    # ... and a judge with its very weights is refused, one with others is not.
    for name, refused in (("first", True), ("guide1", False)):
        config = tmp_path / name / "config.yaml"
        config.write_text(config.read_text().replace("role: guide", "role: judge"))
        words = ["--fake", str(out), "--judge", str(tmp_path / name), "--out", str(tmp_path / "m.json")]
        with pytest.raises(SystemExit) if refused else contextlib.nullcontext():
            evaluate([*words, "--device", "cpu"])
        assert ("a judge must not measure images that it helped to make" in capsys.readouterr().err) == refused


def test_run_resumes_with_the_same_guide(tmp_path):
    shutil.copytree(train_guide(tmp_path, 0), tmp_path / "guide")
    train_run(tmp_path, 1)
    assert checkpoints(train_run(tmp_path, 2))[-1].name == "step_0000002.pt"
