"""The ports: what does the work of a cache, chosen once in the composition root and handed on whole."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.engines.port import EngineCompiler
from pipeline.index.faiss_builder import FaissIndexBuilder
from pipeline.progress import Progress
from pipeline.request.request import BuildRequest
from pipeline.tiles.tile import TileMetadataStore
from store.base.clock import Clock

FreeBytes = Callable[[Path], int]
"""How many bytes this user may still write to the file system of a folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """What does the work.

    Attributes:
        compiler_for: Chooses the compiler of a request.
        stand_in: Compiles for this machine what the compiler of a request compiles for another.
        source_for: Opens the tile source of a request.
        index: Builds indexes.
        progress: Told how the work moves on.
        clock: Where times come from.
        host: Facts about this machine, for the record.
        free_bytes: Tells how much may still be written to a folder's file system.
    """

    compiler_for: Callable[[BuildRequest], EngineCompiler]
    stand_in: EngineCompiler
    source_for: Callable[[BuildRequest], TileMetadataStore]
    index: FaissIndexBuilder
    progress: Progress
    clock: Clock
    host: Mapping[str, object]
    free_bytes: FreeBytes
