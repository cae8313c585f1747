"""Whole builds with the real parts: ONNX Runtime, worker processes, FAISS, tile archives."""

import io
import json
import time
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pmtiles.tile import TileType

from pipeline.build.report import BuildOutcome
from pipeline.request.options import (
    CheckOptions,
    CoverageOptions,
    EngineOptions,
    IndexOptions,
    ModelRole,
    ModelSpec,
)
from pipeline.stages.engines import check_engine
from pipeline.testing import Calls, FakeCompiler, RecordingProgress
from pipeline.tiles.images.decode import decode
from store.base.canonical_json import decode as canonical_decode
from store.base.identity import descriptor_id
from store.domain.events import BuildFailed, CheckFailed, CheckPassed, EngineCompiled
from store.reader import ALLOW_UNSIGNED, FlightCache
from store.verify.verify import Depth, verify
from tests.small_builds import DIMENSIONS, ZOOM, Site, picture, plain, spread, tiny_network


@pytest.fixture
def built(real_site):
    real_site.write_tiles(spread())
    report = real_site.build()
    assert report.outcome is BuildOutcome.BUILT, report.error
    return real_site


def children():
    """Return the child processes of this one."""
    found = set()
    for path in Path("/proc/self/task").glob("*/children"):
        found.update(path.read_text().split())
    return found


def test_the_cache_finds_every_tile(built):
    with FlightCache.open(built.cache, trusted_keys=ALLOW_UNSIGNED) as cache:
        cache.verify()
        engine, index, contract = cache.engine("place"), cache.descriptor_index(), cache.preprocessing
        assert (index.kind, index.ntotal, index.dimensions) == ("flat", 40, 16)
        assert cache.calibration() == {"focal": 35}
        for (z, x, y), content in spread().items():
            vector = engine.run(contract.apply(decode(content))[None])
            scores, ids = index.search(vector, 1)
            assert ids[0, 0] == descriptor_id(z, x, y)
            assert scores[0, 0] > 0.9999
            assert cache.tile(int(ids[0, 0]))[3] == sha256(content).hexdigest()
    assert verify(built.layout, depth=Depth.FULL).problems == ()


@pytest.mark.usefixtures("real_workers")
def test_the_same_tiles_are_the_same_set_in_every_kind_of_archive(tmp_path, archives):
    tiles, found = spread(4, 3), {}
    for kind in ("xyz", "mbtiles", "pmtiles"):
        site = Site(tmp_path / kind)
        match kind:
            case "xyz":
                site.write_tiles(tiles)
                source = "tiles/{z}/{x}/{y}.png"
            case "mbtiles":
                source = archives.write_mbtiles(site.root / "t.mbtiles", tiles)
            case "pmtiles":
                source = archives.write_pmtiles(site.root / "t.pmtiles", tiles)
        report = site.build(source=source)
        assert report.outcome is BuildOutcome.BUILT, report.error
        build = site.state().head_build
        found[kind] = (report.identity, report.body_sha256, build.tiles.digest, build.index.artifact)
        assert sorted(path.name for path in site.root.iterdir() if "-" in path.name) == []
    assert len(set(found.values())) == 1


@pytest.mark.usefixtures("real_workers")
def test_workers_share_a_build_and_change_nothing_of_it(built, tmp_path):
    other = Site(tmp_path / "other")
    other.write_tiles(spread())
    report = other.provisioner(workers=2).build_cache_artifacts(other.request())
    assert report.error is None, report.error
    bodies = [json.loads(each.head_bytes())["body"] for each in (built, other)]
    assert bodies[0] == bodies[1]


def test_a_moved_site_is_up_to_date(built, tmp_path):
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("cache", "tiles", "net.onnx", "camera.json"):
        (built.root / name).replace(moved / name)
    report = Site(moved).build()
    assert (report.outcome, report.writes) == (BuildOutcome.REUSED, 0)


