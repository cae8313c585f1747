"""What the backends for the processor have in common, on real networks: each test runs with every one of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from pipeline.engines.backends.registry import engine_compiler
from pipeline.engines.onnx.vlad import Projection, add_vlad
from pipeline.errors import CompileError, ErrorKind
from store.base.canonical_json import encode
from store.runtime.backends.base import RuntimeUnavailableError
from store.runtime.backends.openvino_library import library
from store.runtime.golden_vectors import batch_invariance, golden_inputs, parity
from tests.engine_jobs import SAMPLE, job_of, load_compiled, reference
from tests.small_builds import local_network
from tests.toy_networks import DIMENSIONS, toy_network

STEPS = {"onnxruntime": [0, 1, 2, 3], "openvino": [0, 1, 2, 3, 4]}


@pytest.fixture(params=["onnxruntime", pytest.param("openvino", marks=pytest.mark.openvino)])
def compiler(request):
    if request.param == "openvino":
        try:
            library()
        except RuntimeUnavailableError:
            pytest.skip("needs OpenVINO: pip install 'c10[openvino]'")
    return engine_compiler(request.param)


@pytest.fixture
def job(compiler, tmp_path):
    return job_of(tmp_path, toy_network(), target=compiler.target(None))


def test_an_engine_is_compiled_runs_and_agrees_with_its_network(compiler, job, tmp_path):
    seen = []
    engine = compiler.compile(job, scratch=tmp_path, on_progress=seen.append)
    assert engine.signature.input_shape == (8, *SAMPLE)
    assert engine.signature.output_shape == (8, DIMENSIONS)
    assert engine.signature.dimensions == DIMENSIONS
    assert [step["done"] for step in seen] == STEPS[compiler.backend]
    run = load_compiled(compiler, engine.path.read_bytes()).run
    inputs = golden_inputs((11, *SAMPLE))
    assert parity(run, reference(job), inputs) > 0.999999
    assert batch_invariance(run, inputs) == 0


@pytest.mark.parametrize("rank", [3, 4])
def test_a_network_with_a_head_agrees_with_itself(compiler, rank, tmp_path):
    network = onnx.load_from_string(local_network(rank=rank))
    rng = np.random.default_rng(0)
    words, axes = rng.standard_normal((6, 8)) / 3, np.linalg.qr(rng.standard_normal((48, DIMENSIONS)))[0].T
    projection = Projection(mean=np.full(48, 0.01, np.float32), axes=axes.astype(np.float32))
    output = add_vlad(network, "local", words.astype(np.float32), projection)
    target = compiler.target(None)
    job = job_of(tmp_path, network, output=output, sample_shape=(3, 32, 32), target=target)
    engine = compiler.compile(job, scratch=tmp_path)
    assert engine.signature.output_shape == (8, DIMENSIONS)
    run = load_compiled(compiler, engine.path.read_bytes(), output=output).run
    inputs = golden_inputs((11, 3, 32, 32))
    assert parity(run, reference(job), inputs) > 0.999999


def test_an_auxiliary_network_is_compiled_as_it_is(compiler, tmp_path):
    model = toy_network(rank_out=4, size=(None, None), channels=1)
    job = job_of(tmp_path, model, role="auxiliary", sample_shape=(), target=compiler.target(None))
    assert compiler.compile(job, scratch=tmp_path).signature.input_shape == (-1, 1, -1, -1)


def test_the_key_names_what_matters_and_no_path(compiler, job, tmp_path):
    key = compiler.key_components(job)
    encode(key)
    assert str(tmp_path) not in repr(key)
    assert (key["version"], key["onnx"]) == (compiler.version, job.onnx_sha256)
    elsewhere = replace(
        job, onnx=Path("/other/name.onnx"), timeout_s=1.0, workspace_mb=5, tf32=True, model="renamed"
    )
    assert compiler.key_components(elsewhere) == key
    for change in (
        {"batch": 4},
        {"output": "relu"},
        {"sample_shape": (3, 32, 32)},
        {"onnx_sha256": "00" * 32},
    ):
        assert compiler.key_components(replace(job, **change)) != key


def test_a_network_that_changed_after_it_was_hashed_is_refused(compiler, job, tmp_path):
    job.onnx.write_bytes(toy_network(seed=1).SerializeToString())
    with pytest.raises(CompileError, match=f"SHA-256 {job.onnx_sha256}, found .*changed"):
        compiler.compile(job, scratch=tmp_path)


def test_a_network_that_gives_infinities_is_refused(compiler, tmp_path):
    model = toy_network()
    model.graph.initializer[0].raw_data = np.full((DIMENSIONS, 3, 3, 3), 3e38, np.float32).tobytes()
    with pytest.raises(CompileError, match="finite descriptors") as caught:
        compiler.compile(job_of(tmp_path, model, target=compiler.target(None)), scratch=tmp_path)
    assert caught.value.kind is ErrorKind.BAD_VECTORS


def test_a_compile_that_takes_too_long_is_a_timeout(compiler, job, tmp_path):
    with pytest.raises(CompileError, match=r"within 0.01 s.*timeout_s") as caught:
        compiler.compile(replace(job, timeout_s=0.01), scratch=tmp_path)
    assert caught.value.kind is ErrorKind.COMPILE_TIMEOUT
