"""What has the place of a folder or lock of a cache is never written through, and never cleared."""

import os
from pathlib import Path

import pytest

from journal import JournalFilesystemError
from store.cache.optimistic_append import open_for_append
from store.cache.writer import CacheWriter
from store.disk.artifacts import Artifacts
from store.disk.folder_integrity import free_displaced, misplaced_folders, refuse_symlinked_folders
from store.disk.layout import FOLDERS, Layout
from store.disk.scratch import clear_scratch
from store.errors import CacheUnusableError, ErrorKind, StoreError
from store.runtime.capabilities import library_version
from store.testing import FakeClock
from store.transfer.mirror import mirror
from store.verify.report import Depth, ProblemKind
from store.verify.verify import verify
from tests.played_builds import Scenario
from tests.store_caches import record_builds


@pytest.fixture
def layout(tmp_path):
    layout = Layout(tmp_path / "cache")
    record_builds(layout, Scenario(version=library_version("onnxruntime") or "1"))
    return layout


@pytest.fixture
def elsewhere(tmp_path):
    folder = tmp_path / "elsewhere"
    (folder / "deeper").mkdir(parents=True)
    (folder / "precious").write_text("x")
    (folder / "deeper" / "precious").write_text("x")
    return folder


def found_in(folder: Path):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def lead_away(layout, name, elsewhere):
    """Put a link in the place of a folder; what was there lies beside the cache."""
    folder = layout.root / name
    folder.rename(layout.root.parent / f"old-{name}")
    folder.symlink_to(elsewhere)
    return folder


@pytest.mark.parametrize("name", FOLDERS)
def test_every_writer_refuses_a_link_in_the_place_of_a_folder(layout, elsewhere, name):
    before = found_in(elsewhere)
    lead_away(layout, name, elsewhere)
    for opened in (
        lambda: CacheWriter.open(layout, clock=FakeClock(), reserve_bytes=1 << 16),
        lambda: CacheWriter.open(layout, clock=FakeClock(), create=True),
        lambda: CacheWriter.open(layout, clock=FakeClock(), exclusive_within_s=0.0),
        lambda: open_for_append(layout, clock=FakeClock(), create=True),
    ):
        with pytest.raises(CacheUnusableError, match=name) as caught, opened():
            pytest.fail("it was opened")
        assert caught.value.kind is ErrorKind.FILE_SYSTEM
        assert caught.value.hint == f"c10 repair --cache {layout.root}"
    assert found_in(elsewhere) == before


@pytest.mark.parametrize("name", FOLDERS)
def test_a_mirror_writes_through_no_link(layout, elsewhere, tmp_path, name):
    before = found_in(elsewhere)
    copy = Layout(tmp_path / "copy")
    mirror(layout, copy.root)
    lead_away(copy, name, elsewhere)
    with pytest.raises(StoreError):
        mirror(layout, copy.root, full=True)
    assert found_in(elsewhere) == before


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("what", ["link", "file", "pipe", "nowhere"])
def test_verification_names_it_and_it_can_be_set_aside(layout, elsewhere, name, what):
    folder = lead_away(layout, name, elsewhere)
    if what != "link":
        folder.unlink()
        {
            "file": folder.touch,
            "pipe": lambda: os.mkfifo(folder),
            "nowhere": lambda: folder.symlink_to("gone"),
        }[what]()
    found = [each for each in verify(layout, depth=Depth.FULL).problems if each.path == name]
    assert [each.kind for each in found] == [ProblemKind.STRANGER]
    assert found[0].fix == f"c10 repair --cache {layout.root}"
    assert misplaced_folders(layout) == (folder,)
    before = os.lstat(folder).st_mode
    ((freed, kept),) = free_displaced(layout)
    assert freed == name
    assert os.lstat(layout.root / kept).st_mode == before
    assert misplaced_folders(layout) == ()
    refuse_symlinked_folders(layout)
    assert sorted(entry.name for entry in layout.root.iterdir() if entry.name.startswith(f"{name}.")) == []
    assert found_in(elsewhere) == ["deeper", "deeper/precious", "precious"]


def test_scratch_is_not_cleared_where_a_link_leads(layout, elsewhere):
    before = found_in(elsewhere)
    lead_away(layout, "tmp", elsewhere)
    clear_scratch(layout)
    assert found_in(elsewhere) == before


def test_an_artifact_is_not_put_where_a_link_leads(layout, elsewhere):
    before = found_in(elsewhere)
    for folder in layout.artifacts.iterdir():
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
            folder.symlink_to(elsewhere)
    artifacts, refused = Artifacts(layout), 0
    for number in range(8):
        try:
            artifacts.put(b"%d" % number)
        except StoreError:
            refused += 1
    assert refused
    assert found_in(elsewhere) == before


@pytest.mark.parametrize("what", ["link", "pipe", "folder"])
def test_the_lock_of_the_artifacts_is_no_way_out(layout, elsewhere, what):
    lock = layout.artifacts_lock
    lock.unlink()
    {
        "link": lambda: lock.symlink_to(elsewhere / "new"),
        "pipe": lambda: os.mkfifo(lock),
        "folder": lock.mkdir,
    }[what]()
    with pytest.raises(CacheUnusableError) as caught, CacheWriter.open(layout, clock=FakeClock()):
        pytest.fail("it was opened")
    assert caught.value.hint == f"c10 repair --cache {layout.root}"
    assert not (elsewhere / "new").exists()
    assert "artifacts/.lock" in [each.path for each in verify(layout, depth=Depth.FULL).problems]


@pytest.mark.parametrize("what", ["link", "pipe", "folder"])
def test_the_lock_of_the_journal_is_no_way_out(layout, elsewhere, what):
    """LMDB would follow a link, and write its table of readers over what it finds there."""
    lock = layout.root / "journal.mdb-lock"
    lock.unlink()
    target = elsewhere / "precious"
    {"link": lambda: lock.symlink_to(target), "pipe": lambda: os.mkfifo(lock), "folder": lock.mkdir}[what]()
    with pytest.raises(JournalFilesystemError) as caught, CacheWriter.open(layout, clock=FakeClock()):
        pytest.fail("it was opened")
    assert str(lock) in caught.value.hint
    assert target.read_text() == "x"


def test_a_build_lock_that_is_no_file_is_named_with_its_fix(layout):
    layout.build_lock.unlink(missing_ok=True)
    os.mkfifo(layout.build_lock)
    (problem,) = [each for each in verify(layout, depth=Depth.FULL).problems if each.path == "build.lock"]
    assert str(layout.build_lock) in problem.fix