@pytest.mark.usefixtures("real_workers")
def test_two_models_jpeg_tiles_and_a_graph(real_site):
    real_site.write_tiles(spread(content=lambda seed: picture(seed, "jpeg")), extension="jpg")
    real_site.write("helper.onnx", tiny_network(seed=4))
    models = (
        ModelSpec(name="place", role=ModelRole.DESCRIPTOR, onnx="net.onnx"),
        ModelSpec(name="helper", role=ModelRole.AUXILIARY, onnx="helper.onnx"),
    )
    report = real_site.build(
        source="tiles/{z}/{x}/{y}.jpg", models=models, index=IndexOptions(kind="hnsw", storage="fp16")
    )
    assert report.outcome is BuildOutcome.BUILT, report.error
    assert report.engines_compiled == 2
    with FlightCache.open(real_site.cache, trusted_keys=ALLOW_UNSIGNED) as cache:
        assert len(cache.engine_bytes("helper")) > 1000
        assert cache.descriptor_index().kind == "hnsw"


def test_a_recompiled_engine_of_the_same_vectors_keeps_the_blocks(built):
    (engine,) = built.events(EngineCompiled)
    built.artifact(engine.artifact).unlink()
    report = built.build()
    assert (report.outcome, report.engines_compiled, report.tiles_embedded) == (BuildOutcome.BUILT, 1, 0)


def test_other_bytes_of_the_same_engine_are_held_against_the_vectors(built):
    """The engine of another compiler run: other bytes, first with the same and then with other vectors."""

    def again(**fakes):
        (known,) = dict.fromkeys(event.artifact.sha256 for event in built.events(EngineCompiled)[-1:])
        built.layout.artifact(known).unlink()
        compiler = FakeCompiler(calls=Calls(), **fakes)
        provisioner = built.provisioner(engine_compiler=compiler)
        return provisioner.build_cache_artifacts(built.request(checks=CheckOptions(parity=0.5)))

    same = again(edition="second")
    assert (same.outcome, same.tiles_embedded) == (BuildOutcome.BUILT, 0)
    assert [event.check for event in built.events(CheckPassed)][-1] == "vectors"
    other = again(instead={"place": built.write("other.onnx", tiny_network(drift=0.1))})
    assert (other.outcome, other.tiles_embedded) == (BuildOutcome.BUILT, 40)
    assert [event.check for event in built.events(CheckFailed)] == ["vectors"]


@pytest.mark.usefixtures("real_workers")
def test_a_tile_that_changes_under_the_build(real_site):
    real_site.write_tiles(spread())
    changed = picture(99)
    progress = RecordingProgress()

    def change(step):
        if step == "embed":
            real_site.write("tiles/6/8/12.png", changed)

    progress.on_start = change
    report = real_site.provisioner(progress=progress).build_cache_artifacts(real_site.request())
    assert report.outcome is BuildOutcome.FAILED
    assert (report.error.step, report.error.kind, report.error.subject) == (
        "cells",
        "source-changed",
        "6/8/12",
    )
    for part in ("6/8/12", sha256(spread()[ZOOM, 8, 12]).hexdigest(), sha256(changed).hexdigest()):
        assert part in report.error.message
    assert real_site.state().head is None
    del report
    assert real_site.build().outcome is BuildOutcome.BUILT


@pytest.mark.usefixtures("real_workers")
def test_damaged_tiles_fail_or_are_skipped(real_site):
    tiles = spread()
    tiles[ZOOM, 8, 12] = tiles[ZOOM, 8, 12][:60]
    tiles[ZOOM, 16, 12] = b"not a picture"
    real_site.write_tiles(tiles)
    failed = real_site.build()
    assert (failed.error.kind, failed.error.step) == ("bad-tile", "cells")
    assert failed.error.subject == "6/8/12"
    assert failed.error.message.endswith("; bad are 2 tiles, also 6/16/12")
    progress = RecordingProgress()
    request = real_site.request(tiles={"on_bad": "skip"})
    report = real_site.provisioner(progress=progress).build_cache_artifacts(request)
    assert (report.outcome, report.tiles) == (BuildOutcome.BUILT, 40)
    assert len(progress.said) == 2
    build = real_site.state().head_build
    assert (build.index.rows, build.coverage.skipped) == (38, 2)
    document = canonical_decode(real_site.artifact(build.coverage.geography).read_bytes())
    assert document["skipped"] == [[ZOOM, 12, 8, 8], [ZOOM, 12, 16, 16]]
    # That they were skipped once does not make them acceptable later.
    assert real_site.build(tiles={"on_bad": "fail"}).error.kind == "bad-tile"


