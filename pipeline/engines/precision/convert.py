"""Convert a network to 16-bit arithmetic in its graph, and measure the loss.

Strongly typed compilers keep the types of a graph, so a precision is a conversion of the graph and not a
compiler flag. The rules keep the answers close to those in float32 ("narrow" means computed in 16 bits):

- Inputs and outputs of the graph stay float32, with casts beside them. - Convolutions and matrix products are
narrow: GPUs are fast at them, and they accumulate in float32. - Operators that round each number at most
once, or only move numbers, are narrow where their input is. - All others stay float32: norms, softmax,
reductions, square roots, powers, exponentials, interpolation, unknown ones. - An operator with weights that
the type cannot hold stays float32. Nested graphs stay float32 as a whole. - Explicitly quantised operators
stay as they are, so that a compiler recognises them.

The same plan also gives a graph in float32 that rounds at the same places. With it any machine can measure
the loss before anything is compiled.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.engines.onnx.declaration import bad_model
from pipeline.engines.onnx.file import Proto, inputs_of
from pipeline.engines.precision.float16 import NARROW
from pipeline.engines.precision.plan import FOLLOWERS, SEEDS, narrow_nodes
from pipeline.engines.precision.rewrite import rewrite
from pipeline.errors import CompileError, ErrorKind
from store.base.canonical_json import Document
from store.base.valueclass import valueclass
from store.runtime.backends.base import RuntimeUnavailableError
from store.runtime.backends.onnxruntime import onnxruntime

RECIPE: Final = 1
"""Raised whenever the same network and precision would give another graph."""

Feeds = Mapping[str, NDArray[Any]]
"""Values for the inputs of a graph, by name."""


@valueclass(frozen=True, slots=True, kw_only=True)
class NodeLoss:
    """The node at which a conversion loses most.

    Attributes:
        name: The node's name, or the name of its first output when it has none.
        operator: Its operator.
        cosine: The one between its converted output and that in float32; -1 when a number is not finite.
    """

    name: str
    operator: str
    cosine: float

    def __str__(self) -> str:
        return f"{self.operator} {self.name!r} (cosine {self.cosine:.6f})"


def conversion_document(precision: str) -> Document:
    """Return what a converted graph depends on besides the network, for a step key; empty for fp32.

    Raises:
        CompileError: An unknown precision.
    """
    if not _is_narrow(precision):
        return {}
    from importlib import metadata  # noqa: PLC0415 - slow, and only other precisions need it

    unsupported = NARROW[precision].unsupported
    return {
        "recipe": RECIPE,
        # Its type inference decides which nodes can become narrow.
        "onnx": metadata.version("onnx"),
        "narrow": sorted(SEEDS - unsupported),
        "narrow_where_data_is": sorted(FOLLOWERS - unsupported),
    }


def convert(model: Proto, precision: str) -> Proto:
    """Return a network converted to a precision; the given one is not changed.

    Args:
        model: An `onnx.ModelProto` with its weights inlined.
        precision: "fp32" returns the very same model; "fp16" and "bf16" a converted copy.

    Raises:
        CompileError: An unknown precision, or BAD_MODEL, its types cannot be inferred.
    """
    return _rewritten(model, precision, emulate=False)


def emulate(model: Proto, precision: str) -> Proto:
    """Return the network in float32, rounded wherever `convert` would round.

    ONNX Runtime runs it on any CPU, even without kernels for the 16-bit type. It cannot show the order in
    which a device adds numbers.

    Raises:
        CompileError: As for `convert`.
    """
    return _rewritten(model, precision, emulate=True)


def conversion_parity(model: Proto, precision: str, feeds: Feeds) -> float:
    """Return the least cosine between the outputs of the emulated network and of the given one.

    It compares each row (first axis) of every floating-point output. A number that is not finite gives -1;
    fp32 gives 1 without running anything.

    Args:
        model: A network with its weights inlined.
        precision: The precision to try.
        feeds: For a descriptor network {input: golden samples, float32 [batch, ...]}; see `sample_feeds`.

    Raises:
        CompileError: As for `convert`; BACKEND_UNAVAILABLE, ONNX Runtime is not installed; BAD_MODEL, it
            cannot run the network.
    """
    if not _is_narrow(precision):
        return 1.0
    expected, found = _run(model, feeds), _run(emulate(model, precision), feeds)
    return min((cosine(found[name], expected[name]) for name in expected), default=1.0)


def worst_node(model: Proto, precision: str, feeds: Feeds) -> NodeLoss | None:
    """Return the narrow node at which the cosine falls most, None if no node is narrow.

    It keeps the output of every narrow node, so use one small batch, after `conversion_parity` failed.

    Raises:
        CompileError: As for `conversion_parity`.
    """
    if not _is_narrow(precision):
        return None
    plan = narrow_nodes(model, NARROW[precision])
    nodes = [node for number, node in enumerate(plan.model.graph.node) if number in plan.nodes]
    names = [node.output[0] for node in nodes]
    exposed = replace(plan, model=_with_outputs(plan.model, names))
    expected = _run(exposed.model, feeds)
    found = _run(rewrite(exposed, NARROW[precision], emulate=True), feeds)
    cosines = {name: cosine(found[name], expected[name]) for name in names}
    worst: NodeLoss | None = None
    worst_drop = -np.inf
    for node in nodes:
        own = cosines[node.output[0]]
        drop = min((cosines[name] for name in node.input if name in cosines), default=1.0) - own
        if drop > worst_drop:
            worst_drop = drop
            worst = NodeLoss(name=node.name or node.output[0], operator=node.op_type, cosine=own)
    return worst


def sample_feeds(model: Proto, sizes: Mapping[str, tuple[int, ...]] | None = None) -> dict[str, NDArray[Any]]:
    """Return values for every input of a network without preprocessing.

    Args:
        model: A network.
        sizes: Shapes of inputs with open sizes, by name, such as an optimisation profile's usual ones.

    Returns:
        For each input an array of its type: hashed values of 0 ... 255 for floating point; zeros for other
            types, which
        may be indexes into a table. Open sizes that are not in `sizes` are 1.
    """
    import onnx  # noqa: PLC0415 - heavy

    from store.runtime.golden_vectors import golden_inputs  # noqa: PLC0415 - only here

    feeds: dict[str, NDArray[Any]] = {}
    for value in inputs_of(model):
        kind = value.type.tensor_type
        shape = (sizes or {}).get(value.name) or tuple(size.dim_value or 1 for size in kind.shape.dim)
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
        filled = golden_inputs(shape) if dtype.kind == "f" else np.zeros(shape)
        feeds[value.name] = filled.astype(dtype)
    return feeds


def cosine(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Return the least cosine over rows (first axis); -1 for other shapes or numbers that are not finite."""
    if found.shape != expected.shape:
        return -1.0
    rows = len(expected) if expected.ndim > 1 else 1
    if not expected.size:
        return 1.0
    first = found.reshape(rows, -1).astype(np.float64)
    second = expected.reshape(rows, -1).astype(np.float64)
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        return -1.0
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    products = np.einsum("nd,nd->n", first, second)
    both_zero = ~first.any(axis=1) & ~second.any(axis=1)
    cosines = np.divide(products, norms, out=np.where(both_zero, 1.0, -1.0), where=norms > 0)
    return float(np.clip(cosines, -1.0, 1.0).min())


