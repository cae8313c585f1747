"""The registry of tile sources: one row for each kind, whose module is imported when a source is opened.

The request's `tiles.source`, messages, `c10 doctor` and `pipeline.tiles.sources.read_tile` use this table.
"""

import importlib
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, cast

from pipeline.errors import RequestError
from pipeline.progress import Progress
from pipeline.request.files import hint_for_path
from pipeline.tiles.tile import Locator, TileMetadataStore
from store.base.valueclass import valueclass


@valueclass(frozen=True, slots=True, kw_only=True)
class SourceKind:
    """One kind of tile source.

    Attributes:
        name: The first part of the locators of its tiles.
        written: How a request names such a source, for messages.
        suffixes: Endings of its files, in lower case; none for a folder of tiles, recognised by its braces.
        source: "module:name" of its `TileMetadataStore`; takes the arguments of `open_source`, `base` by
            name.
        reader: "module:name" of the function that returns a tile's encoded bytes; takes the locator without
            the name.
        locator: Types of those arguments: an absolute path, then what finds the tile in it.
        packages: Python distributions that only this kind needs, for `c10 doctor`.
        versions: "module:name" of the function that returns the versions of libraries that decide the bytes of
            its tiles, where any do.
    """

    name: str
    written: str
    suffixes: tuple[str, ...] = ()
    source: str
    reader: str
    locator: tuple[type, ...]
    packages: tuple[str, ...] = ()
    versions: str = ""

    def recognises(self, spec: str) -> bool:
        """Whether a request's `tiles.source` names a source of this kind."""
        if not self.suffixes:
            return "{" in spec
        # A table may be named after the file.
        return re.sub(r"(\.gpkg):[^/]+$", r"\1", spec.lower()).endswith(self.suffixes)

    def read(self, locator: Locator) -> bytes | None:
        """Return the bytes of a tile; None if its locator is malformed."""
        arguments = locator[1:]
        if len(arguments) != len(self.locator) or not all(map(isinstance, arguments, self.locator)):
            return None
        return cast("bytes", _import_named(self.reader)(*arguments))


SOURCES: Final[Mapping[str, SourceKind]] = {
    row.name: row
    for row in (
        SourceKind(
            name="file",
            written="DIR, DIR/{z}/{x}/{y}.EXT",
            source="pipeline.tiles.sources.xyz:XYZFolder",
            reader="pipeline.tiles.sources.read_tile:read_tile_file",
            locator=(str,),
        ),
        SourceKind(
            name="mbtiles",
            written="X.mbtiles",
            suffixes=(".mbtiles",),
            source="pipeline.tiles.sources.archives.mbtiles:MBTilesArchive",
            reader="pipeline.tiles.sources.archives.mbtiles:read_tile_blob",
            locator=(str, int, int, int, int),
        ),
        SourceKind(
            name="pmtiles",
            written="X.pmtiles",
            suffixes=(".pmtiles",),
            source="pipeline.tiles.sources.archives.pmtiles:PMTilesArchive",
            reader="pipeline.tiles.sources.read_tile:read_part",
            locator=(str, int, int),
            packages=("pmtiles",),
        ),
        SourceKind(
            name="gpkg",
            written="X.gpkg",
            suffixes=(".gpkg",),
            source="pipeline.tiles.sources.archives.geopackage:GeoPackageTiles",
            reader="pipeline.tiles.sources.archives.geopackage:read_tile_row",
            locator=(str, str, int),
        ),
        SourceKind(
            name="raster",
            written="X.tif",
            suffixes=(".tif", ".tiff"),
            source="pipeline.tiles.sources.raster:RasterMosaic",
            reader="pipeline.tiles.sources.raster:read_rendered",
            locator=(str, int, int, int),
            packages=("rasterio",),
            versions="pipeline.tiles.sources.raster_file:library_versions",
        ),
    )
}
"""Name to kind; if two recognise a source, the first is used."""


_PACKED: Final = frozenset({".gz", ".zip", ".zst", ".xz", ".bz2", ".tar", ".tgz", ".7z"})
_RASTER_FILES: Final = frozenset({".vrt", ".jp2", ".img", ".ecw", ".sid"})


def kind_of(spec: str) -> SourceKind | None:
    """Return the kind of source that a request's `tiles.source` names, if any."""
    return next((kind for kind in SOURCES.values() if kind.recognises(spec)), None)


def library_versions(spec: str | Sequence[str], base: Path) -> str:
    """Return the versions of the libraries that decide the bytes of a source's tiles; empty if none does."""
    kind = _kind_at(spec if isinstance(spec, str) else spec[0], base)
    return "" if kind is None or not kind.versions else str(_import_named(kind.versions)())


