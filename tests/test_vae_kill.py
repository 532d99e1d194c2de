"""A VAE run that is killed at a random step, or while it writes a checkpoint, resumes bit for bit."""

import random
import signal
from pathlib import Path

import pytest
import torch

import vae.train
from engine.checkpoint import read_checkpoint
from tests.same import kill_in_step, kill_in_write, run_child

YAML = """
data: {dataset: synthetic, image_size: 32, num_train: 64, num_val: 20, num_test: 20}
model: {width: 8, latent_dim: 8}
train: {total_steps: 16, batch_size: 8, log_every: 5, save_every: 4, sample_every: 8, validate_every: 8, val_images: 16}
"""


@pytest.mark.slow
def test_killed_run_equals_uninterrupted_run(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(YAML)
    train = lambda name: vae.train.main(["--config", str(tmp_path / "tiny.yaml"), "--run-dir", str(tmp_path / name)])  # noqa: E731
    step = random.randrange(9, 16)
    faults = {
        "in_a_step": lambda: kill_in_step(vae.train.BetaVAE, step),
        "in_a_write": lambda: kill_in_write("step_0000008", 20_000),
    }
    train("straight")
    last = "checkpoints/step_0000016.pt"
    straight = read_checkpoint(tmp_path / "straight" / last)
    for name, fault in faults.items():
        assert run_child(lambda fault=fault, name=name: (fault(), train(name))) == -signal.SIGKILL
        assert not (tmp_path / name / last).exists()
        train(name)
        resumed = read_checkpoint(tmp_path / name / last)
        assert straight["pending"] == resumed["pending"], f"killed {name}, step {step}"
        for key, value in straight["method"].items():
            assert torch.equal(value, resumed["method"][key]), f"{key} differs; killed {name}, step {step}"
