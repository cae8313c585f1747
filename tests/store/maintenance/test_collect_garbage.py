"""Garbage collection: killed anywhere, beside readers and writers, on a full disk, on damaged caches."""

import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

from store.cache.view import open_view, read_history
from store.cache.writer import CacheWriter
from store.disk.artifacts import Artifacts
from store.disk.layout import Layout
from store.domain.maintenance_events import Collected, CollectionPlanned
from store.errors import ArtifactError, ArtifactsBusyError, CacheUnusableError, ErrorKind, RequestRefusedError
from store.maintenance import collect_garbage
from store.maintenance.collect_garbage import collect, preview
from store.policy import rollback
from store.policy.retention import KeepPolicy, RemovalReason
from store.reader import ALLOW_UNSIGNED, FlightCache
from store.runtime.capabilities import library_version
from store.testing import FakeClock
from store.verify.coverage import walk
from store.verify.report import Depth, ProblemKind
from store.verify.verify import verify
from tests.child_python import run_python
from tests.played_builds import Scenario, StopDeadError, play
from tests.small_builds import tree
from tests.small_disk import free_bytes, small_disk
from tests.store_caches import InterruptingClock

ROOT = Path(__file__).parents[3]
VERSION = library_version("onnxruntime") or "1"
ONE = KeepPolicy(keep=1)
ACCEPT_BESIDE = """
import sys
from pathlib import Path
from store.cache.optimistic_append import accept
from store.disk.layout import Layout
from store.testing import FakeClock
accept(Layout(Path(sys.argv[1])), int(sys.argv[2]), why="beside", host={}, clock=FakeClock())
"""


@contextmanager
def opened(layout, *, exclusive=None, reserve=0, clock=None):
    with CacheWriter.open(
        layout,
        clock=clock or FakeClock(),
        create=True,
        reserve_bytes=reserve,
        host={"host": "here"},
        exclusive_within_s=exclusive,
    ) as store:
        yield store


def scenario(number, **changes):
    tiles = {(0, 0): f"a{number}", (20, 3): "c"}
    return Scenario(**({"flight": f"f{number}", "tiles": tiles, "version": VERSION} | changes))


def fill(layout, count=4):
    """Builds 1 to 4, the third failed, and a file that nothing names."""
    with opened(layout) as store:
        for number in range(1, count + 1):
            play(store, scenario(number, fail_at="coverage" if number == 3 else ""))
        store.artifacts.put(b"stray")


def gc(layout, policy=ONE, **options):
    with opened(layout, exclusive=0.2, **options) as store:
        return collect(store, policy)


def files(layout):
    return {str(path.relative_to(layout.root)) for path in layout.root.rglob("*") if path.is_file()}


def full(layout):
    return verify(layout, depth=Depth.FULL)


def whole(layout, generation):
    with FlightCache.open(layout.root, trusted_keys=ALLOW_UNSIGNED, generation=generation) as cache:
        cache.verify()
    # The engine and index of a played build are words that nothing can load.
    assert [each for each in full(layout).problems if each.kind is not ProblemKind.CONTENT] == []


@pytest.fixture
def cache(layout):
    fill(layout)
    return layout


def test_a_collection_removes_only_what_the_policy_does_not_keep(cache):
    head = cache.manifests / cache.manifest_name(3)
    before, bytes_before, segments = files(cache), head.read_bytes(), cache.segment_files()
    told = preview(cache, ONE)
    done = gc(cache)
    assert (done.decision, done.projections) == (told.decision, told.projections)
    assert (told.done, done.done, done.empty) == (False, True, False)
    assert done.decision.collected_generations == (1,)
    assert set(done.decision.removed) == set(RemovalReason)
    removals = {str(cache.artifact(each.sha256).relative_to(cache.root)) for each in done.decision.removals}
    assert before - files(cache) == removals | {f"manifests/{cache.manifest_name(1)}"}
    assert files(cache) <= before
    assert (head.read_bytes(), cache.segment_files()) == (bytes_before, segments)
    whole(cache, 3)
    assert full(cache).unreferenced == 0
    events = [fact.event for fact in read_history(cache).facts]
    (planned,) = (event for event in events if isinstance(event, CollectionPlanned))
    (collected,) = (event for event in events if isinstance(event, Collected))
    assert (planned.digests, planned.generations) == (collected.digests, collected.generations)
    assert (planned.policy, planned.host, collected.host) == (
        {"keep": 1, "unfinished": True},
        {"host": "here"},
        {"host": "here"},
    )
    assert planned.size == done.decision.size


def test_a_second_collection_writes_nothing(cache):
    gc(cache)
    before, records = files(cache), open_view(cache).head
    assert gc(cache).empty
    assert (files(cache), open_view(cache).head) == (before, records)


def test_a_preview_writes_nothing(cache):
    before = tree(cache.root)
    assert preview(cache, ONE).files > 0
    assert tree(cache.root) == before


