"""Directions, edits and uses of the density, on data with known answers and on random flows."""

import math
from collections.abc import Iterator

import pytest
import torch
from flow_toy import META, batch, made_ready, method, pictures, small_flow

from data.request import parse_request
from engine import UserError
from engine.checkpoint import save_fields
from engine.grids import to_uint8
from flow.density_baselines import BaselineStats, density_baselines, gaussian_bits
from flow.directions import (
    Directions,
    Moments,
    fit_directions,
    load_directions,
    pooled,
    shrink_blocks,
)
from flow.edit import decode_photo, encode_photo, level_mask, move, transfer
from flow.labels import class_mean_images
from flow.latent_editor import LatentEditor
from flow.likelihood import bayes_accuracy, class_log_probs, fit_temperature, image_bits
from flow.model import flatten
from latents.directions import mean_vectors, ols_vectors
from latents.paths import lerp, slerp


@pytest.mark.parametrize("n_bits", [5, 8])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("n", [1, 64])
def test_empty_edit_returns_the_same_bytes(n_bits: int, channels: int, n: int) -> None:
    flow = small_flow(channels=channels, dtype=torch.float32, condition="planes").eval()
    x, y = pictures(n, channels), torch.eye(3)[torch.arange(n) % 3]
    with torch.inference_mode():
        photo = encode_photo(flow, x, n_bits, y)
        same = [move(flow, photo, torch.zeros(flow.dim), n_bits), transfer(flow, photo, y, 1.5, n_bits)]
        (a, b), (left, right) = photo.code.flat()[[0, -1]], y[[0, -1]]
        ends = torch.stack([slerp(a, b, t) for t in (0.0, 1.0)])
        labels = torch.stack([lerp(left, right, t) for t in (0.0, 1.0)])
        walk = decode_photo(flow, flow.unflatten(ends), n_bits, labels, photo.lost[[0, -1]])
        assert all((to_uint8(image) == to_uint8(x)).all() for image in same)
        assert (to_uint8(walk) == to_uint8(x[[0, -1]])).all()
        assert (to_uint8(transfer(flow, photo, y.roll(1, 1), 1.5, n_bits)) != to_uint8(x)).any()


def test_level_mask_limits_the_edit() -> None:
    flow = small_flow()
    mask = level_mask(flow, [2], torch.device("cpu"))
    ones = flow.unflatten(mask[None])
    assert ones[0].sum() == 0 and ones[1].min() == 1


def test_streamed_moments_equal_full_moments() -> None:
    torch.manual_seed(0)
    codes, labels = torch.randn(500, 24, dtype=torch.float64), torch.randint(0, 2, (500, 3)).float()
    moments = Moments(3)
    for rows in torch.arange(500).split(64):
        moments.add(codes[rows], labels[rows])
    assert torch.allclose(moments.mean_directions(), mean_vectors(codes, labels), atol=1e-10)
    assert torch.allclose(moments.ols_directions(), ols_vectors(codes, labels), atol=1e-10)
    sides = [[codes[labels[:, a] == s] for s in (0, 1)] for a in range(3)]
    error = torch.stack([sum(s.var(0, correction=0) / len(s) for s in pair).sqrt() for pair in sides])
    assert torch.allclose(moments.standard_error(), error, atol=1e-10)


def test_wrong_labels_and_empty_sides_are_refused() -> None:
    with pytest.raises(ValueError, match="got -1"):
        Moments(1).add(torch.zeros(2, 4), torch.tensor([[1.0], [-1.0]]))
    with pytest.raises(ValueError, match="no face on one side"):
        Moments(1).add(torch.zeros(2, 4), torch.ones(2, 1)).mean_directions()


def test_shrinkage_removes_noise_and_keeps_signal() -> None:
    torch.manual_seed(0)
    shapes = [(6, 16, 16), (12, 8, 8), (48, 4, 4)]
    noise = torch.randn(8, 3072)
    assert (shrink_blocks(noise, 1.0, shapes).norm() / noise.norm()).item() < 0.3
    signal = torch.zeros(8, 3072)
    signal[:, :768] = 2 * torch.randn(8, 768)
    seen = signal + noise
    assert (shrink_blocks(seen, 1.0, shapes) - signal).norm() < 0.6 * (seen - signal).norm()
    assert torch.equal(shrink_blocks(seen, torch.zeros(8), shapes), seen)


@pytest.mark.parametrize("side", [5, 6, 7, 12])
def test_shrinkage_and_pooling_for_sides_not_divisible_by_four(side: int) -> None:
    torch.manual_seed(0)
    noise = torch.randn(16, 8 * side * side)
    assert torch.equal(shrink_blocks(noise, 0.0, [(8, side, side)]), noise)
    kept = shrink_blocks(noise, 1.0, [(8, side, side)])
    assert kept.norm() < 0.6 * noise.norm()  # tiles of a few pixels keep more than 4 x 4 do
    far = noise + 100
    assert torch.allclose(shrink_blocks(far, 1.0, [(8, side, side)]), far, rtol=1e-3)
    seen = pooled([noise.view(-1, 8, side, side)])
    assert seen.shape == (16, 8 * 16) and abs(seen.var().item() - 1) < 0.1


