"""What all archive files have in common: the cached list of their tiles, and their errors."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from shlex import quote
from typing import ClassVar

import numpy as np

from pipeline.errors import ErrorKind, RequestError, TileError
from pipeline.progress import NoProgress, Progress
from pipeline.request.geometry import BoxE7
from pipeline.tiles.digest_cache import Fingerprint, shows_changes
from pipeline.tiles.file_kinds import kind_of_file, what_it_is
from pipeline.tiles.grid import TileRange, tile_ranges
from pipeline.tiles.sources.archive_cache import ArchiveCache, TileListing
from pipeline.tiles.sources.read_tile import source_changed
from pipeline.tiles.sources.row_order import bounds_warnings, misplaced_tiles, rows_are_mirrored
from pipeline.tiles.tile import Locator, ZoomRange
from pipeline.tiles.tile_columns import TileColumns


class TileArchive(ABC):
    """A source that is one file. `open_source` in the registry explains arguments and errors."""

    kind: ClassVar[str]
    """Name of the kind of source, the first part of locators."""
    stored_from_south: ClassVar[bool] = False
    """Whether the format demands that rows are counted from the south."""

    _fingerprint: Fingerprint
    _settings = ""
    """What else decides the bytes of the tiles."""
    progress: Progress = NoProgress()
    """Shows how far it is in hashing tiles; `open_source` sets it."""

    def __init__(
        self, spec: str, *, base: Path, digest_cache_folder: Path | None, now_ns: Callable[[], int]
    ) -> None:
        self.name = spec
        self._path = (base / spec).resolve()
        self._digest_cache_folder = digest_cache_folder
        self._now_ns = now_ns

    def query_by_bbox(self, bbox_e7: BoxE7, zoom: ZoomRange) -> TileColumns:
        """See `TileMetadataStore.query_by_bbox`."""
        cache = ArchiveCache(
            self._digest_cache_folder if self._shows_changes() else None,
            subject=f"{self.kind}:{self._path}{self._settings}",
            fingerprint=self._fingerprint,
            now_ns=self._now_ns,
        )
        ranges = tile_ranges(bbox_e7, zoom)
        self._require_unchanged()
        listing = cache.known(ranges)
        if missing := cache.missing(ranges):
            listing = self._list_tiles(missing).union(listing)
            self._require_row_order(listing, ranges)
            self._require_unchanged()
            cache.store(ranges, listing)
        return TileColumns.from_columns(
            listing.places,
            digests=listing.digests,
            sizes=listing.keys[:, 1],
            locator_of=lambda row: self._locator(listing, row),
            warnings=(
                (*self._warnings(), *bounds_warnings(self.name, self._announced_box(), listing.places))
                if len(listing.keys)
                else misplaced_tiles(
                    ranges,
                    self._holds_any,
                    self._announced_box(),
                    stored_from_south=self.stored_from_south,
                )
            ),
        )

    @abstractmethod
    def _list_tiles(self, ranges: Sequence[TileRange]) -> TileListing:
        """List and hash every tile of some disjoint rectangles."""

    @abstractmethod
    def _locator(self, listing: TileListing, row: int) -> Locator:
        """Return the locator of one tile of a list."""

    def _warnings(self) -> tuple[str, ...]:
        """Return what is slow or odd about the archive, one sentence each."""
        return ()

    @abstractmethod
    def _announced_box(self) -> BoxE7 | None:
        """Return the bounds that the archive announces, apart from its tiles."""

    @abstractmethod
    def _holds_any(self, ranges: Sequence[TileRange]) -> bool:
        """Whether the archive has a tile in some rectangles."""

    def _require_row_order(self, listing: TileListing, wanted: Sequence[TileRange]) -> None:
        if not len(listing.keys):
            return
        deepest = int(listing.places[:, 0].max())
        wanted = [part for part in wanted if part.z == deepest]
        if rows_are_mirrored(self._announced_box(), wanted, self._holds_any):
            raise bad_archive(
                self._path,
                "tiles inside the bounds that it announces",
                "them where these are mirrored at the equator: its rows are counted from the other end",
                "make it again from the original tiles, and say there whether their rows are XYZ or TMS",
            )

    def _shows_changes(self) -> bool:
        """Whether a later change must show in the fingerprint."""
        return bool(shows_changes(np.array([self._fingerprint]), lambda _: self._path).all())

    def _fingerprint_now(self) -> Fingerprint:
        """Return the fingerprint; raise `OSError` if the archive is gone."""
        return Fingerprint.of(self._path.stat())

    def _require_unchanged(self) -> None:
        try:
            now = self._fingerprint_now()
        except OSError:
            now = None
        if now != self._fingerprint:
            message = f"{self._path}: expected it to stay the same while it is used, found it changed"
            raise source_changed(str(self._path), message)


def bad_archive(
    path: str | Path, expected: str, found: str, hint: str = "fetch or export the archive again"
) -> TileError:
    """Return the error for a damaged archive."""
    message = f"{path}: expected {expected}, found {found}"
    return TileError(message, hint=hint, kind=ErrorKind.BAD_ARCHIVE, subject=str(path))


def foreign_file(path: str | Path, expected: str, start: bytes) -> TileError:
    """Return the error for a file that is no archive of the expected kind, with what to do about what it is."""
    name = Path(path).name
    hints = {
        "gzip": f"unpack it: gunzip -c {quote(name)} > COPY, and name the copy in tiles.source",
        "zstd": f"unpack it: zstd -d {quote(name)} -o COPY, and name the copy in tiles.source",
        "a zip file": f"unpack it: unzip {quote(name)}, and name what is inside in tiles.source",
        "an SQLite database, such as MBTiles": "give its name the ending .mbtiles, also in tiles.source",
        "a PMTiles archive": "give its name the ending .pmtiles, also in tiles.source",
        "a TIFF image": "give its name the ending .tif, also in tiles.source",
        "a web page": "look at it in a browser: a server sent it in place of the archive; then fetch the archive again",
        "a pointer of Git LFS": "fetch what it points to: git lfs pull",
    }
    hint = hints.get(kind_of_file(start), "fetch or export the archive again")
    return bad_archive(path, expected, what_it_is(start), hint)


def unsupported_archive(path: str | Path, expected: str, found: str, hint: str) -> TileError:
    """Return the error for an intact archive of a kind that C10 does not read."""
    message = f"{path}: expected {expected}, found {found}"
    return TileError(message, hint=hint, kind=ErrorKind.UNSUPPORTED_ARCHIVE, subject=str(path))


def unreadable_archive(path: Path, kind: str, error: OSError) -> RequestError:
    """Return the error for an archive that cannot be opened or read."""
    folder = os.path.isdir(path)  # noqa: PTH112 - a path that may not be examined is no error here
    found = "a folder" if folder else error.strerror or error
    return RequestError(
        f"{path}: expected a readable {kind} archive, found {found}",
        hint=f"write {path.name}/{{z}}/{{x}}/{{y}}.png if it holds tiles"
        if folder
        else "check the path and its permissions; it starts from the request's folder",
        kind=ErrorKind.SOURCE_UNREADABLE,
        subject=str(path),
    )
