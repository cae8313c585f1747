"""Encode and decode descriptor blocks: the descriptors of one cell as one write-once binary file. Pure.

A *cell* is the set of tiles of one zoom that share ``(x >> 4, y >> 4)``. Its *block* holds for each row the
descriptor id, the SHA-256 of the encoded tile, a texture score and the descriptor. Indexes are built from
blocks. A block does not depend on the order in which the tiles were embedded.

Format, version 1. All numbers are little-endian, every column starts at a multiple of 64 bytes and all bytes
between columns are zero, so that equal content means equal bytes and each column can be used in place as an
array::

    offset            size     content
    0                 8        magic, the ASCII bytes "C10BLOCK"
    8                 4        format version, uint32, 1
    12                4        zoom, uint32, 0 ... 25
    16                4        cell x = tile x >> 4, uint32
    20                4        cell y = tile y >> 4, uint32
    24                4        dimensions d, uint32, 1 ... 65536
    28                4        rows n, uint32, 0 ... 65536
    32                32       zero
    64                8 n      ids, uint64, ascending without repetition
    align64(...)      32 n     digests, SHA-256 of the encoded tile of each row
    align64(...)      4 n      texture, float32, finite
    align64(...)      4 n d    vectors, float32, finite, row after row

A descriptor id is ``zoom << 58 | view << 50 | x << 25 | y``. The keys (ids and digests) come first: the first
``key_size(n)`` bytes say which tiles a block holds. The size of the file follows from n and d
(``block_size``).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from store.base.identity import CELL_SHIFT, MAX_ZOOM, VIEW_SHIFT, X_SHIFT, ZOOM_SHIFT
from store.base.valueclass import valueclass
from store.errors import Category

Bytes = bytes | bytearray | memoryview

MAGIC: Final = b"C10BLOCK"
VERSION: Final = 1
HEADER_SIZE: Final = 64
MAX_DIMENSIONS: Final = 65_536
MAX_ROWS: Final = 65_536

_HEADER: Final = struct.Struct("<8s6I32x")
_ALIGNMENT: Final = 64
_AXIS_MASK: Final = (1 << X_SHIFT) - 1
_VIEW_MASK: Final = (1 << ZOOM_SHIFT) - (1 << VIEW_SHIFT)
_ALL_BITS: Final = (1 << 64) - 1
_DIGEST_SIZE: Final = 32


class BlockError(ValueError):
    """A block or its bytes break a rule of the format; the message says what was expected and found."""

    category = Category.NO_GO


@valueclass(frozen=True, slots=True, kw_only=True)
class BlockHeader:
    """The content of the first 64 bytes of a block: its cell and its size."""

    zoom: int
    cell_x: int
    cell_y: int
    dimensions: int
    rows: int

    @property
    def size(self) -> int:
        """Size of the whole block in bytes."""
        return block_size(self.rows, self.dimensions)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Block:
    """The rows of one cell, in ascending order of id.

    Attributes:
        zoom: Zoom level of every tile in the cell, 0 ... 25.
        cell_x: Tile column divided by 16.
        cell_y: Tile row divided by 16, counted downwards from the north.
        dimensions: Length d of a descriptor.
        ids: Descriptor ids, uint64 [n], ascending without repetition.
        digests: SHA-256 of each encoded tile, uint8 [n, 32].
        vectors: Descriptors, float32 [n, d].
        texture: Texture score of each tile, float32 [n].
    """

    zoom: int
    cell_x: int
    cell_y: int
    dimensions: int
    ids: NDArray[np.uint64]
    digests: NDArray[np.uint8]
    vectors: NDArray[np.float32]
    texture: NDArray[np.float32]

    @property
    def cell(self) -> tuple[int, int, int]:
        """The key of the cell: zoom, cell x, cell y. Blocks of an index are ordered by it."""
        return self.zoom, self.cell_x, self.cell_y

    @property
    def rows(self) -> int:
        """Number of rows n."""
        return len(self.ids)


def block_size(rows: int, dimensions: int) -> int:
    """Return the size in bytes of a block of ``rows`` descriptors of ``dimensions`` numbers."""
    return _offsets(rows)[3] + 4 * rows * dimensions


def key_size(rows: int) -> int:
    """Return how many leading bytes of a block hold its header, ids and digests."""
    return _offsets(rows)[1] + _DIGEST_SIZE * rows


def encode(block: Block) -> bytes:
    """Return the bytes of a block.

    Raises:
        BlockError: An array has another shape or dtype, ids are unsorted, repeated or outside the cell, or a
            number is not finite.
    """
    _check_arrays(block)
    header = BlockHeader(
        zoom=block.zoom,
        cell_x=block.cell_x,
        cell_y=block.cell_y,
        dimensions=block.dimensions,
        rows=block.rows,
    )
    _check_header(header)
    _check_ids(header, block.ids)
    _check_finite(block)
    out = bytearray(header.size)
    _HEADER.pack_into(
        out, 0, MAGIC, VERSION, block.zoom, block.cell_x, block.cell_y, block.dimensions, block.rows
    )
    columns = (
        block.ids.astype("<u8", copy=False),
        block.digests,
        block.texture.astype("<f4", copy=False),
        block.vectors.astype("<f4", copy=False),
    )
    for offset, column in zip(_offsets(block.rows), columns, strict=True):
        out[offset : offset + column.nbytes] = (
            np.ascontiguousarray(column).data.cast("B") if column.size else b""
        )
    return bytes(out)


def decode(data: Bytes) -> Block:
    """Return the block in ``data``; its arrays are read-only views of ``data``.

    Raises:
        BlockError: Wrong magic, version, size or padding; ids unsorted, repeated or outside the cell; a
            vector or texture that is not finite.
    """
    view = memoryview(data).cast("B").toreadonly()
    header = decode_header(view)
    if len(view) != header.size:
        raise BlockError(
            f"expected {header.size:,} bytes for {header.rows} rows of {header.dimensions} numbers, found {len(view):,}: "
            "the block is truncated or has a tail"
        )
    ids, digests = _decode_keys(view, header)
    _, _, texture_at, vectors_at = _offsets(header.rows)
    if any(view[texture_at + 4 * header.rows : vectors_at]):
        raise BlockError("expected zero bytes between texture and vectors, found others")
    block = Block(
        zoom=header.zoom,
        cell_x=header.cell_x,
        cell_y=header.cell_y,
        dimensions=header.dimensions,
        ids=ids,
        digests=digests,
        texture=np.frombuffer(view, "<f4", header.rows, texture_at),
        vectors=np.frombuffer(view, "<f4", header.rows * header.dimensions, vectors_at).reshape(
            header.rows, header.dimensions
        ),
    )
    _check_finite(block)
    return block


def decode_header(data: Bytes) -> BlockHeader:
    """Return the header in the first 64 bytes of ``data``.

    Raises:
        BlockError: Too short, wrong magic or version, or a number out of its range.
    """
    view = memoryview(data).cast("B")
    if len(view) < HEADER_SIZE:
        raise BlockError(f"expected a header of {HEADER_SIZE} bytes, found {len(view)}")
    magic, version, zoom, cell_x, cell_y, dimensions, rows = _HEADER.unpack_from(view)
    if magic != MAGIC:
        raise BlockError(f"expected the magic {MAGIC!r}, found {magic!r}: this is no block")
    if version != VERSION:
        raise BlockError(f"expected block format {VERSION}, found {version}")
    if any(view[32:HEADER_SIZE]):
        raise BlockError("expected zero bytes at the end of the header, found others")
    header = BlockHeader(zoom=zoom, cell_x=cell_x, cell_y=cell_y, dimensions=dimensions, rows=rows)
    _check_header(header)
    return header


def decode_keys(data: Bytes) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
    """Return the key columns of a block: ids, uint64 [n], and digests, uint8 [n, 32].

    Args:
        data: A whole block, or at least its first ``key_size(n)`` bytes.

    Raises:
        BlockError: The header or the keys break a rule, or ``data`` ends before they do.
    """
    view = memoryview(data).cast("B").toreadonly()
    return _decode_keys(view, decode_header(view))


def descriptor_ids(zoom: NDArray[np.int64], x: NDArray[np.int64], y: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return the ids, uint64 [n], of view 0 of tiles given by zoom, column and row, int64 [n] each."""
    packed = (zoom << ZOOM_SHIFT) | (x << X_SHIFT) | y
    return packed.astype(np.uint64)


