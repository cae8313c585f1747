"""Read the tables that list files by cell: the block table, and the pack table where tiles are carried."""

from collections.abc import Iterator
from typing import NamedTuple

from store.base.values import ArtifactRef
from store.disk.artifacts import Artifacts
from store.domain.state import Build
from store.formats.tables import decode_blocks, decode_packs
from store.manifest.manifest import Manifest
from store.manifest.roles import PACKS, TABLE


class CellTable(NamedTuple):
    """A table of files by cell: its role in a manifest, and where it is."""

    role: str
    ref: ArtifactRef

    def files(self, artifacts: Artifacts) -> tuple[tuple[str, ArtifactRef], ...]:
        """Return (role, reference) of each block or pack that it lists.

        Raises:
            ArtifactError: The table is missing or damaged.
        """
        kind, decode = ("block", decode_blocks) if self.role == TABLE else ("pack", decode_packs)
        rows = decode(artifacts.read(self.ref))
        return tuple(found for row in rows for found in row.files(kind))


def tables_of_manifest(manifest: Manifest) -> Iterator[CellTable]:
    """Yield the tables that a manifest names."""
    yield CellTable(TABLE, manifest.index.blocks)
    if manifest.carried is not None:
        yield CellTable(PACKS, manifest.carried.packs)


def tables_of_build(build: Build) -> Iterator[CellTable]:
    """Yield the tables that a build has recorded so far."""
    if build.index is not None:
        yield CellTable(TABLE, build.index.blocks)
    if build.carried is not None:
        yield CellTable(PACKS, build.carried.table)
