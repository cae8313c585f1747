"""The ground that a request wants: a box, or boxes, polygons and routes, as exact integers. Pure.

Points are (longitude, latitude) in 1e-7 degree. A ring has no repeated point and is closed by itself. It may
reach beyond 180 degrees east, so that it need not be cut at the antimeridian; its westernmost point lies from
-180 to below 180. A shape has one canonical form, whose digest is part of a build's identity: shells run
counter-clockwise and holes clockwise, each from its least point; polygons and routes are sorted, each once.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline.request.geometry import (
    FULL_TURN_E7,
    HALF_TURN_E7,
    MERCATOR_LIMIT,
    MERCATOR_LIMIT_E7,
    BoxE7,
    box_text,
    contains,
)
from store.base.canonical_json import Document, Value, decode, encode, sha256
from store.base.geometry.corridor import corridor_polygons
from store.base.values import ArtifactRef

Point: TypeAlias = tuple[int, int]
Ring: TypeAlias = tuple[Point, ...]
Polygon: TypeAlias = tuple[Ring, ...]
"""The shell, then the holes."""
Integers: TypeAlias = npt.NDArray[np.int64]

MAX_POINTS = 200_000
"""A shape of more points is refused."""
_FORMAT = 1


class ShapeError(ValueError):
    """Some points make no area; the message says what was found."""


class Edges(NamedTuple):
    """The edges of polygons, int64 [n] each: from (x1, y1) to (x2, y2), y1 <= y2, and the polygon's number."""

    x1: Integers
    y1: Integers
    x2: Integers
    y2: Integers
    polygon: Integers

    def take(self, chosen: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> "Edges":
        """Return some of the edges."""
        return Edges(*(column[chosen] for column in self))

    def at(self, y: Integers) -> tuple[Integers, Integers]:
        """Return the whole longitudes next to where each edge has a latitude: at or west of it, at or east.

        Nothing overflows where the latitude, int64 [n], is one of the edge. Of horizontal edges it is x1.
        """
        run, rise = self.x2 - self.x1, np.maximum(self.y2 - self.y1, 1)
        product = (y - self.y1) * run
        return self.x1 + product // rise, self.x1 - (-product) // rise


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Polygons and routes in canonical form.

    Attributes:
        polygons: The ground inside of any of them is wanted.
        routes: Lines of at least two points; the ground within half the width is wanted.
        width_mm: Width of the corridor of each route, millimetres; 0 without routes.
    """

    polygons: tuple[Polygon, ...] = ()
    routes: tuple[Ring, ...] = ()
    width_mm: int = 0

    def encoded(self) -> bytes:
        """Return the bytes of the artifact: canonical JSON and a newline."""
        document: dict[str, Value] = {
            "format": _FORMAT,
            "polygons": self.polygons,
            "routes": self.routes,
            "width_mm": self.width_mm,
        }
        return encode(document) + b"\n"


@dataclass(frozen=True)
class Area:
    """The ground that a request wants.

    Attributes:
        bbox_e7: The box, or the least box around the shape; west greater than east crosses the antimeridian.
        shape: The shape; None where the box is the area.
    """

    bbox_e7: BoxE7
    shape: Shape | None = None

    @classmethod
    def of_shape(cls, shape: Shape) -> "Area":
        """Return the area of a shape.

        Raises:
            ShapeError: It has nothing, too many points, or reaches too far north, south or around the globe.
        """
        points = sum(len(ring) for polygon in shape.polygons for ring in polygon) + sum(
            map(len, shape.routes)
        )
        if not points:
            raise ShapeError("no polygon and no route")
        if points > MAX_POINTS:
            raise ShapeError(f"{points} points, more than {MAX_POINTS}")
        return cls(_box_around(_shells(shape)), shape)

    @classmethod
    def of_boxes(cls, boxes: Iterable[BoxE7]) -> "Area":
        """Return the area that some boxes cover."""
        polygons = []
        for west, south, east, north in boxes:
            right = east + FULL_TURN_E7 if west > east else east
            polygons.append((((west, south), (right, south), (right, north), (west, north)),))
        return cls.of_shape(canonical_shape(polygons))

    @cached_property
    def encoded(self) -> bytes | None:
        """The bytes of the shape's artifact; None for a box."""
        return None if self.shape is None else self.shape.encoded()

    @property
    def ref(self) -> ArtifactRef | None:
        """The artifact; None for a box."""
        data = self.encoded
        return None if data is None else ArtifactRef(sha256=sha256(data), size=len(data))

    @property
    def text(self) -> str:
        """What to call it in messages."""
        box = box_text(self.bbox_e7)
        return box if self.shape is None else f"the area within {box}"

    @cached_property
    def edges(self) -> Edges:
        """The edges of all polygons of the shape, also of its corridors."""
        return _edges_of([] if self.shape is None else _all_polygons(self.shape))

    def contains(self, longitude_e7: int, latitude_e7: int) -> bool:
        """Whether a point lies in the area or on its edge."""
        if self.shape is None:
            return contains(self.bbox_e7, longitude_e7, latitude_e7)
        return any(
            _touches(self.edges, longitude_e7 + turn, latitude_e7)
            for turn in (-FULL_TURN_E7, 0, FULL_TURN_E7)
        )


def area_of_inputs(inputs: Document, artifact: bytes | None) -> Area:
    """Return the area of a recorded build.

    Args:
        inputs: The inputs of the build.
        artifact: The bytes of the shape that they name; None if they name none.

    Raises:
        KeyError, TypeError, ValueError: No build of this version records such inputs.
    """
    if "area" not in inputs:
        west, south, east, north = inputs["bbox_e7"]
        return Area((west, south, east, north))
    if artifact is None:
        raise ValueError("the shape of the area is missing")
    return Area.of_shape(decode_shape(artifact))


def decode_shape(data: bytes) -> Shape:
    """Return the shape in an artifact.

    Raises:
        ValueError: It is none.
    """
    match decode(data.removesuffix(b"\n")):
        case {
            "format": 1,
            "polygons": list(polygons),
            "routes": list(routes),
            "width_mm": int(width),
            **rest,
        } if not rest:
            found = canonical_shape(
                [tuple(map(_ring, polygon)) for polygon in polygons], map(_ring, routes), width
            )
        case _:
            raise ValueError("expected a shape of format 1")
    if found.encoded() != data:
        raise ValueError("the shape is not in canonical form")
    return found


def canonical_shape(
    polygons: Iterable[Sequence[Sequence[Point]]],
    routes: Iterable[Sequence[Point]] = (),
    width_mm: int = 0,
) -> Shape:
    """Return the canonical form of polygons and routes whose points are unrolled (`unroll`).

    Raises:
        ShapeError: A ring has no area, a route no length, or one reaches too far.
    """
    return Shape(
        polygons=tuple(sorted(set(map(_canonical_polygon, polygons)))),
        routes=tuple(sorted(set(map(_canonical_route, routes)))),
        width_mm=width_mm,
    )


def unroll(points: Sequence[Point], *, closed: bool) -> list[Point]:
    """Return points such that the way from each to the next is the shorter one around the globe.

    A ring that has no width then, as one from -180 to 180 with four corners, stays as it is. A repeated last
    point of a ring is dropped.

    Raises:
        ShapeError: A ring runs around a pole.
    """
    found = list(points)
    if closed and len(found) > 1 and found[0] == found[-1]:
        found.pop()
    turns, unrolled = 0, found[:1]
    for (before, _), (x, y) in pairwise(found):
        turns += _turns(x - before)
        unrolled.append((x - turns * FULL_TURN_E7, y))
    if not closed or not found:
        return unrolled
    if turns + _turns(found[0][0] - found[-1][0]):
        raise ShapeError("a ring around a pole")
    return found if len({x for x, _ in unrolled}) == 1 else unrolled


def _turns(step: int) -> int:
    """Return by how many turns a step is longer than the shorter way."""
    size = (abs(step) + HALF_TURN_E7 - 1) // FULL_TURN_E7
    return size if step > 0 else -size


def _canonical_polygon(rings: Sequence[Sequence[Point]]) -> Polygon:
    shell = _canonical_ring(rings[0], clockwise=False)
    shell = _shifted(shell, -HALF_TURN_E7)
    west = min(x for x, _ in shell)
    holes = (_shifted(_canonical_ring(ring, clockwise=True), west) for ring in rings[1:])
    return shell, *sorted(set(holes))


def _canonical_ring(points: Sequence[Point], *, clockwise: bool) -> Ring:
    ring = _without_repeats(points)
    while len(ring) > 1 and ring[0] == ring[-1]:
        ring.pop()
    twice = _twice_area(ring)
    if len(ring) < 3 or not twice:
        raise ShapeError("a ring without area")
    _require_reach(ring)
    if (twice < 0) != clockwise:
        ring.reverse()
    first = ring.index(min(ring))
    return tuple(ring[first:] + ring[:first])


def _twice_area(ring: Sequence[Point]) -> int:
    """Return twice the area of a ring, positive if it runs counter-clockwise."""
    return sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in zip(ring, [*ring[1:], *ring[:1]], strict=True))


