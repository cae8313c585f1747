"""The corridor of a route: polygons around all ground within half its width. Pure.

A leg is straight in longitude and latitude. It is cut into pieces over which a degree of longitude hardly
changes; around each piece lies a polygon with round ends. Together the polygons hold at least the ground
within half the width: the round ends are circumscribed, a degree of latitude is taken as long as where it is
shortest, and a degree of longitude as where the piece, with its ends, is nearest to a pole.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]

E7: Final = 10_000_000
_M_PER_DEGREE: Final = 110_574.0
"""Metres of a degree of latitude at the equator, where it is shortest; WGS 84."""
_PIECE_E7: Final = E7 // 10
_SIDES: Final = 32
"""Sides of the polygon around a circle; its corners are 0.5 % further out."""
_LEAST_COSINE: Final = 0.01


def corridor_polygons(route: Sequence[tuple[int, int]], width_mm: int) -> list[Integers]:
    """Return the polygons around a route, int64 [32, 2] each, counter-clockwise.

    Args:
        route: At least two points, longitude and latitude in 1e-7 degree, unrolled.
        width_mm: Full width of the corridor, millimetres.
    """
    points = np.array(route, np.float64)
    pieces = np.maximum(np.ceil(np.abs(np.diff(points[:, 1])) / _PIECE_E7), 1).astype(np.int64)
    leg = np.repeat(np.arange(len(pieces)), pieces)
    number = np.arange(len(leg)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    step = (points[leg + 1] - points[leg]) / pieces[leg, None]
    start = points[leg] + number[:, None] * step
    end = np.where((number + 1 == pieces[leg])[:, None], points[leg + 1], start + step)

    return _polygons_around(start, end, width_mm / 2000)


def circle_polygon(center: tuple[int, int], radius_m: float) -> list[tuple[int, int]]:
    """Return a polygon around a circle, counter-clockwise; longitude and latitude in 1e-7 degree."""
    point = np.array([center], np.float64)
    return [(x, y) for x, y in _polygons_around(point, point, radius_m)[0].tolist()]


def _polygons_around(
    start: npt.NDArray[np.float64], end: npt.NDArray[np.float64], reach_m: float
) -> list[Integers]:
    """Return polygons around straight pieces, float64 [n, 2] each, and so many metres beside them."""
    reach_e7 = reach_m / _M_PER_DEGREE * E7
    furthest = np.maximum(np.abs(start[:, 1]), np.abs(end[:, 1])) + reach_e7
    cosines = np.maximum(np.cos(np.radians(np.minimum(furthest / E7, 90))), _LEAST_COSINE)[:, None]
    # Longitudes times the cosine: now a unit is the same length on both axes.
    along = (end - start) * np.concatenate([cosines, np.ones_like(cosines)], axis=1)
    length = np.hypot(along[:, 0], along[:, 1])[:, None]
    along = np.where(length > 0, along / np.where(length > 0, length, 1), [1.0, 0.0])
    turned = (np.arange(_SIDES // 2) - _SIDES / 4 + 0.5) * (2 * math.pi / _SIDES)
    corner = reach_e7 / math.cos(math.pi / _SIDES)
    ahead, left = np.cos(turned) * corner, np.sin(turned) * corner
    east = along[:, :1] * ahead - along[:, 1:] * left
    north = along[:, 1:] * ahead + along[:, :1] * left
    around = np.stack([east / cosines, north], axis=2)
    rings = np.concatenate([end[:, None] + around, start[:, None] - around], axis=1)
    return list(np.rint(rings).astype(np.int64))
