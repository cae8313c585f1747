"""A store on a file system that runs full at any moment: the head stays, and the failure is written down."""

import os

import pytest

from journal import JournalError, JournalFullError
from store.cache.view import open_view
from store.cache.writer import CacheWriter
from store.disk.layout import Layout
from store.domain.events import BuildFailed
from store.domain.state import BuildStatus
from store.errors import DiskFullError, StoreError, UnprojectedError
from store.policy import rollback
from store.reader import ALLOW_UNSIGNED, FlightCache
from store.runtime.capabilities import library_version
from store.testing import FakeClock
from tests.examples_tried import mostly_deep
from tests.played_builds import Scenario, make, play
from tests.small_disk import free_bytes, small_disk
from tests.store_caches import open_writer, record_builds

VERSION = library_version("onnxruntime") or "1"
RESERVE = 256 << 10
FIRST = Scenario(version=VERSION)
SECOND = Scenario(version=VERSION, flight="f2", engine="other", tiles={(x, 0): str(x) for x in range(40)})


@pytest.fixture
def small(tmp_path):
    with small_disk(tmp_path / "small", mebibytes=4) as folder:
        yield folder


def fill(folder, left):
    """Take all space but so many bytes; returns the file that holds it."""
    ballast = folder / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free_bytes(folder) - left)
    assert free_bytes(folder) <= left
    return ballast


def failure():
    return make(BuildFailed, step="cells", message="full")


def build_until_full(store):
    """Do what a provisioner does: play, and write down the failure whatever it takes."""
    number = store.state.next_build
    try:
        play(store, SECOND)
    except (StoreError, JournalError) as error:
        if not isinstance(error, UnprojectedError):
            store.append_at_any_cost(failure(), build=number)
        return error
    return None


# From no space at all to enough for the whole build; pages of 4096 bytes.
@pytest.mark.parametrize(
    "pages", mostly_deep((0, 1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 20, 24, 32, 64), 0, 2, 6, 12, 20, 64)
)
def test_the_failure_is_written_down_and_the_head_stays(small, pages):
    layout = Layout(small / "cache")
    with CacheWriter.open(layout, clock=FakeClock(), create=True, reserve_bytes=RESERVE) as store:
        play(store, FIRST)
        before = (layout.manifests / layout.manifest_name(1)).read_bytes()
        ballast = fill(small, pages * 4096)
        error = build_until_full(store)
        state = store.state.copy()
    view = open_view(layout)
    assert view.state == state
    assert (layout.manifests / layout.manifest_name(1)).read_bytes() == before
    if error is None or isinstance(error, UnprojectedError):
        assert state.builds[2].status is BuildStatus.COMMITTED
    else:
        assert isinstance(error, (DiskFullError, JournalFullError)), error
        # The very first append may fail, and then there is no build to speak of.
        assert [build.status for build in list(state.builds.values())[1:]] in ([BuildStatus.FAILED], [])
        assert state.head.number == 1
    with FlightCache.open(layout.root, trusted_keys=ALLOW_UNSIGNED) as cache:
        assert cache.manifest.envelope.generation == max(layout.manifest_files())
        cache.verify()
    ballast.unlink()
    with CacheWriter.open(layout, clock=FakeClock(), reserve_bytes=RESERVE) as store:
        shown, _ = play(store, SECOND)
        assert store.state.head == shown
        store.roll_back(rollback.plan(store.state, to=1, why=""))
    with FlightCache.open(layout.root, trusted_keys=ALLOW_UNSIGNED) as cache:
        cache.verify()


def test_a_cache_can_be_opened_without_space_for_the_reserve(small):
    """Else nothing could be collected from a full disk, or rolled back on one."""
    layout = Layout(small / "cache")
    record_builds(layout, FIRST)
    fill(small, 4096)
    with CacheWriter.open(layout, clock=FakeClock(), reserve_bytes=RESERVE) as store:
        assert store.state.head.number == 1
    assert open_view(layout).state.head.number == 1


def test_a_full_disk_without_room_for_a_lock_file_can_still_be_collected(small):
    """LMDB's lock file may be gone, as after a rebuild that found no space; the reserve has room for it."""
    layout = Layout(small / "cache")
    with CacheWriter.open(layout, clock=FakeClock(), create=True, reserve_bytes=RESERVE) as store:
        play(store, FIRST)
    (layout.root / "journal.mdb-lock").unlink()
    fill(small, 0)
    with CacheWriter.open(layout, clock=FakeClock(), exclusive_within_s=1.0) as store:
        assert store.state.head.number == 1


def test_no_cache_is_created_on_a_full_disk(small):
    layout = Layout(small / "cache")
    ballast = fill(small, 8192)
    with (
        pytest.raises((DiskFullError, JournalFullError)),
        open_writer(layout),
    ):
        pytest.fail("there is no space for a journal")
    assert not layout.journal.exists()
    ballast.unlink()
    record_builds(layout, FIRST)
