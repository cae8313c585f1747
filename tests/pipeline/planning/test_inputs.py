"""The inputs of a build: which of them are part of the identity, and which are not."""

import dataclasses
import os
import shutil
from datetime import date

import pytest

from pipeline.errors import CompileError, RequestError
from pipeline.planning.resolve_inputs import read_calibration, resolve_inputs
from pipeline.request.options import (
    CheckOptions,
    CoverageOptions,
    EngineOptions,
    IndexOptions,
    ModelRole,
    ModelSpec,
    SectorClassification,
)
from pipeline.testing import FakeCompiler, FakeTiles
from store.base.identity import build_identity, difference
from tests.small_builds import WEST, ZOOM, FakeSite, tiny_network
from tests.toy_networks import toy_network

TODAY = date(2026, 3, 1)


def inputs(site, *, today=TODAY, held=None, **fields):
    return resolve_inputs(
        site.request(**fields),
        source=FakeTiles(tiles=site.tiles if held is None else held),
        compiler=site.compiler,
        index=site.indexer,
        today=today,
    )


def model(name, onnx="net.onnx", role=ModelRole.AUXILIARY, **options):
    return ModelSpec(name=name, role=role, onnx=onnx, **options)


PLACE = model("place", role=ModelRole.DESCRIPTOR)

ENTERS = {
    "flight": ({"flight_id": "f2"}, ["flight_id"]),
    "sector": ({"sector": SectorClassification.ACTIVE_CONFLICT}, ["sector"]),
    "box": ({"bbox": WEST}, ["bbox_e7", "tiles.digest"]),
    "box by a centimetre": ({"bbox": (-180.0, -85.0, 179.9999999, 85.0)}, ["bbox_e7"]),
    "zoom": ({"zoom": (ZOOM, ZOOM + 1)}, ["zoom"]),
    "origin": ({"origin": (0.0, 0.0000001, 100.0)}, ["origin.lat_e7"]),
    "altitude by a millimetre": ({"origin": (0.0, 0.0, 100.001)}, ["origin.altitude_mm"]),
    "calibration": ({"calibration": "other.json"}, ["calibration"]),
    "network": ({"network": "other.onnx"}, ["models"]),
    "name of a model": ({"models": (dataclasses.replace(PLACE, name="spot"),)}, ["models"]),
    "one more model": ({"models": (PLACE, model("extra"))}, ["models"]),
    "mean": ({"model": {"mean": (0.0, 0.0, 0.5)}}, ["models"]),
    "deviation": ({"model": {"std": (1.0, 1.0, 255.0)}}, ["models"]),
    "colour": ({"model": {"colour": "bgr"}}, ["models"]),
    "bad tiles": ({"tiles": {"on_bad": "skip"}}, ["tiles.on_bad"]),
    "batch": ({"engine": EngineOptions(batch=2)}, ["models"]),
    "index kind": ({"index": IndexOptions(kind="hnsw")}, ["index.graph", "index.kind"]),
    "index links": ({"index": IndexOptions(m=16)}, ["index.m"]),
    "index breadth": ({"index": IndexOptions(ef=16)}, ["index.ef"]),
    "index storage": ({"index": IndexOptions(storage="fp16")}, ["index.storage"]),
    "index lists": ({"index": IndexOptions(nprobe=3)}, ["index.nprobe"]),
    "parity": ({"checks": CheckOptions(parity=0.9)}, ["checks.parity_ppb"]),
    "recall": ({"checks": CheckOptions(recall=0.1)}, ["checks.recall_ppb"]),
    "least fraction": ({"coverage": CoverageOptions(min_fraction=0.001)}, ["checks.min_fraction_ppb"]),
}


@pytest.mark.parametrize("name", ENTERS)
def test_what_enters_the_identity(site, name):
    change, expected = ENTERS[name]
    site.write("other.json", b'{"focal": 36}')
    site.write("other.onnx", tiny_network(seed=1))
    one, other = inputs(site), inputs(site, **change)
    assert one.identity != other.identity
    assert difference(one.document, other.document) == expected


def test_tiles_enter_by_place_and_content(site):
    plain = inputs(site)
    changed = inputs(site, held=site.tiles | {(ZOOM, 0, 0): b"other"})
    more = inputs(site, held=site.tiles | {(ZOOM, 1, 0): b"other"})
    place, content = next(iter(site.tiles.items()))
    moved = inputs(
        site, held={(ZOOM, 1, 1) if key == place else key: value for key, value in site.tiles.items()}
    )
    assert content in site.tiles.values()
    assert len({found.identity for found in (plain, changed, more, moved)}) == 4
    for other in (changed, more, moved):
        assert difference(plain.document, other.document) == ["tiles.digest"]


def test_versions_of_the_libraries_enter(site):
    plain = inputs(site)

    class Newer(FakeCompiler):
        version = "99.0"

    newer = Newer(calls=site.calls)
    found = resolve_inputs(
        site.request(), source=FakeTiles(tiles=site.tiles), compiler=newer, index=site.indexer, today=TODAY
    )
    assert difference(plain.document, found.document) == ["engine.version", "models"]
    assert found.descriptors[0].key != plain.descriptors[0].key
    assert found.networks != plain.networks


