"""Scores, boundaries, steps and projection on a generator with known hyperplanes, without training."""

import dataclasses

import pytest
import torch
from gan_loop import LATENT, NAMES, Faces, LinearGenerator, TrueGuide
from torch import Tensor

from data.request import parse_request
from engine import UserError
from engine.checkpoint import save_fields
from interface_gan.boundary import Boundaries, describe, fit_boundaries, load_boundaries
from interface_gan.codes import Stats, draw_z, images_of, map_z
from interface_gan.plan import MOVES, Plan, Samples, plan
from interface_gan.project import Options, project
from interface_gan.report import Bench, agreement, effects, flips
from interface_gan.score import Scores, log_odds, read_images, score_codes
from interface_gan.until import strength_until

NUM = 8192


@dataclasses.dataclass
class Loop:
    generator: LinearGenerator
    guide: TrueGuide
    stats: Stats
    codes: Tensor
    scores: Scores
    boundaries: Boundaries


@pytest.fixture(scope="module")
def loop(tmp_path_factory) -> Loop:
    generator = LinearGenerator()
    guide = TrueGuide(generator)
    scores = score_codes(generator, "weights", guide, Faces(generator), NUM, 0, tmp_path_factory.mktemp("scores"))
    codes = map_z(generator, draw_z(NUM, LATENT, 0))
    return Loop(generator, guide, Stats.of(generator), codes, scores, fit_boundaries(codes, scores, "w"))


def fresh(loop: Loop, num: int = 400) -> Tensor:
    """Codes that no boundary was fitted to."""
    return map_z(loop.generator, draw_z(num, LATENT, 99))


def readings(loop: Loop, w: Tensor) -> Tensor:
    return loop.guide.readings(images_of(loop.generator, loop.generator.broadcast(w))).float()


def request(text: str) -> object:
    return parse_request(text, (), NAMES)


def unknown(loop: Loop, codes: Tensor) -> Tensor:
    return torch.full((len(codes), len(loop.boundaries.names)), float("nan"))


def planned(loop: Loop, codes: Tensor, text: str, **options) -> Plan:
    return plan(codes, request(text), loop.boundaries, loop.stats.cov, unknown(loop, codes), **options)


# Codes and scores.


def test_a_row_of_z_depends_on_seed_and_index_only():
    table = draw_z(3000, 5, 0)
    assert torch.equal(table[37], draw_z(1, 5, 0, 37)[0]) and torch.equal(table[2000:2100], draw_z(100, 5, 0, 2000))
    assert not torch.equal(table[:10], draw_z(10, 5, 1)) and len(table.unique(dim=0)) == 3000
    assert abs(table.mean()) < 0.03 and abs(table.std() - 1) < 0.02


def test_interrupted_scoring_continues(loop, tmp_path):
    faces, calls = Faces(loop.generator), []
    guide = TrueGuide(loop.generator)
    count = lambda x: (calls.append(len(x)), TrueGuide.__call__(guide, x))[1]  # noqa: E731

    class Counting:
        def __getattr__(self, name):
            return getattr(guide, name)

        def __call__(self, x):
            return count(x)

    first = score_codes(loop.generator, "weights", Counting(), faces, 4500, 0, tmp_path)
    assert sum(calls) == 4500 + 512
    again = score_codes(loop.generator, "weights", Counting(), faces, 5000, 0, tmp_path)
    assert sum(calls) == 5000 + 512 and torch.equal(again.logits[:4500], first.logits)
    assert torch.allclose(again.logits, loop.scores.logits[:5000], atol=1e-4)
    score_codes(loop.generator, "other weights", Counting(), faces, 10, 0, tmp_path)
    assert sum(calls) == 5010 + 2 * 512


def test_log_odds_of_classes_and_pairs():
    logits = torch.randn(6, 4)
    table, pairs = log_odds(logits, ["happy", "neutral", "sad"])
    p = logits[:, :3].softmax(1)
    assert torch.allclose(table[:, :3], (p / (1 - p)).log(), atol=1e-5)
    assert torch.equal(table[:, 3], logits[:, 3]) and pairs == ["happy/neutral", "sad/neutral"]
    assert torch.allclose(table[:, 4], logits[:, 0] - logits[:, 1]) and torch.allclose(
        table[:, 5], logits[:, 2] - logits[:, 1]
    )
    assert log_odds(logits, [])[1] == []


# Boundaries.


