"""Conversion to 16 bits: which nodes convert, which stay float32, and the emulation rounds as the converted graph."""

import hashlib
import itertools

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper

from pipeline.builtin_model.place import place_model
from pipeline.engines.onnx.file import fix_sizes, parse_declaration
from pipeline.engines.precision.convert import (
    RECIPE,
    conversion_document,
    conversion_parity,
    convert,
    cosine,
    emulate,
    sample_feeds,
    worst_node,
)
from pipeline.engines.precision.float16 import LEAST_COSINE, NARROW, least_cosine
from pipeline.errors import CompileError, ErrorKind
from store.base.canonical_json import encode
from store.runtime.golden_vectors import golden_inputs
from tests.examples_tried import examples, mostly_deep
from tests.networks import mobilenet, quantised, vit_b14
from tests.toy_networks import toy_network

onnxruntime = pytest.importorskip("onnxruntime")

FLOAT, HALF, BFLOAT = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16
NARROW_CODE = {"fp16": HALF, "bf16": BFLOAT}


def graph(nodes, weights=(), *, inputs=(("x", (2, 4)),), outputs=("y",), opset=17, functions=(), ir=9):
    """Return a model of nodes as (operator, inputs, outputs, attributes) and weights as (name, array)."""
    made = [
        each
        if isinstance(each, onnx.NodeProto)
        else helper.make_node(*each[:3], name=f"{each[0]}_{place}", **each[3])
        for place, each in enumerate(nodes)
    ]
    return helper.make_model(
        helper.make_graph(
            made,
            "g",
            [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in inputs],
            [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
            [numpy_helper.from_array(np.asarray(array), name) for name, array in weights],
        ),
        opset_imports=[
            helper.make_opsetid("", opset),
            *([helper.make_opsetid("own", 1)] if functions else []),
        ],
        functions=functions,
        ir_version=ir,
    )


def normal(*shape, seed=0, scale=1.0):
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def run(model, feeds):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)


def types(model):
    """Return the element type of every tensor, after strict inference."""
    check = not any(NARROW_CODE["bf16"] == tensor.data_type for tensor in model.graph.initializer)
    known = onnx.shape_inference.infer_shapes(model, check_type=check, strict_mode=True).graph
    found = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for value in (*known.input, *known.value_info, *known.output):
        found[value.name] = value.type.tensor_type.elem_type
    return found


def narrow_operators(model, precision="fp16"):
    """Return the operators of the converted graph that compute in 16 bits, in order, without casts."""
    converted = convert(model, precision)
    known = types(converted)
    return [
        node.op_type
        for node in converted.graph.node
        if node.op_type != "Cast" and known.get(node.output[0]) == NARROW_CODE[precision]
    ]


def batch_of(model, batch, side):
    name = model.graph.input[0].name
    if model.graph.input[0].type.tensor_type.shape.dim[0].WhichOneof("value") != "dim_value":
        signature = parse_declaration(model.SerializeToString()).signature()
        fix_sizes(model, signature, batch=batch, sample_shape=(3, side, side), model_name="m")
    return model, {name: golden_inputs((batch, 3, side, side))}


NETWORKS = {
    "toy": lambda: batch_of(toy_network(), 2, 64),
    "place": lambda: batch_of(onnx.ModelProto.FromString(place_model()), 2, 256),
    "mobilenet": lambda: batch_of(mobilenet(side=64), 2, 64),
    "vit": lambda: batch_of(vit_b14(batch=2, side=56, layers=2, width=96, heads=3), 2, 56),
}


@pytest.mark.parametrize("name", mostly_deep(NETWORKS, "toy", "vit"))
def test_networks_agree_with_themselves_in_16_bits(name):
    model, feeds = NETWORKS[name]()
    for precision in ("fp16", "bf16"):
        measured = conversion_parity(model, precision, feeds)
        assert LEAST_COSINE[precision] < measured < 1
    converted = convert(model, "fp16")
    # This runtime computes the converted graph in float16 or wider; it is closer to the emulation than to fp32.
    real, pretended = run(converted, feeds)[0], run(emulate(model, "fp16"), feeds)[0]
    assert cosine(real, pretended) > 0.99999
    assert {"Conv"} <= set(narrow_operators(model))
    assert len(converted.SerializeToString()) < 0.7 * len(model.SerializeToString())


def test_fp32_is_the_network_itself():
    model = toy_network()
    assert convert(model, "fp32") is model
    assert emulate(model, "fp32") is model
    assert conversion_parity(model, "fp32", {}) == 1.0
    assert worst_node(model, "fp32", {}) is None
    assert conversion_document("fp32") == {}


