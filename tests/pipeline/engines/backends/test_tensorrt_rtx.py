"""TensorRT for RTX, which compiles ahead of time without a GPU: real networks, real refusals, whole builds."""

import json
import struct
from hashlib import sha256
from time import monotonic

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from pipeline.build.report import BuildOutcome
from pipeline.builtin_model import place
from pipeline.engines.backends.tensorrt import TENSORRT_RTX, TensorRtCompiler
from pipeline.engines.onnx.vlad import Projection, add_vlad
from pipeline.engines.port import ShapeRange
from pipeline.errors import CompileError, ErrorKind
from pipeline.request.options import EngineOptions, ModelRole, ModelSpec, ShapeProfile
from store.base.identity import difference, engine_key
from store.domain.events import EngineCompiled
from store.reader import ALLOW_UNSIGNED, FlightCache
from store.runtime.backends.base import EngineLoadError, RuntimeUnavailableError
from store.runtime.backends.tensorrt_library import engine_version
from store.runtime.load import load_engine
from store.verify.verify import Depth, verify
from tests import engine_jobs
from tests.engine_jobs import SAMPLE
from tests.ground import GroundSite
from tests.networks import checked, mobilenet, quantised, resnet50, unsupported, vit_b14, with_open_size
from tests.small_builds import Site, local_network, spread, tiny_network
from tests.toy_networks import DIMENSIONS, toy_network, with_batch_within

pytest.importorskip("tensorrt_rtx", reason="needs TensorRT for RTX: pip install 'c10[rtx]'")
pytestmark = pytest.mark.rtx

COMPILER = TensorRtCompiler(TENSORRT_RTX)
CAPABILITIES = struct.Struct("<I")


def job_of(folder, network, /, **fields):
    return engine_jobs.job_of(folder, network, **({"model": "net", "target": "portable"} | fields))


def compiled(folder, model, **fields):
    return COMPILER.compile(job_of(folder, model, **fields), scratch=folder)


def refused(folder, model, **fields):
    with pytest.raises(CompileError) as caught:
        compiled(folder, model, **fields)
    return caught.value


def capabilities(engine):
    """The bits of the header that say where an engine runs."""
    return CAPABILITIES.unpack_from(engine.path.read_bytes(), 32)[0]


def test_the_embedded_descriptor_compiles(tmp_path):
    engine = compiled(
        tmp_path,
        place.place_model(),
        input=place.PLACE_INPUT,
        output=place.PLACE_OUTPUT,
        sample_shape=(3, *place.PLACE_SIZE),
    )
    assert engine.signature.output_shape == (8, place.PLACE_DIMENSIONS)
    assert engine_version(engine.path.read_bytes()) == COMPILER.version
    assert engine.timing_cache is None
    assert len(COMPILER.version.split(".")) == 4


@pytest.mark.parametrize("rank", [3, 4])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_network_with_a_head_compiles(tmp_path, rank, precision):
    network = onnx.load_from_string(local_network(rank=rank))
    words, axes = np.eye(6, 8, dtype=np.float32), np.eye(16, 48, dtype=np.float32)
    output = add_vlad(network, "local", words, Projection(mean=np.zeros(48, np.float32), axes=axes))
    shape = (3, 32, 32)
    engine = compiled(tmp_path, network, output=output, sample_shape=shape, precision=precision)
    assert engine.signature.output_shape == (8, 16)


@pytest.mark.deep
@pytest.mark.parametrize(
    ("make", "dimensions", "least_mb"),
    [(resnet50, 512, 90), (vit_b14, 768, 330), (mobilenet, 256, 2)],
)
def test_well_known_networks_compile(tmp_path, make, dimensions, least_mb):
    engine = compiled(tmp_path, checked(make(batch=4)), batch=4, sample_shape=(3, 224, 224), target="sm89")
    assert engine.signature.output_shape == (4, dimensions)
    assert engine.path.stat().st_size > least_mb * 1_000_000


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_sixteen_bits_are_written_into_the_graph(tmp_path, precision):
    model = mobilenet(side=64)
    narrow = compiled(tmp_path, model, precision=precision).path.stat().st_size
    wide = compiled(tmp_path, model).path.stat().st_size
    assert narrow < wide


