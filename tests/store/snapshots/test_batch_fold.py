"""Cells that are read by the thousand fold to what they fold to one by one, or to the same error."""

import random
from dataclasses import replace
from itertools import groupby

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from journal.errors import JournalError
from journal.record import EMPTY, Entry, Record, encode, link
from store.base.values import ArtifactRef
from store.cache import event_mapper
from store.cache.event_mapper import fold_entries, to_fact, to_facts, to_record
from store.domain import event_codec
from store.domain import events as e
from store.domain.fold import absorb, fold
from store.domain.state import CellRun, State
from store.errors import DamagedHistoryError, StoreError
from store.snapshots import batch_fold, snapshot_codec
from store.snapshots.cell_codec import pack, unpack
from store.testing import made, ref_of

GENESIS = made(e.CacheCreated, cache_id="c" * 32)
STARTED = made(e.BuildStarted, identity="1" * 64)
SPACES = ("5" * 64, "6" * 64, "k")


@pytest.fixture(autouse=True)
def few_are_worth_it(monkeypatch):
    monkeypatch.setattr(event_mapper, "_WORTH_CELLS", 1)
    monkeypatch.setattr(event_mapper, "_FEW_CELLS", 1)
    monkeypatch.setattr(event_mapper, "_BATCH_BYTES", 20_000)
    monkeypatch.setattr(batch_fold, "_ALIKE", 2)


def cell(x, *, y=0, space=0, tiles=3, key="", **fields):
    name = f"{x}-{y}-{space}-{key}".encode()
    event = made(
        e.CellEmbedded,
        space=SPACES[space],
        zoom=20,
        cell_x=x,
        cell_y=y,
        key=ref_of(name + b"key").sha256,
        components={"space": SPACES[space], "tiles": ref_of(name).sha256},
        engine="e" * 64,
        block=ref_of(name),
        rows=tiles,
        embedded=tiles,
    )
    return replace(event, **fields)


def entries(*pairs, wall_ns=1_700_000_000_000_000_000):
    """Entries of (build, event) or of records, in a row."""
    found, head = [], EMPTY
    for seq, (build, event) in enumerate(pairs, 1):
        record = event
        if not isinstance(event, Record):
            record = to_record(event, build=build, wall_ns=wall_ns + seq, mono_ns=seq)
        raw = record if isinstance(record, bytes) else encode(record)
        head = link(head[1] if seq == 1 else head, raw)
        found.append(Entry(seq=seq, chain=head, raw=raw))
    return found


def outcome(work):
    """The state that a fold leaves, and its error, if it has one."""
    state, error = State(), None
    try:
        work(state)
    except (StoreError, JournalError) as found:
        error = (type(found), str(found))
    return state, error


def same(found):
    """The state that entries fold to, the same in bulk and one by one, whether with an error or without."""
    single, error = outcome(lambda state: absorb(state, to_facts(found)))
    many, other = outcome(lambda state: fold_entries(state, found))
    assert other == error
    assert [*many.memo.blocks] == [*single.memo.blocks]
    assert [*many.memo.made.items()] == [*single.memo.made.items()]
    assert many == single
    return many


def built(*events, build=1):
    return entries((None, GENESIS), (1, STARTED), *((build, event) for event in events))


def read(found, reader=None):
    """The runs in which cells are read, by one that may have read others."""
    cells = [place for place, entry in enumerate(found) if entry.raw.startswith(event_mapper._CELL)]
    facts_and_runs = [*(reader or batch_fold.CellReader()).runs(found, cells, to_fact)]
    return [fact for fact in facts_and_runs if isinstance(fact, CellRun)]


def lengths(runs):
    return [len(run.cells.names) for run in runs]


