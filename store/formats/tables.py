"""Encode and decode the tile, block and pack tables, which list the content of a generation. Pure.

They are flat little-endian files of fixed-width columns: a reader can look up one row without parsing the
rest, and equal content has equal bytes. Rows are in ascending order of their key, without duplicates.

Tile table, magic `C10TILE1`: count (8 bytes), then the columns
    id        u64   descriptor id, see `store.base.identity.descriptor_id`
    digest    32 B  SHA-256 of the encoded tile
    captured  i32   days since 1970-01-01, or the least int32 if the date is unknown

Block table, magic `C10BLCK1`: count (8 bytes), then the columns
    zoom, cell_x, cell_y, rows   u32 each
    digest    32 B  SHA-256 of the block
    size      u64   its size in bytes

Block table of several networks, magic `C10BLCK2`: count (8 bytes), number of networks n (8 bytes), then
    weights   u64   of each network, in units of 1e-6
    zoom, cell_x, cell_y, rows   u32 each: `rows` counts the units that have a descriptor of every network
    digests   32 B  of the block of each network, row after row
    sizes     u64   likewise

Pack table, magic `C10PCKS1`: the same columns; `rows` counts the tiles of a pack (`store.formats.carried_tiles`).
"""

import datetime as dt
import struct
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from store.base.valueclass import valueclass
from store.base.values import ArtifactRef
from store.errors import ArtifactError, ErrorKind
from store.formats.capture_dates import EPOCH as _EPOCH
from store.formats.capture_dates import UNKNOWN_DATE as _UNKNOWN_DATE

_TILE_MAGIC, _BLOCK_MAGIC, _PACK_MAGIC = b"C10TILE1", b"C10BLCK1", b"C10PCKS1"
_JOINED_MAGIC = b"C10BLCK2"
_MOST_NETWORKS = 64
_HEADER = struct.Struct("<8sQ")
_JOINED_HEADER = struct.Struct("<8sQQ")
_FIRST_DAY, _LAST_DAY = dt.date.min.toordinal() - _EPOCH, dt.date.max.toordinal() - _EPOCH
_TILE_ROW, _BLOCK_ROW = 8 + 32 + 4, 16 + 32 + 8


@valueclass(frozen=True, slots=True)
class TileTable:
    """The tiles of a generation.

    Attributes:
        ids: Descriptor ids, uint64 [n], ascending.
        digests: SHA-256 of the encoded tiles, uint8 [n, 32].
        captured: Days since 1970-01-01, int32 [n]; the least int32 if unknown.
    """

    ids: NDArray[np.uint64]
    digests: NDArray[np.uint8]
    captured: NDArray[np.int32]

    def __len__(self) -> int:
        """Number of tiles."""
        return len(self.ids)

    @property
    def packed(self) -> bytes:
        """Id and digest of every tile, in the form that `store.base.identity.digest_packed_tiles` takes."""
        return pack_tiles(self.ids, self.digests)

    def digest(self, identifier: int) -> str | None:
        """Return the SHA-256 (hexadecimal) of a tile; None if it is not in the table."""
        if not 0 <= identifier < 1 << 64:
            return None
        row = int(np.searchsorted(self.ids, np.uint64(identifier)))
        if row == len(self.ids) or int(self.ids[row]) != identifier:
            return None
        return bytes(self.digests[row]).hex()

    def days_of(self, identifiers: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], NDArray[np.int32]]:
        """Return when tiles were captured.

        Args:
            identifiers: Descriptor ids, uint64 [m], of tiles in the table or not.

        Returns:
            Which of them have a known day, bool [m], and these days since 1970-01-01, int32.
        """
        if not len(self):
            return np.zeros(len(identifiers), np.bool_), np.zeros(0, np.int32)
        rows = np.minimum(np.searchsorted(self.ids, identifiers), len(self) - 1)
        days = self.captured[rows]
        known = (self.ids[rows] == identifiers) & (days != _UNKNOWN_DATE)
        return known, days[known]


@valueclass(frozen=True, slots=True, kw_only=True)
class BlockRow:
    """One block or pack: its cell, its number of rows or tiles, and its artifact.

    Attributes:
        ref: The pack, or the block of the first network by name.
        further: The blocks of the other networks.
        weights: The weight of each network in units of 1e-6, if there are several.
    """

    zoom: int
    cell_x: int
    cell_y: int
    rows: int
    ref: ArtifactRef
    further: tuple[ArtifactRef, ...] = ()
    weights: tuple[int, ...] = ()

    @property
    def refs(self) -> tuple[ArtifactRef, ...]:
        """The artifacts of all networks, in the order of their names."""
        return (self.ref, *self.further)

    @property
    def cell(self) -> tuple[int, int, int]:
        """The cell: zoom, cell x, cell y."""
        return self.zoom, self.cell_x, self.cell_y

    def files(self, kind: str) -> Iterator[tuple[str, ArtifactRef]]:
        """Yield name and reference of each artifact; `kind` is "block" or "pack"."""
        name = f"{kind} {self.zoom}/{self.cell_x}/{self.cell_y}"
        for number, ref in enumerate(self.refs, start=1):
            yield f"{name} of network {number}" if self.further else name, ref


