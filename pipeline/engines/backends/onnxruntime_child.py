"""The process that optimises one network with ONNX Runtime, and runs what came out once."""

import re
import time
from pathlib import Path
from typing import Final

from pipeline.engines.backends.smoke_test import try_out
from pipeline.engines.onnx.file import Proto, fix_sizes, inspect_onnx, read_onnx
from pipeline.engines.onnx.graph import nodes_given, nodes_of
from pipeline.errors import CompileError, ErrorKind
from pipeline.processes.framing import Message, Payload
from pipeline.processes.serve import Handler, Progress, serve
from store.runtime.backends.onnxruntime import onnxruntime
from store.runtime.load import Engine, load_engine

_UNKNOWN: Final = -1
_STATUS: Final = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
_UNKNOWN_OPERATOR: Final = re.compile(r"(\S+):(\w+)\(-?\d+\) is not a registered function/op")
_NAMELESS: Final = re.compile(r"implementation for (\w+)\(\d+\) node with name ''")
_NOWHERE: Final = re.compile(r"Node input '(.+?)' is not a graph input")
_OWN_DOMAIN: Final = "ai.onnx"
_LISTED: Final = 8
_LONGEST: Final = 600


def start(_first: Message) -> Handler:
    """Take no initial request."""
    return compile_network


def compile_network(request: Message, progress: Progress) -> Payload:
    """Read, fix the batch, optimise, save, load again and run once.

    Raises:
        CompileError: The network cannot become an engine of its role.
    """
    began = time.monotonic()
    progress({"phase": "read the network", "done": 0, "total": 3})
    model = read_onnx(Path(request["onnx"]), expected_sha256=request["sha256"]).model
    if request["role"] == "descriptor":
        signature = inspect_onnx(
            model.SerializeToString(),
            input=request["input"],
            output=request["output"],
            subject=request["model"],
        )
        fix_sizes(
            model,
            signature,
            batch=request["batch"],
            sample_shape=tuple(request["sample_shape"]),
            model_name=request["model"],
        )
    progress({"phase": "optimise", "done": 1, "total": 3})
    shapes = _optimise(model, request)
    progress({"phase": "run once", "done": 2, "total": 3})
    if request["role"] == "descriptor":
        shapes = try_out(_loaded(request))
    progress({"phase": "done", "done": 3, "total": 3})
    return {
        "seconds": time.monotonic() - began,
        "input_shape": shapes[0],
        "output_shape": shapes[1],
    }


def _optimise(model: Proto, request: Message) -> tuple[list[int], list[int]]:
    """Save the optimised network; return the shapes of its input and output, -1 where they are open."""
    ort = onnxruntime("an engine")
    if ort.__version__ != request["version"]:
        raise CompileError(
            f"expected onnxruntime {request['version']}, found {ort.__version__}: two installations are mixed",
            hint="pip install --force-reinstall onnxruntime",
            kind=ErrorKind.BACKEND_UNAVAILABLE,
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = request["engine"]
    options.log_severity_level = 3
    data = model.SerializeToString(deterministic=True)
    try:
        session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the library raises a private class per status code
        raise CompileError(
            f"expected a network that onnxruntime {ort.__version__} can compile, found: {_reason(str(error), model)}",
            hint="export the network with operators that it knows, or choose another backend",
            subject=request["model"],
        ) from error
    shapes = (
        {tensor.name: tensor.shape for tensor in session.get_inputs()}[request["input"]],
        {tensor.name: tensor.shape for tensor in session.get_outputs()}[request["output"]],
    )
    first, second = ([size if isinstance(size, int) else _UNKNOWN for size in shape] for shape in shapes)
    return first, second


def _reason(text: str, model: Proto) -> str:
    """Return what the library says, with the nodes where it names none."""
    said = " ".join(_STATUS.sub("", text).split())
    nodes: list[str] = []
    for domain, operator in _UNKNOWN_OPERATOR.findall(text):
        nodes += map(repr, nodes_of(model, operator, "" if domain == _OWN_DOMAIN else domain))
    for operator in _NAMELESS.findall(text):
        nodes += map(repr, nodes_of(model, operator))
    for tensor in _NOWHERE.findall(text):
        nodes += nodes_given(model, tensor)
    where = f"; at node {', '.join(nodes[:_LISTED])}" if nodes else ""
    return said[:_LONGEST] + where


def _loaded(request: Message) -> Engine:
    """Load the engine as the runtime will."""
    return load_engine(
        request["engine"],
        backend="onnxruntime",
        version=request["version"],
        input=request["input"],
        output=request["output"],
        batch=request["batch"],
    )


if __name__ == "__main__":
    serve(start)
