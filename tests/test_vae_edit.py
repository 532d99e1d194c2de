"""Edits in a toy code space with known directions."""

from collections import Counter

import pytest
import torch
from torch import Tensor

from data.request import parse_request
from engine import UserError
from vae.attributes import Codes, fit_vectors
from vae.latent_editor import KINDS, LatentEditor

ATTRIBUTES, CLASSES = ["Smiling", "Male"], ["happy", "sad", "neutral"]
META = {"dataset": "toy", "attributes": ATTRIBUTES, "classes": CLASSES}
Z = 6


def toy(n: int, seed: int, correlated: float = 0.0) -> Codes:
    """Smiling adds 2 along axis 0, Male 2 along axis 1; happy 3 along axis 2, sad 3 along axis 3; noise elsewhere."""
    g = torch.Generator().manual_seed(seed)
    male = (torch.rand(n, generator=g) < 0.5).float()
    smiling = torch.where(torch.rand(n, generator=g) < correlated, male, (torch.rand(n, generator=g) < 0.5).float())
    one_hot = torch.nn.functional.one_hot(torch.randint(0, 3, (n,), generator=g), 3).float()
    mu = 0.5 * torch.randn(n, Z, generator=g)
    mu[:, 0] += 2 * smiling
    mu[:, 1] += 2 * male
    mu[:, 2] += 3 * one_hot[:, 0]
    mu[:, 3] += 3 * one_hot[:, 1]
    return Codes(mu, torch.cat([smiling[:, None], male[:, None], one_hot], 1), torch.arange(n))


def editor(kind: str = "ols", correlated: float = 0.0, **options: object) -> LatentEditor:
    train, val = toy(3000, 0, correlated), toy(300, 1, correlated)
    fitted = fit_vectors(train, val, META, kind if kind in ("mean", "balanced") else "ols", {})
    return LatentEditor(train, fitted, META, kind, **options)


def ask(*text: str) -> object:
    return parse_request(text, CLASSES, ATTRIBUTES)


@pytest.mark.parametrize("kind", ["ols", "mean", "knn"])
def test_edit_of_two_attributes_reaches_both_targets(kind: str) -> None:
    e = editor(kind)
    mu = toy(50, 2).mu
    moved = e.move(mu, ask("Smiling=1", "Male=0"))
    rows = [e.vectors.row(name) for name in ATTRIBUTES]
    reading = moved @ e.vectors.score[rows].T
    target = torch.stack([e.vectors.class_mean[rows[0], 1], e.vectors.class_mean[rows[1], 0]])
    assert torch.allclose(reading, target.expand(50, 2), atol=1e-4)
    half = e.move(mu, ask("Smiling=0.5")) @ e.vectors.score[rows[0]]
    assert torch.allclose(half, e.vectors.class_mean[rows[0]].mean().expand(50), atol=1e-4)


