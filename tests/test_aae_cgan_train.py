"""The training step: which networks are updated in a phase, effect of each weight, penalties, resume, ranks."""

from pathlib import Path

import pytest
import torch
from aae_toy import CLASSES, Noise, batch, build, config, meta, run
from torch import Tensor

from aae_cgan.schedule import phase_state
from aae_cgan.train import AAECGAN
from data.labels import conditions
from engine import UserError, mean_over_ranks
from losses.targets import Request, draw_request, mix_labels
from tests.same import equal, of_one_and_of_two_ranks

pytestmark = pytest.mark.slow  # whole runs

NETWORKS = ("encoder", "generator", "d_latent", "d_image", "guide")


def weights(method: AAECGAN) -> dict[str, list[Tensor]]:
    """Parameters and buffers."""
    named = {name: getattr(method, name) for name in NETWORKS}
    return {name: [v.clone() for v in net.state_dict().values()] for name, net in named.items() if net is not None}


def moved(before: dict, after: dict) -> set[str]:
    return {
        name for name in before if any(not torch.equal(a, b) for a, b in zip(before[name], after[name], strict=True))
    }


def gradients(method: AAECGAN) -> set[str]:
    named = {name: getattr(method, name) for name in NETWORKS}
    return {name for name, net in named.items() if net and any(p.grad is not None for p in net.parameters())}


# Isolation.


@pytest.mark.parametrize("norm", ["group", "batch"])
@pytest.mark.parametrize("gan", ["logistic", "wgan"])
def test_each_phase_updates_only_its_networks(gan, norm):
    loss = {"gan": gan, "lambda_guide": 1.0, "guide_steps": 1}
    method = build({"norm": norm}, loss, autoencode_steps=1, gan_steps=1)
    linear = {name: value.clone() for name, value in method.linear.named_buffers()}
    expected = {
        0: {"guide"},
        1: {"d_latent", "encoder", "generator"},
        2: {"d_image", "generator"},
        3: {"d_latent", "d_image", "encoder", "generator"},
    }
    torch.nn.init.normal_(method.encoder.out.weight, std=0.01)  # else the encoder's first gradient stops at zeros
    for step, names in expected.items():
        before = weights(method)
        method.step(batch(), step)
        assert moved(before, weights(method)) == names, step
    assert set(linear) == {"mean", "basis", "scale"} and equal(linear, dict(method.linear.named_buffers()))


def test_updates_leave_no_gradient_in_other_networks():
    method = build()
    x, y, _ = method.faces(batch())
    method.update_d_latent(torch.randn(8, 16), method.encoder(x).detach())
    assert gradients(method) == {"d_latent"}
    method.optimizers["d_latent"].zero_grad()
    targets = draw_request(x, y, False, False)
    method.update_d_image(x, y, x.flip(0), targets.y_target, targets)
    assert gradients(method) == {"d_image"}
    method.optimizers["d_image"].zero_grad()
    method.step(batch(), 0)
    method.optimizers["d_image"].zero_grad()
    method.optimizers["d_latent"].zero_grad()
    assert gradients(method) == {"encoder", "generator"}


def test_generator_updates_every_n_critic_steps():
    method = build(loss={"gan": "wgan", "n_critic": 3})
    for step in range(6):
        before = weights(method)
        logs = method.step(batch(), step)
        turn = step % 3 == 2
        assert ("generator" in moved(before, weights(method))) == turn == ("loss" in logs)


@pytest.mark.parametrize("term", ["rec", "latent", "adv", "code", "cycle", "class", "guide"])
def test_every_loss_weight_has_an_effect_and_zero_skips_the_term(term):
    zeros = {f"lambda_{name}": 0.0 for name in ("latent", "code", "cycle", "class")}
    base = zeros | {"lambda_adv": 0.5, "lambda_guide": 0.5, "guide_steps": 0}

    def after(value: float) -> tuple[AAECGAN, dict, dict]:
        calls: dict[str, int] = {}
        method = build(loss=base | {f"lambda_{term}": value})
        torch.nn.init.normal_(method.generator.out.weight, std=0.05)
        torch.nn.init.normal_(method.encoder.out.weight, std=0.05)
        for name in NETWORKS:
            net = getattr(method, name)
            if net is not None:
                net.register_forward_hook(lambda *a, name=name: calls.update({name: calls.get(name, 0) + 1}))
        return method, method.step(batch(), 0), calls

    low = {"adv": 0.1}.get(term, 0.0)  # without a critic there is no step of this kind
    off, logs_off, calls_off = after(low)
    on, logs_on, calls_on = after(1.0)
    assert {"generator", "encoder"} & moved(weights(off), weights(on))
    if term in ("guide", "latent"):
        name = {"latent": "d_latent"}.get(term, term)
        assert name not in calls_off and calls_on[name] > 0
    if term in ("code", "cycle"):
        assert calls_off["encoder"] == calls_on["encoder"] - 1
    key = {"rec": "recon"}.get(term, term)
    assert f"G/{key}" in logs_on and logs_on[f"G/{key}"] != logs_off.get(f"G/{key}", 0)


