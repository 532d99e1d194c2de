"""The flow is invertible and has the right density: against brute force, in both directions, in every precision."""

import math

import pytest
import torch
from flow_toy import VARIANTS, batch, labels_for, method, pictures, small_flow

from engine import UserError
from flow.bijectors import ActNorm, Coupling, EdgeConv, InvertibleConv1x1, Step, squeeze, unsqueeze
from flow.config import ModelConfig
from flow.model import GlowFlow, Level, apply_temperature
from losses.quantise import dequantise, to_levels


@pytest.mark.parametrize("name", VARIANTS)
def test_log_prob_equals_brute_force_jacobian(name: str) -> None:
    flow = small_flow(**VARIANTS[name])
    v = torch.rand(1, 3, 8, 8, dtype=torch.float64) - 0.5
    y = labels_for(flow, 1)
    jacobian = torch.autograd.functional.jacobian(lambda v: flow.encode(v, y).flat()[0], v).reshape(192, 192)
    code = flow.encode(v, y)
    normal = -0.5 * (code.flat().square().sum() + 192 * math.log(2 * math.pi))
    expected = normal + torch.linalg.slogdet(jacobian)[1]
    assert abs((expected - code.log_prob[0]).item()) < 1e-9


def test_layer_inverse_and_log_det() -> None:
    torch.manual_seed(0)
    cfg = ModelConfig(width=8)
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    for layer in (
        ActNorm(4),
        InvertibleConv1x1(4),
        InvertibleConv1x1(4, "shuffle"),
        Coupling(4, 0, cfg),
        Step(4, 0, cfg),
    ):
        layer = layer.double()
        with torch.no_grad():
            for p in layer.parameters():
                p.add_(0.1 * torch.randn_like(p))
        y, log_det = layer(x)
        assert (layer.inverse(y) - x).abs().max() < 1e-12
        jacobian = torch.autograd.functional.jacobian(lambda v, f=layer: f(v[None])[0][0], x[0]).reshape(36, 36)
        assert abs(torch.linalg.slogdet(jacobian)[1] - log_det[0]) < 1e-10


def test_squeeze_index_order() -> None:
    x = torch.arange(2 * 3 * 4 * 6).view(2, 3, 4, 6).float()
    z = squeeze(x)
    for c, dy, dx in ((0, 0, 0), (1, 0, 1), (2, 1, 0), (2, 1, 1)):
        assert torch.equal(z[:, 4 * c + 2 * dy + dx], x[:, c, dy::2, dx::2])
    assert torch.equal(unsqueeze(z), x)


def test_image_size_not_divisible_is_a_user_error() -> None:
    with pytest.raises(UserError, match="48 px cannot be halved 5 times; at most 4"):
        GlowFlow(1, 48, ModelConfig(num_levels=5))


def test_edge_conv_equals_conv_with_padding_channel() -> None:
    torch.manual_seed(0)
    conv = EdgeConv(3, 5)
    with torch.no_grad():
        conv.b.normal_(), conv.g.normal_(0, 0.1)
    x = torch.randn(2, 3, 6, 6)
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1))
    ring = torch.nn.functional.pad(torch.zeros(2, 1, 6, 6), (1, 1, 1, 1), value=1.0)
    plain = torch.nn.functional.conv2d(torch.cat([padded, ring], 1), torch.cat([conv.weight, conv.edge], 1))
    expected = (plain + conv.b[:, None, None]) * torch.exp(3 * conv.g)[:, None, None]
    assert torch.allclose(conv(x), expected, atol=1e-6)
    assert torch.allclose(conv.constant(x), conv(torch.zeros(1, 3, 6, 6)), atol=1e-6)


@pytest.mark.parametrize("name", VARIANTS)
def test_encode_decode_round_trip(name: str) -> None:
    flow = small_flow(size=16, dtype=torch.float32, num_steps=4, **VARIANTS[name]).eval()
    y = labels_for(flow, 16)
    with torch.inference_mode():
        v = dequantise(to_levels(pictures(16, size=16), 5), 5)
        assert (flow.decode(flow.encode(v, y).eps, y) - v).abs().max() < 1e-4
        if name == "sigmoid2":  # not bounded; see the test below
            return
        eps = flow.unflatten(flow.noise(16, torch.Generator().manual_seed(1)))
        sample = flow.decode(eps, y)
        assert sample.isfinite().all()
        back = flow.encode(sample, y).eps
        assert max((a - b).abs().max() for a, b in zip(back, eps, strict=True)) < 1e-4 * max(1, sample.abs().max())