def crosses_evenly(ring: Sequence[Point]) -> bool:
    """Whether a ring has loops on both sides of the same size: no area, though its points lie on no line."""
    if len(ring) < 3 or _twice_area(ring):
        return False
    (x0, y0), (x1, y1) = ring[:2]
    return any((x1 - x0) * (y - y0) != (x - x0) * (y1 - y0) for x, y in ring)


def _canonical_route(points: Sequence[Point]) -> Ring:
    line = _without_repeats(points)
    if len(line) < 2:
        raise ShapeError("a route of one point")
    _require_reach(line)
    there = _shifted(tuple(line), -HALF_TURN_E7)
    return min(there, there[::-1])


def _without_repeats(points: Sequence[Point]) -> list[Point]:
    found: list[Point] = []
    for point in points:
        if not found or point != found[-1]:
            found.append(point)
    return found


def _require_reach(points: Sequence[Point]) -> None:
    xs, ys = zip(*points, strict=True)
    if max(map(abs, ys)) > MERCATOR_LIMIT_E7:
        raise ShapeError(f"a latitude beyond the Web Mercator range, -{MERCATOR_LIMIT} to {MERCATOR_LIMIT}")
    if max(xs) - min(xs) > FULL_TURN_E7:
        raise ShapeError("more than once around the globe")