def test_every_critic_weight_has_an_effect_and_zero_skips_the_term(monkeypatch):
    """`rows`: number of pairs, or codes, that the critic scores in one step."""
    for name, gan, critic in (
        ("lambda_mismatch", "logistic", "d_image"),
        ("lambda_mismatch", "wgan", "d_image"),
        ("gamma_r1", "logistic", "d_image"),
        ("lambda_gp", "wgan", "d_image"),
        ("lambda_gp_latent", "wgan", "d_latent"),
    ):
        found = {}
        for value in (0.0, 1.0, 2.0):
            method, rows = build(loss={"gan": gan, name: value}), []
            getattr(method, critic).register_forward_hook(lambda net, given, out, rows=rows: rows.append(len(out)))
            method.step(batch(), 0)
            found[value] = weights(method)[critic], sum(rows)
        assert found[0.0][1] == found[1.0][1] - 8, (name, gan)  # a pass over the batch is left out
        assert not equal(found[0.0][0], found[1.0][0]) and not equal(found[1.0][0], found[2.0][0]), (name, gan)


def test_lambda_face_weights_mouth_and_eyes(monkeypatch):
    def after(value: float) -> AAECGAN:
        method = build(loss={"lambda_face": value}, autoencode_steps=40)
        torch.nn.init.normal_(method.generator.out.weight, std=0.05)
        method.step(batch(), 0)
        return method

    assert not equal(weights(after(0.0))["generator"], weights(after(1.0))["generator"])
    monkeypatch.setattr("aae_cgan.train.face_weight", lambda *a: pytest.fail("was made though nothing weighs more"))
    after(0.0)


# Directions.


def gap(a: Tensor, b: Tensor) -> float:
    return float(a.detach().mean() - b.detach().mean())


@pytest.mark.parametrize("gan", ["logistic", "wgan"])
def test_critic_steps_increase_the_score_gap(gan):
    method = build(loss={"gan": gan, "gan_latent": gan}, lr_critic=1e-3)
    x, y, _ = method.faces(batch(32))
    targets = draw_request(x, y, False, False)
    x_fake = 0.5 * x + 0.3 * torch.randn_like(x)

    def gaps() -> tuple[float, float]:
        real = method.d_image(x, y)
        return gap(real, method.d_image(x_fake, targets.y_target)), gap(real, method.d_image(x, targets.y_wrong))

    before = gaps()
    losses = [method.update_d_image(x, y, x_fake, targets.y_target, targets)["D/image"].item() for _ in range(10)]
    assert all(phase > then for phase, then in zip(gaps(), before, strict=True)) and losses[-1] < losses[0]

    prior, narrow = torch.randn(64, 16), 0.3 * torch.randn(64, 16)
    before = gap(method.d_latent(prior), method.d_latent(narrow))
    for _ in range(10):
        method.update_d_latent(prior, narrow)
    assert gap(method.d_latent(prior), method.d_latent(narrow)) > before  # the prior is the real one


@pytest.mark.parametrize("gan", ["logistic", "wgan"])
def test_generator_steps_increase_the_critic_score(gan):
    method = build(lr=1e-2)
    torch.nn.init.normal_(method.generator.out.weight, std=0.05)
    x, y, _ = method.faces(batch(32))
    z = method.encoder(x).detach()
    edits = lambda: (method.generator(z, y), y)  # noqa: E731
    codes = lambda: (method.encoder(x),)  # noqa: E731
    for critic, shown, optimizer in ((method.d_image, edits, "generator"), (method.d_latent, codes, "encoder")):
        method.optimizers["encoder"] = torch.optim.Adam(method.encoder.parameters(), 1e-3)
        before = critic(*shown()).mean().item()
        for _ in range(10):
            method.minimize(method.adversarial_loss(critic, gan, *shown()), optimizer)
        assert critic(*shown()).mean().item() > before