def test_standard_error_of_class_differences() -> None:
    flow = small_flow(dtype=torch.float32)
    found, codes, labels = planted_directions(flow)
    side = lambda k: codes[labels[:, 2 + k] == 1].double()  # noqa: E731
    own = lambda k: side(k).var(0, correction=0) / len(side(k))  # noqa: E731
    assert torch.allclose(found.error[2].double(), (own(0) + own(2)).sqrt(), atol=1e-6)  # happy from neutral
    assert found.error[4].abs().max() == 0 and found.direction[4].abs().max() == 0
    rest = [codes[labels[:, 0] == bit].double() for bit in (0, 1)]
    expected = sum(part.var(0, correction=0) / len(part) for part in rest).sqrt()
    assert torch.allclose(found.error[0].double(), expected, atol=1e-6)


def test_impossible_directions_are_user_errors() -> None:
    moments = Moments(2).add(torch.randn(50, 4), torch.tensor([[1.0, float("nan")], [0.0, float("nan")]]).repeat(25, 1))
    with pytest.raises(UserError, match="least squares: there is no face with all attributes known.* --kind mean"):
        moments.ols_directions(names=["Smiling", "Male"])
    flow = small_flow(dtype=torch.float32)
    found, codes, labels = planted_directions(flow)
    request = parse_request("Smiling=+1.0", META["classes"], META["attributes"])
    with pytest.raises(UserError, match="--keep Male Smiling: spans the whole direction of --attr"):
        LatentEditor(flow, found, META, keep=["Male", "Smiling"]).step(codes, labels, request)


def planted_directions(flow, seed: int = 0) -> tuple[Directions, torch.Tensor, torch.Tensor]:
    """Codes with known attribute and class directions: fitted directions, codes, labels."""
    generator = torch.Generator().manual_seed(seed)
    n = 600
    places = torch.zeros(5, flow.dim)
    for k in range(5):
        places[k, 20 * k : 20 * k + 20] = 1.0
    expression = torch.randint(0, 3, (n,), generator=generator)
    bits = torch.randint(0, 2, (n, 2), generator=generator).float()
    labels = torch.cat([bits, torch.eye(3)[expression]], 1)
    codes = torch.randn(n, flow.dim, generator=generator) + labels @ places
    moments = Moments(2).add(codes, labels)
    seen = (pooled(flow.unflatten(codes)), labels)
    facts = {"sha256": "a" * 64, "n_bits": 5, "run": "RUN"}
    return fit_directions(moments, seen, seen, META, "ols", facts), codes, labels


def test_steps_reach_the_requested_labels() -> None:
    flow = small_flow(dtype=torch.float32)
    found, codes, labels = planted_directions(flow)
    assert found.names == ["Smiling", "Male", "happy", "sad", "neutral"] and found.auc.min() > 0.85
    ask = lambda text: parse_request(text, META["classes"], META["attributes"])  # noqa: E731
    moves = LatentEditor(flow, found, META, gain=1.0)
    step = moves.step(codes, labels, ask("Smiling=1"))
    there = labels[:, 0] == 1
    assert step[there].abs().max() == 0 and torch.allclose(step[~there], found.direction[0].expand((~there).sum(), -1))
    unknown = torch.full_like(labels, float("nan"))
    read = moves.step(codes, unknown, ask("Smiling=1")).abs().sum(1) > 0
    assert (read == ~there).float().mean() > 0.85
    happy = moves.step(codes, labels, ask("happy"))
    sad = labels[:, 3] == 1
    assert torch.allclose(happy[sad], (found.class_code[0] - found.class_code[1]).expand(sad.sum(), -1), atol=1e-6)
    assert torch.allclose(
        moves.step(codes, labels, ask("Smiling=+0.5")), 0.5 * found.direction[0].expand(len(codes), -1)
    )
    kept = LatentEditor(flow, found, META, gain=1.0, keep=["Male"]).step(codes, labels, ask("Smiling=+1.0"))
    assert (kept @ found.direction[1]).abs().max() < 1e-4
    automatic = LatentEditor(flow, found, META, gain=None).step(codes, labels, ask("Smiling=flip"))
    reading = moves.pool(codes + automatic) @ found.reader[0]
    target = found.reader_mean[0][1 - labels[:, 0].long()]
    assert (reading - target).abs().median() < 0.05
    with pytest.raises(UserError, match="two sides"):
        moves.step(codes, labels, ask("happy=flip"))


