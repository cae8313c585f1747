"""Rows that nearly equal another one, at another place."""

import numpy as np
import pytest

from pipeline.stages import repeated_rows
from pipeline.stages.repeated_rows import RowSignatures, count_bits

DIMENSIONS = 384
RNG = np.random.default_rng(7)


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def distinct(count, dimensions=DIMENSIONS):
    return unit(RNG.standard_normal((count, dimensions)))


def beside(rows, cosine):
    """Rows at a given cosine to others."""
    away = distinct(len(rows), rows.shape[1])
    away = unit(away - (away * rows).sum(axis=1, keepdims=True) * rows)
    return unit(cosine * rows + np.sqrt(1 - cosine**2) * away)


def repeated(rows, *, places=None, step=100, apart=0):
    places = np.stack([np.arange(len(rows))] * 2, axis=1) if places is None else places
    signatures = RowSignatures()
    for at in range(0, len(rows), step):
        signatures.add(rows[at : at + step])

    def vectors_of(chosen):
        assert (np.diff(chosen) > 0).all()
        return [rows[part] for part in np.array_split(chosen, 3)]

    return np.flatnonzero(signatures.repeated(places, vectors_of, apart=apart)).tolist()


@pytest.mark.parametrize("cosine", [1.0, 0.9999, 0.998, 0.996])
def test_near_rows_are_found_wherever_they_lie(cosine):
    rows = distinct(3000)
    rows = np.concatenate([rows, beside(rows[:200], cosine)])
    assert repeated(rows) == [*range(200), *range(3000, 3200)]
    assert repeated(rows, step=7) == repeated(rows, step=5000)


@pytest.mark.parametrize("cosine", [0.99, 0.9, 0.5])
def test_rows_of_similar_ground_are_not(cosine):
    rows = distinct(1000)
    assert repeated(np.concatenate([rows, beside(rows, cosine)])) == []


def test_most_of_an_area_may_be_one_picture():
    rows = np.concatenate([beside(np.repeat(distinct(1), 5000, axis=0), 0.999), distinct(3)])
    assert repeated(rows) == list(range(5000))


def test_a_network_of_similar_answers_is_measured_by_their_spread():
    rows = beside(np.repeat(distinct(1), 300, axis=0), 0.999)
    rows[100] = rows[0]
    assert repeated(rows) == [0, 100]


def test_equal_rows_keep_their_order_among_others():
    """What is compared must not depend on the order in which a processor leaves equal signatures."""
    rows = np.concatenate([np.repeat(distinct(20), 50, axis=0), distinct(500)])
    order = RNG.permutation(len(rows))
    places = np.stack([np.arange(len(rows)), np.zeros(len(rows), int)], axis=1)
    found = repeated(rows[order], places=places)
    assert found == np.flatnonzero(order < 1000).tolist()


@pytest.mark.parametrize("distinct_keys", [1, 5, 1 << 20, 1 << 63])
def test_rows_are_ordered_by_their_whole_key_and_then_as_they_come(distinct_keys):
    """Keys that differ in their last bits alone share the place of the row's number."""
    for count in (2, 3, 255, 256, 257, 5000):
        keys = RNG.integers(0, distinct_keys, count).astype(np.uint64)
        for each in (keys, keys << np.uint64(1) | np.uint64(1 << 63), ~keys):
            expected = np.argsort(each, kind="stable")
            assert (repeated_rows._stable_order(each) == expected).all()


def test_bits_are_counted_without_the_newer_numpy(monkeypatch):
    words = RNG.integers(0, 1 << 63, 100).astype(np.uint64)
    expected = [word.bit_count() for word in words.tolist()]
    assert count_bits(words).tolist() == expected
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert count_bits(words).tolist() == expected


def test_overlapping_squares_are_not_compared():
    rows = np.repeat(distinct(50), 2, axis=0)
    places = np.stack(
        [np.repeat(np.arange(50) * 100, 2) + np.tile([0, 8], 50), np.zeros(100)], axis=1
    ).astype(int)
    assert repeated(rows, places=places, apart=8) == []
    assert repeated(rows, places=places, apart=7) == list(range(100))
    rows[99] = rows[0]
    assert repeated(rows, places=places, apart=8) == [0, 1, 99]


@pytest.mark.parametrize("rows", [distinct(0), distinct(1), np.zeros((0, 0), np.float32)])
def test_a_single_row_is_not_repeated(rows):
    assert repeated(rows) == []
