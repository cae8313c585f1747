"""Sizes that a network leaves open: fixed by the job, given by a profile, or refused."""

from pathlib import Path

import pytest
from onnx import TensorProto, helper

from pipeline.engines.onnx.input_shapes import set_input_sizes
from pipeline.engines.port import EngineJob, ShapeRange
from pipeline.errors import CompileError, ErrorKind
from tests.networks import with_open_size
from tests.toy_networks import toy_network

SAMPLE = (3, 64, 64)


def job_of(role="descriptor", **fields):
    settings = {
        "model": "toy",
        "role": role,
        "onnx": Path("toy.onnx"),
        "onnx_sha256": "0" * 64,
        "input": "input",
        "output": "descriptor",
        "sample_shape": SAMPLE if role == "descriptor" else (),
        "target": "portable",
    } | fields
    return EngineJob(**settings)


def around(least, usual, most, sample=SAMPLE):
    return ShapeRange(min=(least, *sample), opt=(usual, *sample), max=(most, *sample))


def sizes(model, name="input"):
    (value,) = (each for each in model.graph.input if each.name == name)
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def refusal(model, job):
    with pytest.raises(CompileError) as caught:
        set_input_sizes(model, job)
    assert caught.value.kind is ErrorKind.BAD_MODEL
    assert caught.value.hint
    return caught.value.message


def test_a_descriptor_network_gets_its_batch():
    model = toy_network()
    assert set_input_sizes(model, job_of(batch=4)) == []
    assert sizes(model) == [4, *SAMPLE]


def test_a_profile_leaves_the_batch_open():
    model = toy_network()
    profile = around(1, 8, 32)
    assert set_input_sizes(model, job_of(profile=profile)) == [{"input": profile}]
    assert sizes(model) == ["batch", *SAMPLE]
    model = toy_network()
    assert set_input_sizes(model, job_of(profile=around(8, 8, 8))) == []
    assert sizes(model) == [8, *SAMPLE]


@pytest.mark.parametrize("profile", [None, around(1, 8, 32), around(4, 8, 8)])
def test_a_single_sample_has_a_profile_of_its_own_after_that_of_the_batch(profile):
    model = toy_network()
    found = set_input_sizes(model, job_of(profile=profile, single=True))
    assert found == [{"input": profile or around(8, 8, 8)}, {"input": around(1, 1, 1)}]
    assert sizes(model) == ["batch", *SAMPLE]


@pytest.mark.parametrize(
    "profile",
    [
        around(9, 16, 32),
        around(1, 4, 7),
        around(1, 8, 8, (3, 32, 32)),
        ShapeRange(min=(1, 3, 32, 64), opt=(8, 3, 64, 64), max=(8, 3, 64, 64)),
        ShapeRange(min=(1,), opt=(8,), max=(8,)),
    ],
)
def test_a_profile_that_does_not_fit_the_images_is_refused(profile):
    assert "[8, 3, 64, 64]" in refusal(toy_network(), job_of(profile=profile))


def test_a_profile_for_a_fixed_batch_is_refused():
    assert "fixes a batch of 8" in refusal(toy_network(batch=8), job_of(profile=around(1, 8, 16)))


def test_an_auxiliary_network_takes_the_batch_and_asks_for_the_rest():
    model = toy_network()
    assert set_input_sizes(model, job_of("auxiliary", batch=2)) == []
    assert sizes(model) == [2, *SAMPLE]
    assert "axis 2 of the input 'input'" in refusal(with_open_size(), job_of("auxiliary"))


def test_an_auxiliary_network_takes_a_profile():
    model = with_open_size()
    profile = ShapeRange(min=(1, 3, 32, 64), opt=(1, 3, 64, 64), max=(1, 3, 128, 64))
    assert set_input_sizes(model, job_of("auxiliary", profile=profile)) == [{"input": profile}]
    assert sizes(model) == [1, 3, "height", 64]
    wrong = ShapeRange(min=(1, 4, 32, 64), opt=(1, 4, 64, 64), max=(1, 4, 128, 64))
    assert "expected 3 along axis 1" in refusal(with_open_size(), job_of("auxiliary", profile=wrong))
    short = ShapeRange(min=(1, 3), opt=(1, 3), max=(1, 3))
    assert "expected a profile with 4 sizes" in refusal(with_open_size(), job_of("auxiliary", profile=short))


def two_inputs(first, second):
    graph = helper.make_graph(
        [helper.make_node("Add", ["input", "mask"], ["descriptor"])],
        "two",
        [
            helper.make_tensor_value_info("mask", TensorProto.FLOAT, second),
            helper.make_tensor_value_info("input", TensorProto.FLOAT, first),
        ],
        [helper.make_tensor_value_info("descriptor", TensorProto.FLOAT, first)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def test_a_nameless_axis_is_not_the_batch():
    model = two_inputs([None, 8], [None, None])
    assert "axis 1 of the input 'mask'" in refusal(model, job_of("auxiliary"))


def test_other_inputs_share_named_sizes_and_the_batch():
    profile = ShapeRange(min=(1, 4), opt=(2, 8), max=(3, 16))
    model = two_inputs(["n", "length"], ["n", "length"])
    assert set_input_sizes(model, job_of("auxiliary", profile=profile)) == [
        {"input": profile, "mask": profile}
    ]
    model = two_inputs(["n", 8], ["m", 8])
    assert set_input_sizes(model, job_of("auxiliary", batch=2)) == []
    assert sizes(model, "mask") == [2, 8]
    assert "'mask'" in refusal(
        two_inputs(["n", "length"], ["n", "other"]), job_of("auxiliary", profile=profile)
    )
    unknown = two_inputs(["n", 8], ["n", 8])
    unknown.graph.input[0].type.tensor_type.ClearField("shape")
    assert "known rank" in refusal(unknown, job_of("auxiliary"))
