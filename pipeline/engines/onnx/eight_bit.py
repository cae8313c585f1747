"""Rewrite products of 8-bit integers, so that every processor computes a network alike.

The kernels of ONNX Runtime for such products add pairs of them in 16 bits on x86 processors without VNNI. The
sums overflow there, without a message, and answers differ from one kind of processor to another. Floats hold
such products and their sums exactly up to 2**24, and are rounded by less than the following rounding to 8 bits
beyond. So each operator becomes the float operator between subtracted zero points and the same rounding.

A node is rewritten by itself, without regard to its neighbours: also within a branch or the body of a loop.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from pipeline.engines.onnx.declaration import bad_model
from pipeline.engines.onnx.file import Proto
from pipeline.engines.onnx.graph import FLOAT, all_nodes, fresh_name, names_in_use, nested_graphs

_INT32: Final = 6
_INT64: Final = 7
"""Numbers of element types of ONNX."""

_LIMITS: Final = {2: (0, 255), 3: (-128, 127), 4: (0, 65_535), 5: (-32_768, 32_767)}
"""Integers of 8 and 16 bits: number of the element type to its least and greatest value."""

_LIMITS_ARE_INPUTS: Final = 11
"""First operator set with Round, and with the limits of Clip as inputs."""

_OWN_DOMAINS: Final = frozenset({"", "ai.onnx"})
_MICROSOFT: Final = "com.microsoft"
_FLOAT_ACCURACY: Final = 1
"""The `accuracy_level` at which MatMulNBits does not round its input to 8 bits."""

_REFUSED: Final = frozenset({"DynamicQuantizeLSTM", "QAttention", "QLinearConv", "QMoE"})
"""Operators of ONNX Runtime alone that add in 16 bits, or may, and whose float form is many operators."""


def rewrite_integer_products(model: Proto, subject: str) -> Proto:
    """Return a model without products of 8-bit integers; the one given is changed.

    Args:
        model: An `onnx.ModelProto` with its weights inlined.
        subject: Name of the model, for messages.

    Raises:
        CompileError: BAD_MODEL, it has an operator for which there is no rewriting.
    """
    if not any(_rewriting_of(node) or _is_refused(node) for node in all_nodes(model)):
        return model
    if model.functions:
        from onnx import inliner  # noqa: PLC0415 - heavy

        model = inliner.inline_local_functions(model)
    refused = [node for node in all_nodes(model) if _is_refused(node)]
    if refused:
        raise bad_model(
            "expected operators that every processor computes alike, found"
            f" {', '.join(sorted({node.op_type for node in refused}))} of {_MICROSOFT}, which overflows on some",
            "quantise the network again in the QDQ format, or export it in floats",
            subject,
        )
    _rewrite_graph(model.graph, _rewriting_of, _Constants(subject), set(names_in_use(model.graph)))
    return model


def rewrite_roundings(model: Proto, subject: str) -> None:
    """Write roundings to 8 or 16 bits as a division, a rounding to even and a limit, in place.

    For OpenVINO, which else scales and rounds in one step, and so rounds some ties the other way. Only where
    the scale is one constant.

    Args:
        model: An `onnx.ModelProto` with its weights inlined.
        subject: Name of the model, for messages.
    """
    versions = [each.version for each in model.opset_import if each.domain in _OWN_DOMAINS]
    if versions and max(versions) >= _LIMITS_ARE_INPUTS:
        rewriting = {"QuantizeLinear": _rewrite_rounding}.get
        _rewrite_graph(
            model.graph,
            lambda node: rewriting(node.op_type),
            _Constants(subject),
            set(names_in_use(model.graph)),
        )


def _rewrite_graph(
    graph: Proto, rewriting_of: "_RewritingOf", constants: "_Constants", names: set[str]
) -> None:
    constants.add(graph)
    written = _Nodes(constants, names)
    for node in graph.node:
        for nested in nested_graphs([node]):
            _rewrite_graph(nested, rewriting_of, constants, names)
        rewriting = rewriting_of(node)
        if rewriting is None:
            written.nodes.append(node)
        else:
            rewriting(written, node)
    kept = [*written.nodes]
    del graph.node[:]
    graph.node.extend(kept)


class _Constants:
    """Types and shapes of constant tensors; a nested graph also sees those of the graphs around it."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self._found: dict[str, tuple[int, tuple[int, ...]]] = {}

    def add(self, graph: Proto) -> None:
        """Take up the initializers and the Constant nodes of a graph."""
        for tensor in graph.initializer:
            self._found[tensor.name] = tensor.data_type, tuple(tensor.dims)
        for node in graph.node:
            for attribute in node.attribute if node.op_type == "Constant" else ():
                if attribute.name == "value":
                    self._found[node.output[0]] = attribute.t.data_type, tuple(attribute.t.dims)

    def type_of(self, name: str) -> int | None:
        """Return the element type of a tensor, None if it is no constant."""
        return self._found[name][0] if name in self._found else None

    def shape_of(self, name: str) -> tuple[int, ...] | None:
        """Return the shape of a tensor, None if it is no constant."""
        return self._found[name][1] if name in self._found else None

    def rank_of_kernels(self, node: Proto, weights: str) -> int:
        """Return the rank of the weights of a convolution.

        Raises:
            CompileError: BAD_MODEL, neither its weights nor its attributes say it.
        """
        if (shape := self.shape_of(weights)) is not None:
            return len(shape)
        for attribute in node.attribute:
            if attribute.name == "kernel_shape":
                return 2 + len(attribute.ints)
        raise bad_model(
            f"expected weights or `kernel_shape` that say the rank of {node.op_type} {node.name or node.output[0]!r},"
            " found neither",
            "export the network with constant weights",
            self.subject,
        )


