"""A full disk: the head stays, the failure is recorded from the reserve, and the next build works."""

import contextlib
import os

import pytest

from journal import JournalError
from pipeline.build.report import BuildOutcome
from pipeline.testing import RecordingProgress
from store.domain.events import BuildFailed, BuildStarted
from store.errors import StoreError
from store.reader import ALLOW_UNSIGNED, FlightCache
from tests.child_python import ROOT, run_python
from tests.small_builds import Site, spread
from tests.small_disk import small_disk

pytestmark = pytest.mark.deep

SIZE_MB = 32


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "disk", mebibytes=SIZE_MB) as folder:
        yield folder


@pytest.fixture
def site(tmp_path, disk):
    site = Site(tmp_path / "site", cache=disk / "cache")
    site.write_tiles(spread())
    return site


def endless(_):
    """What a file system says that somebody else fills meanwhile."""
    return 1 << 60


@contextlib.contextmanager
def filled(disk, *, leave=0):
    """Fill the disk to the last page, or leave some bytes."""
    path = disk / "filler"
    try:
        with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(1 << 16))
        with path.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(512))
        if leave:
            os.truncate(path, max(0, path.stat().st_size - leave))
        yield
    finally:
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("leave", [0, 8192, 40_960])
def test_a_build_on_a_full_disk_fails_and_says_so_in_the_journal(site, disk, leave):
    """The disk is full from the start, or becomes so while cells are stored."""
    assert site.build().outcome is BuildOutcome.BUILT
    head = site.head_bytes()
    site.write_tiles(spread(first=500_000))
    with filled(disk, leave=leave):
        report = site.provisioner(free_bytes=endless).build_cache_artifacts(site.request(flight_id="f2"))
        assert report.outcome is BuildOutcome.FAILED
        assert report.error.kind in {"disk-full", "journal-full"}
        assert "free" in report.error.hint
        assert site.head_bytes() == head
        with FlightCache.open(site.cache, trusted_keys=ALLOW_UNSIGNED) as cache:
            cache.verify()
        (failed,) = site.events(BuildFailed)
        assert (failed.kind, failed.step) == (report.error.kind, report.error.step)
        assert site.events(BuildStarted)[-1].identity == report.identity
    again = site.build(flight_id="f2")
    assert (again.outcome, again.generation, again.build) == (BuildOutcome.BUILT, 2, 3)


def test_a_build_that_will_not_fit_is_not_begun(site, disk):
    assert site.build().outcome is BuildOutcome.BUILT
    head = site.head_bytes()
    with filled(disk, leave=40_960):
        site.write_tiles(spread(first=500_000))
        report = site.build(flight_id="f2")
        assert (report.outcome, report.build) == (BuildOutcome.FAILED, 2)
        assert (report.error.kind, report.error.step) == ("disk-full", "space")
        assert "bytes free" in report.error.message
        assert "c10 gc" in report.error.hint
    # That it was asked for is recorded, and nothing else has happened.
    assert site.head_bytes() == head
    assert [type(event) for event in site.events(object)][-2:] == [BuildStarted, BuildFailed]
    again = site.build(flight_id="f2")
    assert (again.outcome, again.build) == (BuildOutcome.BUILT, 3)


def test_bad_inputs_on_a_full_disk_are_recorded_too(site, disk):
    site.build()
    site.write("net.onnx", b"no network")
    with filled(disk):
        assert site.build().error.kind == "bad-model"
        assert [event.kind for event in site.events(BuildFailed)] == ["bad-model"]


def test_without_a_reserve_the_first_error_is_still_the_one_reported(site, disk):
    site.provisioner(reserve_mb=0).build_cache_artifacts(site.request())
    head = site.head_bytes()
    progress = RecordingProgress()
    with filled(disk):
        ports = {"reserve_mb": 0, "progress": progress, "free_bytes": endless}
        report = site.provisioner(**ports).build_cache_artifacts(site.request(flight_id="f2"))
        assert (report.outcome, report.error.kind) == (BuildOutcome.FAILED, "disk-full")
        assert "could not be recorded" in progress.said[0]
        assert site.head_bytes() == head
        assert site.events(BuildFailed) == []
    assert site.build(flight_id="f2").outcome is BuildOutcome.BUILT


def test_a_rollback_on_a_full_disk_changes_all_or_nothing(site, disk):
    site.build()
    site.build(flight_id="f2")
    with filled(disk):
        try:
            site.provisioner().rollback()
        except (StoreError, JournalError) as error:
            assert "space" in str(error)
        with FlightCache.open(site.cache, trusted_keys=ALLOW_UNSIGNED) as cache:
            cache.verify()
    assert site.state().head.number in {2, 3}
    assert site.build(flight_id="f9").outcome is BuildOutcome.BUILT


def test_an_up_to_date_run_needs_no_space(site, disk):
    site.build()
    with filled(disk):
        assert site.build().outcome is BuildOutcome.REUSED


FIRST_BUILD = """
import sys
sys.path.insert(0, sys.argv[1])
from tests.small_builds import Site
try:
    site = Site(sys.argv[2], cache=sys.argv[3])
    site.provisioner(free_bytes=lambda _: 1 << 60).build_cache_artifacts(site.request())
except Exception as error:
    print(type(error).__name__, getattr(error, "kind", ""))
"""


def test_a_first_build_without_space_is_an_error_and_no_crash(site, disk):
    with filled(disk):
        done = run_python(FIRST_BUILD, ROOT, site.root, site.cache)
        assert "full" in done.stdout
    assert site.build().outcome is BuildOutcome.BUILT


def test_a_first_build_that_could_not_begin_is_no_obstacle(site, disk):
    with filled(disk):
        run_python(FIRST_BUILD, ROOT, site.root, site.cache, check=False)
    assert site.build().outcome is BuildOutcome.BUILT
