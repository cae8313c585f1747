"""Frames and pictures are described by every network of a cache, and the index is asked with all of it."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from pipeline.errors import ErrorKind
from pipeline.request.options import IndexKind, IndexOptions, ModelRole, ModelSpec
from store.base.joined_vectors import concatenate
from store.disk.artifacts import Artifacts
from store.formats import descriptor_block
from store.formats.joined_blocks import read_block
from store.formats.tables import decode_blocks
from store.reader import ALLOW_UNSIGNED, FlightCache
from store.runtime import ExecutionError
from tests.ground import ALTITUDE_M, GroundSite, chunk_middle, frame_at
from tests.small_builds import DIMENSIONS, Site, encoded, picture, spread, tiny_network
from tools.cli import cli
from tools.commands.query import search

X, Y = chunk_middle(9, 7)


def model(name, **options):
    return ModelSpec(name=name, role=ModelRole.DESCRIPTOR, **({"onnx": f"{name}.onnx"} | options))


def write_networks(site):
    for seed, (name, unit) in enumerate({"a": True, "b": True, "long": False}.items()):
        site.write(f"{name}.onnx", tiny_network(seed=seed, unit=unit))


def build(site, *models, **fields):
    report = site.build(models=models, **fields)
    assert report.error is None, report.error
    return report


def joined_rows(site):
    """Descriptor id to joined vector, of the head."""
    artifacts = Artifacts(site.layout)
    table = decode_blocks(artifacts.read(site.state().head_build.index.blocks))
    blocks = [read_block(row, artifacts.read) for row in table]
    return {
        int(each): vector for block in blocks for each, vector in zip(block.ids, block.vectors, strict=True)
    }


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    site = GroundSite(tmp_path_factory.mktemp("several"))
    write_networks(site)
    report = build(site, model("a"), model("b", weight=2.0))
    assert report.chunks_embedded == 2 * report.chunks
    build(site, model("a"), model("b", weight=2.0), index=IndexOptions(kind=IndexKind.IVF_PQ), flight_id="f2")
    return site


@pytest.mark.parametrize("generation", [1, 2])
def test_a_frame_is_described_by_all_networks(ground, generation):
    """The second index keeps no vectors, so that they come from the blocks of both."""
    with FlightCache.open(ground.cache, trusted_keys=ALLOW_UNSIGNED, generation=generation) as cache:
        cache.load_all()
        answer = cache.locate(frame_at(X, Y), altitude_m=ALTITUDE_M, heading_deg=0, k=5)
        locator = cache.locator()
        runs = [network.engine for network in locator.networks]
        assert [network.weight for network in locator.networks] == [1_000_000, 2_000_000]
        assert len(runs) == 2
        (table,) = locator.tables
    rows = joined_rows(ground)
    assert table.vectors.shape == (len(rows), 2 * DIMENSIONS)
    for identifier, vector in zip(table.ids.tolist(), table.vectors, strict=True):
        assert (vector == rows[identifier]).all()
    best = answer.candidates[0]
    # The frame shows this chunk from above, all of it but what is mirrored.
    scores = {each: float(vector @ rows[best.descriptor_id]) for each, vector in rows.items()}
    assert max(scores, key=scores.get) == best.descriptor_id
    assert best.score > 0.9


def test_a_network_that_has_no_answer_makes_it_no_answer(ground):
    class Silent:
        def __init__(self, engine, value):
            self.batch, self.dimensions, self.value = engine.batch, engine.dimensions, value

        def run(self, samples):
            return np.full((len(samples), self.dimensions), self.value, np.float32)

    with FlightCache.open(ground.cache, trusted_keys=ALLOW_UNSIGNED, generation=1) as cache:
        for name in "ab":
            for value in (0, np.nan):
                engines = {name: Silent(cache.engine(name), value)}
                with pytest.raises(ExecutionError, match="expected a descriptor of the frame"):
                    cache.describe(frame_at(X, Y), engines=engines)


def test_query_asks_with_all_networks(ground, tmp_path):
    image = tmp_path / "frame.png"
    image.write_bytes(encoded(frame_at(X, Y)))
    words = [
        "query",
        str(image),
        "--cache",
        str(ground.cache),
        "--altitude",
        str(ALTITUDE_M),
        "--unsigned",
        "--json",
    ]
    found = CliRunner().invoke(cli, words)
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["candidates"][0]["score"] > 0.9


def test_tiles_are_found_by_all_networks(tmp_path):
    site, tiles = Site(tmp_path), spread()
    site.write_tiles(tiles)
    write_networks(site)
    build(site, model("a"), model("long", normalise=True, weight=0.5))
    from pipeline.tiles.images.decode import decode

    pixels = decode(tiles[6, 8, 12], subject=None)
    hits = search(site.cache, pixels, top=3)
    assert (hits[0]["z"], hits[0]["x"], hits[0]["y"]) == (6, 8, 12)
    assert hits[0]["score"] == pytest.approx(1, abs=1e-5)
    with FlightCache.open(site.cache, trusted_keys=ALLOW_UNSIGNED) as cache:
        loaded = cache.load_all()
        vector = cache.describe(pixels)
        assert vector.shape == (1, 2 * DIMENSIONS)
        np.testing.assert_allclose(np.linalg.norm(vector), 1, atol=1e-6)
        raw = [loaded.engines[each.model] for each in cache.manifest.descriptor_engines]
        parts = [engine.run(cache.preprocessing.apply(pixels)[None]) for engine in raw]
        assert np.linalg.norm(parts[1]) > 2
        np.testing.assert_allclose(vector, concatenate(parts, [2, 1]), atol=1e-6)


def test_normalise_serves_a_network_that_gives_no_unit_vectors(tmp_path):
    site = Site(tmp_path)
    site.write_tiles(spread())
    write_networks(site)
    refused = site.build(models=(model("long"),))
    assert (refused.error.kind, refused.error.subject) == (ErrorKind.BAD_VECTORS, "long")
    assert "normalise = true" in refused.error.hint
    build(site, model("long", normalise=True))
    body = json.loads(site.head_bytes())
    assert body["format"] == 3
    assert body["body"]["inputs"]["models"][0]["preprocessing"]["normalise"] is True
    assert "descriptors" not in body["body"]
    artifacts = Artifacts(site.layout)
    for event in site.blocks().values():
        vectors = descriptor_block.decode(artifacts.read(event.block)).vectors
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    with FlightCache.open(site.cache, trusted_keys=ALLOW_UNSIGNED) as cache:
        vector = cache.describe(np.frombuffer(picture(1), np.uint8)[:300].reshape(10, 10, 3))
        np.testing.assert_allclose(np.linalg.norm(vector), 1, atol=1e-6)
    with_it = {space for space, *_ in site.blocks()}
    build(site, model("a", normalise=True))
    build(site, model("a"), flight_id="f2")
    # That a network ends in a normalisation is not known, so that it is another space.
    assert len({space for space, *_ in site.blocks()} - with_it) == 2