def test_a_conversion_that_loses_too_much_is_refused(tmp_path):
    error = refused(tmp_path, toy_network(), precision="bf16", least_cosine=1.0)
    assert error.kind is ErrorKind.CHECK_FAILED
    assert "expected bf16 to agree with fp32 to a cosine of 1, found 0.99" in error.message
    assert "most is lost at Conv 'Conv#0'" in error.message


def test_explicit_quantisation_compiles(tmp_path):
    assert compiled(tmp_path, checked(quantised()), sample_shape=(3, 32, 32)).signature.dimensions == 16


def test_an_unsupported_network_fails_with_every_node_and_operator(tmp_path):
    error = refused(tmp_path, unsupported(), sample_shape=(3, 32, 32))
    assert error.kind is ErrorKind.BAD_MODEL
    assert "operator Det at node 'det_1': UNSUPPORTED_NODE" in error.message
    assert "operator NetVLAD at node 'netvlad_2': INVALID_NODE (" in error.message


def test_a_node_without_a_name_is_named_by_its_index(tmp_path):
    model = toy_network()
    model.graph.node[1].op_type = "NetVLAD"
    assert "operator NetVLAD at node 'NetVLAD#1'" in refused(tmp_path, model).message


def auxiliary(folder, nodes, inputs, outputs, weights=()):
    graph = helper.make_graph(nodes, "auxiliary", inputs, outputs, list(weights))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    names = {"input": inputs[0].name, "output": outputs[0].name}
    return job_of(folder, model, role="auxiliary", sample_shape=(), batch=1, **names)


def test_an_auxiliary_network_may_take_whole_numbers(tmp_path):
    table = helper.make_tensor("table", TensorProto.FLOAT, [8, 3], [float(number) for number in range(24)])
    job = auxiliary(
        tmp_path,
        [helper.make_node("Gather", ["table", "rows"], ["picked"])],
        [helper.make_tensor_value_info("rows", TensorProto.INT64, [2, 4])],
        [helper.make_tensor_value_info("picked", TensorProto.FLOAT, [2, 4, 3])],
        [table],
    )
    assert COMPILER.compile(job, scratch=tmp_path).signature.output_shape == (2, 4, 3)


def test_an_input_that_decides_a_shape_is_named_with_its_node(tmp_path):
    job = auxiliary(
        tmp_path,
        [helper.make_node("Expand", ["values", "sizes"], ["wide"], name="widen")],
        [
            helper.make_tensor_value_info("values", TensorProto.FLOAT, [1, 3]),
            helper.make_tensor_value_info("sizes", TensorProto.INT64, [2]),
        ],
        [helper.make_tensor_value_info("wide", TensorProto.FLOAT, None)],
    )
    with pytest.raises(CompileError, match="'sizes', taken by Expand 'widen'") as caught:
        COMPILER.compile(job, scratch=tmp_path)
    assert caught.value.kind is ErrorKind.BAD_MODEL


def test_an_operator_that_a_target_lacks_is_named(tmp_path):
    error = refused(tmp_path, toy_network(), precision="bf16", target="sm75")
    assert error.kind is ErrorKind.COMPILE_FAILED
    assert "sm75" in error.message
    error = refused(tmp_path, tiny_network(), batch=4, sample_shape=(3, 32, 32), target="sm75")
    assert "operator Gemm at node 'Gemm#2'; " in error.message


def test_targets_are_in_the_engine(tmp_path):
    bits = {
        target: capabilities(compiled(tmp_path, toy_network(), target=target))
        for target in ("sm75", "sm89", "sm86+sm89", "portable")
    }
    assert bits["sm86+sm89"] & bits["sm89"] == bits["sm89"]
    assert bits["portable"] & bits["sm86+sm89"] == bits["sm86+sm89"]
    assert bits["portable"] & bits["sm75"] == 0
    assert len(set(bits.values())) == 4