def test_the_known_hyperplanes_are_found(loop):
    b = loop.boundaries
    assert b.names == NAMES[:4] and "expected at least 100" in b.skipped["Bald"]
    cov = loop.guide.cov
    for row in range(4):
        mine, truth = b.normal[row].double(), loop.guide.normal[row]
        reading = (mine @ cov @ truth) / ((mine @ cov @ mine) * (truth @ cov @ truth)).sqrt()
        assert reading > 0.99
    assert (b.auc > 0.97).all() and (b.stability > 0.99).all()
    predicted = b.read(fresh(loop)) > 0
    assert ((predicted == (readings(loop, fresh(loop))[:, :4] > 0)).float().mean(0) > 0.93).all()
    true_share = (loop.scores.logits[:, :4] > 0).float().mean(0)
    assert torch.allclose(b.prevalence[:, 0], true_share) and (b.prevalence[:, 1] - true_share).abs().max() < 0.08
    assert (b.side_mean[:, 0] < 0).all() and (b.side_mean[:, 1] > 0).all()
    assert "Smiling" in describe(b) and "Bald" in describe(b)


@pytest.mark.parametrize("estimator", ["svc", "linear_svc", "logreg"])
def test_other_estimators_are_less_accurate(loop, estimator):
    found = fit_boundaries(loop.codes, loop.scores, "w", estimator, share=0.05)
    assert "Young" in found.names and found.estimator == estimator
    mine = loop.boundaries.auc[[loop.boundaries.names.index(name) for name in found.names]]
    assert (found.auc > 0.75).all() and (found.auc < mine + 0.005).all()


def test_scores_without_relation_to_the_codes_give_no_boundary(loop):
    mixed = loop.scores.logits[torch.randperm(NUM, generator=torch.Generator().manual_seed(0))]
    found = fit_boundaries(loop.codes, dataclasses.replace(loop.scores, logits=mixed), "w")
    assert found.names == [] and "not usable" in found.skipped["Smiling"]


def test_boundaries_of_other_weights_are_an_error(loop, tmp_path):
    with pytest.raises(UserError, match="boundary --run-dir"):
        load_boundaries(tmp_path, "w", "ridge_rank", "weights")
    save_fields(loop.boundaries, tmp_path / "boundaries_w_ridge_rank.pt")
    again = load_boundaries(tmp_path, "w", "ridge_rank", "weights")
    assert torch.equal(again.normal, loop.boundaries.normal) and again.names == loop.boundaries.names
    with pytest.raises(UserError, match="other weights"):
        load_boundaries(tmp_path, "w", "ridge_rank", "others")
    with pytest.raises(UserError, match="Bald has no boundary: one side has only 0 of"):
        loop.boundaries.row("Bald")


# Edits.


def test_a_step_of_one_sigma_changes_only_the_requested_reading(loop):
    codes = fresh(loop)
    before = readings(loop, codes)
    for row, name in enumerate(NAMES[:4]):
        p = planned(loop, codes, f"{name}=+1.0")
        change = (readings(loop, codes + p.step) - before).mean(0)[:4]
        others = [r for r in range(4) if r != row]
        assert change[row] == pytest.approx(1, abs=0.1) and change[others].abs().max() < 0.1
        assert sorted(p.kept) == sorted(n for n in NAMES[:4] if n != name) and not p.dropped
        assert p.cost.max() < 1.5


def test_without_keep_correlated_readings_also_change(loop):
    codes = fresh(loop)
    alone = planned(loop, codes, "Smiling=+1.0", keep="none")
    change = (readings(loop, codes + alone.step) - readings(loop, codes)).mean(0)
    assert change[1] == pytest.approx(0.6, abs=0.1) and alone.cost.mean() == pytest.approx(1, abs=0.03)


def test_paper_step_keeps_readings_at_a_higher_cost(loop):
    codes = fresh(loop)
    mine, paper = planned(loop, codes, "Smiling=+1.0"), planned(loop, codes, "Smiling=+1.0", move="paper")
    change = (readings(loop, codes + paper.step) - readings(loop, codes)).mean(0)
    assert change[0] == pytest.approx(1, abs=0.1) and change[1:4].abs().max() < 0.15
    assert mine.cost.mean() < 0.75 * paper.cost.mean()


@pytest.mark.parametrize("move", MOVES)
def test_flips_change_sides_and_random_steps_do_not(loop, move):
    codes = fresh(loop)
    samples = Samples(loop.codes, loop.scores.logits[:, :4] > 0)
    p = planned(loop, codes, "Smiling=flip", move=move, samples=samples)
    before, after = readings(loop, codes)[:, 0] > 0, readings(loop, codes + p.step)[:, 0] > 0
    flipped = (before != after).float().mean()
    assert flipped < 0.35 if move == "random" else flipped > 0.93
    if move == "random":
        assert torch.allclose(p.cost, planned(loop, codes, "Smiling=flip").cost, rtol=1e-3)


