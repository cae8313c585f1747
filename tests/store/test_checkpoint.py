"""A folded state outlives its process: as bytes that mean the same, and that are believed only where they fit."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from journal import Journal, JournalDamagedError, JournalPermissionError, guard
from journal.record import EMPTY
from store import checkpoint, remembering, rollback
from store.beside import accept
from store.collecting import collect
from store.errors import DamagedHistoryError, ErrorKind
from store.events import BuildDenied, BuildRefused
from store.fold import absorb, fold
from store.layout import Layout
from store.ledger import Ledger
from store.retention import KeepPolicy
from store.state import State
from store.testing import FakeClock, Scenario, play
from store.transaction import Store
from store.view import look, read

BUILDS = (
    Scenario(),
    Scenario(flight="f2", tiles={(0, 0): "b", (40, 40): "c"}),
    Scenario(flight="f3", engine="other", fail_at="coverage"),
    Scenario(flight="f4", tiles={(0, 0): "d"}),
    Scenario(flight="f5", engine="other"),
)


def opened(layout, **options):
    return Store.open(layout, clock=FakeClock(), create=True, reserve_bytes=0, **options)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """A history with every kind of field that a state has. Never change it."""
    layout = Layout(tmp_path_factory.mktemp("pristine") / "cache")
    with opened(layout) as store:
        for scenario in BUILDS[:3]:
            play(store, scenario)
        store.roll_back(rollback.plan(store.state, to=None, why="test"))
        for scenario in BUILDS[3:]:
            play(store, scenario)
        denied = BuildDenied(identity="a" * 64, holder={"pid": 7}, waited_ms=3, inputs={}, host={})
        refused = BuildRefused(identity="b" * 64, reason="rolled back from")
        store.append(denied, build=None)
        store.append(refused, build=store.state.next_build)
    accept(layout, 1, why="test", host={}, clock=FakeClock())
    with opened(layout, exclusive_within_s=1.0) as store:
        assert collect(store, KeepPolicy(keep=1, unfinished=False)).done
    return layout


@pytest.fixture
def remembered(pristine, tmp_path, monkeypatch):
    """A copy whose folds are remembered, however short they are."""
    monkeypatch.setattr(remembering, "WORTH_RECORDS", 1)
    shutil.copytree(pristine.root, tmp_path / "cache", symlinks=True)
    return Layout(tmp_path / "cache", memory=tmp_path / "memory")


@pytest.fixture
def starts(monkeypatch):
    """The heads from which snapshots were taken."""
    found, snapshot = [], guard.snapshot

    def told(path, *, verified=EMPTY, **options):
        found.append(verified.seq)
        return snapshot(path, verified=verified, **options)

    monkeypatch.setattr(guard, "snapshot", told)
    return found


def test_a_state_at_every_record_is_the_same_after_bytes(pristine):
    facts = read(pristine).facts
    whole, state = fold(facts), State()
    for done, fact in enumerate(facts, start=1):
        absorb(state, (fact,))
        again = checkpoint.decode(checkpoint.encode(state))
        assert again == state
        assert fold(facts[done:], again) == whole
    # The order in which results became known is what later ones are chosen by.
    assert [*again.memo.blocks] == [*whole.memo.blocks]
    assert [*again.memo.earlier] == [*whole.memo.earlier]
    assert whole.memo.earlier
    assert whole.undone
    assert whole.accepted
    assert whole.retired


@given(st.data())
@settings(max_examples=200)
def test_other_bytes_are_a_state_or_an_error(pristine, data):
    good = checkpoint.encode(read_once(pristine))
    at = data.draw(st.integers(0, len(good) - 1))
    bad = good[:at] + data.draw(st.binary(max_size=3)) + good[at + data.draw(st.integers(0, 3)) :]
    try:
        found = checkpoint.decode(bad)
    except ValueError as error:
        assert "expected a folded state" in str(error)
    else:
        assert isinstance(found, State)


_STATES: dict[Path, State] = {}


def read_once(layout):
    return _STATES.setdefault(layout.root, read(layout).state)


@pytest.mark.parametrize("change", ["surplus", "missing", "mark"])
def test_a_build_of_another_release_is_no_build(pristine, change):
    tree = msgpack.unpackb(checkpoint.encode(read(pristine).state))
    if change == "surplus":
        tree["builds"][0]["new"] = 1
    elif change == "missing":
        del tree["builds"][0]["plan"]
    else:
        tree["builds"][0]["status"] = "unheard of"
    with pytest.raises(ValueError, match="expected a folded state"):
        checkpoint.decode(msgpack.packb(tree))


def test_a_second_look_folds_what_came_since(remembered, starts):
    first = look(remembered)
    assert look(remembered).state == first.state == read(remembered).state
    assert starts == [0, first.head.seq, 0]
    accept(remembered, 4, why="test", host={}, clock=FakeClock())
    assert look(remembered).state.accepted == {1, 4}
    assert starts[-1] == first.head.seq + 1


def test_a_writer_folds_what_came_since(remembered, monkeypatch):
    head = look(remembered).head
    opens, journal_open = [], Journal.open

    def told(path, *, verified=None, **options):
        opens.append(verified)
        return journal_open(path, verified=verified, **options)

    monkeypatch.setattr(Journal, "open", told)
    with opened(remembered) as store:
        assert store.state == read(remembered).state
        play(store, Scenario(flight="f6"))
        ended = store.ledger.head
        store.ledger.reopen()
        assert store.ledger.head == ended
    assert opens == [head, head]
    with opened(remembered) as store:
        assert store.state == read(remembered).state
    assert opens[-1] == ended


def test_short_folds_are_not_kept_and_nothing_without_a_folder(remembered, monkeypatch):
    monkeypatch.setattr(remembering, "WORTH_RECORDS", look(replace(remembered, memory=None)).head.seq + 1)
    look(remembered)
    assert not remembered.memory.exists()


def spoiled(kind, path):
    data = bytearray(path.read_bytes())
    path.unlink()
    match kind:
        case "flipped":
            data[len(data) // 2] ^= 1
        case "short":
            del data[-9:]
        case "empty":
            data.clear()
        case "long ago":
            body = bytes(32) + data[72:]
            data = data[:8] + remembering.hashlib.sha256(body).digest() + body
        case "no state":
            body = bytes(data[40:72]) + b"\x80"
            data = data[:8] + remembering.hashlib.sha256(body).digest() + body
        case "folder":
            return path.mkdir()
        case "link":
            path.with_name("elsewhere").write_bytes(data)
            return path.symlink_to("elsewhere")
    return path.write_bytes(data)


@pytest.mark.parametrize("kind", ["flipped", "short", "empty", "long ago", "no state", "folder", "link"])
def test_what_is_strange_is_not_believed(remembered, starts, kind):
    right = look(remembered).state
    (path,) = remembered.memory.iterdir()
    spoiled(kind, path)
    assert look(remembered).state == right
    assert starts == [0, 0]


def test_what_another_user_wrote_is_not_believed(remembered, starts, monkeypatch):
    look(remembered)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    look(remembered)
    assert starts == [0, 0]


def test_a_folder_that_takes_nothing_costs_only_speed(remembered, starts):
    remembered.memory.write_text("no folder")
    assert look(remembered).state == look(remembered).state
    assert starts == [0, 0]


def test_another_journal_under_the_name_is_folded_anew(remembered, tmp_path, starts):
    look(remembered)
    other = Layout(tmp_path / "other")
    with opened(other) as store:
        play(store, Scenario(flight="elsewhere"))
    for path in (remembered.journal, *remembered.manifests.iterdir(), *remembered.segments.iterdir()):
        path.unlink()
    remembered.journal.write_bytes(other.journal.read_bytes())
    for folder in ("manifests", "segments"):
        for path in (other.root / folder).iterdir():
            (remembered.root / folder / path.name).write_bytes(path.read_bytes())
    assert look(remembered).state == look(other).state
    with opened(remembered) as store:
        assert store.state.cache_id == look(other).state.cache_id


def test_a_journal_that_lost_its_tail_is_refused_as_ever(remembered):
    """What is remembered of records that are gone does not stand in for them."""
    before = remembered.journal.read_bytes()
    with opened(remembered) as store:
        play(store, Scenario(flight="f7"))
    remembered.journal.write_bytes(before)
    for act in (lambda: look(remembered), lambda: opened(remembered).__enter__()):
        with pytest.raises(DamagedHistoryError) as caught:
            act()
        assert caught.value.kind is ErrorKind.JOURNAL_REPLACED


def test_damage_in_what_was_folded_is_found_by_a_whole_read(remembered, tmp_path):
    """Old records are not read again by every command; whoever reads them all finds what became of them."""
    look(remembered)
    data = bytearray(remembered.journal.read_bytes())
    at = data.index(b"build.planned")
    data[at : at + 5] = b"BUILD"
    remembered.journal.write_bytes(data)
    with pytest.raises(JournalDamagedError, match="chain"):
        read(remembered)


class TestLongFiles:
    """Where the structure of the whole file is not checked, a child reads what came since."""

    @pytest.fixture(autouse=True)
    def everything_is_long(self, monkeypatch):
        monkeypatch.setattr(guard, "LONG_BYTES", 0)

    def test_they_are_read_and_written(self, remembered):
        look(remembered)
        with opened(remembered) as store:
            play(store, Scenario(flight="f8"))
            assert look(remembered).state == store.state
        assert look(remembered).state == read(remembered).state

    def test_damage_in_the_tail_is_found(self, remembered):
        look(remembered)
        worth, remembering.WORTH_RECORDS = remembering.WORTH_RECORDS, 1 << 20
        with opened(remembered) as store:
            play(store, Scenario(flight="f8-tail"))
        remembering.WORTH_RECORDS = worth
        # Everywhere: pages that were copied on write still hold it too.
        changed = remembered.journal.read_bytes().replace(b"f8-tail", b"f9-tail")
        remembered.journal.write_bytes(changed)
        with pytest.raises(JournalDamagedError):
            look(remembered)
        with pytest.raises(JournalDamagedError), opened(remembered):
            pytest.fail("a damaged journal was opened")

    def test_a_file_that_ends_its_reader_is_an_error(self, remembered):
        head = look(remembered).head
        size = remembered.journal.stat().st_size
        with remembered.journal.open("r+b") as file:
            file.seek(8192)
            file.write(b"\xff" * (size - 8192))
        with pytest.raises(JournalDamagedError):
            guard.snapshot(remembered.journal, verified=head)
        with pytest.raises(JournalDamagedError):
            Ledger.open(remembered, FakeClock())

    def test_a_medium_that_takes_no_lock_file_is_read_without_one(self, remembered, monkeypatch):
        head, retried, modes = look(remembered).head, guard._retried, []

        def told(*args, foreign, **options):
            modes.append(foreign)
            if not foreign:
                raise JournalPermissionError("a read-only file system")
            return retried(*args, foreign=foreign, **options)

        monkeypatch.setattr(guard, "_retried", told)
        assert guard.snapshot(remembered.journal, verified=head).head == head
        assert modes == [False, True]
