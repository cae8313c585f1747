"""Do the tables and the delta of a cache say what its manifest says of them? Pure; ground and aircraft ask alike.

Bytes come from the caller, who knows that they are the ones named; here they are held against what is said of them.
"""

from store.base.identity import tile_set_of
from store.errors import ArtifactError, ErrorKind
from store.formats.index_delta import Delta, DeltaError, decode
from store.formats.tables import BlockRow, TileTable, decode_blocks, decode_tiles
from store.manifest.manifest import Manifest


def tiles_of(manifest: Manifest, data: bytes | memoryview) -> TileTable:
    """Return the tile table.

    Raises:
        ArtifactError: It is no tile table, or not that of the build.
    """
    tiles = decode_tiles(data)
    if len(tiles) != manifest.tile_count:
        raise _wrong(f"expected {manifest.tile_count} tiles in the tile table, found {len(tiles)}")
    if tile_set_of(tiles.packed) != manifest.tile_set:
        raise _wrong("expected the tile set of the build in the tile table, found another")
    return tiles


def blocks_of(manifest: Manifest, data: bytes | memoryview) -> tuple[BlockRow, ...]:
    """Return the rows of the block table.

    Raises:
        ArtifactError: It is no block table, or one of other rows.
    """
    rows = decode_blocks(data)
    found = sum(row.rows for row in rows)
    if found != manifest.index.rows:
        raise _wrong(f"expected {manifest.index.rows} rows in the block table, found {found}")
    return rows


def delta_of(manifest: Manifest, data: bytes | memoryview) -> Delta:
    """Return the delta of the index; the manifest names one.

    Raises:
        ArtifactError: It is no delta, or one of other rows or dimensions.
    """
    index = manifest.index
    try:
        delta = decode(data)
    except DeltaError as error:
        raise _wrong(str(error)) from error
    expected = None if index.delta is None else (index.delta.added, index.delta.dropped, index.dimensions)
    found = len(delta.added), len(delta.dropped), delta.dimensions
    if found != expected:
        raise _wrong(
            f"expected an index delta of {expected} rows added, dropped and dimensions, found {found}"
        )
    return delta


def _wrong(what: str) -> ArtifactError:
    return ArtifactError(what, kind=ErrorKind.ARTIFACT_DAMAGED, hint="c10 verify --full")
