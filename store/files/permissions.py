"""Folders that anybody may write to: what lies there says nothing about who put it there.

Signatures and digests keep foreign content out, but not foreign files: whoever may write can take a cache out of
service, and can try races against those who build in it. Permissions on a medium that is mounted read-only mean
nothing. A folder that a group may write to is its owner's decision; `c10 verify` mentions it.
"""

import os
import shlex
import stat
from pathlib import Path
from typing import Final

from store.errors import CacheUnusableError, ErrorKind, from_os_error, is_shortage

_FOLDERS: Final = (".", "artifacts", "manifests")


def exposed(folder: int, *, to: int = stat.S_IWOTH) -> tuple[str, ...]:
    """Return a reason for each folder of a cache that others may write to.

    Args:
        folder: Descriptor of the cache's folder.
        to: The permission that is looked for: of all users, or of the group (`stat.S_IWGRP`).
    """
    if os.fstatvfs(folder).f_flag & os.ST_RDONLY:
        return ()
    found, who = [], "anybody" if to == stat.S_IWOTH else "its group"
    for name in _FOLDERS:
        try:
            mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        except OSError as error:
            if is_shortage(error):
                raise from_os_error(error, name) from error
            continue
        if stat.S_ISDIR(mode) and mode & to:
            subject = "cache folder" if name == "." else f"folder {name}"
            found.append(
                f"{subject}: expected one that its owner alone writes to, found that {who} may write to it"
            )
    return tuple(found)


def exposed_path(root: Path, *, to: int = stat.S_IWOTH) -> tuple[str, ...]:
    """As `exposed`, for a path; nothing where there is no such folder.

    Raises:
        CacheUnusableError: This process lacks memory or open files, so that nobody knows.
    """
    try:
        folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        if is_shortage(error):
            raise from_os_error(error, str(root)) from error
        return ()
    try:
        return exposed(folder, to=to)
    finally:
        os.close(folder)


def refuse_exposed(root: Path) -> None:
    """Refuse to write to a cache that anybody may write to.

    Raises:
        CacheUnusableError: With the first of the folders, and what mends it.
    """
    reasons = exposed_path(root)
    if reasons:
        raise CacheUnusableError(
            f"{root}: {reasons[0]}", kind=ErrorKind.PERMISSION, hint=f"chmod -R o-w {shlex.quote(str(root))}"
        )
