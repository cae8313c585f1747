"""Folding a real journal gives, at each committed build, exactly the body that its manifest contains.

One history is of real builds, and short. The others, of which one is as long as one of years, are written through
the store, in its transactions, and only the work and the artifacts are left out.
"""

import json
import shutil
from dataclasses import replace

import pytest

from pipeline.testing import raising
from store.base import canonical_json, identity
from store.cache.view import open_view
from store.disk.layout import Layout
from store.domain import events as e
from store.domain.fold import fold
from store.domain.manifest_projection import body_of
from store.domain.state import FLIGHT
from store.policy import rollback
from tests.examples_tried import mostly_deep
from tests.pipeline.conftest import quick_path  # noqa: F401 - a fixture
from tests.played_builds import PREPROCESSING, make, ref_of
from tests.small_builds import FakeSite, tiny_network, words
from tests.store_caches import open_writer
from tools.analysis.replay_document import replay
from tools.forensics.sources import from_cache, from_journal
from tools.forensics.state_at import FoldedState, fold_stepwise

EVENTS = 3000
LONG = 100_000
REPLAYS = 12
ZOOM, SIDE, BUILDS = 7, 8, 8


@pytest.fixture
def built(quick_path):  # noqa: F811 - the fixture
    """Builds, failures and rollbacks; every build embeds every cell anew."""
    places = ((x, y) for x in range(SIDE) for y in range(SIDE))
    site = FakeSite(quick_path, tiles={(ZOOM, 16 * x, 16 * y): words(256 * x + y) for x, y in places})
    for number in range(BUILDS):
        site.write("net.onnx", tiny_network(seed=number))
        if number % 5 == 3:
            site.calls.faults["index"] = raising(OSError(28, "planted"))
            assert site.build(zoom=(ZOOM, ZOOM)).error is not None
            site.calls.faults.clear()
        assert site.build(zoom=(ZOOM, ZOOM)).generation is not None
        if number % 5 == 4:
            site.provisioner().rollback()
    return site.layout


