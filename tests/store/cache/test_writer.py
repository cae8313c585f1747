"""The write path under faults: what is missing is made again, and what does not fit is refused untouched."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from journal import Journal, JournalFullError
from journal.record import Record
from journal.storage.environment import open_environment
from store.base.canonical_json import sha256
from store.base.identity import build_identity
from store.cache import projections
from store.cache.event_mapper import to_record
from store.cache.event_store import EventStore
from store.cache.view import list_cache_files, open_view, read_history
from store.cache.writer import CacheWriter
from store.disk.artifacts import Artifacts
from store.disk.layout import Layout
from store.domain.events import BuildFailed, BuildStarted, CacheCreated, CheckFailed
from store.domain.maintenance_events import GenerationAccepted
from store.domain.state import BuildStatus
from store.errors import (
    CacheUnusableError,
    DamagedHistoryError,
    ErrorKind,
    NoGoError,
    RequestRefusedError,
    UnknownEventError,
    UnprojectedError,
)
from store.maintenance.rebuild_journal import rebuild
from store.manifest import manifest as m
from store.manifest.file_names import MAX_MANIFEST_BYTES
from store.policy import rollback
from store.policy.recovery import Abandon, ClearScratch, Project
from store.testing import FakeClock
from tests.child_python import run_python
from tests.damaging import overwrite, replace_by
from tests.examples_tried import mostly_deep
from tests.played_builds import Scenario, StopDeadError, make, play
from tests.store_caches import InterruptingClock, open_writer, tree
from tools.output.render import when

ROOT = Path(__file__).parents[3]

APPEND_MEANWHILE = """
import sys
from journal import Journal
from journal.storage.environment import open_environment
from store.domain.maintenance_events import GenerationAccepted
from store.cache.event_mapper import to_record
with Journal.open(sys.argv[1]) as journal:
    event = GenerationAccepted(generation=1, why="from another process", host={})
    journal.append([to_record(event, build=None, wall_ns=1, mono_ns=1)])