@pytest.mark.parametrize("call", [convert, emulate, lambda model, precision: conversion_document(precision)])
def test_an_unknown_precision_is_refused(call):
    with pytest.raises(CompileError, match=r"fp16 or bf16, found 'int8'.*QuantizeLinear"):
        call(toy_network(), "int8")


def test_the_key_says_how_networks_are_converted():
    document = conversion_document("fp16")
    encode(document)
    assert document["recipe"] == RECIPE
    assert "MatMul" in document["narrow"]
    assert "Softmax" not in (*document["narrow"], *document["narrow_where_data_is"])


def test_a_threshold_of_the_request_wins():
    assert least_cosine("bf16") == LEAST_COSINE["bf16"] < LEAST_COSINE["fp16"]
    assert least_cosine("bf16", 0.5) == 0.5


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_the_given_model_is_not_changed_and_inputs_and_outputs_stay_float32(precision):
    model, _ = NETWORKS["mobilenet"]()
    before = model.SerializeToString(deterministic=True)
    converted = convert(model, precision)
    assert model.SerializeToString(deterministic=True) == before
    known = types(converted)
    assert known["input"] == known["descriptor"] == FLOAT
    assert [value.name for value in converted.graph.output] == ["descriptor"]
    again = convert(model, precision)
    assert again.SerializeToString(deterministic=True) == converted.SerializeToString(deterministic=True)


def test_a_recipe_always_gives_the_same_graph():
    """Another digest is another graph for the same key: raise RECIPE, then pin the new one."""
    state = hashlib.sha256()
    for model, precision in itertools.product((normalised(), toy_network()), ("fp16", "bf16")):
        converted = convert(model, precision)
        for node in converted.graph.node:
            state.update(f"{node.op_type} {list(node.input)} {list(node.output)}\n".encode())
        for tensor in converted.graph.initializer:
            state.update(f"{tensor.name} {tensor.data_type} {list(tensor.dims)}\n".encode() + tensor.raw_data)
    assert (RECIPE, state.hexdigest()) == (
        1,
        "af5ecddf84240b2c641bafcf601a10017b67d7635c1128b85b01db77a1a9ecfd",
    )


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_the_emulation_rounds_input_weights_and_result(precision):
    weights, sample = normal(4, 3), normal(2, 4, seed=1)
    model = graph([("MatMul", ["x", "w"], ["y"], {})], [("w", weights)])
    rounded = NARROW[precision].rounded
    expected = rounded(rounded(sample) @ rounded(weights))
    np.testing.assert_array_equal(run(emulate(model, precision), {"x": sample})[0], expected)


WIDE = [
    ("Softmax", {"axis": -1}),
    ("ReduceMean", {"axes": [1]}),
    ("ReduceL2", {"axes": [1]}),
    ("LpNormalization", {"axis": 1}),
    ("Exp", {}),
    ("Sqrt", {}),
    ("Reciprocal", {}),
    ("Log", {}),
    ("CumSum", {}),
]


@pytest.mark.parametrize(("operator", "attributes"), WIDE, ids=[name for name, _ in WIDE])
def test_operators_that_lose_accuracy_stay_float32(operator, attributes):
    weights = [("w", normal(4, 4)), ("axis", np.array(1, np.int64))]
    extra = ["axis"] if operator == "CumSum" else []
    model = graph(
        [
            ("MatMul", ["x", "w"], ["a"], {}),
            ("Relu", ["a"], ["r"], {}),
            (operator, ["r", *extra], ["s"], attributes),
            ("Relu", ["s"], ["t"], {}),
            ("MatMul", ["t", "w2"], ["y"], {}),
        ],
        [*weights, ("w2", normal(1 if operator.startswith("Reduce") else 4, 3))],
    )
    assert narrow_operators(model) == ["MatMul", "Relu", "MatMul"]


def test_squares_and_divisions_by_data_stay_float32():
    weights = [("w", normal(4, 4)), ("c", np.float32(3)), ("tiny", np.float32(1e-6))]
    model = graph(
        [
            ("MatMul", ["x", "w"], ["a"], {}),
            ("Mul", ["a", "a"], ["square"], {}),
            ("Div", ["a", "c"], ["third"], {}),
            ("Div", ["a", "tiny"], ["huge"], {}),
            ("Div", ["third", "a"], ["ratio"], {}),
        ],
        weights,
        outputs=("square", "huge", "ratio"),
    )
    assert narrow_operators(model) == ["MatMul", "Div"]


