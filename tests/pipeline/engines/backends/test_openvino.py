"""The OpenVINO backend on real networks: its precision, what it refuses, and what never reaches its importer."""

import os
import platform
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.build.report import BuildOutcome
from pipeline.embed import worker
from pipeline.engines.backends import openvino as backend
from pipeline.engines.backends.onnxruntime import OnnxRuntimeCompiler
from pipeline.engines.backends.openvino import OpenVinoCompiler
from pipeline.engines.backends.registry import engine_compiler
from pipeline.errors import CompileError, EmbedError, ErrorKind
from pipeline.request.options import EngineOptions
from pipeline.stages.embed import engine_spec
from store.base.identity import difference
from store.disk.artifacts import Artifacts
from store.domain.events import EngineCompiled
from store.errors import ArtifactError, IncompatibleDeviceError, NoGoError
from store.reader import ALLOW_UNSIGNED, FlightCache
from store.runtime.backends import openvino as openvino_executor
from store.runtime.backends.base import EngineLoadError, EngineRunError, RuntimeUnavailableError
from store.runtime.backends.openvino_library import cpu_target, has_bfloat16, library, read_requirements
from store.runtime.golden_vectors import batch_invariance, golden_inputs, parity
from tests import engine_jobs
from tests.child_python import run_python
from tests.engine_jobs import SAMPLE, load_compiled, reference
from tests.networks import quantised, unsupported
from tests.small_builds import Site, spread
from tests.toy_networks import DIMENSIONS, toy_network

try:
    openvino = library()
except RuntimeUnavailableError:
    pytest.skip("needs OpenVINO: pip install 'c10[openvino]'", allow_module_level=True)
pytestmark = pytest.mark.openvino

BATCH = 4
narrow_only = pytest.mark.skipif(not has_bfloat16(openvino), reason="needs a processor with bfloat16")


def job_of(folder, model, **fields):
    return engine_jobs.job_of(folder, model, **({"batch": BATCH, "target": cpu_target()} | fields))


def load(data, **changes):
    return load_compiled(OpenVinoCompiler(), data, **({"batch": BATCH} | changes))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A job and its engine's bytes, by precision."""
    found = {}
    for precision in ("fp32", "bf16") if has_bfloat16(openvino) else ("fp32",):
        folder = tmp_path_factory.mktemp(precision)
        job = job_of(folder, toy_network(), precision=precision)
        found[precision] = job, OpenVinoCompiler().compile(job, scratch=folder).path.read_bytes()
    return found


@pytest.fixture
def untouchable(monkeypatch):
    """Fail the test if bytes reach the importer."""

    def touched(*_):
        pytest.fail("the importer was given bytes")

    cpu_target()
    monkeypatch.setattr(openvino.Core, "import_model", touched)


def test_it_is_the_backend_of_its_name():
    compiler = engine_compiler("openvino")
    assert isinstance(compiler, OpenVinoCompiler)
    assert compiler.backend == "openvino"
    assert openvino.__version__.startswith(compiler.version)


def test_telemetry_is_off(tmp_path):
    code = (
        "import sys; events = []\n"
        "sys.addaudithook(lambda name, _: events.append(name) if name.startswith('socket.') else None)\n"
        "from store.runtime.backends.openvino_library import cpu_target; cpu_target()\n"
        "print(events, [name for name in sys.modules if 'openvino_telemetry' in name])"
    )
    done = run_python(
        code, env={**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(Path(worker.__file__).parents[2])}
    )
    assert done.stdout.strip() == "[] []"
    assert list(tmp_path.iterdir()) == []


def test_an_exported_engine_is_not_compiled_again(made, monkeypatch):
    cpu_target()
    monkeypatch.setattr(openvino.Core, "compile_model", lambda *_: pytest.fail("compiled"))
    monkeypatch.setattr(openvino.Core, "read_model", lambda *_: pytest.fail("read a network"))
    assert load(made["fp32"][1]).run(golden_inputs((1, *SAMPLE))).shape == (1, DIMENSIONS)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, "path"])
def test_bytes_come_in_many_forms(made, tmp_path, kind):
    data = made["fp32"][1]
    inputs = golden_inputs((3, *SAMPLE))
    expected = load(data).run(inputs)
    if kind == "path":
        path = tmp_path / "engine.blob"
        path.write_bytes(data)
        engine = load(str(path))
    else:
        source = kind(data)
        engine = load(source)
        del source
    np.testing.assert_array_equal(engine.run(inputs), expected)


