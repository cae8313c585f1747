"""Deltas: what changed in the rows of an index since it was written, as one write-once binary file. Pure.

A delta names the rows that came and the rows that are to be left out, both with their vectors. It can so be applied to the
rows of the index, which gives those of now, and be taken back from those of now, which gives the rows of the index: the
index can be made again as long as the blocks of now and the delta are there. A tile whose vector changed is in both
lists. A delta depends on the two sets of rows alone, not on how many builds lie between them.

Format, version 1. All numbers are little-endian, every column starts at a multiple of 64 bytes and all bytes between
columns are zero, so that equal content means equal bytes::

    offset            size     content
    0                 8        magic, the ASCII bytes "C10DELTA"
    8                 4        format version, uint32, 1
    12                4        dimensions d, uint32, 1 ... 65536
    16                8        rows that came a, uint64
    24                8        rows that are left out b, uint64
    32                32       zero
    64                8 a      ids that came, uint64, ascending without repetition
    align64(...)      8 b      ids that are left out, uint64, likewise
    align64(...)      4 a d    vectors that came, float32, finite, row after row
    align64(...)      4 b d    vectors that are left out
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from store.base.identity import CELL_SHIFT, X_SHIFT, ZOOM_SHIFT
from store.formats.descriptor_block import HEADER_SIZE, MAX_DIMENSIONS, Block

MAGIC: Final = b"C10DELTA"
VERSION: Final = 1

_HEADER: Final = struct.Struct("<8s2I2Q32x")
_ALIGNMENT: Final = 64
_MOST_ROWS: Final = 1 << 32
_ID_BITS: Final = 63
_CELL_X_SHIFT: Final = X_SHIFT + CELL_SHIFT
_CELL_MASK: Final = (1 << X_SHIFT - CELL_SHIFT) - 1

CellName: TypeAlias = tuple[int, int, int]
"""(zoom, x >> 4, y >> 4)."""


class DeltaError(ValueError):
    """A delta, or the bytes of one, break a rule of the format; the message says which, expected and found."""


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
        """Return the rows that a mask, bool [n], marks."""
        return Rows(self.ids[mask], self.vectors[mask])


@dataclass(frozen=True, slots=True, eq=False)
class Delta:
    """What changed: rows that came, and rows that are left out."""

    added: Rows
    dropped: Rows

    @property
    def size(self) -> int:
        """How many rows it has in all."""
        return len(self.added) + len(self.dropped)

    @property
    def dimensions(self) -> int:
        """Length of a descriptor."""
        return int(self.added.vectors.shape[1])

    def in_cell(self, cell: CellName) -> "Delta":
        """Return what concerns one cell."""
        number = np.uint64(_number(*cell))
        added, dropped = _cell_numbers(self.added.ids), _cell_numbers(self.dropped.ids)
        return Delta(self.added.select(added == number), self.dropped.select(dropped == number))

    def outside_cells(self, cells: Iterable[CellName]) -> "Delta":
        """Return what concerns none of some cells."""
        numbers = np.array([_number(*cell) for cell in cells], np.uint64)

        def kept(rows: Rows) -> Rows:
            return rows.select(~np.isin(_cell_numbers(rows.ids), numbers))

        return Delta(kept(self.added), kept(self.dropped))

    @property
    def cells_of_dropped(self) -> list[CellName]:
        """The cells that rows left, each once, in ascending order."""
        numbers = np.unique(_cell_numbers(self.dropped.ids)).tolist()
        return [
            (number >> ZOOM_SHIFT, number >> _CELL_X_SHIFT & _CELL_MASK, number >> CELL_SHIFT & _CELL_MASK)
            for number in numbers
        ]


def block_rows(block: Block) -> Rows:
    """Return the rows of a block."""
    return Rows(block.ids, block.vectors)


def empty_delta(dimensions: int) -> Delta:
    """Return the delta of an index in which nothing changed."""
    none = Rows(np.zeros(0, np.uint64), np.zeros((0, dimensions), np.float32))
    return Delta(none, none)


def delta_between(before: Rows, now: Rows) -> Delta:
    """Return what changed between two sets of rows of the same dimensions; a row is its id and its vector's bits."""
    _, at, there = np.intersect1d(before.ids, now.ids, assume_unique=True, return_indices=True)
    same = (before.vectors[at].view(np.uint32) == now.vectors[there].view(np.uint32)).all(axis=1)
    came, left = np.ones(len(now), np.bool_), np.ones(len(before), np.bool_)
    came[there[same]] = False
    left[at[same]] = False
    return Delta(now.select(came), before.select(left))


def undo_delta(now: Rows, delta: Delta) -> Rows:
    """Return the rows from before the change.

    Raises:
        DeltaError: A row that came is not among those of now, or one that was left out is.
    """
    kept = now.select(~np.isin(now.ids, delta.added.ids))
    if len(kept) + len(delta.added) != len(now):
        raise DeltaError("expected every row that came among the rows of now, found one that is not")
    if np.isin(delta.dropped.ids, kept.ids).any():
        raise DeltaError("expected rows that are left out to be gone or changed, found one that is as it was")
    return _sorted([kept, delta.dropped])


def merge_deltas(deltas: Sequence[Delta], dimensions: int) -> Delta:
    """Return the changes of several cells as one delta."""
    every = [empty_delta(dimensions), *deltas]
    return Delta(_sorted([each.added for each in every]), _sorted([each.dropped for each in every]))


