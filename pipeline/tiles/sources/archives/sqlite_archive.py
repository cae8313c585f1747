"""What archives that are SQLite databases have in common: open them without a trace, and tell whether they are at rest.

The database is opened as immutable: SQLite then takes no lock and writes no -wal, -shm or -journal file
beside it. That is correct only for a file that nothing writes to, so an archive with unmerged changes beside
it is refused.
"""

import hashlib
import os
import re
import sqlite3
import struct
import sys
import urllib.parse
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import numpy as np

from pipeline.errors import TileError
from pipeline.tiles.digest_cache import Fingerprint
from pipeline.tiles.sources.archive import bad_archive, foreign_file, unreadable_archive
from pipeline.tiles.sources.archives.hashing import TASK_TILES, Answer, HashTask
from pipeline.tiles.sources.read_tile import source_changed
from store.files.regular_file import open_regular, read_at, read_start

MAX_BLOB_BYTES = 32 << 20
CONTENT: Final = "ifnull(CAST(tile_data AS BLOB), x'')"
"""The bytes of a row of any type: nothing stops a writer from leaving NULL or a text."""
IN_RECTANGLE: Final = "zoom_level = ? AND tile_column BETWEEN ? AND ? AND tile_row BETWEEN ? AND ?"
"""A condition: zoom, first and last column, first and last row, as the archive counts them."""

_MAGIC = b"SQLite format 3\x00"
_ROW: Final = struct.Struct("=5q")
_MOST_READ: Final = 2
"""Rows that are read at most for each that is wanted."""
_FOUND_BY_NUMBER: Final = re.compile(r"SEARCH .* USING INTEGER PRIMARY KEY \(rowid>\? AND rowid<\?\)")
"""The whole plan of a search by the rowid; that of a search by another column may say the same of the column."""
_INTERRUPTED = "interrupted"
"""What SQLite says when a signal came."""
_STEPS: Final = 1_000_000
"""So many steps of SQLite take some hundredths of a second."""
_HOT_JOURNAL = bytes.fromhex("d9d505f920a163d7")


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
        # Between its steps signals are seen: a search of a view without an index takes minutes, one of a hostile
        # view has no end.
        database.set_progress_handler(lambda: 0, _STEPS)
        database.execute("PRAGMA trusted_schema = OFF")
        database.execute("PRAGMA query_only = ON")
    return database


def _refuse_long_values(_: sqlite3.Cursor, row: tuple[object, ...]) -> tuple[object, ...]:
    if any(isinstance(value, (bytes, str)) and len(value) > MAX_BLOB_BYTES for value in row):
        raise sqlite3.DataError("string or blob too big")
    return row


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
    """Turn what SQLite says of an archive of some kind into `TileError`.

    Raises:
        TileError: SQLite cannot read it.
        KeyboardInterrupt: A signal ended the search; SQLite does not tell which.
    """
    try:
        yield
    except sqlite3.Error as error:
        if str(error) == _INTERRUPTED:
            raise KeyboardInterrupt from error
        raise bad_archive(path, f"an archive ({kind}) that SQLite can read", str(error)) from error


def row_tasks(
    database: sqlite3.Connection, rectangle: Sequence[int], *, path: Path, kind: str, table: str, number: str
) -> Iterator[HashTask]:
    """Yield the tasks that hash all tiles of a rectangle: rows as they lie in the file, or strips of columns.

    A row that is found by its place is read from anywhere in the file. So all rows from the first to the last are
    read, unless most of them are others.

    Args:
        database: The archive.
        rectangle: As `IN_RECTANGLE` takes it.
        path: Where the archive is.
        kind: What it is, for messages.
        table: Has the tiles; quoted.
        number: The column by which a tile is found again.

    Raises:
        TileError: The number of a column is none.
    """
    columns, source = f"SELECT zoom_level, tile_column, tile_row, {number}, {CONTENT}", f"FROM {table}"
    lying = f"{columns} {source} NOT INDEXED WHERE {number} BETWEEN ? AND ? AND {IN_RECTANGLE}"
    by_place = f"{columns} {source} WHERE {IN_RECTANGLE}"
    parts, query = list[tuple[list[int], int]](), lying
    by_number = f"SELECT 1 {source} NOT INDEXED WHERE {number} BETWEEN ? AND ?"
    if _FOUND_BY_NUMBER.fullmatch("\n".join(_search_plan(database, by_number, (0, 0)))):
        held = f"SELECT count(*), min({number}), max({number}) {source} WHERE {IN_RECTANGLE}"
        count, first, last = database.execute(held, rectangle).fetchone()
        # Only the number of a view can be something else.
        if type(first) is type(last) is int and last - first < _MOST_READ * count:
            parts = [([*ends, *rectangle], share) for ends, share in _equal_parts(first, last, count)]
    if not parts:
        query = by_place
        parts = list(_column_parts(database, rectangle, query, path=path, source=source))
    for parameters, share in parts:
        yield HashTask(function=hash_rows, arguments=(str(path), kind, query, parameters), tiles=share)