@pytest.mark.parametrize(("precision", "scale"), [("fp16", 1e6), ("fp16", 1e-9)])
def test_weights_out_of_range_keep_their_operator_in_float32(precision, scale):
    model = graph(
        [("MatMul", ["x", "w"], ["a"], {}), ("MatMul", ["a", "v"], ["y"], {})],
        [("w", normal(4, 4, scale=scale)), ("v", normal(4, 4))],
    )
    assert narrow_operators(model, precision) == ["MatMul"]
    assert narrow_operators(model, "bf16") == ["MatMul", "MatMul"]


def test_weights_that_pass_through_other_operators_are_checked_too():
    model = graph(
        [
            ("Identity", ["w"], ["same"], {}),
            ("Transpose", ["same"], ["turned"], {"perm": [1, 0]}),
            ("MatMul", ["x", "turned"], ["y"], {}),
        ],
        [("w", normal(4, 4, scale=1e6))],
    )
    assert narrow_operators(model) == []
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(normal(4, 4), "w"))
    assert "MatMul" in narrow_operators(model)


def test_masks_of_infinity_survive_and_greatest_numbers_keep_their_operator_in_float32():
    for fill, expected in ((-np.inf, ["MatMul", "Add"]), (np.finfo(np.float32).min, ["MatMul"])):
        mask = np.array([[0, fill, 0, fill]], np.float32)
        model = graph(
            [("MatMul", ["x", "w"], ["a"], {}), ("Add", ["a", "mask"], ["y"], {})],
            [("w", normal(4, 4)), ("mask", mask)],
        )
        assert narrow_operators(model) == expected


def test_several_outputs_of_a_split_are_all_narrow():
    model = graph(
        [
            ("MatMul", ["x", "w"], ["a"], {}),
            ("Split", ["a"], ["q", "k"], {"axis": 1}),
            ("Add", ["q", "k"], ["y"], {}),
        ],
        [("w", normal(4, 6))],
        outputs=("y", "k"),
        opset=13,
    )
    assert narrow_operators(model) == ["MatMul", "Split", "Add"]
    sample = {"x": normal(2, 4)}
    for found, expected in zip(run(convert(model, "fp16"), sample), run(model, sample), strict=True):
        assert found.dtype == np.float32
        assert cosine(found, expected) > 0.99999


def test_the_indexes_of_a_pooling_keep_their_type():
    model = graph(
        [
            ("Conv", ["x", "w"], ["a"], {}),
            ("MaxPool", ["a"], ["y", "places"], {"kernel_shape": [2, 2]}),
            ("Cast", ["places"], ["z"], {"to": FLOAT}),
        ],
        [("w", normal(2, 3, 1, 1))],
        inputs=(("x", (1, 3, 4, 4)),),
        outputs=("y", "z"),
    )
    known = types(convert(model, "fp16"))
    assert known["places"] == TensorProto.INT64


def test_quantised_operators_stay_as_they_are():
    model, feeds = batch_of(quantised(), 2, 32)
    converted = convert(model, "fp16")
    assert list(converted.graph.node) == list(model.graph.node)
    assert {t.name: t.raw_data for t in converted.graph.initializer} == {
        t.name: t.raw_data for t in model.graph.initializer
    }
    assert conversion_parity(model, "bf16", feeds) == pytest.approx(1.0, abs=1e-12)


def test_beside_quantised_operators_others_become_narrow():
    step = [("step", np.float32(0.1)), ("zero", np.int8(0))]
    model = graph(
        [
            ("MatMul", ["x", "v"], ["h"], {}),
            ("Relu", ["h"], ["r"], {}),
            ("QuantizeLinear", ["r", "step", "zero"], ["q"], {}),
            ("DequantizeLinear", ["q", "step", "zero"], ["d"], {}),
            ("DequantizeLinear", ["wq", "step", "zero"], ["wd"], {}),
            ("Transpose", ["wd"], ["wt"], {"perm": [1, 0]}),
            ("MatMul", ["d", "wt"], ["m"], {}),
            ("MatMul", ["m", "w"], ["y"], {}),
        ],
        [("v", normal(4, 4)), ("w", normal(4, 4)), ("wq", np.ones((4, 4), np.int8)), *step],
    )
    assert narrow_operators(model) == ["MatMul", "MatMul"]
    converted = convert(model, "fp16")
    quantised_product = next(node for node in converted.graph.node if node.output[0] == "m")
    assert list(quantised_product.input) == ["d", "wt"]


