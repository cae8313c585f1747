"""Put a VLAD head on a network: words, sums of differences from them, and a projection.

Local features get length 1. Each is shared out among the words, nearly all of it to the nearest (softmax of
half the negative squared distance, divided by the temperature). The differences from a word are summed, each
word's sum and then all together get length 1, and so does the projection of what deviates from the mean.

Every operator is one that ONNX Runtime, OpenVINO and TensorRT have, and none mixes the pictures of a batch.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pipeline.engines.onnx.declaration import bad_model
from pipeline.engines.onnx.file import Proto
from pipeline.engines.onnx.graph import FLOAT, fresh_name, names_in_use

Floats = npt.NDArray[np.float32]

OUTPUT: Final = "descriptor"

_LEAST_OPSET: Final = 13
"""From here on the axes of ReduceSum are an input, and Softmax takes one axis."""

_TEMPERATURE: Final = 0.02
_LENGTH_FLOOR: Final = 1e-7
_MAP_RANK: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Projection:
    """What makes a descriptor of a VLAD vector: mean, float32 [D], and axes, float32 [dimensions, D]."""

    mean: Floats
    axes: Floats


def add_flat_features(model: Proto, output: str, channels: int) -> str:
    """Let a network give its local features alone, in place; return the name of that output.

    Args:
        model: The network.
        output: Its output of local features, float32 [N, C, H, W] or [N, T, C].
        channels: C.

    Returns:
        The name of an output of float32 [N, T * C]: T features of length 1, one after the other.

    Raises:
        CompileError: BAD_MODEL, the network's set of operators is too old.
    """
    graph = _Graph(model, output)
    unit = _unit_features(graph, output, channels)
    rows = graph.node("Transpose", graph.node("Reshape", unit, graph.shape(0, channels, -1)), perm=[0, 2, 1])
    return graph.finish(graph.node("Reshape", rows, graph.shape(0, -1)), None)


def add_vlad(model: Proto, output: str, words: Floats, projection: Projection | None) -> str:
    """Put a VLAD head on a network, in place; return the name of its output.

    Args:
        model: The network.
        output: Its output of local features, float32 [N, C, H, W] or [N, T, C].
        words: float32 [K, C].
        projection: What follows; without it the output is the VLAD vector itself.

    Returns:
        The name of an output of float32 [N, D], each row of length 1.

    Raises:
        CompileError: As for `add_flat_features`.
    """
    graph = _Graph(model, output)
    count, channels = words.shape
    unit = _unit_features(graph, output, channels)
    # Of features of length 1, the half squared distance is a constant less this.
    kernels, bias = words[:, :, None, None], (-(words**2).sum(axis=1) / 2).astype(np.float32)
    near = graph.node("Conv", unit, graph.table(kernels), graph.table(bias), kernel_shape=[1, 1])
    sharp = graph.node("Div", near, graph.scalar(_TEMPERATURE))
    shares = graph.node("Reshape", graph.node("Softmax", sharp, axis=1), graph.shape(0, count, -1))
    flat = graph.node("Reshape", unit, graph.shape(0, channels, -1))
    sums = graph.node("MatMul", shares, graph.node("Transpose", flat, perm=[0, 2, 1]))
    total = graph.node("ReduceSum", shares, graph.shape(2), keepdims=1)
    differences = graph.node("Sub", sums, graph.node("Mul", total, graph.table(words)))
    each = graph.unit(differences, axis=2)
    size = count * channels
    vector = graph.unit(graph.node("Reshape", each, graph.shape(0, size)), axis=1)
    if projection is None:
        return graph.finish(vector, size)
    centred = graph.node("Sub", vector, graph.table(projection.mean))
    # A convolution, as in `builtin:place`: of a product of matrices the last bits depend on the size of the batch.
    column = graph.node("Reshape", centred, graph.shape(0, size, 1, 1))
    dimensions = len(projection.axes)
    axes = graph.table(projection.axes[:, :, None, None])
    mixed = graph.node("Conv", column, axes, kernel_shape=[1, 1])
    row = graph.node("Reshape", mixed, graph.shape(0, dimensions))
    return graph.finish(graph.unit(row, axis=1), dimensions)


def _unit_features(graph: "_Graph", output: str, channels: int) -> str:
    """Return the local features as [N, C, 1, T], each of length 1."""
    features = output if graph.rank == _MAP_RANK else graph.node("Transpose", output, perm=[0, 2, 1])
    return graph.unit(graph.node("Reshape", features, graph.shape(0, channels, 1, -1)), axis=1)


class _Graph:
    """Adds nodes and tables to a network, under names that it does not have."""

    def __init__(self, model: Proto, output: str) -> None:
        opset = next((each.version for each in model.opset_import if each.domain in {"", "ai.onnx"}), 0)
        if opset < _LEAST_OPSET:
            raise bad_model(
                f"expected operators of opset {_LEAST_OPSET} or newer below a head, found {opset}",
                "export the network again with a newer opset",
            )
        from onnx import helper, numpy_helper  # noqa: PLC0415 - heavy

        self._helper, self._numpy_helper = helper, numpy_helper
        self._model, self._names = model, set(names_in_use(model.graph))
        value = next(each for each in model.graph.output if each.name == output)
        self._sizes = value.type.tensor_type.shape.dim

    @property
    def rank(self) -> int:
        return len(self._sizes)

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:  # noqa: ANN401 - as ONNX has them
        name = fresh_name(f"head_{operator.lower()}", self._names)
        made = self._helper.make_node(operator, list(inputs), [name], name=name, **attributes)
        self._model.graph.node.append(made)
        return name

    def table(self, values: Floats | npt.NDArray[np.int64]) -> str:
        name = fresh_name("head_table", self._names)
        made = self._numpy_helper.from_array(np.ascontiguousarray(values), name)
        self._model.graph.initializer.append(made)
        return name

    def scalar(self, value: float) -> str:
        return self.table(np.array(value, np.float32))

    def shape(self, *sizes: int) -> str:
        return self.table(np.array(sizes, np.int64))

    def unit(self, value: str, *, axis: int) -> str:
        """Return a tensor whose vectors along an axis have length 1; those of next to no length stay short."""
        square = self.node("ReduceSum", self.node("Mul", value, value), self.shape(axis), keepdims=1)
        length = self.node("Sqrt", self.node("Add", square, self.scalar(_LENGTH_FLOOR)))
        return self.node("Div", value, length)

    def finish(self, value: str, size: int | None) -> str:
        """Make a tensor [N, size] the only output; return its name."""
        name, graph = fresh_name(OUTPUT, self._names), self._model.graph
        graph.node.append(self._helper.make_node("Identity", [value], [name], name=name))
        batch = self._sizes[0].dim_value or self._sizes[0].dim_param or "N"
        given = self._helper.make_tensor_value_info(name, FLOAT, [batch, size or "features"])
        del graph.output[:]
        graph.output.append(given)
        return name
