"""Refuse to write where a cache cannot be or is not safe, or where something has taken the place of its folders.

Through such a link, files would be written, and scratch files removed, outside of the cache. C10 never creates one, so
every writer refuses it and `c10 repair` moves it to quarantine.
"""

import os
from pathlib import Path

from store.disk.layout import FOLDERS, Layout
from store.disk.quarantine import move_to_quarantine
from store.disk.repair_commands import repairing
from store.errors import CacheUnusableError, ErrorKind, TranslateOSErrors
from store.files.permissions import refuse_world_writable, writable_folders_at


def refuse_unfit_folder(layout: Layout) -> None:
    """Refuse to write on a file system that cannot hold a cache, or to a cache that anybody may write to.

    The file system comes first: on one without permissions, everything looks as if anybody may write to it.

    Raises:
        journal.JournalFilesystemError, CacheUnusableError: What is wrong; nothing was written.
    """
    if not layout.exists() or writable_folders_at(layout.root):
        layout.require_filesystem()
    refuse_world_writable(layout.root)


def misplaced_folders(layout: Layout) -> tuple[Path, ...]:
    """Return the paths of cache folders at which something else is; a missing folder is not one of them."""
    paths = (layout.root / name for name in FOLDERS)
    return tuple(path for path in paths if path.is_symlink() or (path.exists() and not path.is_dir()))


def refuse_symlinked_folders(layout: Layout) -> None:
    """Refuse to write to a cache in which something else is in the place of a folder.

    Raises:
        CacheUnusableError: Names the first of them, and what repairs it.
    """
    for path in misplaced_folders(layout):
        raise CacheUnusableError(
            f"expected a folder of the cache as {path}, found a link or a file in its place; nothing was written",
            kind=ErrorKind.FILE_SYSTEM,
            hint=repairing(layout)
            if os.path.lexists(layout.journal)
            else f"move {path} away, then run it again",
        )


def free_displaced(layout: Layout) -> tuple[tuple[str, str], ...]:
    """Set aside what has the place of a folder; the caller holds the build lock.

    Returns:
        Per folder, its name and where what lay there is kept, relative to the cache.

    Raises:
        StoreError: It cannot be moved; the rest is as it was.
    """
    found, kept = misplaced_folders(layout), list[tuple[str, str]]()
    with TranslateOSErrors(f"cache {layout.root}"):
        beside = _beside(layout) if layout.quarantine in found else None
        if found:
            layout.quarantine.mkdir(exist_ok=True, mode=0o755)
        for path in found:
            at = beside if beside is not None and path == layout.quarantine else path
            kept.append((path.name, move_to_quarantine(layout, at)))
    return tuple(kept)


def _beside(layout: Layout) -> Path:
    """Free the name of the quarantine, within which it cannot be kept, and return where what had it lies now."""
    number = 0
    while os.path.lexists(beside := layout.root / f"{layout.quarantine.name}.{number}"):
        number += 1
    os.link(layout.quarantine, beside, follow_symlinks=False)
    layout.quarantine.unlink()
    return beside
