"""The estimated size of a build, compared with what it writes."""

import os

import pytest

from pipeline.build.report import BuildOutcome
from pipeline.embed.batcher import LocalDescriptorBatcher
from pipeline.index.plan import IndexPlan, likely_index, plan_index
from pipeline.planning.disk_space import Estimate, free_bytes, index_bytes, require_space_for_engines
from pipeline.request.options import IndexKind, IndexOptions, Storage
from store.disk.layout import Layout
from store.domain.events import IndexBuilt
from store.errors import DiskFullError
from store.reader import ALLOW_UNSIGNED, FlightCache
from tests.small_builds import FakeSite, spread, words

GENEROUS = 3.0
"""How much too high the estimate of a small build may be; it counts a file-system block per file."""


def written(site):
    return sum(os.lstat(path).st_size for path in site.layout.artifacts.rglob("*") if path.is_file())


def asked_for(site, **fields):
    """Return how many bytes a build needs, by giving it none."""
    number = site.state().next_build if site.layout.exists() else None
    report = site.provisioner(free_bytes=lambda _: 0).build_cache_artifacts(site.request(**fields))
    assert (report.outcome, report.error.step, report.build) == (BuildOutcome.FAILED, "space", number)
    return int(report.error.message.split("expected ")[1].split(" bytes")[0].replace(",", ""))


def test_a_build_that_does_not_fit_leaves_no_trace(quick_path):
    site = FakeSite(quick_path)
    assert asked_for(site) > 0
    assert sorted(entry.name for entry in site.cache.iterdir()) == ["build.lock"]
    assert site.calls.made == []


def test_a_cache_remembers_what_did_not_fit_in_it(site):
    site.build()
    asked_for(site, flight_id="f2")
    failure = site.state().builds[2].failure
    assert (failure.step, failure.kind, site.state().builds[2].host["source"]) == (
        "space",
        "disk-full",
        "tiles/{z}/{x}/{y}.png",
    )


def test_the_estimate_is_above_what_is_written_and_not_far(quick_path):
    site = FakeSite(quick_path, spread(8, 5, content=words))
    asked_for(site)
    site.provisioner().build_cache_artifacts(site.request(flight_id="f0"))
    before, rows = written(site), 40
    site.tiles = spread(8, 5, first=1, content=words)
    wanted = asked_for(site)
    assert site.provisioner().build_cache_artifacts(site.request()).outcome is BuildOutcome.BUILT
    made = written(site) - before
    fixed, per_file = 1 << 18, 8192
    assert rows < made <= wanted
    assert wanted - fixed - 20 * per_file <= GENEROUS * made


def test_what_is_there_needs_no_space(quick_path):
    site = FakeSite(quick_path)
    cold = asked_for(site)
    assert site.provisioner().build_cache_artifacts(site.request()).outcome is BuildOutcome.BUILT
    warm = asked_for(site, flight_id="f2")
    network = (site.root / "net.onnx").stat().st_size
    assert warm < cold - 2 * network
    exactly = site.provisioner(free_bytes=lambda _: warm)
    assert exactly.build_cache_artifacts(site.request(flight_id="f2")).outcome is BuildOutcome.BUILT


def test_an_index_with_other_options_takes_space_though_no_cell_changes(quick_path):
    site = FakeSite(quick_path, spread(8, 5, content=words))
    flat, graph = IndexOptions(kind=IndexKind.FLAT), IndexOptions(kind=IndexKind.HNSW)

    def built(**fields):
        """Return what the plan says of the index; the build does that."""
        before = {event.key for event in site.events(IndexBuilt)} if site.layout.exists() else set()
        plan = site.provisioner().plan(site.request(**fields))
        (step,) = [step for step in plan.steps if step["kind"] == "index"]
        assert site.provisioner().build_cache_artifacts(site.request(**fields)).outcome is BuildOutcome.BUILT
        made = {event.key for event in site.events(IndexBuilt)} - before
        assert (step["decision"] == "run") == bool(made)
        return step["decision"], step["why"]

    built(index=flat)
    size = index_bytes(plan_index(graph, count=40, dimensions=4), rows=40, dimensions=4)
    assert asked_for(site, flight_id="f2", index=graph) >= asked_for(site, flight_id="f2", index=flat) + size
    west = site.request().bbox
    half = (west[0], west[1], 0.0, west[3])
    assert built(index=graph, bbox=half) == ("run", "its options or its library changed")
    # The index that is known of all cells is flat.
    assert built(index=graph) == ("run", "its cells are others")
    assert built(index=graph, flight_id="f3") == ("reuse", "same blocks")