def test_directions_of_other_weights_are_refused(tmp_path) -> None:
    found, _, _ = planted_directions(small_flow(dtype=torch.float32))
    path = tmp_path / "directions_ols.pt"
    save_fields(found, path)
    assert torch.equal(load_directions(path, found.provenance).direction, found.direction)
    with pytest.raises(UserError, match="fitted to other weights .*sample.py directions --run-dir RUN --fit ols"):
        load_directions(path, found.provenance | {"sha256": "b" * 64})
    with pytest.raises(UserError, match="fitted to another n_bits"):
        load_directions(path, found.provenance | {"n_bits": 8})


def test_pooled_codes_keep_unit_variance() -> None:
    flow = small_flow(size=32, num_levels=3, dtype=torch.float32)
    seen = pooled(flow.unflatten(flow.noise(400, torch.Generator().manual_seed(0))))
    assert seen.shape == (400, 1056) and abs(seen.var().item() - 1) < 0.02


def test_bayes_classifier_matches_bayes_rule() -> None:
    """Identity steps and one prior: p(v | k) is a Gaussian whose mean depends on the label, so the result is known."""
    net = method(condition="planes", num_levels=1, num_steps=1, permutation="shuffle", class_mean=False)
    flow = made_ready(net.flow)
    with torch.no_grad():
        flow.levels[0].prior_shift.copy_(torch.randn(3, 12, 4, 4) * 0.1)
    v = torch.rand(16, 3, 8, 8) - 0.5
    scores = class_log_probs(flow, net.labels, v)
    z = torch.nn.functional.pixel_unshuffle(v, 2)[:, flow.levels[0].steps[0].conv.order]
    difference = z[:, None] - flow.levels[0].prior_shift
    expected = -0.5 * (difference.square() + math.log(2 * math.pi)).sum((2, 3, 4)) + torch.tensor([0.3, 0.1, 0.6]).log()
    assert torch.allclose(scores, expected, atol=1e-3)
    assert bayes_accuracy(scores, scores.argmax(1)).item() == 1
    half = torch.cat([scores.argmax(1)[:8], torch.full((8,), -1)])
    assert bayes_accuracy(scores, half).item() == 1  # an unknown label counts neither way


def test_attribute_log_odds_and_tighter_bound_with_more_samples() -> None:
    net = method(condition="planes", condition_on=["Male"])
    net.warm_start(batch())
    with torch.inference_mode():
        x, y = batch()["image"], net.labels.of(batch())
        assert class_log_probs(net.flow, net.labels, x / 2).shape == (8, 1, 2)
        one = image_bits(net.flow, x, y, 5, 1, torch.Generator().manual_seed(0)).mean()
        many = image_bits(net.flow, x, y, 5, 16, torch.Generator().manual_seed(0)).mean()
    assert many < one


def test_transfer_gain_interpolates_labels() -> None:
    """Gain 0 gives the photo, 1 the target label, 0.5 the mixture of both; 2 extrapolates."""
    flow, x = small_flow(dtype=torch.float32, condition="planes"), pictures(3)
    y, target = torch.eye(3), torch.eye(3).roll(1, 0)
    photo = encode_photo(flow, x, 5, y)
    shown = lambda label: decode_photo(flow, photo.code.eps, 5, label, photo.lost)  # noqa: E731
    assert torch.equal(transfer(flow, photo, target, 0.0, 5), x)
    for gain in (0.5, 1.0, 2.0):
        assert torch.equal(transfer(flow, photo, target, gain, 5), shown((1 - gain) * y + gain * target)), gain
    assert not torch.equal(shown(target), x)


def test_fit_temperature_calibrates_scores() -> None:
    torch.manual_seed(0)
    logits = torch.randn(4000, 4)
    label = torch.distributions.Categorical(logits=logits).sample()
    assert fit_temperature(50 * logits, label) == pytest.approx(50, rel=0.1)


class Faces:
    """A data set that yields one batch in parts."""

    def __init__(self, faces: dict[str, torch.Tensor]) -> None:
        self.faces = faces

    def once(self, size: int) -> Iterator[dict[str, torch.Tensor]]:
        for i in range(0, len(self.faces["image"]), 100):
            yield {key: value[i : i + 100] for key, value in self.faces.items()}


