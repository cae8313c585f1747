"""The scratch folder of a cache: unfinished files, and a reserve of disk space.

The reserve is a file of allocated space. It is given up when the disk is full, so that a failure can still be recorded.
"""

import os
import stat
from pathlib import Path
from typing import Final

from store.disk.layout import Layout
from store.errors import DISK_FULL, DiskFullError, from_os_error
from store.files.regular_file import open_regular

RESERVE_NAME: Final = "reserve"


def holds_leftovers(layout: Layout) -> bool:
    """Return whether the scratch folder holds anything but the reserve.

    Raises:
        OSError: It cannot be listed.
    """
    return layout.scratch.is_dir() and not all(_is_reserve(layout, path) for path in layout.scratch.iterdir())


def clear_scratch(layout: Layout) -> None:
    """Remove everything but the reserve from the scratch folder; the caller knows that nobody writes there.

    Raises:
        OSError: Something cannot be removed.
    """
    # `os.walk` follows a link that it is given: what lies where it leads is not scratch.
    for folder, names, files in () if layout.scratch.is_symlink() else os.walk(layout.scratch, topdown=False):
        at = Path(folder)
        for name in files:
            if not _is_reserve(layout, at / name):
                (at / name).unlink(missing_ok=True)
        for name in names:
            path = at / name
            path.unlink(missing_ok=True) if path.is_symlink() else path.rmdir()


def fill_reserve(layout: Layout, size: int) -> bool:
    """Allocate `size` bytes of disk space, or as much as there is; return whether the reserve grew.

    Raises:
        CacheUnusableError: The file cannot be written.
    """
    path = layout.scratch / RESERVE_NAME
    try:
        fd = open_regular(path, os.O_CREAT | os.O_WRONLY, mode=0o600)
        try:
            before = os.fstat(fd).st_size
            while size > os.fstat(fd).st_size and not _allocate(fd, size):
                size //= 2
            return os.fstat(fd).st_size > before
        finally:
            os.close(fd)
    except OSError as error:
        found = from_os_error(error, f"disk reserve in {layout.scratch}")
        if not isinstance(found, DiskFullError):
            raise found from error
        return False


def release_reserve(layout: Layout) -> bool:
    """Give up the reserve, if the disk allows it; return whether there was one."""
    try:
        (layout.scratch / RESERVE_NAME).unlink()
    except OSError:
        return False
    return True


def _is_reserve(layout: Layout, path: Path) -> bool:
    """Return whether a path is the reserve: what else has its name cannot be filled, and goes with the rest."""
    if path != layout.scratch / RESERVE_NAME:
        return False
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:  # released meanwhile
        return True


def _allocate(fd: int, size: int) -> bool:
    """Allocate so many bytes; return whether the disk has them."""
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        os.ftruncate(fd, 0)
        return False
    return True
