"""The shape that an aircraft carries: it answers as the area that was built."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.request.area import Area, ShapeError, canonical_shape
from store.formats.area_shape import AreaShape
from tests.examples_tried import examples

NEAR = st.integers(-6, 6)
POINTS = st.lists(st.tuples(NEAR, NEAR), min_size=3, max_size=7)


@settings(max_examples=examples(200), deadline=None)
@given(
    rings=st.lists(POINTS, max_size=3),
    route=st.none() | POINTS,
    width=st.integers(1, 3_000_000_000),
    middle=st.sampled_from([0, 1_800_000_000, -1_800_000_000]),
    scale=st.sampled_from([1, 3, 10_000_019]),
    place=st.tuples(st.integers(-14, 14), st.integers(-14, 14)),
)
def test_it_holds_the_places_of_the_area(rings, route, width, middle, scale, place):
    def drawn(ring):
        return [(x * scale + middle, y * scale) for x, y in ring]

    try:
        shape = canonical_shape(
            [[drawn(ring)] for ring in rings], [drawn(route)] if route else [], width if route else 0
        )
        area = Area.of_shape(shape)
    except ShapeError:
        return
    x, y = place[0] * scale // 2 + middle, place[1] * scale // 2
    x = (x + 1_800_000_000) % 3_600_000_000 - 1_800_000_000
    assert AreaShape.parse(area.encoded).contains(x, y) == area.contains(x, y)


def test_a_hole_and_its_edge():
    shell = [(0, 0), (40, 0), (40, 40), (0, 40)]
    hole = [(10, 10), (10, 30), (30, 30), (30, 10)]
    found = AreaShape.parse(canonical_shape([[shell, hole]]).encoded())
    assert [found.contains(x, 20) for x in (-1, 0, 9, 10, 11, 20, 30, 31, 40, 41)] == [
        *(False, True, True, True, False, False, True, True, True, False)
    ]


def test_a_corridor():
    found = AreaShape.parse(canonical_shape([], [[(0, 0), (100_000, 0)]], 200_000).encoded())
    # Half of 200 m is nine ten-thousandths of a degree.
    assert [found.contains(50_000, y) for y in (-9_500, -8_900, 0, 8_900, 9_500)] == [
        False,
        True,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"polygons": [[[[0, 0], [1, 1.5]]]]},
        {"polygons": [[[[0], [1]]]]},
        {"polygons": [5]},
        {"polygons": [[[]]]},
        {"routes": 5},
        {"width_mm": -1},
        {"width_mm": "5"},
        {"width_mm": 1 << 62},
        {"routes": [[[0, 0], [0, 1 << 62]]], "width_mm": 10},
    ],
)
def test_what_is_no_shape(change):
    document = {"format": 1, "polygons": [], "routes": [], "width_mm": 0, **change}
    with pytest.raises(ValueError):  # noqa: PT011 - canonical JSON, points and counts have words of their own
        AreaShape.parse(json.dumps(document, separators=(",", ":"), sort_keys=True).encode())
