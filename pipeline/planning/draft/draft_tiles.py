"""Look at the tiles of a draft: which part of them nobody could localise, before a build says so."""

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from pipeline.builtin_model.place import blank_share
from pipeline.errors import TileError
from pipeline.tiles.images.decode import decode_picture
from pipeline.tiles.sources.read_tile import read_tile
from pipeline.tiles.tile import Place, SourceTile
from pipeline.tiles.tile_columns import TileColumns
from store.base.texture import FEATURELESS_BELOW, texture_energy
from store.base.valueclass import valueclass

_MOST_SEEN: Final = 2000
"""So many tiles at the edge of the imagery are decoded at most, and so many inside of it: with so many, the part
is known to 3 %, in 99 of 100 cases."""
_BLANK: Final = 0.25
"""Part of a tile that may be blank, as in a build."""


@valueclass(frozen=True, slots=True, kw_only=True)
class SeenTiles:
    """What the tiles of a draft look like.

    Attributes:
        seen: How many were looked at.
        useless: Part of all tiles that cannot be localised, 0 to 1: blank, featureless, equal to another one, or
            unreadable.
        unreadable: How many of those that were looked at cannot be read.
        first_unreadable: Place of the first one of these, and what is wrong with it; None if there is none.
    """

    seen: int = 0
    useless: float = 0.0
    unreadable: int = 0
    first_unreadable: tuple[Place, TileError] | None = None


def look_at_tiles(tiles: TileColumns) -> SeenTiles:
    """Decode some tiles, of few all of them, and say what the whole is like.

    A build judges descriptors, which nobody has yet: tiles that are alike are known by equal bytes alone.
    """
    _, numbers, counts = np.unique(tiles.digests, axis=0, return_inverse=True, return_counts=True)
    numbers = numbers.reshape(-1)
    known, useless, seen = dict[int, TileError | bool](), 0.0, list[int]()
    for stratum in _strata(tiles):
        rows = _sampled(stratum)
        for row in rows:
            number = int(numbers[row])
            if number not in known:
                known[number] = _judged(tiles[row])
        bad = sum(bool(known[int(numbers[row])]) or counts[numbers[row]] > 1 for row in rows)
        useless += bad / len(rows) * len(stratum) / len(tiles)
        seen += rows
    errors = [
        (tiles[row].place, found)
        for row in sorted(seen)
        if isinstance(found := known[int(numbers[row])], TileError)
    ]
    return SeenTiles(
        seen=len(seen),
        useless=useless,
        unreadable=len(errors),
        first_unreadable=errors[0] if errors else None,
    )


def _strata(tiles: TileColumns) -> Iterator[npt.NDArray[np.intp]]:
    """Yield the rows of the tiles at the edge of the imagery, and of those inside of it; nothing that is empty."""
    z, x, y = tiles.places.T.astype(np.int64)
    around = np.left_shift(1, z)
    keys = z << 50 | x << 25 | y
    steps = ((1, 0), (-1, 0), (0, 1), (0, -1))
    inner = np.logical_and.reduce(
        [np.isin(z << 50 | (x + dx) % around << 25 | (y + dy), keys) for dx, dy in steps]
    )
    yield from filter(len, (np.flatnonzero(~inner), np.flatnonzero(inner)))


def _sampled(rows: npt.NDArray[np.intp]) -> list[int]:
    # At random, for ground may repeat in a pattern; with a fixed seed, so that the text is the same every time.
    order = np.argsort(np.random.PCG64(0).random_raw(len(rows)), kind="stable")[:_MOST_SEEN]
    chosen: list[int] = rows[order].tolist()
    return chosen


def _judged(tile: SourceTile) -> TileError | bool:
    """Return whether nobody could localise a tile by itself; what is wrong if it cannot be read."""
    try:
        picture = decode_picture(read_tile(tile.locator))
    except TileError as error:
        return error
    height, width, _ = picture.pixels.shape
    if height != width:
        return TileError(f"expected a square tile, found {width} x {height} pixels")
    blank = picture.transparent + blank_share(picture.pixels) > _BLANK
    return blank or texture_energy(picture.pixels) < FEATURELESS_BELOW
