"""The process that optimises one network with ONNX Runtime and runs the engine once."""

import re
import time
from types import ModuleType
from typing import Final

from pipeline.engines.backends.compile_request import CompileRequest
from pipeline.engines.backends.compile_steps import (
    OPEN_SIZE,
    Shapes,
    answers_alone_as_in_a_batch,
    read_network,
    run_new_engine,
)
from pipeline.engines.backends.onnxruntime_messages import refuse_newer
from pipeline.engines.onnx.file import Proto, drop_open_shapes
from pipeline.engines.onnx.graph import consumers, node_names
from pipeline.engines.port import EngineJob
from pipeline.errors import CompileError, ErrorKind
from pipeline.processes.framing import Message, Payload
from pipeline.processes.serve import Progress, serve
from store.runtime.backends.base import ExecutionError, Untyped
from store.runtime.backends.onnxruntime import onnxruntime
from store.runtime.golden_vectors import golden_inputs

_STATUS: Final = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
_UNKNOWN_OPERATOR: Final = re.compile(r"(\S+):(\w+)\(-?\d+\) is not a registered function/op")
_NAMELESS: Final = re.compile(r"implementation for (\w+)\(\d+\) node with name ''")
_MISSING_TENSOR: Final = re.compile(r"Node input '(.+?)' is not a graph input")
_AS_WRITTEN: Final = ("session.disable_quant_qdq", "session.disable_double_qdq_remover")
"""Settings with which quantised networks keep their roundings and compute in floats between them."""
_OWN_DOMAIN: Final = "ai.onnx"
_MAX_NODES: Final = 8
_MAX_REASON: Final = 600


def compile_network(message: Message, progress: Progress) -> Payload:
    """Read, fix the batch, optimise, save, load again and run once."""
    began = time.monotonic()
    request = CompileRequest.from_message(message)
    progress({"phase": "read the network", "done": 0, "total": 3})
    model = read_network(request.job)
    progress({"phase": "optimise", "done": 1, "total": 3})
    opened = request.job.single and _optimise_with_open_batch(model, request)
    shapes = None if opened else _optimise(model, request)
    progress({"phase": "run once", "done": 2, "total": 3})
    if shapes is None or request.job.role == "descriptor":
        shapes = run_new_engine(request)
    progress({"phase": "done", "done": 3, "total": 3})
    return {"seconds": time.monotonic() - began, "input_shape": shapes[0], "output_shape": shapes[1]}


def _optimise_with_open_batch(model: Proto, request: CompileRequest) -> bool:
    """Save the network for any batch, if a sample alone gets the answer that it gets in a batch.

    Some networks work at a fixed batch alone, which they say nowhere: they are left with that.
    """
    (batch,) = (
        value.type.tensor_type.shape.dim[0] for value in model.graph.input if value.name == request.job.input
    )
    batch.dim_param = "batch"
    drop_open_shapes(model)
    try:
        _optimise(model, request)
        if answers_alone_as_in_a_batch(request):
            return True
    except (CompileError, ExecutionError):
        pass  # as it is with a fixed batch, the compile after this one says
    batch.dim_value = request.job.batch
    return False


def _optimise(model: Proto, request: CompileRequest) -> Shapes:
    """Save the optimised network; return the shapes of its input and output."""
    ort, job = onnxruntime("an engine"), request.job
    if ort.__version__ != request.version:
        raise CompileError(
            f"expected onnxruntime {request.version}, found {ort.__version__}: two installations are mixed",
            hint="pip install --force-reinstall onnxruntime",
            kind=ErrorKind.BACKEND_UNAVAILABLE,
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    if job.quantized:
        for entry in _AS_WRITTEN:
            options.add_session_config_entry(entry, "1")
    options.optimized_model_filepath = str(request.engine)
    options.log_severity_level = 3
    try:
        session = _session(ort, model, options)
        if job.role == "descriptor" and not _has_known_output(session):
            _declare_output(model, session, job)
            session = _session(ort, model, options)
    except Exception as error:  # the library raises a private class per status code
        refuse_newer(str(error), ort.__version__, job.model)
        raise CompileError(
            f"expected a network that onnxruntime {ort.__version__} can compile, found: {_reason(str(error), model)}",
            hint="export the network with operators that it knows, or choose another backend",
            subject=job.model,
        ) from error
    shapes = (
        {tensor.name: tensor.shape for tensor in session.get_inputs()}[job.input],
        {tensor.name: tensor.shape for tensor in session.get_outputs()}[job.output],
    )
    first, second = ([size if isinstance(size, int) else OPEN_SIZE for size in shape] for shape in shapes)
    return first, second


def _session(ort: ModuleType, model: Proto, options: Untyped) -> Untyped:
    data = model.SerializeToString(deterministic=True)
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _has_known_output(session: Untyped) -> bool:
    """Tell whether all sizes of the output are known; its batch may be open if that of the input is."""
    shape = session.get_outputs()[0].shape
    opened = not isinstance(session.get_inputs()[0].shape[0], int)
    return bool(shape) and all(isinstance(size, int) for size in shape[opened:])


def _declare_output(model: Proto, session: Untyped, job: EngineJob) -> None:
    """Declare the shape that the output has in a run, where the library cannot infer it, as behind a Loop."""
    (answer,) = session.run([job.output], {job.input: golden_inputs((job.batch, *job.sample_shape))})
    sizes = model.graph.output[0].type.tensor_type.shape
    for size in answer.shape:
        sizes.dim.add().dim_value = size


def _reason(text: str, model: Proto) -> str:
    """Return the library's message, with the nodes where it names none."""
    nodes: list[str] = []
    for domain, operator in _UNKNOWN_OPERATOR.findall(text):
        nodes += map(repr, node_names(model, operator, "" if domain == _OWN_DOMAIN else domain))
    for operator in _NAMELESS.findall(text):
        nodes += map(repr, node_names(model, operator))
    for tensor in _MISSING_TENSOR.findall(text):
        nodes += consumers(model, tensor)
    reason = " ".join(_STATUS.sub("", text).split())[:_MAX_REASON]
    return f"{reason}; at node {', '.join(nodes[:_MAX_NODES])}" if nodes else reason


if __name__ == "__main__":
    serve(lambda _first: compile_network)
