"""The ports: the parts that do the work, chosen once in the composition root."""

from collections.abc import Callable, Mapping
from pathlib import Path

from pipeline.engines.port import EngineCompiler
from pipeline.index.faiss_builder import FaissIndexBuilder
from pipeline.progress import Progress
from pipeline.request.request import BuildRequest
from pipeline.tiles.tile import TileMetadataStore
from store.base.clock import Clock
from store.base.valueclass import valueclass

FreeBytes = Callable[[Path], int]
"""How many bytes this user may still write to the file system of a folder."""


@valueclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """The parts that do the work.

    Attributes:
        compiler_for: Returns the compiler for a request.
        stand_in: Compiles for this machine a network whose engine is for another.
        source_for: Opens the tile source of a request.
        index: Builds indexes.
        progress: Receives progress reports.
        clock: Where times come from.
        host: Facts about this machine, recorded and never part of an identity.
        free_bytes: Returns how many bytes may still be written to a folder's file system.
    """

    compiler_for: Callable[[BuildRequest], EngineCompiler]
    stand_in: EngineCompiler
    source_for: Callable[[BuildRequest], TileMetadataStore]
    index: FaissIndexBuilder
    progress: Progress
    clock: Clock
    host: Mapping[str, object]
    free_bytes: FreeBytes
