"""Networks that compute with 8-bit integers answer as ONNX defines them, whatever the processor."""

from importlib.util import find_spec

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from pipeline.engines.backends import onnxruntime
from pipeline.engines.backends.onnxruntime import OnnxRuntimeCompiler
from pipeline.engines.backends.openvino import OpenVinoCompiler
from pipeline.engines.onnx.eight_bit import rewrite_integer_products
from pipeline.engines.onnx.file import parse_declaration
from pipeline.engines.onnx.graph import all_nodes
from pipeline.errors import CompileError, ErrorKind
from pipeline.stages.engines.reference import Reference
from store.runtime.golden_vectors import agreement, golden_inputs
from tests import eight_bit_networks as networks
from tests.engine_jobs import job_of, load_compiled
from tests.shared_engines import compile_here

SIGNS = [(np.uint8, np.int8), (np.int8, np.int8), (np.uint8, np.uint8)]
OF_MICROSOFT = ["DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulNBits", "QGemm"]
NETWORKS = {
    **{f"QLinearConv {a.__name__} {b.__name__}": networks.qlinear_conv(a, b) for a, b in SIGNS},
    **{f"QLinearMatMul {a.__name__} {b.__name__}": networks.qlinear_matmul(a, b) for a, b in SIGNS},
    **{f"QDQ {a.__name__} {b.__name__}": networks.qdq(a, b) for a, b in SIGNS},
    "QLinearConv, one scale": networks.qlinear_conv(channels=False),
    "QLinearConv, groups": networks.qlinear_conv(groups=3),
    "QLinearMatMul, one scale": networks.qlinear_matmul(columns=False),
    "MatMulInteger": networks.dynamic(),
    "MatMulInteger, columns": networks.dynamic(weights=np.uint8, columns=True),
    "ConvInteger": networks.dynamic("ConvInteger"),
    "QDQ MatMul": networks.qdq_matmul(),
    "4 bits": networks.four_bits(),
    "4 bits in blocks": networks.four_bits(TensorProto.UINT4, block=32),
    "within a branch": networks.within_a_branch(),
    "within a function": networks.within_a_function(),
}
INTEGER_PRODUCTS = {"ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "QGemm", *OF_MICROSOFT}
NEEDS_OPENVINO = pytest.mark.skipif(
    find_spec("openvino") is None, reason="needs OpenVINO: pip install 'c10[openvino]'"
)
COMPILERS = [
    OnnxRuntimeCompiler(),
    pytest.param(OpenVinoCompiler(), marks=[pytest.mark.openvino, NEEDS_OPENVINO]),
]


@pytest.fixture(autouse=True)
def _no_child(monkeypatch):
    monkeypatch.setattr(onnxruntime, "compile_in_child", compile_here)


def pictures():
    """A golden image, one of black and white pixels alone, and a negative: sums reach their greatest values."""
    found = golden_inputs((3, *networks.SAMPLE))
    found[1] = np.where(found[1] > 128, 255, 0)
    found[2] = 255 - found[2]
    return found


def each_alone(run, inputs):
    return np.concatenate([run(inputs[row : row + 1]) for row in range(len(inputs))])


def as_defined(model, inputs):
    """The answers of ONNX's own evaluator, which computes with whole numbers."""
    evaluator = ReferenceEvaluator(model)
    return each_alone(lambda each: evaluator.run(None, {"input": each})[0], inputs)


def job_for(folder, model, compiler):
    quantized = parse_declaration(model.SerializeToString()).quantized
    assert quantized
    fields = {"sample_shape": networks.SAMPLE, "batch": 1, "target": compiler.target(None)}
    return job_of(folder, model, quantized=quantized, **fields)


@pytest.mark.parametrize("compiler", COMPILERS, ids=lambda each: each.backend)
@pytest.mark.parametrize("name", NETWORKS)
def test_engine_and_reference_answer_as_the_operators_are_defined(tmp_path, compiler, name):
    job = job_for(tmp_path, NETWORKS[name], compiler)
    expected = as_defined(NETWORKS[name], pictures())
    engine = compiler.compile(job, scratch=tmp_path).path.read_bytes()
    answers = load_compiled(compiler, engine, batch=1).run(pictures())
    assert agreement(answers, expected) > 0.99999
    assert agreement(Reference(job).run(pictures()), expected) > 0.99999
    if compiler.backend == "onnxruntime":
        operators = {node.op_type for node in all_nodes(onnx.load_from_string(engine))}
        assert not operators & INTEGER_PRODUCTS


@pytest.mark.parametrize("operator", OF_MICROSOFT)
def test_operators_that_only_onnxruntime_knows_are_computed_in_floats_too(tmp_path, operator):
    model, compiler = networks.of_microsoft(operator), OnnxRuntimeCompiler()
    job = job_for(tmp_path, model, compiler)
    operators = {node.op_type: node for node in all_nodes(rewrite_integer_products(copy_of(model), "toy"))}
    if operator == "MatMulNBits":
        assert [each.i for each in operators[operator].attribute if each.name == "accuracy_level"] == [1]
    else:
        assert operator not in operators
    engine = load_compiled(compiler, compiler.compile(job, scratch=tmp_path).path.read_bytes(), batch=1)
    assert agreement(engine.run(pictures()), Reference(job).run(pictures())) > 0.999999


def copy_of(model):
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    return copied


@pytest.mark.parametrize("operator", ["QAttention", "DynamicQuantizeLSTM", "QLinearConv"])
def test_operators_without_a_form_in_floats_are_refused_by_name(tmp_path, operator):
    model = networks.of_microsoft("QGemm")
    for node in model.graph.node:
        if node.domain:
            node.op_type = operator
    job = job_of(tmp_path, model, sample_shape=networks.SAMPLE)
    with pytest.raises(CompileError, match=rf"computes alike, found {operator}.*QDQ") as caught:
        Reference(job)
    assert caught.value.kind is ErrorKind.BAD_MODEL


def test_a_convolution_whose_rank_nothing_says_is_refused_by_its_name(tmp_path):
    model = networks.qlinear_conv()
    weights = next(each for each in model.graph.initializer if each.name == "w")
    model.graph.node.insert(0, networks.NODE("Identity", ["w_given"], ["w"]))
    weights.name = "w_given"
    with pytest.raises(CompileError, match="rank of QLinearConv 'convolution'"):
        Reference(job_of(tmp_path, model, sample_shape=networks.SAMPLE))
    next(each for each in model.graph.node if each.name == "convolution").attribute.extend(
        [onnx.helper.make_attribute("kernel_shape", [3, 3])]
    )
    job = job_of(tmp_path, model, sample_shape=networks.SAMPLE)
    expected = as_defined(model, pictures())
    assert agreement(Reference(job).run(pictures()), expected) > 0.99999


@pytest.mark.parametrize("compiler", COMPILERS, ids=lambda each: each.backend)
def test_keys_of_quantised_networks_say_how_they_are_computed(tmp_path, compiler):
    job = job_for(tmp_path, networks.qlinear_conv(), compiler)
    assert compiler.key_components(job)["options"]["eight_bit"] == "floats"


def test_no_rounding_is_left_out(tmp_path):
    """ONNX Runtime would make one pair of roundings of two that follow each other."""
    model, compiler = networks.qdq(), OnnxRuntimeCompiler()
    engine = onnx.load(compiler.compile(job_for(tmp_path, model, compiler), scratch=tmp_path).path)
    for operator in ("QuantizeLinear", "MaxPool"):
        assert len(list(all_of(engine, operator))) == len(list(all_of(model, operator)))


def all_of(model, operator):
    return (node for node in all_nodes(model) if node.op_type == operator)


def test_a_network_of_floats_is_left_as_it_is():
    model = networks.network([networks.NODE("Relu", ["input"], ["map"])], {})
    before = model.SerializeToString()
    assert rewrite_integer_products(model, "toy").SerializeToString() == before