def test_nested_graphs_stay_float32_and_see_float32_tensors():
    body = helper.make_graph(
        [helper.make_node("Mul", ["a", "w_inner"], ["inner"])],
        "body",
        [],
        [helper.make_tensor_value_info("inner", FLOAT, None)],
        [numpy_helper.from_array(np.float32(2), "w_inner")],
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["other"])],
        "other",
        [],
        [helper.make_tensor_value_info("other", FLOAT, None)],
    )
    model = graph(
        [
            ("MatMul", ["x", "w"], ["a"], {}),
            ("Relu", ["a"], ["r"], {}),
            ("If", ["yes"], ["c"], {"then_branch": body, "else_branch": other}),
            ("Add", ["c", "r"], ["y"], {}),
        ],
        [("w", normal(4, 4)), ("yes", np.ones((), bool))],
        inputs=(("x", (4, 4)),),
    )
    converted = convert(model, "fp16")
    branch = next(node for node in converted.graph.node if node.op_type == "If")
    assert branch == model.graph.node[2]
    sample = {"x": normal(4, 4, seed=3)}
    assert cosine(run(converted, sample)[0], run(model, sample)[0]) > 0.99999
    assert conversion_parity(model, "bf16", sample) > 0.999


def test_a_tensor_that_is_needed_twice_is_cast_once():
    model = graph(
        [
            ("MatMul", ["x", "w"], ["a"], {}),
            ("MatMul", ["x", "w"], ["b"], {}),
            ("Exp", ["a"], ["c"], {}),
            ("Sqrt", ["a"], ["d"], {}),
            ("Add", ["c", "w"], ["e"], {}),
        ],
        [("w", normal(4, 4))],
        inputs=(("x", (4, 4)),),
        outputs=("b", "d", "e"),
    )
    converted = convert(model, "fp16")
    assert sorted(node.input[0] for node in converted.graph.node if node.op_type == "Cast") == [
        "a/fp16",
        "b/fp16",
        "x",
    ]
    assert sorted(tensor.name for tensor in converted.graph.initializer) == ["w", "w/fp16"]
    types(converted)


def test_names_in_use_are_not_used_again():
    model = graph(
        [
            ("Relu", ["x"], ["w/fp16"], {}),
            ("MatMul", ["w/fp16", "w"], ["x/fp16"], {}),
            ("Exp", ["x/fp16"], ["y"], {}),
        ],
        [("w", normal(4, 4))],
    )
    converted = convert(model, "fp16")
    sample = {"x": normal(2, 4)}
    assert cosine(run(converted, sample)[0], run(model, sample)[0]) > 0.9999


def test_functions_that_a_model_defines_are_converted_with_it():
    function = helper.make_function(
        "own",
        "Layer",
        ["a", "b"],
        ["c"],
        [helper.make_node("MatMul", ["a", "b"], ["c"])],
        [helper.make_opsetid("", 17)],
    )
    node = helper.make_node("Layer", ["x", "w"], ["y"], domain="own", name="layer")
    model = graph([node], [("w", normal(4, 4))], functions=[function])
    assert "MatMul" in narrow_operators(model)


def test_unknown_operators_stay_float32():
    node = helper.make_node("Mystery", ["a"], ["b"], domain="own")
    model = graph(
        [
            ("MatMul", ["x", "w"], ["a"], {}),
            node,
            ("MatMul", ["b", "w"], ["c"], {}),
            ("MatMul", ["a", "w"], ["y"], {}),
        ],
        [("w", normal(4, 4))],
        outputs=("c", "y"),
    )
    model.opset_import.append(helper.make_opsetid("own", 1))
    by_output = {name: node for node in convert(model, "fp16").graph.node for name in node.output}
    # The output type of an unknown operator is unknown, so it is not converted.
    assert list(by_output["c"].input) == ["b", "w"]
    assert list(by_output["b"].input) == ["a"]
    assert list(by_output["y/fp16"].input) == ["a/fp16", "w/fp16"]


def test_weights_that_are_listed_as_inputs_are_weights():
    model = graph(
        [("MatMul", ["x", "w"], ["y"], {})],
        [("w", normal(4, 4))],
        inputs=(("x", (2, 4)), ("w", (4, 4))),
        ir=3,
        opset=9,
    )
    converted = convert(model, "fp16")
    assert [value.name for value in converted.graph.input] == ["x"]
    assert [tensor.name for tensor in converted.graph.initializer] == ["w/fp16"]


