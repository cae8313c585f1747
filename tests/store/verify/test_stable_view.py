"""A commit comes before its files: a verification in between waits for a living writer, and for no other."""

import signal
import subprocess
import sys
import threading

import pytest

from journal.lock import BuildLock
from store.cache.projections import Projections
from store.cache.writer import CacheWriter
from store.disk.layout import Layout
from store.errors import ArtifactsBusyError
from store.runtime.capabilities import library_version
from store.testing import FakeClock
from store.verify.coverage import walk
from store.verify.report import Depth, ProblemKind
from store.verify.verify import verify
from tests.played_builds import Scenario, StopDeadError, play
from tests.store_caches import open_writer

VERSION = library_version("onnxruntime") or "1"
LATE_S = 0.15


@pytest.fixture
def layout(tmp_path):
    """A cache with one generation, and another that was committed and has no files yet."""

    def dies(*_):
        raise StopDeadError

    layout = Layout(tmp_path / "cache")
    with open_writer(layout) as store:
        play(store, Scenario(version=VERSION))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Projections, "write", dies)
            with pytest.raises(StopDeadError):
                play(store, Scenario(flight="f2", version=VERSION))
    return layout


def project(layout):
    with CacheWriter.open(layout, clock=FakeClock(), reserve_bytes=0):
        pass


def test_a_verification_waits_for_a_living_writer(layout):
    with BuildLock(layout.build_lock):
        late = threading.Timer(LATE_S, project, [layout])
        late.start()
        found = verify(layout)
        late.join()
    assert found.go
    assert found.generation == 2


def test_a_suspended_writer_is_no_damage(layout):
    hold = "import sys, time; from journal.lock import BuildLock\nwith BuildLock(sys.argv[1]): print(1, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", hold, layout.build_lock], stdout=subprocess.PIPE) as writer:
        writer.stdout.readline()
        writer.send_signal(signal.SIGSTOP)
        with pytest.raises(ArtifactsBusyError, match="found none yet"):
            verify(layout)
        writer.kill()
    assert not verify(layout).go


def test_files_that_no_writer_will_write_are_absent(layout):
    found = verify(layout)
    assert {problem.kind for problem in found.problems} >= {ProblemKind.PROJECTION_ABSENT}
    assert found.problems[0].generations == (2,)


def test_a_cache_that_changed_meanwhile_is_verified_again(layout, monkeypatch):
    """An odd file may come from a commit or a collection during the run."""
    project(layout)
    stranger = layout.root / "stranger"
    stranger.touch()

    def walking(*args, **options):
        found = walk(*args, **options)
        if stranger.exists():
            stranger.unlink()
            with CacheWriter.open(layout, clock=FakeClock(), reserve_bytes=0) as store:
                play(store, Scenario(flight="f3", version=VERSION))
        return found

    monkeypatch.setattr("store.verify.artifact_check.walk", walking)
    found = verify(layout, depth=Depth.FULL)
    assert found.generation == 3
    assert ProblemKind.STRANGER not in {problem.kind for problem in found.problems}


@pytest.mark.parametrize("stays", [False, True])
def test_a_cache_that_never_rests_shows_only_foreign_files_that_stay(layout, monkeypatch, stays):
    """A signature is written before its manifest: for a moment it belongs to no file."""
    project(layout)
    names = iter(["one", "two", "three"])

    def walking(*args, **options):
        path = layout.root / ("stays" if stays else next(names))
        path.touch()
        found = walk(*args, **options)
        path.unlink()  # a build refuses it
        with CacheWriter.open(layout, clock=FakeClock(), reserve_bytes=0) as store:
            play(store, Scenario(flight=f"g{store.state.head.number}", version=VERSION))
        return found

    monkeypatch.setattr("store.verify.artifact_check.walk", walking)
    assert verify(layout, depth=Depth.FULL).foreign_files == ({"stays"} if stays else frozenset())


def test_a_foreign_file_that_stays_is_reported(layout):
    project(layout)
    (layout.root / "stranger").touch()
    found = verify(layout, depth=Depth.FULL)
    assert ProblemKind.STRANGER in {problem.kind for problem in found.problems}
