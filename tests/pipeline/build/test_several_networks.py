"""Builds with several descriptor networks: each has its own blocks, and the index has all of them side by side."""

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from pipeline.build.report import BuildOutcome
from pipeline.errors import ErrorKind
from pipeline.request.options import IndexKind, IndexOptions, ModelRole, ModelSpec
from pipeline.testing import FakeBatcher, fake_vector
from store.base.identity import joined_space
from store.disk.artifacts import Artifacts
from store.domain.events import CellEmbedded, CheckFailed
from store.domain.maintenance_events import Repaired
from store.formats.joined_blocks import read_block
from store.formats.tables import decode_blocks
from store.manifest.manifest import parse
from store.policy.retention import KeepPolicy
from store.reader import ALLOW_UNSIGNED, FlightCache
from store.testing import FakeClock
from store.transfer.export import export
from store.transfer.import_bundle import import_bundle
from store.verify.report import Depth
from store.verify.verify import verify
from tests.small_builds import DIMENSIONS, FakeSite, tiny_network
from tools.cli import cli

pytestmark = pytest.mark.deep


def model(name, **options):
    return ModelSpec(name=name, role=ModelRole.DESCRIPTOR, **({"onnx": f"{name}.onnx"} | options))


class OwnVectors(FakeBatcher):
    """Gives each engine vectors of its own: those of the fake with other signs."""

    def embed(self, windows, *, engine, **arguments):
        for result in super().embed(windows, engine=engine, **arguments):
            yield replace(result, vectors=result.vectors * signs(engine.sha256))


def signs(sha256):
    return np.random.default_rng(int(sha256[:8], 16)).choice(np.array([-1, 1], np.float32), DIMENSIONS)


class Networks(FakeSite):
    """A site whose requests name networks, each with weights of its own."""

    def __init__(self, root, **options):
        super().__init__(root, **options)
        self.batcher = OwnVectors(calls=self.calls)
        for seed, name in enumerate("abc"):
            self.write(f"{name}.onnx", tiny_network(seed=seed))

    def made(self, *models, **fields):
        report = self.provisioner().build_cache_artifacts(self.request(models=models, **fields))
        assert report.error is None, report.error
        return report

    def work(self):
        found = [name for name in self.calls.made if not name.startswith("window")]
        self.calls.made.clear()
        return found

    def body(self):
        return json.loads(self.head_bytes())["body"]

    def manifest(self):
        return parse(self.head_bytes())

    def rows(self):
        """The joined blocks of the head."""
        artifacts = Artifacts(self.layout)
        table = decode_blocks(artifacts.read(self.state().head_build.index.blocks))
        return table, [read_block(row, artifacts.read) for row in table]


@pytest.fixture
def site(quick_path):
    return Networks(quick_path)


def test_the_index_holds_both_side_by_side(site):
    report = site.made(model("b", weight=2.0), model("a"))
    assert (report.tiles_embedded, report.engines_compiled) == (80, 2)
    assert site.work() == ["compile a", "compile b", "embed", "embed", "index"]
    manifest, (table, blocks) = site.manifest(), site.rows()
    assert json.loads(manifest.raw)["format"] == 3
    assert (manifest.index.dimensions, manifest.index.rows) == (2 * DIMENSIONS, 40)
    assert [engine.model for engine in manifest.descriptor_engines] == ["a", "b"]
    assert manifest.weights == (1_000_000, 2_000_000)
    assert "embedded_by" not in site.body()["index"]
    spaces = [each["vector_space"] for each in site.body()["descriptors"]]
    assert site.body()["vector_space"] == joined_space(list(zip(spaces, manifest.weights, strict=True)))
    assert [row.weights for row in table] == [manifest.weights] * 16
    signed = [signs(engine.artifact.sha256) for engine in manifest.descriptor_engines]
    for block in blocks:
        np.testing.assert_allclose(np.linalg.norm(block.vectors, axis=1), 1, atol=1e-6)
        for digest, vector in zip(block.digests, block.vectors, strict=True):
            unit = fake_vector(bytes(digest).hex(), DIMENSIONS)
            both = np.concatenate([unit * signed[0], 2 * unit * signed[1]])
            np.testing.assert_allclose(vector, both / 5**0.5, atol=1e-6)
    assert verify(site.layout, depth=Depth.FULL).problems == ()


def test_adding_one_embeds_with_that_one_alone(site):
    site.made(model("a"))
    alone = site.body()
    site.work()
    report = site.made(model("a"), model("b"))
    assert (report.tiles_embedded, report.engines_compiled) == (40, 1)
    assert site.work() == ["compile b", "embed", "index"]
    assert len({event.space for event in site.events(CellEmbedded)}) == 2
    report = site.made(model("a"))
    assert (report.outcome, report.tiles_embedded, site.work()) == (BuildOutcome.BUILT, 0, [])
    assert site.body() == alone, "removing one gives what was there before, byte for byte"
    report = site.made(model("b"))
    assert (report.tiles_embedded, site.work()) == (0, ["index"])