def open_source(
    spec: str | Sequence[str],
    base: Path,
    *,
    digest_cache_folder: Path | None = None,
    now_ns: Callable[[], int] = time.time_ns,
    progress: Progress | None = None,
) -> TileMetadataStore:
    """Open a tile source.

    Args:
        spec: The source as a request names it: `SourceKind.written`, a folder, or a list of GeoTIFF files.
        base: Folder that a relative spec starts from.
        digest_cache_folder: Keeps tile digests between builds; None keeps none.
        now_ns: Wall clock in nanoseconds since 1970, the one that stamps files.
        progress: Shows how many tiles are hashed, where the digest cache does not have them.

    Raises:
        RequestError: when the spec is of no kind, or the source is missing or not readable.
        TileError: when the archive is damaged, unsuitable or still being written.
    """
    specs = (spec,) if isinstance(spec, str) else tuple(spec)
    kinds = [_required_kind(each, base) for each in specs]
    for each, kind in zip(specs, kinds, strict=True):
        if len(specs) > 1 and kind is not SOURCES["raster"]:
            raise RequestError(
                f"tiles.source: expected only GeoTIFF files in a list, found {each!r}",
                hint="name one archive or folder of tiles",
                subject=each,
            )
    if kinds[0] is SOURCES["file"] and "{" not in specs[0]:
        # Empty is the folder itself, not that of the system.
        specs = (f"{specs[0].rstrip('/') if specs[0] else '.'}/{{z}}/{{x}}/{{y}}",)
    source = _import_named(kinds[0].source)(
        specs if len(specs) > 1 else specs[0],
        base=base,
        digest_cache_folder=digest_cache_folder,
        now_ns=now_ns,
    )
    source.progress = progress or source.progress
    return cast("TileMetadataStore", source)


def _required_kind(spec: str, base: Path) -> SourceKind:
    kind = _kind_at(spec, base)
    if kind is None:
        _require_path(spec, base)
        *others, last = (each.written for each in SOURCES.values())
        raise RequestError(
            f"tiles.source: expected {', '.join(others)} or {last}, found {spec!r}",
            hint=_hint_for(spec),
            subject=spec,
        )
    return kind


def _require_path(spec: str, base: Path) -> None:
    """Refuse what could only be the path of a file or folder, and is not there."""
    path = base / spec
    if hint_for_path(spec) is not None:
        return
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise RequestError(
            f"tiles.source: expected imagery that this user may read, found {spec}: {error.strerror}",
            hint="run as its owner, or fix the permissions of its folders",
            subject=spec,
        ) from error
    else:
        return
    import difflib  # noqa: PLC0415 - only errors need it

    start = "" if path == Path(spec) else f"; it starts from {base}"
    names = list[str]()
    with suppress(OSError):
        names = os.listdir(path.parent)  # noqa: PTH208
    near = difflib.get_close_matches(path.name, sorted(names), n=1)
    raise RequestError(
        f"tiles.source: expected imagery, found no such file or folder: {spec}",
        hint=f"did you mean {str(Path(spec).with_name(near[0]))!r}?" if near else f"correct the path{start}",
        subject=spec,
    )


def _kind_at(spec: str, base: Path) -> SourceKind | None:
    """Return the kind of source that a spec names; a folder by what is in it."""
    if "://" in spec or spec.startswith("~"):
        return None
    kind = kind_of(spec)
    # A path that may not be examined is no error here.
    if kind is not None or not os.path.isdir(base / spec):  # noqa: PTH112
        return kind
    raster, names = SOURCES["raster"], list[str]()
    with suppress(OSError):
        names = os.listdir(base / spec)  # noqa: PTH208
    has_tiles = any(name.isdecimal() for name in names)
    return raster if not has_tiles and any(map(raster.recognises, names)) else SOURCES["file"]


def _hint_for(spec: str) -> str:
    """Return what to do with a source of no kind."""
    if (hint := hint_for_path(spec)) is not None:
        return hint
    if Path(spec).suffix.lower() in _RASTER_FILES:
        return f"make a GeoTIFF of it: gdal_translate -of COG {spec} X.tif"
    unpack = "unpack it and name what is inside; " if Path(spec).suffix.lower() in _PACKED else ""
    return (
        f"{unpack}for a folder of tiles write its path, or also how they are named: DIR/{{z}}/{{x}}/{{y}}.png"
    )


def _import_named(path: str) -> Callable[..., Any]:
    module, _, name = path.partition(":")
    return cast("Callable[..., Any]", getattr(importlib.import_module(module), name))