def encode_tiles(tiles: Iterable[tuple[int, str, dt.date | None]]) -> bytes:
    """Return the tile table of (descriptor id, SHA-256, date captured), given in any order.

    Raises:
        ValueError: Two tiles share an id.
    """
    rows = sorted(tiles, key=lambda row: row[0])
    days = [0 if row[2] is None else row[2].toordinal() for row in rows]
    return encode_tile_columns(
        np.array([row[0] for row in rows], np.uint64),
        np.frombuffer(b"".join(bytes.fromhex(row[1]) for row in rows), np.uint8).reshape(-1, 32),
        np.array(days, np.int32),
    )


def encode_tile_columns(
    ids: NDArray[np.uint64], digests: NDArray[np.uint8], days: NDArray[np.int32]
) -> bytes:
    """Return the tile table of columns.

    Args:
        ids: Descriptor ids, ascending, [n].
        digests: SHA-256 of the encoded tiles, [n, 32].
        days: Dates captured as of `date.toordinal`, [n]; 0 if unknown.

    Raises:
        ValueError: Two tiles share an id, or ids do not ascend.
    """
    if (ids[1:] == ids[:-1]).any():
        raise ValueError("a tile occurs twice")
    if (ids[1:] < ids[:-1]).any():
        raise ValueError("expected tiles in ascending order of their ids, found another")
    header = _HEADER.pack(_TILE_MAGIC, len(ids))
    return b"".join((header, ids.astype("<u8").tobytes(), digests.tobytes(), encode_capture_column(days)))


def encode_capture_column(days: NDArray[np.int32]) -> bytes:
    """Return the column of days of a tile table: days since 1970-01-01, little-endian int32 [n].

    Args:
        days: Dates captured as of `date.toordinal`, in the order of the table, [n]; 0 if unknown.
    """
    return np.where(days == 0, _UNKNOWN_DATE, days.astype(np.int64) - _EPOCH).astype("<i4").tobytes()


def pack_tiles(ids: NDArray[Any], digests: NDArray[np.uint8]) -> bytes:
    """Return id and digest of tiles in the form that `store.base.identity.digest_packed_tiles` takes.

    Args:
        ids: Descriptor ids, ascending without repetition, [n].
        digests: SHA-256 of the encoded tiles, [n, 32].
    """
    packed = np.empty((len(ids), 40), np.uint8)
    packed[:, :8] = ids.astype(">u8").view(np.uint8).reshape(-1, 8)
    packed[:, 8:] = digests
    return packed.tobytes()


def decode_tiles(data: bytes | memoryview) -> TileTable:
    """Return the tile table as views of `data`.

    Raises:
        ArtifactError: `data` is no complete tile table.
    """
    count = _row_count(data, _TILE_MAGIC, _TILE_ROW)
    ids = np.frombuffer(data, "<u8", count, _HEADER.size)
    digests = np.frombuffer(data, np.uint8, count * 32, _HEADER.size + 8 * count).reshape(count, 32)
    captured = np.frombuffer(data, "<i4", count, _HEADER.size + 40 * count)
    if (ids[1:] <= ids[:-1]).any():
        raise _damaged("ascending tile ids", "another order")
    if (((captured < _FIRST_DAY) & (captured != _UNKNOWN_DATE)) | (captured > _LAST_DAY)).any():
        raise _damaged("days of the years 1 to 9999", "others")
    return TileTable(ids, digests, captured)


def encode_blocks(rows: Iterable[BlockRow]) -> bytes:
    """Return the bytes of the block table of blocks, given in any order; all have the same networks."""
    ordered = sorted(rows, key=lambda row: (row.zoom, row.cell_x, row.cell_y))
    if not ordered or not ordered[0].weights:
        return _encode_rows(_BLOCK_MAGIC, ordered)
    weights = ordered[0].weights
    if any(row.weights != weights or len(row.refs) != len(weights) for row in ordered):
        raise ValueError("expected the same networks in all cells, found others")
    columns = [_column(ordered, name) for name in ("zoom", "cell_x", "cell_y", "rows")]
    refs = [ref for row in ordered for ref in row.refs]
    return b"".join(
        (
            _JOINED_HEADER.pack(_JOINED_MAGIC, len(ordered), len(weights)),
            np.array(weights, "<u8").tobytes(),
            *columns,
            *(bytes.fromhex(ref.sha256) for ref in refs),
            np.array([ref.size for ref in refs], "<u8").tobytes(),
        )
    )


def decode_blocks(data: bytes | memoryview) -> tuple[BlockRow, ...]:
    """Return the rows of a block table, by zoom, cell x, cell y.

    Raises:
        ArtifactError: `data` is no complete block table.
    """
    if bytes(data[: len(_JOINED_MAGIC)]) == _JOINED_MAGIC:
        return _decode_joined(data)
    return _decode_rows(_BLOCK_MAGIC, data)


