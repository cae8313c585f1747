"""Distances on the ground: of two places, and within a radius of one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.base.geometry.distances import EARTH_RADIUS_M, distance_m, moved, points_of, within

LONGITUDES = st.floats(-180, 180)
LATITUDES = st.floats(-90, 90)
QUARTER_M = np.pi / 2 * EARTH_RADIUS_M


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((0, 0), (0, 0), 0),
        ((0, 0), (90, 0), QUARTER_M),
        ((17, 0), (-120, 90), QUARTER_M),
        ((0, 0), (180, 0), 2 * QUARTER_M),
        ((179.5, 0), (-179.5, 0), QUARTER_M / 90),
        ((30, 60), (30, 61), QUARTER_M / 90),
        ((30, 60), (31, 60), 55_597.5),
    ],
)
def test_distances_of_great_circles(one, other, expected):
    assert distance_m(one, other) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert distance_m(other, one) == distance_m(one, other)


@given(st.tuples(LONGITUDES, LATITUDES), st.tuples(LONGITUDES, LATITUDES))
def test_a_place_is_within_its_distance_and_not_within_less(one, other):
    point = points_of(np.array([one]))[0]
    points = points_of(np.array([other], np.float64))
    distance = distance_m(one, other)
    assert within(points, point, distance * (1 + 1e-6) + 0.01).tolist() == [0]
    if distance > 1:
        assert within(points, point, distance * (1 - 1e-6) - 0.01).tolist() == []


def test_a_radius_around_the_globe_holds_everything():
    points = points_of(np.array([(0, 90), (0, -90), (180, 0), (13, 5)], np.float64))
    assert within(points, points[0], 1e9).tolist() == [0, 1, 2, 3]
    assert within(points, points[0], 1).tolist() == [0]
    assert within(points[:0], points[0], 1e9).tolist() == []


@given(st.tuples(LONGITUDES, LATITUDES), st.floats(0, 4e7), st.integers(0, 1 << 32))
def test_of_many_points_those_are_within_whose_chord_is(place, radius_m, seed):
    rng = np.random.default_rng(seed)
    spread = min(radius_m, 2 * QUARTER_M) * np.sqrt(rng.uniform(0, 4, 50))
    places = [moved(place, float(metres), float(rng.uniform(0, 7))) for metres in spread]
    point, points = points_of(np.array([place], np.float64))[0], points_of(np.array(places))
    chord = 2 * np.sin(min(radius_m / (2 * EARTH_RADIUS_M), np.pi / 2))
    apart = np.linalg.norm(points - point, axis=1)
    found = set(within(points, point, radius_m).tolist())
    assert set(np.flatnonzero(apart <= chord - 1e-14)) <= found <= set(np.flatnonzero(apart <= chord + 1e-14))


@given(st.tuples(LONGITUDES, LATITUDES), st.floats(0, 1e6), st.floats(0, 2 * np.pi))
def test_a_moved_place_is_so_far_away(place, metres, bearing):
    lon, lat = moved(place, metres, bearing)
    assert -180 <= lon <= 180
    assert -90 <= lat <= 90
    assert distance_m(place, (lon, lat)) == pytest.approx(metres, rel=1e-6, abs=0.2)


@pytest.mark.parametrize(
    ("place", "degrees", "bearing", "expected"),
    [
        ((0, 0), 1, 0, (0, 1)),
        ((0, 0), 1, 90, (1, 0)),
        ((0, 0), 1, 180, (0, -1)),
        ((0, 0), 1, 270, (-1, 0)),
        ((179.5, 0), 1, 90, (-179.5, 0)),
        ((10, 89), 2, 0, (-170, 89)),
    ],
)
def test_bearings_run_clockwise_from_north(place, degrees, bearing, expected):
    found = moved(place, QUARTER_M * degrees / 90, np.radians(bearing))
    assert found == pytest.approx(expected, abs=1e-9)
