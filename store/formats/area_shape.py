"""The shape of an area that is no box, as `pipeline.request.area` writes it, and whether a place lies in it. Pure.

An aircraft carries it and asks it for the take-off. All is whole numbers: longitudes and latitudes in 1e-7 degree.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

from store.base import validators
from store.base.canonical_json import decode
from store.base.valueclass import valueclass

Ring: TypeAlias = Sequence[tuple[int, int]]

_FULL_TURN_E7 = 3_600_000_000
_FARTHEST = 4 * _FULL_TURN_E7
"""Unrolled longitudes, and widths in millimetres, are far below this."""


@valueclass(frozen=True, slots=True, kw_only=True)
class AreaShape:
    """Polygons, each a shell and its holes, and routes with the width of their corridors in millimetres."""

    polygons: Sequence[Sequence[Ring]]
    routes: Sequence[Ring]
    width_mm: int

    @classmethod
    def parse(cls, data: bytes) -> "AreaShape":
        """Return the shape in an artifact.

        Raises:
            ValueError: It is none.
        """
        match decode(data.removesuffix(b"\n")):
            case {"format": 1, "polygons": list(polygons), "routes": list(routes), "width_mm": width}:
                try:
                    return cls(
                        polygons=[[_ring(ring) for ring in rings] for rings in polygons],
                        routes=[_ring(route) for route in routes],
                        width_mm=_within_reach(validators.count(width)),
                    )
                except TypeError as error:
                    raise ValueError(f"expected rings of points, found {error}") from error
            case _:
                raise ValueError("expected a shape of format 1")

    def contains(self, longitude_e7: int, latitude_e7: int) -> bool:
        """Whether a place lies in a polygon or corridor, or on its edge."""
        return any(
            _touches(rings, longitude_e7 + turn, latitude_e7)
            for rings in self._all_polygons()
            for turn in (-_FULL_TURN_E7, 0, _FULL_TURN_E7)
        )

    def _all_polygons(self) -> Iterator[Sequence[Ring]]:
        yield from self.polygons
        if not self.routes:
            return
        from store.base.geometry.corridor import corridor_polygons  # noqa: PLC0415 - routes alone need NumPy

        for route in self.routes:
            for ring in corridor_polygons(route, self.width_mm):
                yield [ring.tolist()]


def _ring(points: Iterable[Any]) -> Ring:
    found = [(x, y) for x, y in points]
    if len(found) < 2 or not all(type(each) is int for point in found for each in point):
        raise ValueError("expected points of two whole numbers")
    for point in found:
        for each in point:
            _within_reach(each)
    return found


def _within_reach(number: int) -> int:
    # A corridor is cut into pieces: one that goes around the Earth without end would not fit into memory.
    if abs(number) > _FARTHEST:
        raise ValueError(f"expected a place on the Earth, found {number}")
    return number


def _touches(rings: Sequence[Ring], x: int, y: int) -> bool:
    """Whether a point lies in a polygon or on its edge: an odd number of edges is east of it."""
    inside = False
    for ring in rings:
        for one, other in zip(ring, [*ring[1:], ring[0]], strict=True):
            (x1, y1), (x2, y2) = (one, other) if one[1] <= other[1] else (other, one)
            if not y1 <= y <= y2:
                continue
            beyond = (x - x1) * (y2 - y1) - (y - y1) * (x2 - x1)
            if beyond == 0 and min(x1, x2) <= x <= max(x1, x2):
                return True
            inside ^= beyond < 0 and y < y2
    return inside
