"""Plans made from the states of earlier builds."""

from dataclasses import replace
from datetime import date
from hashlib import sha256

import pytest

from pipeline.planning.plan import Decision, make_plan, reusable_artifacts
from pipeline.planning.resolve_inputs import resolve_inputs
from pipeline.testing import FakeTiles
from store.disk.artifacts import Artifacts
from store.domain.state import State
from store.verify.coverage import sizes
from tests.small_builds import ZOOM, tiny_network


def inputs(site, **fields):
    return resolve_inputs(
        site.request(**fields),
        source=FakeTiles(tiles=site.tiles),
        compiler=site.compiler,
        index=site.indexer,
        today=date(2026, 3, 1),
    )


def planned(site, *, lost=(), grown=(), **fields):
    """Plan a request on the cache, with some artifacts missing or of another size."""
    state, wanted = site.state(), inputs(site, **fields)
    present = sizes(Artifacts(site.layout), reusable_artifacts(state, wanted))
    present = {name: size + (name in grown) for name, size in present.items() if name not in lost}
    return make_plan(state, wanted, present)


def decisions(found):
    engines = [(each.decision, each.why) for each in found.engines]
    cells = {(each.decision, each.why) for each in found.cells}
    return engines, cells


@pytest.fixture
def built(site):
    site.build()
    return site


def test_nothing_is_known_at_first(site):
    found = make_plan(State(), inputs(site), {})
    engines, cells = decisions(found)
    assert engines == [(Decision.RUN, "never compiled in this cache")]
    assert cells == {(Decision.RUN, "new cell")}
    assert len(found.stale) == len(found.cells) == 16
    assert reusable_artifacts(State(), inputs(site)) == ()


def test_everything_is_reused(built):
    found = planned(built, flight_id="f2")
    assert decisions(found) == ([(Decision.REUSE, "same key, checked")], {(Decision.REUSE, "same tiles")})
    assert found.stale == ()
    assert found.engines[0].checked
    assert [step["decision"] for step in found.summary()] == ["reuse"] * 3


def test_an_engine_whose_check_is_still_to_run_is_reused_and_not_trusted(built):
    """A pass counts for the same bytes only; a build that died may leave an engine without a check."""
    state, wanted = built.state(), inputs(built)
    present = sizes(Artifacts(built.layout), reusable_artifacts(state, wanted))
    (engine,) = state.step_cache.engines.values()
    of_others = replace(state.step_cache.passed["engine", engine.key], artifact="ab" * 32)
    for passed in ({}, {("engine", engine.key): of_others}):
        steps = replace(state.step_cache, passed=passed)
        (found,) = make_plan(replace(state, step_cache=steps), wanted, present).engines
        assert (found.decision, found.checked) == (Decision.REUSE, False)
        assert found.why == "same key, its check is still to run"


def test_the_plan_does_not_depend_on_the_order_of_things(built):
    turned = dict(reversed(built.tiles.items()))
    assert turned != list(built.tiles)
    one = planned(built)
    built.tiles = turned
    assert planned(built) == one


def test_a_changed_tile_makes_its_cell_stale_alone(built):
    built.tiles[ZOOM, 8, 12] = b"other"
    found = planned(built)
    (stale,) = found.stale
    assert (stale.why, stale.cell.key) == ("its tiles changed", (ZOOM, 0, 0))
    assert stale.known is not None
    assert [step["count"] for step in found.summary() if step["kind"] == "cells"] == [15, 1]


def test_a_removed_tile_makes_its_cell_stale(built):
    del built.tiles[ZOOM, 8, 12]
    assert [each.why for each in planned(built).stale] == ["its tiles changed"]


def test_a_new_cell_is_new(built):
    built.tiles[ZOOM - 1, 0, 0] = b"other"
    assert [each.why for each in planned(built, zoom=(ZOOM - 1, ZOOM)).stale] == ["new cell"]


@pytest.mark.parametrize("harm", ["lost", "grown"])
def test_what_is_missing_or_of_another_size_runs(built, harm):
    (engine,) = {each.known.artifact.sha256 for each in planned(built).engines}
    block = planned(built).cells[3].known.block.sha256
    found = planned(built, **{harm: {engine, block}})
    engines, _ = decisions(found)
    assert engines == [(Decision.RUN, "its artifact is missing or damaged")]
    assert not found.engines[0].checked
    (stale,) = found.stale
    assert (stale.why, stale.known) == ("its block is missing or damaged", None)
    assert stale == found.cells[3]


def test_another_network_says_which_component_changed(built):
    built.write("net.onnx", tiny_network(seed=1))
    engines, cells = decisions(planned(built))
    assert engines == [(Decision.RUN, "changed: onnx")]
    assert cells == {(Decision.RUN, "new vector space")}


def test_skipped_tiles_will_do_only_where_they_may_be_skipped(site):
    site.tiles[ZOOM, 8, 12] = b"bad"
    site.batcher.bad[sha256(b"bad").hexdigest()] = ("bad-tile", "expected a picture, found none")
    site.build(tiles={"on_bad": "skip"})
    assert planned(site, tiles={"on_bad": "skip"}).stale == ()
    (stale,) = planned(site).stale
    assert stale.why == "tiles were skipped before, and must not be now"
    assert stale.known is not None


def test_needed_names_what_the_plan_looks_at(built):
    state, wanted = built.state(), inputs(built)
    refs = {ref.sha256 for ref in reusable_artifacts(state, wanted)}
    blocks = {event.block.sha256 for event in built.blocks().values()}
    engine = state.head_build.engines[0][1].artifact.sha256
    index = state.head_build.index
    assert refs == blocks | {engine, index.artifact.sha256, index.blocks.sha256}


def test_summary_counts_every_cell(built):
    built.tiles[ZOOM, 8, 12] = b"other"
    built.tiles[ZOOM - 1, 0, 0] = b"more"
    summary = planned(built, zoom=(ZOOM - 1, ZOOM)).summary()
    assert sum(step["count"] for step in summary if step["kind"] == "cells") == 17
    assert {(step["kind"], step["decision"]) for step in summary} == {
        ("engine", "reuse"),
        ("cells", "reuse"),
        ("cells", "run"),
        ("index", "run"),
    }
