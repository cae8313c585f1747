"""Open regular files only: never through a symbolic link, never a folder, device or pipe.

`store.files.regular_file` does the same for the other packages. There are two modules because the journal
does not import the store, and the aircraft's code does not import the journal.
"""

import errno
import os
import stat
from typing import Final

_WRONG_TYPE_ERRNOS: Final = frozenset({errno.ELOOP, errno.EISDIR, errno.ENXIO})


class NotRegularError(OSError):
    """What was opened is not a regular file."""


def open_regular(path: str | os.PathLike[str], flags: int = os.O_RDONLY) -> int:
    """Open a regular file and return its descriptor, which the caller closes. What it creates has mode 0644.

    Raises:
        NotRegularError: It is a folder, a pipe or a device.
        OSError: It cannot be opened; `is_wrong_file_type` recognises a link or a socket.
    """
    # Without O_NONBLOCK, opening a named pipe waits for the other side.
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise NotRegularError(f"{os.fspath(path)} is not a regular file")
    return fd


def is_wrong_file_type(error: OSError) -> bool:
    """Return whether `open_regular` failed because a link, folder, pipe, socket or device has the name."""
    return isinstance(error, NotRegularError) or error.errno in _WRONG_TYPE_ERRNOS
