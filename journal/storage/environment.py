"""The LMDB environment of an open journal file, with its databases and transactions.

LMDB trusts the pages it maps, so a damaged file can end this process with a signal. Callers check the raw
bytes first (`journal.storage.integrity`) or open the file in a child process (`journal.safe_reader`). This
module knows transactions and keys, not records or chains.

It keeps these rules of LMDB: a process opens a file once, never uses it across `fork`, keeps transactions
short, and closes it after a disk error.
"""

import errno
import os
import struct
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import lmdb

from journal.errors import JournalClosedError, JournalDamagedError, JournalError, JournalMisuseError
from journal.storage.error_mapping import to_journal_error, translating_errors
from journal.storage.meta_pages import read_meta_pages
from journal.storage.open_environment import MAP_BYTES, allocate_lock_file, open_lmdb

MAX_NAME_BYTES: Final = 511
ENGINE: Final = b"0.9"

_RECORDS, _PROJECTIONS, _META = b"records", b"projections", b"meta"
_KEY: Final = struct.Struct(">Q")


class Environment:
    """An open LMDB file with its three databases. Do not share it between threads."""

    def __init__(
        self,
        env: lmdb.Environment,
        path: Path,
        *,
        readonly: bool,
        create: bool,
        lock_file: os.stat_result | None,
    ) -> None:
        self.path = path
        self.readonly = readonly
        self._file = _file_id(path)
        self._lock_path = _lock_path(path)
        self._lock_file = None if lock_file is None else (lock_file.st_dev, lock_file.st_ino)
        self._lock_bytes = 0 if lock_file is None else lock_file.st_size
        self._env: lmdb.Environment | None = env
        self._pid = os.getpid()
        self._why_closed = "it was closed"
        self._records = env.open_db(_RECORDS, create=create)
        self._projections = env.open_db(_PROJECTIONS, create=create)
        self._meta = env.open_db(_META, create=create)

    @contextmanager
    def read(self) -> Iterator["ReadTransaction"]:
        """Open a read transaction: one consistent state. Keep it short; a long one makes the file grow.

        Raises:
            JournalIOError: The lock file was cut off; the environment is closed.
            JournalError: See `translating_errors`.
        """
        env = self._require_open()
        try:
            self._require_whole_lock_file()
            with env.begin() as txn:
                yield ReadTransaction(txn, self._records, self._projections, self._meta)
        except (lmdb.Error, OSError) as error:
            raise self._fail(error, "reading") from error

    @contextmanager
    def write(self) -> Iterator["WriteTransaction"]:
        """Open a write transaction: committed and durable when the block ends, rolled back when it raises.

        At first, and right before and after the commit, check that the path still names this file. A process that
        rebuilds a journal first unlinks the old one and then reads it, so it finds every acknowledged record. Check
        the lock file, too: with another one, LMDB would let two processes write at once, and one would undo the
        other's commit.

        Raises:
            JournalMisuseError: The environment is read-only.
            JournalDamagedError: The path names another file or none. If this happened during the commit, the
                result of the transaction is unknown.
            JournalIOError: The lock file was removed, replaced, cut off or overwritten; the environment is closed. If
                this happened during the commit, the result of the transaction is unknown.
            JournalError: See `translating_errors`.
        """
        env = self._require_open()
        if self.readonly:
            raise JournalMisuseError(
                f"{self.path}: open for reading only", hint="open it with readonly=False"
            )
        try:
            self._require_whole_lock_file()
            with env.begin(write=True) as txn:
                self._require_same_file()
                self._require_newest(txn)
                yield WriteTransaction(txn, self._records, self._projections, self._meta)
                self._require_same_file()
            self._require_same_file()
        except (lmdb.Error, OSError) as error:
            raise self._fail(error, "writing") from error

    def _require_same_file(self) -> None:
        found = _found_instead(self.path, self._file)
        if not found:
            if self._lock_file and (found := _found_instead(self._lock_path, self._lock_file)):
                raise OSError(errno.ESTALE, f"expected the lock file that was opened, found {found}")
            return
        raise JournalDamagedError(
            f"{self.path}: expected the file that was opened, found {found}", hint="open the journal again"
        )

    def _require_whole_lock_file(self) -> None:
        if self._lengthen_lock_file():
            raise OSError(errno.ESTALE, "expected the lock file that was opened, found it cut off")

    def _lengthen_lock_file(self) -> bool:
        """Give the lock file the size that it was opened with, and return whether it was shorter.

        LMDB has it mapped: beyond the end of the file, even closing the environment would end the process (SIGBUS).
        """
        try:
            found = self._lock_path.stat()
        except FileNotFoundError:
            return False
        if found.st_size >= self._lock_bytes or (found.st_dev, found.st_ino) != self._lock_file:
            return False
        # By its path: closing a descriptor of the file would drop the locks of this process.
        os.truncate(self._lock_path, self._lock_bytes)
        return True

    def _require_newest(self, txn: "lmdb.Transaction[bytes]") -> None:
        """Refuse a transaction that does not continue the newest one.

        LMDB takes the number of the last transaction from the lock file. After an older copy of it was written over it
        in place, the next commit would undo acknowledged ones.
        """
        if txn.id() != max(read_meta_pages(self.path)) + 1:
            raise OSError(errno.ESTALE, "expected the lock file that was opened, found other contents in it")

    def sync(self) -> None:
        """Flush everything to the device; each commit does so, too."""
        env = self._require_open()
        try:
            env.sync(force=True)
        except (lmdb.Error, OSError) as error:
            raise self._fail(error, "syncing") from error

    def abandon(self, why: str) -> None:
        """Close, and keep the reason for the errors of later calls. A forked child leaves the file alone."""
        env, self._env = self._env, None
        if env is None:
            return
        self._why_closed = why
        if os.getpid() == self._pid:
            _open_environments.pop(self._file, None)
            with suppress(OSError):
                self._lengthen_lock_file()
            env.close()

    def close(self) -> None:
        """Close; without effect if it is closed."""
        self.abandon("it was closed")

    def _fail(self, error: Exception, doing: str) -> JournalError:
        """Return the journal's error for an error of LMDB or the system; close after a disk error."""
        ours, disk = to_journal_error(error, self.path, doing)
        if disk:
            self.abandon(f"it was closed after an error: {ours.message}")
        return ours

    def _require_open(self) -> lmdb.Environment:
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


