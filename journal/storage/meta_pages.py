"""Read and check the LMDB meta pages of a journal file, before anything maps the file into memory.

The checks are cheap and refuse what would harm the process that opens the file: something that is no regular file, a
file without its two meta pages, or another format. The structure check, the chain and the safe reader find damage
further inside.

Meta pages of LMDB 0.9 (mdb.c, `MDB_page` and `MDB_meta`, 64 bit): a page header of 16 bytes, then magic (4),
version (4), address (8), map size (8), two database records of 48 bytes of which the first begins with the page
size (4), last page number (8), transaction number (8); all in the byte order of the machine.
"""

import errno
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from journal.errors import (
    JournalDamagedError,
    JournalError,
    JournalIOError,
    JournalMissingError,
    JournalPermissionError,
)
from journal.regular_file import NotRegularError, open_regular

_META: Final = struct.Struct("=16xIIQQI44x48xQQ")
_MAGIC: Final = 0xBEEFC0DE
_MARKS: Final = (_MAGIC.to_bytes(4, "little"), _MAGIC.to_bytes(4, "big"))
_MARK_AT: Final = 16
_VERSION: Final = 1
_PAGE_SIZES: Final = frozenset(1 << shift for shift in range(9, 16))
# Free pages at the end need not have been written, so a last page somewhat beyond the end is no damage; how far the
# structural check decides. What would make it, or LMDB, reserve memory without measure is refused here.
_SLACK_PAGES: Final = 1 << 20
_ATTEMPTS: Final = 5
_PAUSE_S: Final = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class MetaPages:
    """The contents of the meta pages.

    Attributes:
        transactions: Number of the transaction that wrote meta page 0 and meta page 1. Equal pairs before and after
            an operation mean that nobody committed meanwhile.
        page_bytes: Size of a page.
        device: Device of the file.
        inode: Inode of the file.
    """

    transactions: tuple[int, int]
    page_bytes: int
    device: int
    inode: int


def read_meta_pages(path: Path) -> MetaPages:
    """Look at a journal file without mapping it.

    Raises:
        JournalMissingError: There is no such file.
        JournalPermissionError: It cannot be read.
        JournalDamagedError: It is no regular file, or not an LMDB 0.9 file of this architecture with both meta pages.
    """
    with open_journal(path) as fd:
        return read_open_meta_pages(fd, path)


def read_open_meta_pages(fd: int, path: Path) -> MetaPages:
    """`read_meta_pages` on an open descriptor; `path` is for the message."""
    problem = ""
    for _ in range(_ATTEMPTS):
        found = _parse_meta_pages(fd)
        if isinstance(found, MetaPages):
            return found
        problem = found
        time.sleep(_PAUSE_S)  # a meta page may have been read while it was written
    raise JournalDamagedError(f"{path}: {problem}")


def is_lmdb(path: Path) -> bool:
    """Whether a file has the mark of LMDB in its first or second meta page, so that it is or was a journal.

    Whatever machine wrote it. False for what is no regular file, or cannot be read.
    """
    try:
        with open_journal(path) as fd:
            # The page size is in the first meta page, which may be the damaged one.
            return any(os.pread(fd, 4, at + _MARK_AT) in _MARKS for at in (0, *_PAGE_SIZES))
    except (JournalError, OSError):
        return False


@contextmanager
def open_journal(path: Path) -> Iterator[int]:
    """An open descriptor of a journal's file, which is a regular file; neither follows a symbolic link nor waits for a pipe.

    Raises:
        JournalMissingError: There is no such file.
        JournalPermissionError: It cannot be read.
        JournalDamagedError: It is no regular file.
        JournalIOError: The system cannot open it.
    """
    try:
        fd = open_regular(path)
    except NotRegularError as error:
        raise JournalDamagedError(f"{path}: a regular file expected, found something else") from error
    except OSError as error:
        match error.errno:
            case errno.ENOENT | errno.ENOTDIR:
                raise JournalMissingError(
                    f"{path}: a journal expected, there is none", hint="check the path of the cache"
                ) from error
            case errno.EACCES | errno.EPERM:
                raise JournalPermissionError(
                    f"{path}: permission to read expected: {error.strerror}",
                    hint="run as the owner of the cache",
                ) from error
            case errno.ELOOP | errno.ENXIO:
                raise JournalDamagedError(
                    f"{path}: a regular file expected, found a symbolic link, a pipe or a socket"
                ) from error
            case _:
                raise JournalIOError(f"{path}: cannot be opened: {error.strerror}") from error
    try:
        yield fd
    finally:
        os.close(fd)


def _parse_meta_pages(fd: int) -> MetaPages | str:
    first = os.pread(fd, _META.size, 0)
    if len(first) < _META.size:
        return f"two meta pages expected, the file has only {len(first)} bytes"
    page_bytes = _META.unpack(first)[4]
    if page_bytes not in _PAGE_SIZES:
        return f"meta page 0: a page size of 512 to 32768 bytes expected, found {page_bytes}"
    second = os.pread(fd, _META.size, page_bytes)
    # Read the size after the pages: a file only grows, and it grows before a meta page says so.
    about = os.fstat(fd)
    if len(second) < _META.size or about.st_size < 2 * page_bytes:
        return f"two meta pages of {page_bytes} bytes expected, the file has only {about.st_size} bytes"
    transactions = []
    for number, data in enumerate((first, second)):
        magic, version, _, _, size, last_page, transaction = _META.unpack(data)
        if magic != _MAGIC or version != _VERSION or size != page_bytes:
            return (
                f"meta page {number}: magic {_MAGIC:#x}, version {_VERSION} and page size {page_bytes} expected, "
                f"found {magic:#x}, {version} and {size}"
            )
        pages = about.st_size // page_bytes
        if not 1 <= last_page < pages + max(pages, _SLACK_PAGES):
            return f"meta page {number}: about {pages} pages in the file, last page is said to be {last_page}"
        transactions.append(transaction)
    return MetaPages(
        transactions=(transactions[0], transactions[1]),
        page_bytes=page_bytes,
        device=about.st_dev,
        inode=about.st_ino,
    )
