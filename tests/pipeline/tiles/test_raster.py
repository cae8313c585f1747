"""Which places of a lattice lie in an area: against a slow reference in fractions, and against what a box gives."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.errors import RequestError
from pipeline.request.area import Area, Shape, canonical_shape
from pipeline.request.geometry import E7, FULL_TURN_E7, HALF_TURN_E7
from pipeline.tiles import raster
from pipeline.tiles.chunks import tile_runs_under, wanted_chunks, wanted_total
from pipeline.tiles.grid import north_edge_e7, tile_ranges, west_edge_e7
from pipeline.tiles.patches import cover
from pipeline.tiles.raster import Runs, TooDetailedError, middle_runs, tile_runs
from pipeline.tiles.wanted import wanted_tiles_of
from store.base.geometry.lattice import middle, middle_latitude_e7, tile_span
from store.base.geometry.level import Level
from store.manifest.levels import ChunkLevel
from tests.examples_tried import examples

ZOOM = 6
LEVEL = Level(5, 1, 3)


def places(runs):
    found = [
        (x, row)
        for row, first, stop in zip(runs.rows.tolist(), runs.first.tolist(), runs.stop.tolist(), strict=True)
        for x in range(first, stop)
    ]
    assert len(set(found)) == len(found) == runs.total
    return set(found)


def star(center, radii):
    """A simple ring around a centre, counter-clockwise, unrolled."""
    turn = 2 * math.pi / len(radii)
    return [
        (center[0] + round(radius * math.cos(at * turn)), center[1] + round(radius * math.sin(at * turn)))
        for at, radius in enumerate(radii)
    ]


@st.composite
def shapes(draw):
    polygons = []
    for _ in range(draw(st.integers(1, 3))):
        center = draw(st.integers(-1800, 1800)) * 10**6, draw(st.integers(-500, 500)) * 10**6
        radii = draw(st.lists(st.integers(10**7, 3 * 10**8), min_size=3, max_size=9))
        rings = [star(center, radii)]
        if draw(st.booleans()) and len(radii) > 4:
            rings.append(star(center, [radius // draw(st.integers(2, 5)) for radius in [min(radii)] * 7]))
        polygons.append(rings)
    return canonical_shape(polygons)


def clipped_area(ring, west, south, east, north):
    """Twice the area of a ring within a rectangle: Sutherland and Hodgman's cut, in fractions."""
    points = [(Fraction(x), Fraction(y)) for x, y in ring]
    for axis, limit, sign in ((0, west, 1), (0, east, -1), (1, south, 1), (1, north, -1)):
        kept = []
        for before, point in zip(points[-1:] + points[:-1], points, strict=True):
            inside = [sign * (each[axis] - limit) >= 0 for each in (before, point)]
            if inside[0] != inside[1]:
                share = (limit - before[axis]) / (point[axis] - before[axis])
                kept.append(tuple(a + share * (b - a) for a, b in zip(before, point, strict=True)))
            if inside[1]:
                kept.append(point)
        points = kept
    return sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(points, points[1:] + points[:1], strict=True))


def tile_is_in(polygon, x, y, zoom):
    north, south = north_edge_e7(zoom, y), north_edge_e7(zoom, y + 1)
    west, east = west_edge_e7(zoom, x), west_edge_e7(zoom, x + 1)
    return any(
        sum(
            clipped_area(ring, west + turn, south, east + turn, north)
            for ring in polygon
            if overlap(ring, 0, west + turn, east + turn) and overlap(ring, 1, south, north)
        )
        > 0
        for turn in (-FULL_TURN_E7, 0, FULL_TURN_E7)
    )


def overlap(ring, axis, least, most):
    """Whether a ring reaches into an interval on one axis; else no area of it does, and no fractions are needed."""
    return min(each[axis] for each in ring) < most and max(each[axis] for each in ring) > least


def point_is_in(polygon, x, y):
    """Whether a point lies in a polygon or on its edge: counts crossings, in fractions."""
    crossings = 0
    for ring in polygon:
        for (x1, y1), (x2, y2) in zip(ring, ring[1:] + ring[:1], strict=True):
            if min(y1, y2) <= y <= max(y1, y2):
                if y1 == y2:
                    if min(x1, x2) <= x <= max(x1, x2):
                        return True
                    continue
                at = x1 + Fraction(y - y1, y2 - y1) * (x2 - x1)
                if at == x:
                    return True
                crossings += at > x and min(y1, y2) <= y < max(y1, y2)
    return crossings % 2 == 1


def longitude_of_middle(level, x):
    return round(Fraction((2 * x + level.m) * HALF_TURN_E7, level.steps_around)) - HALF_TURN_E7


