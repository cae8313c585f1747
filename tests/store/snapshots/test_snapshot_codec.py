"""A folded state outlives its process: as bytes that mean the same, and that are believed only where they fit."""

import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from journal import (
    Journal,
    JournalDamagedError,
    JournalPermissionError,
    log,
    safe_reader,
)
from journal.record import EMPTY
from store.base.values import Position
from store.cache.event_store import Ledger
from store.cache.optimistic_append import accept
from store.cache.view import look, read
from store.cache.writer import Store
from store.disk.layout import Layout
from store.domain.events import BuildDenied, BuildRefused, BuildStarted, CellEmbedded
from store.domain.fold import absorb, fold
from store.domain.state import State
from store.errors import DamagedHistoryError, ErrorKind
from store.maintenance.collect_garbage import collect
from store.policy import rollback
from store.policy.retention import KeepPolicy
from store.snapshots import snapshot_codec, snapshot_file
from store.snapshots.snapshot_file import trusted_head
from store.testing import FakeClock, Scenario, StopDeadError, made, play, ref_of
from store.verify.verify import Depth, verify

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
    monkeypatch.setattr(snapshot_file, "WORTH_RECORDS", 1)
    shutil.copytree(pristine.root, tmp_path / "cache", symlinks=True)
    return Layout(tmp_path / "cache", memory=tmp_path / "memory")


@pytest.fixture
def starts(monkeypatch):
    """The heads from which snapshots were taken."""
    found, snapshot = [], safe_reader.snapshot

    def told(path, *, verified=EMPTY, **options):
        found.append(verified.seq)
        return snapshot(path, verified=verified, **options)

    monkeypatch.setattr(safe_reader, "snapshot", told)
    return found


def test_a_state_at_every_record_is_the_same_after_bytes(pristine):
    facts = read(pristine).facts
    whole, state = fold(facts), State()
    for done, fact in enumerate(facts, start=1):
        absorb(state, (fact,))
        again = snapshot_codec.decode(snapshot_codec.encode(state))
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
    good = snapshot_codec.encode(read_once(pristine))
    at = data.draw(st.integers(0, len(good) - 1))
    bad = good[:at] + data.draw(st.binary(max_size=3)) + good[at + data.draw(st.integers(0, 3)) :]
    try:
        found = snapshot_codec.decode(bad)
    except ValueError as error:
        assert "expected a folded state" in str(error)
    else:
        assert isinstance(found, State)


_STATES: dict[Path, State] = {}


def read_once(layout):
    return _STATES.setdefault(layout.root, read(layout).state)


@pytest.mark.parametrize("change", ["surplus", "missing", "mark"])
def test_a_build_of_another_release_is_no_build(pristine, change):
    tree = msgpack.unpackb(snapshot_codec.encode(read(pristine).state))
    if change == "surplus":
        tree["builds"][0]["new"] = 1
    elif change == "missing":
        del tree["builds"][0]["plan"]
    else:
        tree["builds"][0]["status"] = "unheard of"
    with pytest.raises(ValueError, match="expected a folded state"):
        snapshot_codec.decode(msgpack.packb(tree))


def test_a_second_look_folds_what_came_since(remembered, starts):
    first = look(remembered)
    assert look(remembered).state == first.state == read(remembered).state
    before = first.state.head.before.seq
    assert starts == [0, before, 0]
    accept(remembered, 4, why="test", host={}, clock=FakeClock())
    assert look(remembered).state.accepted == {1, 4}
    assert starts[-1] == before


def test_a_writer_folds_what_came_since(remembered, monkeypatch):
    before = trusted_head(look(remembered).state)
    opens, journal_open = [], Journal.open

    def told(path, *, verified=None, **options):
        opens.append(verified)
        return journal_open(path, verified=verified, **options)

    monkeypatch.setattr(Journal, "open", told)
    with opened(remembered) as store:
        assert store.state == read(remembered).state
        play(store, Scenario(flight="f6"))
        committed, ended = trusted_head(store.state), store.ledger.head
        store.ledger.reopen()
        assert store.ledger.head == ended
    # After an error of the disk everything is checked again.
    assert opens == [before, None]
    with opened(remembered) as store:
        assert store.state == read(remembered).state
    assert opens[-1] == committed


def test_short_folds_are_not_kept_and_nothing_without_a_folder(remembered, monkeypatch):
    monkeypatch.setattr(snapshot_file, "WORTH_RECORDS", look(replace(remembered, memory=None)).head.seq + 1)
    look(remembered)
    assert not remembered.memory.exists()


def sealed(body):
    return b"C10FOLD\x02" + hashlib.sha256(body).digest() + body


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
            data = sealed(bytes(2) + data[42:])
        case "no state":
            data = sealed(data[40:42] + b"\x80")
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
    monkeypatch.setattr(snapshot_file.os, "geteuid", lambda: 12345)
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


def rewritten(layout, change):
    """Change what is remembered, as a bug or a hand might, and seal it again."""
    (path,) = layout.memory.iterdir()
    data = path.read_bytes()
    tree = msgpack.unpackb(data[42:])
    change(tree)
    path.unlink()
    path.write_bytes(sealed(data[40:42] + msgpack.packb(tree)))


def without_generations(tree):
    tree["generations"] = []


def accepted_by_nobody(tree):
    tree["accepted"] = [2]


@pytest.mark.parametrize(
    "change",
    [
        without_generations,
        lambda tree: tree.update(builds=[]),
        lambda tree: tree.update(open_build=77),
        lambda tree: tree.update(undone=[1]),
        *(
            lambda tree, position=position: tree.update(position=position)
            for position in (
                ["x", "0" * 64],
                [5, 7],
                [5, "zz"],
                [2.5, "0" * 64],
                [-1, "0" * 64],
                [5, "0" * 64],
            )
        ),
    ],
)
def test_a_state_that_does_not_fit_gives_way_to_the_records(remembered, change):
    right = look(remembered).state
    rewritten(remembered, change)
    assert look(remembered).state == right
    rewritten(remembered, change)
    with opened(remembered) as store:
        assert store.state == right


