"""Requests that are refused before a build begins, and those that are recorded as failed builds."""

from time import monotonic

import pytest

from journal import BuildLockHeldError
from pipeline.build.report import BuildOutcome
from pipeline.errors import RequestError
from store.domain.events import BuildFailed
from store.domain.state import BuildStatus
from store.errors import CacheUnusableError
from tests.small_builds import FakeSite, tiny_network
from tests.toy_networks import toy_network


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"calibration": "none.json"}, "none.json"),
        ({"network": "none.onnx"}, "none.onnx"),
        ({"model": {"size": (64, 64)}}, "which the network fixes"),
        ({"calibration": "net.onnx"}, "expected a JSON object"),
        ({"calibration": "list.json"}, "found list"),
        ({"calibration": "."}, "calibration"),
    ],
)
def test_requests_that_name_nothing_usable_are_refused_before_anything_is_written(site, change, words):
    site.write("list.json", b"[1, 2]")
    with pytest.raises(RequestError) as caught:
        site.build(**change)
    assert words in str(caught.value)
    assert caught.value.hint
    assert not site.cache.exists()


def test_a_cache_remembers_a_request_that_names_nothing_usable(site):
    site.build()
    with pytest.raises(RequestError):
        site.build(calibration="none.json")
    (failed,) = site.events(BuildFailed)
    assert (failed.step, failed.kind) == ("inputs", "request-unreadable")
    assert "none.json" in failed.message
    assert (site.state().builds[2].status, site.state().head_build.number) == (BuildStatus.FAILED, 1)


def test_a_request_that_cannot_be_recorded_is_refused_for_what_is_wrong_with_it(site):
    """It does not wait for a lock just to be recorded."""
    site.build()
    before, began = site.state(), monotonic()
    with site.provisioner().lock, pytest.raises(RequestError, match=r"none\.json"):
        site.provisioner(lock_timeout_s=60).build_cache_artifacts(site.request(calibration="none.json"))
    assert monotonic() - began < 30
    assert site.state() == before
    assert "not recorded in the cache: the build lock" in site.progress.said[-1]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (tiny_network()[:-200], "ONNX"),
        (b"", "ONNX"),
        (b"\x00" * 1000, "ONNX"),
        (toy_network(rank_out=4).SerializeToString(), "D"),
        (toy_network(channels=4).SerializeToString(), "3"),
    ],
    ids=["cut", "empty", "zeros", "four dimensions", "four channels"],
)
def test_a_damaged_network_is_a_failed_build(site, data, words):
    site.write("net.onnx", data)
    report = site.build()
    assert (report.outcome, report.build, report.identity) == (BuildOutcome.FAILED, 1, None)
    assert (report.error.kind, report.error.subject) == ("bad-model", "place")
    assert words in report.error.message
    (failed,) = site.events(BuildFailed)
    assert failed.inputs["flight_id"] == "f1"
    assert site.state().builds[1].status is BuildStatus.FAILED


def test_no_tiles_in_the_box_is_a_bad_request_and_nothing_is_lost(site):
    tiles = dict(site.tiles)
    site.tiles.clear()
    with pytest.raises(RequestError, match="found none") as caught:
        site.build()
    assert caught.value.kind == "no-tiles"
    assert not site.cache.exists()
    site.tiles.update(tiles)
    assert site.build().outcome is BuildOutcome.BUILT
    site.tiles.clear()
    with pytest.raises(RequestError, match="found none"):
        site.build()
    assert site.state().builds[2].status is BuildStatus.FAILED
    assert site.state().head.number == 1


def test_a_cache_cannot_be_a_file_or_a_folder_of_something_else(site):
    site.cache.write_text("a file")
    with pytest.raises(CacheUnusableError):
        site.build()
    site.cache.unlink()
    site.cache.mkdir()
    (site.cache / "holiday.jpg").write_text("mine")
    with pytest.raises(CacheUnusableError, match=r"holiday\.jpg"):
        site.build()
    assert [path.name for path in site.cache.iterdir()] == ["holiday.jpg"]


def test_a_second_build_is_refused_with_the_holder_of_the_lock(site):
    seen = []

    def second():
        with pytest.raises(BuildLockHeldError) as caught:
            FakeSite(site.root, site.tiles).build()
        seen.append(caught.value)

    site.calls.faults["index"] = second
    assert site.build().outcome is BuildOutcome.BUILT
    (error,) = seen
    assert error.holder["build"] == 1
    assert f"pid {error.holder['pid']}" in str(error)
    assert "build 1" in str(error)
