"""The ONNX Runtime backend and the reading of ONNX files, on real networks and broken ones."""

import hashlib
import os
import re
from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx.external_data_helper import set_external_data

from pipeline.engines.backends import onnxruntime as onnxruntime_backend
from pipeline.engines.backends.onnxruntime import OnnxRuntimeCompiler
from pipeline.engines.onnx.file import onnx_digest, parse_declaration, read_onnx
from pipeline.errors import CompileError, ErrorKind
from pipeline.stages.engines.reference import Reference
from store.base.identity import difference
from store.runtime.golden_vectors import batch_invariance, golden_images, golden_inputs, parity
from store.runtime.load import load_engine
from tests.engine_jobs import SAMPLE, job_for, job_of, load_compiled
from tests.examples_tried import mostly_deep
from tests.networks import quantised
from tests.shared_engines import compile_here
from tests.toy_networks import DIMENSIONS, batch_coupled_network, toy_network, with_batch_within


@pytest.fixture
def job(tmp_path):
    return job_of(tmp_path, toy_network())


@pytest.fixture
def compiled_here(monkeypatch):
    """For tests of what an engine is and computes: it is compiled in this process."""
    monkeypatch.setattr(onnxruntime_backend, "compile_in_child", compile_here)


def load(engine, *, batch=8):
    return load_compiled(OnnxRuntimeCompiler(), engine.path.read_bytes(), batch=batch)


@pytest.mark.parametrize("single", [True, pytest.param(False, marks=pytest.mark.deep)])
def test_two_compiles_give_the_same_bytes(job, tmp_path, single):
    job, digests = replace(job, single=single), set()
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        engine = OnnxRuntimeCompiler().compile(job, scratch=tmp_path / name)
        digests.add(hashlib.sha256(engine.path.read_bytes()).hexdigest())
    assert len(digests) == 1


@pytest.mark.parametrize("batch", mostly_deep((1, 4), 4))
def test_the_batch_is_the_one_asked_for(tmp_path, batch):
    engine = OnnxRuntimeCompiler().compile(
        job_of(tmp_path, toy_network(batch=batch), batch=batch), scratch=tmp_path
    )
    assert engine.signature.input_shape == (batch, *SAMPLE)
    assert load(engine, batch=batch).run(golden_inputs((5, *SAMPLE))).shape == (5, DIMENSIONS)


@pytest.mark.usefixtures("compiled_here")
def test_open_sizes_are_fixed_and_other_outputs_are_left_out(tmp_path):
    engine = OnnxRuntimeCompiler().compile(
        job_of(tmp_path, toy_network(size=("h", None), extra_output=True), sample_shape=(3, 48, 32)),
        scratch=tmp_path,
    )
    assert engine.signature.input_shape == (8, 3, 48, 32)
    assert [value.name for value in onnx.load(engine.path).graph.output] == ["descriptor"]


def test_a_fixed_batch_other_than_the_one_asked_for_is_refused(tmp_path):
    with pytest.raises(CompileError, match=r"batch of 8, found 1.*engine.batch = 1") as caught:
        OnnxRuntimeCompiler().compile(job_of(tmp_path, toy_network(batch=1)), scratch=tmp_path)
    assert caught.value.kind is ErrorKind.BAD_MODEL


@pytest.mark.usefixtures("compiled_here")
def test_explicit_quantisation_is_computed_in_floats(tmp_path):
    """Operators in 8 bits would overflow on some processors; the key tells such engines from older ones."""
    network, compiler = quantised().SerializeToString(), OnnxRuntimeCompiler()
    job = job_of(tmp_path, network, sample_shape=(3, 32, 32), quantized=parse_declaration(network).quantized)
    assert job.quantized
    engine = compiler.compile(job, scratch=tmp_path)
    operators = {node.op_type for node in onnx.load(engine.path).graph.node}
    assert {"QuantizeLinear", "FusedConv"} <= operators
    assert not [each for each in operators if "QLinear" in each or "Integer" in each]
    inputs = golden_inputs((5, 3, 32, 32))
    assert parity(load(engine).run, Reference(job).run, inputs) > 0.999999
    options = compiler.key_components(job)["options"]
    assert difference(compiler.key_components(replace(job, quantized=False))["options"], options) == [
        "eight_bit"
    ]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_is_not_offered(job, tmp_path, precision):
    job = replace(job, precision=precision)
    with pytest.raises(CompileError, match=f"fp32.*found '{precision}'"):
        OnnxRuntimeCompiler().key_components(job)
    with pytest.raises(CompileError, match=f"fp32.*found '{precision}'"):
        OnnxRuntimeCompiler().compile(job, scratch=tmp_path)