def test_a_plan_says_whether_the_index_is_made_anew(site):
    def planned(*models, **fields):
        plan = site.provisioner().plan(site.request(models=models, **fields))
        (step,) = [step for step in plan.steps if step["kind"] == "index"]
        site.work()
        made = site.made(*models, **fields)
        assert (step["decision"] == "run") == ("index" in site.work()), step
        assert made.outcome is BuildOutcome.BUILT
        return step["decision"], step["why"]

    changed = ("run", "its networks or their weights changed")
    assert planned(model("a")) == ("run", "cells change")
    assert planned(model("a"), flight_id="f2") == ("reuse", "same blocks")
    assert planned(model("a"), model("b")) == ("run", "cells change")
    assert planned(model("a"), model("b", weight=0.5)) == changed
    assert planned(model("b")) == changed
    assert planned(model("a"), model("b"), flight_id="f3") == ("reuse", "same blocks")
    west = site.request().bbox
    half = (west[0], west[1], 0.0, west[3])
    assert planned(model("a"), model("b"), bbox=half) == ("run", "its cells are others")


def test_another_weight_embeds_nothing_and_writes_the_index_again(site):
    one = site.made(model("a"), model("b"))
    site.work()
    two = site.made(model("a"), model("b", weight=0.5))
    assert one.identity != two.identity
    assert (two.tiles_embedded, site.work()) == (0, ["index"])
    assert "weight_ppm" not in site.body()["inputs"]["models"][0]
    assert site.body()["inputs"]["models"][1]["weight_ppm"] == 500_000
    shown = CliRunner().invoke(cli, ["status", "--cache", str(site.cache)]).stdout
    assert "dimensions of a (weight 1) and b (weight 0.5)" in " ".join(shown.split())
    assert site.made(model("b", weight=0.5), model("a")).outcome is BuildOutcome.REUSED


def test_a_changed_tile_goes_through_each_network_once(site):
    site.made(model("a"), model("b"))
    site.work()
    site.tiles[6, 0, 0] = b"another"
    assert site.provisioner().plan(site.request(models=(model("a"), model("b")))).to_embed == 2
    assert site.made(model("a"), model("b")).tiles_embedded == 2


def test_the_plan_names_the_networks(site):
    site.made(model("a"))
    report = site.provisioner().plan(site.request(models=(model("a"), model("b"))))
    cells = {
        (step["subject"], step["decision"], step["why"]) for step in report.steps if step["kind"] == "cells"
    }
    assert cells == {("a", "reuse", "same tiles"), ("b", "run", "new vector space")}
    assert report.to_embed == 40


def test_what_one_network_skips_has_no_row(site):
    site.made(model("a"), tiles={"on_bad": "skip"})
    site.batcher.bad = dict.fromkeys(site.batcher.embedded[:3], (ErrorKind.BAD_TILE, "no picture"))
    report = site.made(model("a"), model("b"), tiles={"on_bad": "skip"})
    assert report.tiles_embedded == 37
    table, blocks = site.rows()
    assert sum(row.rows for row in table) == 37
    assert [row.rows for row in table] == [block.rows for block in blocks]
    assert site.manifest().index.rows == 37
    assert verify(site.layout, depth=Depth.FULL).problems == ()


def test_two_names_of_one_network_share_blocks(site):
    report = site.made(model("a"), model("b", onnx="a.onnx"))
    assert (report.tiles_embedded, site.manifest().index.dimensions) == (40, 2 * DIMENSIONS)
    assert verify(site.layout, depth=Depth.FULL).problems == ()


@pytest.mark.parametrize("kind", [IndexKind.FLAT, IndexKind.HNSW])
def test_every_kind_of_index_is_of_all_networks(site, kind):
    site.made(model("a"), model("b"), model("c", weight=3.0), index=IndexOptions(kind=kind))
    _, blocks = site.rows()
    with FlightCache.open(site.cache, trusted_keys=ALLOW_UNSIGNED) as cache:
        cache.verify()
        _, ids = cache.descriptor_index().search(blocks[0].vectors, 1)
        assert cache.load_all().engines.keys() == {"a", "b", "c"}
    assert ids[:, 0].tolist() == blocks[0].ids.tolist()


@pytest.mark.parametrize("name", ["a", "b"])
def test_one_engine_that_disagrees_fails_the_build(site, name):
    site.compiler.instead[name] = site.write("other.onnx", tiny_network(seed=7))
    report = site.provisioner().build_cache_artifacts(site.request(models=(model("a"), model("b"))))
    assert (report.error.kind, report.error.subject) == (ErrorKind.CHECK_FAILED, name)
    assert [event.subject for event in site.events(CheckFailed)] == [name]


