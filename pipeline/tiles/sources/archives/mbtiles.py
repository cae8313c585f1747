"""Tiles in an MBTiles archive (SQLite, specification 1.3), which counts rows from the south."""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from shlex import quote

import numpy as np

from pipeline.request.geometry import BoxE7
from pipeline.tiles.file_kinds import what_it_is
from pipeline.tiles.grid import TileRange, range_box_e7
from pipeline.tiles.images.image_header import IMAGE_EXTENSIONS, sniff
from pipeline.tiles.sources.archive import TileArchive, bad_archive, unsupported_archive
from pipeline.tiles.sources.archive_cache import TileListing
from pipeline.tiles.sources.archives.hashing import hash_tiles, joined
from pipeline.tiles.sources.archives.mbtiles_view import (
    ViewReader,
    missing_indexes,
    select_tiles,
    tms_rectangle,
)
from pipeline.tiles.sources.archives.sqlite_archive import (
    CONTENT,
    open_database,
    require_at_rest,
    row_tasks,
    sqlite_errors_as_ours,
)
from pipeline.tiles.sources.read_tile import keep_open, source_changed
from pipeline.tiles.sources.row_order import box_of_degrees
from pipeline.tiles.tile import Extent, Locator, Place
from store.base.identity import X_SHIFT, ZOOM_SHIFT, tile_of

MAX_ZOOM = 25
NO_ROW = -1

_START = f"ifnull(substr({CONTENT}, 1, 16), x'')"
"""The first of them: SQLite has no part of an empty value."""
_SNIFFED_ROWS = 1_000


class MBTilesArchive(TileArchive):
    """A raster MBTiles file."""

    kind = "mbtiles"
    stored_from_south = True

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

    def _list_tiles(self, ranges: Sequence[TileRange]) -> TileListing:
        """See `TileArchive._list_tiles`.

        A row that is no image, such as NULL, is listed too: it is for the request to say what to do with it. A
        place may have several equal rows.
        """
        with self._open() as database:
            number = "rowid" if _has_rowids(database) else str(NO_ROW)
            tasks = [
                task
                for part in ranges
                for task in row_tasks(
                    database,
                    tms_rectangle(part),
                    path=self._path,
                    kind="MBTiles",
                    table="tiles",
                    number=number,
                )
            ]
        numbers, digests = joined(hash_tiles(tasks, self.progress), columns=5)
        z, x, tile_row, rowid, size = numbers.T
        ids = (z << ZOOM_SHIFT) | (x << X_SHIFT) | ((1 << z) - 1 - tile_row)
        listing = TileListing(keys=np.stack([ids, size, rowid], axis=1), digests=digests)
        listing = listing.take(np.argsort(ids, kind="stable"))
        again = np.flatnonzero(listing.ids[1:] == listing.ids[:-1])
        for at in again[(listing.digests[again] != listing.digests[again + 1]).any(axis=1)][:1].tolist():
            place = Place(*listing.places[at].tolist())
            raise bad_archive(
                self._path, f"one tile {place}", "several that differ", "remove all but the right one"
            )
        return listing.take(np.diff(listing.ids, prepend=-1) != 0) if len(again) else listing

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


class _OpenArchive:
    """An archive that a worker keeps open. The tiles of a view are read by cells; see `ViewReader`."""

    def __init__(self, path: str) -> None:
        self.database = open_database(path)
        self.view = None if _has_rowids(self.database) else ViewReader(self.database, CONTENT)

    def close(self) -> None:
        self.database.close()

    def tile(self, z: int, x: int, y: int, rowid: int) -> bytes | None:
        if self.view is not None:
            return self.view.tile(z, x, y)
        query = (
            f"SELECT {CONTENT} FROM tiles"  # noqa: S608 - a constant
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
