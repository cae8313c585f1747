"""Descriptors that exist already: the rows of a vector space's blocks, found by tile digest.

Of every block only the key columns are read at first. A block's vectors are read, whole and checked against
its digest, when a row of it is asked for; a block that turns out to be damaged is forgotten, and its tiles are
embedded again.
"""

import os
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from pipeline.embed.cells import Row
from store.base.values import ArtifactRef
from store.disk.artifacts import Artifacts
from store.domain.events import CellEmbedded
from store.errors import ArtifactError, CacheUnusableError, ErrorKind
from store.files.regular_file import open_regular
from store.formats import descriptor_block
from store.formats.descriptor_block import Block, BlockError

_OPEN_BLOCKS = 16


class KnownRows:
    """Rows by tile digest; `in` tells whether a digest's descriptor exists."""

    def __init__(self, artifacts: Artifacts, cells: Sequence[CellEmbedded]) -> None:
        self._artifacts = artifacts
        self._refs = [cell.block for cell in cells]
        self._where: dict[bytes, tuple[int, int]] = {}
        self._open: OrderedDict[int, Block] = OrderedDict()
        for number, ref in enumerate(self._refs):
            for row, digest in enumerate(_digests(artifacts, ref)):
                self._where[digest] = number, row

    def __len__(self) -> int:
        """Number of distinct digests."""
        return len(self._where)

    def __contains__(self, digest: object) -> bool:
        """Whether the descriptor of a tile digest, as hexadecimal digits, exists."""
        return isinstance(digest, str) and bytes.fromhex(digest) in self._where

    def rows(self, digests: Iterable[str]) -> dict[str, Row]:
        """Return the rows of those digests that exist."""
        found: dict[str, Row] = {}
        for digest in digests:
            place = self._where.get(bytes.fromhex(digest))
            block = None if place is None else self._block(place[0])
            if block is None or place is None:
                self._where.pop(bytes.fromhex(digest), None)
                continue
            found[digest] = Row(block.vectors[place[1]].copy(), float(block.texture[place[1]]))
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


def _digests(artifacts: Artifacts, ref: ArtifactRef) -> list[bytes]:
    """Read the key columns alone; nothing if the file is no block."""
    try:
        with os.fdopen(open_regular(artifacts.layout.artifact(ref.sha256)), "rb", buffering=0) as file:
            header = descriptor_block.decode_header(file.read(descriptor_block.HEADER_SIZE))
            file.seek(0)
            _, digests = descriptor_block.decode_keys(file.read(descriptor_block.key_size(header.rows)))
    except (OSError, BlockError):
        return []
    return [bytes(row) for row in digests]
