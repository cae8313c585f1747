"""Render the pictures of chunks from decoded tiles. Pure.

Ground station, workers, replay and reader run the same code. A picture depends on the level, on where in its
first tile the chunk begins, and on the pixels of the tiles under it, as the chunk's digest does; never on
which chunks are rendered together. The rule:

1. Each tile is scaled on its own by the resampler of `preprocessing`, so that a step has a whole number of
   pixels: the least with which a chunk is no smaller than the wanted size, or those that the tile has.
2. The chunk is cut out of the mosaic of these tiles.
3. Where it is larger than the wanted size, by less than a pixel in each step, the rows and columns nearest to
   the middles of the wanted ones stay and the others go. Where it is smaller, the resampler enlarges it.

The second scaling takes whole pixels because it is done for every chunk, whereas a tile, which lies under
many, is scaled once.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import groupby
from operator import itemgetter
from typing import Final, TypeAlias

import numpy as np

from store.base.geometry.lattice import Integers, tile_span
from store.base.geometry.level import Level
from store.base.preprocessing import Pixels, resample

Runs: TypeAlias = list[tuple[slice, slice]]
"""Slices of pixels, and of picture pixels that they are copied to."""

_CHUNKS_AT_ONCE: Final = 64
"""How many chunks of a column share pixels: more would fill the memory where chunks hardly overlap."""


def full_size(level: Level, tile_edge: int) -> tuple[int, int]:
    """Return height and width of a chunk in pixels of the imagery, for tiles of `tile_edge` pixels."""
    side = level.m * max(1, tile_edge >> level.k)
    return side, side


def render_chunks(
    level: Level,
    places: Iterable[tuple[int, int]],
    tiles: Mapping[tuple[int, int], Pixels],
    size: tuple[int, int],
) -> Iterator[Pixels]:
    """Yield the pictures of chunks, in the order of `places`.

    It is fastest where chunks of one column follow each other, as in the order of ids. It keeps every tile
    under the chunks, scaled, until it ends.

    Args:
        level: Level of the chunks.
        places: West and north step of each chunk.
        tiles: The decoded tiles under them by column and row, uint8 [edge, edge, 3], RGB, of one edge; each
            is looked up once.
        size: Height and width of the pictures, pixels.

    Yields:
        uint8 [*size, 3], RGB, C-contiguous, new.

    Raises:
        KeyError: A tile is missing.
        ValueError: Tiles are not square, not of one edge, or of fewer pixels than steps.
    """
    mosaic = _Mosaic(level, tiles, size)
    return (mosaic.render(x, y) for x, y in places)


def only_cut(level: Level, tile_edge: int, size: tuple[int, int]) -> bool:
    """Return whether pictures of a size are cut out of scaled tiles, and not scaled again."""
    down, across = _step_pixels(level, tile_edge, size)
    return down * level.m >= size[0] and across * level.m >= size[1]


def scaled_tile(level: Level, tile: Pixels, size: tuple[int, int]) -> Pixels:
    """Return a tile as it is scaled for chunks of some size: pictures of both are the same.

    Where a step would not be square, it is the tile itself.
    """
    down, across = (step << level.k for step in _step_pixels(level, len(tile), size))
    return resample(tile, (down, across)) if down == across > 0 else tile


def cut_columns(
    level: Level,
    places: Iterable[tuple[int, int]],
    tiles: Mapping[tuple[int, int], Pixels],
    size: tuple[int, int],
) -> Iterator[tuple[Pixels, Integers]]:
    """Yield what the pictures of chunks are cut out of, where `only_cut` holds; as for `render_chunks`.

    Chunks that follow each other and begin at one x have most rows in common. What is computed of each row
    alone can so be computed once.

    Yields:
        Pixels uint8 [rows, width, 3], RGB, and for each of the next n chunks which of these rows are the rows of
        the picture that `render_chunks` gives, int64 [n, height].

    Raises:
        KeyError, ValueError: As for `render_chunks`.
    """
    mosaic = _Mosaic(level, tiles, size)
    for x, alike in groupby(places, itemgetter(0)):
        ys = [y for _, y in alike]
        for first in range(0, len(ys), _CHUNKS_AT_ONCE):
            yield mosaic.column(x, ys[first : first + _CHUNKS_AT_ONCE])


class _Mosaic:
    """Tiles scaled for one level and size, and the strips of one column of chunks."""

    def __init__(self, level: Level, tiles: Mapping[tuple[int, int], Pixels], size: tuple[int, int]) -> None:
        self._level, self._tiles, self._size = level, tiles, size
        self._scaled: dict[tuple[int, int], Pixels] = {}
        self._strips: dict[int, Pixels] = {}
        self._stacked: dict[int, Pixels] = {}
        self._stacked_rows: list[int] = []
        self._x = -1
        self._edge = 0
        self._step = (0, 0)
        self._cut = (0, 0)
        self._runs: dict[tuple[int, int], list[Runs]] = {}

    def render(self, x: int, y: int) -> Pixels:
        """Return the picture of a chunk, uint8 [*size, 3]."""
        _, _, y0, ny = tile_span(self._level, x, y)
        if x != self._x:
            self._x, self._strips = x, {}
        strips = [self._strip(x, row) for row in range(y0, y0 + ny)]
        picture = np.empty((*self._cut, 3), np.uint8)
        for strip, runs in zip(strips, self._runs_of(0, y), strict=True):
            for source, target in runs:
                picture[target] = strip[source]
        return resample(picture, self._size)

    def column(self, x: int, ys: Sequence[int]) -> tuple[Pixels, Integers]:
        """Return the rows of tiles under chunks that begin at x, cut to their columns, and the rows of each chunk."""
        x0, nx, _, _ = tile_span(self._level, x, 0)
        _, _, y0, ny = tile_span(self._level, np.zeros_like(ys), np.array(ys))
        spans = zip(y0.tolist(), ny.tolist(), strict=True)
        under = sorted({row for top, count in spans for row in range(top, top + count)})
        stacks = self._stacks([x0 + at & (1 << self._level.zoom) - 1 for at in range(nx)], under)
        pixels = np.empty((len(stacks[0]), self._cut[1], 3), np.uint8)
        for stack, runs in zip(stacks, self._runs_of(1, x), strict=True):
            for source, target in runs:
                pixels[:, target] = stack[:, source]
        edge = self._step[0] << self._level.k
        # The tiles under a chunk follow each other among those of all.
        tops = np.searchsorted(under, y0) * edge
        return pixels, tops[:, None] + self._kept[np.array(ys) & self._level.steps_per_tile - 1]

    def _stacks(self, columns: list[int], rows: list[int]) -> list[Pixels]:
        """Return columns of tiles, scaled, each uint8 [rows * edge, edge, 3]; most are those of the last call."""
        if rows != self._stacked_rows:
            self._stacked_rows, self._stacked = rows, {}
        self._stacked = {
            column: self._stacked[column]
            if column in self._stacked
            else np.concatenate([self._tile(column, row) for row in rows])
            for column in columns
        }
        return [self._stacked[column] for column in columns]

    @cached_property
    def _kept(self) -> Integers:
        """Which rows of pixels a chunk keeps, counted from its first tile, by its first step in that."""
        firsts = range(self._level.steps_per_tile)
        return np.stack([_kept(self._level, first, self._step[0], self._cut[0]) for first in firsts])

    def _strip(self, x: int, row: int) -> Pixels:
        """Return a row of tiles, cut to the columns of the chunks that begin at x."""
        if row not in self._strips:
            x0, nx, _, _ = tile_span(self._level, x, 0)
            tiles = [self._tile(x0 + at & (1 << self._level.zoom) - 1, row) for at in range(nx)]
            strip = np.empty((len(tiles[0]), self._cut[1], 3), np.uint8)
            for tile, runs in zip(tiles, self._runs_of(1, x), strict=True):
                for source, target in runs:
                    strip[:, target] = tile[:, source]
            self._strips[row] = strip
        return self._strips[row]

    def _tile(self, column: int, row: int) -> Pixels:
        """Return a tile, scaled to whole pixels in each step."""
        if (column, row) not in self._scaled:
            tile = self._tiles[column, row]
            self._settle_edge(tile.shape)
            down, across = (step << self._level.k for step in self._step)
            self._scaled[column, row] = resample(tile, (down, across))
        return self._scaled[column, row]

    def _settle_edge(self, shape: tuple[int, ...]) -> None:
        """Take the pixels of a step and of a chunk from the edge of the first tile; check that of others."""
        edge = self._edge or shape[0]
        if shape != (edge, edge, 3) or edge < self._level.steps_per_tile:
            raise ValueError(
                f"expected square tiles of one edge, at least {self._level.steps_per_tile} pixels, "
                f"found {list(shape)} beside an edge of {edge}"
            )
        self._edge = edge
        self._step = _step_pixels(self._level, edge, self._size)
        down, across = (step * self._level.m for step in self._step)
        self._cut = min(self._size[0], down), min(self._size[1], across)

    def _runs_of(self, axis: int, first: int) -> list[Runs]:
        """Return what is copied from each tile under a chunk that begins at a step, along one axis."""
        inside = first & self._level.steps_per_tile - 1
        if (axis, inside) not in self._runs:
            self._runs[axis, inside] = _runs(self._level, inside, self._step[axis], self._cut[axis])
        return self._runs[axis, inside]


def _step_pixels(level: Level, tile_edge: int, size: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of a step in pixels of the scaled tiles."""
    height, width = (-(-side // level.m) for side in size)
    return min(height, tile_edge >> level.k), min(width, tile_edge >> level.k)


def _runs(level: Level, inside: int, step: int, wanted: int) -> list[Runs]:
    """Return runs of neighbouring pixels, by tile.

    Args:
        level: Level of the chunk.
        inside: Its first step in its first tile.
        step: Pixels of a step.
        wanted: Pixels to keep, at most m steps.
    """
    kept = _kept(level, inside, step, wanted)
    edge = step << level.k
    found: list[Runs] = [[] for _ in range(-(-(inside + level.m) // level.steps_per_tile))]
    starts = np.flatnonzero((np.diff(kept, prepend=-2) != 1) | (kept % edge == 0)).tolist()
    for start, end in zip(starts, [*starts[1:], wanted], strict=True):
        tile, pixel = divmod(int(kept[start]), edge)
        found[tile].append((slice(pixel, pixel + end - start), slice(start, end)))
    return found


def _kept(level: Level, inside: int, step: int, wanted: int) -> Integers:
    """Return the pixels that are kept, int64 [wanted], counted from the first tile; arguments as of `_runs`."""
    # Middles of the wanted pixels, rounded down: (at + 1/2) * pixels / wanted.
    kept: Integers = (2 * np.arange(wanted) + 1) * (level.m * step) // (2 * wanted) + inside * step
    return kept
