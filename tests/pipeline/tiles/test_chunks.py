"""Chunks of an area: which are wanted, which are made, and what their tiles are."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.request.area import Area
from pipeline.tiles.chunks import (
    Rectangle,
    chunks_of,
    disjoint_ranges,
    make_chunks,
    tile_ids_under,
    tiles_of,
    wanted_chunks,
)
from pipeline.tiles.retrieval_units import RetrievalUnits, unit_name
from pipeline.tiles.tile_columns import TileColumns
from store.base.geometry.lattice import chunk_id, chunk_of, tile_span
from store.base.geometry.level import Level
from store.base.identity import descriptor_id, tile_of
from store.manifest.levels import ChunkLevel

WORLD = (-1_800_000_000, -850_000_000, 1_800_000_000, 850_000_000)
levels = st.builds(Level, st.integers(2, 5), st.integers(0, 3), st.integers(2, 6))


def columns(places):
    places = np.array(sorted(places), np.int32).reshape(-1, 3)
    rng = np.random.default_rng(0)
    return TileColumns.at(places, rng.integers(0, 256, (len(places), 32), np.uint8))


def all_tiles(zoom):
    return set(product([zoom], range(2**zoom), range(2**zoom)))


def tiles_under(level, x, y):
    x0, nx, y0, ny = tile_span(level, x, y)
    return {(level.zoom, (x0 + i) % 2**level.zoom, y0 + j) for i in range(nx) for j in range(ny)}


boxes = st.tuples(
    st.integers(-1_800_000_000, 1_800_000_000),
    st.integers(-800_000_000, 790_000_000),
    st.integers(-1_800_000_000, 1_800_000_000),
    st.integers(1_000_000, 400_000_000),
).map(lambda box: (box[0], box[1], box[2], min(box[1] + box[3], 850_000_000)))


@given(levels, boxes, st.randoms(use_true_random=False))
def test_a_chunk_is_made_where_all_of_its_tiles_are_there(level, box, random):
    if box[0] == box[2]:
        return
    wanted = wanted_chunks(level, box)
    there = {tile for tile in all_tiles(level.zoom) if random.random() < 0.9}
    if not wanted.total or not there:
        return
    made = make_chunks(ChunkLevel(level=level, tile_edge=256), Area(box), columns(there)).made
    expected = {
        chunk_id(level, x % level.steps_around, y)
        for x in range(wanted.x0, wanted.x0 + wanted.nx)
        for y in range(wanted.y0, wanted.y0 + wanted.ny)
        if tiles_under(level, x % level.steps_around, y) <= there
    }
    assert set(made.ids.tolist()) == expected
    assert made.ids.tolist() == sorted(expected)
    assert chunks_of(level, made.ids).all()


@given(levels, boxes)
def test_the_tiles_of_wanted_chunks_are_those_under_them(level, box):
    wanted = wanted_chunks(level, box) if box[0] != box[2] else Rectangle(0, 0, 0, 0)
    if not wanted.total:
        return
    under = tiles_of(level, wanted)
    found = {
        (level.zoom, x % 2**level.zoom, y)
        for x in range(under.x0, under.x0 + under.nx)
        for y in range(under.y0, under.y0 + under.ny)
    }
    expected = set()
    for x in range(wanted.x0, wanted.x0 + wanted.nx):
        for y in range(wanted.y0, wanted.y0 + wanted.ny):
            expected |= tiles_under(level, x % level.steps_around, y)
    assert found == expected
    ids = [
        chunk_id(level, x % level.steps_around, y)
        for x in range(wanted.x0, wanted.x0 + wanted.nx)
        for y in range(wanted.y0, wanted.y0 + wanted.ny)
    ]
    assert {tile_of(each)[:3] for each in tile_ids_under(np.array(ids)).tolist()} == expected


@given(
    st.lists(
        st.builds(Rectangle, st.integers(0, 15), st.integers(1, 16), st.integers(0, 10), st.integers(1, 6)),
        min_size=1,
        max_size=4,
    )
)
def test_disjoint_ranges_hold_each_tile_once(parts):
    ranges = disjoint_ranges(4, parts)
    found = [tuple(place) for part in ranges for place in part.places()]
    assert len(found) == len(set(found))
    assert set(found) == {
        (4, x % 16, y)
        for part in parts
        for x in range(part.x0, part.x0 + part.nx)
        for y in range(part.y0, part.y0 + part.ny)
    }


def test_a_chunk_around_the_whole_globe_lies_over_its_first_columns_again():
    level = Level(2, 0, 3)
    made = make_chunks(ChunkLevel(level=level, tile_edge=256), Area(WORLD), columns(all_tiles(2))).made
    assert {chunk_of(each)[1] for each in made.ids.tolist()} == {0, 1, 2, 3}


def test_ids_of_several_levels_have_the_tiles_of_each():
    first, second = Level(4, 1, 3), Level(5, 0, 2)
    ids = np.array([chunk_id(first, 31, 4), chunk_id(second, 7, 9)])
    expected = tiles_under(first, 31, 4) | tiles_under(second, 7, 9)
    assert {tile_of(each)[:3] for each in tile_ids_under(ids).tolist()} == expected
    assert tile_ids_under(np.zeros(0, np.int64)).tolist() == []


def test_units_have_names_and_compare_by_their_content():
    tiles = columns({(4, 1, 2), (4, 3, 2)})
    units = RetrievalUnits.of_tiles(tiles)
    assert unit_name(int(units.ids[0])) == "4/1/2"
    assert unit_name(chunk_id(Level(4, 1, 3), 5, 6)) == "5/5/6/35"
    assert units == RetrievalUnits.of_tiles(tiles)
    assert units != RetrievalUnits.joined([])
    assert units != 1
    assert len(RetrievalUnits.joined([units, units])) == 4
    with pytest.raises(ValueError, match="4/1/2 occurs twice"):
        RetrievalUnits.joined([units, units]).packed()
    assert units.packed() == tiles.packed()


def test_joined_tiles_are_in_rising_order_with_their_own_locators():
    from pipeline.testing import FakeTiles

    tiles = {(4, x, y): f"{x}/{y}".encode() for x in range(4) for y in range(2)}
    source = FakeTiles(tiles=tiles)
    found = source.query_by_bbox(WORLD, (4, 4))
    joined = TileColumns.joined([found[5:], found[:2], found[2:5]])
    assert list(joined) == list(found)
    assert TileColumns.joined([found[::-1]]) == found
    assert list(TileColumns.joined([])) == []


def test_tiles_of_which_only_places_are_known_have_no_locator():
    tiles = TileColumns.at(np.array([[4, 1, 2]], np.int32))
    with pytest.raises(ValueError, match="row 0"):
        _ = tiles[0]
    assert tiles.ids.tolist() == [descriptor_id(4, 1, 2)]