def test_set_never_moves_back(loop):
    codes, b = fresh(loop), loop.boundaries
    p = planned(loop, codes, "Smiling=1")
    before, after = b.read(codes)[:, 0], b.read(codes + p.step)[:, 0]
    assert torch.allclose(after, before.clamp_min(float(b.side_mean[0, 1])), atol=1e-4)
    p = planned(loop, codes, "Smiling=0")
    assert torch.allclose(b.read(codes + p.step)[:, 0], before.clamp_max(float(b.side_mean[0, 0])), atol=1e-4)


def test_absolute_amount_and_two_edits_at_once(loop):
    codes, b = fresh(loop), loop.boundaries
    read = lambda p: b.read(codes + p.step)  # noqa: E731
    assert torch.allclose(read(planned(loop, codes, "Smiling=@2"))[:, 0], 2 * b.sigma[0].expand(400), atol=1e-4)
    goal = b.side_mean[0, 0].lerp(b.side_mean[0, 1], 0.7)
    assert torch.allclose(read(planned(loop, codes, "Smiling=0.7"))[:, 0], goal.expand(400), atol=1e-4)
    after = read(planned(loop, codes, "Smiling=@1 Male=@-1"))
    assert torch.allclose(after[:, :2], b.sigma[:2] * torch.tensor([1.0, -1.0]), atol=1e-4)


def test_known_labels_override_readings(loop):
    codes, b = fresh(loop), loop.boundaries
    own = (b.read(codes) > 0).float()
    own[:, 0] = 1
    p = plan(codes, request("Smiling=flip"), b, loop.stats.cov, own)
    assert (b.read(codes + p.step)[:, 0] <= b.side_mean[0, 0] + 1e-4).all()


def test_dropped_attributes_are_listed_with_their_cost(loop):
    b = loop.boundaries
    near = torch.nn.functional.normalize(b.normal[0] + 1e-3 * b.normal[2], dim=0)
    two = dataclasses.replace(
        b,
        names=["Smiling", "Happy", "Young"],
        normal=torch.stack([b.normal[0], near, b.normal[2]]),
        **{key: getattr(b, key)[[0, 0, 2]] for key in ("offset", "sigma", "side_mean", "span", "auc", "stability")},
    )
    codes = fresh(loop)
    asked = parse_request("Smiling=+1.0", (), two.names)
    p = plan(codes, asked, two, loop.stats.cov, torch.full((400, 3), float("nan")))
    assert p.kept == ["Young"] and p.dropped["Happy"] > 1.5
    with pytest.raises(UserError, match="keep fewer"):
        plan(codes, asked, two, loop.stats.cov, torch.full((400, 3), float("nan")), keep=["Happy"])


def test_impossible_requests_are_user_errors(loop):
    codes = fresh(loop)
    with pytest.raises(UserError, match="cannot do this"):
        planned(loop, codes, "Smiling=any")
    with pytest.raises(UserError, match="Bald has no boundary"):
        planned(loop, codes, "Bald=1")


def test_expressions_of_neutral_faces_use_pair_boundaries(loop):
    """The guide's readings taken as three expressions."""
    logits = loop.scores.logits[:, [0, 2, 3]]
    scores = dataclasses.replace(
        loop.scores, logits=logits, real=loop.scores.real[:, [0, 2, 3]], names=["happy", "neutral", "sad"],
        classes=["happy", "neutral", "sad"],
    )  # fmt: skip
    b = fit_boundaries(loop.codes, scores, "w")
    assert b.pairs == ["happy/neutral", "sad/neutral"]
    assert b.prevalence[:3, 0].sum() == pytest.approx(1, abs=1e-5)
    codes = fresh(loop)
    seen = read_images(loop.guide, images_of(loop.generator, loop.generator.broadcast(codes)))[:, [0, 2, 3]].argmax(1)
    own = torch.zeros(400, len(b.names))
    own[torch.arange(400), seen] = 1
    asked = parse_request("happy", b.classes, ())
    p = plan(codes, asked, b, loop.stats.cov, own)
    after = read_images(loop.guide, images_of(loop.generator, loop.generator.broadcast(codes + p.step)))
    happy = after[:, [0, 2, 3]].argmax(1) == 0
    assert happy[seen == 1].float().mean() > 0.85 and happy[seen == 2].float().mean() > 0.6  # log-odds are no plane
    neutral = seen == 1
    assert torch.allclose(
        b.read(codes + p.step)[neutral, b.names.index("happy/neutral")].clamp_max(0), torch.zeros(int(neutral.sum()))
    )
    with pytest.raises(UserError, match="has no opposite"):
        plan(codes, parse_request("happy=flip", b.classes, ()), b, loop.stats.cov, own)
    gone = plan(codes, parse_request("happy=0", b.classes, ()), b, loop.stats.cov, own)
    assert not torch.equal(gone.step[seen == 0], torch.zeros_like(gone.step[seen == 0]))