def test_a_network_without_normalisation(real_site):
    real_site.write_tiles(spread(2, 2))
    real_site.write("net.onnx", tiny_network(unit=False))
    report = real_site.build()
    assert (report.error.kind, report.error.step) == ("bad-vectors", "engine")
    assert "normalisation" in report.error.hint
    assert not real_site.events(EngineCompiled)


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_a_network_that_answers_the_same_for_all_tiles(real_site, kind):
    real_site.write_tiles(spread(2, 2))
    real_site.write("net.onnx", tiny_network(bias=1e6))
    report = real_site.build(index=IndexOptions(kind=kind))
    assert report.error.message.endswith("one answer for all tiles, as 4 sampled tiles show")
    assert "mean" in report.error.hint
    assert "index." not in report.error.hint


def test_a_black_tile_has_no_direction(real_site):
    real_site.write_tiles(spread(2, 2) | {(ZOOM, 1, 1): plain(0)})
    report = real_site.build()
    assert (report.error.kind, report.error.subject) == ("bad-vectors", "6/1/1")
    assert "skip" in report.error.hint
    assert real_site.build(tiles={"on_bad": "skip"}).outcome is BuildOutcome.BUILT
    assert real_site.state().head_build.coverage.skipped == 1


def test_an_engine_that_errs_on_tiles_alone(real_site, monkeypatch):
    """Golden images are smooth; noise has pixels of 255."""

    class Saturating:
        dimensions = DIMENSIONS

        def __init__(self, engine):
            self.engine = engine

        def run(self, samples):
            return self.engine.run(samples) + (samples.max(axis=(1, 2, 3)) == 255)[:, None]

    loaded = check_engine.load
    monkeypatch.setattr(check_engine, "load", lambda *given: Saturating(loaded(*given)))
    real_site.write_tiles(spread(2, 2) | {(ZOOM, 1, 1): b"no picture", (ZOOM, 2, 1): plain(0)})
    report = real_site.build(tiles={"on_bad": "skip"})
    assert (report.error.kind, report.error.step) == ("check-failed", "check")
    assert "on tiles of this build" in report.error.message
    (failed,) = real_site.events(CheckFailed)
    assert failed.measured["cosine_ppb"] > 999_999_000
    assert failed.measured["tiles"] == 4


@pytest.mark.usefixtures("real_workers")
def test_no_worker_outlives_a_failed_build(real_site):
    real_site.write_tiles(spread(2, 2) | {(ZOOM, 1, 1): plain(0)})
    before = children()
    report = real_site.provisioner(workers=2).build_cache_artifacts(real_site.request())
    assert report.outcome is BuildOutcome.FAILED
    assert children() <= before


def test_plain_tiles_are_featureless_and_not_localisable(real_site):
    real_site.write_tiles(spread(2, 2) | {(ZOOM, 1, 1): plain(70), (ZOOM, 2, 1): plain(70)})
    report = real_site.build()
    assert (report.outcome, report.tiles_embedded) == (BuildOutcome.BUILT, 5)
    coverage = real_site.state().head_build.coverage
    assert (coverage.present, coverage.featureless) == (6, 2)


def encoded(pixels, encoding="png", **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, encoding, **options)
    return buffer.getvalue()


