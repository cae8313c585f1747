"""Pass the rows of blocks to an index in a fixed order and in fixed chunks, however blocks are cut. Pure.

- Rows are in the order of the cells (zoom, cell x, cell y) and, within a cell, of the ids.
- They are in chunks whose length depends on the dimensions only: one call with 15,000 rows builds another
  graph than 15 calls with 1,000.
- Training uses every k-th row.
"""

from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.index.plan import MIN_TRAINING_ROWS, index_error
from store.formats.descriptor_block import Block

Vectors = NDArray[np.float32]

_CHUNK_ROWS: Final = 16_384
_CHUNK_BYTES: Final = 64 << 20
_TRAINING_BYTES: Final = 512 << 20


def chunk_rows(dimensions: int) -> int:
    """Return how many rows are added at a time: 16,384, or as many as 64 MiB hold. Part of the recipe."""
    return max(1, min(_CHUNK_ROWS, _CHUNK_BYTES // (4 * dimensions)))


def checked_blocks(rows: Iterable[Block], dimensions: int) -> Iterator[Block]:
    """Yield the blocks after checking their order. With ascending cells no id can occur in two blocks."""
    previous: tuple[int, int, int] | None = None
    for block in rows:
        if previous is not None and block.cell <= previous:
            raise index_error(
                f"expected blocks in ascending order of their cells, found {block.cell} after {previous}",
                "this is a fault in C10; report it",
            )
        if block.dimensions != dimensions:
            raise index_error(
                f"expected descriptors of {dimensions} numbers, found {block.dimensions} in cell {block.cell}",
                "build again: blocks of two vector spaces are mixed",
            )
        if np.any(block.ids[1:] <= block.ids[:-1]):
            raise index_error(
                f"expected ids without repetition, found others in cell {block.cell}",
                "build again with the damaged block collected",
            )
        previous = block.cell
        yield block


def row_chunks(blocks: Iterable[Block], dimensions: int) -> Iterator[tuple[NDArray[np.int64], Vectors]]:
    """Yield the rows of all blocks in chunks of a fixed length (the last may be shorter), in one buffer."""
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
    """Return every k-th row, at most 512 MiB."""
    if iter(rows) is rows:
        raise index_error(
            "expected blocks that can be read twice, found an iterator", "this is a fault in C10; report it"
        )
    most = max(MIN_TRAINING_ROWS, _TRAINING_BYTES // (4 * dimensions))
    stride = -(-count // most)
    taken: list[Vectors] = []
    seen = 0
    for block in checked_blocks(rows, dimensions):
        taken.append(np.array(block.vectors[-seen % stride :: stride]))
        seen += block.rows
    sample: Vectors = np.concatenate(taken)
    return sample