def test_class_mean_images_keep_signal_and_shrink_noise() -> None:
    net, n = method(condition="planes"), 900
    image = (0.3 * torch.randn(n, 3, 8, 8)).clamp(-1, 1)
    label = torch.arange(n) % 3
    image[label == 1, :, :4, :4] += 0.4
    x = ((image.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
    faces = Faces({"image": x, "label": label})
    v = ((x + 1) * 127.5 + 0.5) / 256 - 0.5
    plain = torch.stack([v[label == k].mean(0) for k in range(3)])
    shrunk = class_mean_images(net.labels, faces, 8, mirrored=False)
    assert (shrunk.mean(0) - v.mean(0)).abs().max() < 0.01
    away = lambda means: (means[1] - means[0])[:, 4:].norm()  # noqa: E731
    there = lambda means: (means[1] - means[0])[:, :4, :4].mean().item()  # noqa: E731
    assert away(shrunk) < 0.5 * away(plain) and there(shrunk) == pytest.approx(there(plain), rel=0.03)
    both = class_mean_images(net.labels, faces, 8, mirrored=True)
    assert torch.allclose(both, both.flip(-1), atol=1e-6)


def test_class_mean_images_of_attributes() -> None:
    net, n = method(condition="planes", condition_on=["Smiling", "Male"]), 600
    attr = torch.randint(0, 2, (n, 2), generator=torch.Generator().manual_seed(0)).float()
    x = (0.2 * torch.randn(n, 3, 8, 8)).clamp(-0.5, 0.5)
    x[attr[:, 1] == 1, :, 4:, 4:] += 0.4
    means = class_mean_images(
        net.labels, Faces({"image": x, "attr": attr, "label": attr[:, 0].long()}), 8, mirrored=False
    )
    assert means[1, :, 4:, 4:].mean().item() == pytest.approx(0.2, rel=0.05) and means[0].abs().max() < 0.03


def test_baselines_of_known_data() -> None:
    torch.manual_seed(0)
    mixing = torch.linalg.qr(torch.randn(48, 48, dtype=torch.float64))[0] * torch.linspace(0.02, 0.1, 48)
    draw = lambda n: (torch.randn(n, 48, dtype=torch.float64) @ mixing.T + 0.5).clamp(0, 0.999)  # noqa: E731
    k = [(draw(n) * 256).floor().int().view(n, 3, 4, 4) for n in (20_000, 2000)]
    entropy = (torch.linspace(0.02, 0.1, 48).log2() + 0.5 * math.log2(2 * math.pi * math.e)).mean().item() + 8
    learnt = BaselineStats(k[0].split(3000), k[1][0].shape, 8)
    assert gaussian_bits(learnt, k[1]).mean().item() == pytest.approx(entropy, rel=0.01)
    x = (k[0].double().flatten(1) + 0.5) / 256 - 0.5
    covariance = learnt.products / len(x) - torch.outer(learnt.total, learnt.total) / len(x) ** 2
    assert torch.allclose(covariance, x.T.cov(correction=0), atol=1e-10)  # batch by batch = all at once
    uniform = torch.randint(0, 32, (500, 1, 8, 8))
    found = density_baselines(iter(uniform.split(128)), uniform, 5)
    assert found["independent pixels"] == pytest.approx(5, abs=0.01) and found["training faces"] == 500
    assert found["webp lossless"] > 5 and found["png"] > 5


def test_code_flattens_to_one_row() -> None:
    eps = [torch.randn(2, 6, 4, 4), torch.randn(2, 24, 2, 2)]
    assert flatten(eps).shape == (2, 192)


@pytest.mark.parametrize("truthful", [True, False])
def test_true_labels_are_learned_and_shuffled_ones_are_not(truthful: bool) -> None:
    """Three classes, each with a bright bar in its own place. A flow learns true labels, and not shuffled ones."""
    net = method({"class_counts": {"train": [1, 1, 1]}, "num_train": 3}, train={"lr": 5e-3}, condition="planes")
    torch.manual_seed(1)
    label = torch.arange(1200) % 3
    x = (0.2 * torch.randn(1200, 3, 8, 8) - 0.2).clamp(-1, 1)
    for k in range(3):
        x[label == k, :, :, 3 * k : 3 * k + 2] += 0.5
    x = ((x + 1) * 127.5).round() / 127.5 - 1
    given = label if truthful else label[torch.randperm(1200)]
    parts = [{"image": x[i : i + 64], "label": given[i : i + 64]} for i in range(0, 960, 64)]
    net.warm_start(parts[0])
    for step in range(90):
        net.step(parts[step % len(parts)], step)
    x, label, given = x[960:], label[960:], given[960:]
    with torch.inference_mode():
        v = ((x + 1) * 127.5 + 0.5) / 256 - 0.5
        read = bayes_accuracy(class_log_probs(net.flow, net.labels, v), label).item()
        photo = encode_photo(net.flow, x, 5, torch.eye(3)[given])
        moved = transfer(net.flow, photo, torch.eye(3)[(given + 1) % 3], 1.0, 5)
    bars = torch.stack([moved[:, :, :, 3 * k : 3 * k + 2].mean((1, 2, 3)) for k in range(3)], 1)
    drawn = (bars.argmax(1) == (label + 1) % 3).float().mean().item()
    assert (read > 0.9 and drawn > 0.9) if truthful else (read < 0.5 and drawn < 0.2)
