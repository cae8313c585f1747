"""Plan what is embedded together, and assemble the descriptors into blocks. Pure.

What gets a descriptor is a *unit*: a tile, or a chunk of ground (`pipeline.tiles.retrieval_units`). Workers get
*windows*: the new units of some cells, each digest once, and the tiles that these show. Descriptors come back window by window,
in any order. The `CellAssembler` knows what each cell still lacks.

A digest that several cells use (water, no data) is embedded once. `shared_digests` counts its cells
beforehand, so that its descriptor is dropped after the last of them and memory holds only the cells in
progress.
"""

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.tiles.chunks import ShownTiles
from pipeline.tiles.retrieval_units import RetrievalUnits
from pipeline.tiles.tile_columns import TileColumns
from store.base.identity import AXIS_MASK, CELL_SHIFT, X_SHIFT, ZOOM_SHIFT
from store.base.valueclass import valueclass
from store.formats.descriptor_block import Block

WINDOW_UNITS: Final = 512
"""About how many tiles a window has: a few seconds of work with the built-in network, one journal record."""

WINDOW_CHUNKS: Final = 1024
"""About how many chunks a window has: more, since each needs all the tiles under its chunks."""

_LEFT_PARTS: Final = 8
"""A window has at most this part of what is left, so that workers end at about the same time."""

_LEAST_PARTS: Final = 12
"""The smallest windows have this part of what a window usually has: 42 tiles or 85 chunks."""

Vectors = NDArray[np.float32]


class CellKey(NamedTuple):
    """A cell: zoom field of an id, and column and row divided by 16. Keys sort as the blocks of an index do."""

    zoom: int
    x: int
    y: int

    def __str__(self) -> str:
        return f"{self.zoom}/{self.x}/{self.y}"


@valueclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """The units of one cell, in ascending order of their descriptor ids."""

    key: CellKey
    units: RetrievalUnits


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Window:
    """Units that are embedded together.

    Attributes:
        number: Its index in the plan.
        cells: The cells that need these units; cells that only share one are left out.
        units: The units, no digest twice.
        tiles: The tiles that they show: for tiles themselves, in the same order.
        tile_edges: Edge in pixels of the tiles under chunks, by zoom; empty where tiles are the units.
    """

    number: int
    cells: tuple[CellKey, ...]
    units: RetrievalUnits
    tiles: TileColumns
    tile_edges: Mapping[int, int]

    @property
    def shows_chunks(self) -> bool:
        """Whether its units are chunks of ground, and not tiles."""
        return bool(self.tile_edges)

    @property
    def subjects(self) -> tuple[str, ...]:
        """The cells as zoom/x/y, for the journal."""
        return tuple(str(cell) for cell in self.cells)


class Row(NamedTuple):
    """The descriptor of a digest, float32 [d], and its texture score."""

    vector: Vectors
    texture: float


@valueclass(frozen=True, slots=True, kw_only=True)
class AssembledCell:
    """A complete cell.

    Attributes:
        units: Its units.
        block: Its rows, without those of units that got no descriptor.
        embedded: Digests that went through the network for this cell.
        copied: Other rows: known before, or embedded for another row or cell.
    """

    units: RetrievalUnits
    block: Block
    embedded: int
    copied: int


def group_cells(units: RetrievalUnits) -> list[Cell]:
    """Return the cells of some units, in ascending order."""
    if not len(units):
        return []
    cells = cells_of(units.ids)
    zoom, x, y = cells.T
    numbers = (zoom << 2 * X_SHIFT) | (x << X_SHIFT) | y
    order = np.lexsort((units.ids, numbers))
    units, cells, numbers = units.take(order), cells[order], numbers[order]
    starts = [0, *(np.flatnonzero(numbers[1:] != numbers[:-1]) + 1).tolist()]
    return [
        Cell(key=CellKey(*cells[start].tolist()), units=units.take(slice(start, end)))
        for start, end in pairwise([*starts, len(units)])
    ]


