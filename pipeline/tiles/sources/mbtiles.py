"""Tiles in an MBTiles archive (SQLite, specification 1.3): rows count from the south, so they are flipped here.

The database is opened immutable: SQLite then takes no lock and leaves no -wal, -shm or -journal file beside it. That
is honest only for a file at rest, so an archive with unmerged changes beside it is refused.
"""

import hashlib
import os
import sqlite3
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np

from pipeline.errors import ErrorKind, RequestError, TileError
from pipeline.request.geometry import BoxE7
from pipeline.tiles.archive_cache import ArchiveMemory, Listing
from pipeline.tiles.digest_cache import Fingerprint
from pipeline.tiles.grid import TileRange, tile_box_e7, tile_ranges
from pipeline.tiles.image_header import sniff
from pipeline.tiles.sources.archive_errors import bad_archive, require_unchanged, unsupported_archive
from pipeline.tiles.sources.read_tile import keep_open
from pipeline.tiles.tile import Extent, Locator, Place, ZoomRange
from pipeline.tiles.tile_columns import Tiles
from store.base.identity import descriptor_id
from store.files.regular_file import open_regular, read_at, read_start

FORMATS = {"jpg": "jpeg", "jpeg": "jpeg", "png": "png", "webp": "webp"}
MAX_BLOB_BYTES = 32 << 20
MAX_ZOOM = 25
NO_ROW = -1

_MAGIC = b"SQLite format 3\x00"
_HOT_JOURNAL = bytes.fromhex("d9d505f920a163d7")


class MBTilesArchive:
    """A raster MBTiles file.

    Args:
        spec: The file's path, and what messages call it.
        base: Folder that a relative path starts from.
        digest_cache_folder: Where digests are remembered; None remembers nothing.
        now_ns: Wall clock, nanoseconds since 1970.

    Raises:
        RequestError: when the file is not there or cannot be read.
        TileError: when it is damaged, holds no raster tiles, or is still being written.
    """

    def __init__(
        self, spec: str, *, base: Path, digest_cache_folder: Path | None, now_ns: Callable[[], int]
    ) -> None:
        self.name = spec
        self._path = (base / spec).resolve()
        self._memory_folder = digest_cache_folder
        self._now_ns = now_ns
        self._fingerprint = _require_settled(self._path)
        with closing(open_database(self._path)) as database, _translated(self._path):
            self.tile_format = _tile_format(database, self._path)

    def query_by_bbox(self, bbox_e7: BoxE7, zoom: ZoomRange) -> Tiles:
        """See `TileMetadataStore.query_by_bbox`."""
        memory = ArchiveMemory(
            self._memory_folder,
            subject=f"mbtiles:{self._path}",
            fingerprint=self._fingerprint,
            now_ns=self._now_ns,
        )
        ranges = tile_ranges(bbox_e7, zoom)
        held = memory.recall(ranges)
        if held is None:
            with closing(open_database(self._path)) as database, _translated(self._path):
                held = self._held(database, ranges, memory)
            require_unchanged(self._path, self._fingerprint)
            memory.remember(ranges, held)
        else:
            require_unchanged(self._path, self._fingerprint)
        path, places, numbers = str(self._path), held.places, held.numbers

        def where(row: int) -> Locator:
            z, x, y = places[row].tolist()
            return "mbtiles", path, z, x, y, int(numbers[row])

        return Tiles.from_columns(places, digests=held.digests, sizes=held.sizes, where=where)

    def extent(self) -> Extent:
        """See `TileMetadataStore.extent`; bounds are those of the highest zoom."""
        with closing(open_database(self._path)) as database, _translated(self._path):
            low, high = database.execute(
                "SELECT min(zoom_level), max(zoom_level) FROM tiles WHERE zoom_level BETWEEN 0 AND ?",
                (MAX_ZOOM,),
            ).fetchone()
            if not (isinstance(low, int) and isinstance(high, int)):
                return Extent(zoom=None, box_e7=None)
            last = (1 << high) - 1
            edges = database.execute(
                "SELECT min(tile_column), max(tile_column), min(tile_row), max(tile_row) FROM tiles WHERE"
                " zoom_level = ? AND tile_column BETWEEN 0 AND ? AND tile_row BETWEEN 0 AND ?",
                (high, last, last),
            ).fetchone()
        if not all(isinstance(edge, int) for edge in edges):
            return Extent(zoom=(low, high), box_e7=None)
        x0, x1, south_row, north_row = edges
        west, _, _, north = tile_box_e7(Place(high, x0, last - north_row))
        _, south, east, _ = tile_box_e7(Place(high, x1, last - south_row))
        return Extent(zoom=(low, high), box_e7=(west, south, east, north))

    def _held(
        self, database: sqlite3.Connection, ranges: tuple[TileRange, ...], memory: ArchiveMemory
    ) -> Listing:
        """Every tile of some rectangles; hashes what the memory does not know."""
        rows = self._rows(database, ranges)
        ids = np.array(sorted(rows), np.int64)
        digests, known = memory.digests(ids)
        unknown = {identifier: row for row, identifier in enumerate(ids.tolist()) if not known[row]}
        for part in ranges if unknown else ():
            for place, content in self._contents(database, part):
                row = unknown.get(descriptor_id(*place))
                if row is not None:
                    digests[row] = np.frombuffer(hashlib.sha256(content).digest(), dtype=np.uint8)
        found = np.array([rows[identifier] for identifier in ids.tolist()], np.int64).reshape(len(ids), 2)
        return Listing(ids=ids, sizes=found[:, 0], numbers=found[:, 1], digests=digests)

    def _rows(
        self, database: sqlite3.Connection, ranges: tuple[TileRange, ...]
    ) -> dict[int, tuple[int, int]]:
        """Encoded length and row number of every tile in some rectangles, by id; `NO_ROW` where rows have no number."""
        number = "rowid" if _has_row_numbers(database) else str(NO_ROW)
        rows: dict[int, tuple[int, int]] = {}
        for part in ranges:
            columns = f"length(tile_data), typeof(tile_data), {number}"
            for z, x, row, size, kind, rowid in _select(database, part, columns):
                place = self._place(part, z, x, row)
                if kind != "blob" or not 0 < size <= MAX_BLOB_BYTES:
                    found = f"{size} bytes of type {kind}"
                    raise bad_archive(str(self._path), f"an image at tile {place}", found)
                identifier = descriptor_id(*place)
                if identifier in rows:
                    raise bad_archive(str(self._path), f"one tile {place}", "several")
                rows[identifier] = size, rowid
        return rows

    def _contents(self, database: sqlite3.Connection, part: TileRange) -> Iterator[tuple[Place, bytes]]:
        for z, x, row, content in _select(database, part, "tile_data"):
            yield self._place(part, z, x, row), content

    def _place(self, part: TileRange, z: object, x: object, row: object) -> Place:
        # SQLite columns have no fixed type: 5.5 lies between 5 and 6 too.
        if not (isinstance(z, int) and isinstance(x, int) and isinstance(row, int)):
            raise bad_archive(str(self._path), "whole numbers as tile coordinates", f"{z!r}/{x!r}/{row!r}")
        return Place(z, x, (1 << part.z) - 1 - row)