def test_the_only_target_is_the_cpu():
    assert OnnxRuntimeCompiler().target(None) == OnnxRuntimeCompiler().target("cpu") == "cpu"
    with pytest.raises(CompileError, match=r"'cpu'.*found 'sm_87'"):
        OnnxRuntimeCompiler().target("sm_87")


@pytest.mark.parametrize(
    ("target", "backends"),
    [
        ("sm86+sm89", '"tensorrt-rtx"'),
        ("portable", '"tensorrt-rtx"'),
        ("sm87:Orin", '"tensorrt"'),
        ("sm89", '"tensorrt" or "tensorrt-rtx"'),
        ("cpu:Intel AVX2", '"openvino"'),
    ],
)
def test_a_target_of_another_backend_names_that_backend(target, backends):
    with pytest.raises(CompileError) as caught:
        OnnxRuntimeCompiler().target(target)
    assert caught.value.hint == f"leave engine.target out, or choose engine.backend = {backends}"


@pytest.mark.parametrize(
    ("precision", "backends"),
    [
        ("bf16", '"openvino", "tensorrt" or "tensorrt-rtx"'),
        ("fp16", '"tensorrt" or "tensorrt-rtx"'),
    ],
)
def test_a_precision_of_other_backends_names_those(job, precision, backends):
    with pytest.raises(CompileError) as caught:
        OnnxRuntimeCompiler().key_components(replace(job, precision=precision))
    assert caught.value.hint == f'set engine.precision = "fp32", or choose engine.backend = {backends}'


def test_an_unknown_operator_fails_the_compile(tmp_path):
    model = toy_network()
    model.graph.node[1].op_type = "NetVLAD"
    with pytest.raises(CompileError, match="NetVLAD") as caught:
        OnnxRuntimeCompiler().compile(job_of(tmp_path, model), scratch=tmp_path)
    assert caught.value.kind is ErrorKind.COMPILE_FAILED


@pytest.mark.parametrize("domain", ["my.operators", ""])
def test_an_unknown_operator_is_named_with_its_node(tmp_path, domain):
    model = toy_network()
    node = model.graph.node[1]
    node.op_type, node.name, node.domain = "NetVLAD", "pool/1", domain
    if domain:
        model.opset_import.add(domain=domain, version=1)
    with pytest.raises(CompileError, match=r"NetVLAD.*pool/1|pool/1.*NetVLAD"):
        OnnxRuntimeCompiler().compile(job_of(tmp_path, model), scratch=tmp_path)


@pytest.mark.parametrize(
    ("field", "found", "hint"),
    [
        ("opset", r"operator set \d+ of ai.onnx at most.*found 99", r"opset \d+ or older"),
        ("format", r"format \(IR\) version \d+ at most.*found 99", r"ir_version \d+ or older"),
    ],
)
def test_a_network_newer_than_the_library_is_refused_by_its_version(tmp_path, field, found, hint):
    model = toy_network()
    if field == "opset":
        model.opset_import[0].version = 99
    else:
        model.ir_version = 99
    with pytest.raises(CompileError, match=found) as caught:
        OnnxRuntimeCompiler().compile(job_of(tmp_path, model), scratch=tmp_path)
    assert caught.value.kind is ErrorKind.BAD_MODEL
    assert re.search(hint, caught.value.hint)


@pytest.mark.usefixtures("compiled_here")
def test_weights_that_are_listed_as_inputs_are_still_known_to_the_compiler(tmp_path):
    sizes = helper.make_tensor("sizes", TensorProto.INT64, [2], [8, 3])
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["input"], ["pooled"]),
            helper.make_node("Reshape", ["pooled", "sizes"], ["descriptor"]),
        ],
        "as files were before version 4",
        [
            helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", *SAMPLE]),
            helper.make_tensor_value_info("sizes", TensorProto.INT64, [2]),
        ],
        [helper.make_tensor_value_info("descriptor", TensorProto.FLOAT, None)],
        [sizes],
    )
    path = tmp_path / "early.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 8)], ir_version=3)
    path.write_bytes(model.SerializeToString())
    engine = OnnxRuntimeCompiler().compile(job_for(path), scratch=tmp_path)
    assert load(engine).run(golden_inputs((2, *SAMPLE))).shape == (2, 3)


