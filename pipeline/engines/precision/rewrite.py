"""Rewrite a network so that chosen nodes compute in 16 bits, or emulate that in float32. Pure."""

from collections.abc import Iterable
from typing import Final

from pipeline.engines.onnx.file import Proto, is_repeated
from pipeline.engines.onnx.graph import FLOAT, fresh_name, names_in_use, nested_names, weight_values
from pipeline.engines.precision.float16 import NarrowType
from pipeline.engines.precision.plan import NarrowPlan

_EVERY_OUTPUT: Final = frozenset({"Split"})
"""Operators whose outputs all have the type of the data; others have it in their first output only."""


def rewrite(plan: NarrowPlan, narrow: NarrowType, *, emulate: bool) -> Proto:
    """Return a copy of the planned network whose chosen nodes are narrow.

    A tensor that is needed in both types has two names: its own for float32 and a derived one for the narrow
    type. A cast between them is inserted once, before the first consumer.

    Args:
        plan: The nodes that become narrow.
        narrow: The type.
        emulate: Keep every tensor in float32, and round it wherever the converted graph has it in the narrow
            type.
    """
    return _Rewriter(plan, narrow, emulate=emulate).write()


class _Rewriter:
    def __init__(self, plan: NarrowPlan, narrow: NarrowType, *, emulate: bool) -> None:
        self._plan = plan
        self._narrow = narrow
        self._emulate = emulate
        self._names = set(names_in_use(plan.model.graph))
        self._nodes: list[Proto] = []
        self._weights: list[Proto] = []
        self._narrowed: dict[str, str] = {}
        self._only_narrow: set[str] = set()

    def write(self) -> Proto:
        graph = self._plan.model.graph
        used_inside = set(nested_names(graph))
        for number, node in enumerate(graph.node):
            if number in self._plan.nodes:
                self._write_narrow(node)
                self._widen(name for name in node.output if name in used_inside)
            else:
                self._widen(node.input)
                self._nodes.append(node)
        self._widen(value.name for value in graph.output)
        return self._assemble(used_inside)

    def _write_narrow(self, node: Proto) -> None:
        written = type(node)()
        written.CopyFrom(node)
        del written.input[:]
        del written.output[:]
        written.input.extend(
            self._narrow_name(name) if self._plan.is_float(name) else name for name in node.input
        )
        rounded: list[tuple[str, str]] = []
        for place, name in enumerate(node.output):
            if not name or (place > 0 and node.op_type not in _EVERY_OUTPUT):
                written.output.append(name)
                continue
            self._narrowed[name] = self._fresh(name, self._narrow.precision)
            self._only_narrow.add(name)
            if self._emulate:
                exact = self._fresh(name, "exact")
                rounded.append((exact, self._narrowed[name]))
                written.output.append(exact)
            else:
                written.output.append(self._narrowed[name])
        self._nodes.append(written)
        for exact, name in rounded:
            self._round(exact, name)

    def _assemble(self, used_inside: set[str]) -> Proto:
        """Return the written nodes as a model, without unused weights; nested graphs use `used_inside`."""
        old = self._plan.model
        used = used_inside.union(
            *(node.input for node in self._nodes), (value.name for value in old.graph.output)
        )
        nodes = [node for node in self._nodes if node.op_type != "Constant" or used.intersection(node.output)]
        unused = self._plan.weights.keys() - used
        present = {name for node in nodes for name in node.output}
        model = type(old)()
        for field, value in old.ListFields():
            if field.name != "graph":
                _copy(model, field, value)
        for field, value in old.graph.ListFields():
            if field.name not in {"input", "node", "initializer", "value_info"}:
                _copy(model.graph, field, value)
        model.graph.input.extend(value for value in old.graph.input if value.name not in unused)
        model.graph.node.extend(nodes)
        model.graph.initializer.extend(
            tensor for tensor in old.graph.initializer if tensor.name not in unused
        )
        model.graph.initializer.extend(self._weights)
        model.graph.value_info.extend(value for value in old.graph.value_info if value.name in present)
        return model

    def _narrow_name(self, name: str) -> str:
        """Return the name of a tensor in the narrow type; insert the cast if this is the first use."""
        if name not in self._narrowed:
            self._narrowed[name] = narrowed = self._fresh(name, self._narrow.precision)
            if name in self._plan.weights:
                self._weights.append(self._narrow_weight(self._plan.weights[name], narrowed))
            elif self._emulate:
                self._round(name, narrowed)
            else:
                self._cast(name, narrowed, self._narrow.onnx)
        return self._narrowed[name]

    def _narrow_weight(self, tensor: Proto, name: str) -> Proto:
        values = weight_values(tensor)
        weight = type(tensor)()
        weight.name = name
        weight.dims.extend(tensor.dims)
        if self._emulate:
            weight.data_type = FLOAT
            weight.raw_data = self._narrow.rounded(values).astype("<f4").tobytes()
        else:
            weight.data_type = self._narrow.onnx
            weight.raw_data = self._narrow.encode(values)
        return weight

    def _round(self, source: str, target: str) -> None:
        between = self._fresh(source, "rounded")
        self._cast(source, between, self._narrow.onnx)
        self._cast(between, target, FLOAT)

    def _widen(self, names: Iterable[str]) -> None:
        """Cast tensors that exist only in the narrow type to float32, before their first consumer."""
        for name in names:
            if name not in self._only_narrow:
                continue
            self._only_narrow.remove(name)
            if self._emulate:
                self._add("Identity", self._narrowed[name], name)
            else:
                self._cast(self._narrowed[name], name, FLOAT)

    def _cast(self, source: str, target: str, to: int) -> None:
        node = self._add("Cast", source, target)
        attribute = node.attribute.add()
        attribute.name, attribute.i, attribute.type = "to", to, attribute.INT

    def _add(self, operator: str, source: str, target: str) -> Proto:
        node = type(self._plan.model.graph.node[0])()
        node.op_type = operator
        node.name = self._fresh(target, operator.lower())
        node.input.append(source)
        node.output.append(target)
        self._nodes.append(node)
        return node

    def _fresh(self, name: str, what: str) -> str:
        return fresh_name(f"{name}/{what}", self._names)


def _copy(message: Proto, field: Proto, value: Proto) -> None:
    """Copy one field of a protocol buffer message into an empty one."""
    if is_repeated(field):
        getattr(message, field.name).extend(value)
    elif field.message_type is not None:
        getattr(message, field.name).CopyFrom(value)
    else:
        setattr(message, field.name, value)
