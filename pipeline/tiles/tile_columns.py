"""Many tiles as columns of numbers, without an object for each: a million take a hundred megabytes. Pure.

A `SourceTile` is made on access. Computations over all tiles (the digest of the set, ages, missing tiles,
cells) work on the columns.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property
from operator import eq
from typing import Final, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from pipeline.tiles.tile import Locator, SourceTile
from store.base.identity import AXIS_MASK, MAX_ZOOM, X_SHIFT, ZOOM_SHIFT, descriptor_id, tile_of
from store.formats.tables import TileTable, pack_tiles

Numbers: TypeAlias = npt.NDArray[np.int64]
Digests: TypeAlias = npt.NDArray[np.uint8]
"""SHA-256 digests, shape [n, 32]."""
LocatorOf: TypeAlias = Callable[[int], Locator]
"""Returns the locator of the tile in a row of the source."""

NO_DAY: Final = 0
"""Stands for an unknown day; the first of January of year 1 is day 1."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TileColumns(Sequence[SourceTile]):
    """Tiles in rising order of (z, x, y), without duplicates unless a source has them.

    Attributes:
        places: Zoom, column and row, int32 [n, 3].
        digests: SHA-256 of the encoded images, uint8 [n, 32].
        sizes: Lengths of the encoded images in bytes, int64 [n].
        days: Days of capture as `date.toordinal` counts them, int32 [n]; `NO_DAY` where unknown.
        rows: The row of the source that `locator_of` takes for each, int64 [n].
        locator_of: Returns the locator of a row.
        warnings: What is odd about the source, one sentence each; if there are no tiles, why.
    """

    places: npt.NDArray[np.int32]
    digests: Digests
    sizes: Numbers
    days: npt.NDArray[np.int32]
    rows: Numbers
    locator_of: LocatorOf
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, tiles: Iterable[SourceTile]) -> "TileColumns":
        """Return the columns of some tiles, in their order."""
        if isinstance(tiles, TileColumns):
            return tiles
        given = tuple(tiles)
        places = np.array([(tile.z, tile.x, tile.y) for tile in given], np.int32).reshape(-1, 3)
        digests = np.frombuffer(bytes.fromhex("".join(tile.sha256 for tile in given)), np.uint8)
        return cls.from_columns(
            places,
            digests=digests.reshape(-1, 32),
            sizes=np.array([tile.size for tile in given], np.int64),
            locator_of=lambda row: given[row].locator,
            days=np.array(
                [tile.captured.toordinal() if tile.captured else NO_DAY for tile in given], np.int32
            ),
        )

    @classmethod
    def from_columns(
        cls,
        places: npt.NDArray[np.int32],
        *,
        digests: Digests,
        sizes: Numbers,
        locator_of: LocatorOf,
        days: npt.NDArray[np.int32] | None = None,
        warnings: tuple[str, ...] = (),
    ) -> "TileColumns":
        """Make tiles from columns of equal length; `locator_of` takes the number of a row."""
        number = len(places)
        return cls(
            places=places,
            digests=digests,
            sizes=sizes,
            days=np.full(number, NO_DAY, np.int32) if days is None else days,
            rows=np.arange(number),
            locator_of=locator_of,
            warnings=warnings,
        )

    @classmethod
    def from_table(cls, table: TileTable) -> "TileColumns":
        """Return the tiles of a tile table, without days, sizes and locators."""
        ids = table.ids.astype(np.int64)
        places = np.stack([ids >> ZOOM_SHIFT, ids >> X_SHIFT & AXIS_MASK, ids & AXIS_MASK], axis=1)
        return cls.at(places.astype(np.int32), table.digests)

    @classmethod
    def at(cls, places: npt.NDArray[np.int32], digests: npt.NDArray[np.uint8] | None = None) -> "TileColumns":
        """Return tiles of which no more is known than their places, int32 [n, 3], and perhaps their digests."""
        number = len(places)

        def locator_of(row: int) -> Locator:
            raise ValueError(f"expected a tile of a source, found row {row} without one")

        return cls.from_columns(
            places,
            digests=np.zeros((number, 32), np.uint8) if digests is None else digests,
            sizes=np.zeros(number, np.int64),
            locator_of=locator_of,
        )

    @classmethod
    def joined(cls, parts: Iterable[Iterable[SourceTile]]) -> "TileColumns":
        """Return the tiles of some parts, which have no tile in common, by rising (z, x, y)."""
        given = [cls.of(part) for part in parts]
        if len(given) == 1 and (np.diff(given[0].ids) > 0).all():
            return given[0]
        starts = np.cumsum([0, *map(len, given)])

        def locator_of(row: int) -> Locator:
            part = int(np.searchsorted(starts, row, side="right")) - 1
            return given[part].locator_of(int(given[part].rows[row - starts[part]]))

        whole = cls.from_columns(
            np.concatenate([np.zeros((0, 3), np.int32), *(part.places for part in given)]),
            digests=np.concatenate([np.zeros((0, 32), np.uint8), *(part.digests for part in given)]),
            sizes=np.concatenate([np.zeros(0, np.int64), *(part.sizes for part in given)]),
            locator_of=locator_of,
            days=np.concatenate([np.zeros(0, np.int32), *(part.days for part in given)]),
            warnings=tuple(dict.fromkeys(line for part in given for line in part.warnings)),
        )
        return whole.take(np.argsort(whole.ids, kind="stable"))

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> SourceTile: ...
    @overload
    def __getitem__(self, index: slice) -> "TileColumns": ...
    def __getitem__(self, index: int | slice) -> "SourceTile | TileColumns":
        if isinstance(index, slice):
            return self.take(index)
        (z, x, y), day = self.places[index].tolist(), int(self.days[index])
        return SourceTile(
            z=z,
            x=x,
            y=y,
            sha256=self.digests[index].tobytes().hex(),
            size=int(self.sizes[index]),
            captured=date.fromordinal(day) if day else None,
            locator=self.locator_of(int(self.rows[index])),
        )

    def __iter__(self) -> Iterator[SourceTile]:
        return map(self.__getitem__, range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(eq, self, other))

    __hash__ = None  # type: ignore[assignment]

    @cached_property
    def ids(self) -> npt.NDArray[np.int64]:
        """Descriptor ids, int64 [n], computed once; see `store.base.identity.descriptor_id`.

        Raises:
            ValueError: A place is outside the grid.
        """
        z, x, y = self.places.T.astype(np.int64)
        side = np.left_shift(1, np.clip(z, 0, MAX_ZOOM))
        outside = (z < 0) | (z > MAX_ZOOM) | (x < 0) | (x >= side) | (y < 0) | (y >= side)
        for row in np.flatnonzero(outside)[:1].tolist():
            descriptor_id(*self.places[row].tolist())
        ids: npt.NDArray[np.int64] = (z << ZOOM_SHIFT) | (x << X_SHIFT) | y
        return ids

    @property
    def hex_digests(self) -> list[str]:
        """Digests of the encoded images, lower-case hexadecimal."""
        digits = self.digests.tobytes().hex()
        return [digits[start : start + 64] for start in range(0, len(digits), 64)]

    def take(self, chosen: "slice | npt.NDArray[np.bool_] | npt.NDArray[np.intp]") -> "TileColumns":
        """Return some of the tiles: a slice, those of a mask, or those of some rows in their order."""
        return TileColumns(
            places=self.places[chosen],
            digests=self.digests[chosen],
            sizes=self.sizes[chosen],
            days=self.days[chosen],
            rows=self.rows[chosen],
            locator_of=self.locator_of,
        )

    def with_days(self, days: npt.NDArray[np.int32]) -> "TileColumns":
        """Return the same tiles with other days of capture."""
        return replace(self, days=days)

    def packed(self) -> bytes:
        """Return id and digest of every tile by rising id, as `store.base.identity.digest_packed_tiles` takes them.

        Raises:
            ValueError: A place is outside the grid, or occurs twice.
        """
        order = np.argsort(self.ids, kind="stable")
        ids = self.ids[order]
        for row in np.flatnonzero(ids[1:] == ids[:-1])[:1].tolist():
            raise ValueError(f"tile {tile_of(int(ids[row]))[:3]} occurs twice")
        return pack_tiles(ids, self.digests[order])
