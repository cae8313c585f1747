"""Which tiles are embedded together, and how their descriptors become blocks again. Pure.

Work goes out in *windows*: the tiles of some cells that are new, each digest once. Descriptors come back window by
window, in any order. In between stands the `CellAssembler`, which knows what each cell still misses.

A tile digest that several cells use (water, no data) is embedded once. Counting its users beforehand
(`shared_digests`) is what lets its descriptor be dropped after the last of them, so that memory holds the cells that
are under way and nothing else.
"""

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.tiles.tile import SourceTile
from pipeline.tiles.tile_columns import TileColumns
from store.base.identity import CELL_SHIFT
from store.formats.descriptor_block import Block

WINDOW_TILES: Final = 512
"""Tiles in a window, about: a few seconds of work for the embedded descriptor's worker, one journal record."""

Vectors = NDArray[np.float32]


class CellKey(NamedTuple):
    """A cell: zoom, and tile column and row divided by 16. Sorted as the blocks of an index are."""

    zoom: int
    x: int
    y: int

    def __str__(self) -> str:
        return f"{self.zoom}/{self.x}/{self.y}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """The tiles of one cell, in ascending order of (x, y), which is that of their descriptor ids."""

    key: CellKey
    tiles: TileColumns


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One portion of work.

    Attributes:
        number: Its place in the plan, from 0.
        cells: The cells that need these tiles, besides others that share one.
        tiles: Tiles to embed, no digest twice.
    """

    number: int
    cells: tuple[CellKey, ...]
    tiles: tuple[SourceTile, ...]

    @property
    def subjects(self) -> tuple[str, ...]:
        """The cells as zoom/x/y, for the journal."""
        return tuple(str(cell) for cell in self.cells)


class Row(NamedTuple):
    """What is known of one tile digest: its descriptor, float32 [d], and its texture score."""

    vector: Vectors
    texture: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AssembledCell:
    """A cell that is complete.

    Attributes:
        tiles: Its tiles.
        block: Its rows; tiles that were dropped as bad are not among them.
        embedded: Digests that went through the network for this cell.
        copied: Rows that did not: known before, or embedded for another row or cell.
    """

    tiles: TileColumns
    block: Block
    embedded: int
    copied: int


def group_cells(tiles: Iterable[SourceTile]) -> list[Cell]:
    """Return the cells of some tiles, in ascending order."""
    columns = TileColumns.of(tiles)
    if not len(columns):
        return []
    z, x, y = columns.places.T
    cells = np.stack([z, x >> CELL_SHIFT, y >> CELL_SHIFT], axis=1)
    order = np.lexsort((y, x, cells[:, 2], cells[:, 1], z))
    columns, cells = columns.take(order), cells[order]
    starts = [0, *(np.flatnonzero((cells[1:] != cells[:-1]).any(axis=1)) + 1).tolist()]
    return [
        Cell(key=CellKey(*cells[start].tolist()), tiles=columns[start:end])
        for start, end in pairwise([*starts, len(columns)])
    ]


def shared_digests(cells: Iterable[Cell]) -> dict[str, int]:
    """Return how many cells use each digest, for digests that more than one cell uses."""
    # Digests of one cell count once; as whole values of 32 bytes, since a million names would fill the memory.
    distinct = [np.unique(_values(cell.tiles.digests)) for cell in cells]
    if not distinct:
        return {}
    values, counts = np.unique(np.concatenate(distinct), return_counts=True)
    shared = counts > 1
    return dict(zip(map(bytes.hex, values[shared].tolist()), counts[shared].tolist(), strict=True))


def _values(digests: NDArray[np.uint8]) -> NDArray[np.void]:
    """Each digest as one value that can be sorted and compared."""
    values: NDArray[np.void] = np.ascontiguousarray(digests).view("V32").reshape(-1)
    return values


def plan_windows(
    cells: Iterable[Cell],
    *,
    known: Container[str] = frozenset(),
    shared: Mapping[str, int],
    size: int = WINDOW_TILES,
) -> Iterator[Window]:
    """Yield the windows for all digests that are not known, lazily and in the order of the cells.

    A cell is never divided, so that a window has fewer than ``size`` tiles and those of one cell together. Cells
    without a new digest appear in no window: they need none, or wait for a digest that another cell brings.

    Args:
        cells: All cells to be assembled.
        known: Digests whose descriptor exists already.
        shared: From `shared_digests` of the same cells.
        size: Tiles after which a window is closed.
    """
    number = 0
    tiles: list[SourceTile] = []
    keys: list[CellKey] = []
    planned: set[str] = set()
    for cell in cells:
        fresh: dict[str, SourceTile] = {}
        for number_in_cell, name in enumerate(cell.tiles.hex_digests):
            if name not in known and name not in planned and name not in fresh:
                fresh[name] = cell.tiles[number_in_cell]
        if not fresh:
            continue
        planned.update(digest for digest in fresh if digest in shared)
        tiles.extend(fresh.values())
        keys.append(cell.key)
        if len(tiles) >= size:
            yield Window(number=number, cells=tuple(keys), tiles=tuple(tiles))
            number += 1
            tiles, keys = [], []
    if tiles:
        yield Window(number=number, cells=tuple(keys), tiles=tuple(tiles))


