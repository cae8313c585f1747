"""The journal and its state in step: every record is read before anything is made of it."""

import random
import struct
from contextlib import suppress

import lmdb
import pytest

from journal import JournalDamagedError
from journal.errors import RecordError
from journal.record import EMPTY, Chain, Entry, decode, encode, extend, link
from journal.storage.environment import is_open
from store.cache.event_mapper import fold_entries, to_record, to_recorded_events
from store.cache.event_store import EventStore
from store.cache.view import open_view, read_history
from store.disk.layout import Layout
from store.domain.events import BuildStarted, CacheCreated, CheckFailed, StepReused
from store.domain.maintenance_events import GenerationAccepted
from store.domain.state import State
from store.errors import DamagedHistoryError, ErrorKind, RequestRefusedError, StoreError
from store.testing import FakeClock
from tests.played_builds import Scenario, StopDeadError, make, play
from tests.store_caches import open_writer, record_builds


@pytest.fixture
def layout(tmp_path):
    """Three generations."""
    layout = Layout(tmp_path / "cache")
    with open_writer(layout) as store:
        for number in range(3):
            play(store, Scenario(flight=f"f{number}", tiles={(0, number): "x"}))
    return layout


def test_what_others_append_is_folded_before_the_next_append(layout):
    store = EventStore.open(layout, FakeClock())
    accept = [store.record(make(GenerationAccepted, generation=number), build=None) for number in (1, 2, 3)]
    before, noted, folded = store.head, [], []
    store.before_append = lambda *note: noted.append(note)
    store.on_folded = lambda state: folded.append(state.position.seq) or ()
    store.journal.append(accept[:1])  # as another process does
    store.refresh()
    assert (store.state.accepted, folded) == ({1}, [before.seq + 1])
    store.journal.append(accept[1:2])
    store.append(accept[2:])
    assert store.state.accepted == {1, 2, 3}
    assert store.head == store.journal.head
    assert (store.head.seq, store.appended, {*folded[1:]}) == (before.seq + 3, 1, {before.seq + 2})
    # The first attempt was on a head that had moved.
    assert [first for first, _ in noted] == [before.seq + 2, before.seq + 3]
    assert noted[-1][1] == store.head
    assert store.chain_at(before.seq) == before.chain.hex()
    assert store.chain_at(before.seq + 4) is None
    store.append_on(store.head, [], {b"name": b"value"})
    assert len(noted) == 2
    store.close()


def test_what_folding_changed_is_recorded_before_the_next_append(layout):
    """Others fold the journal to the same state, of which a commit says the digest of its manifest."""
    store = EventStore.open(layout, FakeClock())
    accept = [store.record(make(GenerationAccepted, generation=number), build=None) for number in (1, 2, 3)]

    def change(state):
        """Accept generation 2, once: the journal is folded to its end, and then once more."""
        if 2 in state.accepted:
            return ()
        state.accepted |= {2}
        return accept[1:2]

    store.on_folded = change
    store.journal.append(accept[:1])
    before = store.journal.head.seq
    for records in (accept[2:], []):
        store.append(records)
        assert store.journal.head.seq == before + 2
        assert store.state.accepted == {1, 2, 3}
    assert open_view(layout).state == store.state


def test_only_what_needs_a_withdrawn_result_is_told_that_it_was_withdrawn(layout):
    with open_writer(layout) as writer:
        with pytest.raises(StopDeadError):
            play(writer, Scenario(flight="f4", die_at="commit"))
        store, build = writer.event_store, writer.state.open_build
        (name, engine), *_ = writer.state.builds[build].engines
        withdrawal = make(CheckFailed, subject=name, key=engine.key)

        def change(state):
            """Forget the engine, as a build does with results that no key vouches for."""
            if engine.key not in state.step_cache.engines:
                return ()
            state.step_cache.record_check(withdrawal)
            return [store.record(withdrawal, build=build)]

        store.on_folded = change
        store.journal.append([store.record(make(GenerationAccepted, generation=1), build=None)])
        before = store.journal.head
        impossible = [store.record(make(CacheCreated), build=None)]
        reuse = [store.record(make(StepReused, kind="engine", keys={name: engine.key}), build=build)]
        for _ in range(2):
            with pytest.raises(DamagedHistoryError):
                store.append(impossible)
            with pytest.raises(DamagedHistoryError):
                store.append([*reuse, *impossible])
            with pytest.raises(RequestRefusedError) as caught:
                store.append(reuse)
            assert caught.value.kind is ErrorKind.WITHDRAWN
        assert store.journal.head == before
        store.append([store.record(make(GenerationAccepted, generation=2), build=None)])
        assert store.journal.head.seq == before.seq + 2, "what folding changed is still recorded"
        assert engine.key not in open_view(layout).state.step_cache.engines


def entries_of(*raws):
    found, head = [], EMPTY
    for raw in raws:
        head = extend(head, [raw])
        found.append(Entry(seq=head.seq, chain=head.chain, raw=raw))
    return found