def encode(delta: Delta) -> bytes:
    """Return the bytes of a delta.

    Raises:
        DeltaError: Ids are unsorted or repeated, arrays do not belong together, or a number is not finite.
    """
    _check(delta)
    added, dropped, dimensions = delta.added, delta.dropped, delta.dimensions
    offsets = _offsets(len(added), len(dropped), dimensions)
    out = bytearray(offsets[-1])
    _HEADER.pack_into(out, 0, MAGIC, VERSION, dimensions, len(added), len(dropped))
    columns = (
        added.ids.astype("<u8", copy=False),
        dropped.ids.astype("<u8", copy=False),
        added.vectors.astype("<f4", copy=False),
        dropped.vectors.astype("<f4", copy=False),
    )
    for offset, column in zip(offsets, columns, strict=False):
        out[offset : offset + column.nbytes] = column.tobytes()
    return bytes(out)


def decode(data: bytes | memoryview) -> Delta:
    """Return the delta in `data`; its arrays are read-only views, nothing is copied.

    Raises:
        DeltaError: Wrong magic, version, size or padding; ids unsorted or repeated; a vector that is not finite.
    """
    view = memoryview(data).cast("B").toreadonly()
    if len(view) < HEADER_SIZE:
        raise DeltaError(f"expected a header of {HEADER_SIZE} bytes, found {len(view)}")
    magic, version, dimensions, added, dropped = _HEADER.unpack_from(view)
    if magic != MAGIC or version != VERSION:
        raise DeltaError(f"expected the magic {MAGIC!r} and version {VERSION}, found {magic!r} and {version}")
    if not 1 <= dimensions <= MAX_DIMENSIONS or max(added, dropped) > _MOST_ROWS:
        raise DeltaError(f"expected a delta that fits memory, found {added} + {dropped} rows of {dimensions}")
    offsets = _offsets(added, dropped, dimensions)
    if len(view) != offsets[-1]:
        raise DeltaError(f"expected {offsets[-1]} bytes for {added} + {dropped} rows, found {len(view)}")
    ends = _ends(offsets, added, dropped, dimensions)
    gaps = zip((32, *ends), (HEADER_SIZE, *offsets[1:]), strict=True)
    if any(any(view[end:start]) for end, start in gaps):
        raise DeltaError("expected zero bytes between the columns, found others")
    delta = Delta(
        Rows(
            np.frombuffer(view, "<u8", added, offsets[0]),
            np.frombuffer(view, "<f4", added * dimensions, offsets[2]).reshape(added, dimensions),
        ),
        Rows(
            np.frombuffer(view, "<u8", dropped, offsets[1]),
            np.frombuffer(view, "<f4", dropped * dimensions, offsets[3]).reshape(dropped, dimensions),
        ),
    )
    _check(delta)
    return delta


def _number(zoom: int, cell_x: int, cell_y: int) -> int:
    return zoom << ZOOM_SHIFT | cell_x << _CELL_X_SHIFT | cell_y << CELL_SHIFT


def _cell_numbers(ids: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The cell of each id as one number: the id without its place in the cell and its view."""
    return ids & np.uint64(_number((1 << 6) - 1, _CELL_MASK, _CELL_MASK))


def _sorted(parts: Iterable[Rows]) -> Rows:
    every = list(parts)
    ids = np.concatenate([part.ids for part in every])
    vectors = np.concatenate([part.vectors for part in every])
    order = np.argsort(ids, kind="stable")
    return Rows(ids[order], vectors[order])


def _offsets(added: int, dropped: int, dimensions: int) -> tuple[int, int, int, int, int]:
    """Return where the columns begin, and where the last one ends."""
    left_out = _align(HEADER_SIZE + 8 * added)
    came = _align(left_out + 8 * dropped)
    last = _align(came + 4 * added * dimensions)
    return HEADER_SIZE, left_out, came, last, last + 4 * dropped * dimensions


def _ends(offsets: Sequence[int], added: int, dropped: int, dimensions: int) -> tuple[int, int, int, int]:
    """Return where each column ends; the gap behind it is zero."""
    return (
        offsets[0] + 8 * added,
        offsets[1] + 8 * dropped,
        offsets[2] + 4 * added * dimensions,
        offsets[3] + 4 * dropped * dimensions,
    )


def _align(offset: int) -> int:
    return -(-offset // _ALIGNMENT) * _ALIGNMENT


def _check(delta: Delta) -> None:
    for name, rows in (("came", delta.added), ("are left out", delta.dropped)):
        if rows.ids.dtype != np.uint64 or rows.vectors.dtype != np.float32 or rows.vectors.ndim != 2:
            raise DeltaError(
                f"expected ids as uint64 and vectors as float32 [n, d] of rows that {name}, found others"
            )
        if rows.vectors.shape != (len(rows), delta.dimensions) or not delta.dimensions:
            raise DeltaError(f"expected a vector for each row that {name}, found {list(rows.vectors.shape)}")
        if (rows.ids[1:] <= rows.ids[:-1]).any() or (rows.ids >> np.uint64(_ID_BITS)).any():
            raise DeltaError(
                f"expected ids in ascending order without repetition of rows that {name}, found others"
            )
        if not np.isfinite(rows.vectors).all():
            raise DeltaError(f"expected finite vectors of rows that {name}, found a number that is not")
