"""Select the chunks of an area: squares of ground on a lattice, cut from tiles. Pure.

A chunk is *wanted* where its middle lies in the area, and *made* where all the tiles under it are there. Ground
of the area that no made chunk shows is a hole.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pipeline.request.area import Area
from pipeline.request.geometry import BoxE7
from pipeline.tiles.grid import MAX_WANTED, TileRange
from pipeline.tiles.patches import Patch, Rectangle, cover
from pipeline.tiles.raster import Runs, middle_runs
from pipeline.tiles.retrieval_units import RetrievalUnits
from pipeline.tiles.tile_columns import TileColumns
from store.base.geometry.lattice import (
    chunk_digests,
    chunk_ids,
    chunk_of,
    digest_lookup,
    tile_span,
    wanted_range,
)
from store.base.geometry.level import Level
from store.base.identity import AXIS_MASK, VIEW_SHIFT, X_SHIFT, ZOOM_SHIFT
from store.formats.tables import TileTable
from store.manifest.levels import ChunkLevel, parse_levels

Integers = npt.NDArray[np.int64]

_MOST_PATCHES: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LevelChunks:
    """The chunks of one level.

    Attributes:
        level: The level.
        tile_edge: Edge of its tiles, pixels.
        area: The steps whose middle lies in the area.
        made: Ids and digests of the chunks that are made, by rising id.
    """

    level: Level
    tile_edge: int
    area: tuple[Patch, ...]
    made: RetrievalUnits


def wanted_chunks(level: Level, bbox_e7: BoxE7) -> Rectangle:
    """Return the places of the chunks that a box wants; none if it is smaller than a step."""
    return Rectangle(*wanted_range(level, bbox_e7))


def area_patches(level: Level, area: Area) -> tuple[Patch, ...]:
    """Return the places of the chunks that an area wants.

    Raises:
        TooDetailedError: The outline of the area has too many edges.
    """
    if area.shape is None:
        return (Patch(wanted_chunks(level, area.bbox_e7)),)
    return tuple(patch for _, patch in cover({0: middle_runs(area, level)}, most=_MOST_PATCHES))


def wanted_total(level: Level, area: Area) -> int:
    """Return how many chunks an area wants, without making room for them."""
    if area.shape is None:
        return wanted_chunks(level, area.bbox_e7).total
    return middle_runs(area, level).total


def tile_runs_under(level: Level, wanted: Runs) -> Runs:
    """Return the tiles under wanted chunks."""
    count = (wanted.rows + level.m - 1 >> level.k) - (wanted.rows >> level.k) + 1
    run = np.repeat(np.arange(len(count)), count)
    below = np.arange(len(run)) - np.repeat(np.cumsum(count) - count, count)
    rows, first = (wanted.rows >> level.k)[run] + below, (wanted.first >> level.k)[run]
    stop = (wanted.stop + level.m - 2 >> level.k)[run] + 1
    return Runs.wrapped(rows, first, stop, 1 << level.zoom)


def tiles_of(level: Level, wanted: Rectangle) -> Rectangle:
    """Return the tiles under wanted chunks, of which there is at least one."""
    x0, x1 = wanted.x0 >> level.k, (wanted.x0 + wanted.nx + level.m - 2) >> level.k
    y0, y1 = wanted.y0 >> level.k, (wanted.y0 + wanted.ny + level.m - 2) >> level.k
    return Rectangle(x0, min(x1 - x0 + 1, 1 << level.zoom), y0, y1 - y0 + 1)


def disjoint_ranges(zoom: int, parts: Sequence[Rectangle]) -> list[TileRange]:
    """Return the tiles of overlapping rectangles of one zoom as disjoint ranges, sorted by column."""
    around = 1 << zoom
    found: list[TileRange] = []
    edges = sorted({edge for part in parts for edge in (part.y0, part.y0 + part.ny)})
    for y0, y1 in pairwise(edges):
        columns = np.zeros(around, np.bool_)
        for part in parts:
            if part.y0 <= y0 < part.y0 + part.ny:
                columns[np.arange(part.x0, part.x0 + part.nx) % around] = True
        ends = np.flatnonzero(np.diff(columns, prepend=False, append=False)).reshape(-1, 2)
        found += [TileRange(z=zoom, x0=x0, x1=x1 - 1, y0=y0, y1=y1 - 1) for x0, x1 in ends.tolist()]
    return sorted(found, key=lambda part: (part.x0, part.y0))


def make_chunks(chunk_level: ChunkLevel, area: Area, tiles: TileColumns) -> LevelChunks:
    """Return the chunks of a level of which all tiles are there.

    Args:
        chunk_level: The level.
        area: The area.
        tiles: Selected tiles in rising order of (z, x, y).
    """
    level = chunk_level.level
    own = tiles.take(tiles.places[:, 0] == level.zoom)
    found = [np.zeros(0, np.int64)]
    for patch in area_patches(level, area):
        there = _whole(level, patch.rectangle, own)
        columns, rows = np.nonzero(there if patch.mask is None else there & patch.mask)
        xs = (columns + patch.rectangle.x0) % level.steps_around
        found.append(chunk_ids(level, xs, rows + patch.rectangle.y0))
    ids = np.sort(np.concatenate(found))
    lookup = digest_lookup(own.ids, own.digests)
    xs, ys = (ids >> X_SHIFT) & AXIS_MASK, ids & AXIS_MASK
    return LevelChunks(
        level=level,
        tile_edge=chunk_level.tile_edge,
        area=area_patches(Level(level.zoom, level.k, 1), area),
        made=RetrievalUnits(ids=ids, digests=chunk_digests(level, xs, ys, chunk_level.tile_edge, lookup)),
    )


def _whole(level: Level, wanted: Rectangle, tiles: TileColumns) -> npt.NDArray[np.bool_]:
    """Return for each wanted chunk whether all its tiles are there, bool [nx, ny]."""
    if not wanted.total:
        return np.zeros((wanted.nx, wanted.ny), np.bool_)
    x, nx, y, ny = tile_span(
        level, np.arange(wanted.x0, wanted.x0 + wanted.nx), np.arange(wanted.y0, wanted.y0 + wanted.ny)
    )
    x, y = x - x[0], y - y[0]
    width, height = int((x + nx)[-1]), int((y + ny)[-1])
    rows = tiles.places[:, 2] - (wanted.y0 >> level.k)
    columns = (tiles.places[:, 1] - (wanted.x0 >> level.k)) % (1 << level.zoom)
    sums = np.zeros((width + 1, height + 1), np.int64)
    # Around the globe the last chunks lie over the first columns again.
    for turn in (columns, columns + (1 << level.zoom)):
        inside = (turn < width) & (rows >= 0) & (rows < height)
        sums[turn[inside] + 1, rows[inside] + 1] = 1
    sums = sums.cumsum(axis=0).cumsum(axis=1)
    west, east = sums[x], sums[x + nx]
    found = east[:, y + ny] - east[:, y] - west[:, y + ny] + west[:, y]
    whole: npt.NDArray[np.bool_] = found == nx[:, None] * ny[None, :]
    return whole


def chunks_of(level: Level, ids: Integers) -> npt.NDArray[np.bool_]:
    """Return which ids are those of chunks of a level, bool [n]."""
    own: npt.NDArray[np.bool_] = (
        ids >> VIEW_SHIFT == level.lattice_zoom << ZOOM_SHIFT - VIEW_SHIFT | level.view
    )
    return own


def tile_ids_under(ids: Integers) -> Integers:
    """Return the descriptor ids of the tiles under some chunks, ascending, each once.

    Args:
        ids: Ids of the chunks, int64 [n], of any levels.
    """
    found = [np.zeros(0, np.int64)]
    levels = ids >> VIEW_SHIFT
    # The bits above column and row name the level.
    for field in np.unique(levels).tolist():
        own = ids[levels == field]
        level, _, _ = chunk_of(int(own[0]))
        x, nx, y, ny = tile_span(level, (own >> X_SHIFT) & AXIS_MASK, own & AXIS_MASK)
        for column in range(int(nx.max())):
            for row in range(int(ny.max())):
                under = (column < nx) & (row < ny)
                columns = (x[under] + column) % (1 << level.zoom)
                found.append(np.unique(level.zoom << ZOOM_SHIFT | columns << X_SHIFT | y[under] + row))
    return np.unique(np.concatenate(found))


class ShownTiles:
    """Finds the tiles that units show.

    Attributes:
        edges: Edge in pixels of the tiles under chunks, by zoom; empty where tiles are the units.
    """

    def __init__(self, tiles: TileColumns, edges: Mapping[int, int]) -> None:
        """Take the tiles, by rising (z, x, y), and their edges."""
        self._tiles, self._ids = tiles, tiles.ids
        self.edges = edges

    def under(self, ids: Integers) -> TileColumns:
        """Return the tiles of units, given their descriptor ids.

        Where tiles are the units, they are in that order; under chunks each tile comes once, by rising id.
        """
        return self._tiles.take(np.searchsorted(self._ids, tile_ids_under(ids) if self.edges else ids))


def units_of_table(
    table: TileTable, inputs: Mapping[str, Any], area_of: Callable[[], Area]
) -> RetrievalUnits:
    """Return what got a descriptor in a recorded build.

    Args:
        table: Its tile table.
        inputs: The inputs that it recorded.
        area_of: Returns its area; asked where there are chunks.

    Raises:
        KeyError, TypeError, ValueError: No build of this version records such inputs.
    """
    levels = parse_levels(inputs)
    if not levels:
        return RetrievalUnits(ids=table.ids.astype(np.int64), digests=table.digests)
    tiles, area = TileColumns.from_table(table), area_of()
    if any(wanted_total(each.level, area) > MAX_WANTED for each in levels):
        raise ValueError(f"an area that wants more than {MAX_WANTED} chunks")
    return RetrievalUnits.joined(make_chunks(level, area, tiles).made for level in levels)
