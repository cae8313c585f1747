"""Rounded vectors find the best rows, and bound the scores of all others."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.base.joined_vectors import unit_rows
from store.runtime.rounded_vectors import RoundedVectors

pytest.importorskip("faiss")


def unit(count, dimensions, seed, spread=0.0):
    rng = np.random.default_rng(seed)
    scales = np.exp(spread * rng.standard_normal(dimensions))
    return unit_rows((scales * rng.standard_normal((count, dimensions))).astype(np.float32))


@given(st.integers(1, 300), st.sampled_from([3, 16, 50, 384]), st.floats(0, 4), st.integers(0, 1 << 32))
def test_no_other_row_has_a_higher_score(count, dimensions, spread, seed):
    vectors, query = unit(count, dimensions, seed, spread), unit(1, dimensions, seed + 1, spread)[0]
    wanted = 1 + seed % count
    rows, ceiling = RoundedVectors(vectors).best(query, wanted)
    assert rows.dtype == np.int64
    assert len(rows) == wanted
    assert (np.diff(rows) > 0).all()
    scores = vectors @ query
    assert np.delete(scores, rows).max(initial=-1) <= ceiling
    # A number is rounded by at most half of a step; the bound counts that once, and the found score has it too.
    steps = np.ptp(vectors, axis=0) / 255
    assert ceiling <= scores[rows].min() + np.linalg.norm(steps) + 3e-4


def test_the_bound_is_close_in_many_dimensions():
    vectors = unit(5000, 384, 0)
    rows, ceiling = RoundedVectors(vectors).best(vectors[17], 100)
    scores = vectors @ vectors[17]
    assert 17 in rows
    assert ceiling < np.sort(scores)[-100] + 0.02


def test_dimensions_that_are_the_same_in_all_vectors():
    vectors = unit(300, 16, 5)
    vectors[:, 3], vectors[:, 7] = 0, 0.25
    vectors, query = unit_rows(vectors), unit(1, 16, 6)[0]
    rows, ceiling = RoundedVectors(vectors).best(query, 20)
    assert np.delete(vectors @ query, rows).max() <= ceiling < 1
    same = np.repeat(vectors[:1], 30, axis=0)
    rows, ceiling = RoundedVectors(same).best(same[0], 7)
    assert ceiling == pytest.approx(1, abs=1e-3)


def test_a_portion_is_not_the_last_one():
    # Vectors that round badly lie behind the first portion.
    vectors = np.concatenate([unit(5000, 8, 1), unit(100, 8, 2, 3.0)])
    query = unit(1, 8, 3)[0]
    rows, ceiling = RoundedVectors(vectors).best(query, 10)
    assert np.delete(vectors @ query, rows).max() <= ceiling
