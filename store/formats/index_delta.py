"""Encode, decode and compute index deltas: the rows added and dropped since an index was written. Pure.

A delta is one write-once binary file and holds the added and the dropped rows, both with their vectors. So it
can be applied to the rows of the index, which gives the current rows, and undone on the current rows, which
gives the rows of the index: the index can be rebuilt from the current blocks and the delta. A tile whose
vector changed is in both lists. A delta depends only on the two sets of rows, not on the number of builds
between them.

Format, version 1. All numbers are little-endian, every column starts at a multiple of 64 bytes and all bytes
between columns are zero, so that equal content means equal bytes::

    offset            size     content
    0                 8        magic, the ASCII bytes "C10DELTA"
    8                 4        format version, uint32, 1
    12                4        dimensions d, uint32, 1 ... 65536
    16                8        added rows a, uint64
    24                8        dropped rows b, uint64
    32                32       zero
    64                8 a      added ids, uint64, ascending without repetition
    align64(...)      8 b      dropped ids, uint64, likewise
    align64(...)      4 a d    added vectors, float32, finite, row after row
    align64(...)      4 b d    dropped vectors, likewise
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from store.base.identity import CELL_SHIFT, X_SHIFT, ZOOM_SHIFT
from store.formats.descriptor_block import HEADER_SIZE, MAX_DIMENSIONS, Block, align

MAGIC: Final = b"C10DELTA"
VERSION: Final = 1

_HEADER: Final = struct.Struct("<8s2I2Q32x")
_HEADER_END: Final = 32

_MAX_ROWS: Final = 1 << 32
_ID_BITS: Final = 63
_CELL_X_SHIFT: Final = X_SHIFT + CELL_SHIFT
_CELL_MASK: Final = (1 << X_SHIFT - CELL_SHIFT) - 1

CellName: TypeAlias = tuple[int, int, int]
"""(zoom, x >> 4, y >> 4)."""


class DeltaError(ValueError):
    """A delta or its bytes break a rule of the format; the message says what was expected and found."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Rows of an index in ascending order of id.

    Attributes:
        ids: Descriptor ids, uint64 [n].
        vectors: Descriptors, float32 [n, d].
    """

    ids: NDArray[np.uint64]
    vectors: NDArray[np.float32]

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.ids)

    def select(self, mask: NDArray[np.bool_]) -> "Rows":
        """Return the rows where a mask, bool [n], is true."""
        return Rows(self.ids[mask], self.vectors[mask])


@dataclass(frozen=True, slots=True, eq=False)
class Delta:
    """The rows added and dropped between two sets of rows."""

    added: Rows
    dropped: Rows

    @property
    def size(self) -> int:
        """Number of added and dropped rows."""
        return len(self.added) + len(self.dropped)

    @property
    def dimensions(self) -> int:
        """Length of a descriptor."""
        return int(self.added.vectors.shape[1])

    def in_cell(self, cell: CellName) -> "Delta":
        """Return the changes in one cell."""
        number = np.uint64(_cell_number(*cell))
        added, dropped = _cell_numbers(self.added.ids), _cell_numbers(self.dropped.ids)
        return Delta(self.added.select(added == number), self.dropped.select(dropped == number))

    def outside_cells(self, cells: Iterable[CellName]) -> "Delta":
        """Return the changes outside some cells."""
        numbers = np.array([_cell_number(*cell) for cell in cells], np.uint64)

        def kept(rows: Rows) -> Rows:
            return rows.select(~np.isin(_cell_numbers(rows.ids), numbers))

        return Delta(kept(self.added), kept(self.dropped))

    @property
    def cells_of_dropped(self) -> list[CellName]:
        """The cells of dropped rows, each once, in ascending order."""
        numbers = np.unique(_cell_numbers(self.dropped.ids)).tolist()
        return [
            (number >> ZOOM_SHIFT, number >> _CELL_X_SHIFT & _CELL_MASK, number >> CELL_SHIFT & _CELL_MASK)
            for number in numbers
        ]


def block_rows(block: Block) -> Rows:
    """Return the rows of a block."""
    return Rows(block.ids, block.vectors)


def empty_delta(dimensions: int) -> Delta:
    """Return a delta without rows."""
    none = Rows(np.zeros(0, np.uint64), np.zeros((0, dimensions), np.float32))
    return Delta(none, none)


def delta_between(before: Rows, now: Rows) -> Delta:
    """Return what changed between two sets of rows of equal dimensions; compare vectors bit by bit."""
    _, at, there = np.intersect1d(before.ids, now.ids, assume_unique=True, return_indices=True)
    same = (before.vectors[at].view(np.uint32) == now.vectors[there].view(np.uint32)).all(axis=1)
    added, dropped = np.ones(len(now), np.bool_), np.ones(len(before), np.bool_)
    added[there[same]] = False
    dropped[at[same]] = False
    return Delta(now.select(added), before.select(dropped))


def undo_delta(now: Rows, delta: Delta) -> Rows:
    """Return the rows before a change.

    Raises:
        DeltaError: An added row is missing from the current rows, or a dropped row is there unchanged.
    """
    kept = now.select(~np.isin(now.ids, delta.added.ids))
    if len(kept) + len(delta.added) != len(now):
        raise DeltaError("expected every added row among the current rows, found one that is missing")
    if np.isin(delta.dropped.ids, kept.ids).any():
        raise DeltaError("expected dropped rows to be missing or changed, found one that is unchanged")
    return _merge_rows([kept, delta.dropped])


def merge_deltas(deltas: Sequence[Delta], dimensions: int) -> Delta:
    """Return the changes of several cells as one delta."""
    every = [empty_delta(dimensions), *deltas]
    return Delta(_merge_rows([each.added for each in every]), _merge_rows([each.dropped for each in every]))


def encode(delta: Delta) -> bytes:
    """Return the bytes of a delta.

    Raises:
        DeltaError: Ids are unsorted or repeated, arrays do not belong together, or a number is not finite.
    """
    _check(delta)
    added, dropped, dimensions = delta.added, delta.dropped, delta.dimensions
    columns = _columns(len(added), len(dropped), dimensions)
    out = bytearray(columns[-1][1])
    _HEADER.pack_into(out, 0, MAGIC, VERSION, dimensions, len(added), len(dropped))
    arrays = (
        added.ids.astype("<u8", copy=False),
        dropped.ids.astype("<u8", copy=False),
        added.vectors.astype("<f4", copy=False),
        dropped.vectors.astype("<f4", copy=False),
    )
    for (start, end), array in zip(columns, arrays, strict=True):
        out[start:end] = array.tobytes()
    return bytes(out)


def decode(data: bytes | memoryview) -> Delta:
    """Return the delta in `data`; its arrays are read-only views of `data`.

    Raises:
        DeltaError: Wrong magic, version, size or padding; ids unsorted or repeated; a vector that is not
            finite.
    """
    view = memoryview(data).cast("B").toreadonly()
    if len(view) < HEADER_SIZE:
        raise DeltaError(f"expected a header of {HEADER_SIZE} bytes, found {len(view)}")
    magic, version, dimensions, added, dropped = _HEADER.unpack_from(view)
    if magic != MAGIC or version != VERSION:
        raise DeltaError(f"expected the magic {MAGIC!r} and version {VERSION}, found {magic!r} and {version}")
    if not 1 <= dimensions <= MAX_DIMENSIONS or max(added, dropped) > _MAX_ROWS:
        raise DeltaError(f"expected a delta that fits memory, found {added} + {dropped} rows of {dimensions}")
    columns = _columns(added, dropped, dimensions)
    if len(view) != columns[-1][1]:
        raise DeltaError(f"expected {columns[-1][1]} bytes for {added} + {dropped} rows, found {len(view)}")
    if any(any(view[end:start]) for (_, end), (start, _) in pairwise([(0, _HEADER_END), *columns])):
        raise DeltaError("expected zero bytes between the columns, found others")
    added_ids, dropped_ids, added_vectors, dropped_vectors = (view[start:end] for start, end in columns)
    delta = Delta(
        Rows(
            np.frombuffer(added_ids, "<u8"),
            np.frombuffer(added_vectors, "<f4").reshape(added, dimensions),
        ),
        Rows(
            np.frombuffer(dropped_ids, "<u8"),
            np.frombuffer(dropped_vectors, "<f4").reshape(dropped, dimensions),
        ),
    )
    _check(delta)
    return delta


def _cell_number(zoom: int, cell_x: int, cell_y: int) -> int:
    return zoom << ZOOM_SHIFT | cell_x << _CELL_X_SHIFT | cell_y << CELL_SHIFT


def _cell_numbers(ids: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the cell of each id as one number: the id without its view and its position in the cell."""
    return ids & np.uint64(_cell_number((1 << 6) - 1, _CELL_MASK, _CELL_MASK))