def cells_of(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return zoom field, column and row of the cell of each descriptor id, int64 [n, 3]."""
    x, y = (ids >> X_SHIFT) & AXIS_MASK, ids & AXIS_MASK
    return np.stack([ids >> ZOOM_SHIFT, x >> CELL_SHIFT, y >> CELL_SHIFT], axis=1)


def shared_digests(cells: Iterable[Cell]) -> dict[str, int]:
    """Return how many cells use each digest, for digests that more than one cell uses."""
    # A digest counts once per cell. As values of 32 bytes: a million strings would fill the memory.
    distinct = [np.unique(_as_values(cell.units.digests)) for cell in cells]
    if not distinct:
        return {}
    values, counts = np.unique(np.concatenate(distinct), return_counts=True)
    shared = counts > 1
    return dict(zip(map(bytes.hex, values[shared].tolist()), counts[shared].tolist(), strict=True))


def count_distinct(digests: NDArray[np.uint8]) -> int:
    """Return how many different digests there are among some, uint8 [n, 32]."""
    starts = np.ascontiguousarray(digests[:, :8]).view(np.uint64)[:, 0]
    ordered = np.sort(starts)
    # Sorting whole digests takes ten times as long, and two that begin alike are mostly the same.
    again = np.isin(starts, ordered[1:][ordered[1:] == ordered[:-1]])
    return len(digests) - int(again.sum()) + len(np.unique(_as_values(digests[again])))


def _as_values(digests: NDArray[np.uint8]) -> NDArray[np.void]:
    """Return each digest as one value that can be sorted and compared."""
    values: NDArray[np.void] = np.ascontiguousarray(digests).view("V32").reshape(-1)
    return values


def plan_windows(
    cells: Iterable[Cell],
    *,
    shown: ShownTiles,
    known: Container[str] = frozenset(),
    shared: Mapping[str, int],
    size: int | None = None,
    count: int | None = None,
    batch: int = 1,
) -> Iterator[Window]:
    """Yield the windows of all digests that are not known, lazily and in the order of the cells.

    If `count` is given, windows get smaller towards the end, and large cells are divided there. This depends on
    what is embedded and never on the workers, so that any number of them embeds the same windows. Otherwise no
    cell is divided, and a window may have up to one cell's units more than `size`. Cells without a new digest
    are in no window.

    Args:
        cells: All cells to assemble.
        shown: Finds the tiles that the units show.
        known: Digests that have a descriptor already.
        shared: From `shared_digests` of the same cells.
        size: Units after which a window is closed; by default what suits tiles or chunks.
        count: How many digests of the cells are not known. It has no effect if `size` is given.
        batch: Units that the engine takes at once: cells are divided between batches.
    """
    most = size or (WINDOW_CHUNKS if shown.edges else WINDOW_UNITS)
    left = None if size else count
    number, taken = 0, 0
    parts: list[RetrievalUnits] = []
    keys: dict[CellKey, None] = {}
    planned: set[str] = set()

    def window() -> Window:
        units = RetrievalUnits.joined(parts)
        return Window(
            number=number,
            cells=tuple(keys),
            units=units,
            tiles=shown.under(units.ids),
            tile_edges=shown.edges,
        )

    for cell in cells:
        new: dict[str, int] = {}
        for row, name in enumerate(cell.units.hex_digests):
            if name not in known and name not in planned:
                new.setdefault(name, row)
        planned.update(digest for digest in new if digest in shared)
        rows = np.fromiter(new.values(), np.intp, len(new))
        while len(rows):
            part, full = rows, most
            if left is not None:
                full = max(most // _LEAST_PARTS, min(most, left // _LEFT_PARTS))
                part = rows[: _part_of_cell(len(rows), full, batch)]
                left -= len(part)
            rows = rows[len(part) :]
            parts.append(cell.units.take(part))
            keys[cell.key] = None
            taken += len(part)
            if taken >= full:
                yield window()
                number, taken = number + 1, 0
                parts, keys = [], {}
    if parts:
        yield window()


def _part_of_cell(units: int, size: int, batch: int) -> int:
    """Return how many of a cell's units are taken together: equal parts of about `size`, in whole batches."""
    part = -(-units // max(1, round(units / size)))
    return -(-part // batch) * batch


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
        digests = set(cell.units.hex_digests)
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
        rows = [self._rows[name] for name in cell.units.hex_digests]
        units = cell.units.take(np.array([row is not None for row in rows], np.bool_))
        found = [row for row in rows if row is not None]
        vectors = np.empty((len(found), self._dimensions), np.float32)
        for number, row in enumerate(found):
            vectors[number] = row.vector
        block = Block(
            zoom=cell.key.zoom,
            cell_x=cell.key.x,
            cell_y=cell.key.y,
            dimensions=self._dimensions,
            ids=units.ids.astype(np.uint64),
            digests=units.digests,
            vectors=vectors,
            texture=np.array([row.texture for row in found], np.float32),
        )
        embedded = sum(self._rows[digest] is not None for digest in pending.first)
        for digest in set(cell.units.hex_digests):
            left = self._users.get(digest, 1) - 1
            if left:
                self._users[digest] = left
            else:
                self._users.pop(digest, None)
                self._expected.discard(digest)
                del self._rows[digest]
        self._pending -= 1
        return AssembledCell(units=cell.units, block=block, embedded=embedded, copied=len(found) - embedded)
