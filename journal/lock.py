"""The build lock: one build at a time for one cache.

The lock is `flock` on a file that is never deleted: deleting it while it is held would let a second process
lock a new file of the same name. The kernel frees the lock when the process ends, however it ends, so that no
lock can be stale. What is written in the file is for people only.

The holder also keeps a record lock (`F_OFD_SETLK`) on the first byte, so that others can ask who holds the
lock (`F_OFD_GETLK`) without taking anything. Asking with `flock`, even shared and for a moment, could make a
real attempt fail.
"""

import errno
import fcntl
import json
import os
import struct
import weakref
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Final, TypeAlias

from journal import errors
from journal.lock_wait import LockWait
from journal.regular_file import is_wrong_file_type, open_regular

Holder: TypeAlias = dict[str, object]
"""What the holder writes: pid, host, boot_id, since (UTC, ISO 8601), build (or None), command."""

_MAX_DOCUMENT_BYTES: Final = 1 << 16
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_FLOCK_STRUCT: Final = struct.Struct(
    "hhqqi4x"
)  # struct flock on 64-bit Linux: type, whence, start, length, pid

_locks_held: "weakref.WeakSet[BuildLock]" = weakref.WeakSet()


class BuildLock:
    """An exclusive lock on a path, as a context manager. Not reentrant; do not share it between threads.

    Attributes:
        path: The lock file, created if it is missing and never deleted.
        timeout_s: How long to try, in seconds; 0 tries once.
        check_interval: Pause between two attempts, in seconds.
        command: What the holder is doing, for the message to others.
    """

    def __init__(
        self, path: Path, *, timeout_s: float = 5.0, check_interval: float = 0.01, command: str = ""
    ) -> None:
        self.path = Path(path)
        self.timeout_s = timeout_s
        self.check_interval = check_interval
        self.command = command
        self._fd: int | None = None
        self._document: Holder = {}

    @property
    def acquired(self) -> bool:
        """Whether this object holds the lock now."""
        return self._fd is not None

    def acquire(self) -> None:
        """Take the lock, or give up after `timeout_s`.

        A wait of more than half a second is logged once, as a warning: without a handler for it, on standard error.

        Raises:
            BuildLockHeldError: Another process, or another object of this process, holds it; the message
                names it.
            JournalMisuseError: This object holds it already.
            JournalPermissionError: The file cannot be opened for writing.
            JournalFilesystemError: The path is no regular file, or the file system has no locks.
        """
        if self._fd is not None:
            raise errors.JournalMisuseError(
                f"the build lock {self.path} is already held by this object", hint="release it first"
            )
        wait = LockWait(self.timeout_s, check_interval_s=self.check_interval, describe=self._described)
        while (fd := self._try_to_lock()) is None:
            if not wait.pause():
                raise self._held_error()
        self._fd = fd
        try:
            _locks_held.add(self)
            self._document = {
                "pid": os.getpid(),
                "host": os.uname().nodename,
                "boot_id": boot_id(),
                "since": _now(),
                "build": None,
                "command": self.command,
            }
            self._write_document()
        except BaseException:
            # If entering fails, `__exit__` never runs: an interruption must not keep the lock.
            self.release()
            raise

    def describe(self, *, build: int | None) -> None:
        """Say which build the lock is held for.

        Raises:
            JournalMisuseError: The lock is not held.
        """
        if self._fd is None:
            raise errors.JournalMisuseError(
                f"the build lock {self.path} is not held", hint="acquire it first"
            )
        self._document["build"] = build
        self._write_document()

    def release(self) -> None:
        """Free the lock; without effect if it is not held. The file stays."""
        fd, self._fd = self._fd, None
        _locks_held.discard(self)
        if fd is not None:
            # Empty the file first, so that it does not name this holder any longer. A disk error must neither
            # keep the lock nor hide the result of the work done under it; `close` frees the lock even when it
            # fails.
            with suppress(OSError):
                os.ftruncate(fd, 0)
            with suppress(OSError):
                os.close(fd)

    def __enter__(self) -> "BuildLock":  # noqa: PYI034 - `Self` came with Python 3.11
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def _try_to_lock(self) -> int | None:
        """Return a descriptor that holds the lock on the file at the path; None if another holds it."""
        import portalocker  # noqa: PLC0415 - slow, and who asks for the holder does not need it

        try:
            fd = _open(self.path, os.O_RDWR | os.O_CREAT)
        except FileNotFoundError as error:
            raise errors.JournalMissingError(
                f"{self.path}: a folder for the lock file expected, there is none",
                hint="create the cache first",
            ) from error
        taken = False
        try:
            portalocker.lock(fd, portalocker.LOCK_EX | portalocker.LOCK_NB)
            # If the file was replaced between open and lock, no other process would see this lock.
            if _is_still_at(fd, self.path):
                fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK_STRUCT.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0))
                taken = True
        except portalocker.AlreadyLocked:
            pass
        except portalocker.LockException as error:
            raise errors.JournalFilesystemError(
                f"{self.path}: a lock was expected to be possible, the file system answered: {error}",
                hint="keep the cache on a local ext4, xfs, btrfs, f2fs or tmpfs",
            ) from error
        finally:
            # Also when interrupted: a leaked descriptor would hold the lock as long as the process lives.
            if not taken:
                with suppress(OSError):
                    os.close(fd)
        return fd if taken else None

    def _write_document(self) -> None:
        if self._fd is None:
            return
        data = json.dumps(self._document).encode()
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, data, 0)
        except OSError:
            # The document only informs people; a full disk must not keep `c10 gc` from freeing space.
            return

    def _described(self) -> str:
        return f"the build lock {str(self.path)!a}, held {_printable(_named(_read_document(self.path)))}"

    def _held_error(self) -> errors.BuildLockHeldError:
        holder = _read_document(self.path)
        found = _named(holder)
        return errors.BuildLockHeldError(
            f"the build lock {self.path} was expected to be free within {self.timeout_s:g} s, it is held {found}",
            holder=holder,
            hint="wait for that process, or end it: the lock goes with it",
        )