def _is_narrow(precision: str) -> bool:
    if precision == "fp32":
        return False
    if precision in NARROW:
        return True
    raise CompileError(
        f"expected the precision fp32, {' or '.join(NARROW)}, found {precision!r}",
        hint="int8 needs no precision: put QuantizeLinear and DequantizeLinear into the network",
    )


def _rewritten(model: Proto, precision: str, *, emulate: bool) -> Proto:
    if not _is_narrow(precision):
        return model
    return rewrite(narrow_nodes(model, NARROW[precision]), NARROW[precision], emulate=emulate)


def _with_outputs(model: Proto, names: list[str]) -> Proto:
    """Return a copy whose outputs are the named tensors."""
    copy = type(model)()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    for name in names:
        copy.graph.output.add().name = name
    return copy


def _run(model: Proto, feeds: Feeds) -> dict[str, NDArray[Any]]:
    """Run a network with ONNX Runtime, without optimisation; return its floating-point outputs."""
    try:
        runtime = onnxruntime("what a conversion costs")
    except RuntimeUnavailableError as error:
        raise CompileError(error.message, hint=error.hint, kind=ErrorKind.BACKEND_UNAVAILABLE) from error
    options = runtime.SessionOptions()
    # An optimiser could remove a cast and the cast back.
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = runtime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        names = [output.name for output in session.get_outputs()]
        values = session.run(names, dict(feeds))
    except Exception as error:  # the library raises a private class per status code
        raise bad_model(
            f"expected a network that ONNX Runtime can run, found: {error}",
            'set engine.precision = "fp32", which needs no comparison',
        ) from error
    return {
        name: value
        for name, value in zip(names, values, strict=True)
        if isinstance(value, np.ndarray) and value.dtype.kind == "f"
    }
