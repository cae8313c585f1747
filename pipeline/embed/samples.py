"""Make the samples of tiles and of chunks of ground, and measure their textures.

Chunks of one column have most of their rows in common. What is computed of each row alone is computed once
for all of them: the sample of a chunk has the bytes that its picture would give.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.builtin_model.place import blank_share
from pipeline.tiles.images.decode import Picture
from store.base.geometry.lattice import Integers, chunk_of, tile_span
from store.base.geometry.level import Level
from store.base.geometry.mosaic import cut_columns, only_cut, render_chunks, scaled_tile
from store.base.identity import AXIS_MASK, VIEW_SHIFT, X_SHIFT, ZOOM_SHIFT, tile_of
from store.base.preprocessing import Pixels, Preprocessing, Sample
from store.base.texture import grey_sums, sums_type, texture_energy, textures_of_sums

Write: TypeAlias = Callable[[Sample], float]
"""Writes the sample of a unit, and returns its texture."""
Unit: TypeAlias = tuple[int, Write, float]
"""Index of a unit, what writes its sample, and which part of it is blank."""

KEPT_BYTES: Final = 32 << 20
"""Pixels of tiles that a worker keeps: 1,900 tiles that are scaled to 76 pixels."""


class ShownTile(NamedTuple):
    """A tile under chunks.

    Attributes:
        scaled: Its pixels as `store.base.geometry.mosaic.scaled_tile` gives them, by level.
        blank: Which part of it is blank.
    """

    scaled: Mapping[Level, Pixels]
    blank: float

    @property
    def nbytes(self) -> int:
        """Size of its pixels in bytes."""
        return sum(pixels.nbytes for pixels in self.scaled.values())


class Samples:
    """Makes the samples of units, for one preprocessing."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        self._preprocessing = preprocessing
        self._planes = preprocessing.layout == "nchw"
        self._sums_type = sums_type(*preprocessing.size)

    def of_tiles(self, tiles: Iterable[tuple[int, Picture]]) -> Iterator[Unit]:
        """Yield tiles as units."""
        for number, picture in tiles:
            yield number, partial(self._write_picture, picture.pixels), _blank_part(picture)

    def shown_tile(self, picture: Picture, levels: Iterable[Level]) -> ShownTile:
        """Return a tile for chunks of some levels."""
        size = self._preprocessing.size
        scaled = {level: scaled_tile(level, picture.pixels, size) for level in levels}
        return ShownTile(scaled, _blank_part(picture))

    def of_chunks(self, ids: Integers, tiles: Mapping[int, ShownTile]) -> Iterator[Unit]:
        """Yield the chunks of which all tiles are there, in the order of their ids.

        Args:
            ids: Descriptor ids of chunks.
            tiles: Tiles by descriptor id, for the levels of the chunks.
        """
        blanks = {identifier: tile.blank for identifier, tile in tiles.items()}
        # In the order of ids, those of a column of the whole window follow each other.
        order = np.argsort(ids)
        fields = ids[order] >> VIEW_SHIFT
        for field, level in _levels(ids):
            numbers = order[fields == field]
            xs, ys = (ids[numbers] >> X_SHIFT) & AXIS_MASK, ids[numbers] & AXIS_MASK
            whole, blank = _ground_under(level, xs, ys, blanks)
            numbers, blank = numbers[whole], blank[whole]
            places = zip(xs[whole].tolist(), ys[whole].tolist(), strict=True)
            pixels = {
                (x, y): tile.scaled[level]
                for identifier, tile in tiles.items()
                for zoom, x, y, _ in (tile_of(identifier),)
                if zoom == level.zoom
            }
            yield from zip(numbers.tolist(), self._chunks(level, places, pixels), blank.tolist(), strict=True)

    def _chunks(
        self, level: Level, places: Iterable[tuple[int, int]], tiles: Mapping[tuple[int, int], Pixels]
    ) -> Iterator[Write]:
        """Yield what writes the sample of each chunk of a level."""
        size = self._preprocessing.size
        edge = next((len(pixels) for pixels in tiles.values()), 0)
        if not only_cut(level, edge, size):
            for picture in render_chunks(level, places, tiles, size):
                yield partial(self._write_picture, picture)
            return
        for pixels, rows in cut_columns(level, places, tiles, size):
            ordered = np.ascontiguousarray(self._preprocessing.ordered(pixels))
            # Planes are quicker to add; grey is the same in both orders of colours.
            colours = ordered.transpose(1, 2, 0) if self._planes else ordered
            sums = grey_sums(colours.astype(self._sums_type))
            values = self._preprocessing.scaled(ordered)
            textures = textures_of_sums(sums[rows], size[1]).tolist()
            for own, texture in zip(rows, textures, strict=True):
                yield partial(self._write_rows, values, own, texture)

    def _write_picture(self, pixels: Pixels, sample: Sample) -> float:
        self._preprocessing.apply(pixels, out=sample)
        return texture_energy(pixels)

    def _write_rows(self, values: NDArray[Any], rows: Integers, texture: float, sample: Sample) -> float:
        """Write the sample that has some rows of a column, of whose pixels the values are known."""
        sample[...] = values.take(rows, axis=1 if self._planes else 0)
        return texture


