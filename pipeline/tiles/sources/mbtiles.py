"""Tiles in an MBTiles archive (SQLite, specification 1.3), which counts rows from the south.

The database is opened as immutable: SQLite then takes no lock and writes no -wal, -shm or -journal file
beside it. That is correct only for a file that nothing writes to, so an archive with unmerged changes beside
it is refused.
"""

import hashlib
import os
import sqlite3
import sys
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from shlex import quote

import numpy as np

from pipeline.errors import TileError
from pipeline.progress import HASHING
from pipeline.request.geometry import BoxE7
from pipeline.tiles.archive_cache import ArchiveCache, TileListing
from pipeline.tiles.digest_cache import Fingerprint
from pipeline.tiles.file_kinds import what_it_is
from pipeline.tiles.grid import TileRange, range_box_e7
from pipeline.tiles.image_header import IMAGE_EXTENSIONS, sniff
from pipeline.tiles.sources.archive import (
    TileArchive,
    bad_archive,
    foreign_file,
    unreadable_archive,
    unsupported_archive,
)
from pipeline.tiles.sources.mbtiles_view import ViewReader, missing_indexes, select_tiles
from pipeline.tiles.sources.read_tile import keep_open, source_changed
from pipeline.tiles.sources.row_order import box_of_degrees
from pipeline.tiles.tile import Extent, Locator, Place
from store.base.identity import descriptor_id, tile_of
from store.files.regular_file import open_regular, read_at, read_start

MAX_BLOB_BYTES = 32 << 20
MAX_ZOOM = 25
NO_ROW = -1

_CONTENT = "ifnull(CAST(tile_data AS BLOB), x'')"
"""The bytes of a row of any type: nothing stops a writer from leaving NULL or a text."""
_SIZE = f"CASE typeof(tile_data) WHEN 'blob' THEN length(tile_data) ELSE length({_CONTENT}) END"
"""Their number. The length of a blob is known without reading it."""
_START = f"ifnull(substr({_CONTENT}, 1, 16), x'')"
"""The first of them: SQLite has no part of an empty value."""
_SNIFFED_ROWS = 1_000
_TOLD_TOGETHER = 256

_MAGIC = b"SQLite format 3\x00"
_HOT_JOURNAL = bytes.fromhex("d9d505f920a163d7")


class MBTilesArchive(TileArchive):
    """A raster MBTiles file."""

    kind = "mbtiles"

    def __init__(
        self, spec: str, *, base: Path, digest_cache_folder: Path | None, now_ns: Callable[[], int]
    ) -> None:
        super().__init__(spec, base=base, digest_cache_folder=digest_cache_folder, now_ns=now_ns)
        self._fingerprint = require_at_rest(self._path)
        with self._open() as database:
            _require_raster_tiles(database, self._path)

    def extent(self) -> Extent:
        """See `TileMetadataStore.extent`; bounds are those of the highest zoom."""
        with self._open() as database:
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
        held = TileRange(z=high, x0=x0, x1=x1, y0=last - north_row, y1=last - south_row)
        return Extent(zoom=(low, high), box_e7=range_box_e7(held))

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with closing(open_database(self._path)) as database, sqlite_errors_as_ours(self._path):
            yield database

    def _locator(self, listing: TileListing, row: int) -> Locator:
        identifier, _, rowid = listing.keys[row].tolist()
        return self.kind, str(self._path), *tile_of(identifier)[:3], rowid

    def _list_tiles(self, ranges: Sequence[TileRange], cache: ArchiveCache) -> TileListing:
        with self._open() as database:
            rows = self._sizes_and_rowids(database, ranges)
            ids = np.array(sorted(rows), np.int64)
            digests, known = cache.digests(ids)
            unknown = {identifier: row for row, identifier in enumerate(ids.tolist()) if not known[row]}
            hashed: dict[int, bytes] = {}
            told = 0
            self.progress.start(HASHING, total=len(unknown), unit="tiles")
            for part in ranges if unknown else ():
                for z, x, tile_row, content in select_tiles(database, part, _CONTENT):
                    place = self._place(z, x, tile_row)
                    row = unknown.get(descriptor_id(*place))
                    if row is not None:
                        digest = hashlib.sha256(content).digest()
                        if hashed.setdefault(row, digest) != digest:
                            raise self._several(place)
                        digests[row] = np.frombuffer(digest, dtype=np.uint8)
                        # A call for each of a million tiles takes a tenth of the time.
                        if len(hashed) - told == _TOLD_TOGETHER:
                            self.progress.advance(_TOLD_TOGETHER)
                            told = len(hashed)
            self.progress.advance(len(hashed) - told)
            self.progress.finish()
        keys = np.array([(each, *rows[each]) for each in ids.tolist()], np.int64).reshape(-1, 3)
        return TileListing(keys=keys, digests=digests)

    def _warnings(self) -> tuple[str, ...]:
        with self._open() as database:
            statements = None if _has_rowids(database) else missing_indexes(database)
        if statements is None:
            return ()
        mend = f'sqlite3 {quote(self.name)} "{"; ".join(statements)}"' if statements else "see its tables"
        return (f"{self.name} has no index by place, so that its tiles are read slowly; add one: {mend}",)

    def _announced_box(self) -> BoxE7 | None:
        with self._open() as database:
            bounds = _metadata(database, "bounds")
        try:
            west, south, east, north = map(float, bounds.split(",") if bounds else ())
        except ValueError:
            return None
        return box_of_degrees(west, south, east, north)

    def _holds_any(self, ranges: Sequence[TileRange]) -> bool:
        with self._open() as database:
            return any(select_tiles(database, part, "1").fetchone() for part in ranges)

    def _sizes_and_rowids(
        self, database: sqlite3.Connection, ranges: Sequence[TileRange]
    ) -> dict[int, tuple[int, int]]:
        """Return length and rowid (else `NO_ROW`) of every tile in some rectangles, by descriptor id.

        A row that is no image, such as NULL, is listed too: it is for the request to say what to do with it. A
        place may have several equal rows.
        """
        rowid_column = "rowid" if _has_rowids(database) else str(NO_ROW)
        rows: dict[int, tuple[int, int]] = {}
        for part in ranges:
            for z, x, tile_row, size, rowid in select_tiles(database, part, f"{_SIZE}, {rowid_column}"):
                place = self._place(z, x, tile_row)
                if rows.setdefault(descriptor_id(*place), (size, rowid))[0] != size:
                    raise self._several(place)
        return rows

    def _several(self, place: Place) -> TileError:
        return bad_archive(
            self._path, f"one tile {place}", "several that differ", "remove all but the right one"
        )

    def _place(self, z: object, x: object, tile_row: object) -> Place:
        # SQLite columns have no fixed type: 5.5 is between 5 and 6 as well.
        if not (isinstance(z, int) and isinstance(x, int) and isinstance(tile_row, int)):
            found = f"{z!r}/{x!r}/{tile_row!r}"
            raise bad_archive(self._path, "whole numbers as tile coordinates", found)
        return Place(z, x, (1 << z) - 1 - tile_row)


