"""Many tiles as columns of numbers: a million of them take a hundred megabytes, and none of them is an object. Pure.

A `Tile` is made when one is asked for. What is decided for all of them (their digest as a set, their ages, what is
missing of a rectangle, which cell each belongs to) is decided on the columns.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from pipeline.tiles.tile import Locator, Tile
from store.base.identity import MAX_ZOOM, X_SHIFT, ZOOM_SHIFT, descriptor_id, tile_of
from store.formats.tables import pack_tiles

Numbers: TypeAlias = npt.NDArray[np.int64]
Digests: TypeAlias = npt.NDArray[np.uint8]
"""SHA-256 digests, shape [n, 32]."""
Where: TypeAlias = Callable[[int], Locator]
"""From a row of the source to where its tile is read again."""

NO_DAY: Final = 0
"""In place of a day that is not known; the first of January of year 1 is day 1."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tiles(Sequence[Tile]):
    """Tiles in rising order of (z, x, y), without duplicates unless a source gave them.

    Attributes:
        places: Zoom, column and row, int32 [n, 3].
        digests: SHA-256 of the encoded images, uint8 [n, 32].
        sizes: Lengths of the encoded images in bytes, int64 [n].
        days: Days of capture as `date.toordinal` counts them, int32 [n]; `NO_DAY` where it is not known.
        rows: What `where` knows each by, int64 [n].
        where: Tells where a row is read again.
    """

    places: npt.NDArray[np.int32]
    digests: Digests
    sizes: Numbers
    days: npt.NDArray[np.int32]
    rows: Numbers
    where: Where

    @classmethod
    def of(cls, tiles: Iterable[Tile]) -> "Tiles":
        """The columns of some tiles, in their order; of columns, these themselves."""
        if isinstance(tiles, Tiles):
            return tiles
        given = tuple(tiles)
        places = np.array([(tile.z, tile.x, tile.y) for tile in given], np.int32).reshape(-1, 3)
        digests = np.frombuffer(bytes.fromhex("".join(tile.sha256 for tile in given)), np.uint8)
        return cls.from_columns(
            places,
            digests=digests.reshape(-1, 32),
            sizes=np.array([tile.size for tile in given], np.int64),
            where=lambda row: given[row].locator,
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
        where: Where,
        days: npt.NDArray[np.int32] | None = None,
    ) -> "Tiles":
        """Tiles from columns of equal length; the number of a row is what `where` is asked for."""
        number = len(places)
        return cls(
            places=places,
            digests=digests,
            sizes=sizes,
            days=np.full(number, NO_DAY, np.int32) if days is None else days,
            rows=np.arange(number),
            where=where,
        )

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> Tile: ...
    @overload
    def __getitem__(self, index: slice) -> "Tiles": ...
    def __getitem__(self, index: int | slice) -> "Tile | Tiles":
        if isinstance(index, slice):
            return self.take(index)
        (z, x, y), day = self.places[index].tolist(), int(self.days[index])
        return Tile(
            z=z,
            x=x,
            y=y,
            sha256=self.digests[index].tobytes().hex(),
            size=int(self.sizes[index]),
            captured=date.fromordinal(day) if day else None,
            locator=self.where(int(self.rows[index])),
        )

    def __iter__(self) -> Iterator[Tile]:
        return map(self.__getitem__, range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(_same, self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Tiles({len(self)})"

    @property
    def ids(self) -> npt.NDArray[np.int64]:
        """Descriptor ids, int64 [n]; see `store.base.identity.descriptor_id`.

        Raises:
            ValueError: A place is outside of the world.
        """
        z, x, y = self.places.T.astype(np.int64)
        side = np.left_shift(1, np.clip(z, 0, MAX_ZOOM))
        outside = (z < 0) | (z > MAX_ZOOM) | (x < 0) | (x >= side) | (y < 0) | (y >= side)
        for row in np.flatnonzero(outside)[:1].tolist():
            descriptor_id(*self.places[row].tolist())
        ids: npt.NDArray[np.int64] = (z << ZOOM_SHIFT) | (x << X_SHIFT) | y
        return ids

    @property
    def names(self) -> list[str]:
        """Digests of the encoded images, lower-case hexadecimal."""
        digits = self.digests.tobytes().hex()
        return [digits[start : start + 64] for start in range(0, len(digits), 64)]

    def take(self, chosen: "slice | npt.NDArray[np.bool_] | npt.NDArray[np.intp]") -> "Tiles":
        """Some of the tiles: a slice, those of a mask, or those of some rows in their order."""
        return Tiles(
            places=self.places[chosen],
            digests=self.digests[chosen],
            sizes=self.sizes[chosen],
            days=self.days[chosen],
            rows=self.rows[chosen],
            where=self.where,
        )

    def with_days(self, days: npt.NDArray[np.int32]) -> "Tiles":
        """The same tiles with other days of capture."""
        return Tiles(
            places=self.places,
            digests=self.digests,
            sizes=self.sizes,
            days=days,
            rows=self.rows,
            where=self.where,
        )

    def packed(self) -> bytes:
        """Id and digest of every tile by rising id, as `store.base.identity.digest_packed_tiles` wants them.

        Raises:
            ValueError: A place is outside of the world, or occurs twice.
        """
        order = np.argsort(self.ids, kind="stable")
        ids = self.ids[order]
        for row in np.flatnonzero(ids[1:] == ids[:-1])[:1].tolist():
            raise ValueError(f"tile {tile_of(int(ids[row]))[:3]} occurs twice")
        return pack_tiles(ids, self.digests[order])


def _same(one: object, other: object) -> bool:
    return one == other
