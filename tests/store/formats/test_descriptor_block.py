"""Blocks: bytes that are a function of their content, and a reader that believes nothing."""

import hashlib
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from store.base.identity import descriptor_id, tile_of
from store.formats import descriptor_block
from store.formats.descriptor_block import (
    Block,
    BlockError,
    block_size,
    decode,
    decode_header,
    decode_keys,
    encode,
    key_size,
)


def make(places, *, zoom=5, cell=(0, 1), dimensions=3, seed=0):
    rng = np.random.default_rng(seed)
    ids = sorted(descriptor_id(zoom, x, y, view) for x, y, view in places)
    return Block(
        zoom=zoom,
        cell_x=cell[0],
        cell_y=cell[1],
        dimensions=dimensions,
        ids=np.array(ids, np.uint64),
        digests=rng.integers(0, 256, (len(ids), 32), dtype=np.uint8),
        vectors=rng.standard_normal((len(ids), dimensions)).astype(np.float32),
        texture=rng.random(len(ids)).astype(np.float32),
    )


def changed(block, **fields):
    return Block(**({name: getattr(block, name) for name in Block.__slots__} | fields))


def assert_equal(left, right):
    assert (left.cell, left.dimensions) == (right.cell, right.dimensions)
    for name in ("ids", "digests", "vectors", "texture"):
        ours, theirs = getattr(left, name), getattr(right, name)
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


places = st.sets(
    st.tuples(st.integers(0, 15), st.integers(16, 31), st.sampled_from([0, 0, 0, 1, 255])), max_size=40
)


@given(places, st.integers(1, 40), st.integers(0, 2**32))
def test_round_trip(where, dimensions, seed):
    block = make(where, dimensions=dimensions, seed=seed)
    data = encode(block)
    back = decode(data)
    assert_equal(back, block)
    assert len(data) == block_size(len(where), dimensions)
    assert encode(back) == data
    ids, digests = decode_keys(data[: key_size(len(where))])
    np.testing.assert_array_equal(ids, block.ids)
    np.testing.assert_array_equal(digests, block.digests)


@given(hnp.arrays(np.float32, (2, 3), elements=st.floats(allow_nan=True, allow_infinity=True, width=32)))
def test_exactly_the_finite_vectors_are_accepted(vectors):
    block = changed(make([(1, 17, 0), (2, 17, 0)]), vectors=vectors)
    if np.isfinite(vectors).all():
        np.testing.assert_array_equal(decode(encode(block)).vectors, vectors)
    else:
        with pytest.raises(BlockError, match="finite vectors"):
            encode(block)


def test_golden_bytes():
    block = Block(
        zoom=5,
        cell_x=0,
        cell_y=1,
        dimensions=2,
        ids=np.array([descriptor_id(5, 3, 17), descriptor_id(5, 3, 18)], np.uint64),
        digests=np.array([[7] * 32, [9] * 32], np.uint8),
        vectors=np.array([[0.5, -1.0], [0.0, 1.0]], np.float32),
        texture=np.array([0.25, 2.0], np.float32),
    )
    header = b"C10BLOCK" + struct.pack("<6I", 1, 5, 0, 1, 2, 2) + bytes(32)
    ids = struct.pack("<2Q", 5 << 58 | 3 << 25 | 17, 5 << 58 | 3 << 25 | 18) + bytes(48)
    digests = bytes([7] * 32 + [9] * 32)
    texture = struct.pack("<2f", 0.25, 2.0) + bytes(56)
    vectors = struct.pack("<4f", 0.5, -1.0, 0.0, 1.0)
    assert encode(block) == header + ids + digests + texture + vectors
    assert hashlib.sha256(encode(block)).hexdigest() == (
        "2963fe50119ab63bf2ae45a7e7723b5a232104494f6b15961e42a7336983f7a9"
    )


def test_columns_are_aligned_views_that_cannot_be_written():
    block = make([(x, y, 0) for x in range(16) for y in range(16, 31)], dimensions=7)
    data = np.frombuffer(encode(block), np.uint8)
    back = decode(data.data)
    for name in ("ids", "digests", "vectors", "texture"):
        column = getattr(back, name)
        assert not column.flags.writeable
        assert np.shares_memory(column, data)
        assert (column.ctypes.data - data.ctypes.data) % 64 == 0