class _Nodes:
    """Nodes of a graph that is written anew."""

    def __init__(self, constants: _Constants, names: set[str]) -> None:
        self.nodes: list[Proto] = []
        self.constants = constants
        self._names = names

    def add(self, operator: str, *inputs: str, output: str = "", **attributes: object) -> str:
        """Append a node and return the name of its output."""
        from onnx import helper  # noqa: PLC0415 - heavy

        output = output or self.fresh(operator)
        self.nodes.append(helper.make_node(operator, [*inputs], [output], name=output, **attributes))
        return output

    def fresh(self, what: str) -> str:
        """Return a name that no tensor has."""
        return fresh_name(f"c10_{what}_{len(self._names)}", self._names)

    def constant(self, kind: int, shape: Sequence[int], values: Iterable[float]) -> str:
        """Append a constant."""
        from onnx import helper  # noqa: PLC0415 - heavy

        return self.add("Constant", value=helper.make_tensor("", kind, shape, [*values]))

    def reshaped(self, tensor: str, shape: Sequence[int]) -> str:
        """Append a Reshape."""
        return self.add("Reshape", tensor, self.constant(_INT64, [len(shape)], shape))

    def column(self, tensor: str) -> str:
        """Turn a constant with one value per row into a column; leave a single value as it is."""
        shape = self.constants.shape_of(tensor) or ()
        return self.reshaped(tensor, [-1, 1]) if len(shape) == 1 and shape[0] > 1 else tensor

    def shifted(self, tensor: str, zero: str) -> str:
        """Turn integers into floats, minus their zero point, which may be left out."""
        floats = self.add("Cast", tensor, to=FLOAT)
        return self.add("Sub", floats, self.add("Cast", zero, to=FLOAT)) if zero else floats

    def product_of_scales(self, first: str, second: str, divisor: str = "") -> str:
        """Multiply two scales; divide by a third, if there is one."""
        product = self.add("Mul", first, second)
        return self.add("Div", product, divisor) if divisor else product

    def rounded(self, values: str, factor: str, zero: str, output: str) -> None:
        """Multiply, round to the integers of the zero point's type, and add the zero point."""
        one = self.constant(FLOAT, self.constants.shape_of(zero) or [], [1.0])
        self.add("QuantizeLinear", self.add("Mul", values, factor), one, zero, output=output)


def _convolution(to: _Nodes, node: Proto, pixels: str, weights: tuple[str, str], bias: str = "") -> str:
    kernels, zero = weights
    if zero:
        zero = to.reshaped(zero, [-1] + [1] * (to.constants.rank_of_kernels(node, kernels) - 1))
    biases = [to.add("Cast", bias, to=FLOAT)] if bias else []
    return to.add("Conv", pixels, to.shifted(kernels, zero), *biases, **_attributes(node))


def _rewrite_conv_integer(to: _Nodes, node: Proto) -> None:
    x, w, x_zero, w_zero = _inputs(node, 4)
    sums = _convolution(to, node, to.shifted(x, x_zero), (w, w_zero))
    to.add("Cast", sums, to=_INT32, output=node.output[0])


def _rewrite_qlinear_conv(to: _Nodes, node: Proto) -> None:
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias = _inputs(node, 9)
    sums = _convolution(to, node, to.shifted(x, x_zero), (w, w_zero), bias)
    factor = to.product_of_scales(x_scale, w_scale, y_scale)
    factor = to.reshaped(factor, [-1] + [1] * (to.constants.rank_of_kernels(node, w) - 2))
    to.rounded(sums, factor, y_zero, node.output[0])


def _rewrite_matmul_integer(to: _Nodes, node: Proto) -> None:
    a, b, a_zero, b_zero = _inputs(node, 4)
    sums = to.add("MatMul", to.shifted(a, to.column(a_zero)), to.shifted(b, b_zero))
    to.add("Cast", sums, to=_INT32, output=node.output[0])


def _rewrite_qlinear_matmul(to: _Nodes, node: Proto) -> None:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = _inputs(node, 8)
    sums = to.add("MatMul", to.shifted(a, to.column(a_zero)), to.shifted(b, b_zero))
    to.rounded(sums, to.product_of_scales(to.column(a_scale), b_scale, y_scale), y_zero, node.output[0])


