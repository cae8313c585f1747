"""The geographic report: which parts of an area can be localised, and why the others cannot. Pure.

Tiles are written as runs along a row of one zoom, `[zoom, y, first x, last x]`, so that a large hole takes
little space. A *featureless* tile (water, cloud, a provider's "no imagery") is present, but looks like others.

Where chunks of ground get the descriptors, the area is counted in steps of each level, which are the tiles of
zoom + k. A step is a *hole* if no indexed chunk shows it, featureless if only chunks without features do.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.tiles.patches import Patch, Rectangle
from store.base import canonical_json
from store.base.cache_warning import CacheWarning
from store.base.canonical_json import Document
from store.base.geometry.level import Level
from store.base.identity import AXIS_MASK, X_SHIFT
from store.base.valueclass import valueclass
from store.trust.readiness import area_warnings
from store.trust.readiness_facts import AreaCounts

Place = tuple[int, int, int]
"""(zoom, x, y)."""

TileRun = list[int]
"""[zoom, y, first x, last x]."""

Mask = npt.NDArray[np.bool_]


@valueclass(frozen=True, slots=True, kw_only=True)
class GroundCoverage:
    """What one level of chunks shows of an area, in steps.

    Attributes:
        level: The level.
        chunks: Number of chunks with a descriptor.
        wanted: Steps in the area.
        holes: Runs of steps that no chunk shows.
        featureless: Runs of steps that only chunks without features show.
    """

    level: Level
    chunks: int
    wanted: int
    holes: list[TileRun]
    featureless: list[TileRun]

    @property
    def present(self) -> int:
        """Steps that a chunk shows."""
        return self.wanted - count_places(self.holes)

    @property
    def localisable(self) -> float:
        """Part of the area in which a place can be found."""
        return (self.present - count_places(self.featureless)) / self.wanted if self.wanted else 0.0

    def to_document(self) -> Document:
        """Return its part of the report artifact."""
        return {
            "zoom": self.level.zoom,
            "k": self.level.k,
            "m": self.level.m,
            "chunks": self.chunks,
            "wanted": self.wanted,
            "present": self.present,
            "holes": self.holes,
            "featureless": self.featureless,
        }


@valueclass(frozen=True, slots=True, kw_only=True)
class AreaReport:
    """The parts of an area by their state.

    Attributes:
        tiles_wanted: Number of tiles that the area wants.
        tiles_present: Number of tiles that were selected.
        holes: Tiles that the source does not have.
        featureless: Tiles that look like others; none where chunks get the descriptors.
        skipped: Tiles that have no descriptor; under chunks those of which no chunk has one.
        excluded: Tiles that are too old.
        levels: What the chunks of each level show; none where tiles get the descriptors.
    """

    tiles_wanted: int
    tiles_present: int
    holes: tuple[Place, ...]
    featureless: tuple[Place, ...]
    skipped: tuple[Place, ...]
    excluded: tuple[Place, ...]
    levels: tuple[GroundCoverage, ...] = ()

    @property
    def least(self) -> GroundCoverage | None:
        """The level that shows least of the area; None without levels."""
        return min(self.levels, key=lambda level: level.localisable, default=None)

    @property
    def wanted(self) -> int:
        """Tiles, or steps of the level that shows least."""
        return self.tiles_wanted if self.least is None else self.least.wanted

    @property
    def present(self) -> int:
        """Those of `wanted` that are there."""
        return self.tiles_present if self.least is None else self.least.present

    @property
    def featureless_count(self) -> int:
        """Those of `present` that have no features."""
        return len(self.featureless) if self.least is None else count_places(self.least.featureless)

    @property
    def localisable(self) -> float:
        """Part of the area in which a place can be found, by the level that shows least."""
        if self.least is not None:
            return self.least.localisable
        good = self.tiles_present - len(self.featureless) - len(self.skipped)
        return good / self.tiles_wanted if self.tiles_wanted else 0.0

    @property
    def counts(self) -> AreaCounts:
        """What is there of the area, by the level that shows least."""
        return AreaCounts(
            wanted=self.wanted,
            present=self.present,
            featureless=self.featureless_count,
            skipped=len(self.skipped),
        )

    def warnings(self) -> tuple[CacheWarning, ...]:
        """Return each reason why a part of the area cannot be localised."""
        return tuple(area_warnings(self.counts, chunks=bool(self.levels)))

    def encoded(self) -> bytes:
        """Return the bytes of the report artifact."""
        return canonical_json.encode(self.to_document())

    def to_document(self) -> Document:
        """Return the report artifact's content."""
        document: Document = {
            "format": 2 if self.levels else 1,
            "wanted": self.tiles_wanted,
            "present": self.tiles_present,
            "holes": runs(self.holes),
            "featureless": runs(self.featureless),
            "skipped": runs(self.skipped),
            "excluded": runs(self.excluded),
        }
        return (
            {**document, "levels": [each.to_document() for each in self.levels]} if self.levels else document
        )


