"""The process that compiles one network with OpenVINO, exports the engine and runs it once."""

import importlib
import re
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Final

from pipeline.engines.backends.compile_request import CompileRequest
from pipeline.engines.backends.compile_steps import OPEN_SIZE, Shapes, read_network, run_new_engine
from pipeline.engines.onnx.declaration import bad_model
from pipeline.engines.onnx.eight_bit import rewrite_roundings
from pipeline.engines.onnx.file import Proto
from pipeline.engines.onnx.graph import consumers, node_names
from pipeline.errors import CompileError, ErrorKind
from pipeline.processes.framing import Message, Payload
from pipeline.processes.serve import Progress, serve
from store.runtime.backends import openvino_library
from store.runtime.backends.base import ExecutionError, Untyped
from store.runtime.backends.openvino import last_line, require_precision

_STEPS: Final = 4
_UNKNOWN: Final = re.compile(r"No conversion rule found for operations: (.+)")
_FAILED: Final = re.compile(r"-- (\S+?)(?:-\d+)? with a message:\n(?:.*<Node\(\w+\): ([^>]*)>)?")
_MISSING_TENSOR: Final = re.compile(r"^(.+) node not found in graph cache", re.MULTILINE)
_VERSION_SUFFIX: Final = re.compile(r"-\d+$")
_NARROWER: Final = frozenset({"bf16", "f16"})
_COMPUTES: Final = frozenset({"Convolution", "FullyConnected", "MatMul"})
_EIGHT_BITS: Final = ("_i8", "_u8")
"""How the library's name of a kernel ends that computes in 8 bits; weights alone may be in 8 bits."""
_MAX_LISTED: Final = 8


def compile_network(message: Message, progress: Progress) -> Payload:
    """Read, fix the batch, compile, export, import again and run once."""
    began = time.monotonic()
    request = CompileRequest.from_message(message)
    progress({"phase": "read the network", "done": 0, "total": _STEPS})
    openvino = _library(request.version)
    model = read_network(request.job)
    progress({"phase": "convert", "done": 1, "total": _STEPS})
    network = _convert(openvino, model, request.job.model)
    del model  # its weights are in the library's network now
    progress({"phase": "compile", "done": 2, "total": _STEPS})
    shapes = _compile(openvino, network, request)
    progress({"phase": "run once", "done": 3, "total": _STEPS})
    if request.job.role == "descriptor":
        shapes = run_new_engine(request)
    progress({"phase": "done", "done": _STEPS, "total": _STEPS})
    return {"seconds": time.monotonic() - began, "input_shape": shapes[0], "output_shape": shapes[1]}


def _library(version: str) -> ModuleType:
    try:
        openvino = openvino_library.library()
    except ExecutionError as error:
        raise CompileError(error.message, hint=error.hint, kind=ErrorKind.BACKEND_UNAVAILABLE) from error
    if openvino_library.loaded_version(openvino) != version:
        raise CompileError(
            f"expected openvino {version}, as its package says, found that the library loaded is "
            f"{openvino_library.loaded_version(openvino)}: two installations are mixed",
            hint="pip install --force-reinstall openvino",
            kind=ErrorKind.BACKEND_UNAVAILABLE,
        )
    return openvino


def _convert(openvino: ModuleType, model: Proto, name: str) -> Untyped:
    if model.functions:
        inliner = importlib.import_module("onnx.inliner")
        model = inliner.inline_local_functions(model)
    rewrite_roundings(model, name)
    try:
        return openvino.Core().read_model(model.SerializeToString(deterministic=True))
    except RuntimeError as error:
        problems = list(_problems(str(error), model))
        found = "; ".join(problems[:_MAX_LISTED]) or last_line(error)
        raise bad_model(
            f"expected a network that OpenVINO can read, found {found}",
            "export the network with operators that it knows, or choose another backend",
            name,
        ) from error


def _problems(text: str, model: Proto) -> Iterator[str]:
    """Yield each operator that the library does not know or could not convert, with its node.

    Operators that it could not convert are left out where unknown operators are the cause.
    """
    unknown = _UNKNOWN.search(text)
    for tensor in _MISSING_TENSOR.findall(text):
        for node in consumers(model, tensor):
            yield f"{node}, which takes {tensor!r}, that nothing makes"
    if unknown is None:
        for operator, node in _FAILED.findall(text):
            yield f"operator {operator} that it cannot convert, in node {node!r}"
        return
    for listed in unknown[1].split(","):
        operator = _VERSION_SUFFIX.sub("", listed.strip())
        domain, _, name = operator.rpartition(".")
        nodes = node_names(model, name, domain)
        where = ", ".join(repr(node) for node in nodes[:_MAX_LISTED]) or "a nested graph"
        yield f"operator {operator} that it does not know, in node {where}"


def _compile(openvino: ModuleType, network: Untyped, request: CompileRequest) -> Shapes:
    """Compile, export and save; return the shapes of input and output."""
    job = request.job
    try:
        settings = openvino_library.configuration(job.precision) | openvino_library.numerics(
            job.precision, quantized=job.quantized
        )
        compiled = openvino.Core().compile_model(network, openvino_library.DEVICE, settings)
        data = compiled.export_model()
    except RuntimeError as error:
        raise CompileError(
            f"expected a network that OpenVINO can compile, found: {last_line(error)}",
            hint="choose another backend, or another precision",
            kind=ErrorKind.COMPILE_FAILED,
            subject=job.model,
        ) from error
    _require_precision(compiled, job.precision, job.model)
    view = data.getbuffer()
    _require_header(view, request)
    request.engine.write_bytes(view)
    return _shape(compiled.inputs, job.input), _shape(compiled.outputs, job.output)


def _require_precision(compiled: Untyped, precision: str, name: str) -> None:
    """Refuse an engine that computes in another precision, as a whole or in one operator."""
    try:
        require_precision(compiled, precision)
    except ExecutionError as error:
        raise CompileError(error.message, hint=error.hint, subject=name) from error
    if precision != "fp32":
        return
    for operator in compiled.get_runtime_model().get_ops():
        info = operator.get_rt_info()
        found = str(info["runtimePrecision"].value) if "runtimePrecision" in info else ""
        computes = "layerType" in info and str(info["layerType"].value) in _COMPUTES
        kernel = str(info["primitiveType"].value).lower() if "primitiveType" in info else f"_{found}"
        if found in _NARROWER or (computes and kernel.endswith(_EIGHT_BITS)):
            raise CompileError(
                f"expected OpenVINO to compute in f32, found {found} in {operator.get_friendly_name()!r}",
                hint="choose another backend, or another version of openvino",
                subject=name,
            )


def _require_header(data: memoryview, request: CompileRequest) -> None:
    """Refuse an engine whose header names another version or target than its key."""
    job = request.job
    try:
        found = openvino_library.read_requirements(data)
    except ExecutionError as error:
        raise CompileError(error.message, subject=job.model) from error
    if (found.version, found.target) != (request.version, job.target):
        raise CompileError(
            f"expected an engine of openvino {request.version} for {job.target!r}, found one of "
            f"{found.version} for {found.target!r}",
            hint="run the build again on this machine alone",
            subject=job.model,
        )


def _shape(ports: Untyped, name: str) -> list[int]:
    chosen = next((port for port in ports if name in port.get_names()), None)
    if chosen is None:
        raise bad_model(
            f"expected a tensor called {name!r}, found {[port.get_names() for port in ports]}",
            "name one of them as the model's input or output",
        )
    return [size.get_length() if size.is_static else OPEN_SIZE for size in chosen.get_partial_shape()]


if __name__ == "__main__":
    serve(lambda _first: compile_network)