def _shifted(ring: Ring, least: int) -> Ring:
    """Return a ring moved by whole turns, so that its westernmost point is less than a turn east of `least`."""
    turns = (min(x for x, _ in ring) - least) // FULL_TURN_E7
    return tuple((x - turns * FULL_TURN_E7, y) for x, y in ring) if turns else ring


def _ring(points: object) -> list[Point]:
    match points:
        case list():
            pairs: list[Any] = points
            if all(type(x) is int and type(y) is int for x, y in pairs):
                return [(x, y) for x, y in pairs]
    raise ValueError("expected a ring of pairs of integers")


def _all_polygons(shape: Shape) -> list[list[Integers]]:
    """Return the rings of all polygons, also of corridors, int64 [n, 2] each."""
    drawn = [[np.array(ring, np.int64) for ring in polygon] for polygon in shape.polygons]
    return drawn + [[ring] for route in shape.routes for ring in corridor_polygons(route, shape.width_mm)]


def _shells(shape: Shape) -> list[Integers]:
    """Return the outer rings.

    Raises:
        ShapeError: A corridor reaches too far north or south.
    """
    shells = [rings[0] for rings in _all_polygons(shape)]
    if max(int(np.abs(ring[:, 1]).max()) for ring in shells) > MERCATOR_LIMIT_E7:
        raise ShapeError(f"a corridor beyond the Web Mercator range, -{MERCATOR_LIMIT} to {MERCATOR_LIMIT}")
    return shells


def _box_around(shells: Sequence[Integers]) -> BoxE7:
    south = min(int(ring[:, 1].min()) for ring in shells)
    north = max(int(ring[:, 1].max()) for ring in shells)
    widths = ((int(ring[:, 0].min()), int(ring[:, 0].max())) for ring in shells)
    spans = sorted((_wrapped(west), _wrapped(west) + east - west) for west, east in widths)
    # Where the last ones reach around the globe, they lie over the first.
    first, reach = spans[0][0], max(spans[0][1], max(east for _, east in spans) - FULL_TURN_E7)
    widest, west, east = -1, first, reach
    # The box leaves out the widest part of a turn in which nothing lies.
    for left, right in [*spans[1:], (first + FULL_TURN_E7, 0)]:
        if left - reach > widest:
            widest, west, east = left - reach, left, reach
        reach = max(reach, right)
    if widest <= 0:
        return -HALF_TURN_E7, south, HALF_TURN_E7, north
    east = _wrapped(east)
    return _wrapped(west), south, HALF_TURN_E7 if east == -HALF_TURN_E7 else east, north


def _wrapped(longitude: int) -> int:
    """Return a longitude from -180 to below 180."""
    return (longitude + HALF_TURN_E7) % FULL_TURN_E7 - HALF_TURN_E7


def _edges_of(polygons: Sequence[Sequence[Integers]]) -> Edges:
    ends = [np.zeros((0, 4), np.int64)]
    owners = [np.zeros(0, np.int64)]
    for number, rings in enumerate(polygons):
        for ring in rings:
            ends.append(np.concatenate([ring, np.roll(ring, -1, axis=0)], axis=1))
            owners.append(np.full(len(ring), number))
    x1, y1, x2, y2 = np.concatenate(ends).T
    up = y1 <= y2
    return Edges(
        np.where(up, x1, x2),
        np.where(up, y1, y2),
        np.where(up, x2, x1),
        np.where(up, y2, y1),
        np.concatenate(owners),
    )


def _touches(edges: Edges, x: int, y: int) -> bool:
    """Whether a point lies in a polygon or on its edge."""
    near = edges.take((edges.y1 <= y) & (y <= edges.y2))
    west, east = near.at(np.full(len(near.x1), y))
    level = near.y1 == near.y2
    on_edge = np.where(
        level,
        (np.minimum(near.x1, near.x2) <= x) & (x <= np.maximum(near.x1, near.x2)),
        (west == x) & (east == x),
    )
    beyond = (near.y1 <= y) & (y < near.y2) & (east > x)
    return bool(on_edge.any() or (np.bincount(near.polygon[beyond]) % 2).any())