def open_database(path: str | Path) -> sqlite3.Connection:
    """Open an MBTiles file for reading without leaving anything beside it; the caller closes it.

    Raises:
        TileError: when it is not there or is no database.
    """
    uri = "file:" + urllib.parse.quote(str(path)) + "?mode=ro&immutable=1"
    with _translated(path):
        database = sqlite3.connect(uri, uri=True, check_same_thread=False)
        # The archive may come from a stranger: its views must not call functions, its values not fill the memory.
        database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_BLOB_BYTES)
        database.execute("PRAGMA trusted_schema = OFF")
        database.execute("PRAGMA query_only = ON")
    return database


def read_located(path: str, z: int, x: int, y: int, rowid: int) -> bytes:
    """The encoded bytes of one tile of an archive, which stays open.

    Args:
        path: The archive.
        z: Zoom.
        x: Column.
        y: Row from the north.
        rowid: Where to look first, since an archive may lack the index that finds places; `NO_ROW` for nowhere.

    Raises:
        TileError: when the archive has no such tile.
    """
    key = (z, x, (1 << z) - 1 - y)
    by_place = "SELECT tile_data FROM tiles WHERE zoom_level = ? AND tile_column = ? AND tile_row = ?"
    database = keep_open(path, open_database, sqlite3.Connection.close)
    with _translated(path):
        row = (
            database.execute(f"{by_place} AND rowid = ?", (*key, rowid)).fetchone()
            if rowid != NO_ROW
            else None
        )
        row = row or database.execute(by_place, key).fetchone()
    if row is None or not isinstance(row[0], bytes):
        raise TileError(
            f"tile {z}/{x}/{y}: expected it in {path}, found none",
            hint="build again once the archive is at rest",
            kind=ErrorKind.SOURCE_CHANGED,
            subject=f"{z}/{x}/{y}",
        )
    return row[0]