class TestAgainstOneByOne:
    """Nothing tells from a state how its facts were read."""

    def test_cells_of_all_sizes(self, monkeypatch):
        taken, runs = [], batch_fold.CellReader.runs

        def told(*args):
            for found in runs(*args):
                taken.append(len(found.cells.names) if isinstance(found, CellRun) else 0)
                yield found

        monkeypatch.setattr(batch_fold.CellReader, "runs", told)
        numbers = (0, 1, 5, 100, 127, 128, 200, 255, 256, 4000, 65_535, 65_536, 70_000, 2**31, 2**32 - 1)
        state = same(built(*(cell(x, y=y, tiles=x) for x in numbers for y in numbers)))
        assert state.builds[1].cells_embedded == len(numbers) ** 2
        assert sum(taken) > 200

    def test_cells_between_other_facts(self):
        steps = [made(e.StepStarted, kind="cells", subjects=(f"20/{x}/0",)) for x in range(40)]
        state = same(built(*(event for x in range(40) for event in (steps[x], cell(x), cell(x, y=1)))))
        assert (state.builds[1].doing, state.builds[1].cells_embedded) == ("cells 20/39/0", 80)

    def test_cells_that_take_the_place_of_others(self):
        first = [cell(x) for x in range(20)]
        again = [cell(x, key="other") for x in range(20)]
        state = same(built(*first, *again, *first[:5], *again[:1]))
        name = (SPACES[0], 20, 0, 0)
        assert [event.block for event in state.memo.blocks_of(name)] == [first[0].block, again[0].block]
        assert [event.block for event in state.memo.earlier[SPACES[0], 20, 1, 0]] == [again[1].block]
        assert same(built(*([first[0]] * 30))).memo.earlier == {}

    def test_cells_of_no_build_and_of_one_that_is_not_open(self):
        outside = entries((None, GENESIS), *((None, cell(x)) for x in range(30)))
        assert same(outside).memo.made[cell(3).block.sha256].build is None
        assert same(built(*(cell(x) for x in range(30)), build=2)).position.seq == 2
        assert same(entries(*((1, cell(x)) for x in range(30)))).position.seq == 0

    def test_cells_out_of_their_place(self):
        found = built(*(cell(x) for x in range(30)))
        assert same([*found[:2], *found[3:]]).position.seq == 2

    @pytest.mark.parametrize("moved", [-1, 0, 1])
    def test_cells_between_which_one_is_missing_or_of_one_place(self, moved):
        found = built(*(cell(x) for x in range(30)))
        gap = [*found[:12], *(entry._replace(seq=entry.seq + moved) for entry in found[12:])]
        assert same(gap).position.seq == (12 if moved else 32)
        assert lengths(read(gap)) == ([10, 20] if moved else [30])

    def test_cells_that_change_between_builds(self):
        builds = [1, 1, 2, 2, 1, None, None, 2, None, 1, 1, 1] * 3
        cells = [(build, cell(x)) for x, build in enumerate(builds)]
        expected = [(build, len([*group])) for build, group in groupby(builds)]
        assert [(run.build, len(run.cells.names)) for run in read(entries(*cells))] == expected
        assert same(entries((None, GENESIS), (1, STARTED), *cells)).position.seq == 4
        ours = [each for each in cells if each[0] != 2]
        state = same(entries((None, GENESIS), (1, STARTED), *ours))
        assert [made.build for made in state.memo.made.values()] == [build for build, _ in ours]
        assert state.builds[1].cells_embedded == builds.count(1)

    def test_cells_of_two_builds(self):
        ended = made(e.BuildAbandoned, reason="died")
        ones = [(1, cell(x)) for x in range(20)]
        twos = [(2, cell(x, key="two")) for x in range(20)]
        state = same(
            entries((None, GENESIS), (1, STARTED), *ones, (1, ended), (2, STARTED), *twos, (2, ended), *twos)
        )
        assert [build.cells_embedded for build in state.builds.values()] == [20, 20]

    def test_cells_that_were_void_or_collected(self):
        cells = [cell(x) for x in range(30)]
        failed = made(e.CheckFailed, check="c", key=SPACES[0])
        gone = made(e.Collected, digests=(cells[3].block.sha256,))
        left = same(entries((None, GENESIS), (1, STARTED), *((1, each) for each in cells), (None, gone)))
        assert (len(left.memo.blocks), len(left.memo.made)) == (29, 29)
        void = same(built(*cells, failed, cells[0]))
        assert [event.cell_x for event in void.memo.blocks.values()] == [0]

    def test_a_digest_that_is_none(self):
        for wrong in ("E" * 64, "e" * 63 + "g", "e" * 63 + " "):
            events = [cell(x, engine=wrong) for x in range(20)]
            assert len(same(built(*events)).memo.blocks) == 20
            broken = [replace(event, block=ArtifactRef(sha256=wrong, size=1)) for event in events]
            assert same(built(*(cell(x, y=1) for x in range(20)), *broken)).position.seq == 22

    def test_names_that_are_not_read_in_bulk(self):
        strange = [
            *(cell(x, space=2) for x in range(20)),
            *(cell(x, cell_y=-1) for x in range(20)),
            *(cell(x, cell_y=2**40) for x in range(20)),
            *(cell(x, space=1, components={"näme": ["ö" * x, {"a": None}]}) for x in range(20)),
            *(replace(cell(x, y=9), space="ö" * 32) for x in range(20)),
            *(cell(x, y=10, components={"long": "x" * 5000}) for x in range(20)),
        ]
        assert len(same(built(*strange)).memo.blocks) == len(strange)

    def test_more_forms_than_are_tried_and_more_lengths_than_are_remembered(self, monkeypatch):
        monkeypatch.setattr(batch_fold, "_FORMS", 3)
        monkeypatch.setattr(batch_fold, "_KEPT", 2)
        keys = "abcdefghij"
        events = [
            cell(x, y=number, components={key: "v" * number})
            for number in range(8)
            for x in range(4)
            for key in keys
        ]
        same(built(*events, *events))

    @settings(max_examples=40, deadline=None)
    @given(st.data())
    def test_any_history_of_cells(self, data):
        events = data.draw(
            st.lists(
                st.builds(
                    cell,
                    st.integers(0, 3) | st.sampled_from([200, 300, 70_000, 2**33]),
                    y=st.integers(0, 1),
                    space=st.integers(0, 2),
                    tiles=st.integers(0, 2) | st.just(300),
                    key=st.sampled_from("ab"),
                )
                | st.just(made(e.StepStarted, kind="cells"))
                | st.builds(lambda space: made(e.CheckFailed, key=SPACES[space]), st.integers(0, 2)),
                max_size=60,
            )
        )
        found = built(*events)
        state = same(found)
        again = snapshot_codec.decode(snapshot_codec.encode(state))
        assert again == state
        assert [*again.memo.blocks.items()] == [*state.memo.blocks.items()]
        assert [*again.memo.earlier.items()] == [*state.memo.earlier.items()]
        assert [*again.memo.made.items()] == [*state.memo.made.items()]

    @pytest.mark.parametrize("seed", range(30))
    def test_records_that_were_tampered_with(self, seed):
        """The chain is made anew over hostile bytes: what is left to refuse them are the rules for records and events."""
        order = random.Random(seed)
        found = built(*(cell(x, tiles=300) for x in range(60)))
        tampered, chain = found[:2], found[1].chain
        for entry in found[2:]:
            raw = bytearray(entry.raw)
            if order.random() < 0.2:
                raw[order.randrange(len(raw))] = order.choice((0, 0x7F, 0x80, 0xC0, 0xCC, 0xFF, 0x47, 0x30))
            chain = link(chain, bytes(raw))
            tampered.append(Entry(seq=entry.seq, chain=chain, raw=bytes(raw)))
        same(tampered)

    def test_a_payload_that_is_no_cell(self):
        def record(payload, version=1):
            return Record(
                tag="cell.embedded", version=version, build=1, wall_ns=1, mono_ns=1, payload=payload
            )

        whole = event_codec.encode(cell(1))[2]
        for wrong in (
            [record({**whole, "surplus": 1})] * 20,
            [record({**whole, "zoom": "x"})] * 20,
            [record({**whole, "block": {**whole["block"], "size": -1}})] * 20,
            [record([1])] * 20,
            [record(whole, version=2)] * 20,
        ):
            same(entries((None, GENESIS), (1, STARTED), *((1, each) for each in wrong)))


