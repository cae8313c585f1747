"""What gets one descriptor each: a tile, or a chunk of ground. Pure.

Everything after the selection (cells, blocks, index, checks) works on ids and digests, whatever they stand for.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.tiles.tile import SourceTile
from pipeline.tiles.tile_columns import TileColumns
from store.base.identity import tile_of
from store.formats.tables import pack_tiles


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RetrievalUnits:
    """Columns of units, without an id twice.

    Attributes:
        ids: Descriptor ids, int64 [n].
        digests: What each unit shows, SHA-256, uint8 [n, 32]: of a tile's encoded image, or the digest of a
            chunk. Units of the same digest have the same descriptor.
    """

    ids: npt.NDArray[np.int64]
    digests: npt.NDArray[np.uint8]

    @classmethod
    def of_tiles(cls, tiles: Iterable[SourceTile]) -> "RetrievalUnits":
        """Return the tiles as units.

        Raises:
            ValueError: A place is outside the grid.
        """
        columns = TileColumns.of(tiles)
        return cls(ids=columns.ids, digests=columns.digests)

    @classmethod
    def joined(cls, parts: Iterable["RetrievalUnits"]) -> "RetrievalUnits":
        """Return the units of some parts, one after the other."""
        given = tuple(parts)
        return cls(
            ids=np.concatenate([np.zeros(0, np.int64), *(part.ids for part in given)]),
            digests=np.concatenate([np.zeros((0, 32), np.uint8), *(part.digests for part in given)]),
        )

    def __len__(self) -> int:
        return len(self.ids)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RetrievalUnits):
            return NotImplemented
        return np.array_equal(self.ids, other.ids) and np.array_equal(self.digests, other.digests)

    __hash__ = None  # type: ignore[assignment]

    @property
    def hex_digests(self) -> list[str]:
        """The digests in lower-case hexadecimal."""
        digits = self.digests.tobytes().hex()
        return [digits[start : start + 64] for start in range(0, len(digits), 64)]

    def take(self, chosen: "slice | npt.NDArray[np.bool_] | npt.NDArray[np.intp]") -> "RetrievalUnits":
        """Return some of the units: a slice, those of a mask, or those of some rows in their order."""
        return RetrievalUnits(ids=self.ids[chosen], digests=self.digests[chosen])

    def packed(self) -> bytes:
        """Return id and digest of every unit by rising id, as `digest_packed_tiles` takes them.

        Raises:
            ValueError: An id occurs twice.
        """
        order = np.argsort(self.ids, kind="stable")
        ids = self.ids[order]
        for row in np.flatnonzero(ids[1:] == ids[:-1])[:1].tolist():
            raise ValueError(f"{unit_name(int(ids[row]))} occurs twice")
        return pack_tiles(ids, self.digests[order])


def unit_name(identifier: int) -> str:
    """Return the name of a unit: zoom/x/y of a tile, zoom/x/y/view of a chunk."""
    zoom, x, y, view = tile_of(identifier)
    return f"{zoom}/{x}/{y}/{view}" if view else f"{zoom}/{x}/{y}"
