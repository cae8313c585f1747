"""Read and check the LMDB meta pages of a journal file, before anything maps the file into memory.

The checks are cheap. They refuse files that would harm the process that opens them: no regular file, a
missing meta page, another format. The structural check, the chain and the safe reader find other damage.

Meta pages of LMDB 0.9 (mdb.c, `MDB_page` and `MDB_meta`, 64 bit): a page header of 16 bytes, then magic (4),
version (4), address (8), map size (8), two database records of 48 bytes of which the first begins with the
page size (4), last page number (8), transaction number (8); all in the byte order of the machine.
"""

import errno
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeAlias

from journal import errors
from journal.regular_file import NotRegularError, open_regular

_META: Final = struct.Struct("=16xIIQQI44x48xQQ")
_MAGIC: Final = 0xBEEFC0DE
_MAGICS: Final = (_MAGIC.to_bytes(4, "little"), _MAGIC.to_bytes(4, "big"))
_MAGIC_AT: Final = 16
_VERSION: Final = 1
_PAGE_SIZES: Final = frozenset(1 << shift for shift in range(9, 16))
# Free pages at the end need not be written, so a last page somewhat beyond the end is no damage; the
# structural check decides. A number that would make the check, or LMDB, reserve unlimited memory is refused
# here.
_SLACK_PAGES: Final = 1 << 20
_ATTEMPTS: Final = 5
_PAUSE_S: Final = 0.001

Transactions: TypeAlias = tuple[int, int]
"""Numbers of the transactions that wrote meta pages 0 and 1; they stay equal as long as nobody commits."""


def read_meta_pages(path: Path) -> Transactions:
    """Check the meta pages of a journal file and return their transactions, without mapping the file.

    Raises:
        JournalMissingError: There is no such file.
        JournalPermissionError: It cannot be read.
        JournalDamagedError: It is no regular file, or no LMDB 0.9 file of this architecture with both meta
            pages.
    """
    with open_journal(path) as fd:
        return read_open_meta_pages(fd, path)


def read_open_meta_pages(fd: int, path: Path) -> Transactions:
    """Do the same as `read_meta_pages` for an open descriptor; `path` is for the message."""
    problem = ""
    for _ in range(_ATTEMPTS):
        found = _parse_meta_pages(fd)
        if not isinstance(found, str):
            return found
        problem = found
        time.sleep(_PAUSE_S)  # a meta page may have been read while it was written
    raise errors.JournalDamagedError(f"{path}: {problem}")


def is_lmdb(path: Path) -> bool:
    """Return whether a file has LMDB's magic number, in either byte order: it is or was a journal.

    False for a file that is not regular or cannot be read.
    """
    try:
        with open_journal(path) as fd:
            # The page size is in the first meta page, which may be damaged.
            return any(os.pread(fd, 4, at + _MAGIC_AT) in _MAGICS for at in (0, *_PAGE_SIZES))
    except (errors.JournalError, OSError):
        return False


@contextmanager
def open_journal(path: Path) -> Iterator[int]:
    """Open a journal file, which must be a regular file; never follow a symbolic link or wait for a pipe.

    Raises:
        JournalMissingError: There is no such file.
        JournalPermissionError: It cannot be read.
        JournalDamagedError: It is no regular file.
        JournalIOError: The system cannot open it.
    """
    try:
        fd = open_regular(path)
    except NotRegularError as error:
        raise errors.JournalDamagedError(f"{path}: a regular file expected, found something else") from error
    except OSError as error:
        match error.errno:
            case errno.ENOENT | errno.ENOTDIR:
                raise errors.JournalMissingError(
                    f"{path}: a journal expected, there is none", hint="check the path of the cache"
                ) from error
            case errno.EACCES | errno.EPERM:
                raise errors.JournalPermissionError(
                    f"{path}: permission to read expected: {error.strerror}",
                    hint="run as the owner of the cache",
                ) from error
            case errno.ELOOP | errno.ENXIO:
                raise errors.JournalDamagedError(
                    f"{path}: a regular file expected, found a symbolic link, a pipe or a socket"
                ) from error
            case _:
                raise errors.io_error(f"{path}: cannot be opened: {error.strerror}", error) from error
    try:
        yield fd
    finally:
        os.close(fd)


def _parse_meta_pages(fd: int) -> Transactions | str:
    """Return the transactions of the meta pages, or what is wrong with them."""
    first = os.pread(fd, _META.size, 0)
    if len(first) < _META.size:
        return f"two meta pages expected, the file has only {len(first)} bytes"
    page_bytes = _META.unpack(first)[4]
    if page_bytes not in _PAGE_SIZES:
        return f"meta page 0: a page size of 512 to 32768 bytes expected, found {page_bytes}"
    second = os.pread(fd, _META.size, page_bytes)
    # Read the size after the pages: a file only grows, and it grows before a meta page says so.
    status = os.fstat(fd)
    if len(second) < _META.size or status.st_size < 2 * page_bytes:
        return f"two meta pages of {page_bytes} bytes expected, the file has only {status.st_size} bytes"
    transactions = [0, 0]
    for number, data in enumerate((first, second)):
        magic, version, _, _, size, last_page, transaction = _META.unpack(data)
        if magic != _MAGIC or version != _VERSION or size != page_bytes:
            return (
                f"meta page {number}: magic {_MAGIC:#x}, version {_VERSION} and page size {page_bytes} expected, "
                f"found {magic:#x}, {version} and {size}"
            )
        pages = status.st_size // page_bytes
        if not 1 <= last_page < pages + max(pages, _SLACK_PAGES):
            return f"meta page {number}: expected a last page of about {pages}, found {last_page}"
        transactions[number] = transaction
    return transactions[0], transactions[1]