class ReadTransaction:
    """Reads records and projections inside one transaction."""

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
        """Return seq and stored value of the newest record; None if there is none.

        Raises:
            JournalDamagedError: The key is not a seq.
        """
        with self._txn.cursor(self._records) as cursor:
            return (_unpack_key(cursor.key()), cursor.value()) if cursor.last() else None

    def record(self, seq: int) -> bytes | None:
        """Return the stored value under a seq; None if there is none."""
        return self._txn.get(_KEY.pack(seq), db=self._records)

    def records(self, start: int) -> Iterator[tuple[int, bytes]]:
        """Yield seq and stored value of the records from `start` on, in order.

        Raises:
            JournalDamagedError: A key is not a seq.
        """
        unpack = _KEY.unpack
        with self._txn.cursor(self._records) as cursor:
            if cursor.set_range(_KEY.pack(start)):
                for key, value in cursor:
                    if len(key) != _KEY.size:
                        raise _invalid_key(key)
                    yield unpack(key)[0], value

    def count(self) -> int:
        """Return the number of records that LMDB keeps."""
        return self._txn.stat(self._records)["entries"]

    def projection_count(self) -> int:
        """Return the number of projections that LMDB keeps."""
        return self._txn.stat(self._projections)["entries"]

    def projection(self, name: bytes) -> bytes | None:
        """Return the stored value of a projection, with its digest; None if there is none."""
        return self._txn.get(name, db=self._projections)

    def projections(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield names and stored values of all projections, ordered by name."""
        with self._txn.cursor(self._projections) as cursor:
            yield from cursor

    def meta(self, name: bytes) -> bytes | None:
        """Return a value of the `meta` database; None if there is none."""
        return self._txn.get(name, db=self._meta)


class WriteTransaction(ReadTransaction):
    """Also writes records and projections."""

    def put_record(self, seq: int, value: bytes) -> None:
        """Append a record.

        Raises:
            JournalDamagedError: The seq is not the greatest.
        """
        # append=True makes LMDB refuse a key that is not the greatest; overwrite=False refuses one that
        # exists.
        if not self._txn.put(_KEY.pack(seq), value, append=True, overwrite=False, db=self._records):
            raise JournalDamagedError(f"seq {seq} was expected to be free, it is taken", seq=seq)

    def put_projection(self, name: bytes, value: bytes) -> None:
        """Replace a projection; at most once for a name in a transaction.

        If a large value and then a smaller one are put in one transaction, LMDB keeps a page count that the
        structural check reports as damage.
        """
        self._txn.put(name, value, db=self._projections)

    def delete_projection(self, name: bytes) -> None:
        """Delete a projection; without effect if there is none."""
        self._txn.delete(name, db=self._projections)

    def put_meta(self, name: bytes, value: bytes) -> None:
        """Set a value of the `meta` database."""
        self._txn.put(name, value, db=self._meta)


_open_environments: "weakref.WeakValueDictionary[tuple[int, int], Environment]" = (
    weakref.WeakValueDictionary()
)


def open_environment(
    path: Path, *, readonly: bool, create: bool = False, lock: bool = True, map_bytes: int = MAP_BYTES
) -> Environment:
    """Map a journal file that the caller has checked; a damaged one can end the process.

    Args:
        path: The file; its lock file has the same name with `-lock`.
        readonly: Never write to the file.
        create: Create the file, which must not exist.
        lock: Use LMDB's reader table. False only for a file that nobody writes.
        map_bytes: Address space to reserve.

    Raises:
        JournalMisuseError: This process has it open already.
        JournalError: See `translating_errors`.
    """
    if not create and is_open(path):
        raise JournalMisuseError(
            f"{path}: already open in this process", hint="use the open journal, or close it first"
        )
    with translating_errors(path, "opening"):
        if lock:
            allocate_lock_file(path)
        lock_file = _lock_path(path).stat() if lock and _lock_path(path).exists() else None
        env = open_lmdb(path, readonly=readonly, create=create, lock=lock, map_bytes=map_bytes)
        try:
            opened = Environment(env, path, readonly=readonly, create=create, lock_file=lock_file)
            if not readonly:
                env.reader_check()  # the slot of a killed reader would keep every page freed since from reuse
        except BaseException:
            env.close()
            raise
    _open_environments[_file_id(path)] = opened
    return opened


def is_open(path: Path) -> bool:
    """Return whether this process has the file open; opening it twice would break its locks."""
    try:
        found = _open_environments.get(_file_id(path))
    except FileNotFoundError:
        return False
    return found is not None and found._pid == os.getpid() and found._env is not None  # noqa: SLF001


def _unpack_key(key: bytes) -> int:
    if len(key) != _KEY.size:
        raise _invalid_key(key)
    seq: int = _KEY.unpack(key)[0]
    return seq


def _invalid_key(key: bytes) -> JournalDamagedError:
    return JournalDamagedError(f"a key of {_KEY.size} bytes expected among the records, found {len(key)}")


def _found_instead(path: Path, file: tuple[int, int]) -> str:
    """Say what a path names instead of a file; empty if it still names the file."""
    try:
        return "" if _file_id(path) == file else "another one in its place"
    except FileNotFoundError:
        return "none"


def _lock_path(path: Path) -> Path:
    return path.with_name(f"{path.name}-lock")


def _file_id(path: Path) -> tuple[int, int]:
    about = path.stat()
    return about.st_dev, about.st_ino
