"""Manifests of format 2, whose index has a delta, are read, projected and rebuilt as they were when they were written."""

from pathlib import Path

from store.domain.events import IndexExtended
from store.manifest.manifest import parse
from tests.golden import stored
from tests.golden.make_store_v2 import make

FOLDER = Path(__file__).parent / "store_v2"


def test_segments_fold_to_what_they_meant():
    stored.check_meaning(FOLDER)


def test_every_generation_projects_to_its_bytes():
    stored.check_projections(FOLDER, [1, 2, 2, 2])


def test_the_journal_is_made_again(tmp_path):
    stored.check_rebuild(FOLDER, tmp_path / "cache")


def test_generator_writes_the_same_bytes_again(tmp_path):
    stored.check_generator(FOLDER, make, tmp_path / "again")


def test_what_a_manifest_says_of_an_extended_index():
    state, found = stored.state_of(FOLDER), parse(stored.manifests_of(FOLDER)[2])
    event = state.builds[2].index
    assert isinstance(event, IndexExtended)
    assert (found.index.artifact, found.index.delta.artifact) == (event.base, event.artifact)
    assert (found.index.rows, found.index.whole_rows) == (3, 3)
    assert event.base == state.builds[1].index.artifact == state.builds[3].index.base
