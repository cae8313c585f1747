import mercantile
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pmtiles.tile import tileid_to_zxy, zxy_to_tileid

from pipeline.request.geometry import MERCATOR_LIMIT_E7, degrees_to_e7
from pipeline.tiles.grid import TileRange, tile_box_e7, tile_ranges, wanted_count, wanted_tiles
from pipeline.tiles.sources.archives.pmtiles_ids import covering_intervals, first_id, tile_ids, tile_places
from pipeline.tiles.tile import Place
from tests.examples_tried import examples

WORLD = (-1_800_000_000, -MERCATOR_LIMIT_E7, 1_800_000_000, MERCATOR_LIMIT_E7)
longitudes = st.integers(-1_800_000_000, 1_800_000_000)
latitudes = st.integers(-MERCATOR_LIMIT_E7, MERCATOR_LIMIT_E7)


@st.composite
def places(draw, highest=25):
    z = draw(st.integers(0, highest))
    return Place(z, draw(st.integers(0, 2**z - 1)), draw(st.integers(0, 2**z - 1)))


def overlap(first, second):
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]


def test_the_reference_area(archives):
    assert wanted_count(archives.WHITNEY_E7, (13, 15)) == 43
    assert len(set(wanted_tiles(archives.WHITNEY_E7, (13, 15)))) == 43


def test_the_whole_world():
    assert wanted_count(WORLD, (0, 25)) == sum(4**z for z in range(26))
    assert list(wanted_tiles(WORLD, (0, 1))) == [(0, 0, 0), (1, 0, 0), (1, 0, 1), (1, 1, 0), (1, 1, 1)]


@given(places())
def test_a_box_copied_from_a_tile_wants_that_tile_alone(place):
    # Printed with seven decimals, as people copy them.
    bounds = mercantile.bounds(place.x, place.y, place.z)
    box = tuple(
        degrees_to_e7(round(edge, 7)) for edge in (bounds.west, bounds.south, bounds.east, bounds.north)
    )
    assert list(wanted_tiles(box, (place.z, place.z))) == [place]
    assert box == tile_box_e7(place)


@given(places(), st.sampled_from([(-1, 0, 0, 0), (0, -1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)]))
def test_one_unit_over_the_edge_wants_the_neighbour(place, grow):
    box = tuple(edge + more for edge, more in zip(tile_box_e7(place), grow, strict=True))
    assume(
        abs(box[0]) <= WORLD[2]
        and abs(box[2]) <= WORLD[2]
        and abs(box[1]) <= WORLD[3]
        and abs(box[3]) <= WORLD[3]
    )
    assert wanted_count(box, (place.z, place.z)) == 2


@given(longitudes, latitudes, longitudes, latitudes, st.integers(0, 5))
def test_wanted_means_overlapping(west, south, east, north, z):
    assume(west != east and south < north and (west, east) != (WORLD[2], WORLD[0]))
    boxes = [(west, south, east, north)]
    if west > east:
        boxes = [(west, south, WORLD[2], north), (WORLD[0], south, east, north)]
        boxes = [box for box in boxes if box[0] < box[2]]
    everything = [Place(z, x, y) for x in range(2**z) for y in range(2**z)]
    expected = [place for place in everything if any(overlap(tile_box_e7(place), box) for box in boxes)]
    assert list(wanted_tiles((west, south, east, north), (z, z))) == expected
    assert wanted_count((west, south, east, north), (z, z)) == len(expected)


@given(places(highest=31).filter(lambda place: place.z <= 31))
def test_ids_are_those_of_the_format(place):
    z, x, y = place
    (number,) = tile_ids(z, np.array([x]), np.array([y])).tolist()
    assert number == zxy_to_tileid(z, x, y)
    assert tileid_to_zxy(number) == (z, x, y)
    assert tuple(int(column[0]) for column in tile_places(z, np.array([number]))) == (x, y)


@given(st.data(), st.integers(0, 6))
@settings(max_examples=examples(60))
def test_intervals_cover_a_rectangle(data, z):
    x0, x1 = sorted(data.draw(st.tuples(*[st.integers(0, 2**z - 1)] * 2)))
    y0, y1 = sorted(data.draw(st.tuples(*[st.integers(0, 2**z - 1)] * 2)))
    part = TileRange(z=z, x0=x0, x1=x1, y0=y0, y1=y1)
    starts, ends = covering_intervals((part,))
    covered = [number for start, end in zip(starts, ends, strict=True) for number in range(start, end)]
    assert covered == sorted(zxy_to_tileid(*place) for place in part.places())
    assert (starts[1:] > ends[:-1]).all()


@pytest.mark.parametrize("z", [20, 25])
def test_intervals_of_a_large_area_stay_few(z):
    part = TileRange(z=z, x0=1, x1=2**z - 2, y0=1, y1=2**z - 2)
    starts, ends = covering_intervals((part,))
    assert len(starts) < 50_000
    assert first_id(z) <= starts[0]
    assert part.count <= (ends - starts).sum() <= part.count * 1.01


def test_no_rectangle_needs_no_interval():
    starts, ends = covering_intervals(())
    assert len(starts) == len(ends) == 0


def test_ranges_of_a_box_across_the_antimeridian():
    box = (1_790_000_000, -10_000_000, -1_790_000_000, 10_000_000)
    assert list(wanted_tiles(box, (0, 0))) == [(0, 0, 0)]
    assert [(part.x0, part.x1) for part in tile_ranges(box, (3, 3))] == [(0, 0), (7, 7)]
