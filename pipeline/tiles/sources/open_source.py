"""The kinds of tile source, one row each, and how one is opened; the module of a kind is imported then.

Whatever knows the kinds reads this table: the request's `tiles.source`, messages, `c10 doctor`, and the reading of one
tile by its locator in any process (`pipeline.tiles.sources.read_tile`).
"""

import importlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from pipeline.errors import RequestError
from pipeline.tiles.tile import Locator, TileMetadataStore


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceKind:
    """One kind of tile source.

    Attributes:
        name: The first part of the locators of its tiles.
        written: How requests name such a source, for messages.
        suffixes: Endings of its files, in small letters; none for a folder of tiles, which is known by its braces.
        source: "module:name" of its `TileMetadataStore`. Called with what the request says, and by name `base`,
            `digest_cache_folder` and `now_ns` as `open_source` has them.
        reader: "module:name" of what returns the encoded bytes of a tile. Called with the rest of its locator.
        locator: Types of that rest: an absolute path, then what finds the tile in it.
        packages: Python distributions that it needs beyond those that every command needs, for `c10 doctor`.
    """

    name: str
    written: str
    suffixes: tuple[str, ...] = ()
    source: str
    reader: str
    locator: tuple[type, ...]
    packages: tuple[str, ...] = ()

    def recognises(self, spec: str) -> bool:
        """Whether a request's `tiles.source` names a source of this kind."""
        return Path(spec).suffix.lower() in self.suffixes if self.suffixes else "{" in spec

    def read(self, locator: Locator) -> bytes | None:
        """The bytes of a tile; None if its locator is malformed."""
        rest = locator[1:]
        if len(rest) != len(self.locator) or not all(map(isinstance, rest, self.locator)):
            return None
        return cast("bytes", _named(self.reader)(*rest))


SOURCES: Final[Mapping[str, SourceKind]] = {
    row.name: row
    for row in (
        SourceKind(
            name="file",
            written="DIR/{z}/{x}/{y}.EXT",
            source="pipeline.tiles.sources.xyz:XYZFolder",
            reader="pipeline.tiles.sources.read_tile:read_tile_file",
            locator=(str,),
        ),
        SourceKind(
            name="mbtiles",
            written="X.mbtiles",
            suffixes=(".mbtiles",),
            source="pipeline.tiles.sources.mbtiles:MBTilesArchive",
            reader="pipeline.tiles.sources.mbtiles:read_located",
            locator=(str, int, int, int, int),
        ),
        SourceKind(
            name="pmtiles",
            written="X.pmtiles",
            suffixes=(".pmtiles",),
            source="pipeline.tiles.sources.pmtiles:PMTilesArchive",
            reader="pipeline.tiles.sources.read_tile:read_part",
            locator=(str, int, int),
            packages=("pmtiles",),
        ),
    )
}
"""Name to kind; of two that recognise a source, the first counts."""


def kind_of(spec: str) -> SourceKind | None:
    """The kind of source that a request's `tiles.source` names, if it is one."""
    return next((kind for kind in SOURCES.values() if kind.recognises(spec)), None)


def open_source(
    spec: str,
    base: Path,
    *,
    digest_cache_folder: Path | None = None,
    now_ns: Callable[[], int] = time.time_ns,
) -> TileMetadataStore:
    """Open a tile source.

    Args:
        spec: As a kind of `SOURCES` is written.
        base: Folder that a relative spec starts from.
        digest_cache_folder: Where tile digests are remembered between builds; None remembers nothing.
        now_ns: Wall clock in nanoseconds since 1970, the one that stamps files.

    Raises:
        RequestError: when the spec is of no kind, or what it names is not there or not readable.
        TileError: when the archive is damaged, unsuitable or still being written.
    """
    kind = kind_of(spec)
    if kind is None:
        *others, last = (each.written for each in SOURCES.values())
        raise RequestError(
            f"tiles.source: expected {', '.join(others)} or {last}, found {spec!r}",
            hint="for a folder of tiles write the three braces out",
            subject=spec,
        )
    opened = _named(kind.source)(spec, base=base, digest_cache_folder=digest_cache_folder, now_ns=now_ns)
    return cast("TileMetadataStore", opened)


def _named(place: str) -> Callable[..., Any]:
    module, _, name = place.partition(":")
    return cast("Callable[..., Any]", getattr(importlib.import_module(module), name))