def test_bounded_mismatch_gradient_vanishes():
    method = build(loss={"gan": "wgan"})
    wrong = torch.zeros(4, requires_grad=True)
    (slope,) = torch.autograd.grad(method.mismatch(torch.full((4,), 10.0), wrong), wrong)
    assert slope.sum() < 1e-3
    method.cfg.loss.mismatch = "difference"
    (slope,) = torch.autograd.grad(method.mismatch(torch.full((4,), 10.0), wrong), wrong)
    assert slope.sum() == pytest.approx(1)


@pytest.mark.parametrize("gan", ["logistic", "wgan"])
def test_penalty_is_per_sample_over_all_pixels(gan, monkeypatch):
    """The penalty equals that of single rows, for any norm over (C, H, W)."""
    monkeypatch.setattr(torch, "rand", lambda *shape, **kind: torch.full(shape, 0.5, **kind))  # all midpoints
    x, y, _ = build().faces(batch())
    targets = draw_request(x, y, False, False)
    for rows in (torch.arange(8), torch.randperm(8), torch.arange(3, 4)):
        method = build(loss={"gan": gan, "lambda_mismatch": 0.0})
        part = Request(targets.y_target[rows], targets.x_match[rows], targets.y_wrong[rows])
        points, label = (x[rows], y[rows]) if gan == "logistic" else ((part.x_match - x[rows]) / 2, part.y_target)
        slopes = []
        for point, row in zip(points.clone().requires_grad_(), label, strict=True):
            (slope,) = torch.autograd.grad(method.d_image(point[None], row[None]).sum(), point)
            slopes.append(slope.square().sum())
        squares = torch.stack(slopes)
        expected = squares.mean() / 2 if gan == "logistic" else squares.sqrt().mean()
        logs = method.update_d_image(x[rows], y[rows], -x[rows], part.y_target, part)
        assert logs["D/r1" if gan == "logistic" else "D/gp_grad_norm"].item() == pytest.approx(
            expected.item(), rel=1e-4
        )


@pytest.mark.parametrize("mixed", [0.0, 0.5, 0.99])
def test_penalty_lines_end_at_the_matching_real_face(mixed, monkeypatch):
    """The line of a fake ends at a real face of the same label. Fakes with mixed labels have none and are skipped."""
    method, seen = build(loss={"gan": "wgan", "lambda_mismatch": 0.0}, mixed=mixed), []
    x, y, _ = method.faces(batch(32))
    targets = draw_request(x, y, False, False)
    y_target = mix_labels(y, targets.y_target, mixed)
    forward = method.d_image.forward
    monkeypatch.setattr(method.d_image, "forward", lambda v, label: (seen.append((v, label)), forward(v, label))[1])
    logs = method.update_d_image(x, y, torch.zeros_like(x), y_target, targets)
    whole = (y_target == targets.y_target).all(1)
    assert whole.all() == (mixed == 0) and torch.as_tensor(logs["D/gp_grad_norm"]).isfinite()
    points, label = seen[-1]  # the penalty's own call
    assert torch.equal(label, targets.y_target[whole])
    share = points.flatten(1).sum(1) / targets.x_match[whole].flatten(1).sum(1)
    assert torch.allclose(points, share[:, None, None, None] * targets.x_match[whole], atol=1e-4)
    penalty, slope = method.wgan_penalty(x, 0.5 * (targets.y_target + y.roll(1, 0)) + 0.1, targets)
    assert mixed == 0 or (penalty == 0 and slope == 1)  # no row is left


def test_soft_one_hot_label_equals_hard_label():
    method = build().eval()
    x, y, _ = method.faces(batch())
    soft = conditions({"label": batch()["label"], "label_soft": y.clone()}, len(CLASSES), False)[0]
    assert torch.equal(method.decode(method.encode(x), soft), method.decode(method.encode(x), y))
    assert torch.equal(method.d_image(x, soft), method.d_image(x, y))