@settings(max_examples=examples(25), deadline=None)
@given(shapes())
def test_tiles_are_those_whose_inside_meets_the_inside(shape):
    wanted = places(tile_runs(Area.of_shape(shape), 4))
    assert wanted == {
        (x, y)
        for x in range(16)
        for y in range(16)
        if any(tile_is_in(polygon, x, y, 4) for polygon in shape.polygons)
    }


@settings(max_examples=examples(40), deadline=None)
@given(shapes())
def test_chunks_are_those_whose_middle_is_inside_or_on_the_edge(shape):
    level = Level(3, 1, 3)
    area = Area.of_shape(shape)
    expected = {
        (x, y)
        for x in range(level.steps_around)
        for y in range(level.steps_around - level.m + 1)
        for at in (longitude_of_middle(level, x),)
        if any(
            point_is_in(polygon, at + turn, middle_latitude_e7(level, y))
            for polygon in shape.polygons
            for turn in (-FULL_TURN_E7, 0, FULL_TURN_E7)
        )
    }
    assert places(middle_runs(area, level)) == expected
    for x, y in list(expected)[:10]:
        longitude = (longitude_of_middle(level, x) + HALF_TURN_E7) % FULL_TURN_E7 - HALF_TURN_E7
        assert area.contains(longitude, middle_latitude_e7(level, y))


@settings(max_examples=examples(60), deadline=None)
@given(shapes(), st.integers(-HALF_TURN_E7, HALF_TURN_E7), st.integers(-850_000_000, 850_000_000), st.data())
def test_a_point_is_in_the_area_or_on_its_edge(shape, x, y, data):
    corner = data.draw(
        st.sampled_from([point for polygon in shape.polygons for ring in polygon for point in ring])
    )
    x, y = data.draw(st.sampled_from([(x, y), corner, (corner[0], y), (x, corner[1])]))
    expected = any(
        point_is_in(polygon, x + turn, y)
        for polygon in shape.polygons
        for turn in (-FULL_TURN_E7, 0, FULL_TURN_E7)
    )
    assert Area.of_shape(shape).contains(x, y) == expected


edges = st.integers(0, 1 << 9).map(lambda column: west_edge_e7(9, column))
latitudes = st.integers(1, (1 << 9) - 1).map(lambda row: north_edge_e7(9, row))


@settings(max_examples=examples(40), deadline=None)
@example(west=-HALF_TURN_E7, east=HALF_TURN_E7, south=-850_511_288, north=850_511_288)
@example(west=HALF_TURN_E7, east=-HALF_TURN_E7 + 5, south=0, north=1)
@given(
    west=edges | st.integers(-HALF_TURN_E7, HALF_TURN_E7),
    east=edges | st.integers(-HALF_TURN_E7, HALF_TURN_E7),
    south=latitudes | st.integers(-850_511_288, 850_511_287),
    north=latitudes | st.integers(-850_511_287, 850_511_288),
)
def test_a_box_as_a_polygon_wants_what_the_box_wants(west, east, south, north):
    if south >= north or (west >= east and (west - east) % FULL_TURN_E7 == 0):
        return
    box = west, south, east, north
    area = Area.of_boxes([box])
    for zoom in (0, 3, 7, 9):
        assert places(tile_runs(area, zoom)) == {
            (x, y) for part in tile_ranges(box, (zoom, zoom)) for _, x, y in part.places()
        }
    for level in (LEVEL, Level(6, 0, 1), Level(4, 2, 4)):
        wanted = wanted_chunks(level, box)
        assert places(middle_runs(area, level)) == {
            ((wanted.x0 + x) % level.steps_around, wanted.y0 + y)
            for x in range(wanted.nx)
            for y in range(wanted.ny)
        }


runs = st.lists(
    st.tuples(st.integers(0, 12), st.integers(0, 40), st.integers(0, 12)), min_size=1, max_size=40
).map(lambda rows: [np.array(column, np.int64) for column in zip(*rows, strict=True)])


@given(runs)
def test_runs_are_joined(given_runs):
    rows, first, length = given_runs
    united = Runs.union(rows, first, first + length)
    assert places(united) == {
        (x, row)
        for row, start, size in zip(rows.tolist(), first.tolist(), length.tolist(), strict=True)
        for x in range(start, start + size)
    }
    wrapped = Runs.wrapped(rows, first - 16, first - 16 + length, 16)
    assert places(wrapped) == {(x % 16, row) for x, row in places(united)}


@given(runs, st.integers(0, 20))
def test_patches_hold_each_place_once(given_runs, most):
    rows, first, length = given_runs
    united = Runs.union(rows, first * 5000, first * 5000 + length)
    patches = cover({3: united, 4: united}, most=most)
    assert len(patches) <= most + 2
    for lattice in (3, 4):
        found = [
            (patch.rectangle.x0 + x, patch.rectangle.y0 + y)
            for key, patch in patches
            if key == lattice
            for x, y in np.argwhere(patch.chosen()).tolist()
        ]
        assert len(found) == len(set(found)) == sum(patch.total for key, patch in patches if key == lattice)
        assert set(found) == places(united)


