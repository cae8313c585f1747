"""Read the block of a cell that a block table lists, joined of the blocks of its networks. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce

import numpy as np

from store.base.joined_vectors import concatenate
from store.base.values import ArtifactRef
from store.formats import descriptor_block
from store.formats.descriptor_block import Block, BlockError, Bytes
from store.formats.tables import BlockRow


def read_block(row: BlockRow, read: Callable[[ArtifactRef], Bytes]) -> Block:
    """Return the block of a cell with the descriptors that the index holds.

    Args:
        row: Its row in the block table.
        read: Returns the verified bytes of an artifact.

    Raises:
        BlockError: A block is damaged, or those of the networks do not belong together.
        Exception: As raised by `read`.
    """
    blocks = [descriptor_block.decode(read(ref)) for ref in row.refs]
    return join_blocks(blocks, row.weights) if len(blocks) > 1 else blocks[0]


def join_blocks(blocks: Sequence[Block], weights: Sequence[int]) -> Block:
    """Return one block of those of several networks: a unit that one of them skipped has no row.

    Raises:
        BlockError: They are of several cells, or show other units under the same id.
    """
    if len({block.cell for block in blocks}) > 1:
        raise BlockError(f"expected blocks of one cell, found {sorted({block.cell for block in blocks})}")
    ids = reduce(
        lambda kept, block: np.intersect1d(kept, block.ids, assume_unique=True), blocks, blocks[0].ids
    )
    chosen = [np.isin(block.ids, ids, assume_unique=True) for block in blocks]
    digests = [block.digests[rows] for block, rows in zip(blocks, chosen, strict=True)]
    if any((other != digests[0]).any() for other in digests[1:]):
        raise BlockError(f"expected blocks of the same units in cell {blocks[0].cell}, found others")
    vectors = concatenate([block.vectors[rows] for block, rows in zip(blocks, chosen, strict=True)], weights)
    return replace(
        blocks[0],
        dimensions=vectors.shape[1],
        ids=ids,
        digests=digests[0],
        vectors=vectors,
        texture=blocks[0].texture[chosen[0]],
    )
