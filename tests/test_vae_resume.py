"""A resumed VAE run equals an uninterrupted one, bit for bit."""

import functools
from pathlib import Path
from typing import Any

import pytest
from aae_toy import SIZE, Noise
from torch import Tensor

from tests.same import equal, train_with_stops
from vae.config import Config, LossConfig, ModelConfig, VAETrainConfig
from vae.model import LatentDiscriminator
from vae.train import BetaVAE

pytestmark = pytest.mark.slow  # whole runs

META = {
    **{"dataset": "noise", "channels": 1, "image_size": SIZE, "landmarks": 0, "eyes": [[-0.3, 0.0], [0.3, 0.0]]},
    **{"classes": [], "attributes": ["Smiling"], "class_counts": {"train": []}, "num_train": 32, "keys": []},
}


class Faces(Noise):
    """Noise with an attribute in place of the classes."""

    def take(self, rows: Tensor) -> dict[str, Tensor]:
        x = self.image[rows]
        return {"image": x, "attr": (x.mean((1, 2, 3)) > 0).float()[:, None], "index": rows}


def config(loss: dict[str, Any], arch: str = "burgess", **train: Any) -> Config:
    cadence = {"log_every": 7, "validate_every": 25, "sample_every": 0, "save_every": 1000, "val_images": 8}
    return Config(
        model=ModelConfig(arch=arch, latent_dim=4, width=8),
        loss=LossConfig(**loss),
        train=VAETrainConfig(**{"total_steps": 40, "batch_size": 4, "sample_size": 4} | cadence | train),
    )


def state_after(folder: Path, cfg: Config, stops: tuple[int, ...]) -> dict:
    return train_with_stops(folder, cfg, stops, lambda run, cfg: BetaVAE(cfg, META), Faces())


@pytest.mark.parametrize(
    ("loss", "arch"),
    [
        ({"objective": "autoencoder"}, "burgess"),
        ({"objective": "beta", "kl_warmup": 0.6, "free_bits": 0.01}, "burgess"),  # resumed within the warm-up
        ({"objective": "capacity", "capacity_steps": 30, "capacity": 3}, "burgess"),  # within the ramp
        ({"objective": "btcvae", "beta": 6.4, "pixel": "bernoulli"}, "burgess"),
        ({"objective": "factor", "gamma": 2.0, "lr_discriminator": 1e-3}, "burgess"),
        ({"features": "own", "feature_steps": 24}, "burgess"),  # while the features are trained
        ({"features": "own", "feature_steps": 16}, "burgess"),  # and after
        ({"objective": "beta"}, "vanilla"),  # BatchNorm's buffers
    ],
    ids=lambda value: "-".join(str(v) for v in value.values()) if isinstance(value, dict) else value,
)
def test_resumed_run_equals_uninterrupted_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: dict[str, Any], arch: str
) -> None:
    monkeypatch.setattr("vae.train.LatentDiscriminator", functools.partial(LatentDiscriminator, hidden=16))
    cfg = config(loss, arch)
    straight = state_after(tmp_path / "straight", cfg, (0,))
    resumed = state_after(tmp_path / "resumed", cfg, (20, 0))
    assert straight["step"] == resumed["step"] == 40
    for key in ("method", "optimizers", "pending"):
        assert equal(straight[key], resumed[key]), key
    rows = [(tmp_path / name / "log.jsonl").read_text().count('"loss"') for name in ("straight", "resumed")]
    assert rows[0] == rows[1] > 0


def collapse_log(tmp_path: Path, beta: float, caplog: pytest.LogCaptureFixture) -> tuple[float, str]:
    cfg = config({"beta": beta, "kl_warmup": 0.1}, total_steps=210, batch_size=8)
    with caplog.at_level("WARNING", logger="faces"):
        state_after(tmp_path / str(beta), cfg, (0,))
    last = [line for line in (tmp_path / str(beta) / "log.jsonl").read_text().splitlines() if '"active"' in line][-1]
    # A record counts once, also where pytest listens both at this logger and at the root.
    text = "\n".join(record.getMessage() for record in {id(record): record for record in caplog.records}.values())
    caplog.clear()
    return float(last.split('"active": ')[1].split(",")[0]), text


def test_collapse_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    import logging

    monkeypatch.setattr(logging.getLogger("faces"), "propagate", True)
    active, text = collapse_log(tmp_path, 1000.0, caplog)
    assert active < 2 and text.count("latents are used") == 1 and "loss.beta=100" in text
    active, text = collapse_log(tmp_path, 0.1, caplog)
    assert active >= 2 and "latents are used" not in text
