"""Select the chunks of an area: squares of ground on a lattice, cut from tiles. Pure.

A chunk is *wanted* where its middle lies in the area, and *made* where all the tiles under it are there. Ground
of the area that no made chunk shows is a hole.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.request.geometry import BoxE7
from pipeline.tiles.grid import MAX_WANTED, TileRange
from pipeline.tiles.retrieval_units import RetrievalUnits
from pipeline.tiles.tile_columns import TileColumns
from store.base.identity import AXIS_MASK, VIEW_SHIFT, X_SHIFT, ZOOM_SHIFT
from store.base.lattice import chunk_digests, chunk_ids, chunk_of, digest_lookup, tile_span, wanted_range
from store.base.level import Level
from store.formats.tables import TileTable
from store.manifest.levels import ChunkLevel, parse_levels

Integers = npt.NDArray[np.int64]


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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LevelChunks:
    """The chunks of one level.

    Attributes:
        level: The level.
        tile_edge: Edge of its tiles, pixels.
        area: The steps of the area.
        made: Ids and digests of the chunks that are made, by rising id.
    """

    level: Level
    tile_edge: int
    area: Rectangle
    made: RetrievalUnits


def wanted_chunks(level: Level, bbox_e7: BoxE7) -> Rectangle:
    """Return the places of the chunks that a box wants; none if it is smaller than a step."""
    return Rectangle(*wanted_range(level, bbox_e7))


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


def make_chunks(chunk_level: ChunkLevel, bbox_e7: BoxE7, tiles: TileColumns) -> LevelChunks:
    """Return the chunks of a level of which all tiles are there.

    Args:
        chunk_level: The level.
        bbox_e7: West, south, east, north in 1e-7 degree.
        tiles: Selected tiles in rising order of (z, x, y).
    """
    level, wanted = chunk_level.level, wanted_chunks(chunk_level.level, bbox_e7)
    own = tiles.take(tiles.places[:, 0] == level.zoom)
    there = _whole(level, wanted, own)
    columns, rows = np.nonzero(there)
    xs, ys = (columns + wanted.x0) % level.steps_around, rows + wanted.y0
    ids = chunk_ids(level, xs, ys)
    order = np.argsort(ids)
    lookup = digest_lookup(own.ids, own.digests)
    digests = chunk_digests(level, xs[order], ys[order], chunk_level.tile_edge, lookup)
    return LevelChunks(
        level=level,
        tile_edge=chunk_level.tile_edge,
        # The steps whose middle lies in the area.
        area=wanted_chunks(Level(level.zoom, level.k, 1), bbox_e7),
        made=RetrievalUnits(ids=ids[order], digests=digests),
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


def units_of_table(table: TileTable, inputs: Mapping[str, Any]) -> RetrievalUnits:
    """Return what got a descriptor in a recorded build.

    Args:
        table: Its tile table.
        inputs: The inputs that it recorded.

    Raises:
        KeyError, TypeError, ValueError: No build of this version records such inputs.
    """
    levels = parse_levels(inputs)
    if not levels:
        return RetrievalUnits(ids=table.ids.astype(np.int64), digests=table.digests)
    tiles = TileColumns.from_table(table)
    west, south, east, north = inputs["bbox_e7"]
    if any(wanted_chunks(each.level, (west, south, east, north)).total > MAX_WANTED for each in levels):
        raise ValueError(f"an area that wants more than {MAX_WANTED} chunks")
    made = (make_chunks(level, (west, south, east, north), tiles).made for level in levels)
    return RetrievalUnits.joined(made)
