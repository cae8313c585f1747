"""The process that optimises one network with ONNX Runtime, and runs what came out once."""

import time
from pathlib import Path
from typing import Final

import numpy as np

from pipeline.child import Handler, Progress, serve
from pipeline.engines.onnx_file import fix_sizes, inspect_onnx, read_onnx
from pipeline.errors import CompileError, ErrorKind
from pipeline.frames import Message, Payload
from store.golden import golden_inputs
from store.runtime import load_engine

_UNKNOWN: Final = -1


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
    shapes = _optimise(model.SerializeToString(deterministic=True), request)
    progress({"phase": "run once", "done": 2, "total": 3})
    if request["role"] == "descriptor":
        shapes = _try_out(request)
    progress({"phase": "done", "done": 3, "total": 3})
    return {
        "seconds": time.monotonic() - began,
        "input_shape": shapes[0],
        "output_shape": shapes[1],
    }


def _optimise(data: bytes, request: Message) -> tuple[list[int], list[int]]:
    """Save the optimised network; return the shapes of its input and output, -1 where they are open."""
    import onnxruntime as ort  # noqa: PLC0415 - heavy

    if ort.__version__ != request["version"]:
        raise CompileError(
            f"expected onnxruntime {request['version']}, found {ort.__version__}: two installations are mixed",
            "pip install --force-reinstall onnxruntime",
            ErrorKind.BACKEND_UNAVAILABLE,
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = request["engine"]
    options.log_severity_level = 3
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    shapes = (
        {tensor.name: tensor.shape for tensor in session.get_inputs()}[request["input"]],
        {tensor.name: tensor.shape for tensor in session.get_outputs()}[request["output"]],
    )
    first, second = ([size if isinstance(size, int) else _UNKNOWN for size in shape] for shape in shapes)
    return first, second


def _try_out(request: Message) -> tuple[list[int], list[int]]:
    """Load the engine as the runtime will and run it once, because some networks only fail when they run."""
    batch = request["batch"]
    engine = load_engine(
        request["engine"],
        backend="onnxruntime",
        version=request["version"],
        input=request["input"],
        output=request["output"],
        batch=batch,
    )
    vectors = engine.run(golden_inputs((batch, *engine.sample_shape)))
    if not np.isfinite(vectors).all():
        raise CompileError("expected finite descriptors of the golden images, found others")
    return [batch, *engine.sample_shape], [batch, engine.dimensions]


if __name__ == "__main__":
    serve(start)