@pytest.fixture
def written(quick_path):  # noqa: F811 - as above
    """The same without work: 50 builds, of which some fail or are rolled back from."""
    return write_builds(quick_path, 50, EVENTS // 50)


@pytest.fixture
def long(quick_path):  # noqa: F811 - as above
    return write_builds(quick_path, 50, LONG // 50)


def write_builds(folder, builds, cells):
    layout = Layout(folder / "cache")
    with open_writer(layout) as store:
        for number in range(1, builds + 1):
            write_build(store, cells)
            if number % 10 == 9:
                store.roll_back(rollback.plan(store.state, to=None, why="planted"))
    return layout


def write_build(store, cells):
    number = store.state.next_build
    inputs = identity.build_inputs(
        flight_id=f"f{number}",
        sector="stable_rear",
        bbox_e7=[0, 0, 10, 10],
        zoom=[18, 18],
        origin={},
        calibration=ref_of(b"{}").sha256,
        tiles={"digest": f"{number:064x}"},
        models=[{"name": "net", "role": "descriptor", "onnx": "a" * 64, "preprocessing": PREPROCESSING}],
        engine={"backend": "onnxruntime", "version": "1"},
        index={"kind": "flat"},
        checks={},
    )
    identified = identity.build_identity(inputs)
    store.append(
        e.BuildStarted(
            identity=identified, inputs=inputs, calibration=ref_of(b"{}"), again=False, host={"boot": "b"}
        ),
        make(e.TilesSelected, digest=f"{number:064x}", table=ref_of(b"t"), count=cells, wanted=cells),
        e.BuildPlanned(steps=()),
        *engine(store.state, number),
        build=number,
    )
    for first in range(0, cells, 256):
        few = [cell(number, place) for place in range(first, min(first + 256, cells))]
        store.append(*few, build=number)
    if number % 7 == 5:
        store.append(make(e.BuildFailed, step="index", kind="planted"), build=number)
        return
    index = make(
        e.IndexBuilt,
        key=named(f"index {number}"),
        components={"space": named(f"space {number}")},
        artifact=ref_of(b"i%d" % number),
        blocks=ref_of(b"b%d" % number),
    )
    walked = make(e.CoverageWalked, geography=ref_of(b"g%d" % number))
    store.append(index, walked, build=number)
    store.commit(number)


def engine(state, number):
    """Every tenth build compiles anew; the others take what is there."""
    edition = number // 10
    components = identity.engine_components(
        onnx_sha256=f"{edition:064x}",
        backend="onnxruntime",
        version="1",
        target="cpu",
        precision="fp32",
        batch=1,
        options={},
    )
    key, artifact = identity.engine_key(components), ref_of(b"engine %d" % edition)
    if key in state.step_cache.engines:
        return (e.StepReused(kind="engine", count=1, keys={"net": key}),)
    compiled = make(
        e.EngineCompiled,
        model="net",
        purpose=FLIGHT,
        key=key,
        components=components,
        artifact=artifact,
        signature={"input": "i", "output": "o", "dimensions": 4},
    )
    return compiled, make(e.CheckPassed, check="engine", subject="net", key=key, artifact=artifact.sha256)


def named(text):
    return ref_of(text.encode()).sha256


def cell(number, place):
    return make(
        e.CellEmbedded,
        space=named(f"space {number}"),
        zoom=18,
        cell_x=place,
        cell_y=number,
        key=named(f"{number}/{place}"),
        block=ref_of(b"%d/%d" % (number, place)),
        rows=1,
        embedded=1,
    )


def bodies_on_disk(layout):
    """Generation to the bytes of its body, as its manifest file holds it."""
    found = {}
    for generation, name in layout.manifest_files().items():
        document = json.loads((layout.manifests / name).read_bytes())
        found[generation] = canonical_json.encode(document["body"])
    return found


@pytest.mark.parametrize("history", mostly_deep(("built", "written", "long"), "built"))
def test_every_event_of_a_real_history(history, request, tmp_path):
    layout = request.getfixturevalue(history)
    source = from_cache(layout)
    records, expected = source.history.records, bodies_on_disk(layout)
    print(f"{history}: {len(records)} events, {len(expected)} generations")
    assert len(records) >= {"built": BUILDS * SIDE * SIDE, "written": EVENTS, "long": LONG}[history]
    folded, seen = FoldedState(), {}
    for record in fold_stepwise(records, folded):
        state = folded.state
        assert (state.position.seq, state.position.chain) == (record.seq, record.chain)
        head = state.head
        if head is not None and head.number not in seen:
            seen[head.number] = canonical_json.encode(body_of(state, state.head_build))
            assert (record.seq, seen[head.number]) == (head.seq, expected[head.number])
    assert folded.state.position.seq == len(records)
    assert folded.state == open_view(layout).state
    assert seen == expected
    assert all(each.matches for each in folded.commits)
    copied = from_journal(shutil.copy(layout.journal, tmp_path / "copy.mdb"))
    generations = [*folded.state.generations.values()]
    for generation in generations[:: -(-len(generations) // REPLAYS)]:
        told = replay(copied, word=str(generation.origin), at=generation.seq)
        assert (told["state"]["generation"], told["state"]["seq"]) == (generation.number, generation.seq)
        assert told["state"]["body_sha256"] == generation.body_sha256
        assert told["verified"][-1]["projects"]


def fold_all(records):
    folded = FoldedState()
    for _ in fold_stepwise(records, folded):
        pass
    return folded


def test_any_prefix_folds_to_what_it_was(quick_path):  # noqa: F811 - as above
    records = from_cache(write_builds(quick_path, 12, 5)).history.records
    folded = FoldedState()
    for record in fold_stepwise(records, folded):
        prefix = records[: record.seq]
        assert fold_all(prefix).state == folded.state == fold(each.recorded_event for each in prefix)


def test_a_body_other_than_the_committed_one_is_found(quick_path):  # noqa: F811 - as above
    *before, last = from_cache(write_builds(quick_path, 1, 3)).history.records
    forged = replace(last, event=replace(last.event, body_sha256="0" * 64))
    assert [each.matches for each in fold_all([*before, forged]).commits] == [False]


def test_a_missing_record_ends_the_fold_and_says_so(quick_path):  # noqa: F811 - as above
    records = from_cache(write_builds(quick_path, 1, 3)).history.records
    folded = fold_all([*records[:5], *records[6:]])
    assert folded.state.position.seq == 5
    assert "expected seq 6" in folded.problem