def ground(seed, side=64, transparent=0.0):
    """A tile with an alpha channel, of which a strip at the left is transparent."""
    noise = np.random.default_rng(seed).integers(0, 256, (side // 4, side // 4, 4), np.uint8)
    pixels = np.array(Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC))
    pixels[..., 3] = 255
    pixels[:, : round(side * transparent), 3] = 0
    return pixels


def test_tiles_that_cannot_be_told_apart_are_not_covered(real_site):
    placeholder = ground(0)
    again = encoded(placeholder[..., :3])
    assert again != encoded(placeholder)
    tiles = {(ZOOM, 1, y): encoded(ground(1 + y)) for y in range(4)}
    tiles |= {(ZOOM, 2, 0): encoded(placeholder), (ZOOM, 2, 1): encoded(placeholder), (ZOOM, 2, 2): again}
    tiles |= {
        (ZOOM, 3, y): encoded(ground(9 + y, transparent=part)) for y, part in enumerate((0.2, 0.3, 0.9))
    }
    real_site.write_tiles(tiles)
    report = real_site.build()
    assert report.outcome is BuildOutcome.BUILT
    assert any("5 tiles are featureless" in each.message for each in report.warnings), report.warnings
    coverage = real_site.state().head_build.coverage
    assert (coverage.present, coverage.featureless) == (10, 5)
    document = canonical_decode(real_site.artifact(coverage.geography).read_bytes())
    assert document["featureless"] == [[6, 0, 2, 2], [6, 1, 2, 3], [6, 2, 2, 3]]


def test_a_placeholder_of_different_quality_is_one_picture(real_site):
    placeholder = ground(0)[..., :3]
    tiles = {(ZOOM, 1, y): encoded(ground(1 + y)) for y in range(8)}
    tiles |= {(ZOOM, 2, y): encoded(placeholder, "jpeg", quality=80 + 2 * y) for y in range(8)}
    assert len(set(tiles.values())) == 16
    real_site.write_tiles(tiles)
    assert real_site.build().outcome is BuildOutcome.BUILT
    coverage = real_site.state().head_build.coverage
    document = canonical_decode(real_site.artifact(coverage.geography).read_bytes())
    assert document["featureless"] == [[6, y, 2, 2] for y in range(8)]


@pytest.mark.parametrize("colour", [0, 255])
def test_tiles_with_a_wide_collar_are_featureless(real_site, colour):
    collar = [ground(seed)[..., :3] for seed in range(6)]
    for part, pixels in enumerate(collar):
        pixels[:, : 8 * part] = colour
    real_site.write_tiles({(ZOOM, 1, y): encoded(pixels) for y, pixels in enumerate(collar)})
    assert real_site.build().outcome is BuildOutcome.BUILT
    coverage = real_site.state().head_build.coverage
    document = canonical_decode(real_site.artifact(coverage.geography).read_bytes())
    assert document["featureless"] == [[6, y, 1, 1] for y in (3, 4, 5)]


@pytest.mark.parametrize(
    ("tiles", "said"),
    [
        ({(ZOOM, 1, 1): b"<html>", (ZOOM, 2, 1): b""}, "at least one tile that can be localised"),
        ({(ZOOM, 1, 1): plain(70), (ZOOM, 2, 1): plain(70)}, "at least one tile that can be localised"),
    ],
)
def test_a_build_of_nothing_fails(real_site, tiles, said):
    real_site.write_tiles(tiles)
    report = real_site.build(tiles={"on_bad": "skip"})
    assert (report.outcome, report.error.kind) == (BuildOutcome.FAILED, "coverage-too-low")
    assert said in report.error.message


def test_a_tile_that_is_not_square_is_bad(real_site):
    real_site.write_tiles(spread(2, 2) | {(ZOOM, 1, 1): encoded(ground(1)[:50])})
    assert "expected a square tile, found 64 x 50 pixels" in real_site.build().error.message


def test_tiles_that_had_to_be_skipped_are_a_share_of_all_and_not_covered(real_site):
    tiles = {(ZOOM, x, 1): f"<html>{x}".encode() for x in range(30)} | {(ZOOM, 30, 1): encoded(ground(1))}
    real_site.write_tiles(tiles)
    progress, request = RecordingProgress(), real_site.request(tiles={"on_bad": "skip"})
    report = real_site.provisioner(progress=progress).build_cache_artifacts(request)
    assert (report.outcome, report.area.skipped) == (BuildOutcome.BUILT, 30)
    (warning,) = (each.message for each in report.warnings if each.kind == "skipped-tiles")
    assert warning.startswith(
        "30 of 31 tiles (97 %) could not be used (no image, or no descriptor) and were skipped: most of the"
    )
    said = [line for line in progress.said if line.startswith("skipped")]
    assert (len(said), said[-1]) == (21, "skipped are 30 different tiles, of which 20 are named")
    few = real_site.build(tiles={"on_bad": "skip"}, coverage=CoverageOptions(min_fraction=0.001))
    assert few.error.kind == "coverage-too-low"
    assert "30 of 31 tiles (97 %) could not be used" in few.error.message


def test_too_few_places_are_refused_by_their_reason(real_site):
    """Nothing is missing from the source, so that fetching tiles would mend nothing."""
    real_site.write_tiles({(ZOOM, x, 1): plain(70) if x < 30 else encoded(ground(x)) for x in range(64)})
    within = {"bbox": (-179.9, 84.0, 179.9, 84.1), "coverage": CoverageOptions(min_fraction=0.9)}
    error = real_site.build(**within).error
    assert "found 0.531: 30 tiles are featureless" in error.message
    assert error.hint.startswith("look at some tiles")


def test_every_bad_tile_is_named_up_to_twenty(real_site):
    real_site.write_tiles({(ZOOM, x, 1): b"<html>" for x in range(25)} | {(ZOOM, 30, 1): plain(70)})
    error = real_site.build().error
    assert "; bad are 25 tiles, also 6/1/1, 6/2/1" in error.message
    assert error.message.endswith(", 6/19/1, …")
    assert error.hint.startswith("replace the tiles")


def test_compile_failures_of_the_real_compiler_are_outcomes(real_site):
    real_site.write_tiles(spread(2, 2))
    report = real_site.build(engine=EngineOptions(batch=2))
    assert (report.outcome, report.error.step) == (BuildOutcome.FAILED, "engine")
    assert real_site.events(BuildFailed)[0].subject == "place"


@pytest.mark.parametrize("kind", ["vector", "empty", "cut", "garbage"])
@pytest.mark.parametrize("suffix", ["mbtiles", "pmtiles"])
def test_archives_that_will_not_do_are_failed_builds_or_bad_requests(real_site, archives, kind, suffix):
    path = real_site.root / f"t.{suffix}"
    tiles = {} if kind == "empty" else spread(2, 2)
    if suffix == "mbtiles":
        archives.write_mbtiles(path, tiles, encoding="pbf" if kind == "vector" else "png")
    else:
        archives.write_pmtiles(path, tiles, tile_type=TileType.MVT if kind == "vector" else TileType.PNG)
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:300])
    if kind == "garbage":
        path.write_bytes(np.random.default_rng(1).bytes(5000))
    report = real_site.build(source=path.name)
    assert (report.outcome, report.build, report.generation) == (BuildOutcome.FAILED, 1, None)
    expected = {
        "vector": {"unsupported-archive"},
        "empty": {"bad-archive"},
        "cut": {"bad-archive"},
        "garbage": {"bad-archive"},
    }[kind]
    assert report.error.kind in expected
    assert report.error.hint
    (failed,) = real_site.events(BuildFailed)
    assert (failed.kind, failed.step) == (report.error.kind, report.error.step)


def test_wall_time_is_measured(real_site):
    real_site.write_tiles(spread(1, 1))
    began = time.monotonic()
    report = real_site.build()
    assert 0 < report.seconds <= time.monotonic() - began
