"""The rows of an index in the order and the portions that its recipe fixes, wherever blocks begin and end. Pure.

- Rows come in the order of the cells (zoom, cell x, cell y) and, within a cell, of the ids.
- They come in chunks whose length follows from the dimensions alone: a graph grown by one call of 15,000 rows is not
  the one grown by 15 calls of 1,000.
- Training takes every k-th row.
"""

from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.index.plan import LEAST_TRAINING_ROWS, failed
from store.formats.descriptor_block import Block

Vectors = NDArray[np.float32]

_CHUNK_ROWS: Final = 16_384
_CHUNK_BYTES: Final = 64 << 20
_TRAINING_BYTES: Final = 512 << 20


def chunk_rows(dimensions: int) -> int:
    """Return how many rows are added at a time: 16,384, or fewer if they would pass 64 MiB. Part of the recipe."""
    return max(1, min(_CHUNK_ROWS, _CHUNK_BYTES // (4 * dimensions)))


def in_order(rows: Iterable[Block], dimensions: int) -> Iterator[Block]:
    """Pass the blocks on. Ascending cells cannot repeat an id, since a block holds no other cell's."""
    previous: tuple[int, int, int] | None = None
    for block in rows:
        if previous is not None and block.cell <= previous:
            raise failed(
                f"expected blocks in ascending order of their cells, found {block.cell} after {previous}",
                "this is a fault in C10; report it",
            )
        if block.dimensions != dimensions:
            raise failed(
                f"expected descriptors of {dimensions} numbers, found {block.dimensions} in cell {block.cell}",
                "build again: blocks of two vector spaces are mixed",
            )
        if np.any(block.ids[1:] <= block.ids[:-1]):
            raise failed(
                f"expected ids without repetition, found others in cell {block.cell}",
                "build again with the damaged block collected",
            )
        previous = block.cell
        yield block


def chunks(blocks: Iterable[Block], dimensions: int) -> Iterator[tuple[NDArray[np.int64], Vectors]]:
    """Cut the rows of all blocks into chunks of a fixed length; the last one may be shorter. The buffer is reused."""
    size = chunk_rows(dimensions)
    vectors = np.empty((size, dimensions), np.float32)
    ids = np.empty(size, np.int64)
    filled = 0
    for block in blocks:
        taken = 0
        while taken < block.rows:
            step = min(size - filled, block.rows - taken)
            vectors[filled : filled + step] = block.vectors[taken : taken + step]
            ids[filled : filled + step] = block.ids[taken : taken + step].astype(np.int64)
            filled += step
            taken += step
            if filled == size:
                yield ids, vectors
                filled = 0
    if filled:
        yield ids[:filled], vectors[:filled]


def training_rows(rows: Iterable[Block], count: int, dimensions: int) -> Vectors:
    """Return every k-th row, as many as fit 512 MiB."""
    if iter(rows) is rows:
        raise failed(
            "expected blocks that can be read twice, found an iterator", "this is a fault in C10; report it"
        )
    most = max(LEAST_TRAINING_ROWS, _TRAINING_BYTES // (4 * dimensions))
    stride = -(-count // most)
    taken: list[Vectors] = []
    seen = 0
    for block in in_order(rows, dimensions):
        taken.append(np.array(block.vectors[-seen % stride :: stride]))
        seen += block.rows
    sample: Vectors = np.concatenate(taken)
    return sample