def test_an_empty_block():
    block = make([])
    assert decode(encode(block)).rows == 0
    assert block_size(0, 3) == 64


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"ids": np.array([1, 2], np.int64)}, "ids as uint64"),
        ({"digests": np.zeros((2, 31), np.uint8)}, "digests as uint8"),
        ({"vectors": np.zeros((2, 3))}, "vectors as float32"),
        ({"vectors": np.zeros((2, 4), np.float32)}, "vectors as float32"),
        ({"texture": np.zeros(3, np.float32)}, "texture as float32"),
        ({"texture": np.array([0, np.nan], np.float32)}, "finite texture"),
        ({"ids": np.array([descriptor_id(5, 1, 17)] * 2, np.uint64)}, "ascending order"),
        ({"ids": np.array([descriptor_id(5, 2, 17), descriptor_id(5, 1, 17)], np.uint64)}, "ascending order"),
        (
            {"ids": np.array([descriptor_id(5, 1, 17), descriptor_id(5, 16, 17)], np.uint64)},
            "only ids of cell",
        ),
        (
            {"ids": np.array([descriptor_id(5, 1, 15), descriptor_id(5, 1, 17)], np.uint64)},
            "only ids of cell",
        ),
        (
            {"ids": np.array([descriptor_id(4, 1, 15), descriptor_id(5, 1, 17)], np.uint64)},
            "only ids of cell",
        ),
        ({"ids": np.array([descriptor_id(5, 1, 17), (1 << 63) + 5], np.uint64)}, "only ids of cell"),
        ({"cell_x": 2}, "a cell within 0 to 1"),
        ({"zoom": 26}, "zoom of 0 to 25"),
        ({"zoom": -1}, "zoom of 0 to 25"),
    ],
)
def test_a_block_that_breaks_a_rule_is_not_encoded(fields, complaint):
    block = changed(make([(1, 17, 0), (2, 17, 0)]), **fields)
    with pytest.raises(BlockError, match=complaint):
        encode(block)


def test_tiles_beyond_the_edge_of_a_small_world_are_refused():
    block = make([(1, 1, 0)], zoom=1, cell=(0, 0))
    assert_equal(decode(encode(block)), block)
    outside = changed(block, ids=np.array([1 << 58 | 2 << 25], np.uint64))
    with pytest.raises(BlockError, match="only ids of cell"):
        encode(outside)


def patched(data, offset, value):
    return data[:offset] + value + data[offset + len(value) :]


GOOD = encode(make([(1, 17, 0), (2, 17, 0), (2, 18, 3)], dimensions=5))


@pytest.mark.parametrize(
    ("zoom", "cell", "place"),
    [(0, (0, 0), (0, 0)), (3, (0, 0), (7, 5)), (4, (0, 0), (15, 3)), (25, (9, 2), (159, 40))],
)
def test_an_id_is_refused_for_each_bit_that_is_not_its_cells(zoom, cell, place):
    good = make([(*place, 200)], zoom=zoom, cell=cell)
    encode(good)
    for bit in range(64):
        flipped = int(good.ids[0]) ^ 1 << bit
        stray_zoom, x, y, _ = tile_of(flipped)
        inside = stray_zoom == zoom and (x >> 4, y >> 4) == cell and max(x, y) < 1 << zoom
        stray = changed(good, ids=np.array([flipped], np.uint64))
        if inside:
            encode(stray)
        else:
            with pytest.raises(BlockError, match="only ids of cell"):
                encode(stray)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "a header of 64 bytes"),
        (GOOD[:63], "a header of 64 bytes"),
        (GOOD[:-1], "truncated or has a tail"),
        (GOOD + b"\0", "truncated or has a tail"),
        (patched(GOOD, 0, b"C10BLOCX"), "magic"),
        (patched(GOOD, 8, b"\2"), "block format 1, found 2"),
        (patched(GOOD, 12, b"\x1a"), "zoom"),
        (patched(GOOD, 24, bytes(4)), "dimensions"),
        (patched(GOOD, 28, b"\xff\xff\xff\xff"), "rows"),
        (patched(GOOD, 40, b"\1"), "end of the header"),
        (patched(GOOD, 64 + 3 * 8, b"\1"), "between the key columns"),
        (patched(GOOD, 128 + 3 * 32, b"\1"), "between the key columns"),
        (patched(GOOD, 256 + 3 * 4, b"\1"), "between texture and vectors"),
        (patched(GOOD, 64, GOOD[72:80]), "ascending"),
        (patched(GOOD, len(GOOD) - 4, struct.pack("<f", float("inf"))), "finite vectors"),
    ],
)
def test_damaged_bytes_are_refused_with_the_rule_they_break(data, complaint):
    with pytest.raises(BlockError, match=complaint):
        decode(data)


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255), st.integers(0, len(GOOD)))
def test_damage_is_refused_or_gives_a_canonical_block(position, mask, length):
    data = bytearray(GOOD)
    data[position] ^= mask
    data = bytes(data[:length]) if length < len(GOOD) // 2 else bytes(data)
    try:
        block = decode(data)
    except BlockError:
        return
    assert encode(block) == data


def test_keys_are_read_without_the_vectors():
    header = decode_header(GOOD[:64])
    assert (header.rows, header.dimensions, header.size) == (3, 5, len(GOOD))
    ids, _ = decode_keys(GOOD[: key_size(3)])
    assert ids.tolist() == [descriptor_id(5, 1, 17), descriptor_id(5, 2, 17), descriptor_id(5, 2, 18, 3)]
    with pytest.raises(BlockError, match="bytes of keys"):
        decode_keys(GOOD[: key_size(3) - 1])


def test_vectorised_ids_agree_with_descriptor_id():
    zoom, x, y = np.array([0, 5, 25]), np.array([0, 31, 2**25 - 1]), np.array([0, 7, 2**25 - 1])
    expected = [descriptor_id(*map(int, place)) for place in zip(zoom, x, y, strict=True)]
    assert descriptor_block.descriptor_ids(zoom, x, y).tolist() == expected