def _has_row_numbers(database: sqlite3.Connection) -> bool:
    """Whether `tiles` is a table whose rows SQLite numbers (a view or a table WITHOUT ROWID is not)."""
    kind = database.execute("SELECT type FROM sqlite_master WHERE name = 'tiles'").fetchone()
    if kind != ("table",):
        return False
    try:
        database.execute("SELECT rowid FROM tiles LIMIT 1")
    except sqlite3.OperationalError:
        return False
    return True


def _select(database: sqlite3.Connection, part: TileRange, columns: str) -> sqlite3.Cursor:
    last = (1 << part.z) - 1
    return database.execute(
        f"SELECT zoom_level, tile_column, tile_row, {columns} FROM tiles"  # noqa: S608  (columns are ours)
        " WHERE zoom_level = ? AND tile_column BETWEEN ? AND ? AND tile_row BETWEEN ? AND ?",
        (part.z, part.x0, part.x1, last - part.y1, last - part.y0),
    )


def _tile_format(database: sqlite3.Connection, path: Path) -> str:
    """Encoding of the tiles, by the metadata or else by the first tile."""
    objects = {
        name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
    }
    if "tiles" not in objects:
        found = ", ".join(sorted(map(str, objects))[:8]) or "no tables"
        raise bad_archive(
            str(path), "a table or view named tiles", found, "check that it is an MBTiles archive"
        )
    first = database.execute("SELECT tile_data FROM tiles LIMIT 1").fetchone()
    if first is None:
        raise bad_archive(str(path), "at least one tile", "none", "export the archive again")
    said = None
    if "metadata" in objects:
        said = database.execute("SELECT value FROM metadata WHERE name = 'format'").fetchone()
    announced = None if said is None else str(said[0]).lower()
    if announced is not None:
        tile_format = FORMATS.get(announced)
    else:
        tile_format = sniff(first[0]) if isinstance(first[0], bytes) else None
    if tile_format is None:
        kind = {None: "none of them", "pbf": "vector tiles (pbf)"}.get(announced, f"format {announced!r}")
        raise unsupported_archive(
            str(path),
            "raster tiles in jpg, png or webp",
            kind,
            "export the area as raster tiles, such as satellite imagery",
        )
    return tile_format


def _require_settled(path: Path) -> Fingerprint:
    """The fingerprint of an archive that is a database at rest.

    Raises:
        RequestError: when it cannot be read.
        TileError: when it is no SQLite file, or changes wait beside it.
    """
    try:
        descriptor = open_regular(path, follow_symlinks=True)
        try:
            status = os.fstat(descriptor)
            magic = read_at(descriptor, 0, len(_MAGIC))
        finally:
            os.close(descriptor)
        if magic != _MAGIC:
            raise bad_archive(
                str(path), "an SQLite database (MBTiles)", f"a file that begins with {magic[:16]!r}"
            )
        waiting = [f"{path}-wal"] if _begins(f"{path}-wal", b"") else []
        waiting += [f"{path}-journal"] if _begins(f"{path}-journal", _HOT_JOURNAL) else []
    except OSError as error:
        raise RequestError(
            f"{path}: expected a readable MBTiles archive, found {error.strerror or error}",
            hint="check the path and its permissions; it starts from the request's folder",
            kind=ErrorKind.SOURCE_UNREADABLE,
            subject=str(path),
        ) from error
    if waiting:
        raise TileError(
            f"{path}: expected an archive at rest, found unmerged changes in {waiting[0]}",
            hint=f"close the program that writes it, or merge them: sqlite3 {path} 'PRAGMA wal_checkpoint(TRUNCATE)'",
            kind=ErrorKind.SOURCE_CHANGED,
            subject=str(path),
        )
    return Fingerprint.of(status)


def _begins(path: str, magic: bytes) -> bool:
    """Whether there is a non-empty file at a path, and it begins so."""
    try:
        head = read_start(path, 8, follow_symlinks=True)
    except FileNotFoundError:
        return False
    return bool(head) and head.startswith(magic)


@contextmanager
def _translated(path: str | Path) -> Iterator[None]:
    """Turn SQLite's errors into ours."""
    try:
        yield
    except sqlite3.Error as error:
        raise bad_archive(str(path), "an MBTiles archive that SQLite can read", str(error)) from error