def test_threads_do_not_change_a_bit(made):
    inputs = golden_inputs((BATCH, *SAMPLE))
    for precision, (_, data) in made.items():
        one, two = (load(data, threads=threads, precision=precision).run(inputs) for threads in (1, 2))
        np.testing.assert_array_equal(one, two)


@narrow_only
def test_bfloat16_is_a_choice_and_gives_other_numbers(made):
    inputs = golden_inputs((BATCH, *SAMPLE))
    wide, narrow = (
        load(made[precision][1], precision=precision).run(inputs) for precision in ("fp32", "bf16")
    )
    exact = reference(made["fp32"][0])(inputs)
    assert np.abs(wide - exact).max() < 1e-6
    assert np.abs(narrow - exact).max() > 1e-4
    assert parity(lambda _: narrow, lambda _: exact, inputs) > 0.99


def test_the_precision_must_be_named(made):
    for precision in (None, "fp16", "int8"):
        with pytest.raises(EngineLoadError, match=f"fp32 or bf16 .* found {precision!r}"):
            load(made["fp32"][1], precision=precision)


def test_without_bfloat16_it_is_refused_before_anything_is_imported(made, monkeypatch, tmp_path, untouchable):
    monkeypatch.setattr(openvino_executor, "has_bfloat16", lambda _: False)
    monkeypatch.setattr(backend, "has_bfloat16", lambda _: False)
    with pytest.raises(EngineLoadError, match="processor that computes in bfloat16") as error:
        load(made["fp32"][1], precision="bf16")
    assert 'engine.precision = "fp32"' in error.value.hint
    job = job_of(tmp_path, toy_network(), precision="bf16")
    for call in (
        OpenVinoCompiler().key_components,
        lambda job: OpenVinoCompiler().compile(job, scratch=tmp_path),
    ):
        with pytest.raises(CompileError, match=r"bfloat16.*would compute in float32.*fp32"):
            call(job)


def test_a_library_that_chooses_another_precision_is_refused():
    class Stubborn:
        @staticmethod
        def get_property(_):
            return openvino.Type.bf16

    with pytest.raises(EngineLoadError, match="compute in f32, found bf16"):
        openvino_executor.require_precision(Stubborn(), "fp32")


def test_an_engine_of_another_version_is_never_imported(made, untouchable):
    data = made["fp32"][1]
    version = OpenVinoCompiler().version
    with pytest.raises(EngineLoadError, match=f"expected openvino 2025.1.0, .*found openvino {version}"):
        load(data, version="2025.1.0")
    other = data.replace(f"ov={version}".encode(), f"ov={'9' * len(version)}".encode(), 1)
    with pytest.raises(EngineLoadError, match=f"expected openvino {'9' * len(version)}"):
        load(other)


def test_an_engine_for_another_processor_is_never_imported(made, untouchable):
    data = made["fp32"][1]
    with pytest.raises(EngineLoadError, match=r"this processor, found one for 'cpu:Other'"):
        load(data, target="cpu:Other")
    own = read_requirements(memoryview(data)).instruction_set.encode()
    other = data.replace(own, b"x" * len(own), 1)
    with pytest.raises(EngineLoadError, match="found one for 'cpu:xxx"):
        load(other)


@pytest.mark.parametrize("end", [0, 1, 8, 19, 20, 40, -1])
def test_a_truncated_engine_is_never_imported(made, end, untouchable):
    data = made["fp32"][1]
    # The requirements name the instruction set, so that their length depends on the processor.
    requirements_end = 20 + int.from_bytes(data[12:20], "little")
    with pytest.raises(EngineLoadError, match="OpenVINO exported"):
        load(data[:requirements_end][:end])


@pytest.mark.parametrize("junk", [b"", bytes(200), b"RR_UPCVO" + b"\xff" * 200, b"\x7fELF" * 50])
def test_other_bytes_are_never_imported(junk, untouchable):
    with pytest.raises(EngineLoadError, match="OpenVINO exported"):
        load(junk)