class KeptTiles:
    """The tiles that were shown last, by what decides their pixels: the next window shows many of them again."""

    def __init__(self, most_bytes: int = KEPT_BYTES) -> None:
        self._tiles: OrderedDict[Hashable, ShownTile] = OrderedDict()
        self._most, self._bytes = most_bytes, 0

    def get(self, key: Hashable) -> ShownTile | None:
        """Return a tile that is kept."""
        if key in self._tiles:
            self._tiles.move_to_end(key)
        return self._tiles.get(key)

    def keep(self, key: Hashable, tile: ShownTile) -> None:
        """Keep a tile, instead of those that were shown longest ago."""
        if key in self._tiles:
            return
        self._tiles[key] = tile
        self._bytes += tile.nbytes
        while self._bytes > self._most:
            self._bytes -= self._tiles.popitem(last=False)[1].nbytes


def levels_by_zoom(ids: Integers) -> dict[int, tuple[Level, ...]]:
    """Return the levels of chunks, given their descriptor ids, by the zoom of their imagery."""
    found: dict[int, tuple[Level, ...]] = {}
    for _, level in _levels(ids):
        found[level.zoom] = (*found.get(level.zoom, ()), level)
    return found


def _levels(ids: Integers) -> list[tuple[int, Level]]:
    """Return the levels of chunks, each with the fields of an id above column and row, which name it."""
    fields, first = np.unique(ids >> VIEW_SHIFT, return_index=True)
    return [(field, chunk_of(int(ids[at]))[0]) for field, at in zip(fields.tolist(), first, strict=True)]


def _ground_under(
    level: Level, xs: NDArray[np.int64], ys: NDArray[np.int64], blanks: Mapping[int, float]
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return of each chunk whether all of its tiles are there, and which part of its ground is blank.

    `blanks` says by descriptor id which part of a tile is blank.
    """
    if not blanks:
        return np.zeros(len(xs), np.bool_), np.zeros(len(xs))
    known = np.array(sorted(blanks), np.int64)
    parts = np.array([blanks[each] for each in known.tolist()])
    x0, nx, y0, ny = tile_span(level, xs, ys)
    whole, blank = np.ones(len(xs), np.bool_), np.zeros(len(xs))
    for column in range(int(nx.max())):
        for row in range(int(ny.max())):
            # Steps of the chunk on this tile; none beyond its last one.
            across = _steps_on(level, xs, column) * _steps_on(level, ys, row)
            under = level.zoom << ZOOM_SHIFT | (x0 + column) % (1 << level.zoom) << X_SHIFT | (y0 + row)
            at = np.minimum(np.searchsorted(known, under), len(known) - 1)
            whole &= (across == 0) | (known[at] == under)
            blank += across * parts[at]
    return whole, blank / level.m**2


def _steps_on(level: Level, first: NDArray[np.int64], tile: int) -> NDArray[np.int64]:
    """Return how many steps of chunks lie on the tile of a number from their first, along one axis."""
    begin = tile * level.steps_per_tile - (first & level.steps_per_tile - 1)
    steps: NDArray[np.int64] = np.clip(
        np.minimum(begin + level.steps_per_tile, level.m) - np.maximum(begin, 0), 0, None
    )
    return steps


def _blank_part(picture: Picture) -> float:
    """Return which part of a tile is transparent, or in a black or white collar, 0 to 1 or more."""
    return picture.transparent + blank_share(picture.pixels)
