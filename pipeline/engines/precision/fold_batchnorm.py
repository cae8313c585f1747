"""Fold batch normalisation into the convolution before it. Pure.

At inference a batch normalisation multiplies each channel by a constant and adds another, so the weights of
the convolution can include both. In 16 bits that saves a rounding, and the normalisation, which would stay in
float32, no longer separates operators in 16 bits.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.engines.onnx.file import Proto
from pipeline.engines.onnx.graph import (
    FLOAT,
    fresh_name,
    is_standard,
    names_in_use,
    nested_names,
    weight_values,
)

_EPSILON: Final = 1e-5


def fold_norms(model: Proto, weights: Mapping[str, Proto]) -> Proto:
    """Return the network with its normalisations folded into new weights; the same network if there are none.

    A normalisation can be folded when its parameters and the convolution's are constants, and nothing else
    uses the convolution's output.

    Args:
        model: A network.
        weights: Its constant tensors of float32, by name.

    Raises:
        CompileError: BAD_MODEL, a weight has another length than its shape.
    """
    graph = model.graph
    uses = Counter(name for node in graph.node for name in node.input)
    uses.update(nested_names(graph))
    uses.update(value.name for value in graph.output)
    convolutions = {
        node.output[0]: number for number, node in enumerate(graph.node) if node.op_type == "Conv"
    }
    pairs = {
        convolutions[node.input[0]]: number
        for number, node in enumerate(graph.node)
        if _is_foldable(node, weights) and uses[node.input[0]] == 1 and node.input[0] in convolutions
    }
    pairs = {
        conv: norm
        for conv, norm in pairs.items()
        if is_standard(graph.node[conv])
        and all(name in weights for name in graph.node[conv].input[1:] if name)
    }
    return _folded(model, weights, pairs) if pairs else model


def _folded(model: Proto, weights: Mapping[str, Proto], pairs: Mapping[int, int]) -> Proto:
    folded = type(model)()
    folded.CopyFrom(model)
    graph = folded.graph
    names = set(names_in_use(graph))
    for conv, norm in pairs.items():
        node, norm_node = graph.node[conv], graph.node[norm]
        arrays = [weight_values(weights[name]).astype(np.float64) for name in norm_node.input[1:]]
        epsilon = next((each.f for each in norm_node.attribute if each.name == "epsilon"), _EPSILON)
        scale = arrays[0] / np.sqrt(arrays[3] + epsilon)
        kernel = weight_values(weights[node.input[1]]).astype(np.float64)
        has_bias = len(node.input) > 2 and node.input[2]
        bias = weight_values(weights[node.input[2]]).astype(np.float64) if has_bias else np.zeros_like(scale)
        result = norm_node.output[0]
        parts = {
            "kernel": kernel * scale.reshape(-1, *[1] * (kernel.ndim - 1)),
            "bias": (bias - arrays[2]) * scale + arrays[1],
        }
        del node.input[1:]
        for what, values in parts.items():
            name = fresh_name(f"{result}/{what}", names)
            _append(graph, name, values)
            node.input.append(name)
        node.output[0] = result
    kept = [node for number, node in enumerate(graph.node) if number not in set(pairs.values())]
    del graph.node[:]
    graph.node.extend(kept)
    return folded


def _append(graph: Proto, name: str, values: NDArray[np.float64]) -> None:
    tensor = graph.initializer.add()
    tensor.name = name
    tensor.data_type = FLOAT
    tensor.dims.extend(values.shape)
    tensor.raw_data = values.astype("<f4").tobytes()


def _is_foldable(node: Proto, weights: Mapping[str, Proto]) -> bool:
    """Tell whether a node is a batch normalisation at inference with constant parameters of one length."""
    if node.op_type != "BatchNormalization" or not is_standard(node) or len(node.input) != 5:
        return False
    training = any(each.name == "training_mode" and each.i for each in node.attribute)
    sizes = {tuple(weights[name].dims) if name in weights else () for name in node.input[1:]}
    return (
        not training
        and len([name for name in node.output if name]) == 1
        and len(sizes) == 1
        and () not in sizes
    )