def test_old_operator_sets_have_no_bfloat16():
    model = graph([("MatMul", ["x", "w"], ["y"], {})], [("w", normal(4, 4))], opset=11)
    assert narrow_operators(model, "fp16") == ["MatMul"]
    with pytest.raises(CompileError, match=r"operator set 13 or later for bf16, found 11") as caught:
        convert(model, "bf16")
    assert caught.value.kind is ErrorKind.BAD_MODEL


def test_weights_shorter_than_their_shape_are_refused():
    model = graph([("MatMul", ["x", "w"], ["y"], {})], [("w", normal(4, 4))])
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-4]
    with pytest.raises(CompileError, match="weights 'w'") as caught:
        convert(model, "fp16")
    assert caught.value.kind is ErrorKind.BAD_MODEL


def normalised(*, training=0, twice=False, bias=True):
    nodes = [
        ("Conv", ["x", "w", *(["b"] if bias else [])], ["a"], {}),
        (
            "BatchNormalization",
            ["a", "scale", "shift", "mean", "variance"],
            ["n", *(["m", "v"] if training else [])],
            {"epsilon": 1e-3, "training_mode": training},
        ),
        ("Relu", ["n"], ["r"], {}),
        ("Conv", ["r", "w2"], ["y"], {}),
    ]
    weights = [
        ("w", normal(5, 3, 3, 3)),
        ("b", normal(5, seed=1)),
        ("scale", normal(5, seed=2) + 2),
        ("shift", normal(5, seed=3)),
        ("mean", normal(5, seed=4)),
        ("variance", np.abs(normal(5, seed=5)) + np.float32(0.1)),
        ("w2", normal(2, 5, 1, 1, seed=6)),
    ]
    return graph(nodes, weights, inputs=(("x", (1, 3, 6, 6)),), outputs=("y", "a") if twice else ("y",))


@pytest.mark.parametrize("bias", [True, False])
def test_a_normalisation_is_folded_into_the_convolution_before_it(bias):
    model = normalised(bias=bias)
    assert narrow_operators(model) == ["Conv", "Relu", "Conv"]
    sample = {"x": normal(1, 3, 6, 6, seed=9)}
    assert cosine(run(convert(model, "fp16"), sample)[0], run(model, sample)[0]) > 0.99999


@pytest.mark.parametrize("options", [{"twice": True}, {"training": 1}])
def test_a_normalisation_that_cannot_be_folded_stays_float32(options):
    model = normalised(**options)
    assert narrow_operators(model) == ["Conv", "Conv"]
    kept = [node for node in convert(model, "fp16").graph.node if node.op_type == "BatchNormalization"]
    assert [list(node.input)[:2] for node in kept] == [["a", "scale"]]


def test_the_node_that_overflows_is_named():
    model = graph(
        [
            ("MatMul", ["x", "w"], ["small"], {}),
            ("MatMul", ["small", "large"], ["big"], {}),
            ("MatMul", ["big", "w"], ["y"], {}),
        ],
        [("w", normal(4, 4)), ("large", np.full((4, 4), 6e4, np.float32))],
    )
    feeds = {"x": np.full((2, 4), 50, np.float32)}
    assert conversion_parity(model, "fp16", feeds) == -1.0
    worst = worst_node(model, "fp16", feeds)
    assert (worst.name, worst.operator, worst.cosine) == ("MatMul_1", "MatMul", -1.0)
    assert str(worst) == "MatMul 'MatMul_1' (cosine -1.000000)"
    assert conversion_parity(model, "bf16", feeds) > 0.99


def test_a_network_that_cannot_run_is_a_bad_model():
    model = graph([("MatMul", ["x", "w"], ["y"], {})], [("w", normal(4, 4))])
    with pytest.raises(CompileError, match="ONNX Runtime can run") as caught:
        conversion_parity(model, "fp16", {"x": normal(2, 5)})
    assert caught.value.kind is ErrorKind.BAD_MODEL


def test_auxiliary_networks_get_values_for_every_input():
    model = graph(
        [("Gather", ["x", "place"], ["y"], {"axis": 0})],
        inputs=(("x", ("n", 4)),),
    )
    model.graph.input.append(helper.make_tensor_value_info("place", TensorProto.INT64, [1]))
    feeds = sample_feeds(model, {"x": (3, 4)})
    assert {name: (array.shape, str(array.dtype)) for name, array in feeds.items()} == {
        "x": ((3, 4), "float32"),
        "place": ((1,), "int64"),
    }
    assert sample_feeds(model)["x"].shape == (1, 4)
    assert run(model, feeds)[0].shape == (1, 4)


