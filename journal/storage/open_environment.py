"""Open an LMDB file with the right settings and an initialised lock file.

The lock file holds LMDB's table of readers and the count of transactions. The first process that opens a
journal initialises it, and may die meanwhile or find no space. This module repairs such a lock file before
the journal is used.
"""

import errno
import os
import struct
import time
from pathlib import Path
from typing import Final

import lmdb

from journal.errors import JournalError, JournalFilesystemError
from journal.regular_file import is_wrong_file_type, open_regular
from journal.storage.meta_pages import open_journal

MAP_BYTES: Final = 64 << 30
"""Address space reserved for the file, not disk space. Resizing is unsafe while others use the file."""

_LIB_0_9: Final = 0
_READERS: Final = 254

_LOCK_BYTES: Final = 64 * (_READERS + 2)
"""Size of LMDB's lock file: two cache lines and one for each reader."""

_LOCK_MAGIC: Final = struct.pack("=I", 0xBEEFC0DE)
_INIT_TIMEOUT_S: Final = 10.0
_INIT_ATTEMPTS: Final = 3
_INIT_PAUSE_S: Final = 0.002


def allocate_lock_file(path: Path) -> None:
    """Allocate the lock file on the disk before LMDB maps it: a page without space would end the process.

    Not while this process has the journal open: closing a descriptor of the lock file would drop its locks.

    Raises:
        JournalFilesystemError: The name is not that of a regular file; LMDB would write through a link.
        OSError: The file cannot be created.
    """
    try:
        fd = open_regular(f"{os.fspath(path)}-lock", os.O_RDWR | os.O_CREAT)
    except OSError as error:
        if error.errno == errno.EROFS:
            return  # LMDB reads without a lock file there
        if is_wrong_file_type(error):
            raise JournalFilesystemError(
                f"{path}-lock: a regular file expected as lock file, found something else",
                hint=f"move {path}-lock away, then run it again: it is created again",
            ) from error
        raise
    try:
        if os.fstat(fd).st_blocks * 512 < _LOCK_BYTES:
            os.posix_fallocate(fd, 0, _LOCK_BYTES)
    finally:
        os.close(fd)


def open_lmdb(path: Path, *, readonly: bool, create: bool, lock: bool, map_bytes: int) -> lmdb.Environment:
    """Open a file; retry until its lock file is initialised.

    If the process that initialises the lock file dies, LMDB lets waiting processes use it as it is. Without
    its magic number, LMDB refuses the journal as no LMDB file. With transactions counted from 0, the next
    commit would be older than the newest state, and lost. Closing and opening again initialises the lock file
    once no other process holds it.

    Raises:
        JournalFilesystemError: Another process holds a lock file that is not initialised.
        lmdb.Error, OSError: Anything else.
    """
    deadline, attempts = time.monotonic() + _INIT_TIMEOUT_S, 0
    while True:
        attempts += 1
        try:
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
        except (lmdb.InvalidError, lmdb.VersionMismatchError):
            # With a valid lock file the journal is at fault, unless another process initialised it just now.
            if not lock or (_has_lock_magic(path) and attempts >= _INIT_ATTEMPTS):
                raise
        else:
            if not lock or _is_initialised(env):
                return env
            env.close()
        if time.monotonic() > deadline:
            raise JournalFilesystemError(
                f"{path}-lock: an initialised lock file expected, found an incomplete one that another process holds",
                hint="end the processes that have the journal open, then run it again",
            )
        # A random pause, so that several processes do not keep the file open for each other for ever.
        time.sleep(_INIT_PAUSE_S * (1 + os.urandom(1)[0] / 64))


def _has_lock_magic(path: Path) -> bool:
    """Return whether the lock file has LMDB's magic number. Not while this process has the journal open."""
    try:
        with open_journal(Path(f"{path}-lock")) as fd:
            return os.pread(fd, len(_LOCK_MAGIC), 0) == _LOCK_MAGIC
    except JournalError:
        return False


def _is_initialised(env: lmdb.Environment) -> bool:
    # New transactions must follow the newest one on disk; a killed writer leaves the count at most one
    # behind.
    newest = env.info()["last_txnid"]
    with env.begin() as txn:
        return newest - txn.id() <= 1
