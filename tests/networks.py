"""Networks of well-known shapes with random weights, the same on every run, without any download.

They take images [batch, 3, side, side] as `input` and give unit vectors [batch, d] as `descriptor`, as C10's
descriptor networks do. Weights are scaled so that activations neither vanish nor overflow, also in 16 bits.
"""

import math

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17


class Drawing:
    """A graph under construction: each call adds a node and returns the name of its output."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.nodes = []
        self.weights = []

    def constant(self, values):
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def random(self, *shape, fan_in):
        scale = np.float32(math.sqrt(1.0 / fan_in))
        return self.constant(self.rng.standard_normal(shape, dtype=np.float32) * scale)

    def node(self, operator, *inputs, **attributes):
        result = f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [result], name=result, **attributes))
        return result

    def convolution(self, data, width, out, kernel, *, stride=1, groups=1, gain=2.0):
        fan_in = width // groups * kernel * kernel / gain
        weights = self.random(out, width // groups, kernel, kernel, fan_in=fan_in)
        bias = self.constant(np.zeros(out, np.float32))
        edge = kernel // 2
        return self.node(
            "Conv",
            data,
            weights,
            bias,
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[edge] * 4,
            group=groups,
        )

    def linear(self, data, width, out):
        product = self.node("MatMul", data, self.random(width, out, fan_in=width))
        return self.node("Add", product, self.constant(np.zeros(out, np.float32)))

    def finished(self, data, *, batch, side, dimensions):
        self.nodes.append(
            helper.make_node("LpNormalization", [data], ["descriptor"], name="unit", axis=1, p=2)
        )
        graph = helper.make_graph(
            self.nodes,
            "network",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, side, side])],
            [helper.make_tensor_value_info("descriptor", TensorProto.FLOAT, [batch, dimensions])],
            self.weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)


def resnet50(*, batch="N", side=224, dimensions=512, seed=50):
    """Four stages of 3, 4, 6 and 3 bottlenecks (He et al. 2015), average pooling, a projection."""
    draw = Drawing(seed)
    data = draw.node("Relu", draw.convolution(scaled(draw), 3, 64, 7, stride=2))
    data = draw.node("MaxPool", data, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    width = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        inner = 64 << stage
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            branch = draw.node("Relu", draw.convolution(data, width, inner, 1))
            branch = draw.node("Relu", draw.convolution(branch, inner, inner, 3, stride=stride))
            # A small gain, so that sixteen additions do not let the numbers grow.
            branch = draw.convolution(branch, inner, 4 * inner, 1, gain=0.2)
            if not block:
                data = draw.convolution(data, width, 4 * inner, 1, stride=stride, gain=1.0)
            data = draw.node("Relu", draw.node("Add", branch, data))
            width = 4 * inner
    data = draw.node("Flatten", draw.node("GlobalAveragePool", data))
    return draw.finished(draw.linear(data, width, dimensions), batch=batch, side=side, dimensions=dimensions)


def vit_b14(*, batch="N", side=224, layers=12, width=768, heads=12, seed=14):
    """A vision transformer with patches of 14 pixels (Dosovitskiy et al. 2020), pre-norm, mean over patches."""
    draw = Drawing(seed)
    count, patch = (side // 14) ** 2, 14

    def norm(data):
        ones, zeros = np.ones(width, np.float32), np.zeros(width, np.float32)
        return draw.node(
            "LayerNormalization", data, draw.constant(ones), draw.constant(zeros), axis=-1, epsilon=1e-6
        )

    def split(data, order):
        shape = draw.constant(np.array([0, count, heads, width // heads], np.int64))
        return draw.node("Transpose", draw.node("Reshape", data, shape), perm=order)

    weights = draw.random(width, 3, patch, patch, fan_in=3 * patch * patch)
    data = draw.node("Conv", scaled(draw), weights, kernel_shape=[patch] * 2, strides=[patch] * 2)
    data = draw.node("Reshape", data, draw.constant(np.array([0, width, count], np.int64)))
    data = draw.node("Transpose", data, perm=[0, 2, 1])
    data = draw.node("Add", data, draw.random(1, count, width, fan_in=2500))
    for _ in range(layers):
        seen = norm(data)
        query, key, value = (
            split(draw.linear(seen, width, width), order)
            for order in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
        )
        scale = draw.constant(np.float32((width // heads) ** -0.5))
        scores = draw.node("Softmax", draw.node("Mul", draw.node("MatMul", query, key), scale), axis=-1)
        mixed = draw.node("Transpose", draw.node("MatMul", scores, value), perm=[0, 2, 1, 3])
        joined = draw.node("Reshape", mixed, draw.constant(np.array([0, count, width], np.int64)))
        data = draw.node("Add", data, draw.linear(joined, width, width))
        wide = draw.linear(norm(data), width, 4 * width)
        data = draw.node("Add", data, draw.linear(gelu(draw, wide), 4 * width, width))
    data = draw.node("ReduceMean", norm(data), axes=[1], keepdims=0)
    return draw.finished(data, batch=batch, side=side, dimensions=width)


def mobilenet(*, batch="N", side=224, dimensions=256, seed=2):
    """Inverted residuals with depthwise convolutions, squeeze-and-excite and hard swish (Howard et al. 2019)."""
    draw = Drawing(seed)
    data = draw.node("HardSwish", draw.convolution(scaled(draw), 3, 16, 3, stride=2))
    width = 16
    plan = ((16, 1, 2), (24, 4, 2), (24, 4, 1), (40, 4, 2), (40, 6, 1), (80, 6, 2), (96, 6, 1), (96, 6, 1))
    for number, (out, growth, stride) in enumerate(plan):
        inner = width * growth
        branch = draw.convolution(data, width, inner, 1)
        branch = clipped(draw, branch) if number < 3 else draw.node("HardSwish", branch)
        branch = draw.convolution(branch, inner, inner, 3 if number < 3 else 5, stride=stride, groups=inner)
        branch = draw.node("HardSwish", branch)
        if number >= 3:
            squeezed = draw.node("GlobalAveragePool", branch)
            squeezed = draw.node("Relu", draw.convolution(squeezed, inner, inner // 4, 1))
            gate = draw.node("HardSigmoid", draw.convolution(squeezed, inner // 4, inner, 1), alpha=1 / 6)
            branch = draw.node("Mul", branch, gate)
        branch = draw.convolution(branch, inner, out, 1, gain=1.0)
        data = draw.node("Add", branch, data) if stride == 1 and width == out else branch
        width = out
    data = draw.node("Flatten", draw.node("GlobalAveragePool", data))
    return draw.finished(draw.linear(data, width, dimensions), batch=batch, side=side, dimensions=dimensions)


def unsupported(*, batch="N", side=32):
    """Return a network with two operators that no GPU compiler takes: a determinant and an unknown one."""
    draw = Drawing(0)
    data = draw.node("AveragePool", "input", kernel_shape=[8, 8], strides=[8, 8])
    determinant = draw.node("Det", data)
    clusters = draw.node("NetVLAD", determinant, domain="my.operators")
    model = draw.finished(clusters, batch=batch, side=side, dimensions=3)
    model.opset_import.append(helper.make_opsetid("my.operators", 1))
    return model


def quantised(*, batch="N", side=32, dimensions=16):
    """Return a network with explicit 8-bit quantisation around a convolution and a matrix product."""
    draw = Drawing(8)

    def rounded(data, scale):
        step, zero = draw.constant(np.float32(scale)), draw.constant(np.int8(0))
        return draw.node("DequantizeLinear", draw.node("QuantizeLinear", data, step, zero), step, zero)

    weights = draw.random(dimensions, 3, 3, 3, fan_in=27)
    data = draw.node(
        "Conv", rounded(scaled(draw), 0.02), rounded(weights, 0.01), kernel_shape=[3, 3], strides=[2, 2]
    )
    data = draw.node("Flatten", draw.node("GlobalAveragePool", draw.node("Relu", data)))
    mixed = draw.node(
        "MatMul", rounded(data, 0.02), rounded(draw.random(dimensions, dimensions, fan_in=dimensions), 0.01)
    )
    return draw.finished(mixed, batch=batch, side=side, dimensions=dimensions)


def scaled(draw):
    """Scale pixels of 0 to 255 to numbers around zero."""
    return draw.node(
        "Mul", draw.node("Sub", "input", draw.constant(np.float32(127.5))), draw.constant(np.float32(1 / 64))
    )


def gelu(draw, data):
    half, root, one = (draw.constant(np.float32(value)) for value in (0.5, math.sqrt(0.5), 1.0))
    bell = draw.node("Add", draw.node("Erf", draw.node("Mul", data, root)), one)
    return draw.node("Mul", draw.node("Mul", data, half), bell)


def clipped(draw, data):
    return draw.node("Clip", data, draw.constant(np.float32(0)), draw.constant(np.float32(6)))


def with_open_size():
    """Return an auxiliary network whose image may have any size."""
    draw = Drawing(1)
    data = draw.node("Relu", draw.convolution("input", 3, 8, 3))
    model = draw.finished(draw.node("GlobalAveragePool", data), batch="N", side=32, dimensions=8)
    for axis, name in ((2, "height"), (3, "width")):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


def checked(model):
    """Return the model after the ONNX checker has accepted it."""
    onnx.checker.check_model(model)
    return model