def test_a_truncated_engine_is_refused_by_the_importer_too(made):
    data = made["fp32"][1]
    for length in (len(data) // 2, 400):
        with pytest.raises(EngineLoadError, match="can import"):
            load(data[:length])


def test_tensors_of_other_names_or_sizes_are_refused(made):
    data = made["fp32"][1]
    for change, complaint in (
        ({"input": "picture"}, "input called 'picture'"),
        ({"output": "vector"}, "output called 'vector'"),
        ({"batch": 8}, "batch of 8"),
    ):
        with pytest.raises(EngineLoadError, match=complaint):
            load(data, **change)
    with pytest.raises(EngineRunError, match="float32"):
        load(data).run(np.zeros((1, 3, 8, 8), np.float32))
    with pytest.raises(EngineLoadError, match="No such file"):
        load("/nowhere/engine.blob")


def test_another_process_on_an_older_processor_refuses_the_engine(made, tmp_path):
    if platform.machine() != "x86_64" or "SSE4.1" in cpu_target():
        pytest.skip("needs a processor that can be asked to be a lesser one")
    path = tmp_path / "engine.blob"
    path.write_bytes(made["fp32"][1])
    code = (
        "import sys; from store.runtime.load import load_engine; from store.runtime.capabilities import covered, device\n"
        "print(device('openvino'), covered('openvino', sys.argv[3]))\n"
        "load_engine(sys.argv[1], backend='openvino', version=sys.argv[2], precision='fp32', input='input', "
        "output='descriptor', batch=4)"
    )
    done = run_python(
        code,
        path,
        OpenVinoCompiler().version,
        cpu_target(),
        env={
            **os.environ,
            "ONEDNN_MAX_CPU_ISA": "SSE41",
            "PYTHONPATH": str(Path(worker.__file__).parents[2]),
        },
        check=False,
    )
    assert done.stdout.strip() == "cpu:Intel SSE4.1 False"
    assert (
        "expected an engine for 'cpu:Intel SSE4.1', this processor, found one for 'cpu:Intel AVX"
        in done.stderr
    )


def test_target_and_precision_are_in_the_key(tmp_path):
    compiler = OpenVinoCompiler()
    job = job_of(tmp_path, toy_network())
    key = compiler.key_components(job)
    assert compiler.key_components(replace(job, target="cpu:x")) != key
    if has_bfloat16(openvino):
        narrow = compiler.key_components(replace(job, precision="bf16"))
        assert "precision" in difference(key, narrow)


def test_targets_are_this_processor():
    compiler = OpenVinoCompiler()
    here = cpu_target()
    assert compiler.target(None) == compiler.target("cpu") == compiler.target(here) == here
    assert compiler.runs_here(here)
    assert not compiler.runs_here("cpu:Intel 8080")
    for other in ("sm87", "gpu", "cpu:Intel 8080"):
        with pytest.raises(CompileError, match=f"'cpu' for the backend openvino.*found '{other}'"):
            compiler.target(other)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"precision": "fp16"}, "fp32 or bf16 .*found 'fp16'"),
        ({"plugins": ((Path("a.so"), "00"),)}, "no plug-ins"),
    ],
)
def test_options_that_it_does_not_offer_are_refused(tmp_path, change, complaint):
    job = job_of(tmp_path, toy_network(), **change)
    for call in (
        OpenVinoCompiler().key_components,
        lambda job: OpenVinoCompiler().compile(job, scratch=tmp_path),
    ):
        with pytest.raises(CompileError, match=complaint):
            call(job)


def test_without_the_library_the_error_says_how_to_get_it(monkeypatch):
    def missing():
        raise RuntimeUnavailableError(
            "expected the Python package 'openvino', found none", hint="pip install it"
        )

    monkeypatch.setattr(backend, "library_version", missing)
    monkeypatch.setattr(backend, "cpu_target", missing)
    for call in (lambda: OpenVinoCompiler().version, lambda: OpenVinoCompiler().target(None)):
        with pytest.raises(CompileError, match=r"'openvino', found none.*pip install") as caught:
            call()
        assert caught.value.kind is ErrorKind.BACKEND_UNAVAILABLE


def test_operators_that_it_does_not_know_are_named_with_their_nodes(tmp_path):
    job = job_of(tmp_path, unsupported(), sample_shape=(3, 32, 32))
    with pytest.raises(CompileError) as caught:
        OpenVinoCompiler().compile(job, scratch=tmp_path)
    nodes = {node.op_type: node.name for node in unsupported().graph.node}
    assert caught.value.kind is ErrorKind.BAD_MODEL
    for operator, name in (("Det", nodes["Det"]), ("my.operators.NetVLAD", nodes["NetVLAD"])):
        assert f"operator {operator} that it does not know, in node {name!r}" in caught.value.message


def test_a_tensor_that_nothing_makes_is_named_with_its_node(tmp_path):
    model = toy_network()
    model.graph.node[0].name, model.graph.node[0].input[1] = "first", "nowhere"
    job = job_of(tmp_path, model)
    with pytest.raises(CompileError, match="Conv 'first', which takes 'nowhere'") as caught:
        OpenVinoCompiler().compile(job, scratch=tmp_path)
    assert caught.value.kind is ErrorKind.BAD_MODEL


