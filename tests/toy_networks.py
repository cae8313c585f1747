"""Small ONNX networks for tests."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

DIMENSIONS = 16


def toy_network(
    *, batch="N", size=(64, 64), channels=3, dimensions=DIMENSIONS, seed=0, rank_out=2, extra_output=False
):
    """A convolution, a pooling and a normalisation: images [batch, 3, h, w] to unit vectors [batch, d]."""
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((dimensions, channels, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["input", "weights"], ["conv"], kernel_shape=[3, 3], strides=[2, 2]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("GlobalAveragePool", ["relu"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("LpNormalization", ["flat"], ["descriptor"], axis=1, p=2),
    ]
    shape_out = [batch, dimensions]
    if rank_out == 4:
        nodes = [*nodes[:2], helper.make_node("GlobalAveragePool", ["relu"], ["descriptor"])]
        shape_out = [batch, dimensions, 1, 1]
    outputs = [helper.make_tensor_value_info("descriptor", TensorProto.FLOAT, shape_out)]
    if extra_output:
        outputs.insert(
            0, helper.make_tensor_value_info("relu", TensorProto.FLOAT, [batch, dimensions, None, None])
        )
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, channels, *size])],
        outputs,
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def with_batch_within(model, batch):
    """Return the model with a shape within it that is that of a whole batch, though its input stays open."""
    (flatten,) = (node for node in model.graph.node if node.op_type == "Flatten")
    flatten.op_type = "Reshape"
    flatten.input.append("shape")
    del flatten.attribute[:]
    shape = np.array([batch, DIMENSIONS], np.int64)
    model.graph.initializer.append(numpy_helper.from_array(shape, "shape"))
    return model


def batch_coupled_network():
    """A network whose rows depend on their neighbours: it subtracts the mean over the batch."""
    model = toy_network()
    del model.graph.node[-1]
    model.graph.node.extend(
        [
            helper.make_node("ReduceMean", ["flat"], ["mean"], axes=[0], keepdims=1),
            helper.make_node("Sub", ["flat", "mean"], ["descriptor"]),
        ]
    )
    return model
