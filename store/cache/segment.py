r"""A segment: the journal records of one generation, framed, from which the journal can be rebuilt.

Segment g holds every record after the commit of generation g-1 up to and with the commit of g. Its layout,
integers big-endian:

    magic   8 bytes   b"C10SEG\\x00\\x01", the last byte being the format version
    generation, first seq, count: 8 bytes each
    chain before the first record: 32 bytes
    per record: length of the value (4 bytes), then the value as it stands in the journal: chain, record bytes

The chain makes a segment self-checking, and connects it to its neighbours.
"""

import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from journal.record import CHAIN_BYTES, MAX_RECORD_BYTES, Chain, Entry, Head, link
from store.base.valueclass import valueclass
from store.errors import DamagedHistoryError, ErrorKind
from store.files.regular_file import is_wrong_file_type, open_regular

MAGIC = b"C10SEG\x00\x01"
_HEADER = struct.Struct(">8sQQQ32s")
_LENGTH = struct.Struct(">I")


@valueclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """The records of one generation."""

    generation: int
    before: Head
    entries: tuple[Entry, ...]


@valueclass(frozen=True, slots=True, kw_only=True)
class ChainPart:
    """The part of the chain that a segment holds.

    Attributes:
        generation: Which generation its last record commits.
        before: Head of the journal just before the first record.
        first: Head after the first record; `before` if there is none.
        last: Head after the last one, likewise.
    """

    generation: int
    before: Head
    first: Head
    last: Head


def encode(generation: int, before: Head, entries: Sequence[Entry]) -> bytes:
    """Return the bytes of a segment.

    Args:
        generation: Which generation the last entry commits.
        before: Head of the journal just before the first entry.
        entries: The records, in order.
    """
    parts = [_HEADER.pack(MAGIC, generation, before.seq + 1, len(entries), before.chain)]
    for entry in entries:
        parts.append(_LENGTH.pack(CHAIN_BYTES + len(entry.raw)))
        parts.append(entry.chain + entry.raw)
    return b"".join(parts)


def decode(data: bytes) -> Segment:
    """Return the segment, its chain checked link by link.

    Raises:
        DamagedHistoryError: The bytes are not a whole, self-consistent segment of this format.
    """
    return _decode(BytesIO(data), len(data))


def read(path: Path) -> Segment:
    """Return the segment in a file, read record by record: of more than it declares, nothing is held.

    Raises:
        DamagedHistoryError: It is no regular file, or as for `decode`.
        OSError: It cannot be read.
    """
    with opened(path) as file:
        return _decode(file, os.fstat(file.fileno()).st_size)


def check(file: BinaryIO) -> ChainPart:
    """Check the segment in an open file link by link, without holding its records; return its part of the chain.

    Raises:
        DamagedHistoryError, OSError: As for `read`.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    generation, before, entries = _parse(file, size)
    first = last = before
    for entry in entries:
        last = entry.head
        first = last if first is before else first
    return ChainPart(generation=generation, before=before, first=first, last=last)


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open the file of a segment.

    Raises:
        DamagedHistoryError: It is no regular file.
        OSError: It cannot be opened.
    """
    try:
        fd = open_regular(path)
    except OSError as error:
        if is_wrong_file_type(error):
            raise _damaged("a regular file", "something else") from error
        raise
    with os.fdopen(fd, "rb") as file:
        yield file


def _decode(file: BinaryIO, size: int) -> Segment:
    generation, before, entries = _parse(file, size)
    return Segment(generation=generation, before=before, entries=tuple(entries))


def _parse(file: BinaryIO, size: int) -> tuple[int, Head, Iterator[Entry]]:
    """Return the generation of a segment, the head before it, and its records, which are checked as they are read."""
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        raise _damaged(f"a header of {_HEADER.size} bytes", f"{len(header)} bytes")
    magic, generation, first, count, chain = _HEADER.unpack(header)
    if magic != MAGIC:
        raise _damaged(f"the magic {MAGIC!r}", repr(magic))
    if not first:
        raise _damaged("records from 1 on", "record 0")
    before = Head(first - 1, Chain(chain))
    return generation, before, _entries(file, size - _HEADER.size, before, count)


def _entries(file: BinaryIO, left: int, before: Head, count: int) -> Iterator[Entry]:
    first, last = before.seq + 1, before.chain
    for seq in range(first, first + count):
        value = _value(file, left, seq)
        left -= _LENGTH.size + len(value)
        stored, raw = Chain(value[:CHAIN_BYTES]), value[CHAIN_BYTES:]
        last = link(last, raw)
        if last != stored:
            raise _damaged(f"an unbroken chain at record {seq}", "another digest")
        yield Entry(seq=seq, chain=stored, raw=raw)
    if left:
        raise _damaged("nothing after the last record", f"{left} bytes")


def _value(file: BinaryIO, left: int, seq: int) -> bytes:
    """Return the value of a record, of `left` bytes in the rest of the file."""
    prefix = file.read(_LENGTH.size)
    if len(prefix) < _LENGTH.size:
        raise _damaged(f"record {seq}", "the end of the file")
    (length,) = _LENGTH.unpack(prefix)
    left -= _LENGTH.size
    whole = CHAIN_BYTES < length <= CHAIN_BYTES + MAX_RECORD_BYTES and length <= left
    value = file.read(length) if whole else b""
    if len(value) < length or not whole:
        raise _damaged(f"record {seq} whole", f"a length of {length} with {left} bytes left")
    return value


def _damaged(expected: str, found: str) -> DamagedHistoryError:
    return DamagedHistoryError(
        f"segment: expected {expected}, found {found}",
        kind=ErrorKind.JOURNAL_INCOMPLETE,
        hint="c10 verify --full",
    )
