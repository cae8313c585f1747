"""Read one tile's encoded bytes by its locator, in any process.

Archives stay open for each process and thread. A source may have changed since its tiles were selected, so
the caller hashes the bytes that it got and compares the digest.
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

SOURCE_CHANGED_HINT = (
    "wait until nothing writes to the source, then build again; if it did not change, its cached digests are wrong:"
    " delete $XDG_CACHE_HOME/c10"
)
"""What to do when a tile is not the one that was selected."""

_Handle = TypeVar("_Handle")
_Opener = Callable[[str], Any]
_handles: dict[tuple[int, int, str, _Opener], tuple[Any, Callable[[Any], object]]] = {}


def read_tile(locator: Locator) -> bytes:
    """Return the encoded bytes of a tile.

    Args:
        locator: From `SourceTile.locator`; may be a list, as msgpack returns it.

    Raises:
        TileError: when they cannot be read.
        ValueError: when the locator is not valid.
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
    """Return the bytes of a tile that is a file of its own.

    Raises:
        OSError: when it cannot be opened or read, or is no regular file.
        TileError: when it is longer than a tile may be.
    """
    descriptor = open_regular(path, follow_symlinks=True)
    try:
        size = os.fstat(descriptor).st_size
        if size > MAX_TILE_BYTES:
            raise TileError(
                f"{path}: expected a tile of at most {MAX_TILE_BYTES:,} bytes, found {size:,}",
                hint="replace the file, or take it out of the folder",
                kind=ErrorKind.BAD_TILE,
                subject=path,
            )
        return read_at(descriptor, 0, size)
    finally:
        os.close(descriptor)


def read_part(path: str, offset: int, length: int) -> bytes:
    """Return the bytes of a tile that is one contiguous range of an archive.

    Raises:
        OSError: when the archive cannot be opened or read, or is no regular file.
        TileError: when it ends before the tile does.
    """
    content = read_at(keep_open(path, _open_archive, os.close), offset, length)
    if len(content) != length:
        raise _unreadable(path, f"{length:,} bytes at offset {offset}", f"{len(content):,}")
    return content


def keep_open(path: str, opener: Callable[[str], _Handle], closer: Callable[[_Handle], object]) -> _Handle:
    """Open an archive once for each process and thread, and return its handle.

    Args:
        path: Where it is.
        opener: Opens it.
        closer: Closes the handle.
    """
    # SQLite handles must cross neither fork nor threads.
    key = os.getpid(), threading.get_ident(), path, opener
    if key not in _handles:
        _handles[key] = opener(path), closer
    handle: _Handle = _handles[key][0]
    return handle


def close_archives() -> None:
    """Close every archive that this process keeps open."""
    while _handles:
        handle, closer = _handles.popitem()[1]
        closer(handle)


atexit.register(close_archives)


def _open_archive(path: str) -> int:
    return open_regular(path, follow_symlinks=True)


def source_changed(
    subject: str, message: str, hint: str = "build again once nothing writes to the source"
) -> TileError:
    """Return the error for a source that has changed or is being written."""
    return TileError(message, hint=hint, kind=ErrorKind.SOURCE_CHANGED, subject=subject)


def _unreadable(path: str, expected: str, found: str) -> TileError:
    return source_changed(path, f"{path}: expected {expected}, found {found}")