"""


@pytest.fixture
def clock():
    return InterruptingClock()


@pytest.fixture
def opened(layout, clock):
    def open_store(**changes):
        return CacheWriter.open(layout, clock=clock, **({"create": True, "reserve_bytes": 0} | changes))

    return open_store


@pytest.fixture
def two(opened):
    """A cache with two generations."""
    with opened() as store:
        play(store, Scenario())
        play(store, Scenario(flight="f2"))


def put_journal(layout, source):
    layout.journal.unlink()
    layout.journal.with_name("journal.mdb-lock").unlink()
    shutil.copyfile(source, layout.journal)


def refused(layout, opened, kind=ErrorKind.JOURNAL_REPLACED):
    """Both ways to read the journal refuse it, and nothing is written."""
    before = tree(layout)
    with pytest.raises(DamagedHistoryError) as by_view:
        open_view(layout)
    with pytest.raises(DamagedHistoryError) as by_store, opened():
        pytest.fail("a damaged history was opened for writing")
    assert (by_view.value.kind, by_store.value.kind) == (kind, kind)
    assert tree(layout) == before
    return by_store.value


class TestCreation:
    def test_a_cache_is_created_once(self, layout, opened):
        with opened() as store:
            first = store.state.cache_id
            assert len(first) == 32
            assert store.writes == 2, "the journal and its genesis"
        with opened() as store:
            assert store.state.cache_id == first
            assert store.writes == 0
        for size, writes in ((4096, 1), (4096, 0), (8192, 1), (0, 0)):
            with opened(reserve_bytes=size) as store:
                assert store.writes == writes, "the reserve, where it is made or enlarged"
        assert open_view(layout).state.cache_id == first

    def test_no_cache(self, layout, opened):
        for create in (layout.create, lambda: None):
            with pytest.raises(RequestRefusedError) as by_view:
                open_view(layout)
            with pytest.raises(RequestRefusedError) as by_store, opened(create=False):
                pytest.fail("there is no cache")
            assert by_view.value.kind is by_store.value.kind is ErrorKind.NO_CACHE
            create()
        assert not layout.journal.exists()

    def test_a_journal_that_is_empty_is_none_of_a_cache(self, layout, opened):
        layout.create()
        Journal.create(layout.journal, [], scratch=layout.scratch)
        with pytest.raises(DamagedHistoryError) as error, opened():
            pytest.fail("a journal without a genesis was taken")
        assert error.value.kind is ErrorKind.IMPOSSIBLE_HISTORY

    def test_a_journal_of_something_else(self, layout, opened):
        layout.create()
        record = Record(tag="cache.created", version=1, build=None, wall_ns=1, mono_ns=1, payload={"a": 1})
        Journal.create(layout.journal, [record], scratch=layout.scratch)
        refused(layout, opened, ErrorKind.INVALID_EVENT)


@pytest.mark.usefixtures("two")
class TestLostHistory:
    def test_lost_tail(self, layout, opened, tmp_path):
        shutil.copyfile(layout.journal, tmp_path / "old.mdb")
        with opened() as store:
            play(store, Scenario(flight="f3"))
        put_journal(layout, tmp_path / "old.mdb")
        error = refused(layout, opened)
        assert "generation 3" in error.message
        assert "rebuild" in error.hint
        # Even the segment alone gives it away.
        (layout.manifests / layout.manifest_name(3)).unlink()
        refused(layout, opened)
        assert len(rebuild(layout).state.generations) == 3
        with opened() as store:
            assert store.state.head.number == 3

    @pytest.mark.parametrize("generations", [1, 2, 3])
    def test_a_journal_of_another_cache(self, layout, opened, tmp_path, generations):
        other = Layout(tmp_path / "other")
        with open_writer(other) as store:
            for number in range(generations):
                play(store, Scenario(flight=f"f{number}"))
        put_journal(layout, other.journal)
        refused(layout, opened)

    def test_generations_without_a_journal(self, layout, opened):
        layout.journal.unlink()
        error = refused(layout, opened)
        assert "c10 rebuild" in error.hint

    def test_segments_alone_are_generations_too(self, layout, opened):
        layout.journal.unlink()
        for path in layout.manifests.iterdir():
            path.unlink()
        refused(layout, opened)

    def test_a_manifest_of_a_later_generation(self, layout, opened):
        shutil.copyfile(
            layout.manifests / layout.manifest_name(2), layout.manifests / layout.manifest_name(9)
        )
        assert "generation 9" in refused(layout, opened).message

    @pytest.mark.parametrize(
        "damage",
        mostly_deep(
            ("flipped", "shorter", "longer", "pipe", "link", "folder", "too long"),
            *("flipped", "pipe", "link", "too long"),
        ),
    )
    def test_the_highest_manifest_has_to_be_the_one_committed(self, layout, opened, damage):
        path = layout.manifests / layout.manifest_name(2)
        if damage == "too long":
            overwrite(path, path.read_bytes() + b" " * MAX_MANIFEST_BYTES)
        else:
            replace_by(path, damage)
        refused(layout, opened)

    @pytest.mark.parametrize("what", ["flipped", "pipe", "folder"])
    def test_a_name_that_is_taken_by_other_bytes(self, layout, opened, what):
        """Projecting again meets something that this journal did not write."""
        segment = layout.segments / layout.segment_name(2)
        (layout.manifests / layout.manifest_name(2)).unlink()
        replace_by(segment, what)
        before = tree(layout)
        with pytest.raises(UnprojectedError) as error, opened():
            pytest.fail("another segment was taken for ours")
        assert error.value.kind is ErrorKind.JOURNAL_REPLACED
        assert isinstance(error.value.reason, DamagedHistoryError)
        assert tree(layout) == before

    def test_events_of_a_later_version_are_read_and_not_written(self, layout, opened):
        with Journal.open(layout.journal) as journal:
            journal.append([Record(tag="new", version=1, build=None, wall_ns=1, mono_ns=1, payload=None)])
        before = tree(layout)
        view = read_history(layout)
        assert view.state.unknown == ("new v1",)
        assert view.state.head.number == 2
        with pytest.raises(UnknownEventError), opened():
            pytest.fail("a later version's cache was opened for writing")
        assert tree(layout) == before

    def test_forensics_may_read_what_does_not_fit(self, layout, opened):
        shutil.copyfile(
            layout.manifests / layout.manifest_name(2), layout.manifests / layout.manifest_name(9)
        )
        refused(layout, opened)
        assert open_view(layout, strict=False).state.head.number == 2

    @pytest.mark.parametrize("create", [True, False])
    def test_a_file_in_the_place_of_the_manifests(self, layout, opened, create):
        shutil.rmtree(layout.manifests)
        layout.manifests.touch()
        before = tree(layout)
        with pytest.raises((CacheUnusableError, UnprojectedError)), opened(create=create):
            pytest.fail("there is no folder for manifests")
        assert tree(layout) == before


class TestRecovery:
    @pytest.mark.usefixtures("two")
    @pytest.mark.parametrize("gone", ["manifests", "segments"])
    def test_what_is_missing_is_written_again_and_counted(self, layout, opened, gone):
        files = sorted((layout.root / gone).iterdir())
        before = {path: path.read_bytes() for path in files}
        files[-1].unlink()
        with opened() as store:
            assert store.recovered == (Project(2),)
            assert store.writes == 1
        assert {path: path.read_bytes() for path in files} == before
        with opened() as store:
            assert (store.recovered, store.writes) == ((), 0)

    @pytest.mark.usefixtures("two")
    @pytest.mark.parametrize("gone", ["manifests", "segments", "quarantine", "tmp"])
    def test_a_folder_that_a_backup_left_out_is_made_again(self, layout, opened, gone):
        """Any writer does that, a rollback among them."""
        before = {path.name: path.read_bytes() for path in sorted((layout.root / gone).iterdir())}
        shutil.rmtree(layout.root / gone)
        with opened(create=False):
            pass
        assert (layout.root / gone).is_dir()
        if gone != "tmp":
            after = {path.name: path.read_bytes() for path in sorted((layout.root / gone).iterdir())}
            assert after == before

    @pytest.mark.usefixtures("two")
    def test_projections_in_the_journal_are_written_again(self, layout, opened):
        with Journal.open(layout.journal) as journal:
            inside = journal.projections()
            assert inside[b"manifest"] == (layout.manifests / layout.manifest_name(2)).read_bytes()
            journal.append([], {b"head": b"stale", b"manifest": None})
        with opened() as store:
            assert store.writes == 1
            assert store.journal.projections() == inside

    @pytest.mark.usefixtures("two")
    def test_they_are_written_again_although_somebody_appends_meanwhile(self, layout, opened, monkeypatch):
        with Journal.open(layout.journal) as journal:
            inside = journal.projections()
            journal.append([], {b"head": b"stale"})
        read = projections._stored

        def accept_first(event_store, name):
            monkeypatch.undo()
            accepted = event_store.record(make(GenerationAccepted, generation=1), build=None)
            event_store.journal.append([accepted])
            return read(event_store, name)

        monkeypatch.setattr(projections, "_stored", accept_first)
        with opened() as store:
            assert store.journal.projections() == inside
            assert store.state.accepted == {1}

    @pytest.mark.usefixtures("two")
    def test_a_projection_in_the_journal_that_is_damaged(self, layout, opened):
        environment = open_environment(layout.journal, readonly=False)
        with environment.write() as writer:
            writer.put_projection(b"head", b"not sealed")
        environment.close()
        with opened() as store:
            assert store.writes == 1
            assert b"head" in store.journal.projections()

    @pytest.mark.usefixtures("two")
    def test_scratch_is_kept_while_somebody_writes(self, layout, opened):
        (layout.scratch / "draft").touch()
        with Artifacts(layout).shared_lock(), opened() as store:
            assert store.recovered == (ClearScratch(),)
        assert (layout.scratch / "draft").exists()

    @pytest.mark.usefixtures("two")
    def test_scratch_is_cleared(self, layout, opened):
        (layout.scratch / "a" / "b").mkdir(parents=True)
        (layout.scratch / "a" / "b" / "c").write_bytes(b"x")
        (layout.scratch / "a" / "reserve").touch()
        (layout.scratch / "a" / "link").symlink_to("..")
        (layout.scratch / "folder").symlink_to(layout.manifests)
        os.mkfifo(layout.scratch / "fifo")
        with opened() as store:
            assert store.recovered == (ClearScratch(),)
        assert [path.name for path in layout.scratch.iterdir()] == ["reserve"]
        assert len(list(layout.manifests.iterdir())) == 2

    def test_a_build_whose_process_died_is_abandoned(self, layout, opened):
        with pytest.raises(StopDeadError), opened() as store:
            play(store, Scenario(die_at="cells"))
        assert open_view(layout).state.open_build == 1
        with opened() as store:
            assert store.recovered == (Abandon(1, "cells 6/1/0"),)
            build = store.state.builds[1]
            assert (build.status, store.state.open_build) == (BuildStatus.ABANDONED, None)
            assert store.writes == 1
            _, work = play(store, Scenario())
            assert (work.compiled, work.embedded, work.indexed) == (0, 0, 1)

    @pytest.mark.usefixtures("two")
    def test_a_manifest_of_another_name_is_the_same_generation(self, layout, clock):
        renamed = replace(layout, manifest_filename="flight-{generation:08d}.json")
        with CacheWriter.open(renamed, clock=clock, reserve_bytes=0) as store:
            assert (store.recovered, store.writes) == ((), 0)
            play(store, Scenario(flight="f3"))
            signed = replace(store.state.generations[1], signatures=(("k", "ab" * 64), ("l", "cd" * 64)))
            store.project(signed)
        assert sorted(path.name for path in layout.manifests.iterdir()) == [
            "00000001.json",
            "00000001.sig",
            "00000001.sig2",
            "00000002.json",
            "flight-00000003.json",
        ]
        assert b'"key_id":"k"' in (layout.manifests / "00000001.sig").read_bytes()
        assert b'"key_id":"l"' in (layout.manifests / "00000001.sig2").read_bytes()
        assert list_cache_files(layout).signatures == {(1, 1), (1, 2)}

    @pytest.mark.usefixtures("two")
    def test_a_generation_that_projects_to_something_else(self, opened):
        with opened() as store:
            other = replace(store.state.generations[1], manifest_sha256="00" * 32)
            with pytest.raises(DamagedHistoryError) as error:
                store.project(other)
        assert error.value.kind is ErrorKind.IMPOSSIBLE_HISTORY


class TestCommit:
    def test_order_of_generations(self, layout, opened):
        with opened() as store:
            first, work = play(store, Scenario())
            assert (work.compiled, work.embedded, work.indexed) == (1, 3, 1)
            second, work = play(store, Scenario(flight="f2"))
            assert (work.compiled, work.embedded, work.indexed) == (0, 0, 0)
            back = store.roll_back(rollback.plan(store.state, to=None, why="bad"))
        assert [(one.number, one.origin, one.parent) for one in (first, second, back)] == [
            (1, 1, None),
            (2, 2, 1),
            (3, 1, None),
        ]
        assert first.body_sha256 == back.body_sha256 != second.body_sha256
        for generation in (first, second, back):
            raw = (layout.manifests / layout.manifest_name(generation.number)).read_bytes()
            found = m.parse(raw)
            assert found.sha256 == generation.manifest_sha256
            with Journal.open(layout.journal, readonly=True) as journal:
                (entry,) = journal.entries(found.envelope.before.seq, found.envelope.before.seq + 1)
            assert entry.chain.hex() == found.envelope.before.chain
            assert generation.seq == found.envelope.before.seq + 1

    @pytest.mark.parametrize("reads", [1, 2])
    def test_another_process_appends_during_a_commit(self, layout, opened, clock, reads):
        """The commit is decided again on the new head, and its manifest names the new place."""

        def append_meanwhile():
            run_python(APPEND_MEANWHILE, layout.journal, timeout=60)

        with opened() as store:
            play(store, Scenario())
            clock.reads, clock.due = 10_000, append_meanwhile
            number = store.state.next_build
            with pytest.raises(StopDeadError):
                play(store, Scenario(flight="f2", die_at="commit"))
            clock.reads = reads
            shown = store.commit(number)
            assert (clock.due is None) == (reads == 1)
            assert store.state.accepted == ({1} if reads == 1 else frozenset())
        raw = (layout.manifests / layout.manifest_name(2)).read_bytes()
        assert sha256(raw) == shown.manifest_sha256
        assert m.parse(raw).envelope.before.seq == shown.seq - 1
        view = read_history(layout)
        assert view.facts[-1].seq == shown.seq
        assert [type(fact.event) is GenerationAccepted for fact in view.facts[-2:]] == [reads == 1, False]

    def test_others_may_append_before_any_event(self, opened, clock):
        with opened() as store:
            play(store, Scenario())

            def append_meanwhile():
                event = make(GenerationAccepted, generation=1)
                store.journal.append([to_record(event, build=None, wall_ns=1, mono_ns=1)])

            clock.reads, clock.due = 1, append_meanwhile
            store.append(started(), build=2)
            assert store.state.position.seq == store.journal.head.seq
            assert store.state.open_build == 2
            assert store.state.accepted == {1}

    @pytest.mark.parametrize("withdrawn", ["engine", "index"])
    def test_what_was_withdrawn_during_a_build_is_not_committed(self, layout, opened, withdrawn):
        with opened() as store:
            with pytest.raises(StopDeadError):
                play(store, Scenario(die_at="commit"))
            build = store.state.builds[1]
            key = build.index.key if withdrawn == "index" else build.engines[0][1].key
            store.append(make(CheckFailed, check="beside", key=key), build=None)
            with pytest.raises(RequestRefusedError) as error:
                store.commit(1)
            assert error.value.kind is ErrorKind.WITHDRAWN
        assert open_view(layout).state.head is None

    def test_an_event_that_cannot_follow_is_not_appended(self, layout, opened):
        with opened() as store:
            play(store, Scenario())
            head = store.journal.head
            for event, build in ((failed(), 1), (failed(), 2), (make(CacheCreated), None), (started(), 7)):
                with pytest.raises(DamagedHistoryError):
                    store.append(event, build=build)
            with pytest.raises(DamagedHistoryError):
                store.append(make(BuildStarted, host={"a": 0.5}), build=2)
            store.append_at_any_cost(failed(), build=1)
            assert store.journal.head == head
            assert store.state.position.seq == head.seq
            play(store, Scenario(flight="f2"))
        assert open_view(layout).state.head.number == 2

    def test_a_build_that_lacks_a_part_is_not_committed(self, layout, opened):
        with opened() as store:
            with pytest.raises(StopDeadError):
                play(store, Scenario(die_at="cells"))
            position = store.state.position
            with pytest.raises(DamagedHistoryError):
                store.commit(1)
            assert store.state.position == position
        assert open_view(layout).state.head is None

    def test_a_manifest_that_is_too_large_is_not_committed(self, opened):
        with opened() as store:
            with pytest.raises(NoGoError):
                play(store, Scenario(flight="f" * MAX_MANIFEST_BYTES))
            with pytest.raises(NoGoError) as error:
                store.commit(1)
            assert error.value.kind is ErrorKind.MANIFEST_INVALID
            assert store.state.head is None

    def test_a_commit_that_cannot_be_shown_is_a_commit(self, layout, opened):
        with opened() as store:
            play(store, Scenario())
            blocked = layout.segments / layout.segment_name(2)
            blocked.mkdir()
            with pytest.raises(UnprojectedError) as error:
                play(store, Scenario(flight="f2"))
            assert (error.value.generation, store.state.head.number) == (2, 2)
            assert isinstance(error.value.reason, DamagedHistoryError)
        blocked.rmdir()
        with opened() as store:
            assert store.recovered == (Project(2),)
        assert 2 in layout.manifest_files()

    def test_a_rollback_is_a_generation_of_its_own(self, layout, opened):
        with opened() as store:
            play(store, Scenario())
            play(store, Scenario(flight="f2"))
            planned = rollback.plan(store.state, to=1, why="because")
            before = store.writes
            store.roll_back(planned)
            assert store.writes == before + 3
        state = open_view(layout).state
        assert state.head.rolled_back.why == "because"
        assert (state.head.rolled_back.requested, state.head.rolled_back.left) == (1, 2)
        assert set(state.undone.values()) == {2}


LOOK_AS_NOBODY = """
import json, os, sys
from pathlib import Path
from journal import JournalError
from store.errors import StoreError
from store.disk.layout import Layout
from tools.output.render import when
from store.testing import FakeClock
from tests.played_builds import Scenario, play
from store.cache.writer import CacheWriter
from store.cache.view import list_cache_files

