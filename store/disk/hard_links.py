"""Find out whether a file system has hard links, by which every file gets its name."""

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from store.errors import CacheUnusableError, ErrorKind

_PROBE: Final = ".c10-probe"
_NO_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK})


def require_hard_links(folder: Path, wanted: Path) -> None:
    """Refuse a file system without hard links, before anything is made on it.

    Args:
        folder: An existing folder, in which two files are made and removed.
        wanted: What shall be made, for the error.

    Raises:
        CacheUnusableError: It has none.
    """
    first, second = (folder / name for name in (_PROBE, f"{_PROBE}-linked"))
    _remove(first, second)  # a run that was killed left them
    # Another run tries the same, or nothing can be made here: making the folder says why.
    with suppress(OSError):
        os.close(os.open(first, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        try:
            os.link(first, second)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            raise CacheUnusableError(
                f"expected a file system with hard links in {wanted}, found: {error.strerror}",
                kind=ErrorKind.FILE_SYSTEM,
                hint="use a disk or card with ext4 or f2fs; a bundle may lie anywhere: c10 export -o FILE",
            ) from error
        finally:
            _remove(first, second)


def _remove(*paths: Path) -> None:
    for path in paths:
        with suppress(OSError):
            path.unlink()
