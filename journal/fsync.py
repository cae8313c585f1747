"""Make files and the names of files survive a power cut.

On POSIX, `fsync` of a file makes its bytes durable and says nothing about its name; the name belongs to the
folder and needs an `fsync` of that. An error of `fsync` is reported once: after one, write the bytes again
instead of syncing again. A device that acknowledges a flush it did not do cannot be noticed from here.
"""

import os
from pathlib import Path

from journal.regular_file import open_regular


def fsync_dir(folder: int | str | os.PathLike[str]) -> None:
    """Make the names in a folder durable.

    Args:
        folder: Path of the folder, or an open descriptor of it (which stays open).

    Raises:
        OSError: The folder cannot be opened or synced.
    """
    if isinstance(folder, int):
        os.fsync(folder)
        return
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def fsync_file(path: str | os.PathLike[str]) -> None:
    """Make the bytes of an existing file durable; its name is the business of `fsync_dir`.

    Args:
        path: A file that this user may read. A symbolic link is refused.

    Raises:
        OSError: The file cannot be opened or synced.
    """
    fd = open_regular(path)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def link_durably(source: Path, target: Path) -> None:
    """Give a finished file its name: sync the file, link it, sync the folder of the new name.

    The new name appears with the complete content or not at all, and an existing name is never replaced.

    Args:
        source: The finished file, on the same file system.
        target: The name it gets; its folder exists.

    Raises:
        FileExistsError: The name is taken.
        OSError: The link or a sync failed; `EPERM`, `EXDEV` and `EOPNOTSUPP` mean that hard links do not work here.
    """
    fsync_file(source)
    os.link(source, target, follow_symlinks=False)
    fsync_dir(target.parent)