def open_database(path: str | Path, kind: str = "MBTiles") -> sqlite3.Connection:
    """Open an SQLite archive for reading without writing a file beside it; the caller closes it.

    Args:
        path: The file.
        kind: What it should be, for messages.

    Raises:
        TileError: when it is not there or is no database.
    """
    uri = "file:" + urllib.parse.quote(str(path)) + "?mode=ro&immutable=1"
    with sqlite_errors_as_ours(path, kind):
        database = sqlite3.connect(uri, uri=True, check_same_thread=False)
        # The archive may be hostile: its views must not call functions, and its values must not fill the
        # memory.
        if sys.version_info >= (3, 11):
            database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_BLOB_BYTES)
        else:  # such a value has been read then, of up to the 1 GB that SQLite itself allows
            database.row_factory = _refuse_long_values
        database.execute("PRAGMA trusted_schema = OFF")
        database.execute("PRAGMA query_only = ON")
    return database


def _refuse_long_values(_: sqlite3.Cursor, row: tuple[object, ...]) -> tuple[object, ...]:
    if any(isinstance(value, (bytes, str)) and len(value) > MAX_BLOB_BYTES for value in row):
        raise sqlite3.DataError("string or blob too big")
    return row


class _OpenArchive:
    """An archive that a worker keeps open. The tiles of a view are read by cells; see `ViewReader`."""

    def __init__(self, path: str) -> None:
        self.database = open_database(path)
        self.view = None if _has_rowids(self.database) else ViewReader(self.database, _CONTENT)

    def close(self) -> None:
        self.database.close()

    def tile(self, z: int, x: int, y: int, rowid: int) -> bytes | None:
        if self.view is not None:
            return self.view.tile(z, x, y)
        query = (
            f"SELECT {_CONTENT} FROM tiles"  # noqa: S608 - a constant
            " WHERE zoom_level = ? AND tile_column = ? AND tile_row = ?"
        )
        key = (z, x, (1 << z) - 1 - y)
        found = self.database.execute(f"{query} AND rowid = ?", (*key, rowid)).fetchone()
        found = found or self.database.execute(query, key).fetchone()
        return None if found is None else bytes(found[0])


def read_tile_blob(path: str, z: int, x: int, y: int, rowid: int) -> bytes:
    """Return the encoded bytes of one tile of an archive, which stays open.

    Args:
        path: The archive.
        z: Zoom.
        x: Column.
        y: Row from the north.
        rowid: Row to try first, since an archive may have no index by place; `NO_ROW` for none.

    Raises:
        TileError: when the archive has no such tile.
    """
    archive = keep_open(path, _OpenArchive, _OpenArchive.close)
    with sqlite_errors_as_ours(path):
        content = archive.tile(z, x, y, rowid)
    if content is None:
        raise source_changed(f"{z}/{x}/{y}", f"tile {z}/{x}/{y}: expected it in {path}, found none")
    return content


