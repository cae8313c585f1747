"""Manifests of format 3, of chunks of ground, are read, projected and rebuilt as they were when they were written."""

import json
import shutil
from pathlib import Path

from store.base.level import Level
from store.cache import segment
from store.cache.event_mapper import to_recorded_events
from store.disk.layout import Layout
from store.domain.fold import fold
from store.domain.manifest_projection import project
from store.maintenance.rebuild_journal import rebuild
from store.manifest.levels import ChunkLevel
from store.manifest.manifest import parse
from tests.golden.make_store_v1 import expected
from tests.golden.make_store_v3 import make

FOLDER = Path(__file__).parent / "store_v3"


def entries():
    return [
        entry
        for path in sorted((FOLDER / "segments").iterdir())
        for entry in segment.decode(path.read_bytes()).entries
    ]


def manifests():
    return {number: (FOLDER / "manifests" / f"{number:08d}.json").read_bytes() for number in range(1, 4)}


def test_segments_fold_to_what_they_meant():
    state = fold(to_recorded_events(entries()))
    meaning = json.loads((FOLDER / "expected.json").read_text())
    assert json.loads(json.dumps(expected(state, FOLDER))) == meaning


def test_every_generation_projects_to_its_bytes():
    state = fold(to_recorded_events(entries()))
    for number, raw in manifests().items():
        assert project(state, state.generations[number]) == raw
        assert parse(raw).sha256 == state.generations[number].manifest_sha256
    assert [json.loads(raw)["format"] for raw in manifests().values()] == [1, 3, 3]


def test_what_the_manifests_say_of_levels_and_of_a_delta():
    plain, first, second = (parse(raw) for raw in manifests().values())
    assert plain.levels == ()
    assert first.levels == second.levels == (ChunkLevel(level=Level(6, 1, 3), tile_edge=8),)
    assert first.index.delta is None
    assert (second.index.delta.added, second.index.rows) == (1, 3)


def test_the_journal_is_made_again(tmp_path):
    layout = Layout(tmp_path / "cache")
    layout.create()
    for kind in ("segments", "manifests"):
        for path in (FOLDER / kind).iterdir():
            shutil.copyfile(path, layout.root / kind / path.name)
    assert rebuild(layout).state == fold(to_recorded_events(entries()))


def test_generator_writes_the_same_bytes_again(tmp_path):
    make(tmp_path / "again")
    files = sorted(path.relative_to(FOLDER) for path in FOLDER.rglob("*") if path.is_file())
    again = sorted(
        path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*") if path.is_file()
    )
    assert again == files
    for path in files:
        assert (tmp_path / "again" / path).read_bytes() == (FOLDER / path).read_bytes(), path