def test_unlabelled_faces_are_only_reconstructed(monkeypatch):
    cfg, facts = config(loss={"lambda_cycle": 1.0, "lambda_class": 1.0}), meta()
    facts["num_train"] += 8  # some without a label
    method, seen = AAECGAN(cfg, facts).train(), {}
    rows = batch()
    rows["label"] = torch.tensor([0, -1, 2, 3, -1, 1, 2, -1])
    update = method.update_d_image
    monkeypatch.setattr(method, "update_d_image", lambda x, *a: seen.update(image=x) or update(x, *a))
    terms = method.edit_terms
    monkeypatch.setattr(
        method, "edit_terms", lambda *a: seen.update(edit=[v for v in a if torch.is_tensor(v)]) or terms(*a)
    )
    distance = method.distance
    monkeypatch.setattr(method, "distance", lambda a, x, b: seen.update(recon=x) or distance(a, x, b))
    method.step(rows, 0)
    known = rows["label"] >= 0
    assert len(seen["recon"]) == 8 and torch.equal(seen["image"], rows["image"][known])
    x_fake, z_from, y_target, x, y, drawn = seen["edit"]
    assert {len(v) for v in seen["edit"]} == {5} and torch.equal(x, rows["image"][known])
    assert (y.amax(1) == 1).all() and (y_target.amax(1) == 1).all()  # no uniform row


def test_ema_restarts_in_each_phase():
    method = build(autoencode_steps=3)
    for step in range(3):
        method.step(batch(), step)
    assert not torch.equal(method.ema_generator.module.inp.weight, method.generator.inp.weight)
    at_start = method.generator.inp.weight.detach().clone()
    method.start_phase(phase_state(3, method.cfg))
    assert torch.equal(method.ema_generator.module.inp.weight, at_start)


def test_joint_lr_scales_only_the_joint_phase():
    method = build(autoencode_steps=1, joint_lr=0.5)
    rates = []
    for step in range(2):
        for optimizer in method.optimizers.values():
            optimizer.param_groups[0]["lr"] = 1.0
        method.start_phase(phase_state(step, method.cfg))
        rates.append(method.optimizers["d_image"].param_groups[0]["lr"])
    assert rates == [1.0, 0.5]


def test_monitor_checks_depend_on_the_phase(monkeypatch, caplog):
    """No warning while the guide is trained, since nothing else changes then. Checks start in the joint phase."""
    method = build(loss={"lambda_guide": 1.0, "guide_steps": 5})
    monkeypatch.setattr("aae_cgan.train.failed_checks", lambda *a: {"edit_accuracy": "the label is ignored"})
    monkeypatch.setattr("aae_cgan.train.logger.propagate", True)
    said = []
    for step in range(10):
        method.train()
        method.step(batch(), step)
        with torch.inference_mode():
            method.eval().sample(batch())
        said.append("the label is ignored" in caplog.messages)
    assert said == [False] * 7 + [True] * 3  # the third check of the joint phase


def test_judge_is_refused_as_guide(tmp_path, monkeypatch):
    def refuse(run: str, role: str, device: str) -> None:
        assert role == "guide"
        raise UserError(f"{run} is a judge")

    monkeypatch.setattr("evaluation.classifier.load", refuse)
    method = build(loss={"lambda_guide": 1.0, "guide": "runs/judge"})
    assert "guide" not in method.optimizers and method.cfg.guide_steps == 0
    with pytest.raises(UserError, match="is a judge"):
        method.step(batch(), 0)


# Whole runs.


@pytest.mark.parametrize("gan", ["logistic", "wgan"])
def test_resumed_run_equals_uninterrupted_run_across_phases(tmp_path, gan):
    stops = (3, 6, 10, 12, 16, 19)  # within each phase, at each border, and between two generator updates
    loss = {"gan": gan, "gan_latent": gan, "n_critic": 3, "lambda_guide": 1.0, "guide_steps": 6, "guide_end": 0.6}
    train = {"autoencode_steps": 4, "gan_steps": 6, "total_steps": 28, "mixed": 0.25, "augment": "color,cutout"}
    cfg = config(loss=loss, **train)
    straight, resumed = run(tmp_path / "a", cfg), run(tmp_path / "b", cfg, (*stops, 0))
    assert straight["step"] == resumed["step"] == 28
    for key in ("method", "optimizers", "pending"):
        assert equal(straight[key], resumed[key]), key


def test_frozen_encoder_keeps_batch_norm_statistics():
    method = build({"norm": "batch", "linear": "none"}, autoencode_steps=2, gan_steps=2)
    seen = []
    for step in range(5):
        method.step(batch(), step)
        seen.append(method.encoder.norms[1].norm.running_mean.clone())
    assert not torch.equal(seen[0], seen[1]) and torch.equal(seen[1], seen[3]) and not torch.equal(seen[3], seen[4])


