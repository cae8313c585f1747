"""Indexes that extend an earlier one: searched, kept, verified, repaired, collected and reported."""

import json
from dataclasses import replace

import numpy as np
import pytest

from pipeline.planning import disk_space
from pipeline.request.options import CheckOptions, IndexKind, IndexOptions, Storage
from pipeline.stages import checks
from store.base.identity import descriptor_id
from store.disk.artifacts import Artifacts
from store.domain.events import CheckFailed, IndexBuilt, IndexExtended, StepReused
from store.domain.manifest_projection import project
from store.errors import NoGoError
from store.formats import descriptor_block
from store.formats.index_delta import decode, encode
from store.formats.tables import decode_blocks
from store.manifest.manifest import parse
from store.manifest.roles import DELTA, WHOLE
from store.policy.retention import KeepPolicy
from store.reader import ALLOW_UNSIGNED, FlightCache
from store.verify.report import Depth
from store.verify.verify import verify
from tests.damaging import flip
from tests.small_builds import ZOOM, FakeSite, spread, tree, words

pytestmark = pytest.mark.deep

FIRST = (ZOOM, 0, 0)
NEW = (ZOOM, 3, 3)
KINDS = [
    IndexOptions(kind=IndexKind.FLAT),
    IndexOptions(kind=IndexKind.FLAT, storage=Storage.FP16),
    IndexOptions(kind=IndexKind.HNSW),
]


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A site whose indexes count as large from eight rows on, and are extended until a fifth has changed."""
    monkeypatch.setattr("pipeline.index.plan.FLAT_BELOW", 8)
    monkeypatch.setattr("pipeline.index.plan.MAX_CHANGED_DIVISOR", 5)
    return FakeSite(tmp_path / "site")


def build(site, number, **fields):
    report = site.build(flight_id=f"f{number}", index=IndexOptions(kind=IndexKind.HNSW), **fields)
    assert report.error is None, report.error
    return report


def rows_of(site, build):
    """Return id to vector of the blocks of a build."""
    artifacts, found = Artifacts(site.layout), {}
    for row in decode_blocks(artifacts.read(build.index.blocks)):
        block = descriptor_block.decode(artifacts.read(row.ref))
        found |= {int(each): vector.copy() for each, vector in zip(block.ids, block.vectors, strict=True)}
    return found


def require_found(site, *, gone=()):
    """Require that a reader finds every tile of the head by its own vector, and no removed one."""
    expected = rows_of(site, site.state().head_build)
    with FlightCache.open(site.cache, trusted_keys=ALLOW_UNSIGNED) as cache:
        cache.verify()
        index = cache.descriptor_index()
    assert index.ntotal == len(expected)
    ids = np.array(sorted(expected), np.int64)
    scores, found = index.search(np.array([expected[each] for each in ids.tolist()]), len(expected) + 3)
    assert (found[:, 0] == ids).all()
    assert np.abs(scores[:, 0] - 1).max() < 1e-3
    assert {*found.ravel().tolist()} <= {*ids.tolist(), -1}
    assert not {descriptor_id(*place) for place in gone} & {*ids.tolist()}


def change(site):
    """Change one tile, remove one and add one."""
    site.tiles[FIRST] = words("changed")
    del site.tiles[ZOOM, 8, 12]
    site.tiles[NEW] = words("new")
    return (ZOOM, 8, 12)


def build_two(site):
    """The second extends the index of the first, if the site allows it."""
    build(site, 1)
    change(site)
    build(site, 2)


def test_a_change_costs_no_index(site):
    build(site, 1)
    gone = change(site)
    site.calls.made.clear()
    report = build(site, 2)
    assert "index" not in site.calls.made
    assert report.tiles_embedded == 2
    (event,) = site.events(IndexExtended)
    (base,) = site.events(IndexBuilt)
    assert (event.base, event.rows, event.added, event.dropped) == (base.artifact, 40, 2, 2)
    delta = decode(site.artifact(event.artifact).read_bytes())
    assert set(delta.added.ids.tolist()) == {descriptor_id(*FIRST), descriptor_id(*NEW)}
    assert set(delta.dropped.ids.tolist()) == {descriptor_id(*FIRST), descriptor_id(*gone)}
    require_found(site, gone=[gone])
    manifest = parse(site.head_bytes())
    assert json.loads(site.head_bytes())["format"] == 2
    assert dict(manifest.artifacts())[DELTA] == event.artifact
    assert verify(site.layout, depth=Depth.FULL).problems == ()


@pytest.mark.parametrize("options", KINDS, ids=lambda options: f"{options.kind}-{options.storage}")
def test_kinds_that_can_be_extended(site, options):
    for number in (1, 2):
        report = site.build(flight_id=f"f{number}", index=options)
        assert report.error is None
        change(site) if number == 1 else None
    assert len(site.events(IndexExtended)) == 1
    require_found(site)


def test_an_up_to_date_run_after_it_writes_nothing(site):
    build_two(site)
    before = tree(site.cache)
    report = build(site, 2)
    assert (report.outcome, report.writes) == ("reused", 0)
    assert tree(site.cache) == before


def test_a_delta_refers_to_the_file_however_many_builds_lie_between(site):
    build_three(site)
    site.tiles[FIRST] = spread(content=words)[FIRST]
    build(site, 4)
    one, two, three = site.events(IndexExtended)
    assert one.base == two.base == three.base
    assert [(each.added, each.dropped) for each in (one, two, three)] == [(2, 2), (3, 3), (2, 2)]
    require_found(site)
    straight = FakeSite(site.root / "straight", tiles=spread(content=words))
    build(straight, 1)
    straight.tiles = dict(site.tiles)
    build(straight, 2)
    (direct,) = straight.events(IndexExtended)
    assert direct.artifact == three.artifact


def test_a_change_taken_back_takes_the_first_index(site):
    build(site, 1)
    tiles = dict(site.tiles)
    change(site)
    build(site, 2)
    site.tiles = tiles
    build(site, 3)
    assert site.state().head_build.index == site.events(IndexBuilt)[0]
    assert site.events(StepReused)[-1].kind == "index"
    assert json.loads(site.head_bytes())["format"] == 1
    require_found(site)


def test_whoever_rolls_back_and_builds_again_has_it_already(site):
    build_two(site)
    site.provisioner().rollback()
    require_found(site)
    site.calls.made.clear()
    report = site.build(flight_id="f2", index=IndexOptions(kind=IndexKind.HNSW), force=True)
    assert (report.error, report.tiles_embedded) == (None, 0)
    assert len(site.events(IndexExtended)) == 1
    require_found(site)
    site.provisioner().rollback(to=2)
    require_found(site)


def test_too_many_changes_are_written_into_a_new_index(site):
    build(site, 1)
    for place in list(site.tiles)[:5]:
        site.tiles[place] = words(f"changed {place}")
    site.calls.made.clear()
    build(site, 2)
    assert site.calls.made[-1] == "index"
    assert site.events(IndexExtended) == []
    require_found(site)


@pytest.mark.parametrize(
    "options",
    [
        IndexOptions(kind=IndexKind.HNSW, delta=False),
        IndexOptions(kind=IndexKind.HNSW, ef=100),
        IndexOptions(kind=IndexKind.FLAT),
    ],
    ids=["forbidden", "other options", "another kind"],
)
def test_what_is_no_reason_to_extend(site, options):
    build(site, 1)
    change(site)
    report = site.build(flight_id="f2", index=options)
    assert report.error is None
    assert site.events(IndexExtended) == []
    require_found(site)


def test_small_indexes_are_written_anew(site, monkeypatch):
    monkeypatch.setattr("pipeline.index.plan.FLAT_BELOW", 41)
    build_two(site)
    assert site.events(IndexExtended) == []


def test_only_who_forbids_deltas_has_another_identity(site):
    plain = site.provisioner().plan(site.request(index=IndexOptions(kind=IndexKind.HNSW)))
    forbidden = site.provisioner().plan(site.request(index=IndexOptions(kind=IndexKind.HNSW, delta=False)))
    assert plain.identity != forbidden.identity
    build(site, 1)
    assert "delta" not in site.state().head_build.inputs["index"]


@pytest.mark.parametrize("lost", ["base", "block", "table", "delta"])
def test_where_the_head_is_damaged_the_index_is_written_anew(site, lost):
    """A damaged index file is not extended."""
    build_two(site)
    index = site.state().head_build.index
    artifacts = Artifacts(site.layout)
    row = next(
        row for row in decode_blocks(artifacts.read(index.blocks)) if (row.cell_x, row.cell_y) == (0, 0)
    )
    ref = {"base": index.base, "block": row.ref, "table": index.blocks, "delta": index.artifact}[lost]
    flip(site.artifact(ref), -1)
    site.tiles[FIRST] = words("changed again")
    build(site, 3)
    require_found(site)
    assert isinstance(site.state().head_build.index, IndexBuilt)
    assert any("cannot be extended" in said for said in site.progress.said)


def test_a_plan_says_why_an_index_is_written_though_no_cell_changes(site):
    def planned(**options):
        found = site.provisioner().plan(site.request(flight_id="new", index=IndexOptions(**options)))
        return [(step["decision"], step["why"]) for step in found.steps if step["kind"] == "index"]

    build_two(site)
    assert planned(kind=IndexKind.HNSW) == [("reuse", "same blocks")]
    for options in ({"kind": IndexKind.FLAT}, {"kind": IndexKind.HNSW, "delta": False}):
        assert planned(**options) == [("run", "its options or its library changed")]
    index = site.state().head_build.index
    site.artifact(index.artifact).unlink()
    assert planned(kind=IndexKind.HNSW) == [("run", "index delta is missing or damaged")]


def test_a_forced_build_replaces_what_cannot_be_repaired(site):
    """A delta whose base blocks were collected: repair recommends this build, and it helps."""
    build_three(site)
    site.provisioner().collect(KeepPolicy(keep=1), dry_run=False)
    flip(site.artifact(site.state().head_build.index.artifact))
    (action,) = site.provisioner().repair().actions
    assert "c10 build --again" in action.action
    assert build(site, 3).outcome == "reused"
    assert build(site, 3, force=True).outcome == "built"
    assert isinstance(site.state().head_build.index, IndexBuilt)
    require_found(site)


def test_a_delta_that_does_not_pass_gives_way_to_a_new_index(site, monkeypatch):
    build(site, 1)
    change(site)
    real = decode

    def twisted(data):
        found = real(data)
        return replace(found, added=replace(found.added, vectors=-found.added.vectors))

    monkeypatch.setattr("pipeline.stages.extend_index.index_delta.decode", twisted)
    report = site.build(
        flight_id="f2", index=IndexOptions(kind=IndexKind.HNSW), checks=CheckOptions(recall=1.0)
    )
    assert report.error is None
    assert len(site.events(IndexExtended)) == 1
    assert [event.subject for event in site.events(CheckFailed)] == ["index"]
    assert isinstance(site.state().head_build.index, IndexBuilt)
    require_found(site)


def build_three(site):
    """The third extends the file of the first, which is collected; a rollback would show the second."""
    build_two(site)
    site.tiles[ZOOM, 16, 12] = words("changed, too")
    build(site, 3)


@pytest.mark.parametrize("lost", [("base",), ("artifact",), ("base", "artifact")])
@pytest.mark.parametrize("collected", [False, True], ids=["", "after a collection"])
def test_both_parts_can_be_repaired(site, lost, collected):
    build_three(site)
    index = site.state().head_build.index
    before = site.artifact(index.base).read_bytes(), site.artifact(index.artifact).read_bytes()
    if collected:
        site.provisioner().collect(KeepPolicy(keep=1), dry_run=False)
    for name in lost:
        flip(site.artifact(getattr(index, name)))
    names = {"base": WHOLE, "artifact": DELTA}
    found = verify(site.layout, depth=Depth.FULL).problems
    assert {problem.subject for problem in found} == {names[name] for name in lost}
    report = site.provisioner().repair()
    there = site.artifact(index.base).read_bytes(), site.artifact(index.artifact).read_bytes()
    made = {action.what for action in report.actions if action.ok}
    if collected and "artifact" in lost:
        # Dropped rows are only in the delta, once the blocks of the earlier build are gone.
        assert made == set()
        assert all(
            "c10 build" in action.action or "c10 rollback" in action.action for action in report.actions
        )
        return
    assert made == {names[name] for name in lost}
    assert there == before
    assert report.verification.problems == ()
    require_found(site)


def test_collection_keeps_what_an_extended_index_needs(site):
    build_three(site)
    site.provisioner().collect(KeepPolicy(keep=1), dry_run=False)
    index = site.state().head_build.index
    assert all(site.artifact(ref).exists() for ref in (index.base, index.artifact, index.blocks))
    assert not site.artifact(site.events(IndexBuilt)[0].blocks).exists()
    require_found(site)
    site.tiles[FIRST] = words("changed once more")
    build(site, 4)
    assert site.events(IndexExtended)[-1].base == index.base
    require_found(site)


def test_a_base_that_was_removed_is_forgotten_with_what_stands_on_it(site):
    build_two(site)
    for place in list(site.tiles)[:12]:
        site.tiles[place] = words(f"other {place}")
    build(site, 3)
    build(site, 4)
    index = site.events(IndexExtended)[0]
    site.provisioner().collect(KeepPolicy(keep=1), dry_run=False)
    assert not site.artifact(index.base).exists()
    assert index.key not in site.state().step_cache.indexes


@pytest.mark.parametrize(
    ("twist", "reason"),
    [
        (lambda data: data[:-4], "index delta"),
        (
            lambda data: encode(
                replace(decode(data), dropped=decode(data).dropped.select(np.array([True, False])))
            ),
            "found \\(2, 1, 16\\)",
        ),
        (lambda data: b"C10BLOCK" + data[8:], "magic"),
    ],
    ids=["short", "other rows", "no delta"],
)
def test_a_reader_refuses_a_delta_that_is_not_what_the_manifest_says(site, twist, reason, monkeypatch):
    """Even if its digest is right, as in a forged unsigned cache."""
    build_two(site)
    state = site.state()
    index = state.head_build.index
    data = twist(site.artifact(index.artifact).read_bytes())
    ref = Artifacts(site.layout).put(data)
    forged = replace(state.head_build, index=replace(index, artifact=ref), format=0)
    state.builds[state.head.origin] = forged
    raw = project(state, replace(state.head))
    path = site.layout.manifests / site.layout.manifest_files()[2]
    path.chmod(0o644)
    path.write_bytes(raw)
    with FlightCache.open(site.cache, trusted_keys=ALLOW_UNSIGNED) as cache:
        with pytest.raises(NoGoError, match=reason):
            cache.verify()
        with pytest.raises(NoGoError, match=reason):
            cache.descriptor_index()


def test_repair_goes_by_the_delta_where_old_blocks_are_damaged(site):
    build_two(site)
    index, artifacts = site.state().head_build.index, Artifacts(site.layout)
    now = {row.ref for row in decode_blocks(artifacts.read(index.blocks))}
    old = decode_blocks(artifacts.read(site.events(IndexBuilt)[0].blocks))
    flip(site.artifact(next(row.ref for row in old if row.ref not in now)))
    flip(site.artifact(index.base))
    site.provisioner().repair()
    assert artifacts.damage(index.base) is None
    require_found(site)


def test_a_cell_that_was_added_and_one_that_was_removed(site):
    """Their blocks exist only before or only after the change, for the delta and for its repair."""
    site.tiles[ZOOM, 60, 60] = words("to go")
    build(site, 1)
    del site.tiles[ZOOM, 60, 60]
    site.tiles[ZOOM, 60, 20] = words("to come")
    build(site, 2)
    index, artifacts = site.state().head_build.index, Artifacts(site.layout)
    assert (index.added, index.dropped) == (1, 1)
    for ref in (index.base, index.artifact):
        flip(site.artifact(ref))
        site.provisioner().repair()
        assert artifacts.damage(ref) is None
    require_found(site, gone=[(ZOOM, 60, 60)])


def test_added_rows_do_not_make_up_for_others(site, monkeypatch):
    """Each sample needs the required recall: here no sampled row of the base is found."""
    build(site, 1)
    change(site)
    # What is found of base and added rows: by the extended index, then by the one that is written anew.
    answers = iter([0.0, 1.0, 1.0, 1.0])
    monkeypatch.setattr(checks, "recall", lambda *_: next(answers))
    build(site, 2)
    (failed,) = site.events(CheckFailed)
    assert "sampled tiles find themselves" in failed.why
    assert isinstance(site.state().head_build.index, IndexBuilt)


def test_space_is_looked_for_as_for_a_new_index_where_the_delta_may_not_hold_all(site, monkeypatch):
    seen, real = {}, disk_space.estimate

    def noted(inputs, *given):
        seen[inputs.request.flight_id] = real(inputs, *given).index
        return real(inputs, *given)

    monkeypatch.setattr(disk_space, "estimate", noted)
    build(site, 1)
    for number, column in ((2, 0), (3, 16)):
        site.tiles[ZOOM, column, 0] = words("changed")
        build(site, number)
    first, second, third = seen.values()
    assert len(site.events(IndexExtended)) == 2
    assert second < first
    # Earlier changes count as well: together with them, all tiles of another cell are too many.
    assert third == first


def test_a_graph_leaves_few_rows_out(site, monkeypatch):
    monkeypatch.setattr("pipeline.index.plan.MAX_LEFT_OUT_OF_GRAPH", 1)
    build_two(site)
    assert site.events(IndexExtended) == []
    require_found(site)
