"""Reads one tile's encoded bytes by its locator, in whatever process asks.

Archives stay open per process and thread. What is read may differ from what the tile table says when the source was
changed in between: the caller hashes the very bytes it got and compares.
"""

import atexit
import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from pipeline.errors import ErrorKind, TileError
from pipeline.tiles.sources.registry import SOURCES
from pipeline.tiles.tile import Locator
from store.files.regular_file import open_regular, read_at

MAX_TILE_BYTES = 32 << 20

REST = (
    "let the source come to rest, then build again; where it has rested all the time, what is remembered of it is wrong:"
    " delete $XDG_CACHE_HOME/c10"
)
"""What to do about a source whose tiles are not what they were when they were selected."""

_Handle = TypeVar("_Handle")
_Opener = Callable[[str], Any]
_open: dict[tuple[int, int, str, _Opener], tuple[Any, Callable[[Any], object]]] = {}


def read_tile(locator: Locator) -> bytes:
    """The encoded bytes of a tile.

    Args:
        locator: As found in `Tile.locator`; a list (as msgpack gives back) will do.

    Raises:
        TileError: when they cannot be read.
        ValueError: when the locator is none of the known ones.
    """
    kind = SOURCES.get(str(locator[0])) if locator else None
    try:
        content = None if kind is None else kind.read(locator)
    except OSError as error:
        raise _unreadable(str(locator[1]), "a readable tile", str(error.strerror or error)) from error
    if content is None:
        raise ValueError(f"expected a tile locator, found {locator!r}")
    return content


def read_tile_file(path: str) -> bytes:
    """The bytes of a tile that is a file of its own.

    Raises:
        OSError: when it cannot be opened or read, or is no regular file.
        TileError: when it is longer than a tile may be.
    """
    descriptor = open_regular(path, follow_symlinks=True)
    try:
        size = os.fstat(descriptor).st_size
        if size > MAX_TILE_BYTES:
            raise _unreadable(path, f"at most {MAX_TILE_BYTES} bytes", f"{size}")
        return read_at(descriptor, 0, size)
    finally:
        os.close(descriptor)


def read_part(path: str, offset: int, length: int) -> bytes:
    """The bytes of a tile that lies in one piece in an archive.

    Raises:
        OSError: when the archive cannot be opened or read, or is no regular file.
        TileError: when it ends before the tile does.
    """
    content = read_at(keep_open(path, _opened, os.close), offset, length)
    if len(content) != length:
        raise _unreadable(path, f"{length} bytes at offset {offset}", f"{len(content)}")
    return content


def keep_open(path: str, opener: Callable[[str], _Handle], closer: Callable[[_Handle], object]) -> _Handle:
    """Open an archive, once for each process and thread.

    Args:
        path: Where it is.
        opener: Opens it.
        closer: Closes what the opener returned.
    """
    # SQLite handles must cross neither fork nor threads.
    key = os.getpid(), threading.get_ident(), path, opener
    if key not in _open:
        _open[key] = opener(path), closer
    handle: _Handle = _open[key][0]
    return handle


def close_archives() -> None:
    """Close every archive that this process keeps open."""
    while _open:
        handle, closer = _open.popitem()[1]
        closer(handle)


atexit.register(close_archives)


def _opened(path: str) -> int:
    return open_regular(path, follow_symlinks=True)


def _unreadable(path: str, expected: str, found: str) -> TileError:
    return TileError(
        f"{path}: expected {expected}, found {found}",
        hint="build again once the source is at rest",
        kind=ErrorKind.SOURCE_CHANGED,
        subject=path,
    )
