"""The chunks of one level: where they are, their vectors, and the search among them.

The vectors themselves are compared with the frame's, so that scores and margin are exact in every kind of index.
A graph would find most of the best chunks sooner, and could not say which of the others is the best;
`store.runtime.rounded_vectors` bounds what the others can be.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from store.backports import Self
from store.base.geometry.distances import points_of, within
from store.base.geometry.lattice import chunk_ids, middles, tile_span
from store.base.geometry.level import Level, side_m
from store.base.identity import AXIS_MASK, VIEW_SHIFT, X_SHIFT, ZOOM_SHIFT
from store.formats.tables import TileTable
from store.runtime.backends.base import Vectors
from store.runtime.inner_products import inner_products
from store.runtime.rounded_vectors import RoundedVectors

Rows: TypeAlias = NDArray[np.int64]

_FEW = 4
"""Up to one row in so many, the product of these rows alone is faster, although they are copied for it."""
_MANY_CHUNKS = 12_000
"""From so many chunks on, a search of rounded vectors comes first. Below, it was measured to take longer."""
_FEW_CHUNKS = 256
"""At least so many of them are then compared exactly."""
_FEW_OF_MANY = 32
"""Where more than one in so many would be, the search of rounded vectors was measured to take longer too."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LevelTable:
    """The chunks of a level that can be found, by rising id.

    Attributes:
        number: Number of the level, from 1 by rising side.
        level: The level.
        ids: Descriptor ids, int64 [n].
        middles: Longitude and latitude of the middles in degrees, float64 [n, 2].
        points: The middles on the unit sphere, float64 [n, 3].
        latitudes: The lowest and the highest of the middles, degrees; 0 if there are none.
        vectors: Unit descriptors, float32 [n, d].
        captured: Oldest and newest day on which the tiles under them were captured, days since 1970-01-01, int32
            [n, 2]. Where a day is unknown, the second is the least int32, and the first the oldest of the others
            or the greatest int32.
        rounded: The same vectors, rounded, where a search of those first saves time.
    """

    number: int
    level: Level
    ids: Rows
    middles: NDArray[np.float64]
    points: NDArray[np.float64]
    latitudes: tuple[float, float]
    vectors: Vectors
    captured: NDArray[np.int32]
    rounded: RoundedVectors | None

    @classmethod
    def of(cls, number: int, level: Level, ids: Rows, vectors: Vectors, tiles: TileTable) -> Self:
        """Return the table of some rows, in any order.

        Raises:
            ValueError: An id is that of no chunk of the level, or occurs twice.
        """
        order = np.argsort(ids)
        if (order[1:] != order[:-1] + 1).any():
            ids, vectors = ids[order], vectors[order]
        columns, rows = ids >> X_SHIFT & AXIS_MASK, ids & AXIS_MASK
        if (chunk_ids(level, columns, rows) != ids).any() or (ids[1:] == ids[:-1]).any():
            raise ValueError(f"ids of other chunks than those of level {number}, or one of them twice")
        places = middles(level, columns, rows)
        vectors = np.ascontiguousarray(vectors)
        many = len(ids) >= max(_MANY_CHUNKS, _FEW_OF_MANY * _few_of(level))
        return cls(
            number=number,
            level=level,
            ids=ids,
            middles=places,
            points=points_of(places),
            latitudes=(float(places[:, 1].min()), float(places[:, 1].max())) if len(places) else (0.0, 0.0),
            vectors=vectors,
            captured=_captured(level, columns, rows, tiles),
            rounded=RoundedVectors(vectors) if many else None,
        )

    def __len__(self) -> int:
        """Number of chunks."""
        return len(self.ids)

    @property
    def few(self) -> int:
        """How many rows are compared exactly after a search of rounded vectors."""
        return min(_few_of(self.level), len(self))

    def side_m(self, latitude_deg: float | None = None) -> float:
        """Return the side of a chunk in metres, at the chunks' latitude that is nearest to one or in their middle."""
        lowest, highest = self.latitudes
        wanted = (lowest + highest) / 2 if latitude_deg is None else latitude_deg
        return side_m(self.level, min(max(wanted, lowest), highest))

    def near(self, lon: float, lat: float, radius_m: float) -> Rows:
        """Return the rows of the chunks whose middle is at most so many metres from a place in degrees."""
        point = points_of(np.array([[lon, lat]]))[0]
        return within(self.points, point, radius_m)

    def scores(self, queries: Vectors, rows: Rows | None) -> Vectors:
        """Return the inner products of queries, float32 [q, d], with all or some rows, float32 [q, n]."""
        few = rows is not None and _FEW * len(rows) <= len(self)
        vectors = self.vectors[rows] if few else self.vectors
        found = inner_products(queries, vectors)
        return found if rows is None or few else found[:, rows]

    def margin(self, scores: Vectors, rows: Rows | None, best: int) -> float | None:
        """Return how much the best score lies above those of chunks elsewhere; None if there are none.

        Args:
            scores: Of the searched rows, float32 [n].
            rows: The searched rows; None for all.
            best: Place of the best score in `scores`.
        """
        points, number = (self.points, best) if rows is None else (self.points[rows], int(rows[best]))
        side = side_m(self.level, float(self.middles[number, 1]))
        far = scores.copy()
        far[within(points, points[best], side)] = -np.inf
        score = float(far.max())
        return float(scores[best]) - score if score > -np.inf else None


def _few_of(level: Level) -> int:
    # The margin needs a chunk more than a side away from the best: about 3 m * m are not.
    return max(_FEW_CHUNKS, 4 * level.m**2)


def _captured(level: Level, xs: Rows, ys: Rows, tiles: TileTable) -> NDArray[np.int32]:
    """Return the oldest and the newest day of the tiles under chunks, int32 [n, 2]; see `LevelTable.captured`."""
    limits = np.iinfo(np.int32)
    days = np.tile(np.array([limits.max, limits.min], np.int32), (len(xs), 1))
    dated = np.ones(len(xs), np.bool_)
    x0, nx, y0, ny = tile_span(level, xs, ys)
    for column in range(int(nx.max(initial=0))):
        for row in range(int(ny.max(initial=0))):
            under = np.flatnonzero((column < nx) & (row < ny))
            columns = (x0[under] + column) % (1 << level.zoom)
            ids = np.int64(level.zoom << ZOOM_SHIFT) | columns << X_SHIFT | y0[under] + row
            known, found = tiles.days_of(ids.astype(np.uint64))
            dated[under[~known]] = False
            under = under[known]
            days[under, 0] = np.minimum(days[under, 0], found)
            days[under, 1] = np.maximum(days[under, 1], found)
    days[~dated, 1] = limits.min
    return days


def id_range(level: Level) -> tuple[int, int]:
    """Return the lowest and the highest id that a chunk of a level can have."""
    first = level.lattice_zoom << ZOOM_SHIFT | level.view << VIEW_SHIFT
    return first, first | (1 << VIEW_SHIFT) - 1


def best_first(scores: Vectors, k: int) -> Rows:
    """Return the places of the k highest scores, best first; of equal ones, the first ones."""
    if k < len(scores):
        # All that are as high as the last one count, so that equal scores are told apart by their places alone.
        least = np.partition(scores, len(scores) - k)[len(scores) - k]
        found = np.flatnonzero(scores >= least)
    else:
        found = np.arange(len(scores))
    return found[np.argsort(-scores[found], kind="stable")][:k]
