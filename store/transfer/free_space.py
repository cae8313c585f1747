"""Refuse a long copy for which there is no room."""

import shutil
from pathlib import Path

from store.errors import DiskFullError, ErrorKind, TranslateOSErrors


def require_space(folder: Path, needed: int) -> None:
    """Make sure that a folder's file system has so many bytes free.

    Raises:
        DiskFullError: It has not.
        CacheUnusableError: It cannot be asked.
    """
    with TranslateOSErrors(f"folder {folder}"):
        free = shutil.disk_usage(folder).free
    if needed > free:
        raise DiskFullError(
            f"expected {needed:,} bytes of free space in {folder}, found {free:,}",
            kind=ErrorKind.DISK_FULL,
            hint="free disk space there, then run it again",
        )