class TestForms:
    """What is remembered of the records that were read is bounded, and is what helps."""

    @pytest.fixture(autouse=True)
    def few_are_remembered(self, monkeypatch):
        monkeypatch.setattr(batch_fold, "_FORMS", 4)
        monkeypatch.setattr(batch_fold, "_KEPT", 3)

    @pytest.fixture
    def learnt(self, monkeypatch):
        """What forms were made of."""
        found, form_of = [], batch_fold._form_of
        monkeypatch.setattr(batch_fold, "_form_of", lambda raw: found.append(raw) or form_of(raw))
        return found

    def cells(self, key, *, width=1, build=1):
        events = [cell(x, components={key: "v" * width}) for x in range(3)]
        return entries(*((build, event) for event in events))

    def test_builds_are_no_forms(self, learnt):
        reader = batch_fold.CellReader()
        for build in range(1, 120):
            assert lengths(read(self.cells("a", build=build), reader)) == [3]
        assert len(learnt) == 1

    def test_those_that_nobody_meets_make_way(self, learnt):
        reader = batch_fold.CellReader()
        for key in "abcdefghij":
            for met in (key, key, "a"):
                assert lengths(read(self.cells(met), reader)) == [3]
        assert len(learnt) == 10
        ((length, forms),) = reader._forms.items()
        assert (length, len(forms)) == (len(learnt[0]), 3)

    def test_lengths_that_nobody_meets_make_way(self, learnt):
        reader = batch_fold.CellReader()
        for width in range(1, 12):
            assert lengths(read(self.cells("a", width=width), reader)) == [3]
            assert lengths(read(self.cells("a"), reader)) == [3]
        assert len(learnt) == 11
        assert [*reader._forms] == [len(learnt[at]) for at in (8, 9, 10, 0)]


