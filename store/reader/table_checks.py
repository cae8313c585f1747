"""Compare the tables and the delta of a cache with its manifest, on the ground and on board. Pure.

The caller has checked the digests of the bytes.
"""

from store.base.identity import digest_packed_tiles
from store.errors import ArtifactError, ErrorKind
from store.formats.index_delta import Delta, DeltaError, decode
from store.formats.tables import BlockRow, TileTable, decode_blocks, decode_packs, decode_tiles
from store.manifest.manifest import Manifest


def tiles_of(manifest: Manifest, data: bytes | memoryview) -> TileTable:
    """Return the tile table.

    Raises:
        ArtifactError: It is no tile table, or another build's.
    """
    tiles = decode_tiles(data)
    if len(tiles) != manifest.tile_count:
        raise _artifact_error(f"expected {manifest.tile_count} tiles in the tile table, found {len(tiles)}")
    if digest_packed_tiles(tiles.packed) != manifest.tile_set:
        raise _artifact_error("expected the tile set of the build in the tile table, found another")
    return tiles


def blocks_of(manifest: Manifest, data: bytes | memoryview) -> tuple[BlockRow, ...]:
    """Return the rows of the block table.

    Raises:
        ArtifactError: It is no block table, or has another number of rows, other networks or other weights.
    """
    rows = decode_blocks(data)
    found = sum(row.rows for row in rows)
    if found != manifest.index.rows:
        raise _artifact_error(f"expected {manifest.index.rows} rows in the block table, found {found}")
    # Of one network there is no weight: its blocks hold what the index holds.
    weights = manifest.weights if len(manifest.weights) > 1 else ()
    if any(row.weights != weights for row in rows):
        raise _artifact_error(f"expected networks of weights {weights} in the block table, found others")
    return rows


def packs_of(manifest: Manifest, data: bytes | memoryview) -> tuple[BlockRow, ...]:
    """Return the rows of the pack table of a cache that carries tiles.

    Raises:
        ArtifactError: It is no pack table, or has another number of tiles.
    """
    rows = decode_packs(data)
    found, expected = sum(row.rows for row in rows), manifest.carried.tiles if manifest.carried else 0
    if found != expected:
        raise _artifact_error(f"expected {expected} tiles in the pack table, found {found}")
    return rows


def delta_of(manifest: Manifest, data: bytes | memoryview) -> Delta:
    """Return the delta of the index, if the manifest names one.

    Raises:
        ArtifactError: It is no delta, or has other rows or dimensions.
    """
    index = manifest.index
    try:
        delta = decode(data)
    except DeltaError as error:
        raise _artifact_error(str(error)) from error
    expected = None if index.delta is None else (index.delta.added, index.delta.dropped, index.dimensions)
    found = len(delta.added), len(delta.dropped), delta.dimensions
    if found != expected:
        raise _artifact_error(
            f"expected an index delta of {expected} rows added, dropped and dimensions, found {found}"
        )
    return delta


def _artifact_error(what: str) -> ArtifactError:
    return ArtifactError(what, kind=ErrorKind.ARTIFACT_DAMAGED, hint="c10 verify --full")