def write():
    with CacheWriter.open(layout, clock=FakeClock(), create=True, reserve_bytes=0) as store:
        play(store, Scenario(flight="f3"))

os.setgroups([])
os.setgid(65534)
os.setuid(65534)
layout = Layout(Path(sys.argv[1]))
found = []
for do in (lambda: list_cache_files(layout), write):
    try:
        do()
    except (StoreError, JournalError) as error:
        found.append(error.kind)
    else:
        found.append("done")
print(json.dumps(found))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.usefixtures("two")
class TestPermission:
    @pytest.mark.parametrize(
        ("closed", "looking"),
        mostly_deep(
            [(None, "done"), ("manifests", "permission"), ("segments", "permission"), ("tmp", "permission")],
            *(None, "manifests"),
        ),
    )
    def test_somebody_else_is_told_what_is_missing(self, layout, tmp_path, closed, looking):
        tmp_path.chmod(0o755)
        if closed is not None:
            (layout.root / closed).chmod(0o700)
        before = tree(layout)
        done = run_python(LOOK_AS_NOBODY, layout.root, timeout=60)
        seen, written = json.loads(done.stdout)
        assert seen == looking
        assert written in {"permission", "journal-permission"}
        assert tree(layout) == before


class TestReserve:
    def test_space_is_set_aside_and_kept(self, layout, opened):
        with opened(reserve_bytes=1 << 16):
            pass
        reserve = layout.scratch / "reserve"
        assert reserve.stat().st_blocks * 512 >= 1 << 16
        before = reserve.stat().st_mtime_ns
        with opened(reserve_bytes=1 << 16) as store:
            assert store.recovered == ()
        assert reserve.stat().st_mtime_ns == before

    @pytest.mark.parametrize("shape", ["folder", "link", "pipe"])
    def test_a_reserve_that_is_no_file_is_made_anew(self, layout, opened, shape):
        layout.create()
        reserve = layout.scratch / "reserve"
        replace_by(reserve, shape)
        with (
            Artifacts(layout).shared_lock(),
            pytest.raises(CacheUnusableError),
            opened(reserve_bytes=4096),
        ):
            pytest.fail("it may be another process's")
        with opened(reserve_bytes=4096):
            pass
        assert not reserve.is_symlink()
        assert reserve.stat().st_size == 4096

    def test_an_event_that_can_be_appended_needs_no_reserve(self, layout, opened):
        with opened(reserve_bytes=4096) as store:
            store.append(started(), build=1)
            store.append_at_any_cost(failed(), build=1)
            assert store.state.builds[1].status is BuildStatus.FAILED
        assert (layout.scratch / "reserve").exists()


