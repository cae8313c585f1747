"""Encode and decode a pack: the encoded tiles of one cell that a cache carries to the aircraft. Pure.

Integers are little-endian.

    magic     8 B        `C10PACK1`
    count     u64        number of tiles n, 1 to 65,536
    ids       u64 [n]    descriptor ids, ascending, each once
    ends      u64 [n]    where each tile ends, counted from the end of this column; the first begins at 0
    tiles                the encoded images, one after the other, in the order of their ids

So that a reader finds one tile in `index_size(n)` bytes from the start and the bytes of that tile. The digest
of a tile is in the tile table. Equal tiles give equal bytes.
"""

import struct
from collections.abc import Mapping
from itertools import pairwise
from typing import Final

import numpy as np

from store.errors import ArtifactError, ErrorKind

HEADER_SIZE: Final = 16
MAX_TILES: Final = 1 << 16

_MAGIC: Final = b"C10PACK1"
_HEADER: Final = struct.Struct("<8sQ")


def encode(tiles: Mapping[int, bytes]) -> bytes:
    """Return the pack of tiles, given as descriptor id to encoded image."""
    ids = sorted(tiles)
    ends = np.cumsum([len(tiles[each]) for each in ids], dtype="<u8").tobytes()
    header = _HEADER.pack(_MAGIC, len(ids))
    return b"".join((header, np.array(ids, "<u8").tobytes(), ends, *(tiles[each] for each in ids)))


def index_size(header: bytes, size: int) -> int:
    """Return how many bytes before the first image a pack has.

    Args:
        header: Its first `HEADER_SIZE` bytes.
        size: Its whole size in bytes.

    Raises:
        ArtifactError: It is no pack, or too short for its number of tiles.
    """
    if len(header) < HEADER_SIZE:
        raise _damaged(f"a header of {HEADER_SIZE} bytes", f"{len(header):,} bytes")
    magic, count = _HEADER.unpack_from(header)
    if magic != _MAGIC or not 1 <= count <= MAX_TILES:
        raise _damaged(f"the magic {_MAGIC!r} and 1 to {MAX_TILES} tiles", f"{magic!r} and {count}")
    if size < HEADER_SIZE + 16 * count:
        raise _damaged(f"the places of {count} tiles", f"{size:,} bytes in all")
    return HEADER_SIZE + 16 * int(count)


def decode_index(index: bytes, size: int) -> dict[int, tuple[int, int]]:
    """Return descriptor id to (offset in the pack, length) of each image.

    Args:
        index: The first `index_size` bytes of a pack.
        size: Its whole size in bytes.

    Raises:
        ArtifactError: They are not those of a pack of that size.
    """
    start = index_size(index, size)
    if len(index) < start:
        raise _damaged(f"{start} bytes before the first tile", f"{len(index)} bytes")
    ids, ends = np.frombuffer(index, "<u8", (start - HEADER_SIZE) // 8, HEADER_SIZE).reshape(2, -1).tolist()
    if any(later <= earlier for earlier, later in pairwise(ids)):
        raise _damaged("ascending ids", "another order")
    starts = [0, *ends[:-1]]
    if any(end < begin for begin, end in zip(starts, ends, strict=True)) or start + ends[-1] != size:
        raise _damaged(f"tiles that fill {size - start} bytes", f"an end at {ends[-1]}, or ends that go back")
    return {each: (start + begin, end - begin) for each, begin, end in zip(ids, starts, ends, strict=True)}


def decode(data: bytes) -> dict[int, bytes]:
    """Return descriptor id to encoded image of a whole pack.

    Raises:
        ArtifactError: The bytes are no complete pack.
    """
    places = decode_index(data, len(data)).items()
    return {each: data[offset : offset + length] for each, (offset, length) in places}


def _damaged(expected: str, found: str) -> ArtifactError:
    return ArtifactError(
        f"pack of tiles: expected {expected}, found {found}",
        kind=ErrorKind.ARTIFACT_DAMAGED,
        hint="c10 verify --full",
    )