def _rewrite_matmul_integer_to_float(to: _Nodes, node: Proto) -> None:
    a, b, a_scale, b_scale, a_zero, b_zero, bias = _inputs(node, 7)
    _scaled_product(to, node, (a, a_scale, a_zero), (b, b_scale, b_zero), bias)


def _rewrite_dynamic_quantize_matmul(to: _Nodes, node: Proto) -> None:
    from onnx import helper  # noqa: PLC0415 - heavy

    a, b, b_scale, b_zero, bias = _inputs(node, 5)
    parts = (to.fresh("quantised"), to.fresh("scale"), to.fresh("zero"))
    to.nodes.append(helper.make_node("DynamicQuantizeLinear", [a], [*parts]))
    _scaled_product(to, node, parts, (b, b_scale, b_zero), bias)


def _scaled_product(
    to: _Nodes, node: Proto, left: tuple[str, str, str], right: tuple[str, str, str], bias: str
) -> None:
    """Append the float product of two matrices, each with its scale and zero point."""
    sums = to.add("MatMul", to.shifted(left[0], left[2]), to.shifted(right[0], right[2]))
    factor = to.product_of_scales(left[1], right[1])
    scaled = to.add("Mul", sums, factor, output="" if bias else node.output[0])
    if bias:
        to.add("Add", scaled, bias, output=node.output[0])


def _rewrite_qgemm(to: _Nodes, node: Proto) -> None:
    a, a_scale, a_zero, b, b_scale, b_zero, bias, y_scale, y_zero = _inputs(node, 9)
    attributes = _attributes(node)
    alpha = to.constant(FLOAT, [], [attributes.pop("alpha", 1.0)])
    # One zero point per column of the product: per row of weights that are still to be transposed.
    b_zero = to.column(b_zero) if attributes.get("transB") else b_zero
    biases = [to.add("Cast", bias, to=FLOAT)] if bias else []
    sums = to.add("Gemm", to.shifted(a, a_zero), to.shifted(b, b_zero), *biases, **attributes)
    factor = to.add("Mul", alpha, to.product_of_scales(a_scale, b_scale, y_scale))
    if y_scale:
        to.rounded(sums, factor, y_zero, node.output[0])
    else:
        to.add("Mul", sums, factor, output=node.output[0])


def _rewrite_matmul_nbits(to: _Nodes, node: Proto) -> None:
    from onnx import helper  # noqa: PLC0415 - heavy

    kept = [each for each in node.attribute if each.name != "accuracy_level"]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute("accuracy_level", _FLOAT_ACCURACY)])
    to.nodes.append(node)


def _rewrite_rounding(to: _Nodes, node: Proto) -> None:
    x, scale, zero = _inputs(node, 3)
    kind, shape = to.constants.type_of(zero), to.constants.shape_of(scale)
    if kind not in _LIMITS or shape is None or math.prod(shape) != 1 or to.constants.type_of(scale) != FLOAT:
        to.nodes.append(node)
        return
    rounded = to.add("Round", to.add("Div", x, scale))
    shifted = to.add("Add", rounded, to.add("Cast", zero, to=FLOAT))
    limits = [to.constant(FLOAT, [], [limit]) for limit in _LIMITS[kind]]
    to.add("Cast", to.add("Clip", shifted, *limits), to=kind, output=node.output[0])


_Rewriting = Callable[[_Nodes, Proto], None]
_RewritingOf = Callable[[Proto], _Rewriting | None]
_STANDARD: Final[Mapping[str, _Rewriting]] = {
    "ConvInteger": _rewrite_conv_integer,
    "MatMulInteger": _rewrite_matmul_integer,
    "QLinearConv": _rewrite_qlinear_conv,
    "QLinearMatMul": _rewrite_qlinear_matmul,
}
_OF_MICROSOFT: Final[Mapping[str, _Rewriting]] = {
    "DynamicQuantizeMatMul": _rewrite_dynamic_quantize_matmul,
    "MatMulIntegerToFloat": _rewrite_matmul_integer_to_float,
    "MatMulNBits": _rewrite_matmul_nbits,
    "QGemm": _rewrite_qgemm,
}


def _rewriting_of(node: Proto) -> _Rewriting | None:
    if node.domain == _MICROSOFT:
        return _OF_MICROSOFT.get(node.op_type)
    return _STANDARD.get(node.op_type) if node.domain in _OWN_DOMAINS else None


def _is_refused(node: Proto) -> bool:
    return node.domain == _MICROSOFT and node.op_type in _REFUSED


def _inputs(node: Proto, count: int) -> list[str]:
    """Return the names of all inputs of a node; those that are left out are empty."""
    return [*node.input, *[""] * (count - len(node.input))]


def _attributes(node: Proto) -> dict[str, Any]:
    from onnx import helper  # noqa: PLC0415 - heavy

    return {each.name: helper.get_attribute_value(each) for each in node.attribute}