def test_compiled_networks_are_logged(tmp_path, monkeypatch, capsys):
    """`torch.compile` is replaced, to see which networks are passed to it."""
    from aae_cgan import train

    compiled, methods = [], []
    monkeypatch.setattr(torch, "compile", lambda call, **options: compiled.append(call.__self__) or call)
    monkeypatch.setattr("aae_cgan.linear.MAX_EXACT_DIM", 0)  # randomised PCA; it saves ten seconds
    make = train.AAECGAN
    monkeypatch.setattr(train, "AAECGAN", lambda *a: methods.append(make(*a)) or methods[-1])
    yaml = Path(__file__).parent.parent / "configs/aae_cgan/synthetic32.yaml"
    small = ["data.num_train=70", "data.num_val=20", "data.num_test=20", "model.width=8", "model.latent_dim=16"]
    short = ["train.total_steps=1", "train.batch_size=4", "train.val_images=8", "train.compile=true", "loss.gan=wgan"]
    train.main(["--config", str(yaml), "--run-dir", str(tmp_path / "run"), *small, *short])
    assert compiled == [methods[0].encoder, methods[0].generator]
    assert "compiled: encoder, generator; no critic" in capsys.readouterr().out


def _apart(rank: int, world: int) -> dict:
    """Distance of the frozen statistics to the mean over ranks, after phases with different faces on each rank."""
    loss = {"lambda_guide": 1.0, "guide_steps": 3}
    method = build({"norm": "batch"}, loss, autoencode_steps=2, gan_steps=2)
    for step in range(6):
        rows = torch.randperm(32, generator=torch.Generator().manual_seed(step))[:8][rank::world]
        method.step(Noise().take(rows), step)
    layers = {"guide": method.guide.features[1], "encoder": method.encoder.norms[1].norm}
    held = {name: torch.stack([layer.running_mean, layer.running_var]) for name, layer in layers.items()}
    return {name: (value - mean_over_ranks(value)).abs().max() for name, value in held.items()}


def test_frozen_statistics_are_equal_on_all_ranks(tmp_path):
    _, two = of_one_and_of_two_ranks(_apart, tmp_path)
    assert two == {"guide": 0, "encoder": 0}


def test_joint_run_from_separately_trained_halves(tmp_path):
    half = config(autoencode_steps=10, total_steps=10)
    ours = run(tmp_path / "aae", half)["method"]
    theirs = run(tmp_path / "cgan", config(gan_steps=10, total_steps=10, seed=1))["method"]
    sources = [f"{tmp_path / 'aae'}:linear,encoder,d_latent", f"{tmp_path / 'cgan'}:generator,d_image"]
    part = config(total_steps=1, init_from=sources, lr=1e-12, lr_critic=1e-12)
    concat = run(tmp_path / "joint", part)["method"]
    for key, value in concat.items():
        source = theirs if key.startswith(("generator.", "d_image.")) else ours
        if key.startswith(("linear", "encoder.", "d_latent", "generator.", "d_image.")):
            assert torch.allclose(value, source[key], atol=1e-6), key


def test_every_edit_term_has_a_gradient_in_the_image():
    """A term without a gradient to the edited image would have no effect."""
    targets = {"lambda_adv": 1.0, "lambda_class": 1.0, "lambda_guide": 1.0, "guide_steps": 0, "lambda_code": 1.0}
    method = build(loss=targets | {"lambda_cycle": 1.0, "prior_fraction": 0.0})
    x, y, _ = method.faces(batch())
    z = method.encoder(x)
    x_fake = method.generator(z, y.roll(1, 0))
    drawn = torch.zeros(len(x), dtype=torch.bool)
    terms = method.edit_terms(x_fake, z, y.roll(1, 0), x, y, drawn, phase_state(0, method.cfg))
    assert set(terms) == {"adv", "class", "guide", "code", "cycle"}
    for name, term in terms.items():
        (pull,) = torch.autograd.grad(term, x_fake, retain_graph=True, allow_unused=True)
        assert pull is not None and (pull.flatten(1).abs().sum(1) > 0).all(), name


@pytest.mark.parametrize("gan", ["logistic", "wgan"])
def test_bf16_step_computes_penalties_in_fp32(gan):
    extra = {"lambda_guide": 1.0, "guide_steps": 0, "lambda_class": 1.0, "lambda_cycle": 1.0, "lambda_face": 2.0}
    method = build(loss={"gan": gan} | extra, augment="color,translation,cutout", mixed=0.5)
    with torch.autocast("cpu", torch.bfloat16):
        for step in range(2):
            logs = method.step(batch(), step)
    assert all(torch.as_tensor(value).isfinite() for value in logs.values())
    assert logs["D/r1" if gan == "logistic" else "D/gp_grad_norm"].dtype == torch.float32