def started():
    inputs = Scenario().inputs()
    return make(BuildStarted, identity=build_identity(inputs), inputs=inputs)


def failed():
    return make(BuildFailed, step="cells", message="full")


@pytest.mark.parametrize(("wrong_ns", "recorded_ns"), [(-(10**18), 0), (3 * 10**20, (1 << 63) - 1)])
def test_a_clock_that_is_wrong_by_decades_stops_no_commit(layout, wrong_ns, recorded_ns):
    """Before 1970, and after the year 10000: the time is for people alone."""
    with CacheWriter.open(layout, clock=FakeClock(now_ns=wrong_ns), create=True, reserve_bytes=0) as store:
        generation, _ = play(store, Scenario())
    assert generation.wall_ns == recorded_ns
    assert {fact.wall_ns for fact in read_history(layout).facts} == {recorded_ns}
    assert when(recorded_ns)


def test_the_end_of_a_build_gets_the_space_of_the_reserve(layout, monkeypatch):
    append, reserve = EventStore.append, layout.scratch / "reserve"

    def full(self, records):
        if reserve.exists():
            raise JournalFullError("no space left")
        append(self, records)

    with CacheWriter.open(layout, clock=FakeClock(), create=True, reserve_bytes=4096) as store:
        with pytest.raises(StopDeadError):
            play(store, Scenario(die_at="cells"))
        monkeypatch.setattr(EventStore, "append", full)
        store.append_at_any_cost(make(BuildFailed, message="full"), build=1)
    assert read_history(layout).state.builds[1].status is BuildStatus.FAILED