def test_few_patches_hold_a_diagonal():
    at = np.arange(2000, dtype=np.int64)
    patches = cover({0: Runs.union(at, 3 * at, 3 * at + 40)}, most=48)
    assert sum(patch.rectangle.total for _, patch in patches) < 6 * 2000 * 40


@settings(max_examples=examples(30), deadline=None)
@given(shapes(), st.integers(0, 2), st.integers(1, 5))
def test_tiles_under_chunks(shape, k, m):
    level = Level(4, k, m)
    chunks = middle_runs(Area.of_shape(shape), level)
    expected = set()
    for x, y in places(chunks):
        x0, nx, y0, ny = tile_span(level, x, y)
        expected |= {((x0 + i) % 16, y0 + j) for i in range(nx) for j in range(ny)}
    assert places(tile_runs_under(level, chunks)) == expected


def test_an_outline_with_too_many_edges_in_rows_is_refused(monkeypatch):
    monkeypatch.setattr(raster, "MAX_CROSSINGS", 10)
    with pytest.raises(TooDetailedError):
        tile_runs(Area.of_boxes([(0, 0, 10**8, 10**8)]), 12)


def test_nothing_lies_in_an_area_without_a_middle():
    assert middle_runs(Area.of_boxes([(1, 1, 2, 2)]), LEVEL).total == 0
    assert Shape().encoded() != Area.of_boxes([(1, 1, 2, 2)]).encoded


def test_a_box_that_holds_the_middle_of_a_chunk_and_of_no_step_is_refused():
    """Chunks with a side of six steps have their middles at corners of steps."""
    level = Level(18, 1, 6)
    lon, lat = (round(each * E7) for each in middle(level, 240_000, 200_000))
    box = Area((lon - 30, lat - 30, lon + 30, lat + 30))
    assert (wanted_total(level, box), wanted_total(Level(18, 1, 1), box)) == (1, 0)
    with pytest.raises(RequestError, match="and a step of it, found a smaller one"):
        wanted_tiles_of(box, (18, 18), [ChunkLevel(level=level, tile_edge=256)])


def test_a_polygon_beside_a_route_is_not_lost_without_a_word():
    levels = [ChunkLevel(level=LEVEL, tile_edge=256)]
    line = [(0, 0), (10**8, 0)]
    tiny = [(2 * 10**8 + 1, 1), (2 * 10**8 + 3, 1), (2 * 10**8 + 3, 3)]
    assert wanted_tiles_of(Area.of_shape(canonical_shape([], [line], 10**9)), (4, 4), levels)
    with pytest.raises(RequestError, match=r"a polygon without one at longitude 20\.0000001"):
        wanted_tiles_of(Area.of_shape(canonical_shape([[tiny]], [line], 10**9)), (4, 4), levels)


@pytest.mark.parametrize(
    ("degrees", "width_m", "zoom"), [(0.2, 200, 18), (1, 500, 17), (2, 500, 17), (4, 1000, 18)]
)
def test_of_a_diagonal_corridor_a_source_is_asked_for_little_else(degrees, width_m, zoom):
    route = ((130_000_000, 500_000_000), (130_000_000 + degrees * E7, 500_000_000 + 0.7 * degrees * E7))
    shape = canonical_shape([], [[(round(x), round(y)) for x, y in route]], width_m * 1000)
    parts = wanted_tiles_of(Area.of_shape(shape), (zoom, zoom))
    asked, wanted = (
        sum(count) for count in zip(*((each.part.count, each.count) for each in parts), strict=True)
    )
    assert asked < 2.5 * wanted
    assert len(parts) <= 129


@pytest.mark.parametrize("most", [1, 7, 100])
def test_rows_that_are_computed_apart_give_the_same_places(most, monkeypatch):
    hole = [(x + 40_000_000, y + 20_000_000) for x, y in star((0, 0), [9_000_000] * 7)[::-1]]
    shell = star((40_000_000, 20_000_000), [50_000_000, 90_000_000, 30_000_000, 70_000_000, 60_000_000])
    area = Area.of_shape(
        canonical_shape([[shell, hole], [star((1_790_000_000, 0), [30_000_000] * 5)]], [shell], 10_000_000)
    )

    def found():
        runs = [tile_runs(area, zoom) for zoom in (0, 5, 9)]
        runs += [middle_runs(area, level) for level in (LEVEL, Level(8, 1, 5))]
        numbers = raster.polygons_with_middles(area, LEVEL).tolist()
        return [[each.rows.tolist(), each.first.tolist(), each.stop.tolist()] for each in runs], numbers

    whole = found()
    monkeypatch.setattr(raster, "_AT_ONCE", most)
    assert found() == whole