def test_a_build_repeats_only_the_collected_steps(cache):
    gc(cache)
    with opened(cache) as store:
        _, work = play(store, scenario(1))
        assert (work.compiled, work.embedded, work.indexed) == (0, 1, 1)
        _, work = play(store, scenario(4))
        assert (work.compiled, work.embedded, work.indexed) == (0, 0, 0)
    whole(cache, 5)


def test_a_rollback_to_a_collected_build_is_refused(cache):
    with opened(cache) as store:
        play(store, scenario(5))
    gc(cache)
    with opened(cache) as store:
        with pytest.raises(RequestRefusedError, match=r"generation 1 .build 1. to be kept") as refused:
            rollback.plan(store.state, to=1, why="")
        assert refused.value.kind is ErrorKind.COLLECTED
        assert "one of 3, 4" in refused.value.hint
        store.roll_back(rollback.plan(store.state, to=None, why=""))
        with pytest.raises(RequestRefusedError, match="shown before build 4") as refused:
            rollback.plan(store.state, to=None, why="")
        assert refused.value.kind is ErrorKind.COLLECTED
    whole(cache, 5)


def test_an_open_reader_of_a_collected_generation_keeps_working(cache):
    with FlightCache.open(cache.root, trusted_keys=ALLOW_UNSIGNED, generation=1) as reader:
        index = reader.manifest.index.artifact
        gc(cache)
        assert not cache.artifact(index.sha256).exists()
        assert bytes(reader.engine_bytes("place")) == b"engine of net"
        assert reader.calibration() == {}
        (tile, *_) = scenario(1).rows()
        assert reader.tile(tile[0]).sha256 == tile[1]


class Faults:
    """Kill the process before, or right after, the n-th call that changes the disk."""

    def __init__(self, monkeypatch, at, *, after=False):
        self.at, self.after, self.count = at, after, 0
        monkeypatch.setattr(Path, "unlink", self.around(Path.unlink))
        monkeypatch.setattr(collect_garbage, "fsync_dir", self.around(collect_garbage.fsync_dir))
        append = CacheWriter.append
        monkeypatch.setattr(CacheWriter, "append", self.around(append))

    def around(self, real):
        def call(*args, **options):
            self.count += 1
            if self.count == self.at and not self.after:
                raise StopDeadError
            result = real(*args, **options)
            if self.count == self.at:
                raise StopDeadError
            return result

        return call


@pytest.mark.deep
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_the_next_collection_finishes_a_killed_one(tmp_path, monkeypatch, after):
    template, expected = Layout(tmp_path / "template"), Layout(tmp_path / "expected")
    fill(template)
    shutil.copytree(template.root, expected.root)
    gc(expected)
    died, at = True, 0
    while died:
        at += 1
        layout = Layout(tmp_path / f"cache-{at}")
        shutil.copytree(template.root, layout.root)
        with monkeypatch.context() as patched, opened(layout, exclusive=0.2) as store:
            faults = Faults(patched, at, after=after)
            try:
                collect(store, ONE)
                died = False
            except StopDeadError:
                pass
        assert died == (faults.count >= at)
        assert open_view(layout).state.collected_generations == {1}
        whole(layout, 3)
        artifacts = Artifacts(layout)
        assert walk(artifacts, {}, referenced=frozenset(), full=False).foreign_files == ()
        if at % 2:
            with opened(layout) as store:
                assert store.recovered == (), "a build first: nothing of what goes is made again"
        again = gc(layout)
        assert not again.decision.collected_generations
        assert files(layout) == files(expected)
        assert gc(layout).empty
        whole(layout, 3)
        shutil.rmtree(layout.root)
    assert at > 8


def test_a_signature_never_outlives_its_manifest(cache, monkeypatch):
    (cache.manifests / "00000001.sig").write_bytes(b"of a key")
    order = []
    unlink, sync = Path.unlink, collect_garbage.fsync_dir
    monkeypatch.setattr(Path, "unlink", lambda path, **kw: (order.append(path.name), unlink(path, **kw))[1])
    monkeypatch.setattr(collect_garbage, "fsync_dir", lambda path: (order.append(path.name), sync(path))[1])
    gc(cache)
    assert order[:4] == ["00000001.sig", "manifests", "00000001.json", "manifests"]


