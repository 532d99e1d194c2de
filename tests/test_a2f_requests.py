"""Requests: signs, columns, wrong requests, samples of the attributes' joint distribution."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from a2f.requests import AttributeTable, signed, texture_columns, wrong_requests
from engine import UserError

NAMES = ["Smiling", "Black_Hair", "Male", "Blond_Hair"]


def labels(n: int = 4000, seed: int = 0) -> np.ndarray:
    """Smiling goes with Male; at most one hair colour."""
    rng = np.random.default_rng(seed)
    male = rng.random(n) < 0.5
    smiling = rng.random(n) < np.where(male, 0.8, 0.3)
    hair = rng.integers(0, 3, n)
    return np.stack([smiling, hair == 1, male, hair == 2], 1).astype(np.float32)


TABLE = AttributeTable.of(labels(), NAMES)


def test_signed_attributes():
    attr = torch.tensor([[0.0, 1.0, float("nan"), 0.75]])
    assert signed(attr).tolist() == [[-1.0, 1.0, 0.0, 0.5]]


def test_texture_columns_follow_the_list_and_the_data():
    assert texture_columns([], NAMES) == [0, 2]
    assert texture_columns(["Male", "Smiling"], NAMES) == [2, 0]
    assert texture_columns([], NAMES[::-1]) == [1, 3]
    with pytest.raises(UserError, match="Bangs"):
        texture_columns(["Bangs"], NAMES)
    with pytest.raises(UserError, match="model.texture"):
        texture_columns([], ["Black_Hair"])


def test_wrong_requests():
    a = torch.tensor([[1.0, -1.0], [-1.0, 0.0], [1.0, 1.0]])
    assert torch.equal(wrong_requests(a, "row"), a[[2, 0, 1]])
    turned = wrong_requests(a, "bit")
    assert ((turned != a).sum(1) <= 1).all() and torch.equal(turned.abs(), a.abs())


def test_sampled_rows_have_the_frequencies_of_the_table():
    rows = TABLE.draw(4000, seed=3)
    found = np.array([(rows == row).all(1).sum() for row in TABLE.rows])
    assert found.sum() == 4000
    assert chisquare(found, TABLE.counts / TABLE.counts.sum() * 4000).pvalue > 0.001
    assert (rows[:, [1, 3]].sum(1) <= 1).all()


def test_given_values_stay_and_others_are_sampled_conditionally():
    rows = TABLE.draw(2000, {"Male": 1.0}, seed=1)
    assert (rows[:, 2] == 1).all() and 0.75 < rows[:, 0].mean() < 0.85
    assert (TABLE.draw(50, {"Smiling": 0.7}, seed=1)[:, 0] == np.float32(0.7)).all()
    assert TABLE.support({"Male": 1.0}) == labels()[:, 2].sum()


def test_a_row_depends_on_seed_and_index_only():
    few, many = TABLE.draw(4, seed=5), TABLE.draw(16, seed=5)
    assert np.array_equal(few, many[:4])
    assert np.array_equal(TABLE.draw(4, seed=5, first=8), many[8:12])
    assert not np.array_equal(TABLE.draw(16, seed=6), many)


def test_rare_requests_use_the_most_similar_rows():
    attr = np.array([[0, 1, 1, 0]] * 60 + [[1, 1, 1, 0]] * 3, np.float32)
    rows = AttributeTable.of(attr, NAMES).draw(20, {"Male": 0.0, "Smiling": 1.0}, seed=0)
    assert (rows[:, 0] == 1).all() and (rows[:, 2] == 0).all() and (rows[:, 1] == 1).all()
    # A stated hair colour clears the one that the nearest rows have.
    rows = AttributeTable.of(attr, NAMES).draw(20, {"Blond_Hair": 1.0}, seed=0)
    assert (rows[:, 3] == 1).all() and (rows[:, 1] == 0).all()


def test_conflicting_values_are_an_error():
    with pytest.raises(UserError, match="Black_Hair=1 Blond_Hair=1"):
        TABLE.draw(1, {"Black_Hair": 1.0, "Blond_Hair": 1.0})


def test_unknown_attributes_are_filled_from_the_most_frequent_row():
    row = np.array([[np.nan, 1, 1, np.nan]], np.float32)
    assert TABLE.complete(row)[0].tolist() == [1, 1, 1, 0]
    assert np.isnan(row).sum() == 2  # the argument stays


def test_the_table_is_saved_and_loaded(tmp_path):
    TABLE.save(tmp_path / "attribute_table.npz")
    again = AttributeTable.load(tmp_path / "attribute_table.npz")
    assert again.attributes == NAMES and np.array_equal(again.rows, TABLE.rows)
    assert np.array_equal(again.draw(8, seed=2), TABLE.draw(8, seed=2))
    with pytest.raises(UserError, match="is missing"):
        AttributeTable.load(tmp_path / "no.npz")


def test_rows_with_unknown_attributes_are_left_out():
    attr = labels(100)
    attr[:10, 0] = np.nan
    assert AttributeTable.of(attr, NAMES).counts.sum() == 90