def test_explicit_quantisation_passes_unchanged(tmp_path):
    model, sample = quantised(), (3, 32, 32)
    inputs = golden_inputs((5, *sample))
    answers = []
    for compiler in (OnnxRuntimeCompiler(), OpenVinoCompiler()):
        scratch = tmp_path / compiler.backend
        scratch.mkdir()
        job = job_of(scratch, model, sample_shape=sample, target=compiler.target(None), quantized=True)
        data = compiler.compile(job, scratch=scratch).path.read_bytes()
        engine = load(data, backend=compiler.backend, version=compiler.version, target=None)
        assert batch_invariance(engine.run, inputs) == 0
        answers.append(engine.run(inputs))
        assert parity(engine.run, reference(job), inputs) > 0.999
    assert parity(lambda _: answers[0], lambda _: answers[1], inputs) > 0.999
    # Without the 8-bit steps the answers would be those of the network without them.
    exact = without_quantisation(model)
    exact_job = job_of(tmp_path, exact, sample_shape=sample)
    distance = np.abs(reference(exact_job)(inputs) - answers[1]).max()
    assert distance > 10 * np.abs(answers[0] - answers[1]).max()


def without_quantisation(model):
    import onnx

    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    for node in plain.graph.node:
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
            del node.input[1:]
            node.op_type = "Identity"
    return plain


def engine_options(precision):
    return EngineOptions(backend="openvino", precision=precision, batch=BATCH)


@pytest.fixture(scope="module")
def first_build(tmp_path_factory):
    site = Site(tmp_path_factory.mktemp("site"))
    site.write_tiles(spread(2, 2))
    report = site.build(engine=engine_options("fp32"))
    assert report.outcome is BuildOutcome.BUILT, report.error
    return site


@pytest.fixture
def built(first_build, tmp_path):
    """A site of its own for each test, with a build in fp32."""
    shutil.copytree(first_build.root, tmp_path / "site")
    return Site(tmp_path / "site")


def test_a_whole_build_flies_and_a_second_compiles_nothing(built):
    again = built.build(engine=engine_options("fp32"))
    assert (again.outcome, again.writes, again.engines_compiled) == (BuildOutcome.REUSED, 0, 0)
    with FlightCache.open(built.cache, trusted_keys=ALLOW_UNSIGNED) as cache:
        cache.verify()
        entry = cache.manifest.descriptor_engine
        assert (entry.backend, entry.precision, entry.target) == ("openvino", "fp32", cpu_target())
        engine = cache.engine("place")
    # The engine holds its own memory: the cache is closed by now.
    assert np.isfinite(engine.run(golden_inputs((5, *engine.sample_shape)))).all()


@narrow_only
def test_another_precision_recompiles_the_engine_and_embeds_again(built):
    report = built.build(engine=engine_options("bf16"))
    assert (report.outcome, report.engines_compiled, report.tiles_embedded) == (BuildOutcome.BUILT, 1, 4)
    with FlightCache.open(built.cache, trusted_keys=ALLOW_UNSIGNED) as cache:
        assert cache.manifest.descriptor_engine.precision == "bf16"
        engine = cache.engine("place")
    assert np.isfinite(engine.run(golden_inputs((5, *engine.sample_shape)))).all()


@pytest.mark.parametrize("damage", ["flipped", "truncated"])
def test_a_damaged_engine_never_reaches_the_importer(built, damage, request):
    event = built.events(EngineCompiled)[0]
    with FlightCache.open(built.cache, trusted_keys=ALLOW_UNSIGNED) as cache:
        contract = cache.manifest.descriptor_engine.preprocessing
    path = built.artifact(event.artifact)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data if damage == "flipped" else data[: len(data) // 2])
    request.getfixturevalue("untouchable")
    with pytest.raises(NoGoError), FlightCache.open(built.cache, trusted_keys=ALLOW_UNSIGNED) as cache:
        cache.engine("place")
    with pytest.raises(EmbedError, match=f"SHA-256 {event.artifact.sha256}"):
        worker.start({"engine": asdict(engine_spec(path, event)), "preprocessing": contract})
    with pytest.raises(ArtifactError):
        Artifacts(built.layout).read(event.artifact)


def test_a_cache_for_another_processor_is_refused_at_once(built, monkeypatch):
    monkeypatch.setattr("store.runtime.backends.openvino.cpu_target", lambda: "cpu:Intel 8080")
    with pytest.raises(IncompatibleDeviceError, match=r"made by openvino for 'cpu:.*found cpu:Intel 8080"):
        FlightCache.open(built.cache, trusted_keys=ALLOW_UNSIGNED)
