"""Write the golden cache of format 1: segments and manifests as they were written once, and what they have to mean.

The folder `store_v1` holds `segments/`, `manifests/` and `expected.json`. Releases read them; they never write them
again. The history has every kind of event in it. Run this only to begin the folder of a new format:

    python tests/golden/make_store_v1.py FOLDER
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path
from unittest import mock

from store.base.canonical_json import sha256
from store.cache.writer import CacheWriter
from store.disk.layout import Layout
from store.domain import events as e
from store.domain import maintenance_events
from store.domain.state import State
from store.policy import rollback
from store.testing import FakeClock
from tests.played_builds import Scenario, StopDeadError, make, play, ref_of

CACHE_ID = "c10" * 10 + "c1"


def make_store(folder: Path) -> None:
    """Write the folder, which does not exist yet."""
    with tempfile.TemporaryDirectory() as scratch:
        layout = Layout(Path(scratch, "cache"))
        with mock.patch("secrets.token_hex", return_value=CACHE_ID):
            state = _live(layout)
        folder.mkdir(parents=True)
        shutil.copytree(layout.segments, folder / "segments", copy_function=shutil.copyfile)
        shutil.copytree(layout.manifests, folder / "manifests", copy_function=shutil.copyfile)
    text = json.dumps(expected(state, folder), indent=1, sort_keys=True)
    (folder / "expected.json").write_text(text + "\n")


def expected(state: State, folder: Path) -> dict[str, object]:
    """What a history means, as plain data: its head, its builds, its generations, and the digests of its files."""
    return {
        "cache_id": state.cache_id,
        "seq": state.position.seq,
        "chain": state.position.chain,
        "builds": [
            [build.number, build.identity, build.status, build.parent] for build in state.builds.values()
        ],
        "generations": [
            {
                "generation": generation.number,
                "origin": generation.origin,
                "parent": generation.parent,
                "seq": generation.seq,
                "prev_chain": generation.before.chain,
                "manifest_sha256": generation.manifest_sha256,
                "body_sha256": generation.body_sha256,
            }
            for generation in state.generations.values()
        ],
        "engines": sorted(state.step_cache.engines),
        "indexes": sorted(state.step_cache.indexes),
        "blocks": sorted(
            [*name, event.key]
            for name in state.step_cache.blocks
            for event in state.step_cache.blocks_of(name)
        ),
        "passed": sorted(state.step_cache.passed),
        "undone": state.undone,
        "accepted": sorted(state.accepted),
        "files": {
            str(path.relative_to(folder)): sha256(path.read_bytes())
            for kind in ("segments", "manifests")
            for path in sorted((folder / kind).iterdir())
        },
    }


def _live(layout: Layout) -> State:
    """A short life in which everything happens once."""
    clock = FakeClock()
    host = {"name": "golden"}
    second = Scenario(flight="f2", tiles={(0, 0): "a", (1, 0): "changed", (40, 40): "d"})
    with CacheWriter.open(layout, clock=clock, create=True, reserve_bytes=0, host=host) as store:
        play(store, Scenario())
        play(store, second)
        play(store, Scenario(flight="f3", engine="other", fail_at="index"))
        _die(store, Scenario(flight="f4", die_at="tiles"))
    with CacheWriter.open(layout, clock=clock, reserve_bytes=0, host=host) as store:
        store.roll_back(rollback.plan(store.state, to=None, why="bad picture") or _never())
        refused = make(
            e.BuildRefused, identity=store.state.builds[2].identity, reason="it was rolled back from"
        )
        store.append(refused, build=store.state.next_build)
        _append_what_needs_no_build(store)
        play(store, second)
        store.roll_back(rollback.plan(store.state, to=2, why="") or _never())
        play(store, Scenario(flight="f5", engine="other"))
    with CacheWriter.open(layout, clock=clock, reserve_bytes=0, host=host) as store:
        return store.state.copy()  # opening it wrote the signature that came after its commit


def _die(store: CacheWriter, scenario: Scenario) -> None:
    number = store.state.next_build
    try:
        play(store, scenario)
    except StopDeadError:
        retried = e.StepRetried(kind="cells", subjects=("6/0/0",), attempt=2, why="the worker was killed")
        store.append(retried, build=number)


def _append_what_needs_no_build(store: CacheWriter) -> None:
    ref = ref_of(b"gone")
    withdrawn = make(
        e.CheckFailed, check="parity", subject="place", key=ref.sha256, artifact=ref.sha256, why="off"
    )
    for event in (
        withdrawn,
        make(maintenance_events.GenerationAccepted, generation=1, why="flown"),
        make(maintenance_events.GenerationSigned, generation=1, signature="ab" * 64, key_id="key"),
        make(maintenance_events.CollectionPlanned, digests=(ref.sha256,), size=ref.size, policy={"keep": 3}),
        make(maintenance_events.Collected, digests=(ref.sha256,), size=ref.size),
        make(
            maintenance_events.Repaired,
            subject="engine place",
            sha256=ref.sha256,
            action="replaced",
            quarantine="quarantine/x",
        ),
        make(
            maintenance_events.Imported,
            source="bundle",
            cache_id="other",
            bundle=ref,
            generations=(1,),
            artifacts=1,
        ),
    ):
        store.append(event, build=None)


def _never() -> rollback.RollbackPlan:
    raise AssertionError("there is a build to go back to")


if __name__ == "__main__":
    make_store(Path(sys.argv[1]))
