"""Disentanglement scores of codes with known values."""

import numpy as np
import pytest

from evaluation.disentanglement import all_scores, dci, dci_lin, factor_vae_score, mig, sap, sap_gap


@pytest.fixture
def factors() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 5, (4000, 3))


def with_dead(codes: np.ndarray) -> np.ndarray:
    return np.column_stack([codes, np.full(len(codes), 0.3)])


def test_codes_that_are_the_factors_score_one(factors):
    codes = factors[:, [2, 0, 1]].astype(float)
    assert mig(codes, factors) == pytest.approx(1, abs=0.01)
    assert sap(codes, factors) == pytest.approx(1, abs=0.05)
    scores = dci_lin(codes, factors)
    assert scores["D"] > 0.9 and scores["C"] > 0.9


def test_codes_rotated_by_45_degrees_score_zero():
    v = np.random.default_rng(0).uniform(-1, 1, (10_000, 2))
    codes = v @ np.array([[1, 1], [1, -1]]) / np.sqrt(2)
    assert mig(codes, v) < 0.05
    assert sap(codes, v) < 0.05


def test_dci_and_sap_of_known_importance():
    assert dci(np.eye(4)) == pytest.approx({"D": 1, "C": 1})
    assert dci(np.ones((4, 4))) == pytest.approx({"D": 0, "C": 0}, abs=1e-9)
    assert sap_gap(np.array([[0.9, 0.2], [0.4, 0.5], [0.1, 0.3]])) == pytest.approx((0.5 + 0.2) / 2)


def test_a_constant_code_does_not_change_the_scores(factors):
    codes = factors + np.random.default_rng(1).normal(0, 0.3, factors.shape)
    alive, dead = all_scores(codes, factors), all_scores(with_dead(codes), factors)
    assert dead == pytest.approx(alive, abs=1e-6)
    assert dci(np.vstack([np.eye(3), np.zeros((1, 3))])) == pytest.approx({"D": 1, "C": 1})


def test_factor_vae_score(factors):
    def draw(factor, n, g):
        batch = g.uniform(-1, 1, (n, 3))
        batch[:, factor] = batch[0, factor]
        return batch

    same = lambda v: v  # noqa: E731
    spread = np.full(3, 0.577)
    assert factor_vae_score(same, draw, 3, spread) == 1
    assert factor_vae_score(with_dead, draw, 3, np.append(spread, 0)) == 1
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    assert factor_vae_score(lambda v: v @ np.ones((3, 3)), draw, 3, spread) < 0.6
    assert factor_vae_score(lambda v: v @ turn, draw, 3, spread) <= 1
