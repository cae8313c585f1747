import datetime as dt
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.base.identity import descriptor_id
from store.base.values import ArtifactRef
from store.errors import ArtifactError, ErrorKind
from store.formats.tables import (
    BlockRow,
    decode_blocks,
    decode_tiles,
    encode_blocks,
    encode_tile_columns,
    encode_tiles,
)

shas = st.binary(min_size=32, max_size=32).map(bytes.hex)
dates = st.none() | st.dates()
tiles = st.dictionaries(st.integers(0, (1 << 63) - 1), st.tuples(shas, dates), max_size=8).map(
    lambda found: [(identifier, *rest) for identifier, rest in found.items()]
)
small = st.integers(0, (1 << 32) - 1)
blocks = st.dictionaries(
    st.tuples(small, small, small), st.tuples(small, shas, st.integers(0, (1 << 64) - 1)), max_size=6
).map(
    lambda found: [
        BlockRow(
            zoom=zoom,
            cell_x=x,
            cell_y=y,
            rows=rows,
            ref=ArtifactRef(sha256=sha, size=size),
        )
        for (zoom, x, y), (rows, sha, size) in found.items()
    ]
)
EPOCH = dt.date(1970, 1, 1)


def damaged(decode, data):
    with pytest.raises(ArtifactError) as found:
        decode(data)
    assert found.value.kind is ErrorKind.ARTIFACT_DAMAGED


@given(tiles, st.randoms(use_true_random=False))
def test_tiles_are_decoded_in_ascending_order(rows, order):
    data = encode_tiles(rows)
    shuffled = list(rows)
    order.shuffle(shuffled)
    assert encode_tiles(iter(shuffled)) == data
    assert len(data) == 16 + 44 * len(rows)
    table = decode_tiles(memoryview(data))
    expected = sorted(rows)
    assert len(table) == len(rows)
    assert table.ids.tolist() == [identifier for identifier, _, _ in expected]
    assert [bytes(row).hex() for row in table.digests] == [sha for _, sha, _ in expected]
    days = [-(1 << 31) if day is None else (day - EPOCH).days for _, _, day in expected]
    assert table.captured.tolist() == days
    for identifier, sha, _ in rows:
        assert table.digest(identifier) == sha


@given(tiles, st.integers(-(1 << 70), 1 << 70))
def test_a_tile_that_is_not_in_the_table(rows, identifier):
    known = {row[0]: row[1] for row in rows}
    assert decode_tiles(encode_tiles(rows)).digest(identifier) == known.get(identifier)


def test_bytes_of_a_tile_table():
    data = encode_tiles([(descriptor_id(1, 1, 0), "ab" * 32, dt.date(1970, 1, 3)), (0, "00" * 32, None)])
    ids = struct.pack("<2Q", 0, 1 << 58 | 1 << 25)
    assert data == (
        b"C10TILE1"
        + struct.pack("<Q", 2)
        + ids
        + bytes(32)
        + b"\xab" * 32
        + struct.pack("<2i", -(1 << 31), 2)
    )


def test_a_tile_that_occurs_twice_is_refused():
    with pytest.raises(ValueError, match="twice"):
        encode_tiles([(7, "00" * 32, None), (1, "00" * 32, None), (7, "11" * 32, None)])


@given(blocks, st.randoms(use_true_random=False))
def test_blocks_are_decoded_in_ascending_order(rows, order):
    data = encode_blocks(rows)
    shuffled = list(rows)
    order.shuffle(shuffled)
    assert encode_blocks(iter(shuffled)) == data
    assert len(data) == 16 + 56 * len(rows)
    assert decode_blocks(memoryview(data)) == tuple(
        sorted(rows, key=lambda row: (row.zoom, row.cell_x, row.cell_y))
    )


def test_bytes_of_a_block_table():
    row = BlockRow(zoom=6, cell_x=1, cell_y=2, rows=3, ref=ArtifactRef(sha256="cd" * 32, size=4))
    assert encode_blocks([row]) == (
        b"C10BLCK1"
        + struct.pack("<Q", 1)
        + struct.pack("<4I", 6, 1, 2, 3)
        + b"\xcd" * 32
        + struct.pack("<Q", 4)
    )


TILES = encode_tiles((number, f"{number:064x}", None) for number in range(3))
BLOCKS = encode_blocks(
    BlockRow(zoom=6, cell_x=x, cell_y=0, rows=1, ref=ArtifactRef(sha256=f"{x:064x}", size=1))
    for x in range(3)
)


@pytest.mark.parametrize(("decode", "data"), [(decode_tiles, TILES), (decode_blocks, BLOCKS)])
def test_no_part_of_a_table_is_a_table(decode, data):
    for length in range(len(data)):
        damaged(decode, data[:length])
    damaged(decode, data + b"\0")
    damaged(decode, b"X" + data[1:])
    damaged(decode, data[:8] + struct.pack("<Q", (1 << 64) - 1) + data[16:])


def test_rows_out_of_order_are_refused():
    ids = np.frombuffer(TILES, "<u8", 3, 16)
    for order in ([1, 0, 2], [0, 0, 1]):
        damaged(decode_tiles, TILES[:16] + ids[order].tobytes() + TILES[40:])
    # The columns of cell x are the second of four.
    for columns in ((1, 0, 2), (0, 0, 1)):
        damaged(decode_blocks, BLOCKS[:28] + struct.pack("<3I", *columns) + BLOCKS[40:])


@given(st.sampled_from([(decode_tiles, TILES), (decode_blocks, BLOCKS)]), st.data())
def test_flipped_bits_give_a_table_or_an_artifact_error(case, data):
    decode, good = case
    at = data.draw(st.integers(0, 8 * len(good) - 1))
    bad = bytearray(good)
    bad[at // 8] ^= 1 << at % 8
    try:
        decode(bytes(bad))
    except ArtifactError:
        return
    assert at >= 8 * 16, "a flip in the header went unnoticed"


@pytest.mark.parametrize("day", [2**31 - 1, 1 - 2**31, -719_163, 2_932_897])
def test_days_that_no_calendar_has_are_refused(day):
    damaged(decode_tiles, TILES[:-4] + np.int32(day).tobytes())


@pytest.mark.parametrize("day", [-719_162, 2_932_896, -(2**31)])
def test_days_of_a_calendar_and_none(day):
    assert decode_tiles(TILES[:-4] + np.int32(day).tobytes()).captured[-1] == day


def test_tiles_in_another_order_are_refused():
    ids, digests = np.array([9, 5], np.uint64), np.zeros((2, 32), np.uint8)
    with pytest.raises(ValueError, match="ascending order"):
        encode_tile_columns(ids, digests, np.zeros(2, np.int32))


@given(tiles, st.lists(st.integers(0, (1 << 63) - 1), max_size=4))
def test_days_of_tiles_in_the_table_and_of_others(rows, others):
    captured = {identifier: day for identifier, _, day in rows}
    asked = [*captured, *others]
    known, days = decode_tiles(encode_tiles(rows)).days_of(np.array(asked, np.uint64))
    expected = [captured.get(identifier) for identifier in asked]
    assert known.tolist() == [day is not None for day in expected]
    epoch = dt.date(1970, 1, 1)
    assert days.tolist() == [(day - epoch).days for day in expected if day is not None]
