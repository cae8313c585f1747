"""Plan which tiles are embedded together, and assemble their descriptors into blocks. Pure.

Workers get *windows*: the new tiles of some cells, each digest once. Descriptors come back window by window,
in any order. The `CellAssembler` knows what each cell still lacks.

A tile digest that several cells use (water, no data) is embedded once. `shared_digests` counts its cells
beforehand, so that its descriptor is dropped after the last of them and memory holds only the cells in
progress.
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
from store.base.valueclass import valueclass
from store.formats.descriptor_block import Block

WINDOW_TILES: Final = 512
"""About how many tiles a window has: a few seconds of work with the built-in network, one journal record."""

Vectors = NDArray[np.float32]


class CellKey(NamedTuple):
    """A cell: zoom, and tile column and row divided by 16. Keys sort as the blocks of an index do."""

    zoom: int
    x: int
    y: int

    def __str__(self) -> str:
        return f"{self.zoom}/{self.x}/{self.y}"


@valueclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """The tiles of one cell, in ascending order of (x, y), the order of their descriptor ids."""

    key: CellKey
    tiles: TileColumns


@valueclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Tiles that are embedded together.

    Attributes:
        number: Its index in the plan.
        cells: The cells that need these tiles; cells that only share one are left out.
        tiles: The tiles, no digest twice.
    """

    number: int
    cells: tuple[CellKey, ...]
    tiles: tuple[SourceTile, ...]

    @property
    def subjects(self) -> tuple[str, ...]:
        """The cells as zoom/x/y, for the journal."""
        return tuple(str(cell) for cell in self.cells)


class Row(NamedTuple):
    """The descriptor of a tile digest, float32 [d], and its texture score."""

    vector: Vectors
    texture: float


@valueclass(frozen=True, slots=True, kw_only=True)
class AssembledCell:
    """A complete cell.

    Attributes:
        tiles: Its tiles.
        block: Its rows, without those of bad tiles.
        embedded: Digests that went through the network for this cell.
        copied: Other rows: known before, or embedded for another row or cell.
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
    # A digest counts once per cell. As values of 32 bytes: a million strings would fill the memory.
    distinct = [np.unique(_as_values(cell.tiles.digests)) for cell in cells]
    if not distinct:
        return {}
    values, counts = np.unique(np.concatenate(distinct), return_counts=True)
    shared = counts > 1
    return dict(zip(map(bytes.hex, values[shared].tolist()), counts[shared].tolist(), strict=True))


def _as_values(digests: NDArray[np.uint8]) -> NDArray[np.void]:
    """Return each digest as one value that can be sorted and compared."""
    values: NDArray[np.void] = np.ascontiguousarray(digests).view("V32").reshape(-1)
    return values


def plan_windows(
    cells: Iterable[Cell],
    *,
    known: Container[str] = frozenset(),
    shared: Mapping[str, int],
    size: int = WINDOW_TILES,
) -> Iterator[Window]:
    """Yield the windows of all digests that are not known, lazily and in the order of the cells.

    A cell is never divided, so a window may have up to one cell's tiles more than `size`. Cells without a new
    digest are in no window.

    Args:
        cells: All cells to assemble.
        known: Digests that have a descriptor already.
        shared: From `shared_digests` of the same cells.
        size: Tiles after which a window is closed.
    """
    number = 0
    tiles: list[SourceTile] = []
    keys: list[CellKey] = []
    planned: set[str] = set()
    for cell in cells:
        new: dict[str, SourceTile] = {}
        for number_in_cell, name in enumerate(cell.tiles.hex_digests):
            if name not in known and name not in planned and name not in new:
                new[name] = cell.tiles[number_in_cell]
        if not new:
            continue
        planned.update(digest for digest in new if digest in shared)
        tiles.extend(new.values())
        keys.append(cell.key)
        if len(tiles) >= size:
            yield Window(number=number, cells=tuple(keys), tiles=tuple(tiles))
            number += 1
            tiles, keys = [], []
    if tiles:
        yield Window(number=number, cells=tuple(keys), tiles=tuple(tiles))


@dataclass(slots=True, eq=False)
class _IncompleteCell:
    cell: Cell
    missing: set[str]
    first: frozenset[str]


class CellAssembler:
    """Assembles cells from descriptors that come in any order.

    Every cell that `shared_digests` counted must be added once. The row of a shared digest is kept until the
    last of its cells is complete, any other row until its own cell is.
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
        self._expected: set[str] = set()
        self._waiting: dict[str, list[_IncompleteCell]] = {}
        self._pending = 0

    @property
    def pending(self) -> int:
        """How many of the added cells are not complete."""
        return self._pending

    @property
    def held(self) -> int:
        """How many rows are in memory."""
        return len(self._rows)

    def add(self, cell: Cell, known: Mapping[str, Row]) -> AssembledCell | None:
        """Add a cell; return it assembled if nothing is missing.

        Args:
            cell: The cell, not added before.
            known: Existing rows by digest; those of other cells are ignored.
        """
        digests = set(cell.tiles.hex_digests)
        for digest in digests & known.keys():
            self._rows.setdefault(digest, known[digest])
        missing = {digest for digest in digests if digest not in self._rows}
        first = missing - self._expected
        self._expected.update(digest for digest in first if digest in self._users)
        pending = _IncompleteCell(cell=cell, missing=missing, first=frozenset(first))
        self._pending += 1
        if not missing:
            return self._complete(pending)
        for digest in missing:
            self._waiting.setdefault(digest, []).append(pending)
        return None

    def supply(self, digest: str, row: Row) -> list[AssembledCell]:
        """Add the row of a digest, unless no cell needs it; return the cells that it completes."""
        if digest in self._users:
            # It may be kept for long, and a view would keep the array of its whole window.
            row = Row(row.vector.copy(), row.texture)
        return self._resolve(digest, row)

    def drop(self, digest: str) -> list[AssembledCell]:
        """Leave a digest without a row; return the cells that this completes."""
        return self._resolve(digest, None)

    def _resolve(self, digest: str, row: Row | None) -> list[AssembledCell]:
        if digest not in self._waiting and digest not in self._users:
            return []
        self._rows[digest] = row
        complete: list[AssembledCell] = []
        for pending in self._waiting.pop(digest, []):
            pending.missing.discard(digest)
            if not pending.missing:
                complete.append(self._complete(pending))
        return complete

    def _complete(self, pending: _IncompleteCell) -> AssembledCell:
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
                self._expected.discard(digest)
                del self._rows[digest]
        self._pending -= 1
        return AssembledCell(tiles=cell.tiles, block=block, embedded=embedded, copied=len(found) - embedded)
