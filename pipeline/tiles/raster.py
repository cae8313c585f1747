"""Find the places of a lattice that lie in polygons, exactly, row by row. Pure.

Polygons have whole coordinates in 1e-7 degree, and so have the edges of tiles and the middles of chunks, rounded
as `pipeline.tiles.grid` and `store.base.geometry.lattice` round them. Where an edge of a polygon has a latitude is a
fraction, of which only the whole numbers beside it are ever needed, so that all is integer arithmetic.

A tile is wanted where its inside meets the inside of a polygon, a chunk where its middle lies in one or on its
edge, as for a box. The ground of a polygon within a row, seen from the south, is what its edges in that row lie
over, and what lies between them at the row's south edge.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline.request.area import Area, Edges
from pipeline.request.geometry import E7, FULL_TURN_E7, HALF_TURN_E7
from pipeline.tiles.grid import north_edge_e7
from store.base.geometry.lattice import middle_latitude_e7
from store.base.geometry.level import Level

Integers: TypeAlias = npt.NDArray[np.int64]
Mask: TypeAlias = npt.NDArray[np.bool_]

MAX_CROSSINGS: Final = 20_000_000
"""An outline that has more edges in rows than that is refused, to bound the time."""
_AT_ONCE: Final = 1_000_000
"""So many edges in rows are computed at once, which take 300 bytes each."""

_STRIDE: Final = 1 << 34
"""More than the length of a row, in columns and in 1e-7 degree; rows are below 2^25."""


class TooDetailedError(ValueError):
    """The outline of an area has too many edges in too many rows."""


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """Places of a lattice as runs along rows, by row and column, none touching the next; int64 [n] each.

    Attributes:
        rows: The row of each run.
        first: Its first column.
        stop: The column after its last.
    """

    rows: Integers
    first: Integers
    stop: Integers

    @classmethod
    def union(cls, rows: Integers, first: Integers, stop: Integers) -> "Runs":
        """Return the places in any of some runs, in any order; columns are not negative."""
        keep = first < stop
        base = rows[keep] * _STRIDE
        order = np.argsort(base + first[keep], kind="stable")
        starts, stops = (base + first[keep])[order], np.maximum.accumulate((base + stop[keep])[order])
        new = np.ones(len(starts), np.bool_)
        new[1:] = starts[1:] > stops[:-1]
        last = np.r_[np.flatnonzero(new)[1:] - 1, len(starts) - 1][: int(new.sum())]
        return cls(starts[new] // _STRIDE, starts[new] % _STRIDE, stops[last] % _STRIDE)

    @classmethod
    def wrapped(cls, rows: Integers, first: Integers, stop: Integers, around: int) -> "Runs":
        """Return the places in any of some runs, whose columns count modulo the width of the lattice."""
        whole = stop - first >= around
        turns = np.where(whole, 0, first // around)
        first, stop = (
            np.where(whole, 0, first - turns * around),
            np.where(whole, around, stop - turns * around),
        )
        beyond = stop > around
        return cls.union(
            np.concatenate([rows, rows[beyond]]),
            np.concatenate([first, np.zeros(int(beyond.sum()), np.int64)]),
            np.concatenate([np.minimum(stop, around), stop[beyond] - around]),
        )

    @classmethod
    def by_rows(cls, parts: "Iterable[Runs]") -> "Runs":
        """Return the places of some parts, each of which lies below the one before it."""
        columns = zip(*((each.rows, each.first, each.stop) for each in parts), strict=True)
        return cls(*map(np.concatenate, columns))

    def joined(self, other: "Runs") -> "Runs":
        """Return the places in either."""
        rows, first, stop = (
            np.concatenate(pair)
            for pair in ((self.rows, other.rows), (self.first, other.first), (self.stop, other.stop))
        )
        return Runs.union(rows, first, stop)

    @property
    def total(self) -> int:
        """Number of places."""
        return int((self.stop - self.first).sum())


def tile_runs(area: Area, zoom: int) -> Runs:
    """Return the tiles of a zoom whose inside meets the inside of an area's polygons.

    Raises:
        TooDetailedError: The outline has too many edges.
    """
    blocks = _edges_in_rows(area.edges, lambda y: _row_of(y, 1 << zoom), 1 << zoom)
    return Runs.by_rows(_tile_runs_in(area.edges.take(edge), row, zoom) for edge, row in blocks)


def _tile_runs_in(each: Edges, row: Integers, zoom: int) -> Runs:
    """Return the tiles of some rows, given all edges that meet each of them; both are as long."""
    south, north = (_by_row(row + below, lambda y: north_edge_e7(zoom, y)) for below in (1, 0))
    low, high = np.maximum(each.y1, south), np.minimum(each.y2, north)
    level = each.y1 == each.y2
    inside = np.where(level, (each.y1 > south) & (each.y1 < north), low < high)
    there = each.take(inside)
    ends = (*there.at(low[inside]), *there.at(high[inside]))
    first, stop = np.minimum(ends[0], ends[2]), np.maximum(ends[1], ends[3])
    flat = level[inside]
    first = np.where(flat, np.minimum(there.x1, there.x2), first)
    stop = np.where(flat, np.maximum(there.x1, there.x2), stop)
    crossing = (each.y1 <= south) & (south < each.y2)
    between = _between(each.take(crossing), row[crossing], south[crossing])
    ground = _joined((row[inside], first, stop), between[:3])
    around = 1 << zoom
    # An open interval of longitudes meets the columns that begin west of its end and end east of its start.
    columns = _first_column(ground.first - FULL_TURN_E7 + 1, 0, around) - 1
    ends_at = _first_column(ground.stop - FULL_TURN_E7, 0, around)
    return Runs.wrapped(ground.rows, columns, ends_at, around)


def middle_runs(area: Area, level: Level) -> Runs:
    """Return the chunks of a level whose middle lies in an area's polygons or on their edge.

    Raises:
        TooDetailedError: The outline has too many edges.
    """
    found = []
    for rows, first, stop, _ in _ground_at_middles(area.edges, level):
        ground = _joined((rows, first, stop))
        columns, ends_at = (
            _first_column(each - FULL_TURN_E7, level.m, level.steps_around)
            for each in (ground.first, ground.stop)
        )
        found.append(Runs.wrapped(ground.rows, columns, ends_at, level.steps_around))
    return Runs.by_rows(found)


def polygons_with_middles(area: Area, level: Level) -> Integers:
    """Return the numbers of the area's polygons in which a chunk of a level has its middle, ascending.

    Raises:
        TooDetailedError: The outline has too many edges.
    """
    found = [np.zeros(0, np.int64)]
    for _, first, stop, polygon in _ground_at_middles(area.edges, level):
        columns, ends_at = (_first_column(each, level.m, level.steps_around) for each in (first, stop))
        found.append(np.unique(polygon[columns < ends_at]))
    return np.unique(np.concatenate(found))


def _ground_at_middles(edges: Edges, level: Level) -> Iterator[tuple[Integers, Integers, Integers, Integers]]:
    """Yield where polygons lie at the latitude of some rows' middles: row, first and stop in 1e-7 degree, polygon."""
    around, rows = level.steps_around, level.steps_around - level.m + 1
    for edge, row in _edges_in_rows(edges, lambda y: _row_of(y, around) - level.m // 2, rows):
        yield _ground_at(edges.take(edge), row, level)


def _ground_at(each: Edges, row: Integers, level: Level) -> tuple[Integers, Integers, Integers, Integers]:
    y = _by_row(row, lambda each: middle_latitude_e7(level, each))
    meets = (each.y1 <= y) & (y <= each.y2)
    each, row, y = each.take(meets), row[meets], y[meets]
    flat, touch = each.y1 == each.y2, (each.y1 == y) | (each.y2 == y)
    ends = np.where(each.y1 == y, each.x1, each.x2)
    west, east = np.minimum(each.x1, each.x2), np.maximum(each.x1, each.x2) + 1
    above, below = (each.y1 <= y) & (y < each.y2), (each.y1 < y) & (y <= each.y2)
    parts = (
        (row[flat], west[flat], east[flat], each.polygon[flat]),
        (row[touch], ends[touch], ends[touch] + 1, each.polygon[touch]),
        _between(each.take(above), row[above], y[above], closed=True),
        _between(each.take(below), row[below], y[below], closed=True),
    )
    found_rows, first, stop, polygon = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return found_rows, first, stop, polygon


def _joined(*parts: tuple[Integers, Integers, Integers]) -> Runs:
    """Return the longitudes, a turn further east in 1e-7 degree, of some parts: rows, first, stop."""
    rows, first, stop = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return Runs.union(rows, first + FULL_TURN_E7, stop + FULL_TURN_E7)


def _between(
    edges: Edges, rows: Integers, y: Integers, *, closed: bool = False
) -> tuple[Integers, Integers, Integers, Integers]:
    """Return what lies between every second crossing of a polygon's edges with a row's latitude, and the polygon.

    The longitudes are rounded outwards; where the ends belong to it (`closed`), inwards, and the last is
    included.
    """
    west, east = edges.at(y)
    # Rounding keeps the order, so that both may be sorted on their own.
    first = (east if closed else west)[np.lexsort((east if closed else west, rows, edges.polygon))]
    order = np.lexsort((west if closed else east, rows, edges.polygon))
    stop = (west if closed else east)[order]
    return rows[order][::2], first[::2], stop[1::2] + int(closed), edges.polygon[order][::2]


def _edges_in_rows(
    edges: Edges, row_of: Callable[[npt.NDArray[np.float64]], Integers], rows: int
) -> Iterator[tuple[Integers, Integers]]:
    """Yield numbers of edges and the rows that they may meet, some rows after the other, a few too many."""
    first = np.clip(row_of(edges.y2 / E7) - 2, 0, rows)
    stop = np.clip(row_of(edges.y1 / E7) + 3, 0, rows)
    total = int((stop - first).sum())
    if total > MAX_CROSSINGS:
        raise TooDetailedError(f"an outline with {total} edges in rows of tiles")
    waiting = [(int(first.min(initial=rows)), int(stop.max(initial=0)))]
    while waiting:
        start, end = waiting.pop()
        here = np.clip(first, start, end)
        count = np.clip(stop, start, end) - here
        if int(count.sum()) > _AT_ONCE and end - start > 1:
            middle = (start + end) // 2
            waiting += [(middle, end), (start, middle)]
            continue
        edge = np.repeat(np.arange(len(count)), count)
        yield edge, np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + here[edge]


def _row_of(latitude: npt.NDArray[np.float64], rows: int) -> Integers:
    """Return about the row of a latitude in degrees."""
    down = 0.5 - np.arcsinh(np.tan(np.radians(latitude))) / (2 * np.pi)
    return np.floor(down * rows).astype(np.int64)


def _by_row(rows: Integers, value: Callable[[int], int]) -> Integers:
    """Return the value of each row, computed once for each."""
    found, where = np.unique(rows, return_inverse=True)
    values: Integers = np.array([value(row) for row in found.tolist()], np.int64)[where.reshape(-1)]
    return values


def _first_column(longitude: Integers, m: int, around: int) -> Integers:
    """Return the first column x such that (2 x + m) / 2 columns lie at or east of a longitude in 1e-7 degree."""
    guess = ((longitude + HALF_TURN_E7) * around // HALF_TURN_E7 - m) // 2
    guess = guess - 2
    for _ in range(4):
        guess = guess + (_longitude(guess, m, around) < longitude)
    return guess


def _longitude(column: Integers, m: int, around: int) -> Integers:
    """Return where (2 x + m) / 2 columns lie, 1e-7 degree, rounded half to even."""
    product = (2 * column + m) * HALF_TURN_E7
    down, rest = product // around, product % around
    up = (2 * rest > around) | ((2 * rest == around) & (down % 2 == 1))
    found: Integers = down + up - HALF_TURN_E7
    return found
