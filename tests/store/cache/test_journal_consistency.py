"""What is remembered of a journal is no reason to believe less of it where something is made of its old records."""

import shutil
import struct
from dataclasses import replace

import lmdb
import pytest

from journal import JournalDamagedError
from journal.record import Chain, decode, encode, link
from journal.storage.environment import is_open
from store.cache.event_store import Ledger
from store.cache.view import look
from store.cache.writer import Store
from store.disk.layout import Layout
from store.snapshots import snapshot_codec, snapshot_file
from store.testing import FakeClock, Scenario, StopDeadError, play


@pytest.fixture
def layout(tmp_path, monkeypatch):
    """Three generations, and what they fold to remembered."""
    monkeypatch.setattr(snapshot_file, "WORTH_RECORDS", 1)
    layout = Layout(tmp_path / "cache", memory=tmp_path / "memory")
    with opened(layout) as store:
        for number in range(3):
            play(store, Scenario(flight=f"f{number}", tiles={(0, number): "x"}))
    return layout


def opened(layout):
    return Store.open(layout, clock=FakeClock(), create=True, reserve_bytes=0)


def rewrite_the_first_generation(layout):
    """Change a record of the first generation, and the chain up to the record after its commit."""
    end = look(Layout(layout.root)).state.generations[1].seq
    with lmdb.open(str(layout.journal), subdir=False, max_dbs=8) as environment:
        records = environment.open_db(b"records")
        with environment.begin(write=True) as transaction:
            chain = Chain(bytes(32))
            for seq in range(1, end + 2):
                raw = bytes(transaction.get(struct.pack(">Q", seq), db=records))[32:]
                if seq == 2:
                    record = decode(raw)
                    raw = encode(replace(record, wall_ns=record.wall_ns + 1))
                chain = link(chain, raw)
                transaction.put(struct.pack(">Q", seq), chain + raw, db=records)


@pytest.mark.parametrize("remembered", [True, False])
def test_no_segment_is_made_of_records_that_the_head_does_not_stand_on(layout, remembered):
    segment = layout.segments / layout.segment_name(1)
    rewrite_the_first_generation(layout)
    segment.unlink()
    with pytest.raises(JournalDamagedError), opened(layout if remembered else Layout(layout.root)):
        pass
    assert not segment.exists()


def test_a_segment_of_a_sound_journal_is_made_again(layout):
    segment = layout.segments / layout.segment_name(1)
    before = segment.read_bytes()
    segment.unlink()
    with opened(layout):
        pass
    assert segment.read_bytes() == before


def test_too_little_memory_to_remember_costs_only_speed(layout, monkeypatch):
    def too_much(_):
        raise MemoryError

    shutil.rmtree(layout.memory)
    monkeypatch.setattr(snapshot_codec, "encode", too_much)
    with opened(layout) as store:
        generation, _ = play(store, Scenario(flight="new"))
    assert generation.number == 4
    assert look(layout).state.head.number == 4
    assert not layout.memory.exists()


def test_a_journal_that_is_refused_is_closed(layout):
    """Its tail is gone and an old record is damaged: it is tried twice, and nothing of it stays open."""
    before = bytearray(layout.journal.read_bytes())
    with pytest.raises(StopDeadError), opened(layout) as store:
        play(store, Scenario(flight="dead", engine="other", die_at="index"))
    at = before.index(b"build.planned")
    before[at : at + 5] = b"BUILD"
    layout.journal.write_bytes(before)
    errors = []
    for _ in range(2):
        with pytest.raises(JournalDamagedError) as found:
            Ledger.open(layout, FakeClock())
        errors.append(found)
        assert not is_open(layout.journal)
