"""Training step: warm start, objective, errors, resumed runs."""

import contextlib
import copy
import io
import logging
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from flow_toy import batch, method, small_flow

from engine import UserError, load
from engine.checkpoint import read_checkpoint
from engine.metric_logger import MetricBuffer
from flow import train
from flow.bijectors import MIN_STD, ActNorm, squeeze
from flow.config import Config
from flow.labels import set_label_frequencies
from flow.stability import stability_checks
from flow.train import Glow
from losses.quantise import dequantise, to_levels
from tests.same import equal

YAML = """
data: {dataset: synthetic, image_size: 32, num_train: 96, num_val: 16, num_test: 16, classes: [happy, sad, neutral]}
model: {num_levels: 2, num_steps: 2, width: 8, condition: planes, num_planes: 2}
loss: {n_bits: 5}
train: {total_steps: 12, batch_size: 8, log_every: 4, save_every: 6, sample_every: 12, validate_every: 6, lr_warmup: 3,
        alarm_every: 6, sample_size: 4, val_images: 16}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(YAML)
    return path


def launch(config: Path, name: str, *overrides: str) -> int:
    """Train one run in this process. Returns the exit code."""
    before = sys.argv
    sys.argv = ["train.py", "--config", str(config), "--run-dir", str(config.parent / name), *overrides]
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            train.main()
    except SystemExit as leaving:
        return leaving.code
    finally:
        sys.argv = before
    return 0


def weights(config: Path, name: str, step: int = 12) -> dict:
    return read_checkpoint(config.parent / name / "checkpoints" / f"step_{step:07d}.pt")


@pytest.mark.parametrize("n_bits", [5, 8])
def test_bits_per_dim_counts_all_dimensions(n_bits: int) -> None:
    """-log2 p(v) / (C H W) + n, averaged over the batch, from the density alone."""
    net, part = method(loss={"n_bits": n_bits}, condition="planes"), batch(8)
    net.warm_start(part)
    before = copy.deepcopy(net)
    torch.manual_seed(5)
    log = net.step(part, 0)
    torch.manual_seed(5)
    with torch.no_grad():
        v = dequantise(to_levels(part["image"], n_bits), n_bits)
        density = before.flow.encode(v, before.labels.of(part)).log_prob
    assert log["bpd"].item() == pytest.approx((n_bits - density / (3 * 8 * 8 * math.log(2))).mean().item(), abs=1e-5)


def test_resumed_run_equals_uninterrupted_run(config: Path) -> None:
    assert launch(config, "straight") == 0
    assert launch(config, "resumed", "train.stop_at=6") == 0
    assert launch(config, "resumed") == 0
    one, two = weights(config, "straight"), weights(config, "resumed")
    assert equal(one["method"], two["method"]) and equal(one["optimizers"], two["optimizers"])
    # A later warm start would have moved the actnorms: the loaded run knew that it had had one.
    loaded = load(config.parent / "resumed", Config, Glow, device="cpu")
    assert loaded.flow.ready and loaded.ema.module.ready


def test_warm_start_standardises_actnorm_outputs() -> None:
    net = method(condition="planes")
    data = batch(8)
    outputs: list[torch.Tensor] = []
    torch.manual_seed(1)
    net.warm_start(data)
    torch.manual_seed(1)
    v = dequantise(to_levels(data["image"], 5), 5)
    x = v
    with torch.no_grad():
        y = net.labels.of(data)
        for level in net.flow.levels:
            x = level.subtract_class_mean(squeeze(x), y)
            planes = level.condition_planes(x, y)
            for step in level.steps:
                first, second, _ = step.coupling.net
                u = step.conv(step.actnorm(x)[0])[0]
                inner = first(torch.cat([u.chunk(2, 1)[0], planes], 1))
                outputs += [step.actnorm(x)[0], inner, second(inner.relu())]
                x, _ = step(x, planes)
            x = level.split(x)[0]
    assert len(outputs) == 2 * 2 * 3
    for out in outputs:
        assert out.mean((0, 2, 3)).abs().max() < 1e-4 and (out.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-4
    assert all(torch.equal(a, b) for a, b in zip(net.flow.state_dict().values(), net.ema.module.state_dict().values()))


def test_actnorm_of_constant_channel_is_bounded() -> None:
    """A constant channel without noise: its scale is at most 1 / MIN_STD and its output 0."""
    layer = ActNorm(3)
    x = torch.randn(8, 3, 4, 4)
    x[:, 1] = 0.25
    layer.initialise(x, lambda t: t)
    out = layer(x)[0]
    assert layer.scale()[1] <= 1.001 / MIN_STD and out[:, 1].abs().max() < 1e-3
    assert (out[:, [0, 2]].std((0, 2, 3), correction=0) - 1).abs().max() < 1e-4
    flow = small_flow(dtype=torch.float32, noise=0.0)
    flow.initialise(torch.full((8, 3, 8, 8), 0.25), None, lambda t: t)
    assert all(p.isfinite().all() for p in flow.parameters())


def test_encode_before_warm_start_fails() -> None:
    with pytest.raises(AssertionError, match="warm_start"):
        method().flow.encode(torch.zeros(1, 3, 8, 8))


def test_step_reduces_loss_and_logs() -> None:
    net = method(condition="top", loss={"lambda_class": 0.01}, train={"alarm_every": 2, "lr": 5e-3})
    data = batch(8)
    net.warm_start(data)
    first = net.step(data, 0)
    assert set(first) == {"loss", "bpd", "grad_norm", "class_bits"}
    assert first["loss"].item() == pytest.approx(first["bpd"].item() + 0.01 * first["class_bits"].item(), rel=1e-5)
    logs = [net.step(data, step) for step in range(1, 20)]
    assert logs[0]["stability/finite"] == 1 and logs[0]["stability/drift"] < 1e-4
    assert logs[-1]["bpd"] < first["bpd"] - 0.2
    net.eval()
    with torch.inference_mode():
        assert 0 <= net.validate(data)["bayes_accuracy"] <= 1
        grids = net.sample(data)
    assert set(grids) == {"temperature", "reconstruction", "classes", "transfer"}
    assert grids["reconstruction"].images[2].max() == -1  # black: nothing is lost


def test_initial_class_loss_is_uniform() -> None:
    net = method(condition="top", loss={"lambda_class": 0.01})
    data = batch(8) | {"label": torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])}
    net.warm_start(data)
    assert net.step(data, 0)["class_bits"].item() == pytest.approx(torch.tensor(3.0).log2().item(), rel=1e-5)


def test_unknown_labels_become_frequencies() -> None:
    net = method(condition="planes")
    y = net.labels.encode(torch.tensor([1, -1]))
    assert y[0].tolist() == [0, 1, 0] and torch.allclose(y[1], torch.tensor([0.3, 0.1, 0.6]))
    bits = method(condition="planes", condition_on=["Male"])
    bits.labels.frequency.fill_(0.25)
    y = bits.labels.encode(torch.tensor([[1.0, 1.0], [0.0, float("nan")], [0.0, 0.0]]))
    assert y[:, 0].tolist() == [0.75, 0.0, -0.25]


def test_wrong_configs_are_user_errors() -> None:
    with pytest.raises(UserError, match="model.condition_on: noise does not have Beard"):
        method(condition="planes", condition_on=["Beard"])
    with pytest.raises(UserError, match="does not have an expression"):
        method({"classes": []}, condition="planes")
    with pytest.raises(UserError, match="loss.lambda_class"):
        method(condition="planes", loss={"lambda_class": 0.1})


@pytest.mark.parametrize(("harm", "message"), [("explode", "the inverse explodes"), ("nan", "the inverse drifts")])
def test_stability_warning_does_not_end_the_run(harm: str, message: str, caplog: pytest.LogCaptureFixture) -> None:
    net = method(scale="sigmoid2")
    net.warm_start(batch(8))
    with torch.no_grad():
        step = net.flow.levels[0].steps[0]  # the last one on the way back
        if harm == "nan":
            step.conv.lower.fill_(float("nan"))
        else:
            step.coupling.net[2].b[1] = -100.0  # one channel is divided by e^-98: infinite
    v = dequantise(to_levels(batch(8)["image"], 5), 5)
    with caplog.at_level("WARNING", logger="faces"):
        logging.getLogger("faces").propagate = True
        metrics = stability_checks(net.flow, v, None, 3)
    assert message in caplog.text
    metric_buffer = MetricBuffer()
    metric_buffer.add(3, metrics)
    assert set(metric_buffer.read(None)[3]) == set(metrics)
    metric_buffer.add(4, {"loss": torch.tensor(float("nan"))})
    with pytest.raises(UserError, match="step 4: loss is nan"):
        metric_buffer.read(None)


@pytest.mark.parametrize("part", ["flow", "ema"])
def test_init_from_weights_or_average(config: Path, part: str) -> None:
    """`train.init_from=RUN:flow`: the average starts from the weights, and from the average the weights."""
    assert launch(config, "first", "train.stop_at=6") == 0
    more = [f"train.init_from=[{config.parent / 'first'}:{part}]", "train.stop_at=6", "train.lr=1e-12"]
    assert launch(config, "second", *more) == 0
    first, second = (weights(config, name, 6)["method"] for name in ("first", "second"))
    source = {"flow": "flow.", "ema": "ema.module."}[part]
    for key in (key for key in second if key.startswith("ema.module.")):
        assert torch.allclose(second[key], first[key.replace("ema.module.", source)], atol=1e-6), key


def test_attribute_without_known_faces_is_a_user_error() -> None:
    net = method(condition="planes", condition_on=["Smiling", "Male"])
    attr = torch.randint(0, 2, (64, 2)).float()
    attr[:, 1] = float("nan")
    with pytest.raises(UserError, match="Male is unknown for every training face"):
        set_label_frequencies(net.labels, SimpleNamespace(labels={"attr": attr.numpy()}))
