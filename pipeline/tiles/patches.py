"""Patches: places of a lattice as a few rectangles, each with a mask. Pure.

Work on places is fast on rectangles of them. Runs of places that lie far apart, or along a line, are covered by
several rectangles that hold little else.
"""

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Final, NamedTuple

import numpy as np

from pipeline.tiles.raster import Mask, Runs

SPARE: Final = 4096
"""So many places beside the wanted ones are no reason for another rectangle where only masks are computed."""


class Rectangle(NamedTuple):
    """Columns x0 to x0 + nx - 1, modulo the width of the grid, of rows y0 to y0 + ny - 1."""

    x0: int
    nx: int
    y0: int
    ny: int

    @property
    def total(self) -> int:
        """Number of places."""
        return self.nx * self.ny


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """Some places of a rectangle.

    Attributes:
        rectangle: The rectangle.
        mask: Which of its places, bool [nx, ny]; None for all.
    """

    rectangle: Rectangle
    mask: Mask | None = None

    @property
    def total(self) -> int:
        """Number of places."""
        return self.rectangle.total if self.mask is None else int(self.mask.sum())

    def chosen(self) -> Mask:
        """Return which places of the rectangle count, bool [nx, ny]; the caller may change it."""
        shape = (self.rectangle.nx, self.rectangle.ny)
        return np.ones(shape, np.bool_) if self.mask is None else self.mask.copy()


def cover(runs: Mapping[int, Runs], *, most: int, spare: int = SPARE) -> list[tuple[int, Patch]]:
    """Return disjoint patches of some places of several lattices, with the lattice of each.

    Args:
        runs: The places by lattice.
        most: Greatest number of patches beyond one for each lattice.
        spare: So many places beside the wanted ones, and a quarter of these, are no reason for another patch.
    """
    order = count()
    waiting = [(-_beside(part), next(order), key, part) for key, part in runs.items() if part.total]
    heapq.heapify(waiting)
    wanted = sum(part.total for part in runs.values())
    done = []
    for _ in range(most):
        if not waiting or -sum(each[0] for each in waiting) <= wanted // 4 + spare:
            break
        _, _, key, part = heapq.heappop(waiting)
        halves = _halves(part)
        if halves is None:
            done.append((key, part))
            continue
        for half in halves:
            heapq.heappush(waiting, (-_beside(half), next(order), key, half))
    done += [(key, part) for _, _, key, part in waiting]
    done.sort(key=lambda each: (each[0], *_around(each[1])))
    return [(key, _patch(part)) for key, part in done]


def _around(part: Runs) -> Rectangle:
    x0, y0 = int(part.first.min()), int(part.rows[0])
    return Rectangle(x0, int(part.stop.max()) - x0, y0, int(part.rows[-1]) - y0 + 1)


def _beside(part: Runs) -> int:
    """Return how many places around some runs are none of them."""
    return _around(part).total - part.total


def _halves(part: Runs) -> tuple[Runs, Runs] | None:
    """Return two parts of some runs with fewest places beside them; None if no cut leaves fewer."""
    cuts = [halves for halves in _cuts(part) if all(half.total for half in halves)]
    best = min(cuts, key=lambda halves: sum(map(_beside, halves)), default=None)
    return best if best is not None and sum(map(_beside, best)) < _beside(part) else None


def _cuts(part: Runs) -> Iterator[tuple[Runs, Runs]]:
    """Yield the parts on both sides of a cut through the middle, between rows and between columns."""
    x0, nx, y0, ny = _around(part)
    row, column = y0 + ny // 2, x0 + nx // 2
    above = part.rows < row
    yield (
        Runs(part.rows[above], part.first[above], part.stop[above]),
        Runs(part.rows[~above], part.first[~above], part.stop[~above]),
    )
    west, east = part.first < column, part.stop > column
    yield (
        Runs(part.rows[west], part.first[west], np.minimum(part.stop[west], column)),
        Runs(part.rows[east], np.maximum(part.first[east], column), part.stop[east]),
    )


def _patch(part: Runs) -> Patch:
    rectangle = _around(part)
    changes = np.zeros((rectangle.nx + 1, rectangle.ny), np.int8)
    rows = part.rows - rectangle.y0
    # Runs do not touch, so that no place changes twice.
    changes[part.first - rectangle.x0, rows] = 1
    changes[part.stop - rectangle.x0, rows] = -1
    mask: Mask = changes.cumsum(axis=0, dtype=np.int8)[:-1].view(np.bool_)
    return Patch(rectangle, None if mask.all() else mask)