def open_event_store(layout):
    EventStore.open(layout, FakeClock()).close()


def rewrite_the_first_generation(layout):
    """Change a record of the first generation, and the chain up to the record after its commit."""
    end = open_view(layout).state.generations[1].seq
    with lmdb.open(str(layout.journal), subdir=False, max_dbs=8) as environment:
        records = environment.open_db(b"records")
        with environment.begin(write=True) as transaction:
            chain = Chain(bytes(32))
            for seq in range(1, end + 2):
                raw = bytes(transaction.get(struct.pack(">Q", seq), db=records))[32:]
                if seq == 2:
                    record = decode(raw)
                    raw = encode(record._replace(wall_ns=record.wall_ns + 1))
                chain = link(chain, raw)
                transaction.put(struct.pack(">Q", seq), chain + raw, db=records)


def test_no_segment_is_made_of_records_that_the_head_does_not_stand_on(layout):
    segment = layout.segments / layout.segment_name(1)
    rewrite_the_first_generation(layout)
    segment.unlink()
    with pytest.raises(JournalDamagedError), open_writer(layout):
        pass
    assert not segment.exists()


def test_a_segment_of_a_sound_journal_is_written_again(layout):
    segment = layout.segments / layout.segment_name(1)
    before = segment.read_bytes()
    segment.unlink()
    with open_writer(layout):
        pass
    assert segment.read_bytes() == before


def test_a_view_a_history_and_a_writer_fold_the_same(layout):
    looked, whole = open_view(layout), read_history(layout)
    with open_writer(layout) as store:
        assert store.state == looked.state == whole.state
        ended = store.event_store.head
        store.event_store.reopen()
        assert store.event_store.head == ended == looked.head == whole.head
        assert store.state == whole.state


@pytest.mark.parametrize("act", [open_view, read_history, open_event_store])
@pytest.mark.parametrize("since_the_commit", [False, True])
def test_damage_is_found_wherever_it_is(layout, act, since_the_commit):
    with pytest.raises(StopDeadError), open_writer(layout) as store:
        play(store, Scenario(flight="dead", engine="other", die_at="index"))
    key = struct.pack(">Q", open_view(layout).head.seq if since_the_commit else 2)
    with lmdb.open(str(layout.journal), subdir=False, max_dbs=8) as environment:
        records = environment.open_db(b"records")
        with environment.begin(write=True) as transaction:
            value = bytearray(transaction.get(key, db=records))
            value[-1] ^= 1
            transaction.put(key, bytes(value), db=records)
    with pytest.raises(JournalDamagedError):
        act(layout)
    assert not is_open(layout.journal)


@pytest.mark.parametrize("act", [open_view, lambda layout: open_writer(layout).__enter__()])
def test_a_journal_that_lost_its_tail_is_refused(layout, act):
    before = layout.journal.read_bytes()
    record_builds(layout, Scenario(flight="f7"))
    layout.journal.write_bytes(before)
    with pytest.raises(DamagedHistoryError) as caught:
        act(layout)
    assert caught.value.kind is ErrorKind.JOURNAL_REPLACED


CREATED = to_record(make(CacheCreated, cache_id="c" * 32), build=None, wall_ns=7, mono_ns=7)
STARTED = to_record(make(BuildStarted, inputs={"b": 1, "a": [2]}), build=1, wall_ns=7, mono_ns=7)


def test_only_what_comes_from_elsewhere_is_held_to_its_form():
    raw = encode(STARTED)
    other = raw.replace(b"\xa1b\x01", b"\xa1b\xcc\x01")
    assert other != raw
    found, state = entries_of(encode(CREATED), other), State()
    fold_entries(state, found)
    assert state.builds[1].inputs == {"a": [2], "b": 1}
    with pytest.raises(RecordError, match="not canonical"):
        [*to_recorded_events(found)]


@pytest.mark.parametrize("seed", range(200))
def test_hostile_records_fold_or_are_refused(seed):
    """The chain is made anew over them: what is left to refuse them are the rules for records and events."""
    order, raws = random.Random(seed), [bytearray(encode(record)) for record in (CREATED, STARTED)]
    for _ in range(order.randint(1, 4)):
        raw = order.choice(raws)
        raw[order.randrange(len(raw))] = order.choice((0, 0x7F, 0x80, 0xC0, 0xCC, 0xFF, 0x47, 0x30, 0x91))
    state = State()
    with suppress(RecordError, StoreError):
        fold_entries(state, entries_of(*map(bytes, raws)))
    assert state.position.seq <= 2


def test_a_document_that_is_nested_too_far_is_refused():
    raw = encode(STARTED)
    deep = raw.replace(b"\x91\x02", b"\x91" * 900 + b"\x02")
    with pytest.raises(DamagedHistoryError, match="inside each other"):
        fold_entries(State(), entries_of(encode(CREATED), deep))