def test_the_reserve_of_a_cache_to_be_is_taken_off(quick_path):
    site = FakeSite(quick_path)
    wanted = asked_for(site)
    for spare, outcome in ((0, BuildOutcome.FAILED), (1 << 20, BuildOutcome.BUILT)):
        provisioner = site.provisioner(reserve_mb=1, free_bytes=lambda _, spare=spare: wanted + spare)
        assert provisioner.build_cache_artifacts(site.request()).outcome is outcome


@pytest.mark.parametrize(
    "plan",
    [
        *(IndexPlan(kind=IndexKind.FLAT, storage=storage) for storage in Storage),
        *(IndexPlan(kind=IndexKind.HNSW, storage=storage, m=16, ef=64) for storage in Storage),
        *(
            likely_index(IndexOptions(kind=IndexKind.IVF_PQ, m=m), count=2048, dimensions=64)
            for m in (None, 8)
        ),
    ],
    ids=lambda plan: f"{plan.kind}-{plan.storage}-{plan.m}",
)
def test_an_index_takes_what_is_estimated(plan, tmp_path):
    import numpy as np

    from pipeline.index.faiss_builder import FaissIndexBuilder
    from store.base.identity import descriptor_id
    from store.formats.descriptor_block import Block

    rows, dimensions = 256 * 8, 64
    vectors = np.random.default_rng(1).standard_normal((rows, dimensions)).astype(np.float32)

    def block(number):
        part = slice(number * 256, number * 256 + 256)
        ids = np.array(
            sorted(descriptor_id(10, number * 16 + x, y) for x in range(16) for y in range(16)), np.uint64
        )
        return Block(
            zoom=10,
            cell_x=number,
            cell_y=0,
            dimensions=dimensions,
            ids=ids,
            digests=np.zeros((256, 32), np.uint8),
            texture=np.ones(256, np.float32),
            vectors=vectors[part] / np.linalg.norm(vectors[part], axis=1, keepdims=True),
        )

    path = tmp_path / "index"
    path.touch()
    blocks = [block(number) for number in range(8)]
    FaissIndexBuilder().build(blocks, rows, dimensions, plan, fd_path=str(path))
    assert 0.9 <= index_bytes(plan, rows=rows, dimensions=dimensions) / path.stat().st_size <= 1.2


def test_an_index_that_these_rows_cannot_train_is_estimated_all_the_same(quick_path):
    """Only building shows whether the options fit; the space is estimated before."""
    site = FakeSite(quick_path)
    flat, lists = (
        asked_for(site, index=IndexOptions(kind=kind)) for kind in (IndexKind.FLAT, IndexKind.IVF_PQ)
    )
    assert lists > flat


def test_free_space_is_asked_of_the_nearest_folder_that_exists(tmp_path):
    found = os.statvfs(tmp_path)
    assert free_bytes(tmp_path / "a" / "b") > 0
    assert free_bytes(tmp_path) <= found.f_blocks * found.f_frsize


def test_what_is_to_be_freed_counts_what_the_reserve_lacks(tmp_path):
    """Freeing the named bytes must be enough; without a cache there is nothing to collect."""
    with pytest.raises(DiskFullError) as caught:
        require_space_for_engines(Layout(tmp_path / "cache"), (), -100)
    assert caught.value.hint == "free 100 bytes"


def test_an_estimate_for_people():
    assert str(Estimate()) == "next to nothing"
    assert str(Estimate(engines=3 << 20, index=1 << 19)) == "engines 3.0, index 0.5 MiB"
    assert Estimate(engines=1, blocks=2, index=3, tables=4, other=5).total == 15


def test_an_unknown_length_of_descriptors_is_assumed(real_site):
    """A network file need not give the length of its descriptors."""
    real_site.write_tiles(spread(2, 2))
    assert asked_for(real_site) > 0
    report = real_site.provisioner(
        descriptor_batcher=LocalDescriptorBatcher(workers=1)
    ).build_cache_artifacts(real_site.request())
    assert report.outcome is BuildOutcome.BUILT
    with FlightCache.open(real_site.cache, trusted_keys=ALLOW_UNSIGNED) as cache:
        cache.verify()