@pytest.mark.parametrize(("scale", "survives"), [("tanh", True), ("sigmoid2", False)])
def test_bounded_scale_keeps_the_inverse_finite(scale: str, survives: bool) -> None:
    flow = small_flow(size=16, noise=0.01, dtype=torch.float32, num_steps=4, scale=scale)
    with torch.no_grad():
        for level in flow.levels:
            for step in level.steps:
                step.coupling.net[2].b[1::2] = -20.0  # r near -20
        eps = flow.unflatten(flow.noise(8, torch.Generator().manual_seed(0)))
        sample = flow.decode(eps)
        fine = bool(sample.isfinite().all())
        if fine:
            back = flow.encode(sample).eps
            fine = all(torch.allclose(a, b, atol=1e-2) for a, b in zip(back, eps, strict=True))
    assert fine == survives


def test_code_is_batch_independent_and_uses_every_level() -> None:
    flow = small_flow(dtype=torch.float32).eval()
    with torch.inference_mode():
        v = dequantise(to_levels(pictures(16), 5), 5)
        inside, alone = flow.encode(v).flat()[:1], flow.encode(v[:1]).flat()
        assert (inside - alone).abs().max() < 1e-5
        eps = flow.encode(v).eps
        for level in range(len(eps)):
            changed = [e + 0.5 * (i == level) for i, e in enumerate(eps)]
            assert (flow.decode(changed) - v).abs().flatten(1).amax(1).min() > 1e-2
        assert all(torch.equal(a, b) for a, b in zip(flow.unflatten(flow.encode(v).flat()), eps, strict=True))
        assert [tuple(e.shape[1:]) for e in eps] == flow.shapes


def test_label_parameters_are_linear_in_y() -> None:
    flow = small_flow(condition="planes")
    a, b = labels_for(flow, 2, 0), labels_for(flow, 2, 1)
    for level in flow.levels:
        mixed = level.condition_planes(a, 0.3 * a + 0.7 * b)
        assert torch.allclose(mixed, 0.3 * level.condition_planes(a, a) + 0.7 * level.condition_planes(b, b))
        zero = torch.zeros(2, *level.class_mean.shape[1:], dtype=torch.float64)
        mean = lambda y, level=level, zero=zero: -level.subtract_class_mean(zero, y)  # noqa: E731
        assert torch.allclose(mean(0.3 * a + 0.7 * b), 0.3 * mean(a) + 0.7 * mean(b))
        # The prior's tables: its mean, and its log-deviation before the bound of tanh.
        like = torch.zeros(2, *level.prior_shift.shape[1:], dtype=torch.float64)
        onward = None if level.last else torch.zeros(2, level.prior.weight.shape[1], *like.shape[2:]).double()
        plain = level.prior_of(onward, torch.zeros_like(a), like)

        def prior(y, level=level, like=like, onward=onward, plain=plain):
            m, log_s = level.prior_of(onward, y, like)
            return torch.stack([m - plain[0], torch.atanh(log_s - plain[1])])

        assert torch.allclose(prior(0.3 * a + 0.7 * b), 0.3 * prior(a) + 0.7 * prior(b), atol=1e-9)
        assert prior(a).abs().max() > 1e-3


@pytest.mark.parametrize("num_planes", [0, 4])
def test_planes_break_translation_equivariance(num_planes: int) -> None:
    """Away from the border a convolution is translation equivariant; with planes it is not."""
    flow = small_flow(size=32, num_levels=1, num_steps=1, noise=0.5, num_planes=num_planes)
    (eps,) = flow.encode(torch.full((1, 3, 32, 32), 0.2, dtype=torch.float64)).eps
    inner = eps[:, :, 4:-4, 4:-4]
    moved = (inner - inner[:, :, :1, :1]).abs().max()
    assert moved > 1e-3 if num_planes else moved < 1e-12


def test_untrained_density_depends_on_the_label_by_planes_only() -> None:
    net = method(condition="planes", class_mean=False)
    with torch.no_grad():
        for level in net.flow.levels:
            level.planes.zero_()
    net.warm_start(batch())
    v = dequantise(to_levels(batch()["image"], 5), 5, 0.5)
    densities = [net.flow.encode(v, y.expand(len(v), -1)).log_prob for y in torch.eye(3)]
    assert torch.equal(densities[0], densities[1]) and torch.equal(densities[0], densities[2])