def ground_coverage(
    level: Level,
    area: Sequence[Patch],
    ids: npt.NDArray[np.int64],
    featureless: Mask,
) -> GroundCoverage:
    """Return what chunks show of an area.

    Args:
        level: Their level.
        area: The steps of the area.
        ids: Ids of the chunks that have a descriptor, int64 [n].
        featureless: Which of them have no features, bool [n].
    """
    holes: list[TileRun] = []
    blind: list[TileRun] = []
    for patch in area:
        steps, wanted = patch.rectangle, patch.chosen()
        textured = _shown(level, steps, ids[~featureless])
        plain = _shown(level, steps, ids[featureless]) & ~textured
        holes += mask_runs(level, steps, wanted & ~(textured | plain))
        blind += mask_runs(level, steps, wanted & plain)
    return GroundCoverage(
        level=level,
        chunks=len(ids),
        wanted=sum(patch.total for patch in area),
        holes=_joined_runs(holes, area),
        featureless=_joined_runs(blind, area),
    )


def shown_runs(level: Level, area: Sequence[Patch], ids: npt.NDArray[np.int64]) -> list[TileRun]:
    """Return the runs of the steps of an area that chunks of a level show, given their ids, int64 [n]."""
    found: list[TileRun] = []
    for patch in area:
        shown = _shown(level, patch.rectangle, ids)
        found += mask_runs(level, patch.rectangle, shown & patch.chosen())
    return _joined_runs(found, area)


def _joined_runs(found: list[TileRun], area: Sequence[Patch]) -> list[TileRun]:
    """Return the runs of several patches by row and column, those that touch as one."""
    if len(area) < 2:
        return found
    joined: list[TileRun] = []
    for run in sorted(found):
        if joined and joined[-1][:2] == run[:2] and joined[-1][3] + 1 == run[2]:
            joined[-1][3] = run[3]
        else:
            joined.append(run)
    return joined


def _shown(level: Level, steps: Rectangle, ids: npt.NDArray[np.int64]) -> Mask:
    """Return which steps of an area some chunks show, bool [nx, ny]."""
    m, around = level.m, level.steps_around
    # Relative to m steps before the area, so that chunks that begin before it count.
    x = (((ids >> X_SHIFT) & AXIS_MASK) - steps.x0 + m) % around
    y = (ids & AXIS_MASK) - steps.y0 + m
    # Of an area around the globe, chunks over its west edge lie over its east edge as well.
    again = x + around < steps.nx + m
    x, y = np.concatenate([x, x[again] + around]), np.concatenate([y, y[again]])
    near = (x < steps.nx + m) & (y >= 0) & (y < steps.ny + m)
    changes = np.zeros((steps.nx + 2 * m + 1, steps.ny + 2 * m + 1), np.int32)
    for right, below, sign in ((0, 0, 1), (m, 0, -1), (0, m, -1), (m, m, 1)):
        np.add.at(changes, (x[near] + right, y[near] + below), sign)
    shown: Mask = changes.cumsum(axis=0).cumsum(axis=1)[m : m + steps.nx, m : m + steps.ny] > 0
    return shown


def mask_runs(level: Level, steps: Rectangle, mask: Mask) -> list[TileRun]:
    """Return the runs of the steps in a mask [nx, ny], by row and column."""
    # A run that crosses the antimeridian becomes two.
    around = level.steps_around
    columns = np.argsort((steps.x0 + np.arange(steps.nx)) % around, kind="stable")
    xs = ((steps.x0 + np.arange(steps.nx)) % around)[columns]
    rows, at = np.nonzero(mask[columns].T)
    if not len(rows):
        return []
    x = xs[at]
    starts = np.flatnonzero(np.r_[True, (np.diff(rows) != 0) | (np.diff(x) != 1)])
    ends = np.r_[starts[1:], len(rows)] - 1
    found = np.stack([np.full(len(starts), level.lattice_zoom), rows[starts] + steps.y0, x[starts], x[ends]])
    runs_found: list[TileRun] = found.T.tolist()
    return runs_found


def count_places(found: Iterable[TileRun]) -> int:
    """Return how many places some runs have."""
    return sum(last - first + 1 for _, _, first, last in found)


def runs(places: Iterable[Place]) -> list[TileRun]:
    """Return places as runs, by zoom, y and x; a place that occurs twice counts once."""
    found: list[TileRun] = []
    for zoom, y, x in sorted({(zoom, y, x) for zoom, x, y in places}):
        last = found[-1] if found else None
        if last is not None and last[:2] == [zoom, y] and last[3] + 1 == x:
            last[3] = x
        else:
            found.append([zoom, y, x, x])
    return found
