"""Encode and decode a pack of tiles: the window of tiles in which a worker died, kept as one file. Pure.

Integers are big-endian. The magic `C10TILEP` and the number of tiles (4 bytes). Then for each tile, in the
order in which the worker got it: its descriptor id (8 bytes), the length of its encoded image (4 bytes), and
the image.
"""

import struct
from collections.abc import Iterable
from typing import Final

from store.errors import ArtifactError, ErrorKind

MAGIC: Final = b"C10TILEP"
MAX_TILES: Final = 1 << 16

_HEADER: Final = struct.Struct(">8sI")
_ROW: Final = struct.Struct(">QI")


def encode(tiles: Iterable[tuple[int, bytes]]) -> bytes:
    """Return the pack of tiles, given as (descriptor id, encoded image)."""
    rows = list(tiles)
    parts = [_HEADER.pack(MAGIC, len(rows))]
    for identifier, image in rows:
        parts += (_ROW.pack(identifier, len(image)), image)
    return b"".join(parts)


def decode(data: bytes) -> tuple[tuple[int, bytes], ...]:
    """Return the tiles as (descriptor id, encoded image), in their order.

    Raises:
        ArtifactError: The bytes are no complete pack.
    """
    if len(data) < _HEADER.size:
        raise _damaged(f"a header of {_HEADER.size} bytes", f"{len(data):,} bytes")
    magic, count = _HEADER.unpack_from(data)
    if magic != MAGIC or count > MAX_TILES:
        raise _damaged(f"the magic {MAGIC!r} and at most {MAX_TILES} tiles", f"{magic!r} and {count}")
    rows: list[tuple[int, bytes]] = []
    at = _HEADER.size
    for _ in range(count):
        if at + _ROW.size > len(data):
            raise _damaged(f"{count} tiles", f"the end of the file after {len(rows)}")
        identifier, length = _ROW.unpack_from(data, at)
        at += _ROW.size
        if at + length > len(data):
            raise _damaged(f"a tile of {length:,} bytes", f"{len(data) - at:,} bytes")
        rows.append((identifier, data[at : at + length]))
        at += length
    if at != len(data):
        raise _damaged("nothing after the last tile", f"{len(data) - at:,} bytes")
    return tuple(rows)


def _damaged(expected: str, found: str) -> ArtifactError:
    return ArtifactError(
        f"tiles of a window: expected {expected}, found {found}",
        kind=ErrorKind.ARTIFACT_DAMAGED,
        hint="c10 verify --full",
    )