def _search_plan(database: sqlite3.Connection, query: str, parameters: Sequence[int]) -> list[str]:
    return [str(line[3]) for line in database.execute(f"EXPLAIN QUERY PLAN {query}", parameters)]


def _equal_parts(first: int, last: int, count: int) -> Iterator[tuple[tuple[int, int], int]]:
    """Cut a range of numbers into equal parts; yield the ends of each, and its share of `count` tiles."""
    parts, size = -(-count // TASK_TILES), last - first + 1
    for part in range(parts):
        low, high = first + size * part // parts, first + size * (part + 1) // parts - 1
        yield (low, high), count * (part + 1) // parts - count * part // parts


def _column_parts(
    database: sqlite3.Connection, rectangle: Sequence[int], query: str, *, path: Path, source: str
) -> Iterator[tuple[list[int], int]]:
    """Yield the parameters and the number of tiles of each strip, or of all if `query` would read all rows for each.

    Raises:
        TileError: The number of a column is none.
    """
    z, x0, x1, *rows = rectangle
    counts = f"SELECT tile_column, count(*) {source} WHERE {IN_RECTANGLE} GROUP BY tile_column ORDER BY tile_column"
    columns = list[tuple[int, int]]()
    for column, count in database.execute(counts, rectangle):
        if type(column) is not int:
            raise _no_coordinates(path, "column", column)
        columns.append((column, count))
    plan = _search_plan(database, query, rectangle)
    reads_all = any(line.startswith("SCAN") or "AUTOMATIC" in line for line in plan)
    if not reads_all and "tile_column>" in str(plan):
        yield from (([z, first, last, *rows], count) for first, last, count in _strips(columns))
    elif columns:
        yield [z, x0, x1, *rows], sum(count for _, count in columns)


def _strips(columns: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
    """Join columns of tiles to strips of `TASK_TILES` tiles or a little more.

    Args:
        columns: Each column and its number of tiles, from west to east.

    Returns:
        First and last column, and the number of tiles, of each strip.
    """
    first, last, count = 0, 0, 0
    for column, tiles in columns:
        first, last, count = column if not count else first, column, count + tiles
        if count >= TASK_TILES:
            yield first, last, count
            count = 0
    if count:
        yield first, last, count


def hash_rows(path: str, kind: str, query: str, parameters: Sequence[int]) -> Answer:
    """Hash the tiles of an SQLite archive that a query selects.

    Args:
        path: The archive.
        kind: What it is, for messages.
        query: Gives zoom, column, row, the number of the tile, and its encoded bytes.
        parameters: Of the query.

    Returns:
        Zoom, column, row, number and length of each, int64 [n, 5]; the digests.

    Raises:
        TileError: SQLite cannot read the archive, or one of the numbers is none.
    """
    # Plain integers: objects for each tile would take a twelfth of the time of all this.
    numbers, digests, pack, sha256 = bytearray(), bytearray(), _ROW.pack, hashlib.sha256
    with closing(open_database(path, kind)) as database, sqlite_errors_as_ours(path, kind):
        for z, x, y, number, content in database.execute(query, parameters):
            try:
                numbers += pack(z, x, y, number, len(content))
            except struct.error as error:
                raise _no_numbers(path, z, x, y, number) from error
            digests += sha256(content).digest()
    found = np.frombuffer(numbers, np.int64).reshape(-1, 5)
    return found, np.frombuffer(digests, np.uint8).reshape(-1, 32)


def _no_numbers(path: str, z: object, x: object, y: object, number: object) -> TileError:
    """Return the error for a tile whose place or number is no whole number: SQLite columns have no fixed type.

    5.5 is between 5 and 6 as well.
    """
    if type(z) is type(x) is type(y) is int:
        return bad_archive(path, "whole numbers as the id of a tile", f"{number!r:.60}")
    return _no_coordinates(path, "tile", z, x, y)


def _no_coordinates(path: str | Path, what: str, *found: object) -> TileError:
    """Return the error for the coordinates of a tile, or a column of tiles, that are no whole numbers."""
    text = "/".join(f"{each!r:.20}" for each in found)
    return bad_archive(path, "whole numbers as tile coordinates", f"{what} {text}")