def test_vectors_of_one_network_that_are_no_unit_vectors_fail_the_build(site):
    site.made(model("a"))
    site.batcher.spoil = lambda vectors: 2 * vectors
    report = site.provisioner().build_cache_artifacts(site.request(models=(model("a"), model("b"))))
    assert report.error.kind == ErrorKind.BAD_VECTORS
    (failed,) = [build.failure for build in site.state().builds.values() if build.failure]
    assert failed.inputs["engine"]["model"] == failed.inputs["network"]["model"] == "b"


@pytest.mark.parametrize("role", ["block of a", "block of b", "block table", "index"])
def test_what_is_damaged_is_made_again(site, role):
    site.made(model("a"), model("b", weight=2.0))
    before, (table, _) = site.head_bytes(), site.rows()
    index = site.state().head_build.index
    ref = {
        "block of a": table[0].refs[0],
        "block of b": table[0].refs[1],
        "block table": index.blocks,
        "index": index.artifact,
    }[role]
    site.artifact(ref).chmod(0o644)
    site.artifact(ref).write_bytes(b"x" * ref.size)
    assert verify(site.layout, depth=Depth.FULL).problems != ()
    site.work()
    report = site.provisioner().repair()
    assert all(action.ok for action in report.actions), report.actions
    assert {event.sha256 for event in site.events(Repaired)} == {ref.sha256}
    assert (site.head_bytes(), verify(site.layout, depth=Depth.FULL).problems) == (before, ())


def test_a_rollback_comes_back_to_both(site):
    site.made(model("a"), model("b"))
    both = site.body()
    site.made(model("b"))
    site.provisioner().rollback(why="a was better")
    assert site.body() == both
    assert verify(site.layout, depth=Depth.FULL).problems == ()


def test_collection_keeps_the_blocks_of_both(site):
    site.made(model("a"), model("b"))
    site.made(model("b"))
    site.made(model("a"), model("b"), flight_id="f2")
    site.provisioner().collect(KeepPolicy(keep=1), dry_run=False)
    assert verify(site.layout, depth=Depth.FULL).problems == ()
    site.work()
    assert site.made(model("a"), model("b"), flight_id="f3").tiles_embedded == 0


def test_a_bundle_brings_the_blocks_of_both(site, quick_path):
    site.made(model("a"), model("b"))
    bundle = export(site.layout, quick_path / "x.bundle").path
    second = Networks(quick_path / "second")
    import_bundle(second.layout, bundle, clock=FakeClock(), host={}, follows=True)
    assert second.head_bytes() == site.head_bytes()
    assert verify(second.layout, depth=Depth.FULL).problems == ()
    assert second.made(model("a"), model("b"), flight_id="f2").tiles_embedded == 0


def run(site, *words):
    found = CliRunner().invoke(cli, [*words, "--cache", str(site.cache)])
    assert found.exit_code == 0, found.output
    return found.stdout


def test_why_names_the_network_of_each_block(site):
    site.made(model("a"))
    site.made(model("a"), model("b"))
    site.tiles[6, 0, 0] = b"another"
    site.made(model("a"), model("b"))
    lines = [line for line in run(site, "why", "cells/6/0/0").splitlines() if line.startswith("cell 6/0/0")]
    told = [(line.partition(" of ")[2][:1], line[line.rindex("(") :]) for line in lines]
    assert told == [
        ("a", "(first time)"),
        ("b", "(first time)"),
        ("a", "(changed: tiles)"),
        ("b", "(changed: tiles)"),
    ]


def test_a_descriptor_is_followed_back_through_both_networks(site):
    site.made(model("a"), model("b"))
    document = json.loads(run(site, "why", "6/0/0/0", "--json"))
    links = document["chain"]
    table, _ = site.rows()
    assert [link["sha256"] for link in links if link["what"] == "block"] == [
        ref.sha256 for ref in table[0].refs
    ]
    assert [link["name"] for link in links if link["what"] == "engine"] == ["a", "b"]
    assert [link["name"] for link in links if link["what"] == "network"] == ["a", "b"]


def test_a_replay_shows_cells_as_reused_where_both_networks_have_them(site):
    site.made(model("a"))
    site.made(model("a"), model("b"))
    site.made(model("a"), model("b"), flight_id="f2")
    for build, status in ((2, "embedded"), (3, "reused")):
        document = json.loads(run(site, "replay", str(build), "--json"))
        assert {cell[4] for cell in document["area"]["cells"]} == {status}
        keys = [key["subject"] for key in document["keys"] if key["kind"] == "cells"]
        assert keys == ["a", "b"]


def test_an_index_that_failed_its_check_is_checked_again_with_the_blocks_of_both(site):
    site.indexer.wrong = True
    report = site.provisioner().build_cache_artifacts(site.request(models=(model("a"), model("b"))))
    assert report.error.subject == "index"
    found = CliRunner().invoke(cli, ["replay", "--rerun", "--json", "--cache", str(site.cache)])
    rerun = json.loads(found.stdout)["rerun"]
    assert rerun["verdict"] == "reproduced"
    assert all(each["same"] for each in rerun["compared"])