def test_temperature_scales_the_noise() -> None:
    flow = small_flow()
    noise = flow.noise(4, torch.Generator().manual_seed(3)).double()
    each = [0.3, 0.8]  # finest level first; the flat code has the coarsest first
    coarse = math.prod(flow.shapes[-1])
    scaled = torch.cat([0.8 * noise[:, :coarse], 0.3 * noise[:, coarse:]], 1)
    for temperature, expected in ((0.5, 0.5 * noise), (each, scaled)):
        drawn = flow.decode(apply_temperature(flow.unflatten(noise), temperature))
        assert torch.allclose(drawn, flow.decode(flow.unflatten(expected)), atol=1e-12)


def test_temperature_does_not_change_the_model() -> None:
    flow = small_flow(dtype=torch.float32).eval()
    state = {k: v.clone() for k, v in flow.state_dict().items()}
    with torch.inference_mode():
        cold = flow.draw(4, 0.0)
        assert all(torch.equal(cold[0], c) for c in cold)
        again = [flow.draw(3, 0.7, generator=torch.Generator().manual_seed(5)) for _ in range(2)]
        assert torch.equal(*again)
        fine = flow.encode(flow.draw(4, [1.0, 0.0], generator=torch.Generator().manual_seed(1))).eps
    assert fine[1].abs().max() < 1e-4 and fine[0].abs().max() > 0.5
    assert all(torch.equal(v, state[k]) for k, v in flow.state_dict().items())


def test_cached_inverse_follows_the_weights() -> None:
    flow = small_flow()
    v = torch.rand(2, 3, 8, 8, dtype=torch.float64) - 0.5
    with torch.no_grad():
        flow.decode(flow.encode(v).eps)
        for p in flow.parameters():
            p.mul_(1.1)
        assert (flow.decode(flow.encode(v).eps) - v).abs().max() < 1e-12
        other = small_flow(seed=3)
        flow.load_state_dict(other.state_dict())
        assert torch.equal(flow.decode(other.encode(v).eps), other.decode(other.encode(v).eps))


def test_channel_products_run_in_fp32_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = small_flow(dtype=torch.float32, condition="planes")
    seen: dict[str, list] = {"linear": [], "conv2d": [], "prior": []}
    inside = [False]

    def spy(name: str, real):
        def called(x: torch.Tensor, weight: torch.Tensor, *rest: torch.Tensor, **more: object) -> torch.Tensor:
            precise = torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision
            kind = "conv2d" if weight.shape == (8, 8) else name  # the network's 1x1 convolution, of its width
            seen["prior" if inside[0] else kind].append((torch.is_autocast_enabled("cpu"), *precise))
            return real(x, weight, *rest, **more)

        return called

    def prior_of(self: Level, *args: object) -> tuple[torch.Tensor, torch.Tensor]:
        inside[0] = True
        found = real_prior(self, *args)
        inside[0] = False
        return found

    real_prior = Level.prior_of
    monkeypatch.setattr(Level, "prior_of", prior_of)
    for name in ("linear", "conv2d"):
        monkeypatch.setattr(torch.nn.functional, name, spy(name, getattr(torch.nn.functional, name)))
    before, exact = torch.backends.cuda.matmul.fp32_precision, (False, "ieee", "ieee")
    v, y = torch.rand(2, 3, 8, 8) - 0.5, torch.eye(3)[:2]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        flow.encode(v, y)
        assert torch.is_autocast_enabled("cpu")
    assert set(seen["linear"]) == set(seen["prior"]) == {exact}
    assert {autocast for autocast, *_ in seen["conv2d"]} == {True}  # the networks run in the caller's precision
    seen["conv2d"].clear()
    flow.decode(flow.encode(v, y).eps, y)
    assert set(seen["conv2d"]) == set(seen["prior"]) == {exact}  # and exactly where the caller asks for none
    assert torch.backends.cuda.matmul.fp32_precision == before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_codes_are_exact_on_a_gpu() -> None:
    flow = small_flow(size=32, dtype=torch.float32, num_steps=8, width=64).cuda().eval()
    exact = small_flow(size=32, dtype=torch.float64, num_steps=8, width=64)
    exact.load_state_dict(flow.double().cpu().state_dict())
    flow = flow.float().cuda()
    with torch.inference_mode():
        v = dequantise(to_levels(pictures(16, size=32), 8), 8)
        code = flow.encode(v.cuda())
        assert (flow.decode(code.eps).cpu() - v).abs().max() < 1e-5
        assert (code.flat().cpu() - exact.encode(v.double()).flat()).abs().max() < 1e-3
