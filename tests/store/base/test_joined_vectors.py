"""Descriptors of several networks become one vector of length 1."""

import numpy as np
import pytest

from store.base.joined_vectors import concatenate, unit_rows


def vectors(seed, count=5, dimensions=4):
    found = np.random.default_rng(seed).standard_normal((count, dimensions)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_the_product_is_the_mean_of_cosines_by_the_squares_of_weights():
    first, second = vectors(0), vectors(1, dimensions=7)
    joined = concatenate([first, second], [1_000_000, 3_000_000])
    assert (joined.dtype, joined.shape) == (np.float32, (5, 11))
    np.testing.assert_allclose(np.linalg.norm(joined, axis=1), 1, atol=1e-6)
    expected = (first @ first.T + 9 * (second @ second.T)) / 10
    np.testing.assert_allclose(joined @ joined.T, expected, atol=1e-6)


def test_a_lone_networks_descriptors_stay_as_they_are():
    assert concatenate([found := 3 * vectors(0)], [7]) is found


@pytest.mark.parametrize("scale", [1e-3, 1, 1e30])
def test_only_the_ratios_of_weights_and_no_lengths_matter(scale):
    parts = [vectors(0), vectors(1)]
    joined = concatenate([np.float32(scale) * parts[0], parts[1]], [2, 4])
    np.testing.assert_allclose(joined, concatenate(parts, [1, 2]), atol=1e-6)


def test_rows_without_a_length_stay_as_they_are():
    rows = np.array([[3, 4], [0, 0], [np.nan, 1], [np.inf, 1]], np.float32)
    np.testing.assert_array_equal(unit_rows(rows)[1:], rows[1:])
    np.testing.assert_allclose(unit_rows(rows)[0], [0.6, 0.8])
