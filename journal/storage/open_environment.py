"""How an LMDB file is opened: with which settings, and with a lock file that is set up.

The lock file holds LMDB's table of readers and the count of transactions. The first process to open a journal sets it
up, and may die at it, or find no space for it; what that leaves is mended here before anybody reads or writes.
"""

import errno
import os
import struct
import time
from pathlib import Path
from typing import Final

import lmdb

from journal.errors import JournalError, JournalFilesystemError
from journal.regular_file import names_something_else, open_regular
from journal.storage.meta_pages import open_journal

MAP_BYTES: Final = 64 << 30
"""Address space reserved for the file, not disk space. Never resized: that is unsafe while others use the file."""

_LIB_0_9: Final = 0
_READERS: Final = 254

_LOCK_BYTES: Final = 64 * (_READERS + 2)
"""Size of LMDB's lock file: two cache lines and one for each reader."""

_LOCK_MARK: Final = struct.pack("=I", 0xBEEFC0DE)
_SET_UP_S: Final = 10.0
_SET_UP_TRIES: Final = 3
_SET_UP_PAUSE_S: Final = 0.002


def allocate_lock_file(path: Path) -> None:
    """Give the lock file its space on the disk before LMDB maps it: a page that does not fit ends the process.

    Not while this process has the journal open: closing a descriptor of the lock file would drop its locks.

    Raises:
        JournalFilesystemError: Something that is no regular file has the name; LMDB would write through a link.
        OSError: The file cannot be made.
    """
    try:
        fd = open_regular(f"{os.fspath(path)}-lock", os.O_RDWR | os.O_CREAT)
    except OSError as error:
        if error.errno == errno.EROFS:
            return  # LMDB reads without a lock file there
        if names_something_else(error):
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
    """Open a file whose lock file is set up, and again where the first to open it died while others waited.

    LMDB lets whoever waits go on with what the dead one left: without its mark, which is refused as if the journal were
    no LMDB file, or with transactions counted from 0, so that the next commit would be older than the newest state and
    be lost. Closing and opening again initialises the lock file, as soon as no other process holds it.

    Raises:
        JournalFilesystemError: Somebody holds on to a lock file that is not set up.
        lmdb.Error, OSError: Anything else.
    """
    deadline, tries = time.monotonic() + _SET_UP_S, 0
    while True:
        tries += 1
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
            # With a mark it is the journal, unless somebody set the lock file up just now.
            if not lock or (_lock_is_marked(path) and tries >= _SET_UP_TRIES):
                raise
        else:
            if not lock or _is_initialised(env):
                return env
            env.close()
        if time.monotonic() > deadline:
            raise JournalFilesystemError(
                f"{path}-lock: a lock file expected that is set up, found one that its first user left half done and"
                " that another process holds",
                hint="end the processes that have the journal open, then run it again",
            )
        # By chance, lest several that found it so hold it for each other again and again.
        time.sleep(_SET_UP_PAUSE_S * (1 + os.urandom(1)[0] / 64))


def _lock_is_marked(path: Path) -> bool:
    """Whether the lock file has LMDB's mark. For a journal that this process does not have open: see above."""
    try:
        with open_journal(Path(f"{path}-lock")) as fd:
            return os.pread(fd, len(_LOCK_MARK), 0) == _LOCK_MARK
    except JournalError:
        return False


def _is_initialised(env: lmdb.Environment) -> bool:
    """Whether new transactions follow the newest one on disk; a killed writer leaves the count one behind, no more."""
    newest = env.info()["last_txnid"]
    with env.begin() as txn:
        return newest - txn.id() <= 1
