"""The examples of CONTRIBUTING.md work: a new method, and a new data set."""

import csv
import json
import os
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.same import run_child

pytestmark = pytest.mark.slow  # whole runs

ROOT = Path(__file__).resolve().parent.parent

CONFIG = '''
"""Options of the denoising autoencoder."""

from dataclasses import dataclass, field

from data import DataConfig
from engine import TrainConfig
from engine.config import require


@dataclass
class ModelConfig:
    width: int = 8  # channels


@dataclass
class LossConfig:
    noise: float = 0.3  # standard deviation, in units of [-1, 1]

    def __post_init__(self) -> None:
        require(self.noise >= 0, "noise", "a number >= 0", self.noise)


@dataclass
class DAETrain(TrainConfig):
    lr: float = 1.0e-3  # Adam


@dataclass
class Config:
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: DAETrain = field(default_factory=DAETrain)
'''

TRAIN = '''
"""A denoising autoencoder (Vincent et al., 2008)."""

import torch
from mydae.config import Config
from torch import nn

from data import build_faces
from engine import Grid, Method, adam, fit, start


class DenoisingAutoencoder(Method):
    best = ("mse", "min")

    def __init__(self, cfg, meta):
        super().__init__(cfg, meta)
        c, w = meta["channels"], cfg.model.width
        self.net = nn.Sequential(
            nn.Conv2d(c, w, 4, 2, 1), nn.SiLU(), nn.Conv2d(w, 2 * w, 4, 2, 1), nn.SiLU(),
            nn.ConvTranspose2d(2 * w, w, 4, 2, 1), nn.SiLU(), nn.ConvTranspose2d(w, c, 4, 2, 1), nn.Tanh(),
        )
        self.optimizers = {"net": adam(self.net.parameters(), cfg.train.lr)}

    def restore(self, x):
        return self.net(x + self.cfg.loss.noise * torch.randn_like(x)).float()

    def step(self, batch, step):
        x = batch["image"]  # (N, C, H, W)
        loss = (self.restore(x) - x).square().mean()
        return {"loss": loss, "norm": self.minimize(loss, "net")}

    def validate(self, batch):
        return {"mse": (self.restore(batch["image"]) - batch["image"]).square().mean()}

    def sample(self, batch):
        x = batch["image"]
        return {"restored": Grid(torch.stack([x, self.restore(x)]), ["input", "restored"])}


def main():
    with start(Config) as run:
        faces = build_faces(run.cfg.data)
        fit(run, DenoisingAutoencoder(run.cfg, faces.meta), faces.train, faces.val)


if __name__ == "__main__":
    main()
'''

YAML = """
data: {dataset: synthetic, image_size: 32, num_train: 64, num_val: 20, num_test: 20}
train: {total_steps: 6, batch_size: 8, log_every: 2, save_every: 3, sample_every: 6, validate_every: 3, val_images: 16}
"""

READER = '''
"""Pictures named in a csv: file,expression,part."""

import csv

import numpy as np

from data.decode import decode
from data.raw import Index, RawFaces


class MySet(RawFaces):
    """`root/faces.csv` and the pictures that it names."""

    def __init__(self, cfg):
        super().__init__(cfg)
        self.table = self.root / "faces.csv"
        self.sources = [self.table]

    def build_index(self):
        with open(self.table, newline="") as file:
            self.rows = list(csv.DictReader(file))
        classes = sorted({row["expression"] for row in self.rows})
        label = np.array([classes.index(row["expression"]) for row in self.rows])
        split = np.array([("train", "val", "test").index(row["part"]) for row in self.rows], np.int8)
        return Index(split, {"label": label}, {"classes": classes})

    def read(self, i):
        path = self.root / self.rows[i]["file"]
        return decode(path, path.name)
'''


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "mydae").mkdir()
    (tmp_path / "configs").mkdir()
    (tmp_path / "mydae" / "__init__.py").touch()
    (tmp_path / "mydae" / "config.py").write_text(CONFIG)
    (tmp_path / "mydae" / "train.py").write_text(TRAIN)
    (tmp_path / "configs" / "synthetic32.yaml").write_text(YAML)
    return tmp_path


def run(folder: Path, script: str, *words: str) -> tuple[int, str]:
    """Run `python script words...` in `folder`, in a fork of this process. Returns exit code and output."""

    def main() -> None:
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        sys.argv = [script, *words]
        runpy.run_path(script, run_name="__main__")

    code = run_child(main, folder / "output.txt")
    return code, (folder / "output.txt").read_text()


def test_example_of_a_new_method(folder):
    code, output = run(folder, "mydae/train.py", "--config", "configs/synthetic32.yaml")
    assert code == 0, output
    made = folder / "runs" / "mydae" / "synthetic32"
    assert [p.name for p in sorted(made.glob("checkpoints/*"))] == ["best.pt", "step_0000003.pt", "step_0000006.pt"]
    assert (made / "samples" / "step_0000006_restored.png").is_file()
    rows = [json.loads(line) for line in (made / "log.jsonl").read_text().splitlines()]
    assert {"loss", "norm"} <= rows[0].keys() and any("val/mse" in row for row in rows)
    code, output = run(folder, "mydae/train.py", "--config", "configs/synthetic32.yaml", "loss.noise=-1")
    assert code == 2 and "loss.noise: expected a number >= 0, got -1.0" in output


def test_example_of_a_new_data_set(folder):
    (folder / "myset.py").write_text(READER)
    raw = folder / "datasets" / "myset"
    raw.mkdir(parents=True)
    generator = np.random.default_rng(0)
    with open(raw / "faces.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "expression", "part"])
        for i in range(24):
            Image.fromarray(generator.integers(0, 255, (40, 40, 3), np.uint8)).save(raw / f"{i}.png")
            table.writerow([f"{i}.png", ("happy", "sad")[i % 2], ("train", "train", "val", "test")[i % 4]])
    (folder / "go.py").write_text(
        "import sys, data, myset, mydae.train\n"
        'data.READERS["myset"] = myset.MySet\n'  # in data/__init__.py this is one line of the dict
        "mydae.train.main()\n"
    )
    options = ("--config", "configs/synthetic32.yaml", "--run-dir", "out")
    code, output = run(folder, "go.py", *options, "data.dataset=myset")
    assert code == 0, output
    meta = json.loads((folder / "out" / "meta.json").read_text())
    assert (meta["dataset"], meta["classes"], meta["num_train"]) == ("myset", ["happy", "sad"], 12)
    code, output = run(folder, "go.py", *options, "data.dataset=mysett")
    assert code == 2 and "data.dataset" in output and "did you mean myset?" in output
