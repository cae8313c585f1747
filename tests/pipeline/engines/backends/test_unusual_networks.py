"""Networks that exporters really write: sizes of -1, a Loop at the end, local functions, links in a cache."""

import os
from importlib.util import find_spec

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from pipeline.engines.backends.onnxruntime import OnnxRuntimeCompiler
from pipeline.engines.backends.openvino import OpenVinoCompiler
from pipeline.engines.onnx.file import onnx_digest, parse_declaration, read_onnx
from pipeline.engines.port import EngineJob
from pipeline.errors import CompileError, ErrorKind
from pipeline.stages.engines.reference import Reference
from store.runtime.golden_vectors import golden_inputs, parity
from store.runtime.load import load_engine
from tests.toy_networks import toy_network

SAMPLE = (3, 64, 64)
NEEDS_OPENVINO = pytest.mark.skipif(
    find_spec("openvino") is None, reason="needs OpenVINO: pip install 'c10[openvino]'"
)


def with_end(*nodes, functions=(), **weights):
    """The toy network with further nodes, which make `descriptor` of `unit`."""
    model = toy_network()
    model.graph.node[-1].output[0] = "unit"
    model.graph.node.extend(nodes)
    model.functions.extend(functions)
    model.opset_import.extend(helper.make_opsetid(each.domain, 1) for each in functions)
    model.graph.initializer.extend(
        numpy_helper.from_array(np.array(each), name) for name, each in weights.items()
    )
    return model


def with_loop():
    inner = [("condition", TensorProto.BOOL, []), ("vector", TensorProto.FLOAT, None)]
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["condition"], ["condition_out"]),
            helper.make_node("Identity", ["vector"], ["vector_out"]),
        ],
        "body",
        [helper.make_tensor_value_info(*each) for each in [("number", TensorProto.INT64, []), *inner]],
        [helper.make_tensor_value_info(f"{name}_out", *rest) for name, *rest in inner],
    )
    loop = helper.make_node("Loop", ["count", "go", "unit"], ["descriptor"], body=body)
    return with_end(loop, count=np.int64(3), go=True)


def with_loop_of_unknown_size():
    model = with_loop()
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


def with_function():
    identity = helper.make_node("Identity", ["a"], ["b"])
    same = helper.make_function("local", "Same", ["a"], ["b"], [identity], [helper.make_opsetid("", 17)])
    return with_end(helper.make_node("Same", ["unit"], ["descriptor"], domain="local"), functions=[same])


def with_batch(size):
    model = toy_network()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = size
    return model


NETWORKS = {
    "batch -1": lambda: with_batch(-1),
    "batch 0": lambda: with_batch(0),
    "loop": with_loop,
    "loop of unknown size": with_loop_of_unknown_size,
    "local function": with_function,
}


@pytest.mark.parametrize(
    "compiler",
    [OnnxRuntimeCompiler(), pytest.param(OpenVinoCompiler(), marks=[pytest.mark.openvino, NEEDS_OPENVINO])],
    ids=lambda each: each.backend,
)
@pytest.mark.parametrize("name", NETWORKS)
def test_it_compiles_and_agrees_with_its_network(tmp_path, compiler, name):
    path = tmp_path / "network.onnx"
    path.write_bytes(NETWORKS[name]().SerializeToString())
    signature = parse_declaration(path.read_bytes()).signature()
    assert signature.fixed_batch() is None
    job = EngineJob(
        model="toy",
        role="descriptor",
        onnx=path,
        onnx_sha256=onnx_digest(path),
        input="input",
        output="descriptor",
        sample_shape=SAMPLE,
        batch=4,
        target=compiler.target(None),
    )
    engine = load_engine(
        compiler.compile(job, scratch=tmp_path).path.read_bytes(),
        backend=compiler.backend,
        version=compiler.version,
        input="input",
        output="descriptor",
        batch=4,
        precision="fp32",
    )
    assert parity(engine.run, Reference(job).run, golden_inputs((5, *SAMPLE))) > 0.999999


@pytest.mark.parametrize("named", [None, "input", "nowhere"])
def test_a_second_input_is_refused_by_its_name(named):
    model = toy_network()
    model.graph.input.insert(0, helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["N", 16]))
    with pytest.raises(CompileError, match="nothing fills 'mask';") as caught:
        parse_declaration(model.SerializeToString()).signature(input=named)
    assert caught.value.kind is ErrorKind.BAD_MODEL
    assert "constants" in caught.value.hint


@pytest.fixture
def download_cache(tmp_path):
    """A model and its weights as links into a folder of blobs, as download caches keep them."""
    model = toy_network()
    tensor = model.graph.initializer[0]
    content = tensor.raw_data
    set_external_data(tensor, "model.onnx_data", length=len(content))
    tensor.ClearField("raw_data")
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "1"
    for folder in (blobs, snapshot):
        folder.mkdir(parents=True)
    for name, blob, data in (
        ("model.onnx", "aa", model.SerializeToString()),
        ("model.onnx_data", "bb", content),
    ):
        (blobs / blob).write_bytes(data)
        (snapshot / name).symlink_to(os.path.relpath(blobs / blob, snapshot))
    return snapshot, content


def test_links_of_a_download_cache_are_followed(download_cache, tmp_path):
    snapshot, content = download_cache
    found = onnx_digest(snapshot / "model.onnx")
    assert read_onnx(snapshot / "model.onnx", expected_sha256=found).graph.initializer[0].raw_data == content
    copy = tmp_path / "copy"
    copy.mkdir()
    for link in snapshot.iterdir():
        (copy / link.name).write_bytes(link.read_bytes())
    assert onnx_digest(copy / "model.onnx") == found
    (tmp_path / "blobs" / "bb").write_bytes(bytes(len(content)))
    assert onnx_digest(snapshot / "model.onnx") != found


@pytest.mark.parametrize("model_is_link", [True, False])
def test_weights_that_a_link_takes_from_elsewhere_are_refused(download_cache, tmp_path, model_is_link):
    snapshot, content = download_cache
    (tmp_path / "secret").write_bytes(content)
    (snapshot / "model.onnx_data").unlink()
    (snapshot / "model.onnx_data").symlink_to(tmp_path / "secret")
    if not model_is_link:
        data = (snapshot / "model.onnx").read_bytes()
        (snapshot / "model.onnx").unlink()
        (snapshot / "model.onnx").write_bytes(data)
    with pytest.raises(CompileError, match="found a link") as caught:
        onnx_digest(snapshot / "model.onnx")
    assert "copy" in caught.value.hint
