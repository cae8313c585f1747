"""The block tables of several networks, and the blocks that they list, read as one."""

import struct
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest

from store.base.values import ArtifactRef
from store.errors import ArtifactError
from store.formats import descriptor_block
from store.formats.descriptor_block import Block, BlockError
from store.formats.joined_blocks import read_block
from store.formats.tables import BlockRow, decode_blocks, encode_blocks

WEIGHTS = (1_000_000, 500_000)


def block(units, *, seed=0, dimensions=3, cell=(6, 0, 0)):
    """A block of a cell of zoom 6 with rows for some of its columns."""
    vectors = np.random.default_rng(seed).standard_normal((len(units), dimensions)).astype(np.float32)
    zoom, x, y = cell
    columns = np.array([16 * x + unit for unit in units], np.int64)
    ids = descriptor_block.descriptor_ids(np.full(len(units), zoom), columns, np.full(len(units), 16 * y))
    return Block(
        zoom=zoom,
        cell_x=x,
        cell_y=y,
        dimensions=dimensions,
        ids=ids,
        digests=np.array([[unit] * 32 for unit in units], np.uint8).reshape(-1, 32),
        vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
        texture=np.array([unit + seed for unit in units], np.float32),
    )


def stored(*blocks):
    """The row that lists blocks, and a function that reads them."""
    files = {}
    for each in blocks:
        data = descriptor_block.encode(each)
        files[ArtifactRef(sha256=sha256(data).hexdigest(), size=len(data))] = data
    first, *further = files
    zoom, x, y = blocks[0].cell
    row = BlockRow(
        zoom=zoom,
        cell_x=x,
        cell_y=y,
        rows=blocks[0].rows,
        ref=first,
        further=tuple(further),
        weights=WEIGHTS if further else (),
    )
    return row, files.__getitem__


def test_rows_of_both_stand_side_by_side():
    one, two = block([0, 1, 2]), block([0, 1, 2], seed=1, dimensions=2)
    found = read_block(*stored(one, two))
    assert (found.cell, found.dimensions, found.rows) == (one.cell, 5, 3)
    joined = np.concatenate([one.vectors, two.vectors / 2], axis=1) / np.float32(1.25**0.5)
    np.testing.assert_allclose(found.vectors, joined, atol=1e-6)
    assert (found.texture == one.texture).all()
    assert descriptor_block.decode(descriptor_block.encode(found)).rows == 3


def test_a_lone_block_is_read_as_it_is():
    one = block([0, 1])
    assert (read_block(*stored(one)).vectors == one.vectors).all()


def test_what_one_network_skipped_has_no_row():
    found = read_block(*stored(block([0, 1, 3]), block([1, 2, 3], seed=1)))
    assert (found.digests[:, 0].tolist(), found.texture.tolist()) == ([1, 3], [1, 3])
    assert read_block(*stored(block([0]), block([1], seed=1))).vectors.shape == (0, 6)


def test_blocks_that_do_not_belong_together():
    with pytest.raises(BlockError, match="expected blocks of one cell"):
        read_block(*stored(block([0]), block([0], seed=1, cell=(6, 1, 0))))
    other = replace(block([0], seed=1), digests=np.full((1, 32), 9, np.uint8))
    with pytest.raises(BlockError, match="expected blocks of the same units"):
        read_block(*stored(block([0]), other))


def row(x, *letters, weights=WEIGHTS):
    first, *further = (ArtifactRef(sha256=letter * 64, size=ord(letter)) for letter in letters)
    return BlockRow(
        zoom=6, cell_x=x, cell_y=1, rows=x + 3, ref=first, further=tuple(further), weights=weights
    )


def test_a_table_of_several_networks_comes_back():
    rows = (row(0, "a", "b"), row(1, "c", "d"))
    data = encode_blocks(reversed(rows))
    assert decode_blocks(data) == decode_blocks(memoryview(data)) == rows
    assert [ref.sha256[0] for ref in rows[0].refs] == ["a", "b"]
    assert [name for name, _ in rows[1].files("block")] == [
        "block 6/1/1 of network 1",
        "block 6/1/1 of network 2",
    ]
    heavier = [replace(each, weights=(1, 2)) for each in rows]
    assert encode_blocks(heavier) != data


def test_a_table_of_one_network_is_as_it_always_was():
    alone = row(0, "a", weights=())
    assert encode_blocks([alone]).startswith(b"C10BLCK1")
    assert decode_blocks(encode_blocks([alone])) == (alone,)
    assert [*alone.files("block")] == [("block 6/0/1", alone.ref)]
    assert decode_blocks(encode_blocks([])) == ()


@pytest.mark.parametrize("other", [row(1, "c"), row(1, "c", "d", weights=(1, 2)), row(1, "c", weights=())])
def test_a_table_has_the_same_networks_in_all_cells(other):
    with pytest.raises(ValueError, match="the same networks"):
        encode_blocks([row(0, "a", "b"), other])


def damaged(change):
    data = bytearray(encode_blocks([row(0, "a", "b"), row(1, "c", "d")]))
    change(data)
    return bytes(data)


def swap_cells(data):
    start = 24 + 16 + 8
    data[start : start + 8] = data[start + 4 : start + 8] + data[start : start + 4]


@pytest.mark.parametrize(
    "data",
    [
        encode_blocks([row(0, "a", "b")])[:20],
        encode_blocks([row(0, "a", "b")])[:-1],
        encode_blocks([row(0, "a", "b")]) + b"x",
        damaged(lambda data: struct.pack_into("<Q", data, 16, 1)),
        damaged(lambda data: struct.pack_into("<Q", data, 16, 65)),
        damaged(lambda data: struct.pack_into("<Q", data, 16, 1 << 63)),
        damaged(lambda data: struct.pack_into("<Q", data, 8, 1 << 63)),
        damaged(lambda data: struct.pack_into("<Q", data, 24, 0)),
        damaged(swap_cells),
    ],
)
def test_damaged_tables_of_several_networks(data):
    with pytest.raises(ArtifactError, match="table: expected"):
        decode_blocks(data)
