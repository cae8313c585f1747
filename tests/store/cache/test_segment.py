import os
import struct
import tracemalloc
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from journal.record import EMPTY, Entry, Head, encode, link
from journal.testing import records, sample_record
from store.cache import segment
from store.cache.segment import ChainPart
from store.errors import DamagedHistoryError, ErrorKind


def chained(made, before=EMPTY):
    entries, head = [], before
    for record in made:
        raw = encode(record)
        head = Head(head.seq + 1, link(head.chain, raw))
        entries.append(Entry(seq=head.seq, chain=head.chain, raw=raw))
    return entries


GOOD = segment.encode(7, EMPTY, chained([sample_record(number) for number in range(4)]))


@given(
    st.lists(records(max_leaves=4), max_size=4),
    st.lists(records(max_leaves=4), max_size=4),
    st.integers(0, 1 << 40),
)
def test_segments_come_back(earlier, later, generation):
    entries = chained(earlier + later)
    before = entries[len(earlier) - 1].head if earlier else EMPTY
    data = segment.encode(generation, before, entries[len(earlier) :])
    found = segment.decode(data)
    assert (found.generation, found.before) == (generation, before)
    assert list(found.entries) == entries[len(earlier) :]
    assert [entry.record for entry in found.entries] == later
    assert segment.check(BytesIO(data)) == ChainPart(
        generation=generation,
        before=before,
        first=found.entries[0].head if later else before,
        last=found.entries[-1].head if later else before,
    )


def test_bytes_of_a_segment():
    (entry,) = chained([sample_record(1)])
    assert segment.encode(2, EMPTY, [entry]) == (
        b"C10SEG\x00\x01"
        + struct.pack(">3Q", 2, 1, 1)
        + bytes(32)
        + struct.pack(">I", 32 + len(entry.raw))
        + entry.chain
        + entry.raw
    )


def refused(data):
    with pytest.raises(DamagedHistoryError) as damaged:
        segment.decode(data)
    assert damaged.value.kind is ErrorKind.JOURNAL_INCOMPLETE
    with pytest.raises(DamagedHistoryError) as damaged_again:
        segment.check(BytesIO(data))
    assert damaged_again.value.message == damaged.value.message


def test_no_part_of_a_segment_is_a_segment():
    for length in range(len(GOOD)):
        refused(GOOD[:length])
    refused(GOOD + b"\0")


@given(st.integers(0, 8 * len(GOOD) - 1))
def test_a_flipped_bit_is_noticed_or_says_another_place(at):
    """The chain covers the records; generation and first seq are for the caller to compare."""
    bad = bytearray(GOOD)
    bad[at // 8] ^= 1 << at % 8
    if 64 <= at < 8 * 24:
        found = segment.decode(bytes(bad))
        assert (found.generation, found.before.seq) != (7, 0)
        assert segment.encode(found.generation, found.before, found.entries) == bad
    else:
        refused(bytes(bad))


@given(st.binary(max_size=120))
def test_anything_else_is_refused(data):
    refused(data)
    refused(segment.MAGIC + data)


@pytest.mark.parametrize("length", [0, 32, 33 + (1 << 20), (1 << 32) - 1])
def test_lengths_that_no_record_has(length):
    refused(GOOD[:64] + struct.pack(">I", length) + GOOD[68:] + bytes(1 << 20))


def test_a_record_before_the_first_is_refused():
    """Its place, counted from the end, would be that of another one."""
    raw = encode(sample_record(1))
    with pytest.raises(DamagedHistoryError, match="from 1 on"):
        segment.decode(segment.encode(1, Head(-1, EMPTY.chain), [Entry(0, link(EMPTY.chain, raw), raw)]))


def test_records_in_another_order_are_refused():
    one, two = chained([sample_record(1), sample_record(2)])
    refused(segment.encode(1, EMPTY, [two, one]))
    refused(segment.encode(1, EMPTY, [two]))
    refused(segment.encode(1, Head(0, one.chain), [one]))


def test_a_file_that_is_longer_than_it_declares_is_not_read_into_memory(tmp_path):
    path = tmp_path / "00000007.events"
    path.write_bytes(GOOD)
    assert segment.read(path) == segment.decode(GOOD)
    os.truncate(path, 2 << 30)
    tracemalloc.start()
    try:
        with pytest.raises(DamagedHistoryError, match="nothing after the last record"):
            segment.read(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_what_is_no_regular_file_is_no_segment(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    for path in (tmp_path, tmp_path / "link"):
        with pytest.raises(DamagedHistoryError, match="a regular file"):
            segment.read(path)
    with pytest.raises(FileNotFoundError):
        segment.read(tmp_path / "nothing")
