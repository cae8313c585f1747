"""A full verification reads each file once, and uses the bytes that it hashed."""

import os
import shutil
import threading
import tracemalloc
from pathlib import Path

import pytest

from store.disk.artifacts import Artifacts
from store.disk.layout import Layout
from store.manifest.manifest import parse
from store.transfer.mirror import mirror
from store.verify.coverage import map_in_threads, walk
from store.verify.report import Depth, ProblemKind
from store.verify.verify import verify
from tests.benchmarks.caches import BigSite, write_pmtiles
from tests.small_builds import Site, spread


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    site = Site(tmp_path_factory.mktemp("once"))
    site.write_tiles(spread())
    report = site.provisioner(workers=1).build_cache_artifacts(site.request())
    assert report.error is None
    return Layout(site.cache)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A cache whose index and blocks are large."""
    site = BigSite(tmp_path_factory.mktemp("large"))
    site.number, site.dimensions = 1024, 1024
    write_pmtiles(site.root / "tiles.pmtiles", site.number)
    site.built(source="tiles.pmtiles")
    return site.layout


@pytest.fixture(params=["cache", "mirror"])
def layout(built, tmp_path, request):
    if request.param == "mirror":
        mirror(built, tmp_path / "mirror")
        return Layout(tmp_path / "mirror")
    shutil.copytree(built.root, tmp_path / "cache")
    return Layout(tmp_path / "cache")


def artifacts(layout):
    return [path for path in layout.artifacts.rglob("*") if len(path.name) == 64]


def manifest_of(layout):
    return parse((layout.manifests / "00000001.json").read_bytes())


def bytes_read():
    """Bytes that the read calls of this process returned so far."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_each_file_is_read_once(large, tmp_path):
    for layout in (large, Layout(tmp_path / "mirror")):
        if layout is not large:
            mirror(large, layout.root)
        check_reads(layout)


def check_reads(layout):
    verify(layout, depth=Depth.FULL)  # loads libraries
    size = sum(path.stat().st_size for path in layout.root.rglob("*") if path.is_file())
    held = sum(path.stat().st_size for path in artifacts(layout))
    before = bytes_read()
    result = verify(layout, depth=Depth.FULL)
    found = bytes_read() - before
    assert result.problems == ()
    assert result.facts.reading.loaded
    assert held > 8 << 20, "index and blocks are of 4 MiB each"
    assert held < found < size + held // 20


def test_what_was_hashed_is_what_is_loaded_and_compared(layout):
    """All files become other ones as soon as the last one was hashed."""
    left = sum(path.stat().st_size for path in artifacts(layout))
    overwritten = 0

    def overwrite(size):
        nonlocal left, overwritten
        left -= size
        if left == 0:
            for path in artifacts(layout):
                path.chmod(0o600)
                path.write_bytes(os.urandom(path.stat().st_size))
                overwritten += 1

    result = verify(layout, depth=Depth.FULL, on_bytes=overwrite)
    assert overwritten > 5
    assert [problem for problem in result.problems if problem.kind is not ProblemKind.DEVICE] == []
    assert result.facts.reading.loaded
    assert result.facts.reading.not_loaded == {}
    assert verify(layout, depth=Depth.FULL).problems != ()


def removed(path, _):
    path.unlink()


def overwritten(path, _):
    path.chmod(0o600)
    path.write_bytes(os.urandom(path.stat().st_size))


def replaced_by_other_bytes(path, spare):
    spare.write_bytes(os.urandom(path.stat().st_size))
    spare.replace(path)


def replaced_by_a_link(path, spare):
    path.rename(spare)
    path.symlink_to(spare)