def test_many_digests_make_many_events_in_one_transaction(cache, monkeypatch):
    monkeypatch.setattr(collect_garbage, "MAX_COLLECTED", 2)
    done = gc(cache)
    events = [fact.event for fact in read_history(cache).facts]
    planned = [event for event in events if isinstance(event, CollectionPlanned)]
    assert len(planned) == -(-len(done.decision.removals) // 2) > 1
    assert [event.generations for event in planned] == [(1,)] + [()] * (len(planned) - 1)
    assert sum(event.size for event in planned) == done.decision.size
    assert len([event for event in events if isinstance(event, Collected)]) == len(planned)


def test_collection_waits_for_writers_of_artifacts_and_then_gives_up(cache):
    before = files(cache)
    with Artifacts(cache).shared_lock(), pytest.raises(ArtifactsBusyError, match="within") as busy:
        gc(cache)
    assert (busy.value.kind, files(cache)) == (ErrorKind.BUSY, before)
    assert not gc(cache).empty


def test_a_wait_for_writers_of_artifacts_is_told_once(cache, caplog):
    artifacts = Artifacts(cache)
    with artifacts.shared_lock():
        with pytest.raises(ArtifactsBusyError), Artifacts(cache).exclusive_lock(0.2):
            pass
        assert caplog.records == []
        with pytest.raises(ArtifactsBusyError), Artifacts(cache).exclusive_lock(1.0):
            pass
    (record,) = caplog.records
    assert "held by an engine run or an opened cache" in record.getMessage()


def test_a_generation_accepted_at_the_last_moment_is_kept(cache):
    clock = InterruptingClock()
    with opened(cache, exclusive=0.2, clock=clock) as store:
        clock.due = lambda: run_python(ACCEPT_BESIDE, cache.root, 1)
        done = collect(store, ONE)
    assert done.decision.collected_generations == ()
    assert open_view(cache).state.accepted == {1}
    whole(cache, 1)
    whole(cache, 3)


def test_nothing_is_removed_without_the_block_table_of_a_kept_build(cache):
    build = open_view(cache).state.builds[4]
    cache.artifact(build.index.blocks.sha256).unlink()
    before, records = files(cache), open_view(cache).head
    for run in (gc, lambda layout: preview(layout, ONE)):
        with pytest.raises(ArtifactError, match="block table of build 4") as refused:
            run(cache)
        assert refused.value.kind is ErrorKind.ARTIFACT_MISSING
    assert (files(cache), open_view(cache).head) == (before, records)


def test_a_build_without_its_block_table_is_removed(cache):
    build = open_view(cache).state.builds[1]
    cache.artifact(build.index.blocks.sha256).unlink()
    assert gc(cache).decision.collected_generations == (1,)
    whole(cache, 3)
    assert full(cache).unreferenced == 0


def test_a_file_that_is_no_artifact_is_left_alone(cache):
    (cache.quarantine / "evidence").write_bytes(b"x")
    strange = cache.artifacts / "ab" / "notes.txt"
    strange.write_bytes(b"y")
    folder = cache.artifact("ab" + "cd" * 31)
    folder.mkdir()
    gc(cache)
    assert (cache.quarantine / "evidence").exists()
    assert strange.exists()
    assert folder.is_dir()


def test_the_segment_of_a_collected_generation_is_repaired(cache):
    gc(cache)
    segment = cache.segments / cache.segment_name(1)
    content = segment.read_bytes()
    segment.unlink()
    assert [str(problem.subject) for problem in verify(cache, depth=Depth.QUICK).problems] == [
        "segments/00000001.events"
    ]
    with opened(cache):
        pass
    assert segment.read_bytes() == content
    assert 1 not in cache.manifest_files()
    whole(cache, 3)


def test_the_next_collection_continues_after_a_file_that_cannot_be_removed(cache, monkeypatch):
    victim = sorted(each.sha256 for each in preview(cache, ONE).decision.removals)[1]
    unlink = Path.unlink

    def stubborn(path, **options):
        if path.name == victim:
            raise PermissionError(1, "Operation not permitted", str(path))
        unlink(path, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", stubborn)
        with pytest.raises(CacheUnusableError, match="collecting from"):
            gc(cache)
    whole(cache, 3)
    assert victim in {each.sha256 for each in gc(cache).decision.removals}
    assert not cache.artifact(victim).exists()


@pytest.fixture
def small(tmp_path):
    with small_disk(tmp_path / "small", mebibytes=8) as folder:
        yield folder


@pytest.mark.parametrize("reserve", [0, 256 << 10], ids=["no reserve", "reserve"])
def test_a_collection_makes_room_on_a_full_disk(small, reserve):
    """Files that a writer left when the space ran out fill the disk."""
    layout = Layout(small / "cache")
    with opened(layout, reserve=reserve) as store:
        for number in (1, 2, 3):
            play(store, scenario(number))
        before = free_bytes(small)
        for size in (1 << 20, 1 << 16, 1 << 12):
            while free_bytes(small) > size:
                store.artifacts.put(os.urandom(min(size, free_bytes(small) - size)))
    with (small / "rest").open("wb") as rest:
        os.posix_fallocate(rest.fileno(), 0, max(1, free_bytes(small)))
    assert free_bytes(small) == 0
    done = gc(layout)
    assert (done.done, done.decision.collected_generations) == (True, (1,))
    assert free_bytes(small) >= before - (1 << 20)
    assert gc(layout).empty
    whole(layout, 3)
