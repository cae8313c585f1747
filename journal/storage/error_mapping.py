"""Map errors of LMDB and of the operating system to errors of the journal.

After a disk error the contents of memory cannot be trusted, and the environment must be closed
(`journal.storage.environment`). So each mapping also says whether the error is a disk error.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import lmdb

from journal import errors

_NEARLY_FULL_BYTES: Final = 1 << 20


@contextmanager
def translating_errors(path: Path, doing: str) -> Iterator[None]:
    """Raise errors of LMDB and the system in the block as errors of the journal.

    Raises:
        JournalFullError: Disk, quota or map is full.
        JournalPermissionError: No permission, or a read-only file system.
        JournalDamagedError: LMDB found damage.
        JournalFilesystemError: Locks do not work here.
        JournalMissingError: No such file.
        JournalResourcesError: Too little memory or address space, or too few open files.
        JournalIOError: Any other error.
    """
    try:
        yield
    except (lmdb.Error, OSError) as error:
        raise to_journal_error(error, path, doing)[0] from error


def to_journal_error(error: Exception, path: Path, doing: str) -> tuple[errors.JournalError, bool]:
    """Return the journal's error for an error of LMDB or the system, and whether it is a disk error."""
    what = f"{path}: {doing} failed: {error}"
    match error:
        case lmdb.MapFullError():
            return errors.JournalFullError(
                what,
                hint="a journal holds at most 64 GiB: build into a new cache; this one can still be read",
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
            return errors.JournalDamagedError(what), True
        case lmdb.ReadonlyError():
            return errors.JournalPermissionError(
                what, hint="run as the owner of the cache, on a writable file system"
            ), False
        case lmdb.LockError():
            return errors.JournalFilesystemError(
                what,
                hint="end processes that use the journal; containers that share it need one PID namespace, because"
                " LMDB knows processes by their numbers",
            ), False
        case lmdb.BadRslotError() | lmdb.ReadersFullError() | lmdb.TlsFullError():
            return errors.JournalFilesystemError(
                what, hint="end processes that read the journal, or check its lock file"
            ), False
        case lmdb.DiskError():
            return _full(what), True
        case lmdb.Error() | OSError():
            # An lmdb.Error that the Python binding raised itself has no code.
            code = error.errno if isinstance(error, OSError) else getattr(error, "code", 0)
            return _by_errno(OSError(code or 0, what), what, path)
        case _:
            return errors.JournalIOError(what), True


def _by_errno(error: OSError, what: str, path: Path) -> tuple[errors.JournalError, bool]:
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            return _full(what), True
        case errno.EIO if _nearly_full(path):
            # LMDB reports a write that a full disk cut short as an input/output error.
            return _full(what), True
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return errors.JournalPermissionError(
                what, hint="run as the owner of the cache, on a writable file system"
            ), False
        case errno.ENOENT:
            return errors.JournalMissingError(what, hint="check the path of the cache"), False
        case errno.ESTALE:
            hint = f"leave {path.name}-lock alone while a process has the journal open; then run it again"
            return errors.JournalIOError(what, hint=hint), True
        case errno.ENOLCK | errno.EOPNOTSUPP:
            return errors.JournalFilesystemError(what, hint="put the cache on a local disk"), False
        case _:
            ours = errors.io_error(what, error, hint="check the system log for disk errors")
            return ours, not isinstance(ours, errors.JournalResourcesError)


def _full(what: str) -> errors.JournalFullError:
    return errors.JournalFullError(
        what, hint="free some space and run it again; nothing that was committed is lost"
    )


def _nearly_full(path: Path) -> bool:
    try:
        about = os.statvfs(path.parent)
    except OSError:
        return False
    return about.f_bavail * about.f_frsize < _NEARLY_FULL_BYTES
