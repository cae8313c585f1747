"""Networks that compute with 8-bit integers, each kind that exporters write, with weights at the ends of their type.

Sums of two such products overflow in 16 bits. They take images [N, 3, 32, 32] as `input` and give `descriptor`.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SAMPLE = (3, 32, 32)
NODE = helper.make_node
_OUT = 12
_FLAT = 192
_CUSTOM = "com.microsoft"


def extreme(rng, shape, kind):
    """Weights near the ends of a type, most of them at the upper one."""
    ends = np.iinfo(kind)
    near = rng.integers(0, 8, shape)
    return np.where(rng.random(shape) < 0.7, ends.max - near, ends.min + near).astype(kind)


def network(nodes, weights, *, functions=(), opset=21):
    """A network of nodes, which end in a picture `map` or in a vector `row`."""
    made = {name for node in nodes for name in node.output}
    if "map" in made:
        nodes = [*nodes, NODE("GlobalAveragePool", ["map"], ["pooled"]), NODE("Flatten", ["pooled"], ["row"])]
    nodes = [*nodes, NODE("LpNormalization", ["row"], ["descriptor"], axis=1, p=2)]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", *SAMPLE])],
        [helper.make_tensor_value_info("descriptor", TensorProto.FLOAT, ["N", None])],
        [
            each if isinstance(each, onnx.TensorProto) else numpy_helper.from_array(np.asarray(each), name)
            for name, each in weights.items()
        ],
    )
    domains = {node.domain for node in nodes} - {""}
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(each, 1) for each in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=[*functions])


def _scales(rng, columns):
    return (rng.random(columns) * 0.01 + 0.001).astype(np.float32)


def _rounded(name, result, scale, zero):
    return [
        NODE("QuantizeLinear", [name, scale, zero], [f"{result}_q"]),
        NODE("DequantizeLinear", [f"{result}_q", scale, zero], [result]),
    ]


def _ends(kind, out_scale):
    """Scale and zero point of the input and of the result."""
    signed = kind == np.int8
    zeros = {"zx": np.array(-123 if signed else 3, kind), "zy": np.array(-20 if signed else 100, kind)}
    return {"sx": np.float32(1), "sy": np.float32(out_scale), **zeros}


_FLATTEN = [
    NODE("AveragePool", ["input"], ["small"], kernel_shape=[4, 4], strides=[4, 4]),
    NODE("Flatten", ["small"], ["flat"]),
]
_INTO_MAP = [
    NODE("QuantizeLinear", ["input", "sx", "zx"], ["x"]),
    NODE("DequantizeLinear", ["y", "sy", "zy"], ["map"]),
]
_CONVOLUTION = ["x", "sx", "zx", "w", "sw", "zw", "sy", "zy", "b"]


def qlinear_conv(pixels=np.uint8, weights=np.int8, *, channels=True, groups=1, opset=21):
    rng = np.random.default_rng(1)
    node = NODE("QLinearConv", _CONVOLUTION, ["y"], pads=[1] * 4, group=groups, name="convolution")
    zero = rng.integers(0, 100, _OUT) if weights == np.uint8 else np.zeros(_OUT)
    values = {
        **_ends(pixels, 4),
        "w": extreme(rng, (_OUT, 3 // groups, 3, 3), weights),
        "sw": _scales(rng, _OUT) if channels else np.float32(0.004),
        "zw": (zero if channels else zero[0]).astype(weights),
        "b": rng.integers(-30_000, 30_000, _OUT).astype(np.int32),
    }
    return network([_INTO_MAP[0], node, _INTO_MAP[1]], values, opset=opset)


def qlinear_matmul(left=np.uint8, right=np.int8, *, columns=True):
    rng = np.random.default_rng(2)
    values = {
        **_ends(left, 30),
        "w": extreme(rng, (_FLAT, _OUT), right),
        "sw": _scales(rng, _OUT) if columns else np.float32(0.004),
        "zw": np.zeros(_OUT if columns else (), right),
    }
    nodes = [
        *_FLATTEN,
        NODE("QuantizeLinear", ["flat", "sx", "zx"], ["x"]),
        NODE("QLinearMatMul", ["x", "sx", "zx", "w", "sw", "zw", "sy", "zy"], ["y"]),
        NODE("DequantizeLinear", ["y", "sy", "zy"], ["row"]),
    ]
    return network(nodes, values)


def dynamic(operator="MatMulInteger", weights=np.int8, *, columns=False):
    rng = np.random.default_rng(3)
    matrix = operator == "MatMulInteger"
    shape = (_FLAT, _OUT) if matrix else (_OUT, 3, 3, 3)
    values = {
        "w": extreme(rng, shape, weights),
        "zw": (rng.integers(1, 9, _OUT) if columns else np.array(5)).astype(weights),
        "sw": np.float32(0.01),
    }
    nodes = [
        *_FLATTEN,
        NODE("DynamicQuantizeLinear", ["flat" if matrix else "input"], ["x", "sx", "zx"]),
        NODE(operator, ["x", "w", "zx", "zw"], ["sums"], name="product"),
        NODE("Cast", ["sums"], ["floats"], to=TensorProto.FLOAT),
        NODE("Mul", ["sx", "sw"], ["scale"]),
        NODE("Mul", ["floats", "scale"], ["row" if matrix else "map"]),
    ]
    return network(nodes, values, opset=17)


def qdq(pixels=np.uint8, weights=np.int8, *, opset=21):
    """Pairs of QuantizeLinear and DequantizeLinear around a convolution, twice after each other, and an addition."""
    rng = np.random.default_rng(4)
    values = {
        **_ends(pixels, 4),
        "w": extreme(rng, (_OUT, 3, 3, 3), weights),
        "sw": _scales(rng, _OUT),
        "zw": np.zeros(_OUT, weights),
        "s2": np.float32(9),
        "z2": np.array(11, pixels),
    }
    nodes = [
        *_rounded("input", "pixels", "sx", "zx"),
        NODE("DequantizeLinear", ["w", "sw", "zw"], ["kernels"], axis=0),
        NODE("Conv", ["pixels", "kernels"], ["sums"], pads=[1] * 4),
        *_rounded("sums", "once", "sy", "zy"),
        *_rounded("once", "twice", "s2", "z2"),
        NODE("MaxPool", ["twice"], ["greatest"], kernel_shape=[3, 3], pads=[1] * 4),
        NODE("Add", ["twice", "greatest"], ["added"]),
        # Half of a sum of two multiples of the scale is often exactly between two of them.
        NODE("AveragePool", ["added"], ["mean"], kernel_shape=[2, 2], strides=[2, 2]),
        *_rounded("mean", "map", "s2", "z2"),
    ]
    return network(nodes, values, opset=opset)


def qdq_matmul(left=np.uint8):
    rng = np.random.default_rng(5)
    values = {
        **_ends(left, 30),
        "w": extreme(rng, (_FLAT, _OUT), np.int8),
        "sw": _scales(rng, _OUT),
        "zw": np.zeros(_OUT, np.int8),
    }
    nodes = [
        *_FLATTEN,
        *_rounded("flat", "left", "sx", "zx"),
        NODE("DequantizeLinear", ["w", "sw", "zw"], ["right"], axis=1),
        NODE("MatMul", ["left", "right"], ["sums"]),
        *_rounded("sums", "row", "sy", "zy"),
    ]
    return network(nodes, values)


def four_bits(kind=TensorProto.INT4, *, block=0):
    rng = np.random.default_rng(6)
    least = -8 if kind == TensorProto.INT4 else 0
    shape = (_FLAT // block, _OUT) if block else (_OUT,)

    def packed(name, dims):
        return helper.make_tensor(name, kind, dims, rng.integers(least, least + 16, np.prod(dims)).tolist())

    values = {
        "w": packed("w", [_FLAT, _OUT]),
        "zw": packed("zw", [*shape]),
        "sw": _scales(rng, shape),
    }
    attributes = {"axis": 0, "block_size": block} if block else {"axis": 1}
    nodes = [
        *_FLATTEN,
        NODE("DequantizeLinear", ["w", "sw", "zw"], ["right"], **attributes),
        NODE("MatMul", ["flat", "right"], ["row"]),
    ]
    return network(nodes, values)


def within_a_branch():
    """A QLinearConv in each branch of an If, with constants of the branch and of the graph around it."""
    model = qlinear_conv()
    nodes = [*model.graph.node]
    graphs = {}
    for name, zero in (("then_branch", "zw"), ("else_branch", "zero")):
        inside = onnx.NodeProto()
        inside.CopyFrom(nodes[1])
        inside.output[0], inside.input[5] = f"y_{name}", zero
        own = [numpy_helper.from_array(np.zeros(_OUT, np.int8), "zero")] if zero == "zero" else []
        value = helper.make_tensor_value_info(f"y_{name}", TensorProto.UINT8, None)
        graphs[name] = helper.make_graph([inside], name, [], [value], own)
    nodes[1] = NODE("If", ["bright"], ["y"], **graphs)
    del model.graph.node[:]
    model.graph.node.extend(
        [
            NODE("ReduceMean", ["input"], ["brightness"], keepdims=0),
            NODE("Greater", ["brightness", "ten"], ["bright"]),
            *nodes,
        ]
    )
    model.graph.initializer.append(numpy_helper.from_array(np.float32(10), "ten"))
    return model


def within_a_function():
    """A QLinearConv in a local function, which sees no constant of the graph."""
    model = qlinear_conv()
    node = model.graph.node[1]
    inside = onnx.NodeProto()
    inside.CopyFrom(node)
    names = [f"in_{name}" for name in node.input]
    del inside.input[:]
    inside.input.extend(names)
    inside.output[0] = "result"
    function = helper.make_function(
        "local", "Convolve", names, ["result"], [inside], [helper.make_opsetid("", 21)]
    )
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("local", 1))
    node.CopyFrom(NODE("Convolve", [*node.input], ["y"], domain="local"))
    return model


def of_microsoft(operator):
    """Networks with operators that ONNX Runtime alone knows, as its own optimiser and quantiser write them."""
    rng = np.random.default_rng(7)
    values = {
        **_ends(np.uint8, 30),
        "w": extreme(rng, (_FLAT, _OUT), np.int8),
        "sw": _scales(rng, _OUT),
        "zw": np.zeros(_OUT, np.int8),
        "b": rng.random(_OUT).astype(np.float32),
    }
    custom = {"domain": _CUSTOM, "name": operator}
    if operator == "DynamicQuantizeMatMul":
        nodes = [NODE(operator, ["flat", "w", "sw", "zw", "b"], ["row"], **custom)]
    elif operator == "MatMulIntegerToFloat":
        nodes = [
            NODE("DynamicQuantizeLinear", ["flat"], ["x", "s", "z"]),
            NODE(operator, ["x", "w", "s", "sw", "z", "zw", "b"], ["row"], **custom),
        ]
    elif operator == "QGemm":
        values |= {"w": np.ascontiguousarray(values["w"].T), "b": np.arange(_OUT, dtype=np.int32)}
        nodes = [
            NODE("QuantizeLinear", ["flat", "sx", "zx"], ["x"]),
            NODE(operator, [*_CONVOLUTION[:6], "b", "sy", "zy"], ["y"], transB=1, **custom),
            NODE("DequantizeLinear", ["y", "sy", "zy"], ["row"]),
        ]
    else:
        values |= {"w": rng.integers(0, 256, (_OUT, _FLAT // 32, 16)).astype(np.uint8)}
        values["sw"] = _scales(rng, _OUT * _FLAT // 32)
        sizes = {"K": _FLAT, "N": _OUT, "bits": 4, "block_size": 32, "accuracy_level": 4}
        nodes = [NODE(operator, ["flat", "w", "sw"], ["row"], **sizes, **custom)]
    used = {name for node in nodes for name in node.input}
    kept = {name: value for name, value in values.items() if name in used}
    return network([*_FLATTEN, *nodes], kept, opset=17)
