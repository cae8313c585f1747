"""Make files and file names survive a power cut.

On POSIX, `fsync` of a file makes its bytes durable, but not its name: that needs an `fsync` of the folder.
The system reports an error of `fsync` once: after one, write the bytes again instead of syncing again. A
device that acknowledges a flush without doing it cannot be noticed.
"""

import os
from pathlib import Path

from journal.regular_file import open_regular


def fsync_dir(folder: int | str | os.PathLike[str]) -> None:
    """Make the names in a folder durable.

    Args:
        folder: Path of the folder, or its open descriptor, which stays open.

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
    """Make the bytes of an existing file durable; `fsync_dir` does so for its name.

    Args:
        path: A file that this user may read; a symbolic link is refused.

    Raises:
        OSError: The file cannot be opened or synced.
    """
    fd = open_regular(path)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def link_durably(source: Path, target: Path) -> None:
    """Sync a finished file, link it to its name, and sync the folder of that name.

    The name appears with the complete content or not at all; an existing file is never replaced.

    Args:
        source: The finished file, on the same file system.
        target: The new name; its folder exists.

    Raises:
        FileExistsError: The name is taken.
        OSError: The link or a sync failed; `EPERM`, `EXDEV` and `EOPNOTSUPP` mean that hard links do not work
            here.
    """
    fsync_file(source)
    os.link(source, target, follow_symlinks=False)
    fsync_dir(target.parent)