def test_flip_uses_known_labels_and_predicts_unknown_ones() -> None:
    e = editor()
    codes = toy(40, 3)
    score, means = e.vectors.score[e.vectors.row("Smiling")], e.vectors.class_mean[e.vectors.row("Smiling")]
    wrong = codes.labels.clone()
    wrong[:, 0] = 1 - wrong[:, 0]  # with wrong labels a flip leads to the current side
    for labels, target in ((codes.labels, 1 - codes.labels[:, 0]), (wrong, codes.labels[:, 0])):
        landed = e.move(codes.mu, ask("Smiling=flip"), labels) @ score
        assert torch.allclose(landed, means[target.long()], atol=1e-4)
    read = (codes.mu @ score > means.mean()).float()
    assert torch.allclose(e.move(codes.mu, ask("Smiling=flip")) @ score, means[(1 - read).long()], atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_edit_from_one_expression_to_another(kind: str) -> None:
    e = editor(kind)
    codes = toy(60, 4)
    sad = codes.labels[:, 3] == 1
    for labels in (codes.labels, None):
        moved = e.move(codes.mu, ask("happy"), labels)[sad]
        assert moved[:, 2].mean().item() == pytest.approx(3, abs=0.3)
        assert moved[:, 3].mean().item() == pytest.approx(0, abs=0.4)
    left = e.move(codes.mu, ask("sad=0"), codes.labels)[sad]
    assert left[:, 2:4].mean(0).abs().max().item() < 0.4


def test_step_unit_is_the_class_distance() -> None:
    e = editor()
    mu = toy(5, 5).mu
    assert torch.equal(e.move(mu, ask("Smiling=+0.0")), mu)
    moved = e.move(mu, ask("Smiling=-1.5"))
    assert torch.allclose(moved - mu, (-1.5 * e.vectors.direction[e.vectors.row("Smiling")]).expand_as(mu), atol=1e-5)


def test_keep_projects_out_directions() -> None:
    e = editor("mean", correlated=0.6, keep=["Male"])
    kept = e.vectors.direction[e.vectors.row("Male")]
    moved = e.move(toy(5, 6).mu, ask("Smiling=+1.0")) - toy(5, 6).mu
    assert (moved @ kept).abs().max().item() < 1e-4


def test_impossible_requests_are_user_errors() -> None:
    e, mu = editor(), toy(2, 7).mu
    for text, said in (("happy=flip", "two sides"), ("Smiling=@2", "vae cannot do this")):
        with pytest.raises(UserError, match=said):
            e.move(mu, ask(text))
    no_neutral = {"dataset": "toy", "attributes": ATTRIBUTES, "classes": ["happy", "sad", "calm"]}
    bare = LatentEditor(e.codes, fit_vectors(e.codes, e.codes, no_neutral, "ols", {}), no_neutral)
    with pytest.raises(UserError, match="no neutral"):
        bare.move(mu, parse_request("happy=0", ["happy", "sad", "calm"], ATTRIBUTES))


def test_label_with_too_few_faces_is_a_user_error() -> None:
    train = toy(600, 8)
    train.labels[:, 1] = (torch.arange(600) < 5).float()
    fitted = fit_vectors(train, train, META, "ols", {})
    assert "Male" not in fitted.names and "595" in fitted.skipped["Male"]
    with pytest.raises(UserError, match="Male has no vector: 595"):
        fitted.row("Male")


def label_free(n: int) -> Tensor:
    return torch.full((n, 5), float("nan"))


def test_unknown_labels_are_predicted() -> None:
    e, codes = editor(), toy(200, 9)
    read = e.complete(codes.mu, label_free(200))
    assert (read == codes.labels).all(1).float().mean().item() > 0.9
    assert torch.equal(e.complete(codes.mu, codes.labels), codes.labels)


def test_matched_groups() -> None:
    """No sad face smiles. So a sad face is matched with smiling neutral faces of its sex, as a neutral face is."""
    codes = toy(4000, 10)
    codes.labels[:, 0] *= 1 - codes.labels[:, 3]
    e = LatentEditor(codes, fit_vectors(codes, codes, META, "ols", {}), META, k=50)
    edit, match_columns = ask("Smiling=1").moves[0], [1, 2, 3, 4]
    for expression, other_side in ((3, {4.0}), (4, {4.0})):
        face, relaxed = torch.zeros(5), Counter()
        face[[1, expression]] = 1
        without, with_ = e.matched_groups(edit, face, 0, match_columns, relaxed, 1)
        assert (codes.labels[without][:, [1, expression]] == 1).all() and (codes.labels[without, 0] == 0).all()
        assert (codes.labels[with_, 1] == 1).all() and not relaxed
        shown = {float(c) for c in codes.labels[with_][:, 2:].argmax(1) + 2}
        assert shown == other_side
    few = LatentEditor(codes, e.vectors, META, k=1000)
    few.matched_groups(edit, face, 0, match_columns, relaxed, 3)
    assert relaxed == {"Male": 3, "neutral": 3}


def test_transport_keeps_the_position_within_the_group() -> None:
    """The relative position in a group is kept. Half strength takes half of the step."""
    e, codes = editor("transport"), toy(50, 11)
    mu = codes.mu[codes.labels[:, 0] == 0]
    labels = codes.labels[codes.labels[:, 0] == 0]
    whole = e.move(mu, ask("Smiling=1"), labels)
    assert (whole - mu)[:, 0].mean().item() == pytest.approx(2.1, abs=0.2)
    assert torch.allclose(e.move(mu, ask("Smiling=0.5"), labels), (mu + whole) / 2, atol=1e-5)
    assert torch.equal(e.move(mu, ask("Smiling=0"), labels), mu)
    once = e.move(mu, ask("Smiling=+1"), labels)  # `=1` would extend it until the score reaches the target
    assert torch.corrcoef(torch.stack([once[:, 0], mu[:, 0]]))[0, 1] > 0.95
    score, (_, smiling) = e.vectors.score[0], e.vectors.class_mean[0]
    further = ((whole - mu) / (once - mu))[:, 0]
    assert further.min() > 0.999 and further.max() < 2.001
    short, ended = once @ score < smiling - 1e-2, (further > 1.001) & (further < 1.999)
    assert (further[short] > 1).all() and 0.2 < ended.float().mean() < 0.8
    assert torch.allclose(whole[ended] @ score, smiling.expand(int(ended.sum())), atol=1e-3)