def test_cosines_of_unusual_values():
    one = np.ones((2, 3), np.float32)
    assert cosine(one, one[:1]) == -1.0
    assert cosine(one * np.nan, one) == -1.0
    assert cosine(one * 0, one * 0) == 1.0
    assert cosine(one * 0, one) == -1.0
    assert cosine(np.float32(2.0), np.float32(3.0)) == 1.0
    assert cosine(one[:, :0], one[:, :0]) == 1.0


@given(
    hnp.arrays(np.float32, st.integers(0, 20), elements=st.floats(width=32, allow_nan=False)),
    st.sampled_from(["fp16", "bf16"]),
)
def test_rounding_is_what_the_type_stores(values, precision):
    import ml_dtypes

    narrow = NARROW[precision]
    dtype = np.dtype(np.float16) if precision == "fp16" else np.dtype(ml_dtypes.bfloat16)
    with np.errstate(over="ignore"):
        expected = values.astype(dtype)
    assert narrow.encode(values) == expected.tobytes()
    np.testing.assert_array_equal(narrow.rounded(values), expected.astype(np.float32))
    np.testing.assert_array_equal(narrow.rounded(narrow.rounded(values)), narrow.rounded(values))
    assert (
        not narrow.holds(values)
        or np.isfinite(expected.astype(np.float32)).all() == np.isfinite(values).all()
    )


UNARY = ["Relu", "Abs", "Neg", "Tanh", "Sigmoid", "Softmax", "Identity", "HardSwish", "Exp"]
BINARY = ["Add", "Sub", "Mul", "Max", "MatMul", "Concat"]


@st.composite
def random_graphs(draw):
    """Draw operators on [4, 4] matrices; each may use any earlier result, or a weight."""
    known, nodes, weights = (
        ["x"],
        [],
        [(f"w{number}", normal(4, 4, seed=number, scale=0.4)) for number in range(2)],
    )
    for number in range(draw(st.integers(1, 9))):
        names = st.sampled_from([*known, "w0", "w1"])
        operator = draw(st.sampled_from([*UNARY, *BINARY]))
        result = f"t{number}"
        if operator == "Concat":
            nodes.append(("Concat", [draw(names), draw(names)], [f"{result}_long"], {"axis": 0}))
            nodes.append(("Slice", [f"{result}_long", "from", "to"], [result], {}))
        else:
            inputs = [draw(names)] + ([draw(names)] if operator in BINARY else [])
            nodes.append((operator, inputs, [result], {}))
        known.append(result)
    outputs = draw(st.lists(st.sampled_from(known[1:]), min_size=1, max_size=3, unique=True))
    bounds = [("from", np.array([0], np.int64)), ("to", np.array([4], np.int64))]
    return graph(nodes, [*weights, *bounds], inputs=(("x", (4, 4)),), outputs=tuple(outputs))


@settings(max_examples=examples(60), deadline=None)
@given(random_graphs())
def test_any_graph_stays_well_typed_and_the_emulation_agrees_with_it(model):
    sample = {"x": normal(4, 4, seed=5)}
    converted = convert(model, "fp16")
    types(converted)
    real, pretended = run(converted, sample), run(emulate(model, "fp16"), sample)
    for found, expected in zip(real, pretended, strict=True):
        assert found.dtype == expected.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=2e-2, atol=2e-2)


@pytest.mark.rtx
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_explicit_quantisation_reaches_the_compiler_for_gpus_unchanged(precision):
    trt = pytest.importorskip("tensorrt_rtx", reason="needs TensorRT for RTX: pip install 'c10[rtx]'")
    model, _ = batch_of(quantised(), 2, 32)
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(convert(model, precision).SerializeToString())
    layers = [network.get_layer(number) for number in range(network.num_layers)]
    for kind, operator in (
        (trt.LayerType.QUANTIZE, "QuantizeLinear"),
        (trt.LayerType.DEQUANTIZE, "DequantizeLinear"),
    ):
        found = [layer for layer in layers if layer.type == kind]
        assert len(found) == sum(node.op_type == operator for node in model.graph.node) == 4
        ends = {(layer.get_input(0).dtype, layer.get_output(0).dtype) for layer in found}
        expected = (trt.float32, trt.int8) if operator == "QuantizeLinear" else (trt.int8, trt.float32)
        assert ends == {expected}
    config = builder.create_builder_config()
    assert builder.build_serialized_network(network, config) is not None