def align(offset: int) -> int:
    """Return the first multiple of 64 that is not below an offset."""
    return -(-offset // _ALIGNMENT) * _ALIGNMENT


def _offsets(rows: int) -> tuple[int, int, int, int]:
    """Return where ids, digests, texture and vectors begin."""
    ids = HEADER_SIZE
    digests = align(ids + 8 * rows)
    texture = align(digests + _DIGEST_SIZE * rows)
    return ids, digests, texture, align(texture + 4 * rows)


def _decode_keys(view: memoryview, header: BlockHeader) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
    rows = header.rows
    if len(view) < key_size(rows):
        raise BlockError(f"expected {key_size(rows):,} bytes of keys for {rows} rows, found {len(view):,}")
    ids_at, digests_at, texture_at, _ = _offsets(rows)
    if any(view[ids_at + 8 * rows : digests_at]) or any(view[key_size(rows) : texture_at]):
        raise BlockError("expected zero bytes between the key columns, found others")
    ids = np.frombuffer(view, "<u8", rows, ids_at)
    _check_ids(header, ids)
    digests = np.frombuffer(view, np.uint8, rows * _DIGEST_SIZE, digests_at).reshape(rows, _DIGEST_SIZE)
    return ids, digests


def _check_arrays(block: Block) -> None:
    rows = len(block.ids)
    expected: dict[str, tuple[NDArray[Any], type[np.generic], tuple[int, ...]]] = {
        "ids": (block.ids, np.uint64, (rows,)),
        "digests": (block.digests, np.uint8, (rows, _DIGEST_SIZE)),
        "vectors": (block.vectors, np.float32, (rows, block.dimensions)),
        "texture": (block.texture, np.float32, (rows,)),
    }
    for name, (array, dtype, shape) in expected.items():
        if array.dtype != np.dtype(dtype) or array.shape != shape:
            raise BlockError(
                f"expected {name} as {np.dtype(dtype)} {list(shape)}, found {array.dtype} {list(array.shape)}"
            )


def _check_header(header: BlockHeader) -> None:
    if not 0 <= header.zoom <= MAX_ZOOM:
        raise BlockError(f"expected a zoom of 0 to {MAX_ZOOM}, found {header.zoom}")
    last = ((1 << header.zoom) - 1) >> CELL_SHIFT
    if not (0 <= header.cell_x <= last and 0 <= header.cell_y <= last):
        raise BlockError(
            f"expected a cell within 0 to {last} at zoom {header.zoom}, found ({header.cell_x}, {header.cell_y})"
        )
    if not 1 <= header.dimensions <= MAX_DIMENSIONS:
        raise BlockError(f"expected 1 to {MAX_DIMENSIONS} dimensions, found {header.dimensions}")
    if not 0 <= header.rows <= MAX_ROWS:
        raise BlockError(f"expected 0 to {MAX_ROWS} rows, found {header.rows}")


def _check_ids(header: BlockHeader, ids: NDArray[np.uint64]) -> None:
    if np.any(ids[1:] <= ids[:-1]):
        raise BlockError("expected ids in ascending order without repetition, found others")
    # Any view is allowed; zoom, column and row must be inside the cell and the world at this zoom, which is
    # smaller than a cell below zoom 4. So all bits but these are those of the first tile of the cell.
    within = min(1 << CELL_SHIFT, 1 << header.zoom) - 1
    free = _VIEW_MASK | within << X_SHIFT | within
    first = header.zoom << ZOOM_SHIFT | header.cell_x << CELL_SHIFT + X_SHIFT | header.cell_y << CELL_SHIFT
    inside = (ids & np.uint64(_ALL_BITS ^ free)) == np.uint64(first)
    if not inside.all():
        stray = int(ids[int(np.argmin(inside))])
        raise BlockError(
            f"expected only ids of cell {header.zoom}/{header.cell_x}/{header.cell_y}, found id {stray} (zoom "
            f"{stray >> ZOOM_SHIFT}, x {stray >> X_SHIFT & _AXIS_MASK}, y {stray & _AXIS_MASK})"
        )


def _check_finite(block: Block) -> None:
    for name, column in (("vectors", block.vectors), ("texture", block.texture)):
        if not np.isfinite(column).all():
            row = int(np.argwhere(~np.isfinite(column))[0][0])
            raise BlockError(f"expected finite {name}, found a number that is not in row {row}")