def test_a_profile_leaves_the_batch_open(tmp_path):
    profile = ShapeRange(min=(1, *SAMPLE), opt=(8, *SAMPLE), max=(32, *SAMPLE))
    engine = compiled(tmp_path, toy_network(), profile=profile)
    assert engine.signature.input_shape == (8, *SAMPLE)
    sizes = ShapeRange(min=(1, 3, 32, 32), opt=(1, 3, 64, 64), max=(1, 3, 256, 256))
    engine = compiled(tmp_path, with_open_size(), role="auxiliary", sample_shape=(), profile=sizes)
    assert engine.signature.input_shape == (1, 3, -1, -1)


def shapes_within(engine, batch):
    """How often the bytes of an engine have the shape of a batch of samples: three times for each profile."""
    return engine.path.read_bytes().count(struct.pack("<4q", batch, *SAMPLE))


@pytest.mark.parametrize("target", ["portable", "sm89"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_an_engine_has_profiles_for_its_batch_and_for_one_sample(tmp_path, target, precision):
    engine = compiled(tmp_path, toy_network(), batch=5, single=True, target=target, precision=precision)
    assert engine.signature.input_shape == (5, *SAMPLE)
    assert [shapes_within(engine, batch) >= 3 for batch in (1, 5, 8)] == [True, True, False]
    assert "compiled for batches" not in engine.log
    fixed = compiled(tmp_path, toy_network(), batch=5, target=target, precision=precision)
    assert shapes_within(fixed, 1) == 0


def test_a_network_that_works_at_a_fixed_batch_alone_is_compiled_for_that(tmp_path):
    engine = compiled(tmp_path, with_batch_within(toy_network(), 8), single=True)
    assert engine.signature.output_shape == (8, DIMENSIONS)
    assert shapes_within(engine, 1) == 0
    assert "compiled for batches of 8 alone: expected" in engine.log


def test_an_interrupt_ends_a_build_at_once(tmp_path):
    def stop(report):
        if report["phase"] == "build":
            raise KeyboardInterrupt

    began = monotonic()
    with pytest.raises(KeyboardInterrupt):
        COMPILER.compile(
            job_of(tmp_path, resnet50(batch=1, side=64), batch=1), scratch=tmp_path, on_progress=stop
        )
    assert monotonic() - began < 60
    assert not (tmp_path / "engine.plan").exists()


def test_networks_of_one_structure_and_other_weights_are_two(tmp_path):
    one, two = (COMPILER.key_components(job_of(tmp_path, toy_network(seed=seed))) for seed in (1, 2))
    assert difference(one, two) == ["onnx"]
    assert engine_key(one) != engine_key(two)


@pytest.mark.parametrize("damage", ["version", "truncated", "flipped"])
def test_an_engine_of_another_version_or_without_its_gpu_is_not_loaded(tmp_path, damage):
    data = compiled(tmp_path, toy_network()).path.read_bytes()
    version = COMPILER.version
    match damage:
        case "version":
            version = "1.7.1.115"
        case "truncated":
            data = data[:20]
        case "flipped":
            data = data[:27] + bytes([data[27] ^ 1]) + data[28:]
    with pytest.raises((EngineLoadError, RuntimeUnavailableError)) as caught:
        load_engine(
            data,
            backend="tensorrt-rtx",
            version=version,
            target="sm1",
            input="input",
            output="descriptor",
            batch=8,
        )
    if damage != "truncated":
        assert isinstance(caught.value, EngineLoadError)


class RtxSite(Site):
    """A site whose engines are for a GPU."""

    def request(self, **fields):
        options = EngineOptions(backend="tensorrt-rtx", **fields.pop("options", {}))
        return super().request(**({"engine": options} | fields))

    def compiled(self):
        """Networks in the order in which they were compiled, each with its backend."""
        from journal import Journal
        from store.cache.event_mapper import to_recorded_event

        with Journal.open(self.layout.journal, readonly=True) as journal:
            events = [to_recorded_event(entry).event for entry in journal.entries()]
        return [
            (event.model, event.components["backend"], event.key)
            for event in events
            if isinstance(event, EngineCompiled)
        ]


@pytest.fixture
def site(tmp_path):
    site = RtxSite(tmp_path)
    site.write_tiles(spread(4, 3))
    return site


def helper_model(site, **fields):
    site.write("aux.onnx", with_open_size().SerializeToString())
    profile = ShapeProfile(min=(1, 3, 32, 32), opt=(1, 3, 64, 64), max=(1, 3, 128, 128))
    return ModelSpec(name="aux", role=ModelRole.AUXILIARY, onnx="aux.onnx", **({"profile": profile} | fields))


def test_a_whole_build_commits_and_verifies_and_a_second_compiles_nothing(site):
    report = site.build()
    assert report.outcome is BuildOutcome.BUILT, report.error
    assert verify(site.layout, depth=Depth.FULL).problems == ()
    body = json.loads((site.cache / "manifests" / "00000001.json").read_text())["body"]
    (engine,) = body["engines"]
    assert (engine["backend"], engine["target"], engine["version"]) == (
        "tensorrt-rtx",
        "portable",
        COMPILER.version,
    )
    assert body["index"]["embedded_by"]["backend"] == "onnxruntime"
    again = site.build()
    assert (again.outcome, again.writes) == (BuildOutcome.REUSED, 0)
    other = site.build(flight_id="f2")
    assert (other.outcome, other.engines_compiled, other.tiles_embedded) == (BuildOutcome.BUILT, 0, 0)
    with FlightCache.open(site.cache, trusted_keys=ALLOW_UNSIGNED, flown=False) as cache:
        cache.verify()
        (named,) = cache.manifest.engines
        assert sha256(cache.engine_bytes("place")).hexdigest() == named.artifact.sha256


def test_the_engine_of_a_cache_of_chunks_has_a_profile_for_one_frame(tmp_path):
    site = GroundSite(tmp_path)
    site.write("net.onnx", tiny_network(batch="N"))
    report = site.build(engine=EngineOptions(backend="tensorrt-rtx"))
    assert report.outcome is BuildOutcome.BUILT, report.error
    with FlightCache.open(site.cache, trusted_keys=ALLOW_UNSIGNED, flown=False) as cache:
        shapes = bytes(cache.engine_bytes("place")).count(struct.pack("<4q", 1, 3, 32, 32))
    assert shapes >= 3


def test_a_change_recompiles_exactly_that_engine(site):
    descriptor = site.request().models[0]

    def outcomes(aux, **options):
        report = site.provisioner().compile_engines_for_corpus(
            site.request(models=(descriptor, aux), options=options)
        )
        assert report.error is None, report.error
        return {each.model: str(each.outcome) for each in report.engines}

    both = {"aux": "compiled", "place": "compiled"}
    neither = dict.fromkeys(both, "reused")
    aux = helper_model(site)
    assert outcomes(aux) == both
    assert outcomes(aux) == neither
    wider = ShapeProfile(min=(1, 3, 32, 32), opt=(1, 3, 64, 64), max=(1, 3, 160, 128))
    assert outcomes(helper_model(site, profile=wider)) == neither | {"aux": "compiled"}
    assert outcomes(aux, precision="fp16") == both
    assert outcomes(aux, target="sm89") == both
    assert outcomes(aux) == neither
    assert outcomes(aux, target="sm89") == neither


def test_an_engine_compiled_alone_is_reused_by_the_next_build(site):
    report = site.provisioner().compile_engines_for_corpus(site.request())
    assert [str(each.outcome) for each in report.engines] == ["compiled"]
    built = site.build()
    assert built.outcome is BuildOutcome.BUILT, built.error
    with FlightCache.open(site.cache, trusted_keys=ALLOW_UNSIGNED, flown=False) as cache:
        (engine,) = cache.manifest.engines
    assert engine.artifact.sha256 == report.engines[0].artifact.sha256
    assert built.engines_compiled == 1  # the stand-in