def _decode_joined(data: bytes | memoryview) -> tuple[BlockRow, ...]:
    start = _JOINED_HEADER.size
    if len(data) < start:
        raise _damaged(f"a header of {start} bytes", f"{len(data):,} bytes")
    _, count, networks = _JOINED_HEADER.unpack_from(data)
    size = start + 8 * networks + count * (16 + 40 * networks)
    if not 2 <= networks <= _MOST_NETWORKS or len(data) != size:
        raise _damaged(f"{size:,} bytes for {count} rows of 2 to {_MOST_NETWORKS} networks", str(len(data)))
    weights = tuple(np.frombuffer(data, "<u8", networks, start).tolist())
    start += 8 * networks
    columns = np.frombuffer(data, "<u4", 4 * count, start).reshape(4, count).tolist()
    start += 16 * count
    digests = np.frombuffer(data, np.uint8, 32 * count * networks, start).reshape(count, networks, 32)
    sizes = np.frombuffer(data, "<u8", count * networks, start + digests.size).reshape(count, networks)
    rows = []
    for i in range(count):
        pairs = zip(digests[i], sizes[i].tolist(), strict=True)
        first, *further = (ArtifactRef(sha256=digest.tobytes().hex(), size=size) for digest, size in pairs)
        zoom, cell_x, cell_y, number = (column[i] for column in columns)
        rows.append(
            BlockRow(
                zoom=zoom,
                cell_x=cell_x,
                cell_y=cell_y,
                rows=number,
                ref=first,
                further=tuple(further),
                weights=weights,
            )
        )
    if not all(weights):
        raise _damaged("weights above 0", str(weights))
    return _in_order(rows)


def encode_packs(rows: Iterable[BlockRow]) -> bytes:
    """Return the bytes of the pack table of packs, given in any order."""
    return _encode_rows(_PACK_MAGIC, rows)


def decode_packs(data: bytes | memoryview) -> tuple[BlockRow, ...]:
    """Return the rows of a pack table, by zoom, cell x, cell y.

    Raises:
        ArtifactError: `data` is no complete pack table.
    """
    return _decode_rows(_PACK_MAGIC, data)


def _encode_rows(magic: bytes, rows: Iterable[BlockRow]) -> bytes:
    ordered = sorted(rows, key=lambda row: (row.zoom, row.cell_x, row.cell_y))
    columns = [_column(ordered, name) for name in ("zoom", "cell_x", "cell_y", "rows")]
    digests = b"".join(bytes.fromhex(row.ref.sha256) for row in ordered)
    sizes = np.array([row.ref.size for row in ordered], "<u8").tobytes()
    return b"".join((_HEADER.pack(magic, len(ordered)), *columns, digests, sizes))


def _decode_rows(magic: bytes, data: bytes | memoryview) -> tuple[BlockRow, ...]:
    count = _row_count(data, magic, _BLOCK_ROW)
    start = _HEADER.size
    columns = np.frombuffer(data, "<u4", 4 * count, start).reshape(4, count).tolist()
    digests = np.frombuffer(data, np.uint8, 32 * count, start + 16 * count).reshape(count, 32)
    sizes = np.frombuffer(data, "<u8", count, start + 48 * count).tolist()
    rows = tuple(
        BlockRow(
            zoom=columns[0][i],
            cell_x=columns[1][i],
            cell_y=columns[2][i],
            rows=columns[3][i],
            ref=ArtifactRef(sha256=digests[i].tobytes().hex(), size=sizes[i]),
        )
        for i in range(count)
    )
    return _in_order(rows)


def _in_order(rows: Sequence[BlockRow]) -> tuple[BlockRow, ...]:
    keys = [(row.zoom, row.cell_x, row.cell_y) for row in rows]
    if any(later <= earlier for earlier, later in pairwise(keys)):
        raise _damaged("ascending cells", "another order")
    return tuple(rows)


def _column(rows: Sequence[BlockRow], name: str) -> bytes:
    values: Any = [getattr(row, name) for row in rows]
    return np.array(values, "<u4").tobytes()


def _row_count(data: bytes | memoryview, magic: bytes, row: int) -> int:
    if len(data) < _HEADER.size:
        raise _damaged(f"a header of {_HEADER.size} bytes", f"{len(data):,} bytes")
    found, count = _HEADER.unpack_from(data)
    if found != magic:
        raise _damaged(f"the magic {magic!r}", repr(found))
    if len(data) != _HEADER.size + count * row:
        raise _damaged(f"{_HEADER.size + count * row} bytes for {count} rows", str(len(data)))
    return int(count)


def _damaged(expected: str, found: str) -> ArtifactError:
    return ArtifactError(
        f"table: expected {expected}, found {found}",
        kind=ErrorKind.ARTIFACT_DAMAGED,
        hint="c10 verify --full",
    )