class TestPacked:
    """An event of a cell as bytes."""

    def test_they_are_the_payload_of_its_record(self):
        (entry,) = entries((1, cell(70_000, y=3)))
        event = next(iter(to_facts([entry]))).event
        assert entry.raw.endswith(pack(event))
        assert unpack(pack(event)) == event

    @pytest.mark.parametrize("payload", [b"", b"\xc1", b"\x80", msgpack.packb([1]), b"\x91" * 2000])
    def test_other_bytes_are_an_error(self, payload):
        with pytest.raises(DamagedHistoryError, match="expected a well-formed cell"):
            unpack(payload)


class TestLazily:
    """A state whose cells nobody asked for is the same one, and costs as little as it can."""

    def test_no_event_is_made_before_one_is_asked_for(self, monkeypatch):
        asked = []
        monkeypatch.setattr(batch_fold, "unpack", lambda payload: asked.append(payload) or unpack(payload))
        state = State()
        fold_entries(state, built(*(cell(x) for x in range(40))))
        assert state.builds[1].tiles_embedded == 120
        names = [*state.memo.blocks]
        before = len(asked)
        assert state.memo.blocks[names[20]] == cell(20)
        assert (before, len(asked)) == (0, 1)

    def test_a_copy_and_its_original_go_their_own_ways(self):
        found = built(*(cell(x) for x in range(40)))
        state = State()
        fold_entries(state, found[:30])
        other = state.copy()
        fold_entries(other, found[30:])
        assert len(state.memo.blocks) == 28
        assert other == fold(to_facts(found))
        assert state == fold(to_facts(found[:30]))

    @pytest.mark.parametrize(
        "change",
        [
            {"zoom": ["x"]},
            {"zoom": []},
            {"zoom": None},
            {"space": [7]},
            {"space": [-1]},
            {"block": [1]},
            {"spaces": []},
            {"made": [1]},
            {"made_build": ["x"]},
            {"made_seq": []},
        ],
    )
    def test_columns_that_do_not_fit_are_no_state(self, change):
        state = State()
        fold_entries(state, built(cell(1)))
        tree = msgpack.unpackb(snapshot_codec.encode(state))
        assert snapshot_codec.decode(msgpack.packb(tree)) == state
        tree["memo"].update(change)
        with pytest.raises(ValueError, match="expected a folded state"):
            snapshot_codec.decode(msgpack.packb(tree))


def test_without_many_cells_numpy_is_not_loaded(monkeypatch):
    monkeypatch.setattr(event_mapper, "_WORTH_CELLS", 41)
    monkeypatch.setattr(event_mapper, "_cell_reader", lambda: pytest.fail("it was loaded"))
    same(built(*(cell(x) for x in range(40))))
    assert event_mapper._CELL.startswith(b"\x96\xadcell.embedded")


def test_cells_are_counted_over_batches(monkeypatch):
    """Of long records a batch holds few, however many there are."""
    read, loaded = [], event_mapper._cell_reader
    monkeypatch.setattr(event_mapper, "_WORTH_CELLS", 41)
    monkeypatch.setattr(event_mapper, "_FEW_CELLS", 5)
    monkeypatch.setattr(event_mapper, "_cell_reader", lambda: read.append(1) or loaded())
    found = built(*(cell(x, components={"long": "x" * 1200}) for x in range(40)))
    assert 2 * sum(len(entry.raw) for entry in found[:20]) > event_mapper._BATCH_BYTES
    same(found)
    assert read == []
    same(built(*(cell(x, components={"long": "x" * 1200}) for x in range(60))))
    assert read == [1]
    # Few at a time are not worth it, however many there were.
    step = made(e.StepStarted, kind="cells", subjects=("x" * 6000,))
    same(built(*(event for x in range(60) for event in (cell(x), step))))
    assert read == [1]
