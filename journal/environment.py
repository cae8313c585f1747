"""Everything that touches LMDB: how it is opened, what its errors mean, and the structural check of a file at rest.

LMDB trusts the pages it maps: reading a damaged file in this process can end it with a signal, which no `except` sees.
So nothing is mapped before `journal.gate` and `check_quiet` have looked at the raw bytes, and what cannot be checked is
read elsewhere (`journal.guard`). This module knows pages, transactions and keys; it does not know records or chains.

Rules of LMDB that are kept here: one environment for a file in a process, never used across `fork`, never on a remote
file system, no long transactions; an environment that met an error of the disk is given up.
"""

import errno
import os
import struct
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Final, cast

import lmdb
from lmdb import verify

from journal.errors import (
    JournalClosedError,
    JournalDamagedError,
    JournalError,
    JournalFilesystemError,
    JournalFullError,
    JournalIOError,
    JournalMissingError,
    JournalMisuseError,
    JournalPermissionError,
)
from journal.gate import gate_open, open_regular

MAP_BYTES: Final = 64 << 30
"""Address space reserved for the file, not disk space. Never resized: that is unsafe while others use the file."""

MAX_NAME_BYTES: Final = 511
ENGINE: Final = b"0.9"

_LIB_0_9: Final = 0
_READERS: Final = 254
_RECORDS, _PROJECTIONS, _META = b"records", b"projections", b"meta"
_KEY: Final = struct.Struct(">Q")
_QUIET_ATTEMPTS: Final = 3
_QUIET_PAUSE_S: Final = 0.005
_GLANCE_S: Final = 0.002
_NEARLY_FULL_BYTES: Final = 1 << 20


