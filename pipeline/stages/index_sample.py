"""Choose tiles that an index must find: distinct pictures with distinct vectors, however often each occurs.

The tiles with the smallest SHA-256 are taken, which is a random choice that does not depend on how blocks are
cut. A choice at a fixed stride over all rows would mostly meet the tiles that occur often.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from store.base.identity import CELL_SHIFT, tile_of
from store.base.texture import FEATURELESS_BELOW
from store.disk.artifacts import Artifacts
from store.formats.descriptor_block import Block
from store.formats.index_delta import Rows
from store.formats.joined_blocks import read_block
from store.formats.tables import BlockRow
from store.runtime.backends.base import import_library
from store.runtime.load import DescriptorIndex

_KEY_BYTES = 8
_ANY_KEY = (1 << 64) - 1
_faiss_setting = Lock()
"""Of two checks at once the second would take the setting of the first for the one before, and leave it."""

Vectors = NDArray[np.float32]


class TileSample:
    """A sample of distinct tiles that are not featureless."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._rows: dict[int, tuple[int, Vectors]] = {}
        self._greatest = _ANY_KEY

    def offer(self, block: Block, places: NDArray[np.bool_] | None = None) -> None:
        """Take what belongs to the sample from the rows of a block, or from some of them."""
        keys = np.ascontiguousarray(block.digests[:, :_KEY_BYTES]).view(">u8")[:, 0]
        fit = (block.texture >= FEATURELESS_BELOW) & (keys <= np.uint64(self._greatest))
        for place in np.flatnonzero(fit if places is None else fit & places).tolist():
            key = int(keys[place])
            if key not in self._rows:
                self._rows[key] = int(block.ids[place]), block.vectors[place].copy()
        if len(self._rows) > self._size:
            smallest = sorted(self._rows)[: self._size]
            self._rows = {key: self._rows[key] for key in smallest}
            self._greatest = smallest[-1]

    @property
    def tiles(self) -> int:
        """Number of distinct tiles."""
        return len(self._rows)

    def rows(self, dimensions: int) -> Rows:
        """Return one tile of each distinct vector."""
        distinct: dict[bytes, tuple[int, Vectors]] = {}
        for identifier, vector in self._rows.values():
            distinct.setdefault(vector.tobytes(), (identifier, vector))
        ids = np.array([identifier for identifier, _ in distinct.values()], np.uint64)
        vectors = np.array([vector for _, vector in distinct.values()], np.float32)
        return Rows(ids, vectors.reshape(len(ids), dimensions))


def take_samples(
    artifacts: Artifacts,
    rows: Sequence[BlockRow],
    *,
    added: NDArray[np.uint64],
    size: int,
    on_block: Callable[[Block], object] = lambda _: None,
) -> tuple[TileSample, TileSample]:
    """Return a sample of the rows that a delta did not add, and one of those that it did.

    `on_block` is called with each block that was read.
    """
    samples, added = (TileSample(size), TileSample(size)), np.sort(added)
    for row in rows:
        block = read_block(row, artifacts.read)
        first, last = np.searchsorted(added, block.ids[:1]), np.searchsorted(added, block.ids[-1:], "right")
        # Most blocks have no added row.
        if (first < last).any():
            new = np.isin(block.ids, added)
            samples[0].offer(block, ~new)
            samples[1].offer(block, new)
        else:
            samples[0].offer(block)
        on_block(block)
    return samples


def recall(index: DescriptorIndex, sample: Rows, artifacts: Artifacts, rows: Sequence[BlockRow]) -> float:
    """Return the fraction of rows that are found first, or whose equal is; 1 if there are no rows."""
    if not len(sample):
        return 1.0
    with _multiplied_matrices():
        _, ids = index.search(sample.vectors, 1)
    found, wanted = ids[:, 0], sample.ids.astype(np.int64)
    equal = _vectors_of(set(found[found != wanted].tolist()), artifacts, rows)
    right = [
        there == own or equal.get(there) == vector.tobytes()
        for there, own, vector in zip(found.tolist(), wanted.tolist(), sample.vectors, strict=True)
    ]
    return float(np.mean(right))


@contextmanager
def _multiplied_matrices() -> Iterator[None]:
    """Let FAISS compare the rows of a flat index with all queries by multiplying matrices.

    By itself version 1.15 compares pair by pair where queries times dimensions are fewer than 128,000, which takes a
    processor three times as long. The setting is one of the whole process. Scores differ by rounding alone, so that
    other searches meanwhile find the same.
    """
    settings = import_library("faiss", "the check of the index").cvar
    with _faiss_setting:
        before = settings.distance_compute_blas_threshold
        try:
            settings.distance_compute_blas_threshold = 1
            yield
        finally:
            settings.distance_compute_blas_threshold = before


def _vectors_of(ids: set[int], artifacts: Artifacts, rows: Sequence[BlockRow]) -> dict[int, bytes]:
    """Return the vectors of some rows, as bytes."""
    places = [tile_of(identifier) for identifier in ids if identifier >= 0]
    cells = {(zoom, x >> CELL_SHIFT, y >> CELL_SHIFT) for zoom, x, y, _ in places}
    vectors: dict[int, bytes] = {}
    for row in rows:
        if (row.zoom, row.cell_x, row.cell_y) in cells:
            block = read_block(row, artifacts.read)
            pairs = zip(block.ids.tolist(), block.vectors, strict=True)
            vectors |= {identifier: vector.tobytes() for identifier, vector in pairs if identifier in ids}
    return vectors
