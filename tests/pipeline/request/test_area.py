"""An area as exact integers: its canonical form, the box around it, and the corridor of a route."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.request.area import (
    Area,
    Shape,
    ShapeError,
    area_of_inputs,
    canonical_shape,
    decode_shape,
    unroll,
)
from pipeline.request.geometry import FULL_TURN_E7, HALF_TURN_E7
from store.base.geometry.corridor import circle_polygon, corridor_polygons
from store.base.geometry.distances import distance_m
from tests.examples_tried import examples

E7 = 10_000_000
SQUARE = ((0, 0), (E7, 0), (E7, E7), (0, E7))
HOLE = ((E7 // 4, E7 // 4), (E7 // 4, E7 // 2), (E7 // 2, E7 // 2), (E7 // 2, E7 // 4))


def degrees(*pairs):
    return [(round(x * E7), round(y * E7)) for x, y in pairs]


@given(st.permutations([SQUARE, ((3 * E7, 0), (4 * E7, 0), (4 * E7, E7))]), st.data())
def test_the_form_depends_on_no_order_start_or_direction(shells, data):
    def turned(ring):
        start = data.draw(st.integers(0, len(ring) - 1))
        found = [*ring[start:], *ring[:start]]
        if data.draw(st.booleans()):
            found.reverse()
        if data.draw(st.booleans()):
            found.insert(1, found[0])
        return [*found, found[0]] if data.draw(st.booleans()) else found

    polygons = [[turned(shell), *([turned(HOLE)] if shell is SQUARE else [])] for shell in shells]
    again = canonical_shape([*polygons, *data.draw(st.sampled_from([[], polygons[:1]]))])
    assert again == canonical_shape([[SQUARE, HOLE], [((3 * E7, 0), (4 * E7, 0), (4 * E7, E7))]])
    assert again.polygons[0] == (SQUARE, HOLE)
    assert decode_shape(again.encoded()) == again


def test_another_point_is_another_form():
    moved = [*SQUARE[:3], (0, E7 + 1)]
    assert canonical_shape([[moved]]).encoded() != canonical_shape([[SQUARE]]).encoded()


@given(st.lists(st.tuples(st.integers(160, 190), st.integers(-80, 80)), min_size=2, max_size=6, unique=True))
def test_a_route_is_the_same_from_either_end(points):
    line = unroll(degrees(*points), closed=False)
    shape = canonical_shape([], [line, line[::-1]], 5000)
    assert len(shape.routes) == 1
    assert shape == canonical_shape([], [line[::-1]], 5000) == decode_shape(shape.encoded())


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(179, 0), (-179, 0), (-179, 1), (179, 1)], [(179, 0), (181, 0), (181, 1), (179, 1)]),
        ([(-179, 0), (179, 0), (179, 1), (-179, 1)], [(-179, 0), (-181, 0), (-181, 1), (-179, 1)]),
        (
            [(179, 0), (180, 0), (-180, 0), (-179, 0), (-179, 1), (179, 1), (179, 0)],
            [(179, 0), (180, 0), (180, 0), (181, 0), (181, 1), (179, 1)],
        ),
        ([(-180, 0), (180, 0), (180, 1), (-180, 1)], [(-180, 0), (180, 0), (180, 1), (-180, 1)]),
        ([(179, 0), (181, 0), (181, 1)], [(179, 0), (181, 0), (181, 1)]),
        ([(170, 0), (-170, 0), (170, 1), (-170, 1)], [(170, 0), (190, 0), (170, 1), (190, 1)]),
        ([], []),
    ],
)
def test_points_are_unrolled_across_the_antimeridian(points, expected):
    assert unroll(degrees(*points), closed=True) == degrees(*expected)


@pytest.mark.parametrize("ring", [[(0, 80), (120, 80), (-120, 80)], [(0, 80), (120, 80), (240, 80), (0, 80)]])
def test_a_ring_around_a_pole_is_refused(ring):
    with pytest.raises(ShapeError, match="around a pole"):
        unroll(degrees(*ring), closed=True)


def box_of(*polygons):
    return Area.of_shape(canonical_shape([[degrees(*ring)] for ring in polygons])).bbox_e7


def square(west, south, side=1):
    return [(west, south), (west + side, south), (west + side, south + side), (west, south + side)]


@pytest.mark.parametrize(
    ("polygons", "box"),
    [
        ([square(10, 20)], (10, 20, 11, 21)),
        ([square(10, 20), square(12, -3)], (10, -3, 13, 21)),
        ([square(178, 0), square(-179, 0)], (178, 0, -178, 1)),
        ([square(179.5, 0)], (179.5, 0, -179.5, 1)),
        ([square(179, 0), square(-180, 0)], (179, 0, -179, 1)),
        ([square(179, 0)], (179, 0, 180, 1)),
        ([square(-180, 0)], (-180, 0, -179, 1)),
        ([[(-180, -80), (180, -80), (180, 80), (-180, 80)]], (-180, -80, 180, 80)),
        ([square(west, 0, 100) for west in (-180, -90, 0, 90)], (-180, 0, 180, 100)),
    ],
)
def test_the_least_box_around_an_area(polygons, box):
    polygons = [[(x, min(y, 80)) for x, y in ring] for ring in polygons]
    assert box_of(*polygons) == tuple(
        round(min(edge, 80) * E7) if at == 3 else round(edge * E7) for at, edge in enumerate(box)
    )


@given(
    st.lists(
        st.tuples(st.integers(-180, 180), st.integers(-80, 70), st.integers(1, 170), st.integers(1, 10)),
        min_size=1,
        max_size=5,
    )
)
def test_boxes_lie_in_the_box_around_them(sizes):
    boxes = []
    for west, south, across, up in sizes:
        east = west + across - (360 if west + across > 180 else 0)
        if west != east and (west, east) != (180, -180):
            boxes.append(tuple(edge * E7 for edge in (west, south, east, south + up)))
    if not boxes:
        return
    area = Area.of_boxes(boxes)
    outer = Area(area.bbox_e7)
    for (west, south, east, north), area_ in itertools.product(boxes, (area, outer)):
        assert all(
            area_.contains(x, y) for x in (-west if west == 180 * E7 else west, east) for y in (south, north)
        )
    assert min(box[1] for box in boxes) == area.bbox_e7[1]
    assert max(box[3] for box in boxes) == area.bbox_e7[3]


def test_a_hole_is_outside_and_its_edge_is_not():
    area = Area.of_shape(canonical_shape([[SQUARE, HOLE]]))
    assert not area.contains(E7 // 3, E7 // 3)
    assert area.contains(*HOLE[0])
    assert area.contains(E7 // 8, E7 // 8)
    assert not area.contains(-1, 0)


@settings(max_examples=examples(60))
@given(
    st.tuples(st.integers(-179, 179), st.integers(-79, 79)),
    st.tuples(st.floats(-0.3, 0.3), st.floats(-0.3, 0.3)),
    st.sampled_from([2, 100, 5_000]),
    st.data(),
)
def test_a_corridor_is_at_least_as_wide_as_asked_and_hardly_wider(start, step, width, data):
    line = unroll(degrees(start, (start[0] + step[0], start[1] + step[1])), closed=False)
    if line[0] == line[1]:
        return
    area = Area.of_shape(canonical_shape([], [line], width * 1000))
    at, side = data.draw(st.floats(0, 1)), data.draw(st.sampled_from([-1, 1]))
    x, y = (a + at * (b - a) for a, b in zip(*line, strict=True))
    cosine = math.cos(math.radians(y / E7))
    along = np.array([(line[1][0] - line[0][0]) * cosine, line[1][1] - line[0][1]], float)
    across = side * np.array([-along[1], along[0]]) / np.hypot(*along)

    def point(metres):
        offset = across * metres / 111_195 * E7
        return round(x + offset[0] / cosine), round(y + offset[1])

    def wrapped(place):
        return (place[0] + HALF_TURN_E7) % FULL_TURN_E7 - HALF_TURN_E7, place[1]

    assert area.contains(*wrapped(point(width / 2 * 0.99 - 0.02)))
    wider = 1.03 if abs(start[1]) < 70 else 1.12
    assert not area.contains(*wrapped(point(width / 2 * wider + 0.05))) or at < 0.02 or at > 0.98
    assert distance_m((x / E7, y / E7), tuple(each / E7 for each in point(width / 2))) == pytest.approx(
        width / 2, rel=0.05, abs=0.05
    )


def test_a_circle_holds_what_is_within_its_radius():
    ring = circle_polygon((10 * E7, 50 * E7), 500)
    assert len(ring) == 32
    for x, y in ring:
        assert 500 <= distance_m((10, 50), (x / E7, y / E7)) < 515


def test_a_long_leg_is_cut_where_degrees_become_shorter():
    assert len(corridor_polygons(degrees((0, 0), (0.001, 60)), 1000)) == 600
    assert len(corridor_polygons(degrees((0, 0), (90, 0)), 1000)) == 1


@pytest.mark.parametrize(
    ("polygons", "routes", "message"),
    [
        ([[[(0, 0), (1, 1), (2, 2)]]], [], "without area"),
        ([[[(0, 0), (1, 1)]]], [], "without area"),
        ([[[]]], [], "without area"),
        ([[[(0, 0), (1, 1), (1, 0), (0, 1)]]], [], "without area"),
        ([[[(0, 0), (1, 0), (1, 86)]]], [], "Web Mercator"),
        ([[[(0, 0), (200, 0), (380, 1)]]], [], "more than once around"),
        ([], [[(1, 1), (1, 1)]], "a route of one point"),
        ([], [], "no polygon and no route"),
        ([], [[(0, 85.0), (1, 85.0)]], "a corridor beyond"),
    ],
)
def test_what_is_no_area_is_refused(polygons, routes, message):
    with pytest.raises(ShapeError, match=message):
        Area.of_shape(
            canonical_shape(
                [[degrees(*ring) for ring in rings] for rings in polygons],
                [degrees(*line) for line in routes],
                20_000_000,
            )
        )


def test_a_shape_of_too_many_points_is_refused(monkeypatch):
    monkeypatch.setattr("pipeline.request.area.MAX_POINTS", 3)
    with pytest.raises(ShapeError, match="4 points, more than 3"):
        Area.of_shape(canonical_shape([[SQUARE]]))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}\n",
        b'{"format":2,"polygons":[],"routes":[],"width_mm":0}\n',
        b'{"format":1,"polygons":[[[[0,0],[5,0],[0,5,7]]]],"routes":[],"width_mm":0}\n',
        b'{"format":1,"polygons":[[[[0,0],[5,0],[0,true]]]],"routes":[],"width_mm":0}\n',
        b'{"format":1,"polygons":[["no ring"]],"routes":[],"width_mm":0}\n',
        b'{"format":1,"polygons":[[[[5,0],[0,5],[0,0]]]],"routes":[],"width_mm":0}\n',
    ],
)
def test_bytes_that_are_no_shape(data):
    with pytest.raises(ValueError):  # noqa: PT011 - any
        decode_shape(data)


def test_the_area_of_recorded_inputs():
    shape = canonical_shape([[SQUARE, HOLE]])
    area = Area.of_shape(shape)
    inputs = {"bbox_e7": list(area.bbox_e7), "area": {"sha256": area.ref.sha256, "size": area.ref.size}}
    assert area_of_inputs(inputs, shape.encoded()) == area
    assert area_of_inputs({"bbox_e7": [1, 2, 3, 4]}, None) == Area((1, 2, 3, 4))
    assert Area((1, 2, 3, 4)).ref is None
    with pytest.raises(ValueError, match="missing"):
        area_of_inputs(inputs, None)
    assert Shape().encoded() == b'{"format":1,"polygons":[],"routes":[],"width_mm":0}\n'