class Quiet(Enum):
    """Outcome of `check_quiet`."""

    HEALTHY = auto()
    DAMAGED = auto()
    BUSY = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What the structural check found.

    Attributes:
        outcome: Healthy; damaged; or busy, if somebody kept committing and nothing can be said.
        problems: What is damaged; empty otherwise.
    """

    outcome: Quiet
    problems: tuple[str, ...] = ()


def check_quiet(path: Path, *, attempts: int = _QUIET_ATTEMPTS) -> Check:
    """Check the structure of a journal file on raw bytes, believing the verdict only if nobody committed meanwhile.

    Safe on any file: nothing is mapped. A writer that commits during the check makes sound files look damaged.

    Raises:
        JournalMissingError: There is no such file.
        JournalPermissionError: It cannot be read.
        JournalDamagedError: The gate refused it.
        JournalIOError: Memory, open files or the disk did not suffice to check it.
    """
    with open_regular(path) as fd:
        for attempt in range(attempts):
            if attempt:
                time.sleep(_QUIET_PAUSE_S)
            before = gate_open(fd, path).transactions
            # The walk takes as long as the file is large; a writer that commits within this pause would spoil it.
            time.sleep(_GLANCE_S)
            if gate_open(fd, path).transactions != before:
                continue
            try:
                problems = _structure(fd)
            except (OSError, MemoryError) as error:
                # It says nothing about the file: a sound journal must not be called damaged because memory was short.
                raise JournalIOError(
                    f"{path}: its structure could not be checked: {type(error).__name__}: {error}",
                    hint="look at memory, open files and the system log, then run it again",
                ) from error
            if gate_open(fd, path).transactions == before:
                return Check(outcome=Quiet.DAMAGED if problems else Quiet.HEALTHY, problems=problems)
    return Check(outcome=Quiet.BUSY)


def require_sound(path: Path) -> Quiet:
    """`check_quiet` with damage as an error: what is left is healthy or busy.

    Raises:
        JournalDamagedError: The structure is damaged, or the gate refused the file.
        JournalMissingError: There is no such file.
        JournalPermissionError: It cannot be read.
    """
    check = check_quiet(path)
    if check.outcome is Quiet.DAMAGED:
        raise JournalDamagedError(
            f"{path}: a sound structure expected, {len(check.problems)} problems found, first: {check.problems[0]}",
            problems=check.problems,
        )
    return check.outcome


def _structure(fd: int) -> tuple[str, ...]:
    try:
        # By descriptor, so that the file that is checked is the file that passed the gate.
        problems: list[str] = verify.verify(f"/proc/self/fd/{fd}", subdir=False)  # type: ignore[no-untyped-call]
    except (OSError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001  (a walker over hostile bytes; whatever else stops it is a finding)
        return (f"{type(error).__name__}: {error}",)
    return tuple(problems)


class Environment:
    """An open LMDB file with its three databases. Made by `open_environment`; not for sharing between threads."""

    def __init__(self, env: lmdb.Environment, path: Path, *, readonly: bool, create: bool) -> None:
        self.path = path
        self.readonly = readonly
        self._file = _file_of(path)
        self._env: lmdb.Environment | None = env
        self._pid = os.getpid()
        self._why_closed = "it was closed"
        self._records = env.open_db(_RECORDS, create=create)
        self._projections = env.open_db(_PROJECTIONS, create=create)
        self._meta = env.open_db(_META, create=create)

    @contextmanager
    def read(self) -> Iterator["Reader"]:
        """A read transaction: one consistent state. Keep it short; a long one makes the file grow.

        Raises:
            JournalError: See `translated`.
        """
        env = self._usable()
        with translated(self.path, "reading", self), env.begin() as txn:
            yield Reader(txn, self._records, self._projections, self._meta)

    @contextmanager
    def write(self) -> Iterator["Writer"]:
        """The write transaction: committed and durable when the block ends, rolled back when it raises.

        Whether the file still has its name is asked before and after the commit. Whoever takes a journal out of the
        way unlinks it first and reads it then, and so finds everything that was acknowledged.

        Raises:
            JournalMisuseError: The environment is read-only.
            JournalDamagedError: Another file has taken the name, or none has it; nobody knows what became of the
                transaction if that happened while it was committed.
            JournalError: See `translated`.
        """
        env = self._usable()
        if self.readonly:
            raise JournalMisuseError(
                f"{self.path}: open for reading only", hint="open it with readonly=False"
            )
        with translated(self.path, "writing", self), env.begin(write=True) as txn:
            self._require_named()
            yield Writer(txn, self._records, self._projections, self._meta)
        with translated(self.path, "writing", self):
            self._require_named()

    def _require_named(self) -> None:
        """Refuse to write to a file that lost its name: a journal made again has taken its place.

        Raises:
            JournalDamagedError: The path names another file now, or none.
        """
        try:
            named = _file_of(self.path)
        except FileNotFoundError:
            named = None
        if named != self._file:
            raise JournalDamagedError(
                f"{self.path}: expected the file that was opened, found "
                + ("none" if named is None else "another one in its place"),
                hint="open the journal again",
            )

    def sync(self) -> None:
        """Flush everything to the device; commits do that already."""
        env = self._usable()
        with translated(self.path, "syncing", self):
            env.sync(force=True)

    def abandon(self, why: str) -> None:
        """Close for good, and say why to whoever uses it later. Without effect in a forked child."""
        env, self._env = self._env, None
        if env is None:
            return
        self._why_closed = why
        if os.getpid() == self._pid:
            _open.pop(self._file, None)
            env.close()

    def close(self) -> None:
        """Close; without effect if it is closed."""
        self.abandon("it was closed")

    def _usable(self) -> lmdb.Environment:
        if self._env is None:
            raise JournalClosedError(
                f"{self.path}: an open journal expected, {self._why_closed}", hint="open it again"
            )
        if os.getpid() != self._pid:
            raise JournalMisuseError(
                f"{self.path}: opened by process {self._pid}, used in its fork {os.getpid()}",
                hint="open the journal in the process that uses it, and spawn workers instead of forking",
            )
        return self._env


class Reader:
    """What can be asked inside a transaction."""

    def __init__(
        self,
        txn: "lmdb.Transaction[bytes]",
        records: "lmdb._Database",
        projections: "lmdb._Database",
        meta: "lmdb._Database",
    ) -> None:
        self._txn = txn
        self._records = records
        self._projections = projections
        self._meta = meta

    def last(self) -> tuple[int, bytes] | None:
        """Seq and stored value of the newest record; None if there is none.

        Raises:
            JournalDamagedError: The key is not a seq.
        """
        with self._txn.cursor(self._records) as cursor:
            return (_seq(cursor.key()), cursor.value()) if cursor.last() else None

    def record(self, seq: int) -> bytes | None:
        """Stored value under a seq; None if there is none."""
        return self._txn.get(_KEY.pack(seq), db=self._records)

    def records(self, start: int) -> Iterator[tuple[int, bytes]]:
        """Seq and stored value of the records from `start` on, in order.

        Raises:
            JournalDamagedError: A key is not a seq.
        """
        with self._txn.cursor(self._records) as cursor:
            found = cursor.set_range(_KEY.pack(start))
            while found:
                yield _seq(cursor.key()), cursor.value()
                found = cursor.next()

    def count(self) -> int:
        """Number of records, as LMDB counts them."""
        return self._txn.stat(self._records)["entries"]

    def projection_count(self) -> int:
        """Number of projections, as LMDB counts them."""
        return self._txn.stat(self._projections)["entries"]

    def projection(self, name: bytes) -> bytes | None:
        """Stored value of a projection, seal included; None if there is none."""
        return self._txn.get(name, db=self._projections)

    def projections(self) -> Iterator[tuple[bytes, bytes]]:
        """Names and stored values of all projections, by name."""
        with self._txn.cursor(self._projections) as cursor:
            yield from cursor

    def meta(self, name: bytes) -> bytes | None:
        """A value of the `meta` database; None if there is none."""
        return self._txn.get(name, db=self._meta)


class Writer(Reader):
    """What can be done inside the write transaction."""

    def put_record(self, seq: int, value: bytes) -> None:
        """Append a record.

        Raises:
            JournalDamagedError: The seq is not after all others.
        """
        # append=True makes LMDB refuse a key that is not the greatest; overwrite=False one that exists.
        if not self._txn.put(_KEY.pack(seq), value, append=True, overwrite=False, db=self._records):
            raise JournalDamagedError(f"seq {seq} was expected to be free, it is taken", seq=seq)

    def put_projection(self, name: bytes, value: bytes) -> None:
        """Replace a projection; at most once for a name in a transaction.

        Put twice in one transaction, a large value and then a smaller one, LMDB keeps a page count that the structural
        check takes for damage.
        """
        self._txn.put(name, value, db=self._projections)

    def delete_projection(self, name: bytes) -> None:
        """Drop a projection; without effect if there is none."""
        self._txn.delete(name, db=self._projections)

    def put_meta(self, name: bytes, value: bytes) -> None:
        """Set a value of the `meta` database."""
        self._txn.put(name, value, db=self._meta)


_LOCK_BYTES: Final = 64 * (_READERS + 2)
"""Size of LMDB's lock file: two cache lines and one for each reader."""

