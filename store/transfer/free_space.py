"""Refuse a long copy for which there is no room."""

import shutil
from pathlib import Path

from store.errors import DiskFullError, ErrorKind, from_os_error


def require_space(folder: Path, needed: int) -> None:
    """Make sure that a folder's file system has so many bytes free.

    Raises:
        DiskFullError: It has not.
        CacheUnusableError: It cannot be asked.
    """
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise from_os_error(error, f"folder {folder}") from error
    if needed > free:
        raise DiskFullError(
            f"expected {needed} bytes of free space in {folder}, found {free}",
            kind=ErrorKind.DISK_FULL,
            hint="free disk space there, then run it again",
        )
