"""Measure distances on the ground between places given by longitude and latitude. Pure.

The Earth is a sphere here, which is wrong by at most 0.5 %. Distances are those of great circles.
"""

import math
from typing import Final

import numpy as np
import numpy.typing as npt

EARTH_RADIUS_M: Final = 6_371_008.8
"""Mean radius of the Earth, IUGG."""

Floats = npt.NDArray[np.float64]

_ROUNDING: Final = 1e-14
"""More than the cosine of two places can be off by rounding."""


def points_of(places: Floats) -> Floats:
    """Return places on the sphere of radius 1, float64 [n, 3], for longitude and latitude in degrees, [n, 2].

    Each of the three columns is contiguous.
    """
    lon, lat = np.radians(places).T
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)]).T


def within(points: Floats, point: Floats, radius_m: float) -> npt.NDArray[np.int64]:
    """Return which points are at most so many metres away from another: their numbers, ascending.

    Args:
        points: From `points_of`, [n, 3]; fastest if each of the three is contiguous.
        point: The other, [3].
        radius_m: Distance along the ground, metres.
    """
    # Straight through the sphere a distance of r is 2 R sin(r / 2 R).
    chord = 2 * math.sin(min(radius_m / (2 * EARTH_RADIUS_M), math.pi / 2))
    # A cosine is soon computed, but that of places close to each other has lost most of its digits: it tells
    # which few of many points to measure. NumPy's BLAS would use all cores for it, and take as long.
    found = np.flatnonzero(np.einsum("nd,d->n", points, point) >= 1 - chord * chord / 2 - _ROUNDING)
    apart = points[found] - point
    inside: npt.NDArray[np.int64] = found[np.einsum("nd,nd->n", apart, apart) <= chord * chord]
    return inside


def distance_m(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Return the distance of two places (longitude, latitude, degrees) in metres; haversine."""
    (lon1, lat1), (lon2, lat2) = ((math.radians(lon), math.radians(lat)) for lon, lat in (one, other))
    across = math.cos(lat1) * math.cos(lat2) * math.sin((lon2 - lon1) / 2) ** 2
    return 2 * EARTH_RADIUS_M * math.asin(min(1.0, math.sqrt(math.sin((lat2 - lat1) / 2) ** 2 + across)))


def moved(place: tuple[float, float], metres: float, bearing: float) -> tuple[float, float]:
    """Return the place so many metres from another (longitude, latitude, degrees), -180 to 180.

    `bearing` is in radians, clockwise from north.
    """
    lon, lat = math.radians(place[0]), math.radians(place[1])
    angle = metres / EARTH_RADIUS_M
    north = math.sin(lat) * math.cos(angle) + math.cos(lat) * math.sin(angle) * math.cos(bearing)
    there = math.asin(min(1.0, max(-1.0, north)))
    east = math.atan2(
        math.sin(bearing) * math.sin(angle) * math.cos(lat), math.cos(angle) - math.sin(lat) * math.sin(there)
    )
    return (math.degrees(lon + east) + 180) % 360 - 180, math.degrees(there)
