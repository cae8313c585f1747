"""Reads one tile's encoded bytes by its locator, in whatever process asks.

Archives stay open per process and thread. What is read may differ from what the tile table says when the source was
changed in between: the caller hashes the very bytes it got and compares.
"""

import atexit
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import ErrorKind, TileError
from pipeline.regular_file import open_regular, read_at
from pipeline.tiles.tile import Locator, Place

if TYPE_CHECKING:
    import sqlite3

MAX_TILE_BYTES = 32 << 20

REST = (
    "let the source come to rest, then build again; where it has rested all the time, what is remembered of it is wrong:"
    " delete $XDG_CACHE_HOME/c10"
)
"""What to do about a source whose tiles are not what they were when they were selected."""

_HandleKey = tuple[int, int, str]
_files: dict[_HandleKey, int] = {}
_databases: "dict[_HandleKey, sqlite3.Connection]" = {}


def read_tile(locator: Locator) -> bytes:
    """The encoded bytes of a tile.

    Args:
        locator: As found in `Tile.locator`; a list (as msgpack gives back) will do.

    Raises:
        TileError: when they cannot be read.
        ValueError: when the locator is none of the known ones.
    """
    try:
        match tuple(locator):
            case ("file", str(path)):
                return read_tile_file(path)
            case ("pmtiles", str(path), int(offset), int(length)):
                content = read_at(_file(path), offset, length)
                if len(content) != length:
                    raise _unreadable(path, f"{length} bytes at offset {offset}", f"{len(content)}")
                return content
            case ("mbtiles", str(path), int(z), int(x), int(y), int(rowid)):
                from pipeline.tiles.sources.mbtiles import read_row  # noqa: PLC0415 - folders of tiles need no database

                return read_row(_database(path), path, Place(z, x, y), rowid)
            case _:
                raise ValueError(f"expected a tile locator, found {locator!r}")
    except OSError as error:
        raise _unreadable(str(locator[1]), "a readable tile", str(error.strerror or error)) from error


def read_tile_file(path: str) -> bytes:
    """The bytes of a tile that is a file of its own.

    Raises:
        OSError: when it cannot be opened or read, or is no regular file.
        TileError: when it is longer than a tile may be.
    """
    descriptor = open_regular(path)
    try:
        size = os.fstat(descriptor).st_size
        if size > MAX_TILE_BYTES:
            raise _unreadable(path, f"at most {MAX_TILE_BYTES} bytes", f"{size}")
        return read_at(descriptor, 0, size)
    finally:
        os.close(descriptor)


def close_archives() -> None:
    """Close every archive that this process keeps open."""
    while _files:
        os.close(_files.popitem()[1])
    while _databases:
        _databases.popitem()[1].close()


atexit.register(close_archives)


def _key(path: str) -> _HandleKey:
    # SQLite handles must cross neither fork nor threads.
    return os.getpid(), threading.get_ident(), path


def _file(path: str) -> int:
    key = _key(path)
    if key not in _files:
        _files[key] = open_regular(path)
    return _files[key]


def _database(path: str) -> "sqlite3.Connection":
    from pipeline.tiles.sources.mbtiles import open_database  # noqa: PLC0415 - as above

    key = _key(path)
    if key not in _databases:
        _databases[key] = open_database(Path(path))
    return _databases[key]


def _unreadable(path: str, expected: str, found: str) -> TileError:
    return TileError(
        f"{path}: expected {expected}, found {found}",
        hint="build again once the source is at rest",
        kind=ErrorKind.SOURCE_CHANGED,
        subject=path,
    )