def _has_rowids(database: sqlite3.Connection) -> bool:
    """Whether `tiles` has rowids: a view and a table WITHOUT ROWID have none, and a column may take the name."""
    kind = database.execute("SELECT type FROM sqlite_master WHERE lower(name) = 'tiles'").fetchone()
    if kind != ("table",):
        return False
    columns = {str(name).lower() for _, name, *_ in database.execute("PRAGMA table_info(tiles)")}
    if "rowid" in columns:
        return False
    try:
        database.execute("SELECT rowid FROM tiles LIMIT 1")
    except sqlite3.OperationalError:
        return False
    return True


def _metadata(database: sqlite3.Connection, name: str) -> str | None:
    """Return what an archive says of itself; None if it does not, or has no table for it."""
    try:
        row = database.execute("SELECT value FROM metadata WHERE name = ?", (name,)).fetchone()
    except sqlite3.OperationalError:
        return None
    return None if row is None else str(row[0])


def _starts(database: sqlite3.Connection) -> Iterator[tuple[bytes]]:
    """Yield the first bytes of some rows: the first ones, and some of all if they can be found by number."""
    query = f"SELECT {_START} FROM tiles"  # noqa: S608 - a constant
    yield from database.execute(f"{query} LIMIT ?", (_SNIFFED_ROWS,))
    if _has_rowids(database):
        low, high = database.execute("SELECT min(rowid), max(rowid) FROM tiles").fetchone()
        for rowid in range(low, high + 1, (high - low) // _SNIFFED_ROWS + 1):
            yield from database.execute(f"{query} WHERE rowid >= ? LIMIT 1", (rowid,))


def _require_raster_tiles(database: sqlite3.Connection, path: Path) -> None:
    objects = {
        name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
    }
    # SQLite does not distinguish the case of names.
    if "tiles" not in {str(name).lower() for name in objects}:
        found = ", ".join(sorted(map(str, objects))[:8]) or "no tables"
        raise bad_archive(path, "a table or view named tiles", found, "check that it is an MBTiles archive")
    first = database.execute(f"SELECT {_START} FROM tiles LIMIT 1").fetchone()  # noqa: S608 - a constant
    if first is None:
        raise bad_archive(path, "at least one tile", "none", "export the archive again")
    announced = (_metadata(database, "format") or "").lower()
    vector = announced == "pbf"
    # Writers spell the formats of images in many ways, so unless it is a usual one the tiles decide.
    if announced in IMAGE_EXTENSIONS or (not vector and any(sniff(start) for (start,) in _starts(database))):
        return
    found = "vector tiles (pbf)" if vector else what_it_is(first[0], "tiles that begin")
    raise unsupported_archive(
        path,
        "raster tiles in jpg, png or webp",
        found,
        "export the area as raster tiles, such as satellite imagery"
        if vector
        else "look at a tile: a server may have sent error pages, or a program compressed the tiles again",
    )


def require_at_rest(path: Path, kind: str = "MBTiles") -> Fingerprint:
    """Return the fingerprint of an SQLite archive of some kind that nothing writes to.

    Raises:
        RequestError: when it cannot be read.
        TileError: when it is no SQLite file, or unmerged changes are beside it.
    """
    try:
        descriptor = open_regular(path, follow_symlinks=True)
        try:
            status = os.fstat(descriptor)
            start = read_at(descriptor, 0, 64)
        finally:
            os.close(descriptor)
        if not start.startswith(_MAGIC):
            raise foreign_file(path, f"an SQLite database ({kind})", start)
        waiting, settle = "", ""
        if _begins_with(f"{path}-journal", _HOT_JOURNAL):
            waiting, settle = f"{path}-journal", "SELECT count(*) FROM sqlite_master"
        if _begins_with(f"{path}-wal", b""):
            waiting, settle = f"{path}-wal", "PRAGMA wal_checkpoint(TRUNCATE)"
    except OSError as error:
        raise unreadable_archive(path, kind, error) from error
    if waiting:
        raise source_changed(
            str(path),
            f"{path}: expected an archive at rest, found unmerged changes in {waiting}",
            hint=f"close the program that writes it, or let SQLite settle them: sqlite3 {path} '{settle}'",
        )
    return Fingerprint.of(status)


def _begins_with(path: str, magic: bytes) -> bool:
    """Whether a non-empty file is at a path and begins with some bytes."""
    try:
        head = read_start(path, 8, follow_symlinks=True)
    except FileNotFoundError:
        return False
    return bool(head) and head.startswith(magic)


@contextmanager
def sqlite_errors_as_ours(path: str | Path, kind: str = "MBTiles") -> Iterator[None]:
    """Turn what SQLite says of an archive of some kind into `TileError`."""
    try:
        yield
    except sqlite3.Error as error:
        raise bad_archive(path, f"an archive ({kind}) that SQLite can read", str(error)) from error
