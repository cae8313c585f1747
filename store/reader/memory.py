"""How much memory an open flight cache holds, by part."""

from collections.abc import Iterable
from itertools import chain

from store.base.valueclass import valueclass
from store.manifest.manifest import Manifest
from store.manifest.roles import DELTA, WHOLE
from store.reader.artifact_files import ArtifactFiles
from store.reader.places.level_table import LevelTable


@valueclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes of memory that a flight cache holds.

    Attributes:
        engines: Files of the networks, in sealed memory. What their libraries make of them is not known here:
            ONNX Runtime holds the weights a second time, and the activations of a frame.
        index: Files of the index, in sealed memory; a flat one is searched there, a graph is copied once more.
        vectors: Vectors of the chunks, which `locate` compares.
        rounded: Their copy in 8 bits, of levels of many chunks.
        places: Ids and places of the chunks, and when they were captured.
        tables: Tile table, calibration, golden answers and what else was read of the cache.
    """

    engines: int = 0
    index: int = 0
    vectors: int = 0
    rounded: int = 0
    places: int = 0
    tables: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.engines + self.index + self.vectors + self.rounded + self.places + self.tables


def memory_of(
    manifest: Manifest, files: ArtifactFiles, levels: Iterable[LevelTable], packs: Iterable[bytes]
) -> Memory:
    """Add up what was read of a cache.

    Args:
        manifest: Its manifest.
        files: Its files.
        levels: The chunks that were loaded; a level that occurs twice counts once.
        packs: What was read of the packs of carried tiles.
    """
    sizes = files.sealed_sizes()
    engines = {entry.artifact.sha256 for entry in manifest.engines}
    index = {ref.sha256 for role, ref in manifest.artifacts() if role in {WHOLE, DELTA}}
    tables = [*{id(table): table for table in levels}.values()]
    rest = (size for digest, size in sizes.items() if digest not in engines | index)
    return Memory(
        engines=sum(sizes.get(digest, 0) for digest in engines),
        index=sum(sizes.get(digest, 0) for digest in index),
        vectors=sum(table.vectors.nbytes for table in tables),
        rounded=sum(table.rounded.size for table in tables if table.rounded is not None),
        places=sum(
            column.nbytes
            for table in tables
            for column in (table.ids, table.middles, table.points, table.captured)
        ),
        tables=sum(chain(rest, map(len, packs))),
    )