_open: "weakref.WeakValueDictionary[tuple[int, int], Environment]" = weakref.WeakValueDictionary()


def _set_lock_space_aside(path: Path) -> None:
    """Give the lock file its space on the disk before LMDB maps it: a page that does not fit ends the process.

    Not while this process has the journal open: closing a descriptor of the lock file would drop its locks.
    """
    try:
        fd = os.open(f"{os.fspath(path)}-lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        if error.errno == errno.EROFS:
            return  # LMDB reads without a lock file there
        raise
    try:
        if os.fstat(fd).st_blocks * 512 < _LOCK_BYTES:
            os.posix_fallocate(fd, 0, _LOCK_BYTES)
    finally:
        os.close(fd)


def open_environment(
    path: Path, *, readonly: bool, create: bool = False, lock: bool = True, map_bytes: int = MAP_BYTES
) -> Environment:
    """Map a journal file. The caller has checked it before; a damaged one can end the process.

    Args:
        path: The file; its lock file is the same name with `-lock`.
        readonly: Never write to the file.
        create: Make a new file, which must not exist.
        lock: Take part in LMDB's reader table. False only where no writer can be: a sealed copy.
        map_bytes: Address space to reserve.

    Raises:
        JournalMisuseError: This process has it open already.
        JournalError: See `translated`.
    """
    if not create and is_open(path):
        raise JournalMisuseError(
            f"{path}: already open in this process", hint="use the open journal, or close it first"
        )
    with translated(path, "opening"):
        if lock:
            _set_lock_space_aside(path)
        env = lmdb.open(
            os.fsencode(path),
            map_size=map_bytes,
            subdir=False,
            readonly=readonly,
            create=create,
            metasync=True,
            sync=True,
            writemap=False,
            mode=0o644,
            max_readers=_READERS,
            max_dbs=3,
            max_spare_txns=0,
            lock=lock,
            lib_version=_LIB_0_9,
        )
        try:
            opened = Environment(env, path, readonly=readonly, create=create)
            if not readonly:
                env.reader_check()  # a killed reader keeps its place, and with it every page freed since
        except BaseException:
            env.close()
            raise
    _open[_file_of(path)] = opened
    return opened


def is_open(path: Path) -> bool:
    """Whether this process has the file open; a second environment for one file would break its locks."""
    try:
        found = _open.get(_file_of(path))
    except FileNotFoundError:
        return False
    return found is not None and found._pid == os.getpid() and found._env is not None  # noqa: SLF001


@contextmanager
def translated(path: Path, doing: str, environment: Environment | None = None) -> Iterator[None]:
    """Turn LMDB's and the system's errors into ours; after an error of the disk, give the environment up.

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
        translated_error, disk = _ours(error, path, doing)
        if disk and environment is not None:
            environment.abandon(f"it was given up after an error: {translated_error.message}")
        raise translated_error from error


def _ours(error: Exception, path: Path, doing: str) -> tuple[JournalError, bool]:
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
            return JournalPermissionError(what, hint="run as the owner of the cache"), False
        case errno.ENOENT:
            return JournalMissingError(what, hint="check the path of the cache"), False
        case errno.ENOLCK | errno.EOPNOTSUPP:
            return JournalFilesystemError(what, hint="put the cache on a local disk"), False
        case _:
            return JournalIOError(what, hint="look at the system log for errors of the disk"), True


def _full(what: str) -> JournalFullError:
    return JournalFullError(what, hint="free some space and run it again; nothing that was committed is lost")


def _nearly_full(path: Path) -> bool:
    try:
        about = os.statvfs(path.parent)
    except OSError:
        return False
    return about.f_bavail * about.f_frsize < _NEARLY_FULL_BYTES


def _seq(key: bytes) -> int:
    if len(key) != _KEY.size:
        raise JournalDamagedError(f"a key of {_KEY.size} bytes expected among the records, found {len(key)}")
    return cast("int", _KEY.unpack(key)[0])


def _file_of(path: Path) -> tuple[int, int]:
    about = path.stat()
    return about.st_dev, about.st_ino
