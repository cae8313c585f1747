"""Judge polygons with Shapely: whether they are valid, and what fences leave. Pure.

Coordinates are whole numbers that a float holds exactly, so that the judgement does not depend on rounding.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Final

import shapely

from pipeline.request.area import Polygon
from pipeline.request.geometry import E7, HALF_TURN_E7

_PLACE: Final = re.compile(r"(.+)\[(\S+) (\S+)\]")
_WORDS: Final = {"Self-intersection": "it crosses itself", "Ring Self-intersection": "a ring touches itself"}


def why_invalid(polygon: Polygon) -> str:
    """Return what is wrong with a polygon, and where; empty if nothing is."""
    reason = str(shapely.is_valid_reason(_shapely_polygon(polygon)))
    if reason == "Valid Geometry":
        return ""
    place = _PLACE.fullmatch(reason)
    if place is None:
        return reason.lower()
    x, y = float(place[2]) / E7, float(place[3]) / E7
    longitude = (x + HALF_TURN_E7 / E7) % 360 - 180
    return f"{_WORDS.get(place[1], place[1].lower())} at longitude {longitude:.7f}, latitude {y:.7f}"


def difference(polygons: Sequence[Polygon], forbidden: Sequence[Polygon]) -> list[Polygon]:
    """Return polygons without others, on the grid of whole numbers; all of them are valid."""
    left = shapely.difference(
        shapely.union_all([_shapely_polygon(each) for each in polygons], grid_size=1),
        shapely.union_all([_shapely_polygon(each) for each in _everywhere(forbidden)], grid_size=1),
        grid_size=1,
    )
    return [
        tuple(
            tuple((round(x), round(y)) for x, y in ring.coords[:-1])
            for ring in (part.exterior, *part.interiors)
        )
        for part in shapely.get_parts(left)
        if part.geom_type == "Polygon"
    ]


def _everywhere(polygons: Sequence[Polygon]) -> Iterator[Polygon]:
    """Yield polygons and the same a turn to the west and to the east: others may go on beyond 180 degrees."""
    for turn in (-2 * HALF_TURN_E7, 0, 2 * HALF_TURN_E7):
        for polygon in polygons:
            yield tuple(tuple((x + turn, y) for x, y in ring) for ring in polygon)


def _shapely_polygon(polygon: Polygon) -> shapely.Polygon:
    return shapely.Polygon(polygon[0], polygon[1:])
