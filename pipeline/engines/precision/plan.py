"""Choose the nodes of a network that compute in 16 bits. Pure.

A "narrow" node is one that computes in the 16-bit type. Its operator is on one of two lists, all its float
inputs can be in that type, and it has no quantised neighbour. All other nodes stay as they are.
"""

import math
from collections.abc import Mapping
from typing import Final

import numpy as np

from pipeline.engines.onnx.declaration import bad_model
from pipeline.engines.onnx.file import Proto
from pipeline.engines.onnx.graph import EXPORT_AGAIN, FLOAT, constants, is_standard, weight_values
from pipeline.engines.precision.float16 import NarrowType
from pipeline.engines.precision.fold_batchnorm import fold_norms
from store.base.valueclass import valueclass

SEEDS: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Operators that are narrow wherever they can be, because they take most of the time."""

_MOVING: Final = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
"""Operators whose output has the values of their first input."""

FOLLOWERS: Final = _MOVING | {
    *("Abs", "Add", "Clip", "Concat", "DepthToSpace", "Div", "Dropout", "Elu", "Erf", "Expand", "Gather"),
    *("Gelu", "GlobalMaxPool", "HardSigmoid", "HardSwish", "LeakyRelu", "Max", "MaxPool", "Min", "Mul"),
    *("Neg", "Pad", "PRelu", "Relu", "Sigmoid", "Slice", "SpaceToDepth", "Split", "Sub", "Tanh", "Tile"),
    "Where",
}
"""Operators that are narrow where their input is: they round each number once, or only move it."""

_QUANTISED: Final = frozenset({"QuantizeLinear", "DequantizeLinear"})
_LARGE: Final = 4096
"""In a tensor of more numbers than this, the values cannot affect types and shapes."""
_DIVISORS: Final = (2.0**-10, 2.0**10)
"""Divisors in this range let a quotient neither overflow nor become zero."""


@valueclass(frozen=True, slots=True, kw_only=True)
class NarrowPlan:
    """The narrow nodes of a network.

    Attributes:
        model: The network, with its own functions inlined and normalisations folded into convolutions.
        nodes: Indexes in `model.graph.node` of the narrow nodes.
        types: Element types of the tensors of the main graph, where they are known.
        weights: Constant tensors of float32, by name.
    """

    model: Proto
    nodes: frozenset[int]
    types: Mapping[str, int]
    weights: Mapping[str, Proto]

    def is_float(self, name: str) -> bool:
        """Tell whether a tensor is known to hold float32."""
        return self.types.get(name) == FLOAT


def narrow_nodes(model: Proto, narrow: NarrowType) -> NarrowPlan:
    """Choose the nodes of a network that become narrow.

    Raises:
        CompileError: BAD_MODEL, the network's types cannot be inferred, a weight has another length than its
            shape, or the operator set is older than the type.
    """
    opset = max((each.version for each in model.opset_import if each.domain in {"", "ai.onnx"}), default=0)
    if opset < narrow.since_opset:
        raise bad_model(
            f"expected a network of operator set {narrow.since_opset} or later for {narrow.precision}, found {opset}",
            "export the network with a later operator set, or choose fp16",
        )
    inlined = _inline_functions(model)
    folded = fold_norms(inlined, constants(inlined))
    return _Planner(folded, narrow).plan()


class _Planner:
    """Goes once through the main graph in its order, which is topological."""

    def __init__(self, model: Proto, narrow: NarrowType) -> None:
        self._model = model
        self._narrow = narrow
        self._weights = constants(model)
        self._types = _element_types(model)
        self._origin = {name: name for name in self._weights}
        self._fits: dict[str, bool] = {}
        self._is_narrow: set[str] = set()
        self._quantised: set[str] = set()
        self._to_quantise = {
            node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear" and node.input
        }

    def plan(self) -> NarrowPlan:
        chosen: set[int] = set()
        for number, node in enumerate(self._model.graph.node):
            moves = node.op_type in _MOVING and is_standard(node) and bool(node.input)
            if moves and node.input[0] in self._origin:
                self._origin[node.output[0]] = self._origin[node.input[0]]
            elif node.op_type in _QUANTISED or (moves and node.input[0] in self._quantised):
                self._quantised.update(node.output)
            elif self._is_chosen(node):
                chosen.add(number)
                self._is_narrow.update(node.output)
        return NarrowPlan(
            model=self._model, nodes=frozenset(chosen), types=self._types, weights=self._weights
        )

    def _is_chosen(self, node: Proto) -> bool:
        if not is_standard(node) or node.op_type not in (SEEDS | FOLLOWERS) - self._narrow.unsupported:
            return False
        floats = [name for name in node.input if self._types.get(name) == FLOAT]
        # Tensors of unknown type, or already of another float type, stay as they are.
        if not floats or self._types.get(node.input[0] if node.op_type != "Where" else floats[0]) != FLOAT:
            return False
        if any(name in self._quantised for name in node.input) or node.output[0] in self._to_quantise:
            return False
        constant = [name for name in floats if name in self._origin]
        if not all(self._weight_fits(self._origin[name]) for name in constant):
            return False
        if node.op_type in SEEDS:
            return len(constant) < len(floats)
        moving = [name for name in floats if name not in self._origin]
        return bool(moving) and all(name in self._is_narrow for name in moving) and self._stays_in_range(node)

    def _stays_in_range(self, node: Proto) -> bool:
        """Tell whether a follower's numbers stay in range: no squares, no division by a variable."""
        if node.op_type == "Mul":
            return len(set(node.input)) == len(node.input)
        if node.op_type != "Div":
            return True
        origin = self._origin.get(node.input[1])
        if origin is None:
            return False
        size = np.abs(weight_values(self._weights[origin]))
        return bool(((size >= _DIVISORS[0]) & (size <= _DIVISORS[1])).all())

    def _weight_fits(self, name: str) -> bool:
        if name not in self._fits:
            self._fits[name] = self._narrow.holds(weight_values(self._weights[name]))
        return self._fits[name]


def _element_types(model: Proto) -> dict[str, int]:
    """Infer the element type of every tensor of the main graph, without copying the weights."""
    from onnx import helper, shape_inference  # noqa: PLC0415 - heavy

    light = type(model)()
    light.ir_version = model.ir_version
    light.opset_import.extend(model.opset_import)
    light.graph.name = model.graph.name
    light.graph.node.extend(model.graph.node)
    light.graph.input.extend(model.graph.input)
    light.graph.output.extend(model.graph.output)
    light.graph.value_info.extend(model.graph.value_info)
    declared = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= _LARGE:
            light.graph.initializer.append(tensor)
        elif tensor.name not in declared:
            light.graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
    try:
        known = shape_inference.infer_shapes(light).graph
    except Exception as error:  # the library raises what its C++ code throws
        raise bad_model(
            f"expected a network whose types can be inferred, found: {error}", EXPORT_AGAIN
        ) from error
    values = (*known.input, *known.value_info, *known.output)
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    types.update({value.name: value.type.tensor_type.elem_type for value in values if _is_tensor(value)})
    return types


def _is_tensor(value: Proto) -> bool:
    return bool(value.type.WhichOneof("value") == "tensor_type" and value.type.tensor_type.elem_type)


def _inline_functions(model: Proto) -> Proto:
    """Inline the functions that a model defines, since only its main graph is converted."""
    if not model.functions:
        return model
    from onnx import inliner  # noqa: PLC0415 - heavy

    try:
        return inliner.inline_local_functions(model)
    except Exception as error:  # the library raises what its C++ code throws
        raise bad_model(f"expected functions that can be inlined, found: {error}", EXPORT_AGAIN) from error
