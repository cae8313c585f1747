"""Find existing descriptors by tile digest: the rows of a vector space's blocks.

At first only the key columns of each block are read, and of them only the wanted digests are kept. A whole block
is read, and checked against its digest, when one of its rows is needed. Rows of a damaged block are dropped, so
that their tiles are embedded again.
"""

import os
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.embed.cells import Row, count_distinct
from store.base.values import ArtifactRef
from store.disk.artifacts import Artifacts
from store.domain.events import CellEmbedded
from store.errors import ArtifactError, CacheUnusableError, ErrorKind
from store.files.regular_file import open_regular
from store.formats import descriptor_block
from store.formats.descriptor_block import Block, BlockError

_OPEN_BLOCKS = 16


class ReusableRows:
    """The existing rows of some digests; `in` tells whether a digest has one.

    Args:
        artifacts: Holds the blocks.
        cells: The blocks to look into; of several rows of a digest, the last counts.
        wanted: The digests, uint8 [n, 32].
    """

    def __init__(
        self, artifacts: Artifacts, cells: Sequence[CellEmbedded], wanted: NDArray[np.uint8]
    ) -> None:
        self._artifacts, self._distinct = artifacts, count_distinct(wanted)
        self._refs = [cell.block for cell in cells]
        self._locations: dict[bytes, tuple[int, int]] = {}
        self._open: OrderedDict[int, Block] = OrderedDict()
        if not (cells and len(wanted)):
            return
        joined, starts = wanted.tobytes(), np.sort(_starts(wanted))
        sought = {joined[at : at + 32] for at in range(0, len(joined), 32)}
        for number, ref in enumerate(self._refs):
            digests = _read_digests(artifacts, ref)
            found = _starts(digests)
            near = starts[np.minimum(np.searchsorted(starts, found), len(starts) - 1)] == found
            for row in np.flatnonzero(near).tolist():
                if (digest := digests[row].tobytes()) in sought:
                    self._locations[digest] = number, row

    def __len__(self) -> int:
        """Return the number of distinct digests."""
        return len(self._locations)

    @property
    def missing(self) -> int:
        """How many distinct digests have no row."""
        return self._distinct - len(self)

    def __contains__(self, digest: object) -> bool:
        """Tell whether a tile digest, in hexadecimal, has a row."""
        return isinstance(digest, str) and bytes.fromhex(digest) in self._locations

    def rows(self, digests: Iterable[str]) -> dict[str, Row]:
        """Return the existing rows of some digests."""
        found: dict[str, Row] = {}
        for digest in digests:
            key = bytes.fromhex(digest)
            if key not in self._locations:
                continue
            number, row = self._locations[key]
            block = self._block(number)
            if block is None:
                del self._locations[key]
            else:
                found[digest] = Row(block.vectors[row].copy(), float(block.texture[row]))
        return found

    def _block(self, number: int) -> Block | None:
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        try:
            block = descriptor_block.decode(self._artifacts.read(self._refs[number]))
        except (ArtifactError, BlockError):
            return None
        except CacheUnusableError as error:
            if error.kind is ErrorKind.RESOURCES:
                raise
            return None
        self._open[number] = block
        if len(self._open) > _OPEN_BLOCKS:
            self._open.popitem(last=False)
        return block


def _starts(digests: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return the first eight bytes of some digests as numbers."""
    return np.ascontiguousarray(digests[:, :8]).view(np.uint64)[:, 0]


def _read_digests(artifacts: Artifacts, ref: ArtifactRef) -> NDArray[np.uint8]:
    """Return the digests of a block from its key columns, uint8 [n, 32]; none if the file is no block."""
    try:
        with os.fdopen(open_regular(artifacts.layout.artifact_file(ref.sha256)), "rb", buffering=0) as file:
            header = descriptor_block.decode_header(file.read(descriptor_block.HEADER_SIZE))
            file.seek(0)
            _, digests = descriptor_block.decode_keys(file.read(descriptor_block.key_size(header.rows)))
    except (OSError, BlockError):
        return np.zeros((0, 32), np.uint8)
    return digests
