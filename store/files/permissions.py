"""Find folders of a cache that other users may write to, and refuse to write to such a cache.

Signatures and digests keep foreign content out, but not foreign files: a user who may write can disable a
cache and race against a build in it. Permissions on a medium that is mounted read-only mean nothing. A folder
that a group may write to is its owner's decision; `c10 verify` mentions it.
"""

import os
import shlex
import stat
from pathlib import Path
from typing import Final

from store.errors import CacheUnusableError, ErrorKind, from_os_error, is_shortage

_FOLDERS: Final = (".", "artifacts", "manifests")
_WITHOUT_PERMISSIONS: Final = frozenset({"vfat", "msdos", "exfat", "fuseblk", "ntfs", "ntfs3"})
"""File systems, by the kernel's names, in which whoever mounts them says what the permissions are. exFAT and NTFS
are `fuseblk`, if a program reads them."""


def writable_folders(folder: int, *, permission: int = stat.S_IWOTH) -> tuple[str, ...]:
    """Return a reason for each folder of a cache that others may write to.

    Args:
        folder: Descriptor of the cache's folder.
        permission: The mode bit to look for: all other users (`stat.S_IWOTH`) or the group (`stat.S_IWGRP`).
    """
    if os.fstatvfs(folder).f_flag & os.ST_RDONLY:
        return ()
    found, who = [], "anybody" if permission == stat.S_IWOTH else "its group"
    for name in _FOLDERS:
        try:
            mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        except OSError as error:
            if is_shortage(error):
                raise from_os_error(error, name) from error
            continue
        if stat.S_ISDIR(mode) and mode & permission:
            subject = "cache folder" if name == "." else f"folder {name}"
            found.append(
                f"{subject}: expected one that its owner alone writes to, found that {who} may write to it"
            )
    return tuple(found)


def writable_folders_at(root: Path, *, permission: int = stat.S_IWOTH) -> tuple[str, ...]:
    """Do the same as `writable_folders` for a path; return nothing if there is no such folder.

    Raises:
        CacheUnusableError: This process lacks memory or open files to find out.
    """
    try:
        folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        if is_shortage(error):
            raise from_os_error(error, str(root)) from error
        return ()
    try:
        return writable_folders(folder, permission=permission)
    finally:
        os.close(folder)


def mount_without_permissions(path: str | os.PathLike[str]) -> str:
    """Return the kernel's name of a path's file system, if chmod changes nothing there; else an empty text."""
    try:
        device = Path(path).stat().st_dev
        wanted = f"{os.major(device)}:{os.minor(device)}"
        for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
            mount, _, system = line.partition(" - ")
            if mount.split()[2] == wanted:
                name = system.split()[0]
                return name if name in _WITHOUT_PERMISSIONS else ""
    except (OSError, IndexError):
        pass
    return ""


def revoke_writing(root: Path, who: str = "o") -> str:
    """Return what takes the permission to write from others (`o`) or the group (`g`): a command, or another mount."""
    if system := mount_without_permissions(root):
        return f"mount it again with umask=022 (chmod changes nothing on {system})"
    return f"chmod -R {who}-w {shlex.quote(str(root))}"


def refuse_world_writable(root: Path) -> None:
    """Refuse to write to a cache that anybody may write to.

    Raises:
        CacheUnusableError: With the first such folder, and how to fix it.
    """
    reasons = writable_folders_at(root)
    if reasons:
        raise CacheUnusableError(
            f"{root}: {reasons[0]}", kind=ErrorKind.PERMISSION, hint=revoke_writing(root)
        )
