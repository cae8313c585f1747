"""The build lock: one build at a time for one cache, held by the kernel for as long as the process lives.

The lock is `flock` on a file that is never deleted: deleting it while it is held would let a second process lock a
new file of the same name. The kernel frees it when the last descriptor is closed, however the process ended, so there
is nothing to unlock by hand and no guess about stale locks. What is written inside the file is for people only.

Beside the `flock`, the holder keeps a record lock (`F_OFD_SETLK`) on the first byte, with the same life time, whose one
purpose is that others can ask for it (`F_OFD_GETLK`) without taking anything. A probe that took the `flock`, if only
shared and for a moment, could make a real attempt fail.
"""

import errno
import fcntl
import json
import os
import socket
import struct
import time
import weakref
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeAlias

import portalocker

from journal.errors import (
    BuildLockHeldError,
    JournalError,
    JournalFilesystemError,
    JournalFullError,
    JournalIOError,
    JournalMissingError,
    JournalMisuseError,
    JournalPermissionError,
)
from journal.regular_file import names_something_else, open_regular

Holder: TypeAlias = dict[str, object]
"""What a holder says about itself: pid, host, boot_id, since (UTC, ISO 8601), build (or None), command."""

_MAX_DOCUMENT_BYTES: Final = 1 << 16
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_FLOCK: Final = struct.Struct("hhqqi4x")  # struct flock on 64-bit Linux: type, whence, start, length, pid

_held: "weakref.WeakSet[BuildLock]" = weakref.WeakSet()


class BuildLock:
    """Exclusive lock on a path, as a context manager; not reentrant, not for sharing between threads.

    Attributes:
        path: The lock file. It is made if it is missing and never deleted.
        timeout_s: How long to try, in seconds; 0 tries once.
        check_interval: Pause between two attempts, in seconds.
        command: What the holder is doing, for the message that others get.
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

        Raises:
            BuildLockHeldError: Another process (or another object of this one) holds it; the message names it.
            JournalMisuseError: This object holds it already.
            JournalPermissionError: The file cannot be opened for writing.
            JournalFilesystemError: The path is no regular file, or the file system has no locks.
        """
        if self._fd is not None:
            raise JournalMisuseError(
                f"the build lock {self.path} is already held by this object", hint="release it first"
            )
        deadline = time.monotonic() + self.timeout_s
        while True:
            fd = self._attempt()
            if fd is not None:
                break
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise self._held_error()
            time.sleep(min(self.check_interval, remaining))
        self._fd = fd
        try:
            _held.add(self)
            self._document = {
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "boot_id": boot_id(),
                "since": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "build": None,
                "command": self.command,
            }
            self._write()
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
            raise JournalMisuseError(f"the build lock {self.path} is not held", hint="acquire it first")
        self._document["build"] = build
        self._write()

    def release(self) -> None:
        """Free the lock; without effect if it is not held. The file stays."""
        fd, self._fd = self._fd, None
        _held.discard(self)
        if fd is not None:
            # Emptied first, so that the next holder does not read about this one. A disk that fails must
            # neither keep the lock nor hide what the work under it came to; `close` frees it even where it fails.
            with suppress(OSError):
                os.ftruncate(fd, 0)
            with suppress(OSError):
                os.close(fd)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def _attempt(self) -> int | None:
        """An open descriptor that holds the lock on the file that has the path now; None if another holds it."""
        try:
            fd = _open(self.path, os.O_RDWR | os.O_CREAT)
        except FileNotFoundError as error:
            raise JournalMissingError(
                f"{self.path}: a folder for the lock file expected, there is none",
                hint="make the cache first",
            ) from error
        taken = False
        try:
            portalocker.lock(fd, portalocker.LOCK_EX | portalocker.LOCK_NB)
            # A file that was replaced between open and lock would be a lock that no other process sees.
            if _has_path(fd, self.path):
                fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0))
                taken = True
        except portalocker.AlreadyLocked:
            pass
        except portalocker.LockException as error:
            raise JournalFilesystemError(
                f"{self.path}: a lock was expected to be possible, the file system answered: {error}",
                hint="keep the cache on a local ext4, xfs, btrfs, f2fs or tmpfs",
            ) from error
        finally:
            # Also when interrupted: a leaked descriptor would keep the lock as long as the process lives.
            if not taken:
                with suppress(OSError):
                    os.close(fd)
        return fd if taken else None

    def _write(self) -> None:
        if self._fd is None:
            return
        data = json.dumps(self._document).encode()
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, data, 0)
        except OSError:
            # The document helps people and protects nothing; a full disk must not keep `gc` from freeing space.
            return

    def _held_error(self) -> BuildLockHeldError:
        holder = _read_document(self.path)
        if holder is None:
            found = "by a process that has not said who it is"
        else:
            found = f"by pid {holder.get('pid')} on {holder.get('host')} since {holder.get('since')}"
            if holder.get("build") is not None:
                found += f", build {holder.get('build')}"
            if holder.get("command"):
                found += f" ({holder.get('command')})"
        return BuildLockHeldError(
            f"the build lock {self.path} was expected to be free within {self.timeout_s:g} s, it is held {found}",
            holder=holder,
            hint="wait for that process, or end it: the lock goes with it",
        )


def lock_holder(path: Path) -> Holder | None:
    """Return who holds the build lock, without taking it and without waiting.

    Returns:
        None if nobody holds it, else what the holder wrote about itself (empty if it has not written yet).
        The answer may be out of date as soon as it is given.

    Raises:
        JournalPermissionError: The lock file exists and cannot be read.
    """
    try:
        fd = _open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0))
    finally:
        os.close(fd)
    if _FLOCK.unpack(answer)[0] == fcntl.F_UNLCK:
        return None
    return _read_document(path) or {}


def _open(path: Path, flags: int) -> int:
    try:
        return open_regular(path, flags)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _cannot_open(path, error) from error


def _cannot_open(path: Path, error: OSError) -> JournalError:
    if names_something_else(error):
        return JournalFilesystemError(
            f"{path}: a regular file expected as lock file, found something else",
            hint=f"move {path} away, then run it again: it is created again",
        )
    match error.errno:
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return JournalPermissionError(
                f"expected permission to open the lock file {path}, found: {error.strerror}",
                hint="run as the owner of the cache, on a writable file system",
            )
        case errno.ENOSPC | errno.EDQUOT:
            return JournalFullError(f"{path}: no space for the lock file", hint="free some space")
        case _:
            return JournalIOError(f"{path}: the lock file cannot be opened: {error.strerror}")


def _has_path(fd: int, path: Path) -> bool:
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
    """What the kernel calls its present run; monotonic times are comparable within one. Empty if it does not say."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _drop_in_child() -> None:
    # A forked child shares the lock with its parent and would keep it alive after the parent died. Closing the
    # child's descriptor leaves the parent's lock as it is.
    for lock in list(_held):
        if lock._fd is not None:  # noqa: SLF001  (the hook is part of this module)
            os.close(lock._fd)  # noqa: SLF001
            lock._fd = None  # noqa: SLF001
    _held.clear()


os.register_at_fork(after_in_child=_drop_in_child)
