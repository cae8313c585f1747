"""A journal that is newer than the artifacts beside it: a partial restore, or a build in a copy by hard links."""

import os
import shutil

import pytest

from journal import Journal, JournalFilesystemError
from journal.testing import sample_record
from store.cache.writer import CacheWriter
from store.disk.layout import Layout
from store.errors import ArtifactError, ErrorKind
from store.formats.tables import decode_blocks
from store.maintenance.collect_garbage import collect
from store.maintenance.rebuild_journal import rebuild
from store.policy import rollback
from store.policy.recovery import Project, WriteSegment
from store.policy.retention import KeepPolicy
from store.testing import FakeClock
from tests.played_builds import Scenario, play


def open_cache(layout, **options):
    return CacheWriter.open(layout, clock=FakeClock(), create=True, reserve_bytes=0, **options)


@pytest.fixture
def layout(tmp_path):
    """Two visible generations of an old copy, and a journal that holds a third one."""
    source = Layout(tmp_path / "source")
    with open_cache(source) as store:
        play(store, Scenario())
        play(store, Scenario(flight="f2"))
    old = Layout(tmp_path / "cache")
    shutil.copytree(source.root, old.root)
    with open_cache(source) as store:
        play(store, Scenario(flight="f3", tiles={(0, 0): "new"}))
    shutil.copy(source.journal, old.journal)
    return old


def visible(layout):
    return sorted(layout.manifest_files())


def test_a_head_without_its_artifacts_does_not_become_visible(layout):
    with open_cache(layout) as store:
        assert (store.recovered, store.head_is_whole) == ((WriteSegment(3),), False)
        with pytest.raises(ArtifactError, match="nothing was collected") as caught:
            collect(store, KeepPolicy(keep=1))
        assert caught.value.kind is ErrorKind.ARTIFACT_MISSING
    assert visible(layout) == [1, 2]


@pytest.mark.parametrize("what", ["engine", "blocks", "block"])
def test_every_artifact_of_it_counts(layout, tmp_path, what):
    source = Layout(tmp_path / "source")
    shutil.copytree(source.artifacts, layout.artifacts, dirs_exist_ok=True)
    with open_cache(source) as store:
        build = store.state.head_build
        block = decode_blocks(store.artifacts.read(build.index.blocks))[0].ref
    ref = {"engine": build.engines[0][1].artifact, "blocks": build.index.blocks, "block": block}[what]
    layout.artifact(ref.sha256).rename(tmp_path / "away")
    with open_cache(layout) as store:
        assert not store.head_is_whole
    assert visible(layout) == [1, 2]
    shutil.copy(tmp_path / "away", layout.artifact(ref.sha256))
    with open_cache(layout) as store:
        assert store.recovered == (Project(3),)
    assert visible(layout) == [1, 2, 3]


def test_nothing_newer_than_what_is_visible_takes_its_place(layout):
    """Manifest 2 was lost as well: generation 1 is no less of a surprise than generation 2."""
    for path in (*layout.manifests.glob("00000002*"), *layout.segments.glob("00000002*")):
        path.unlink()
    with open_cache(layout) as store:
        assert store.recovered == (WriteSegment(2), WriteSegment(3))
    assert visible(layout) == [1]
    with open_cache(layout) as store:
        assert store.recovered == ()


def test_segments_behind_it_are_written_and_are_enough_to_make_the_journal_again(layout, tmp_path):
    """They make nothing visible, and without them the newest records would be in the journal alone."""
    with open_cache(layout) as store:
        committed = store.state.generations[3]
    assert sorted(layout.segment_files()) == [1, 2, 3]
    name = layout.segment_name(3)
    assert (layout.segments / name).read_bytes() == (tmp_path / "source/segments" / name).read_bytes()
    layout.journal.unlink()
    rebuild(layout, clock=FakeClock(), host={})
    with open_cache(layout) as store:
        assert store.state.generations[3] == committed
    assert visible(layout) == [1, 2]


def test_a_rollback_or_a_build_leads_out(layout):
    with open_cache(layout) as store:
        store.roll_back(rollback.plan(store.state, to=None, why=""))
    assert visible(layout) == [1, 2, 4]
    with open_cache(layout) as store:
        assert store.recovered == (Project(3),)
        assert play(store, Scenario(flight="f5", tiles={(0, 0): "newer"}))[0].number == 5
    assert visible(layout) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("name", ["journal.mdb", "journal.mdb-lock"])
def test_a_copy_by_hard_links_is_not_written(layout, tmp_path, name):
    with open_cache(layout):
        pass
    other = tmp_path / "other"
    os.link(layout.root / name, other)
    with (
        pytest.raises(JournalFilesystemError, match="one name expected, found 2") as caught,
        open_cache(layout),
    ):
        pytest.fail("expected the cache not to be opened")
    Journal.open(layout.journal, readonly=True).close()
    os.system(caught.value.hint.partition(": ")[2])
    with open_cache(layout):
        pass


def test_a_name_in_the_scratch_folder_is_an_unfinished_creation(tmp_path):
    path = tmp_path / "journal.mdb"
    with Journal.open(path) as journal:
        journal.append([sample_record(1)])
    (tmp_path / "tmp/journal-x").mkdir()
    os.link(path, tmp_path / "tmp/journal-x/journal.mdb")
    Journal.open(path).close()
    os.link(path, tmp_path / "other")
    with pytest.raises(JournalFilesystemError):
        Journal.open(path)


def test_without_any_visible_generation_all_are_projected(layout):
    """Nothing flies that could fly no more, and the files come from the journal alone."""
    for path in layout.manifests.iterdir():
        path.unlink()
    with open_cache(layout) as store:
        assert len(store.recovered) == 3
    assert visible(layout) == [1, 2, 3]
