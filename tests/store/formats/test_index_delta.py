"""Deltas: what changed between two sets of rows, there and back, and as bytes."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.base.identity import descriptor_id
from store.formats import index_delta as d

DIMENSIONS = 3
GOLDEN = "".join(
    (
        "43313044454c5441" + "01000000" + "02000000" + "0200000000000000" + "0100000000000000" + "00" * 32,
        "0500000000000000" + "0700000000000000" + "00" * 48,
        "0700000000000000" + "00" * 56,
        "0000803f00000000" + "000000000000803f" + "00" * 48,
        "000080bf00000000",
    )
)


def rows_in(found):
    """Rows of a map from id to vector."""
    ids = np.array(sorted(found), np.uint64)
    vectors = [found[int(each)] for each in ids]
    return d.Rows(ids, np.array(vectors, np.float32).reshape(len(ids), DIMENSIONS))


def map_of(rows):
    return {
        int(each): tuple(vector.view(np.uint32).tolist())
        for each, vector in zip(rows.ids, rows.vectors, strict=True)
    }


numbers = st.sampled_from([0.0, -0.0, 1.0, -2.5, 3.25])
vectors = st.tuples(numbers, numbers, numbers)
places = st.builds(descriptor_id, st.just(7), st.integers(0, 40), st.integers(0, 40))
maps = st.dictionaries(places, vectors, max_size=12)


@given(maps, maps)
def test_a_delta_is_applied_and_undone(before, now):
    found = d.delta_between(rows_in(before), rows_in(now))
    kept = {key: value for key, value in map_of(rows_in(before)).items() if key not in map_of(found.dropped)}
    assert kept | map_of(found.added) == map_of(rows_in(now))
    assert map_of(d.undo_delta(rows_in(now), found)) == map_of(rows_in(before))
    unchanged = {
        key for key in before.keys() & now.keys() if map_of(rows_in(before))[key] == map_of(rows_in(now))[key]
    }
    assert not unchanged & (map_of(found.added).keys() | map_of(found.dropped).keys())


@given(maps, maps)
def test_a_delta_is_encoded_and_decoded(before, now):
    found = d.delta_between(rows_in(before), rows_in(now))
    data = d.encode(found)
    again = d.decode(data)
    assert d.encode(again) == data
    assert map_of(again.added) == map_of(found.added)
    assert map_of(again.dropped) == map_of(found.dropped)
    assert (again.size, again.dimensions) == (found.size, DIMENSIONS)


@given(maps, maps)
def test_the_deltas_of_all_cells_are_the_whole_delta(before, now):
    whole = d.delta_between(rows_in(before), rows_in(now))
    cells = {(7, x, y) for x in range(3) for y in range(3)}
    parts = [whole.in_cell(cell) for cell in cells]
    assert d.encode(d.merge_deltas(parts, DIMENSIONS)) == d.encode(whole)
    assert sum(part.size for part in parts) == whole.size
    assert whole.in_cell((6, 0, 0)).size == 0
    assert whole.outside_cells(cells).size == 0
    assert d.encode(whole.outside_cells([])) == d.encode(whole)
    assert {cell for cell in cells if len(whole.in_cell(cell).dropped)} == {*whole.cells_of_dropped}


def test_zero_and_minus_zero_are_two_vectors():
    one, other = rows_in({1: (0.0, 1.0, 2.0)}), rows_in({1: (-0.0, 1.0, 2.0)})
    assert d.delta_between(one, other).size == 2
    assert d.delta_between(one, one).size == 0


def golden():
    added = d.Rows(np.array([5, 7], np.uint64), np.array([[1, 0], [0, 1]], np.float32))
    return d.Delta(added, d.Rows(np.array([7], np.uint64), np.array([[-1, 0]], np.float32)))


def test_the_form_of_version_1():
    assert d.encode(golden()).hex() == GOLDEN
    assert d.encode(d.decode(bytes.fromhex(GOLDEN))).hex() == GOLDEN


def changed(offset, value):
    data = bytearray(d.encode(golden()))
    data[offset : offset + len(value)] = value
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"C10DELTA", "a header of 64 bytes, found 8"),
        (changed(0, b"C10BLOCK"), "magic"),
        (changed(8, b"\2"), "version 1, found .* and 2"),
        (changed(12, struct.pack("<I", 0)), "fits memory"),
        (changed(12, struct.pack("<I", 1 << 17)), "fits memory"),
        (changed(16, struct.pack("<Q", 1 << 40)), "fits memory"),
        (changed(24, struct.pack("<Q", 1 << 40)), "fits memory"),
        (changed(16, struct.pack("<Q", 300)), "bytes for 300"),
        (d.encode(golden()) + b"\0", "bytes for 2"),
        (changed(40, b"\1"), "zero bytes"),
        (changed(64 + 16, b"\1"), "zero bytes"),
        (changed(128 + 8, b"\1"), "zero bytes"),
        (changed(192 + 16, b"\1"), "zero bytes"),
        (changed(64, struct.pack("<Q", 7)), "ascending order"),
        (changed(64 + 8, struct.pack("<Q", 1 << 63)), "ascending order"),
        (changed(192, struct.pack("<f", float("nan"))), "of added rows"),
        (changed(256, struct.pack("<f", float("inf"))), "of dropped rows"),
    ],
)
def test_other_bytes_are_refused(data, reason):
    with pytest.raises(d.DeltaError, match=reason):
        d.decode(data)


@given(st.binary(max_size=400), st.integers(0, 263))
def test_hostile_bytes_are_refused_or_read(tail, offset):
    data = changed(offset, tail[: 264 - offset])
    try:
        found = d.decode(data)
    except d.DeltaError:
        return
    assert d.encode(found) == data


@pytest.mark.parametrize(
    ("added", "reason"),
    [
        (d.Rows(np.array([1], np.int64), np.ones((1, 2), np.float32)), "uint64"),
        (d.Rows(np.array([1], np.uint64), np.ones((1, 2), np.float64)), "uint64"),
        (
            d.Rows(np.array([1], np.uint64), np.ones((2, 2), np.float32)),
            r"a vector for each of the added rows, found \[2, 2\]",
        ),
        (
            d.Rows(np.array([1], np.uint64), np.ones((1, 0), np.float32)),
            "a vector for each of the added rows",
        ),
        (d.Rows(np.array([1], np.uint64), np.ones(2, np.float32)), "float32 \\[n, d\\]"),
    ],
)
def test_rows_that_do_not_belong_together_are_refused(added, reason):
    with pytest.raises(d.DeltaError, match=reason):
        d.encode(d.Delta(added, d.empty_delta(2).dropped))


def test_a_delta_of_other_rows_cannot_be_undone():
    before, now = rows_in({1: (1, 2, 3), 2: (1, 2, 3)}), rows_in({2: (1, 2, 3), 3: (1, 2, 3)})
    found = d.delta_between(before, now)
    with pytest.raises(d.DeltaError, match="one that is missing"):
        d.undo_delta(before, found)
    with pytest.raises(d.DeltaError, match="one that is unchanged"):
        d.undo_delta(rows_in({1: (1, 2, 3), 3: (1, 2, 3)}), found)