def test_a_whole_verification_and_a_collection_believe_the_records_alone(remembered):
    right = look(remembered).state
    rewritten(remembered, accepted_by_nobody)
    assert look(remembered).state.accepted == {2}
    with opened(remembered, exclusive_within_s=1.0) as store:
        assert store.state.accepted == right.accepted
    rewritten(remembered, accepted_by_nobody)
    verify(remembered, depth=Depth.FULL)
    assert look(remembered).state == right


def test_damage_since_the_last_commit_is_found_before_the_next(remembered):
    """Also where the records were folded while they were whole."""
    with opened(remembered) as store, pytest.raises(StopDeadError):
        play(store, Scenario(flight="f9", engine="nine", die_at="index"))
    look(remembered)
    changed = remembered.journal.read_bytes().replace(b"engine of nine", b"engine of none")
    key = look(remembered).state.builds[max(look(remembered).state.builds)].engines[0][1].key.encode()
    changed = remembered.journal.read_bytes().replace(key, key[::-1])
    remembered.journal.write_bytes(changed)
    with pytest.raises(JournalDamagedError):
        look(remembered)
    with pytest.raises(JournalDamagedError), opened(remembered):
        pytest.fail("a damaged journal was opened")


def test_a_count_that_no_bytes_hold_is_not_remembered(remembered):
    with opened(remembered) as store:
        number = store.state.next_build
        store.append(made(BuildStarted, calibration=ref_of(b"")), build=number)
        for cell in range(2):
            store.append(made(CellEmbedded, cell_x=cell, embedded=2**64 - 1, block=ref_of(b"")), build=number)
    assert look(remembered).state == read(remembered).state


def test_a_full_disk_leaves_no_half_of_it(remembered, monkeypatch):
    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, data):
            self.file.write(data[:10])
            raise OSError(28, "full")

    real = os.fdopen
    monkeypatch.setattr(
        snapshot_file.os, "fdopen", lambda fd, mode: Full(real(fd, mode)) if mode == "wb" else real(fd, mode)
    )
    look(remembered)
    assert not list(remembered.memory.iterdir())


def test_a_long_journal_is_not_written_out_for_every_few_records(remembered, monkeypatch):
    state = read(remembered).state
    long = replace(state, position=Position(10_000, state.position.chain))
    since = Position(9_000, "0" * 64)
    monkeypatch.setattr(snapshot_file, "WORTH_RECORDS", 512)
    snapshot_file.remember(remembered, long, since=since, head=state.head)
    assert not remembered.memory.exists()
    snapshot_file.remember(remembered, long, since=since, head=None)
    assert remembered.memory.exists()


LAW_MODULES = (
    "attached",
    "bulk",
    "canonical",
    "checkpoint",
    "codec",
    "events",
    "facts",
    "fold",
    "indexes",
    "lazy",
    "lineage",
    "memo",
    "names",
    "packed",
    "state",
)
LAW_DIGEST = "57a4ded3100b3e56"


def test_whoever_changes_how_facts_fold_raises_the_law():
    """What another release folded is believed as long as `checkpoint.LAW` is the same.

    If this fails: where facts now fold to another state, or the state has another form, raise `LAW`; then write down the
    new digest in any case.
    """
    digest = hashlib.sha256(str(snapshot_codec.LAW).encode())
    for name in LAW_MODULES:
        digest.update(Path(snapshot_codec.__file__).with_name(f"{name}.py").read_bytes())
    assert digest.hexdigest()[:16] == LAW_DIGEST


class TestLongFiles:
    """Where the structure of the whole file is not checked, a child reads what came since."""

    @pytest.fixture(autouse=True)
    def everything_is_long(self, monkeypatch):
        monkeypatch.setattr(safe_reader, "LONG_BYTES", 0)

    def test_they_are_read_and_written(self, remembered):
        look(remembered)
        with opened(remembered) as store:
            play(store, Scenario(flight="f8"))
            assert look(remembered).state == store.state
        assert look(remembered).state == read(remembered).state

    def test_a_file_that_ends_its_reader_is_an_error(self, remembered):
        head = trusted_head(look(remembered).state)
        size = remembered.journal.stat().st_size
        with remembered.journal.open("r+b") as file:
            file.seek(8192)
            file.write(b"\xff" * (size - 8192))
        for act in (
            lambda: safe_reader.snapshot(remembered.journal, verified=head),
            lambda: look(remembered),
            lambda: Ledger.open(remembered, FakeClock()),
        ):
            with pytest.raises(JournalDamagedError):
                act()

    def test_a_writer_checks_the_whole_structure(self, remembered, monkeypatch):
        look(remembered)
        checked, require_sound = [], log.require_sound
        monkeypatch.setattr(log, "require_sound", lambda path: checked.append(path) or require_sound(path))
        Ledger.open(remembered, FakeClock()).close()
        assert checked == [remembered.journal]

    def test_a_medium_that_takes_no_lock_file_is_read_without_one(self, remembered, monkeypatch):
        head, retried, modes = look(remembered).head, safe_reader._retried, []

        def told(*args, foreign, **options):
            modes.append(foreign)
            if not foreign:
                raise JournalPermissionError("a read-only file system")
            return retried(*args, foreign=foreign, **options)

        monkeypatch.setattr(safe_reader, "_retried", told)
        assert safe_reader.snapshot(remembered.journal, verified=head).head == head
        assert modes == [False, True]