# Projection.


def test_projection_recovers_a_generated_face_in_any_batch(loop):
    x = images_of(loop.generator, loop.generator.broadcast(fresh(loop, 3)))
    found = project(loop.generator, loop.guide.maps, loop.stats, x, Options())
    psnr = 10 * torch.log10(4 / (found.x_hat - x).square().mean((1, 2, 3)))
    assert (psnr > 35).all()
    off = (loop.boundaries.read(found.ws.mean(1)) - loop.boundaries.read(fresh(loop, 3))) / loop.boundaries.sigma
    assert off.abs().max() < 0.3
    alone = project(loop.generator, loop.guide.maps, loop.stats, x[1:2], Options())
    assert torch.allclose(alone.ws, found.ws[1:2], atol=1e-2) and not found.ws.requires_grad


def test_typicality_of_samples_is_one(loop):
    ws = loop.generator.broadcast(fresh(loop, 2000))
    assert loop.stats.typicality(ws).mean() == pytest.approx(1, abs=0.1)
    far = ws + 3 * loop.stats.cov.diagonal().sqrt().float()
    assert loop.stats.typicality(far).mean() > 2


# Figures.


class TrueJudge(TrueGuide):
    """The same readings of 8-bit pictures."""

    role = "judge"

    def logits(self, images8: Tensor) -> Tensor:
        return TrueGuide.__call__(self, images8.float() / 127.5 - 1)

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()


@pytest.fixture(scope="module")
def bench(loop) -> Bench:
    judge, w = TrueJudge(loop.generator), fresh(loop)
    own = (readings(loop, w)[:, :4] > 0).float()
    samples = Samples(loop.codes, loop.scores.logits[:, :4] > 0)
    spread = dict(zip(NAMES, loop.scores.logits.std(0).tolist(), strict=True))
    return Bench(loop.generator, loop.boundaries, loop.stats, samples, judge, w, own, spread)


def test_target_accuracy_is_higher_for_least_than_for_random(bench):
    mine, random = flips(bench, "Young", "least"), flips(bench, "Young", "random")
    assert mine["target_accuracy"] > 0.95 and mine["gain"] > 0.5 and mine["no_edit"] == 0
    assert random["target_accuracy"] < 0.35 and random["cost"] == pytest.approx(mine["cost"], rel=1e-3)


def test_effects_are_scaled_to_one_standard_deviation(bench):
    kept, free = effects(bench, "Smiling", "least"), effects(bench, "Smiling", "least", "none")
    assert kept["change"]["Smiling"] == pytest.approx(1, abs=0.02) and kept["dose"] == pytest.approx(1, abs=0.1)
    assert kept["leakage_kept"] < 0.05 < 0.1 < free["leakage"] and free["leakage_kept"] is None
    assert free["change"]["Male"] == pytest.approx(0.6, abs=0.1)
    assert kept["cost"] < effects(bench, "Smiling", "paper")["cost"]


def test_effects_of_a_step_without_effect(bench):
    still = dataclasses.replace(bench, real_std=dict.fromkeys(NAMES, 1e6))
    assert effects(still, "Smiling", "least")["dose"] == float("inf")


def test_agreement_of_classifiers(loop):
    logits = loop.scores.logits
    assert set(agreement(logits, loop.guide, logits, loop.guide).values()) == {1.0}
    assert agreement(logits, loop.guide, -logits, loop.guide)["Male"] == 0


def test_strength_until_reaches_the_probability():
    slope, start = torch.tensor([1.0, 2.0, 0.1, -1.0]), torch.tensor([-2.0, -3.0, -3.0, 4.0])
    probability = lambda s: (start + slope * s).sigmoid()  # noqa: E731
    rising = torch.tensor([True, True, True, False])
    limit = torch.tensor([6.0, 6.0, 6.0, 6.0])
    strength, reached = strength_until(probability, 0.8, limit, rising)
    exact = (torch.tensor(0.8).logit() - start) / slope
    assert reached.tolist() == [True, True, False, True] and strength[2] == 6
    assert (strength - exact)[reached].abs().max() < 6 / 8 / 2**8 + 1e-4
    strength, reached = strength_until(probability, 0.1, limit, torch.tensor([True] * 4))
    assert strength[0] == 0 and reached[0]  # it has it already
