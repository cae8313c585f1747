r"""A segment: the journal records of one generation, framed, from which the journal can be rebuilt.

Segment g holds every record after the commit of generation g-1 up to and with the commit of g. Its layout,
integers big-endian:

    magic   8 bytes   b"C10SEG\\x00\\x01", the last byte being the format version
    generation, first seq, count: 8 bytes each
    chain before the first record: 32 bytes
    per record: length of the value (4 bytes), then the value as it stands in the journal: chain, record bytes

The chain makes a segment self-checking, and connects it to its neighbours.
"""

import struct
from collections.abc import Sequence

from journal.record import CHAIN_BYTES, MAX_RECORD_BYTES, Chain, Entry, Head, link
from store.base.valueclass import valueclass
from store.errors import DamagedHistoryError, ErrorKind

MAGIC = b"C10SEG\x00\x01"
_HEADER = struct.Struct(">8sQQQ32s")
_LENGTH = struct.Struct(">I")


@valueclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """The records of one generation."""

    generation: int
    before: Head
    entries: tuple[Entry, ...]


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
    if len(data) < _HEADER.size:
        raise _damaged(f"a header of {_HEADER.size} bytes", f"{len(data)} bytes")
    magic, generation, first, count, chain = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise _damaged(f"the magic {MAGIC!r}", repr(magic))
    before, entries, offset = Head(first - 1, Chain(chain)), list[Entry](), _HEADER.size
    last = before.chain
    for seq in range(first, first + count):
        value, offset = _value(data, offset, seq)
        stored, raw = Chain(value[:CHAIN_BYTES]), value[CHAIN_BYTES:]
        last = link(last, raw)
        if last != stored:
            raise _damaged(f"an unbroken chain at record {seq}", "another digest")
        entries.append(Entry(seq=seq, chain=stored, raw=raw))
    if offset != len(data):
        raise _damaged("nothing after the last record", f"{len(data) - offset} bytes")
    return Segment(generation=generation, before=before, entries=tuple(entries))


def _value(data: bytes, offset: int, seq: int) -> tuple[bytes, int]:
    start = offset + _LENGTH.size
    if start > len(data):
        raise _damaged(f"record {seq}", "the end of the file")
    (length,) = _LENGTH.unpack_from(data, offset)
    if not CHAIN_BYTES < length <= CHAIN_BYTES + MAX_RECORD_BYTES or start + length > len(data):
        raise _damaged(f"record {seq} whole", f"a length of {length} with {len(data) - start} bytes left")
    return data[start : start + length], start + length


def _damaged(expected: str, found: str) -> DamagedHistoryError:
    return DamagedHistoryError(
        f"segment: expected {expected}, found {found}",
        kind=ErrorKind.JOURNAL_INCOMPLETE,
        hint="c10 verify --full",
    )
