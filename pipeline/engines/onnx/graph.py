"""Read an ONNX graph: its constants, its names, its nodes and the graphs nested in it. Pure."""

from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.engines.onnx.declaration import bad_model
from pipeline.engines.onnx.file import Proto

FLOAT: Final = 1
"""Number of float32 among the element types of ONNX."""

EXPORT_AGAIN: Final = "export the network again"
"""The hint for a graph that contradicts itself."""

_OWN_DOMAINS: Final = frozenset({"", "ai.onnx"})


def is_standard(node: Proto) -> bool:
    """Tell whether a node's operator is one of ONNX itself, without nested graphs."""
    return node.domain in _OWN_DOMAINS and not any(
        attribute.HasField("g") or attribute.graphs for attribute in node.attribute
    )


def constants(model: Proto) -> dict[str, Proto]:
    """Return the constant tensors of float32 in the main graph, by name: initializers and Constant nodes."""
    from onnx import helper  # noqa: PLC0415 - heavy

    found = {tensor.name: tensor for tensor in model.graph.initializer if tensor.data_type == FLOAT}
    for node in model.graph.node:
        if node.op_type != "Constant" or not is_standard(node):
            continue
        for attribute in node.attribute:
            if attribute.name == "value" and attribute.t.data_type == FLOAT:
                found[node.output[0]] = attribute.t
            elif attribute.name == "value_float":
                found[node.output[0]] = helper.make_tensor("", FLOAT, [], [attribute.f])
            elif attribute.name == "value_floats":
                floats = attribute.floats
                found[node.output[0]] = helper.make_tensor("", FLOAT, [len(floats)], floats)
    return found


def weight_values(tensor: Proto) -> NDArray[np.float32]:
    """Return the numbers of a constant tensor of float32.

    Raises:
        CompileError: BAD_MODEL, it holds fewer or more numbers than its shape says.
    """
    from onnx import numpy_helper  # noqa: PLC0415 - heavy

    try:
        values: NDArray[np.float32] = np.asarray(numpy_helper.to_array(tensor), np.float32)
    except (ValueError, TypeError) as error:
        raise bad_model(
            f"expected the weights {tensor.name!r} as {list(tensor.dims)}, found: {error}", EXPORT_AGAIN
        ) from error
    return values


def nested_names(graph: Proto) -> Iterator[str]:
    """Yield the names that nested graphs use, which may be tensors of the graph around them."""
    for nested in nested_graphs(graph.node):
        yield from _names_within(nested)


def names_in_use(graph: Proto) -> Iterator[str]:
    """Yield every name of a tensor or node, so that a derived one can be new."""
    yield from (value.name for value in graph.input)
    yield from (value.name for value in graph.output)
    yield from (tensor.name for tensor in graph.initializer)
    yield from (tensor.values.name for tensor in graph.sparse_initializer)
    yield from nested_names(graph)
    for node in graph.node:
        yield node.name
        yield from node.input
        yield from node.output


def fresh_name(wanted: str, names: set[str]) -> str:
    """Return the wanted name, numbered if it is taken, and take it."""
    candidate, number = wanted, 1
    while candidate in names:
        number += 1
        candidate = f"{wanted}{number}"
    names.add(candidate)
    return candidate


def node_names(model: Proto, operator: str, domain: str = "") -> list[str]:
    """Return the names of an operator's nodes; one without a name has that of its first output."""
    return [
        _node_name(node)
        for node in all_nodes(model)
        if (node.op_type, node.domain or "") == (operator, domain)
    ]


def consumers(model: Proto, tensor: str) -> list[str]:
    """Return operator and name of each node that takes a tensor."""
    return [f"{node.op_type} {_node_name(node)!r}" for node in all_nodes(model) if tensor in node.input]


def _node_name(node: Proto) -> str:
    return str(node.name or next(iter(node.output), ""))


def all_nodes(model: Proto) -> Iterator[Proto]:
    """Yield the nodes of a model, with those of nested graphs and local functions."""
    yield from _with_nested(model.graph.node)
    for function in model.functions:
        yield from _with_nested(function.node)


def _with_nested(nodes: Iterable[Proto]) -> Iterator[Proto]:
    for node in nodes:
        yield node
        for nested in nested_graphs([node]):
            yield from _with_nested(nested.node)


def _names_within(graph: Proto) -> Iterator[str]:
    for node in graph.node:
        yield from node.input
        yield from node.output
    yield from (value.name for value in graph.output)
    yield from (tensor.name for tensor in graph.initializer)
    yield from nested_names(graph)


def nested_graphs(nodes: Iterable[Proto]) -> Iterator[Proto]:
    """Yield the graphs directly within some nodes."""
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield attribute.g
            yield from attribute.graphs
