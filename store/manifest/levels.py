"""Parse the levels of chunks that the inputs of a build name. Pure.

Where chunks of ground got the descriptors, a manifest has format 3: a program that knows only tiles would take
the ids of chunks for those of tiles.
"""

from collections.abc import Mapping
from typing import Any, Final

from store.base import validators
from store.base.geometry.level import Level
from store.base.valueclass import valueclass

CHUNKS: Final = 3
"""Format of a manifest whose descriptors are those of chunks, or that carries tiles."""

MAX_LEVELS: Final = 16


@valueclass(frozen=True, slots=True, kw_only=True)
class ChunkLevel:
    """A level, and the edge in pixels of the tiles that its chunks are cut from."""

    level: Level
    tile_edge: int

    def to_document(self) -> dict[str, int]:
        """Return its entry in the inputs of a build."""
        level = self.level
        return {"zoom": level.zoom, "k": level.k, "m": level.m, "tile_edge": self.tile_edge}


def parse_levels(inputs: Mapping[str, Any]) -> tuple[ChunkLevel, ...]:
    """Return the levels in the inputs of a build, by rising side; none where tiles got the descriptors.

    Raises:
        KeyError, TypeError, ValueError: They are not as `docs/format.md` says.
    """
    if "chunks" not in inputs:
        return ()
    named = inputs["chunks"]
    if named.keys() != {"levels"} or not 1 <= len(named["levels"]) <= MAX_LEVELS:
        raise ValueError(f"expected 1 to {MAX_LEVELS} levels of chunks, found {named!r:.100}")
    levels = tuple(map(_parse_level, named["levels"]))
    if len({each.level for each in levels}) != len(levels):
        raise ValueError("a level of chunks occurs twice")
    return levels


def _parse_level(document: Mapping[str, Any]) -> ChunkLevel:
    if document.keys() != {"zoom", "k", "m", "tile_edge"}:
        raise ValueError(f"a level of chunks holds {sorted(document)}")
    zoom, k, m, edge = (validators.count(document[name]) for name in ("zoom", "k", "m", "tile_edge"))
    if not edge:
        raise ValueError("a level of chunks has tiles of 0 pixels")
    return ChunkLevel(level=Level(zoom, k, m), tile_edge=edge)
