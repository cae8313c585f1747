"""Choose the tiles that a cache carries, cell by cell, and judge how large all that flies may be. Pure.

A tile is carried where a descriptor shows it: its own, or that of a chunk above it. So no tile that was
skipped or left out is carried.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from pipeline.embed.cells import CellKey, group_cells
from pipeline.errors import CheckError, RequestError
from pipeline.request.request import BuildRequest
from pipeline.tiles.chunks import ShownTiles
from pipeline.tiles.retrieval_units import RetrievalUnits
from pipeline.tiles.tile_columns import TileColumns
from store.base.identity import digest_packed_tiles, pack_key
from store.base.valueclass import valueclass

_HINT = "raise carry.max_bytes, shrink the area, lower the highest zoom, or set carry.tiles = false"


@valueclass(frozen=True, slots=True, kw_only=True)
class CarriedCell:
    """The carried tiles of one cell, by rising id, and the key of packing them."""

    cell: CellKey
    tiles: TileColumns
    key: str

    @property
    def size(self) -> int:
        """Bytes of the encoded tiles."""
        return int(self.tiles.sizes.sum())


def carried_cells(shown: ShownTiles, described: npt.NDArray[np.int64]) -> Iterator[CarriedCell]:
    """Yield the cells of the carried tiles, in ascending order.

    Args:
        shown: Finds tiles under units.
        described: Ids of the units that have a descriptor, int64 [n].
    """
    tiles = shown.under(np.sort(described))
    ids = tiles.ids
    for cell in group_cells(RetrievalUnits.of_tiles(tiles)):
        yield CarriedCell(
            cell=cell.key,
            tiles=tiles.take(np.searchsorted(ids, cell.units.ids)),
            key=pack_key(digest_packed_tiles(cell.units.packed())),
        )


def require_flown_estimate(request: BuildRequest, size: int) -> None:
    """Require that what will fly, about so many bytes, is no larger than the request allows.

    Raises:
        RequestError: It is.
    """
    if request.carry is not None and size > request.carry.max_bytes:
        raise RequestError(
            f"carry.max_bytes: expected at most {request.carry.max_bytes:,} bytes of all that flies, "
            f"found about {size:,}",
            hint=_HINT,
        )


def require_flown_size(request: BuildRequest, size: int) -> None:
    """Require that what flies, so many bytes, is no larger than the request allows.

    Raises:
        CheckError: It is.
    """
    if request.carry is not None and size > request.carry.max_bytes:
        raise CheckError(
            f"expected at most {request.carry.max_bytes:,} bytes of all that flies, found {size:,}",
            hint=_HINT,
            subject="carry.max_bytes",
        )
