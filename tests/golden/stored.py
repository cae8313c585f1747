"""Checks of a folder with segments and manifests as they were written once."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from store.cache import segment
from store.cache.event_mapper import to_recorded_events
from store.disk.layout import Layout
from store.domain.fold import fold
from store.domain.manifest_projection import project
from store.domain.state import State
from store.maintenance.rebuild_journal import rebuild
from store.manifest.manifest import parse
from tests.golden.make_store_v1 import expected


def state_of(folder: Path) -> State:
    """Fold the records of the segments."""
    return fold(
        to_recorded_events(
            entry
            for path in sorted((folder / "segments").iterdir())
            for entry in segment.decode(path.read_bytes()).entries
        )
    )


def manifests_of(folder: Path) -> dict[int, bytes]:
    """Return the manifest of each generation."""
    return {int(path.stem): path.read_bytes() for path in sorted((folder / "manifests").glob("*.json"))}


def check_meaning(folder: Path) -> None:
    """The segments fold to what they meant when they were written."""
    meaning = json.loads((folder / "expected.json").read_text())
    assert json.loads(json.dumps(expected(state_of(folder), folder))) == meaning


def check_projections(folder: Path, formats: list[int]) -> None:
    """Every generation projects to its bytes."""
    state, manifests = state_of(folder), manifests_of(folder)
    for number, raw in manifests.items():
        assert project(state, state.generations[number]) == raw
        assert parse(raw).sha256 == state.generations[number].manifest_sha256
    assert [json.loads(raw)["format"] for raw in manifests.values()] == formats
    assert [state.generations[number].format for number in manifests] == formats


def check_rebuild(folder: Path, cache: Path) -> None:
    """The journal is made again from the files."""
    layout = Layout(cache)
    layout.create()
    for kind in ("segments", "manifests"):
        for path in (folder / kind).iterdir():
            shutil.copyfile(path, layout.root / kind / path.name)
    assert rebuild(layout).state == state_of(folder)


def check_generator(folder: Path, make: Callable[[Path], None], again: Path) -> None:
    """The generator writes the same bytes again."""
    make(again)
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file()) == files
    for path in files:
        assert (again / path).read_bytes() == (folder / path).read_bytes(), path
