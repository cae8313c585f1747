"""What the errors of LMDB and of the system mean for a journal.

Every foreign error has one meaning, and one further bit: whether it is one of the disk. After such an error nothing that
is in memory can be trusted, and every holder of the open file has to close it (`journal.storage.environment`).
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import lmdb

from journal.errors import (
    JournalDamagedError,
    JournalError,
    JournalFilesystemError,
    JournalFullError,
    JournalIOError,
    JournalMissingError,
    JournalPermissionError,
)

_NEARLY_FULL_BYTES: Final = 1 << 20


@contextmanager
def translating_errors(path: Path, doing: str) -> Iterator[None]:
    """Turn LMDB's and the system's errors into ours.

    Raises:
        JournalFullError: Disk, quota or map are full.
        JournalPermissionError: No permission, or a read-only file system.
        JournalDamagedError: LMDB found damage.
        JournalFilesystemError: Locks do not work here.
        JournalMissingError: No such file.
        JournalIOError: Anything else that the system or LMDB failed.
    """
    try:
        yield
    except (lmdb.Error, OSError) as error:
        raise to_journal_error(error, path, doing)[0] from error


def to_journal_error(error: Exception, path: Path, doing: str) -> tuple[JournalError, bool]:
    """Our error for a foreign one, and whether it is one of the disk, after which nothing in memory can be trusted."""
    what = f"{path}: {doing} failed: {error}"
    match error:
        case lmdb.MapFullError():
            return JournalFullError(
                what, hint="the reserved map is full: export the journal into a new one"
            ), False
        case (
            lmdb.CorruptedError()
            | lmdb.PageNotFoundError()
            | lmdb.InvalidError()
            | lmdb.VersionMismatchError()
            | lmdb.PanicError()
            | lmdb.IncompatibleError()
            | lmdb.NotFoundError()
            | lmdb.BadChecksumError()
            | lmdb.BadValsizeError()
            | lmdb.BadTxnError()
            | lmdb.BadDbiError()
            | lmdb.ProblemError()
            | lmdb.KeyExistsError()
            | lmdb.CursorFullError()
            | lmdb.PageFullError()
        ):
            return JournalDamagedError(what), True
        case lmdb.ReadonlyError():
            return JournalPermissionError(
                what, hint="run as the owner of the cache, on a writable file system"
            ), False
        case lmdb.LockError() | lmdb.BadRslotError() | lmdb.ReadersFullError() | lmdb.TlsFullError():
            return JournalFilesystemError(
                what, hint="end processes that read the journal, or check its lock file"
            ), False
        case lmdb.DiskError():
            return _full(what), True
        case lmdb.Error() | OSError():
            # An lmdb.Error that Python code made instead of LMDB has no code.
            code = error.errno if isinstance(error, OSError) else getattr(error, "code", 0)
            return _by_errno(code or 0, what, path)
        case _:
            return JournalIOError(what), True


def _by_errno(code: int, what: str, path: Path) -> tuple[JournalError, bool]:
    match code:
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            return _full(what), True
        case errno.EIO if _nearly_full(path):
            # LMDB reports a write that the full disk cut short as an input/output error.
            return _full(what), True
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return JournalPermissionError(
                what, hint="run as the owner of the cache, on a writable file system"
            ), False
        case errno.ENOENT:
            return JournalMissingError(what, hint="check the path of the cache"), False
        case errno.ENOLCK | errno.EOPNOTSUPP:
            return JournalFilesystemError(what, hint="put the cache on a local disk"), False
        case _:
            return JournalIOError(what, hint="check the system log for disk errors"), True


def _full(what: str) -> JournalFullError:
    return JournalFullError(what, hint="free some space and run it again; nothing that was committed is lost")


def _nearly_full(path: Path) -> bool:
    try:
        about = os.statvfs(path.parent)
    except OSError:
        return False
    return about.f_bavail * about.f_frsize < _NEARLY_FULL_BYTES
