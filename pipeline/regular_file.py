"""Opens regular files only: never a folder, a device, or a pipe that would block for ever."""

import os
import stat
from pathlib import Path


class NotRegularError(OSError):
    """The path names something that is not a regular file."""


def open_regular(path: str | Path, *, follow_symlinks: bool = True) -> int:
    """Open a regular file for reading and return its descriptor, which the caller closes.

    Raises:
        NotRegularError: for anything but a regular file.
        OSError: when it cannot be opened.
    """
    # Without O_NONBLOCK, opening a named pipe waits for a writer.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow_symlinks else os.O_NOFOLLOW)
    descriptor = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotRegularError(f"{path} is not a regular file")
    return descriptor


def open_own(path: str | Path) -> int:
    """Open a regular file of this user, itself and not what a link leads to; what others wrote is not believed.

    Raises:
        NotRegularError: for anything but a regular file of this user.
        OSError: when it cannot be opened.
    """
    descriptor = open_regular(path, follow_symlinks=False)
    if os.fstat(descriptor).st_uid != os.geteuid():
        os.close(descriptor)
        raise NotRegularError(f"{path} is another user's")
    return descriptor


def read_at(descriptor: int, offset: int, length: int) -> bytes:
    """Read `length` bytes at an offset; fewer only at the end of the file."""
    content = os.pread(descriptor, length, offset)
    while len(content) < length:
        more = os.pread(descriptor, length - len(content), offset + len(content))
        if not more:
            break
        content += more
    return content