def test_a_tensor_that_nothing_makes_is_named_with_its_node(tmp_path):
    model = toy_network()
    model.graph.node[0].name, model.graph.node[0].input[1] = "first", "nowhere"
    with pytest.raises(CompileError, match=r"'nowhere'.* at node Conv 'first'"):
        OnnxRuntimeCompiler().compile(job_of(tmp_path, model), scratch=tmp_path)


def signature_of(data, **options):
    return parse_declaration(data).signature(**options)


def refusal(model, **options):
    with pytest.raises(CompileError) as caught:
        signature_of(model if isinstance(model, bytes) else model.SerializeToString(), **options)
    assert caught.value.kind is ErrorKind.BAD_MODEL
    assert caught.value.hint
    return caught.value.message


def test_a_signature_names_input_and_output_of_a_network():
    signature = signature_of(toy_network().SerializeToString())
    assert (signature.input.name, signature.input.shape) == ("input", ("N", 3, 64, 64))
    assert (signature.output.name, signature.output.shape) == ("descriptor", ("N", DIMENSIONS))
    assert signature.fixed_batch() is None
    assert signature_of(toy_network(batch=4).SerializeToString()).fixed_batch() == 4


def test_networks_of_another_shape_are_refused_with_a_reason():
    assert "[N,D], found 'descriptor' float [N, 16, 1, 1]" in refusal(toy_network(rank_out=4))
    assert "3 channels, found 'input' float [N, 1, 64, 64]" in refusal(toy_network(channels=1))
    flat = toy_network()
    del flat.graph.input[0].type.tensor_type.shape.dim[0]
    assert "[N,3,H,W]" in refusal(flat)
    integers = toy_network()
    integers.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    assert "found 'input' uint8" in refusal(integers)


def test_several_outputs_need_a_choice():
    model = toy_network(extra_output=True)
    assert "expected one output" in refusal(model)
    assert "expected an output called 'vector'" in refusal(model, output="vector")
    assert signature_of(model.SerializeToString(), output="descriptor").output.name == "descriptor"


@pytest.mark.parametrize("length", [0, 1, 10, 200, 1500, -1])
def test_a_truncated_network_is_refused(length):
    assert "truncated" in refusal(toy_network().SerializeToString()[:length])


@pytest.mark.parametrize("junk", [b"\x89PNG\r\n\x1a\n" * 9, b"PK\x03\x04" + bytes(60), b"{}", bytes(100)])
def test_another_file_is_refused(junk):
    refusal(junk)


GOOD = toy_network().SerializeToString()


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_a_flipped_byte_is_refused_or_read(position, mask):
    data = bytearray(GOOD)
    data[position] ^= mask
    try:
        signature = signature_of(bytes(data))
    except CompileError:
        return
    assert len(signature.input.shape) == 4


def with_external(folder, location="weights.bin", *, offset=0, length=None):
    model = toy_network()
    tensor = model.graph.initializer[0]
    content = tensor.raw_data
    set_external_data(tensor, location, offset=offset, length=len(content) if length is None else length)
    tensor.ClearField("raw_data")
    path = folder / "external.onnx"
    path.write_bytes(model.SerializeToString())
    return path, content


@pytest.mark.usefixtures("compiled_here")
def test_external_weights_enter_the_digest_and_are_compiled(job, tmp_path):
    path, content = with_external(tmp_path, offset=64)
    (tmp_path / "weights.bin").write_bytes(bytes(64) + content)
    before = onnx_digest(path)
    assert before != hashlib.sha256(path.read_bytes()).hexdigest()
    engine = OnnxRuntimeCompiler().compile(job_for(path), scratch=tmp_path)
    (tmp_path / "inline").mkdir()
    inline = OnnxRuntimeCompiler().compile(job, scratch=tmp_path / "inline")
    assert engine.path.read_bytes() == inline.path.read_bytes()
    (tmp_path / "weights.bin").write_bytes(bytes(63) + b"\1" + content)
    assert onnx_digest(path) != before
    with pytest.raises(CompileError, match="changed"):
        read_onnx(path, expected_sha256=before)


