"""Tiles as columns are the same tiles as one by one."""

import tracemalloc
from dataclasses import replace
from datetime import date

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.tiles.tile import SourceTile
from pipeline.tiles.tile_columns import TileColumns
from store.base.identity import descriptor_id, digest_packed_tiles, digest_tile_set

days = st.none() | st.dates(date(1970, 1, 1), date(2100, 1, 1))


@st.composite
def single_tiles(draw):
    z = draw(st.integers(0, 25))
    x, y = draw(st.integers(0, (1 << z) - 1)), draw(st.integers(0, (1 << z) - 1))
    return SourceTile(
        z=z,
        x=x,
        y=y,
        sha256=draw(st.binary(min_size=32, max_size=32)).hex(),
        size=draw(st.integers(1, 1 << 40)),
        captured=draw(days),
        locator=("file", f"/{z}/{x}/{y}"),
    )


lists = st.lists(single_tiles(), max_size=20, unique_by=lambda tile: tile.place)


@given(lists)
def test_columns_give_back_the_tiles(tiles):
    columns = TileColumns.of(tiles)
    assert list(columns) == tiles
    assert columns == tiles
    assert len(columns) == len(tiles)
    assert [columns[number] for number in range(-len(tiles), len(tiles))] == [*tiles, *tiles]
    assert columns.hex_digests == [tile.sha256 for tile in tiles]
    assert columns.ids.tolist() == [descriptor_id(*tile.place) for tile in tiles]
    assert TileColumns.of(columns) is columns


@given(lists, st.data())
def test_some_of_the_columns_give_back_these_tiles(tiles, data):
    columns = TileColumns.of(tiles)
    order = data.draw(st.permutations(range(len(tiles))))
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(tiles), max_size=len(tiles))), np.bool_)
    start, end = data.draw(st.integers(-5, 25)), data.draw(st.integers(-5, 25))
    shuffled = columns.take(np.array(order, np.intp))
    assert shuffled == [tiles[number] for number in order]
    assert columns.take(mask) == [tile for tile, chosen in zip(tiles, mask, strict=True) if chosen]
    # What was taken is taken from once more, and still knows where each tile lies.
    assert shuffled[start:end] == [tiles[number] for number in order][start:end]


@given(lists)
def test_the_packed_form_is_the_one_that_identity_hashes(tiles):
    pairs = [(descriptor_id(*tile.place), tile.sha256) for tile in tiles]
    assert digest_packed_tiles(TileColumns.of(tiles).packed()) == digest_tile_set(pairs)


def tile(z, x, y):
    return SourceTile(z=z, x=x, y=y, sha256="ab" * 32, size=1, captured=None, locator=("file", "x"))


def test_a_tile_that_occurs_twice_is_no_set():
    pairs = [(descriptor_id(3, 1, 2), "ab" * 32)] * 2
    for make in (
        lambda: TileColumns.of([tile(3, 1, 2), tile(4, 0, 0), tile(3, 1, 2)]).packed(),
        lambda: digest_tile_set(pairs),
    ):
        with pytest.raises(ValueError, match=r"tile \(3, 1, 2\) occurs twice"):
            make()


@pytest.mark.parametrize("place", [(3, 8, 0), (3, 0, 8), (3, -1, 0), (3, 0, -1), (26, 0, 0), (-1, 0, 0)])
def test_a_place_outside_of_the_world_has_no_id(place):
    with pytest.raises(ValueError, match="no tile"):
        _ = TileColumns.of([tile(3, 1, 1), tile(*place)]).ids


def test_other_days_leave_the_rest():
    tiles = [tile(3, 1, 1), tile(3, 1, 2)]
    dated = TileColumns.of(tiles).with_days(np.array([0, date(2026, 11, 1).toordinal()], np.int32))
    assert dated == [tiles[0], replace(tiles[1], captured=date(2026, 11, 1))]


def test_they_are_compared_by_what_they_hold():
    one, other = TileColumns.of([tile(3, 1, 1)]), TileColumns.of([tile(3, 1, 2)])
    assert one != other
    assert one != other[:0]
    assert one != 1
    with pytest.raises(TypeError):
        hash(one)


def test_a_million_tiles_are_no_million_objects():
    number = 1_000_000
    side = np.arange(number, dtype=np.int32)
    tracemalloc.start()
    places = np.stack([np.full(number, 20, np.int32), side % 1000, side // 1000], axis=1)
    columns = TileColumns.from_columns(
        places,
        digests=np.zeros((number, 32), np.uint8),
        sizes=np.ones(number, np.int64),
        locator_of=lambda row: ("file", str(row)),
    )
    digest_packed_tiles(columns.packed())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert columns[number - 1].locator == ("file", str(number - 1))
    assert peak < 250 << 20
