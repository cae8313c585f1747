"""Open regular files only: no symbolic link unless asked for, no folder, device or pipe.

Part of the aircraft's code. `journal.regular_file` does the same for the journal, because neither of the two
may import the other.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from typing import Final

_CHUNK: Final = 1 << 20
_WRONG_TYPE_ERRNOS: Final = frozenset({errno.ELOOP, errno.EISDIR, errno.ENXIO})


class NotRegularError(OSError):
    """The file is not regular, or belongs to another user."""


def open_regular(
    path: str | os.PathLike[str],
    flags: int = os.O_RDONLY,
    *,
    mode: int = 0o644,
    folder: int | None = None,
    follow_symlinks: bool = False,
) -> int:
    """Open a regular file and return its descriptor, which the caller closes.

    Args:
        path: Where it is. Only its last part is checked for links; `open_below` checks every part.
        flags: How to open it; `O_CLOEXEC`, `O_NONBLOCK` and `O_NOFOLLOW` are added.
        mode: Permissions of a file that this creates.
        folder: Descriptor of the open folder where a relative path starts.
        follow_symlinks: Whether to accept a link to the file, as for paths that a person gave.

    Raises:
        NotRegularError: It is a folder, a pipe or a device.
        OSError: It cannot be opened; `is_wrong_file_type` recognises a link or a socket.
    """
    # Without O_NONBLOCK, opening a named pipe waits for the other side.
    flags |= os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow_symlinks else os.O_NOFOLLOW)
    fd = os.open(path, flags, mode, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise NotRegularError(f"{os.fspath(path)} is not a regular file")
    return fd


def is_wrong_file_type(error: OSError) -> bool:
    """Return whether `open_regular` failed because a link, folder, pipe, socket or device has the name."""
    return isinstance(error, NotRegularError) or error.errno in _WRONG_TYPE_ERRNOS


def open_folder(path: str | os.PathLike[str], *, folder: int | None = None) -> int:
    """Open a folder that is no symbolic link, and return its descriptor, which the caller closes.

    Raises:
        OSError: There is no such folder, or something else has the name.
    """
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)


def sync_folder(path: str | os.PathLike[str]) -> None:
    """Make the names in a folder durable.

    Raises:
        OSError: The folder cannot be opened or synced.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def open_below(name: str, folder: int) -> int:
    """Open a regular file for reading, relative to a folder's descriptor; no part of its name may be a link.

    Raises:
        NotRegularError, OSError: As for `open_regular`.
    """
    # Open folder by folder, because O_NOFOLLOW applies to the last part of a path only.
    first, _, rest = name.partition("/")
    if not rest:
        return open_regular(first, folder=folder)
    below = open_folder(first, folder=folder)
    try:
        return open_below(rest, below)
    finally:
        os.close(below)


def read_regular(path: str | os.PathLike[str], *, limit: int) -> bytes | None:
    """Return the bytes of a regular file; None if it is something else or longer than `limit`.

    Raises:
        FileNotFoundError: Nothing has this name.
        OSError: It cannot be read.
    """
    try:
        fd = open_regular(path)
    except OSError as error:
        if is_wrong_file_type(error):
            return None
        raise
    with os.fdopen(fd, "rb") as file:
        return file.read(limit + 1) if os.fstat(fd).st_size <= limit else None


def read_own(path: str | os.PathLike[str], *, limit: int | None = None) -> bytes:
    """Return the bytes of a regular file of this user, at most `limit`; refuse a file of another user.

    Raises:
        NotRegularError, OSError: As for `open_regular`, and for a file of another user.
    """
    fd = open_regular(path)
    try:
        found = os.fstat(fd)
        if found.st_uid != os.geteuid():
            raise NotRegularError(f"{os.fspath(path)} is another user's")
        return read_at(fd, 0, found.st_size if limit is None else min(found.st_size, limit))
    finally:
        os.close(fd)


def read_start(path: str | os.PathLike[str], length: int, *, follow_symlinks: bool = False) -> bytes:
    """Return the first bytes of a regular file, at most `length`.

    Raises:
        NotRegularError, OSError: As for `open_regular`.
    """
    fd = open_regular(path, follow_symlinks=follow_symlinks)
    try:
        return read_at(fd, 0, length)
    finally:
        os.close(fd)


def read_at(fd: int, offset: int, length: int) -> bytes:
    """Return `length` bytes at an offset; fewer only at the end of the file."""
    content = os.pread(fd, length, offset)
    while len(content) < length:
        more = os.pread(fd, length - len(content), offset + len(content))
        if not more:
            break
        content += more
    return content


def hash_file(
    fd: int, *, limit: int | None = None, keep: Callable[[bytes], object] | None = None
) -> tuple[str, int]:
    """Read an open file from its start once; return the SHA-256 of what was read and its length, bytes.

    Args:
        fd: Descriptor of the file.
        limit: Its expected length; at most one byte more is read, which shows that it grew.
        keep: Called with each piece that was hashed, in order, up to `limit`.

    Raises:
        OSError: It cannot be read; or as raised by `keep`.
    """
    state, done = hashlib.sha256(), 0
    while piece := os.pread(fd, _CHUNK if limit is None else min(_CHUNK, limit + 1 - done), done):
        state.update(piece)
        done += len(piece)
        if limit is not None and done > limit:
            break
        if keep is not None:
            keep(piece)
    return state.hexdigest(), done
