"""Quarantine: what is damaged, or is nobody's, is kept as evidence under a name of its own, and its name is freed.

Nothing is renamed. A file is linked into `quarantine/`, made durable there, and unlinked; a death in between leaves
two names of the same bytes, never none. A folder has no second name, so that it is made again there, file by file.
"""

import os
import stat
from pathlib import Path

from journal.fsync import fsync_dir
from store.disk.layout import Layout

_MAX_NAME = 200
"""Bytes that are kept of a longer name: with the number behind it, it must not be longer than file systems allow."""


def move_to_quarantine(layout: Layout, path: Path) -> str:
    """Free a name below the cache and keep what it named.

    Args:
        layout: The cache.
        path: What is to go: a file, a link, a pipe or a folder with such.

    Returns:
        Where it lies now, relative to the cache.

    Raises:
        OSError: It cannot be moved: another file system is mounted there, or permissions forbid it.
    """
    kept = _free_name(layout.quarantine, path.name)
    if stat.S_ISDIR(path.lstat().st_mode):
        _move_folder(path, kept)
    else:
        os.link(path, kept, follow_symlinks=False)
    fsync_dir(layout.quarantine)
    if stat.S_ISDIR(path.lstat().st_mode):
        path.rmdir()
    else:
        path.unlink()
    fsync_dir(path.parent)
    return str(kept.relative_to(layout.root))


def _free_name(folder: Path, name: str) -> Path:
    number, encoded = 0, os.fsencode(name)
    if len(encoded) > _MAX_NAME:
        name = encoded[:_MAX_NAME].decode(errors="ignore")
    while os.path.lexists(folder / f"{name}.{number}"):
        number += 1
    return folder / f"{name}.{number}"


def _move_folder(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    for entry in sorted(os.scandir(source), key=lambda found: found.name):
        path, kept = Path(entry.path), target / entry.name
        if entry.is_dir(follow_symlinks=False):
            _move_folder(path, kept)
            path.rmdir()
        else:
            os.link(path, kept, follow_symlinks=False)
            fsync_dir(target)
            path.unlink()
    fsync_dir(target)
    fsync_dir(target.parent)
