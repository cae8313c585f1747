"""The process that compiles one network with OpenVINO, exports it, and runs what came out once."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from pipeline.engines.backends.smoke_test import Shapes, try_out
from pipeline.engines.onnx.file import Proto, fix_sizes, inspect_onnx, read_onnx
from pipeline.engines.onnx.graph import nodes_given, nodes_of
from pipeline.errors import CompileError, ErrorKind
from pipeline.processes.framing import Message, Payload
from pipeline.processes.serve import Handler, Progress, serve
from store.runtime.backends.base import ExecutionError
from store.runtime.backends.openvino import last_line, require_precision
from store.runtime.backends.openvino_library import (
    DEVICE,
    configuration,
    library,
    loaded_version,
    read_requirements,
)
from store.runtime.load import Engine, load_engine

_STEPS: Final = 4
_UNKNOWN: Final = -1
_MISSING: Final = re.compile(r"No conversion rule found for operations: (.+)")
_FAILED: Final = re.compile(r"-- (\S+?)(?:-\d+)? with a message:\n(?:.*<Node\(\w+\): ([^>]*)>)?")
_NOWHERE: Final = re.compile(r"^(.+) node not found in graph cache", re.MULTILINE)
_VERSION_SUFFIX: Final = re.compile(r"-\d+$")
_NARROWER: Final = frozenset({"bf16", "f16"})
_LISTED: Final = 8


def start(_first: Message) -> Handler:
    """Take no initial request."""
    return compile_network


def compile_network(request: Message, progress: Progress) -> Payload:
    """Read, fix the batch, compile, export, import again and run once.

    Raises:
        CompileError: The network cannot become an engine of its role.
    """
    began = time.monotonic()
    progress({"phase": "read the network", "done": 0, "total": _STEPS})
    openvino = _library(request)
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
    progress({"phase": "convert", "done": 1, "total": _STEPS})
    network = _network(openvino, model, request["model"])
    del model  # its weights are in the library's network now
    progress({"phase": "compile", "done": 2, "total": _STEPS})
    shapes = _compile(openvino, network, request)
    progress({"phase": "run once", "done": 3, "total": _STEPS})
    if request["role"] == "descriptor":
        shapes = try_out(_loaded(request))
    progress({"phase": "done", "done": _STEPS, "total": _STEPS})
    return {"seconds": time.monotonic() - began, "input_shape": shapes[0], "output_shape": shapes[1]}


def _library(request: Message) -> ModuleType:
    try:
        openvino = library()
    except ExecutionError as error:
        raise CompileError(error.message, hint=error.hint, kind=ErrorKind.BACKEND_UNAVAILABLE) from error
    if loaded_version(openvino) != request["version"]:
        raise CompileError(
            f"expected openvino {request['version']}, as its package says, found that the library loaded is "
            f"{loaded_version(openvino)}: two installations are mixed",
            hint="pip install --force-reinstall openvino",
            kind=ErrorKind.BACKEND_UNAVAILABLE,
        )
    return openvino


def _network(openvino: ModuleType, model: Proto, name: str) -> Any:  # noqa: ANN401 - the library's own type
    try:
        return openvino.Core().read_model(model.SerializeToString(deterministic=True))
    except RuntimeError as error:
        problems = list(_problems(str(error), model))
        found = "; ".join(problems[:_LISTED]) or last_line(error)
        raise CompileError(
            f"expected a network that OpenVINO can read, found {found}",
            hint="export the network with operators that it knows, or choose another backend",
            kind=ErrorKind.BAD_MODEL,
            subject=name,
        ) from error


def _problems(text: str, model: Proto) -> Iterator[str]:
    """Yield each operator that the library does not know or could not convert, with the node where it stands.

    What could not be converted only because something before it is unknown is left out.
    """
    missing = _MISSING.search(text)
    for tensor in _NOWHERE.findall(text):
        for node in nodes_given(model, tensor):
            yield f"{node}, which takes {tensor!r}, that nothing makes"
    if missing is None:
        for operator, node in _FAILED.findall(text):
            yield f"operator {operator} that it cannot convert, in node {node!r}"
        return
    for listed in missing[1].split(","):
        operator = _VERSION_SUFFIX.sub("", listed.strip())
        domain, _, name = operator.rpartition(".")
        nodes = nodes_of(model, name, domain)
        where = ", ".join(repr(node) for node in nodes[:_LISTED]) or "a nested graph"
        yield f"operator {operator} that it does not know, in node {where}"


def _compile(openvino: ModuleType, network: Any, request: Message) -> Shapes:  # noqa: ANN401 - the library's own type
    """Compile, export and save; return the shapes of input and output, -1 where they are open."""
    try:
        compiled = openvino.Core().compile_model(network, DEVICE, configuration(request["precision"]))
        data = compiled.export_model()
    except RuntimeError as error:
        raise CompileError(
            f"expected a network that OpenVINO can compile, found: {last_line(error)}",
            hint="choose another backend, or another precision",
            kind=ErrorKind.COMPILE_FAILED,
            subject=request["model"],
        ) from error
    _require_numerics(compiled, request)
    view = data.getbuffer()
    _require_header(view, request)
    Path(request["engine"]).write_bytes(view)
    return _shape(compiled.inputs, request["input"]), _shape(compiled.outputs, request["output"])


def _require_numerics(compiled: Any, request: Message) -> None:  # noqa: ANN401 - the library's own type
    """Hold what the library chose against what it was told, as a whole and operator by operator."""
    try:
        require_precision(compiled, request["precision"])
    except ExecutionError as error:
        raise CompileError(error.message, hint=error.hint, subject=request["model"]) from error
    if request["precision"] != "fp32":
        return
    for operator in compiled.get_runtime_model().get_ops():
        facts = operator.get_rt_info()
        precision = str(facts["runtimePrecision"].value) if "runtimePrecision" in facts else ""
        if precision in _NARROWER:
            raise CompileError(
                f"expected OpenVINO to compute in f32, found {precision} in {operator.get_friendly_name()!r}",
                hint="choose another backend, or another version of openvino",
                subject=request["model"],
            )


def _require_header(data: memoryview, request: Message) -> None:
    """Hold what the engine says of itself against what the key says of it."""
    try:
        found = read_requirements(data)
    except ExecutionError as error:
        raise CompileError(error.message, subject=request["model"]) from error
    if (found.version, found.target) != (request["version"], request["target"]):
        raise CompileError(
            f"expected an engine of openvino {request['version']} for {request['target']!r}, found one of "
            f"{found.version} for {found.target!r}",
            hint="run the build again on this machine alone",
            subject=request["model"],
        )


def _shape(ports: Any, name: str) -> list[int]:  # noqa: ANN401 - the library's own type
    chosen = next((port for port in ports if name in port.get_names()), None)
    if chosen is None:
        raise CompileError(
            f"expected a tensor called {name!r}, found {[port.get_names() for port in ports]}",
            hint="name one of them as the model's input or output",
            kind=ErrorKind.BAD_MODEL,
        )
    return [size.get_length() if size.is_static else _UNKNOWN for size in chosen.get_partial_shape()]


def _loaded(request: Message) -> Engine:
    """Load the engine as the runtime will."""
    return load_engine(
        request["engine"],
        backend="openvino",
        version=request["version"],
        target=request["target"],
        precision=request["precision"],
        input=request["input"],
        output=request["output"],
        batch=request["batch"],
    )


if __name__ == "__main__":
    serve(start)
