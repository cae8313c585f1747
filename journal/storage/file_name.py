"""Which file has a name: asked before and after every commit, so asked for nothing else.

Since version 6.13 Linux gives a file exact times only where somebody has read them: whoever asks for all that `os.stat`
tells makes the next write record new ones, which takes a tenth of a durable append. `statx` is told what is wanted;
where there is none to be called, or nothing to call it with, `os.stat` does as well.
"""

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

_statx: Callable[..., int] | None
"""The call, of a C library that has it."""
try:
    import ctypes

    _statx = getattr(ctypes.CDLL(None), "statx", None)
except (ImportError, OSError):  # a Python that was built without libffi, or a C library that is part of it
    _statx = None

_AT_FDCWD: Final = -100
_STATX_INO: Final = 0x100
_STATX: Final = struct.Struct("=I28xQ96xII112x")
"""Which fields were told, the inode, and the two halves of the device, of the 256 bytes that the kernel fills."""


class Name:
    """The name of a file; not for sharing between threads."""

    def __init__(self, path: Path) -> None:
        self._name = os.fsencode(path)
        self._told = None if _statx is None else ctypes.create_string_buffer(_STATX.size)

    def file(self) -> tuple[int, int]:
        """Device and inode of the file that has the name now.

        Raises:
            FileNotFoundError: None has it.
            OSError: It cannot be asked for.
        """
        if (
            _statx is not None
            and self._told is not None
            and _statx(_AT_FDCWD, self._name, 0, _STATX_INO, self._told) == 0
        ):
            told, inode, major, minor = _STATX.unpack(self._told)
            if told & _STATX_INO:
                return os.makedev(major, minor), inode
        # It says what is wrong, or knows where a kernel, a file system or a sandbox lets nobody ask for one thing alone.
        about = os.stat(self._name)  # noqa: PTH116 - of a name in bytes
        return about.st_dev, about.st_ino