@dataclass(slots=True, eq=False)
class _Pending:
    cell: Cell
    missing: set[str]
    first: frozenset[str]


class CellAssembler:
    """Puts cells together from descriptors that come in any order.

    Every cell that `shared_digests` counted must be added once; until the last of them is, and is complete, the rows
    of its shared digests are kept. Everything else is dropped with the cell that it belongs to.
    """

    def __init__(self, *, dimensions: int, shared: Mapping[str, int]) -> None:
        """Begin with no cells.

        Args:
            dimensions: Length of a descriptor.
            shared: From `shared_digests` of all cells that will be added.
        """
        self._dimensions = dimensions
        self._users = dict(shared)
        self._rows: dict[str, Row | None] = {}
        self._asked: set[str] = set()
        self._waiting: dict[str, list[_Pending]] = {}
        self._pending = 0

    @property
    def pending(self) -> int:
        """Cells that were added and are not complete."""
        return self._pending

    @property
    def held(self) -> int:
        """Rows kept in memory."""
        return len(self._rows)

    def add(self, cell: Cell, known: Mapping[str, Row]) -> AssembledCell | None:
        """Take in a cell, and return it when nothing is missing.

        Args:
            cell: The cell, not added before.
            known: Rows by digest that exist already; those of other digests are ignored.
        """
        digests = set(cell.tiles.hex_digests)
        for digest in digests & known.keys():
            self._rows.setdefault(digest, known[digest])
        missing = {digest for digest in digests if digest not in self._rows}
        first = missing - self._asked
        self._asked.update(digest for digest in first if digest in self._users)
        pending = _Pending(cell=cell, missing=missing, first=frozenset(first))
        self._pending += 1
        if not missing:
            return self._complete(pending)
        for digest in missing:
            self._waiting.setdefault(digest, []).append(pending)
        return None

    def supply(self, digest: str, row: Row) -> list[AssembledCell]:
        """Take in the row of a digest, and return the cells that it completes. One that nobody needs is ignored."""
        if digest in self._users:
            # It may be kept for long, and a view would keep its whole window with it.
            row = Row(row.vector.copy(), row.texture)
        return self._arrive(digest, row)

    def drop(self, digest: str) -> list[AssembledCell]:
        """Give a digest up: its tiles get no row. Return the cells that this completes."""
        return self._arrive(digest, None)

    def _arrive(self, digest: str, row: Row | None) -> list[AssembledCell]:
        if digest not in self._waiting and digest not in self._users:
            return []
        self._rows[digest] = row
        complete: list[AssembledCell] = []
        for pending in self._waiting.pop(digest, []):
            pending.missing.discard(digest)
            if not pending.missing:
                complete.append(self._complete(pending))
        return complete

    def _complete(self, pending: _Pending) -> AssembledCell:
        cell = pending.cell
        rows = [self._rows[name] for name in cell.tiles.hex_digests]
        tiles = cell.tiles.take(np.array([row is not None for row in rows], np.bool_))
        found = [row for row in rows if row is not None]
        vectors = np.empty((len(found), self._dimensions), np.float32)
        for number, row in enumerate(found):
            vectors[number] = row.vector
        block = Block(
            zoom=cell.key.zoom,
            cell_x=cell.key.x,
            cell_y=cell.key.y,
            dimensions=self._dimensions,
            ids=tiles.ids.astype(np.uint64),
            digests=tiles.digests,
            vectors=vectors,
            texture=np.array([row.texture for row in found], np.float32),
        )
        embedded = sum(self._rows[digest] is not None for digest in pending.first)
        for digest in set(cell.tiles.hex_digests):
            left = self._users.get(digest, 1) - 1
            if left:
                self._users[digest] = left
            else:
                self._users.pop(digest, None)
                self._asked.discard(digest)
                del self._rows[digest]
        self._pending -= 1
        return AssembledCell(tiles=cell.tiles, block=block, embedded=embedded, copied=len(found) - embedded)