@pytest.mark.parametrize(
    "location", ["../weights.bin", "/etc/passwd", "sub/weights.bin", "..", ".", "", "a\\b"]
)
def test_external_weights_elsewhere_are_refused(tmp_path, location):
    path, _ = with_external(tmp_path, location)
    with pytest.raises(CompileError, match="own folder"):
        onnx_digest(path)


def with_external_default(folder):
    """Return a network whose function has an attribute with a default in another file."""
    values = np.full((2, 3, 1, 1), 0.5, np.float32)
    tensor = helper.make_tensor("kernel", TensorProto.FLOAT, values.shape, values.tobytes(), raw=True)
    set_external_data(tensor, "weights.bin", offset=0, length=values.nbytes)
    tensor.ClearField("raw_data")
    constant = helper.make_node("Constant", [], ["w"])
    constant.attribute.add(name="value", ref_attr_name="kernel", type=onnx.AttributeProto.TENSOR)
    function = helper.make_function(
        "own",
        "Mix",
        ["x"],
        ["y"],
        [constant, helper.make_node("Conv", ["x", "w"], ["y"])],
        [helper.make_opsetid("", 17)],
        attribute_protos=[helper.make_attribute("kernel", tensor)],
    )
    graph = helper.make_graph(
        [
            helper.make_node("Mix", ["input"], ["mixed"], domain="own"),
            helper.make_node("GlobalAveragePool", ["mixed"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["descriptor"]),
        ],
        "with a function",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", *SAMPLE])],
        [helper.make_tensor_value_info("descriptor", TensorProto.FLOAT, ["n", 2])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    path = folder / "function.onnx"
    model = helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path, values.tobytes()


@pytest.mark.usefixtures("compiled_here")
def test_external_weights_in_the_default_of_a_function_count_too(tmp_path, monkeypatch):
    # Libraries that get such a network as bytes read the file from the working directory.
    monkeypatch.chdir(tmp_path)
    path, content = with_external_default(tmp_path)
    with pytest.raises(CompileError, match="No such file"):
        onnx_digest(path)
    (tmp_path / "weights.bin").write_bytes(content)
    before = onnx_digest(path)
    model = read_onnx(path, expected_sha256=before)
    assert b"weights.bin" not in model.SerializeToString()
    OnnxRuntimeCompiler().compile(job_for(path), scratch=tmp_path)
    (tmp_path / "weights.bin").write_bytes(bytes(len(content)))
    assert onnx_digest(path) != before


def test_external_weights_through_a_link_or_missing_or_a_pipe_are_refused(tmp_path):
    path, content = with_external(tmp_path)
    with pytest.raises(CompileError, match="No such file"):
        onnx_digest(path)
    (tmp_path / "elsewhere.bin").write_bytes(content)
    (tmp_path / "weights.bin").symlink_to(tmp_path / "elsewhere.bin")
    with pytest.raises(CompileError, match="found a link"):
        onnx_digest(path)
    (tmp_path / "weights.bin").unlink()
    os.mkfifo(tmp_path / "weights.bin")
    with pytest.raises(CompileError, match="regular file"):
        onnx_digest(path)


@pytest.mark.parametrize(("offset", "length"), [(10**9, 4), (0, 10**9), (-4, 4)])
def test_external_weights_beyond_their_file_are_refused(tmp_path, offset, length):
    path, content = with_external(tmp_path, offset=offset, length=length)
    (tmp_path / "weights.bin").write_bytes(content)
    with pytest.raises(CompileError, match="within the"):
        read_onnx(path, expected_sha256=onnx_digest(path))


def test_external_data_of_nested_graphs_is_found(tmp_path):
    path, _ = with_external(tmp_path)
    inner = onnx.load(path, load_external_data=False).graph
    outer = toy_network()
    outer.graph.node.append(helper.make_node("If", ["c"], ["o"], then_branch=inner, else_branch=inner))
    assert parse_declaration(outer.SerializeToString()).external == ("weights.bin",)


def test_golden_images_never_change():
    images = golden_images(2, 40, 56, seed=7)
    assert images.shape == (2, 40, 56, 3)
    assert (
        hashlib.sha256(images.tobytes()).hexdigest()
        == "fa64ef1ec9e9326d4b68b3619b222763c943fbf42e7a9ac38db7d62595f209db"
    )
    assert images.std() > 20
    np.testing.assert_array_equal(
        golden_inputs((2, 3, 40, 56), seed=7), images.transpose(0, 3, 1, 2).astype(np.float32)
    )
    np.testing.assert_array_equal(golden_inputs((2, 40, 56, 3), seed=7), images.astype(np.float32))
    other = golden_inputs((4, 9))
    assert other.dtype == np.float32
    assert len(np.unique(other)) > 10


def rows(*values):
    return lambda _: np.array(values, np.float32)


def test_parity_is_the_worst_cosine():
    ones = np.zeros((2, 1), np.float32)
    assert parity(rows([1, 0], [0, 2]), rows([5, 0], [0, 1]), ones) == 1.0
    assert parity(rows([1, 0], [1, 0]), rows([1, 0], [0, 1]), ones) == 0.0
    assert parity(rows([0, 0], [1, 0]), rows([0, 0], [1, 0]), ones) == 1.0
    assert parity(rows([0, 0], [1, 0]), rows([1, 0], [1, 0]), ones) == -1.0
    assert parity(rows([np.nan, 0], [1, 0]), rows([1, 0], [1, 0]), ones) == -1.0
    assert parity(rows([1, 0]), rows([1, 0], [1, 0]), ones) == -1.0


@pytest.mark.usefixtures("compiled_here")
def test_a_network_whose_rows_depend_on_each_other_is_detected(tmp_path):
    inputs = golden_inputs((3, *SAMPLE))
    engine = OnnxRuntimeCompiler().compile(job_of(tmp_path, batch_coupled_network()), scratch=tmp_path)
    assert batch_invariance(load(engine).run, inputs) > 0.01
    alone = OnnxRuntimeCompiler().compile(
        job_of(tmp_path, batch_coupled_network(), batch=1), scratch=tmp_path
    )
    assert batch_invariance(load(alone, batch=1).run, inputs) == 0


def load_from(engine, **options):
    compiler = OnnxRuntimeCompiler()
    return load_engine(
        engine.path.read_bytes(),
        backend=compiler.backend,
        version=compiler.version,
        input="input",
        output="descriptor",
        batch=8,
        **options,
    )


@pytest.mark.usefixtures("compiled_here")
def test_a_single_sample_costs_a_single_sample(job, tmp_path):
    engine = OnnxRuntimeCompiler().compile(replace(job, single=True), scratch=tmp_path)
    assert engine.signature.input_shape == (8, *SAMPLE)
    alone, together = load_from(engine, single=True), load_from(engine)
    assert (alone.batch, together.batch) == (1, 8)
    samples = golden_inputs((11, *SAMPLE))
    assert np.abs(alone.run(samples) - together.run(samples)).max() < 1e-6
    (tmp_path / "fixed").mkdir()
    fixed = load_from(OnnxRuntimeCompiler().compile(job, scratch=tmp_path / "fixed"), single=True)
    assert fixed.batch == 8
    assert np.array_equal(fixed.run(samples), together.run(samples))


def test_only_an_engine_that_takes_any_batch_has_that_in_its_key(job):
    plain, single = (OnnxRuntimeCompiler().key_components(each) for each in (job, replace(job, single=True)))
    assert difference(plain, single) == ["options.batch"]
    assert "batch" not in plain["options"]


def test_a_network_that_works_at_a_fixed_batch_alone_is_left_with_it(tmp_path):
    """Its input is open, but a shape within it is that of eight samples."""
    model = with_batch_within(toy_network(), 8)
    engine = OnnxRuntimeCompiler().compile(replace(job_of(tmp_path, model), single=True), scratch=tmp_path)
    loaded = load_from(engine, single=True)
    assert loaded.batch == 8
    assert loaded.run(golden_inputs((3, *SAMPLE))).shape == (3, DIMENSIONS)