def replaced_by_a_copy(path, spare):
    shutil.copy(path, spare)
    spare.replace(path)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (removed, ProblemKind.ABSENT),
        (overwritten, ProblemKind.DAMAGED),
        (replaced_by_other_bytes, ProblemKind.DAMAGED),
        (replaced_by_a_link, ProblemKind.DAMAGED),
        (replaced_by_a_copy, None),
    ],
)
def test_what_changes_after_it_was_opened_and_before_it_is_hashed_is_found(layout, tmp_path, change, kind):
    """The reader has opened the files, and the block table was read, when the bytes to hash are known."""
    manifest = manifest_of(layout)
    refs = (
        manifest.descriptor_engine.artifact,
        manifest.index.artifact,
        manifest.index.blocks,
        manifest.tiles,
    )
    paths = [layout.artifact(ref.sha256) for ref in refs]

    def change_all(_):
        for path in paths:
            change(path, tmp_path / path.name)

    result = verify(layout, depth=Depth.FULL, on_total=change_all)
    expected = {(kind, str(path.relative_to(layout.root))) for path in paths if kind is not None}
    found = {(problem.kind, problem.path) for problem in result.problems}
    # The search of the folders finds a link as well.
    assert {each for each in found if each[0] is not ProblemKind.STRANGER} == expected
    assert result.facts.reading.loaded == (kind is None)


def test_a_file_that_a_collection_removes_while_the_folders_are_listed_is_no_problem(layout):
    class Collected(Artifacts):
        def names(self):
            found = list(super().names())
            leftover.unlink()
            return iter(found)

    leftover = layout.artifact("ab" + "0" * 62)
    leftover.parent.mkdir(exist_ok=True)
    leftover.write_bytes(b"left by a writer that was killed")
    found = walk(
        Collected(layout),
        {},
        referenced=frozenset(path.name for path in artifacts(layout)) - {leftover.name},
        full=False,
    )
    assert found.problems == ()
    assert (found.unreferenced, found.unreferenced_size) == ((), 0)


def test_a_flipped_bit_is_found_in_every_file(layout):
    for path in artifacts(layout):
        sound = path.read_bytes()
        path.chmod(0o600)
        path.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
        result = verify(layout, depth=Depth.FULL)
        assert [problem.path for problem in result.problems if problem.kind is ProblemKind.DAMAGED] == [
            str(path.relative_to(layout.root))
        ]
        path.write_bytes(sound)
    assert verify(layout, depth=Depth.FULL).problems == ()


def test_files_that_cannot_be_sealed_are_hashed_and_then_not_loaded(layout, monkeypatch):
    def refused(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "memfd_create", refused)
    result = verify(layout, depth=Depth.FULL)
    assert {problem.kind for problem in result.problems} == {ProblemKind.CONTENT}
    assert result.hashed.files == result.hashed.files_total


def test_large_files_are_hashed_in_threads_while_the_folders_are_searched(layout, monkeypatch):
    monkeypatch.setattr("store.verify.coverage._THREADS_FROM", 0)
    monkeypatch.setattr("store.verify.coverage._BYTES_FOR_A_THREAD", 0)
    (layout.root / "stranger").touch()
    threads = set()
    result = verify(layout, depth=Depth.FULL, on_bytes=lambda _: threads.add(threading.current_thread()))
    assert [problem.path for problem in result.problems] == ["stranger"]
    assert result.facts.reading.loaded
    assert threads
    assert threading.main_thread() not in threads


def test_small_files_are_hashed_beside_the_threads_of_large_ones():
    """A cache of a few engines of hundreds of megabytes and thousands of small blocks."""
    items = [64 << 20, 64 << 20, 1 << 10, 128 << 10, 0]

    def check(size):
        return size, threading.current_thread() is threading.main_thread()

    assert map_in_threads(check, items, items) == [(size, size < 128 << 10) for size in items]
    assert map_in_threads(check, items[2:], items[2:]) == [(size, True) for size in items[2:]]
    assert map_in_threads(check, items, [0] * 5) == [(size, True) for size in items]


def test_a_segment_of_gigabytes_is_not_read_into_memory(built, tmp_path):
    layout = Layout(shutil.copytree(built.root, tmp_path / "cache"))
    segment = next(layout.segments.iterdir())
    segment.chmod(0o600)
    os.truncate(segment, 3 << 30)
    tracemalloc.start()
    try:
        result = verify(layout, depth=Depth.FULL)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert [problem.kind for problem in result.problems] == [ProblemKind.PROJECTION_DAMAGED]
