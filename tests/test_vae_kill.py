"""A run killed at a random step, or while it writes a checkpoint, resumes bit for bit."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine.checkpoint import read_checkpoint

ROOT = Path(__file__).resolve().parent.parent
YAML = """
data: {dataset: synthetic, image_size: 32, num_train: 64, num_val: 20, num_test: 20}
model: {width: 8, latent_dim: 8}
train: {total_steps: 16, batch_size: 8, log_every: 5, save_every: 4, sample_every: 8, validate_every: 8, val_images: 16}
"""
KILLED = """
import os, signal, sys
import engine.checkpoint, vae.train
{patch}
vae.train.main()
"""
IN_A_STEP = """
real = vae.train.BetaVAE.step
def step(self, batch, n):
    if n == {step}: os.kill(os.getpid(), signal.SIGKILL)
    return real(self, batch, n)
vae.train.BetaVAE.step = step
"""
IN_A_WRITE = """
real = engine.checkpoint._CRC32Writer.write
def write(self, data):
    if "step_0000008" in self.file.name and self.file.tell() > 20000: os.kill(os.getpid(), signal.SIGKILL)
    return real(self, data)
engine.checkpoint._CRC32Writer.write = write
"""


def train(folder: Path, name: str, *program: str) -> int:
    command = [sys.executable, *program, "--config", str(folder / "tiny.yaml"), "--run-dir", str(folder / name)]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=env, cwd=folder, capture_output=True, timeout=200, check=False).returncode


@pytest.mark.slow
def test_killed_run_equals_uninterrupted_run(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(YAML)
    step = random.randrange(9, 16)
    patches = {"in_a_step": IN_A_STEP.format(step=step), "in_a_write": IN_A_WRITE}
    assert train(tmp_path, "straight", str(ROOT / "vae/train.py")) == 0
    last = "checkpoints/step_0000016.pt"
    straight = read_checkpoint(tmp_path / "straight" / last)
    for name, patch in patches.items():
        assert train(tmp_path, name, "-c", KILLED.format(patch=patch)) == -signal.SIGKILL
        assert train(tmp_path, name, str(ROOT / "vae/train.py")) == 0
        resumed = read_checkpoint(tmp_path / name / last)
        assert straight["pending"] == resumed["pending"], f"killed {name}, step {step}"
        for key, value in straight["method"].items():
            assert torch.equal(value, resumed["method"][key]), f"{key} differs; killed {name}, step {step}"
