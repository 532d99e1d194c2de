"""The encoder of interface_gan: its rounds, its training, its use by the editor, and what it refuses."""

import dataclasses
from pathlib import Path

import pytest
import torch
from gan_toy import Noise, batch, config, meta
from gan_toy import run as train_generator

from engine import Run, UserError, fit, load
from engine.checkpoint import checkpoints, read_checkpoint
from engine.config import to_yaml
from engine.files import atomic_text
from interface_gan.codes import Stats
from interface_gan.config import Config, EncoderConfig, EncoderModelConfig, EncoderTrainConfig
from interface_gan.encoder import FOLDER, EncoderMethod, load_encoder, resolve_generator
from interface_gan.inversions import invert
from interface_gan.project import AFTER_ENCODER, DEFAULT, project
from interface_gan.train import StyleGAN2


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generator")
    train_generator(folder, config(total_steps=4))
    return folder


def encoder_config(generator: Path, **train) -> EncoderConfig:
    cadence = {"log_every": 7, "validate_every": 0, "sample_every": 0, "save_every": 1000, "val_images": 8}
    values = {"total_steps": 12, "batch_size": 8, "sample_size": 8} | cadence | train
    asked = EncoderConfig(str(generator), model=EncoderModelConfig(hidden=32), train=EncoderTrainConfig(**values))
    return resolve_generator(asked)


def build(cfg: EncoderConfig) -> EncoderMethod:
    torch.manual_seed(0)
    method = EncoderMethod(cfg, meta())
    method.use_generator(load(cfg.generator, Config, StyleGAN2, device="cpu"))
    return method.train()


def train(folder: Path, cfg: EncoderConfig, stops: tuple[int, ...] = (0,)) -> dict:
    for stop in stops:
        part = dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, stop_at=stop))
        folder.mkdir(parents=True, exist_ok=True)
        atomic_text(folder / "config.yaml", to_yaml(part))
        fit(Run(part, folder, torch.device("cpu")), build(part), Noise(), Noise())
    return read_checkpoint(checkpoints(folder)[-1])


def test_codes_start_at_the_mean_and_the_generator_does_not_move(generator):
    method = build(encoder_config(generator))
    before = {name: value.clone() for name, value in method.state_dict().items()}
    x = batch()["image"]
    assert torch.equal(method.encode(x), method.w_mean.expand(8, method.generator.module.num_ws, -1))
    logs = method.step(batch(), 0)
    assert {"code", "offset", "image", "loss"} == set(logs)
    moved = {
        name.partition(".")[0] for name, value in method.state_dict().items() if not torch.equal(value, before[name])
    }
    assert moved == {"encoder", "ema_encoder"}


def test_training_finds_codes_of_sampled_faces(generator):
    """The mean code has the error 1, in variances of w."""
    method = build(encoder_config(generator, total_steps=100, lr=5e-3))
    torch.manual_seed(1)
    errors = [method.step(batch(), step)["code"].item() for step in range(100)]
    assert errors[0] == pytest.approx(1, rel=0.35) and sum(errors[-20:]) / 20 < 0.8


def test_a_later_round_gets_no_gradient_from_an_earlier_one(generator):
    method = build(encoder_config(generator))
    torch.nn.init.normal_(method.encoder.out.weight, std=0.1)
    (first, _), (second, _), _ = method.rounds(method.encoder, batch()["image"])
    (grad,) = torch.autograd.grad(second.sum(), first, allow_unused=True)
    assert grad is None and not torch.equal(first, second)


def test_resume_is_bit_for_bit(generator, tmp_path):
    cfg = encoder_config(generator)
    one, two = train(tmp_path / "one", cfg), train(tmp_path / "two", cfg, (5, 0))
    assert one["step"] == two["step"] == 12
    assert all(torch.equal(value, two["method"][name]) for name, value in one["method"].items())


def test_a_half_trained_encoder_is_an_error(generator, tmp_path):
    cfg = encoder_config(generator)
    train(tmp_path / FOLDER, cfg, (5,))
    with pytest.raises(UserError, match="trained to step 5 of 12"):
        load_encoder(tmp_path, cfg.sha256, torch.device("cpu"))


def test_inversion_starts_at_the_encoders_codes(generator, tmp_path):
    train(generator / FOLDER, encoder_config(generator))
    method = load(generator, Config, StyleGAN2, device="cpu")
    encoder = load_encoder(generator, method.origin.sha256, torch.device("cpu"))
    g, maps, x = method.ema_generator.module, method.discriminator.features, batch(2)["image"]
    stats = Stats.of(g)
    ws = invert(g, maps, stats, x, tmp_path, "weights", encoder)
    assert torch.equal(ws, project(g, maps, stats, x, AFTER_ENCODER, encoder.encode(x)).ws)
    assert AFTER_ENCODER.steps_plus < DEFAULT.steps_plus / 4
    assert len(list(tmp_path.glob("*.npy"))) == 2
    assert not torch.equal(invert(g, maps, stats, x, tmp_path, "weights"), ws)  # another entry of the cache
    with pytest.raises(UserError, match="trained for other weights"):
        load_encoder(generator, "0" * 64, torch.device("cpu"))


def test_what_an_encoder_refuses(generator, tmp_path):
    with pytest.raises(UserError, match="expected the run directory of a generator"):
        resolve_generator(EncoderConfig())
    with pytest.raises(UserError, match="start a new run"):
        resolve_generator(EncoderConfig(str(generator), sha256="0" * 64))
    other = dataclasses.replace(EncoderConfig(str(generator)).data, image_size=48)
    with pytest.raises(UserError, match="give data.root only"):
        resolve_generator(EncoderConfig(str(generator), data=other))
    assert load_encoder(tmp_path, "", torch.device("cpu")) is None
