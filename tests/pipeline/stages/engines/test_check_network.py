"""Networks that cannot give descriptors are refused by their cause, before they are compiled."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from pipeline.build.report import BuildOutcome
from pipeline.errors import CompileError, RequestError
from pipeline.request.options import AxisOrder, EngineOptions
from pipeline.stages.engines.check_network import require_usable
from store.base.preprocessing import Preprocessing
from store.domain.events import EngineCompiled
from tests.engine_jobs import job_of
from tests.small_builds import Site, spread, tiny_network


def network(*nodes, batch="N", declared=True, **weights):
    """The tiny network with further nodes, which make `descriptor` of `unit`."""
    model = onnx.load_from_string(tiny_network(batch=batch))
    if not declared:
        model.graph.output[0].type.tensor_type.ClearField("shape")
    model.graph.node[-1].output[0] = "unit"
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()
    )
    return model.SerializeToString()


def newer(field):
    model = onnx.load_from_string(network(NODE("Identity", ["unit"], ["descriptor"])))
    if field == "opset":
        model.opset_import[0].version = 99
    else:
        model.ir_version = 99
    return model.SerializeToString()


NODE = helper.make_node
RANDOM = network(
    NODE("Dropout", ["unit", "ratio", "training"], ["descriptor"]), ratio=np.float32(0.3), training=True
)
DEPENDENT = (
    NODE("ReduceMean", ["unit"], ["mean"], axes=[0], keepdims=1),
    NODE("Sub", ["unit", "mean"], ["descriptor"]),
)
MIXED = network(
    *DEPENDENT[:1],
    NODE("Add", ["unit", "mean"], ["sum"]),
    NODE("LpNormalization", ["sum"], ["descriptor"], axis=1, p=2),
)
BAKED = NODE("Reshape", ["unit", "shape"], ["descriptor"])
CASES = {
    "random": (RANDOM, 8, "change from run to run", "evaluation mode"),
    "random, alone": (RANDOM, 1, "change from run to run", "evaluation mode"),
    "neighbours": (MIXED, 8, "depend on their neighbours", "engine.batch = 1"),
    "zero for one image": (network(*DEPENDENT), 8, "depend on their neighbours", "evaluation mode"),
    "zero in a batch of 1": (network(*DEPENDENT), 1, "depend on their neighbours", "evaluation mode"),
    "batch 1 inside": (
        network(BAKED, shape=np.array([1, -1])),
        8,
        "8 images, found 1:",
        "set engine.batch = 1",
    ),
    "length": (
        network(NODE("Mul", ["unit", "three"], ["descriptor"]), three=np.float32(3)),
        8,
        "length 3",
        "L2",
    ),
    "zero": (
        network(NODE("Mul", ["unit", "none"], ["descriptor"]), none=np.float32(0)),
        8,
        "length 0",
        "weights",
    ),
    "one answer": (
        network(
            NODE("Mul", ["unit", "none"], ["nothing"]),
            NODE("Add", ["nothing", "same"], ["descriptor"]),
            none=np.float32(0),
            same=np.full((1, 16), 0.25, np.float32),
        ),
        8,
        "one answer for all",
        "weights",
    ),
    "four dimensions": (
        network(NODE("Unsqueeze", ["unit", "axes"], ["descriptor"]), declared=False, axes=np.array([2, 3])),
        8,
        "float [N,D], found [1, 16, 1, 1]",
        "one output [N,D]",
    ),
    "one dimension": (
        network(NODE("Reshape", ["unit", "all"], ["descriptor"]), declared=False, all=np.array([-1])),
        8,
        "float [N,D], found [16]",
        "one output [N,D]",
    ),
    "slightly random": (
        network(
            NODE("RandomNormalLike", ["unit"], ["noise"], scale=0.003),
            NODE("Add", ["unit", "noise"], ["sum"]),
            NODE("LpNormalization", ["sum"], ["descriptor"], axis=1, p=2),
        ),
        8,
        "change from run to run",
        "evaluation mode",
    ),
    "newer operators": (newer("opset"), 8, "operator set", "or older"),
    "newer format": (newer("format"), 8, "format (IR) version", "or older"),
    "not a number": (
        network(
            NODE("Sqrt", ["minus"], ["root"]),
            NODE("Mul", ["unit", "root"], ["descriptor"]),
            minus=np.float32(-1),
        ),
        8,
        "NaN",
        "mean",
    ),
}


@pytest.fixture
def site(tmp_path):
    made = Site(tmp_path)
    made.write_tiles(spread(2, 2))
    return made


@pytest.mark.parametrize("case", CASES)
def test_what_no_compiler_can_mend_is_refused_by_its_cause(site, case):
    model, batch, found, hint = CASES[case]
    site.write("net.onnx", model)
    error = site.build(engine=EngineOptions(batch=batch)).error
    # A slight dependence shows only in the engine, whose batch always has the same size.
    step = "check" if case == "neighbours" else "engine"
    assert error.step == step
    assert found in error.message
    assert hint in error.hint
    assert ("engine.batch" in error.hint) == ("engine.batch" in hint)
    assert bool(site.events(EngineCompiled)) == (step == "check")


@pytest.mark.parametrize(
    ("model", "batch"),
    [(MIXED, 1), (network(BAKED, shape=np.array([1, -1])), 1), (network(BAKED, shape=np.array([4, -1])), 4)],
    ids=["neighbours, alone", "batch 1 inside", "batch 4 inside"],
)
def test_hints_about_the_batch_mend(site, model, batch):
    site.write("net.onnx", model)
    report = site.build(engine=EngineOptions(batch=batch))
    assert report.outcome is BuildOutcome.BUILT, report.error


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_the_layout_that_a_network_has_is_named(site, layout):
    site.write("net.onnx", tiny_network() if layout == "nchw" else with_channels_last())
    other = {"nchw": "nhwc", "nhwc": "nchw"}[layout]
    with pytest.raises(
        RequestError, match=rf"layout: expected '{layout}'.*found '{other}'.*layout = \"{layout}\""
    ):
        site.build(model={"layout": AxisOrder(other)})
    assert site.build(model={"layout": AxisOrder(layout)}).outcome is BuildOutcome.BUILT


def with_channels_last():
    model = onnx.load_from_string(tiny_network())
    model.graph.node[0].input[0] = "turned"
    model.graph.node.insert(0, NODE("Transpose", ["input"], ["turned"], perm=[0, 3, 1, 2]))
    sizes = model.graph.input[0].type.tensor_type.shape.dim
    sizes[1].dim_value, sizes[3].dim_value = 32, 3
    return model.SerializeToString()


def test_a_network_that_only_another_library_knows_is_refused_before_the_compile(tmp_path):
    """The engine of another library would be compared with what ONNX Runtime answers."""
    model = network(NODE("Unknown", ["unit"], ["descriptor"]))
    preprocessing = Preprocessing(size=(32, 32))
    job = job_of(tmp_path, model, sample_shape=preprocessing.shape, preprocessing=preprocessing)
    require_usable(job)
    with pytest.raises(CompileError, match=r"load toy, found.*Unknown.*compared with it"):
        require_usable(job, loads=True)