def _printable(text: str) -> str:
    """Return a text that others wrote, without what a terminal would obey."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def _named(holder: Holder | None) -> str:
    """Return what to say of who holds the lock."""
    if holder is None:
        return "by a process that has not written who it is"
    found = f"by pid {holder.get('pid')} on {holder.get('host')} since {holder.get('since')}"
    if holder.get("build") is not None:
        found += f", build {holder.get('build')}"
    if holder.get("command"):
        found += f" ({holder.get('command')})"
    return found


def _now() -> str:
    """Return the time as text; empty for a clock that is wrong by millennia."""
    try:
        return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    except (OverflowError, ValueError):
        return ""


def lock_holder(path: Path) -> Holder | None:
    """Return who holds the build lock, without taking it and without waiting.

    Returns:
        None if nobody holds it, else what the holder wrote about itself (empty if nothing yet). The answer
        may be
        out of date at once.

    Raises:
        JournalPermissionError: The lock file exists and cannot be read.
    """
    try:
        fd = _open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _FLOCK_STRUCT.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0))
    finally:
        os.close(fd)
    if _FLOCK_STRUCT.unpack(answer)[0] == fcntl.F_UNLCK:
        return None
    return _read_document(path) or {}


def _open(path: Path, flags: int) -> int:
    try:
        return open_regular(path, flags)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _cannot_open(path, error) from error


def _cannot_open(path: Path, error: OSError) -> errors.JournalError:
    if is_wrong_file_type(error):
        return errors.JournalFilesystemError(
            f"{path}: a regular file expected as lock file, found something else",
            hint=f"move {path} away, then run it again: it is created again",
        )
    match error.errno:
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return errors.JournalPermissionError(
                f"expected permission to open the lock file {path}, found: {error.strerror}",
                hint="run as the owner of the cache, on a writable file system",
            )
        case errno.ENOSPC | errno.EDQUOT:
            return errors.JournalFullError(f"{path}: no space for the lock file", hint="free some space")
        case _:
            return errors.io_error(f"{path}: the lock file cannot be opened: {error.strerror}", error)


def _is_still_at(fd: int, path: Path) -> bool:
    try:
        named = path.lstat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(fd), named)


def _read_document(path: Path) -> Holder | None:
    try:
        fd = _open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        document = json.loads(os.read(fd, _MAX_DOCUMENT_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    finally:
        os.close(fd)
    return dict(document) if isinstance(document, Mapping) else None


def boot_id() -> str:
    """Return the kernel's boot id, empty if there is none. Monotonic times are comparable within one boot."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _close_in_child() -> None:
    # A forked child shares the lock with its parent and would keep it after the parent died. Closing the
    # child's descriptor leaves the parent's lock as it is.
    for lock in list(_locks_held):
        if lock._fd is not None:  # noqa: SLF001  (the hook is part of this module)
            os.close(lock._fd)  # noqa: SLF001
            lock._fd = None  # noqa: SLF001
    _locks_held.clear()


os.register_at_fork(after_in_child=_close_in_child)
