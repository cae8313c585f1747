"""Manifests of format 3, of chunks of ground, are read, projected and rebuilt as they were when they were written."""

from pathlib import Path

from store.base.geometry.level import Level
from store.manifest.levels import ChunkLevel
from store.manifest.manifest import parse
from tests.golden import stored
from tests.golden.make_store_v3 import make

FOLDER = Path(__file__).parent / "store_v3"


def test_segments_fold_to_what_they_meant():
    stored.check_meaning(FOLDER)


def test_every_generation_projects_to_its_bytes():
    stored.check_projections(FOLDER, [1, 3, 3])


def test_the_journal_is_made_again(tmp_path):
    stored.check_rebuild(FOLDER, tmp_path / "cache")


def test_generator_writes_the_same_bytes_again(tmp_path):
    stored.check_generator(FOLDER, make, tmp_path / "again")


def test_what_the_manifests_say_of_levels_and_of_a_delta():
    plain, first, second = (parse(raw) for raw in stored.manifests_of(FOLDER).values())
    assert plain.levels == ()
    assert first.levels == second.levels == (ChunkLevel(level=Level(6, 1, 3), tile_edge=8),)
    assert first.index.delta is None
    assert (second.index.delta.added, second.index.rows) == (1, 3)