STAYS_OUT = {
    "day of the build": {"today": date(2031, 12, 31)},
    "day of judgement": {"tiles": {"as_of": date(2030, 1, 1)}},
    "age limit": {"tiles": {"max_age_days": 3}},
    "what becomes of old tiles": {"tiles": {"too_old": "exclude"}},
    "time limit of a compile": {"engine": EngineOptions(timeout_s=7.0)},
    "digits that do not matter": {"bbox": (-180.00000000001, -85.0, 180.0, 85.0)},
    "name of the calibration file": {"calibration": "same.json"},
    "name of the network file": {"network": "same.onnx"},
    "name of the tile source": {"source": "elsewhere/{z}/{x}/{y}.png"},
    "default target": {"engine": EngineOptions(target="cpu")},
    "batch that the network fixes": {"engine": EngineOptions(batch=4)},
    "size that the network fixes": {"model": {"size": (32, 32)}},
    "names that the network has": {"model": {"input": "input", "output": "descriptor"}},
    "defaults written out": {"model": {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}},
}


@pytest.mark.parametrize("name", STAYS_OUT)
def test_what_stays_out_of_the_identity(site, name):
    site.write("same.json", b'{"focal": 35}')
    site.write("same.onnx", tiny_network())
    one, other = inputs(site), inputs(site, **STAYS_OUT[name])
    assert difference(one.document, other.document) == []
    assert one.identity == other.identity == build_identity(one.document)


def test_the_order_of_models_and_the_folder_stay_out(site, quick_path):
    one = inputs(site, models=(PLACE, model("extra")))
    moved = FakeSite(quick_path / "elsewhere", site.tiles)
    other = inputs(moved, models=(model("extra"), PLACE))
    assert one.identity == other.identity
    assert str(quick_path) not in str(one.document)


def test_host_and_paths_are_recorded_beside_the_identity(site):
    provisioner = site.provisioner(host={"host": "station-7"})
    provisioner.build_cache_artifacts(site.request())
    build = site.state().head_build
    assert build.host["host"] == "station-7"
    assert build.host["source"] == "tiles/{z}/{x}/{y}.png"
    assert "station-7" not in str(build.inputs)


def test_old_tiles_that_are_left_out_change_the_set_and_with_it_the_identity(site):
    site.write("dates.csv", b"z,x,y,captured\n6,0,0,2020-01-01\n6,8,12,2026-01-01\n")
    kept = inputs(site)
    judged = inputs(site, tiles={"captured": "dates.csv", "too_old": "exclude"})
    assert len(judged.selection.excluded) == 1
    assert difference(kept.document, judged.document) == ["tiles.digest"]
    assert any("left out" in each.message for each in judged.warnings)


def test_the_descriptor_is_the_model_of_that_role(site):
    found = inputs(site, models=(model("a"), PLACE, model("z")))
    assert [each.spec.name for each in found.models] == ["a", "place", "z"]
    assert found.descriptors[0].spec.name == "place"
    assert found.models[0].preprocessing is None
    assert found.models[0].document["preprocessing"] == {}


def test_a_network_of_any_size_needs_one(site):
    site.write("net.onnx", open_sized())
    with pytest.raises(RequestError, match=r"models\.place\.size"):
        inputs(site)
    assert inputs(site, model={"size": (32, 32)}).descriptors[0].job.sample_shape == (3, 32, 32)


def open_sized():
    """The toy network with free batch, height and width."""
    return toy_network(size=("H", "W")).SerializeToString()


@pytest.mark.parametrize("rank", [4])
def test_a_network_of_the_wrong_rank_is_refused(site, rank):
    site.write("net.onnx", toy_network(rank_out=rank).SerializeToString())
    with pytest.raises(CompileError) as caught:
        inputs(site)
    assert caught.value.kind == "bad-model"
    assert "D]" in caught.value.message or "rank" in caught.value.message


def test_builtin_place_takes_no_options_of_its_own(site):
    with pytest.raises(RequestError, match="builtin:place brings its own"):
        inputs(site, network="builtin:place", model={"mean": (1.0, 1.0, 1.0)})
    for name, other in (("colour", "bgr"), ("layout", "nhwc")):
        with pytest.raises(RequestError, match=f"{name}: .* builtin:place brings its own, found {other!r}"):
            inputs(site, network="builtin:place", model={name: other})
    assert inputs(site, network="builtin:place", model={"colour": "rgb", "layout": "nchw"})
    with pytest.raises(RequestError, match="builtin:place or a path"):
        inputs(site, network="builtin:palace")
    assert inputs(site, network="builtin:place").descriptors[0].job.sample_shape == (3, 256, 256)


def test_calibrations_that_are_none(site):
    site.write("deep.json", b"[" * 100_000)
    site.write("huge.json", b" " * ((1 << 20) + 1))
    site.write("text.json", b'"text"')
    site.write("bytes.json", b"\xff\xfe\x00")
    for name, found in {
        "deep.json": "found",
        "huge.json": "at most 1,048,576 bytes",
        "text.json": "found str",
        "bytes.json": "found",
        "absent.json": "No such file",
        ".": "expected a readable file",
    }.items():
        with pytest.raises(RequestError, match=found) as caught:
            read_calibration(site.request(calibration=name))
        assert caught.value.hint
        assert caught.value.subject == str(site.root / name)


def test_a_fifo_as_calibration_does_not_hang(site):
    os.mkfifo(site.root / "pipe.json")
    with pytest.raises(RequestError):
        read_calibration(site.request(calibration="pipe.json"))


def test_calibration_is_carried_as_its_very_bytes(site):
    raw = b'\n{ "focal" : 35.0,\t"name": "\\u00e9" }\n'
    site.write("camera.json", raw)
    assert inputs(site).calibration == raw
    shutil.copy(site.root / "camera.json", site.root / "copy.json")
    assert inputs(site, calibration="copy.json").identity == inputs(site).identity