def _merge_rows(parts: Iterable[Rows]) -> Rows:
    every = list(parts)
    ids = np.concatenate([part.ids for part in every])
    vectors = np.concatenate([part.vectors for part in every])
    order = np.argsort(ids, kind="stable")
    return Rows(ids[order], vectors[order])


def _columns(added: int, dropped: int, dimensions: int) -> list[tuple[int, int]]:
    """Return where each column begins and ends."""
    columns, start = [], HEADER_SIZE
    for size in (8 * added, 8 * dropped, 4 * added * dimensions, 4 * dropped * dimensions):
        columns.append((start, start + size))
        start = align(start + size)
    return columns


def _check(delta: Delta) -> None:
    for name, rows in (("added", delta.added), ("dropped", delta.dropped)):
        if rows.ids.dtype != np.uint64 or rows.vectors.dtype != np.float32 or rows.vectors.ndim != 2:
            raise DeltaError(
                f"expected ids as uint64 and vectors as float32 [n, d] of {name} rows, found others"
            )
        if rows.vectors.shape != (len(rows), delta.dimensions) or not delta.dimensions:
            raise DeltaError(
                f"expected a vector for each of the {name} rows, found {list(rows.vectors.shape)}"
            )
        if (rows.ids[1:] <= rows.ids[:-1]).any() or (rows.ids >> np.uint64(_ID_BITS)).any():
            raise DeltaError(
                f"expected ids of {name} rows in ascending order without repetition, found others"
            )
        if not np.isfinite(rows.vectors).all():
            raise DeltaError(f"expected finite vectors of {name} rows, found a number that is not")
