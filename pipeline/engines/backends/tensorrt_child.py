"""The process that compiles one network with TensorRT or TensorRT for RTX.

On SIGTERM it cancels the build through the library's progress monitor and reports that. The parent kills it
if that takes too long.
"""

import hashlib
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np

from pipeline.engines.backends.compile_request import CompileRequest
from pipeline.engines.backends.compile_steps import (
    LEAST_COSINE_ALONE,
    OPEN_SIZE,
    Shapes,
    answers_alone_as_in_a_batch,
)
from pipeline.engines.backends.tensorrt_build import TensorRtSession
from pipeline.engines.backends.tensorrt_progress import BuildPhases
from pipeline.engines.onnx.declaration import bad_model
from pipeline.engines.onnx.file import MAX_MODEL_BYTES, Proto, read_onnx
from pipeline.engines.onnx.graph import consumers
from pipeline.engines.onnx.input_shapes import set_input_sizes
from pipeline.engines.port import EngineJob, ShapeRange
from pipeline.engines.precision.convert import conversion_parity, convert, sample_feeds, worst_node
from pipeline.engines.precision.float16 import least_cosine
from pipeline.errors import CompileError, ErrorKind
from pipeline.processes.framing import Message, Payload
from pipeline.processes.serve import Handler, Progress, serve
from store.runtime.backends import tensorrt_library
from store.runtime.backends.gpu import gpus
from store.runtime.capabilities import covered
from store.runtime.golden_vectors import golden_images, golden_inputs

_TOTAL: Final = 1000
"""The value of `done` in a progress report at the end."""

_READ, _CONVERTED, _PARSED, _BUILT = 0, 30, 60, 980
_REPEAT_S: Final = 5.0
_MIN_INTERVAL_S: Final = 0.05

_cancelled = threading.Event()


def start(_first: Message) -> Handler:
    """Start the thread that waits for SIGTERM; return the handler."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_wait_for_sigterm, daemon=True).start()
    return compile_network


def _wait_for_sigterm() -> None:
    # The main thread is in the library for minutes, where no signal handler of Python runs.
    signal.sigwait({signal.SIGTERM})
    _cancelled.set()


def compile_network(message: Message, progress: Progress) -> Payload:
    """Read, fix the sizes, convert, parse, compare with the original, build, and write the engine."""
    began = time.monotonic()
    request = CompileRequest.from_message(message)
    job, backend, version = request.job, request.backend, request.version
    with _Reports(progress).repeated() as reports:
        reports.step("load the library", _READ)
        name = _library_name(backend, version)
        reports.step("read the network", _READ)
        model = read_onnx(job.onnx, expected_sha256=job.onnx_sha256)
        nodes = _name_nodes(model)
        profiles = set_input_sizes(model, job)
        reports.step("convert", _CONVERTED)
        converted = convert(model, job.precision)
        plugins = _copy_plugins(job, request.engine.parent)
        session = TensorRtSession(
            tensorrt_library.library(backend), job, library=name, plugins=plugins, nodes=nodes
        )
        reports.step("parse", _CONVERTED)
        session.parse(_serialised(converted, job.model))
        _refuse_shape_inputs(session, model, job.model)
        shapes = _shapes(session, job, opened=bool(profiles))
        if job.precision != "fp32":
            reports.step(f"measure {job.precision}", _PARSED)
            _require_parity(model, job, profiles[0] if profiles else {})
        del model, converted  # their weights are in the library's network now
        reports.step("build", _PARSED)
        engine, timing_cache = session.build(profiles, reports.phase)
        _require_version(engine, backend, version, job.model)
        request.engine.write_bytes(engine)
        if job.single and covered(backend, job.target):
            reports.step("compare one sample with a batch", _BUILT)
            _require_same_alone(request)
        reports.step("done", _TOTAL)
    return {
        "seconds": time.monotonic() - began,
        "input_shape": shapes[0],
        "output_shape": shapes[1],
        "timing_cache": timing_cache,
    }


def _library_name(backend: str, version: str) -> str:
    """Import the library, refuse another version, log it with the GPUs; return its name with its version."""
    try:
        found = tensorrt_library.loaded_version(backend)
    except tensorrt_library.LibraryMissingError as error:
        raise CompileError(
            str(error), hint=f"pip install the library of {backend} again", kind=ErrorKind.BACKEND_UNAVAILABLE
        ) from error
    if found != version:
        raise CompileError(
            f"expected {backend} {version}, as its package says, found that the library loaded is {found}: two "
            "installations are mixed",
            hint="remove one of them, then install the other again",
            kind=ErrorKind.BACKEND_UNAVAILABLE,
        )
    devices = "; ".join(f"GPU {gpu.index}: {gpu}" for gpu in gpus()) or "no GPU visible"
    sys.stderr.write(f"{backend} {found}; {devices}\n")
    return f"{backend} {found}"


def _name_nodes(model: Proto) -> dict[str, str]:
    """Name each nameless node by operator and place; return the operator of each node by name.

    A conversion inserts nodes, so that a place alone would no longer identify a node of the network.
    """
    nodes: dict[str, str] = {}
    for place, node in enumerate(model.graph.node):
        if not node.name or node.name in nodes:
            node.name = f"{node.name or node.op_type}#{place}"
        nodes[node.name] = node.op_type
    return nodes


def _serialised(model: Proto, name: str) -> bytes:
    size = model.ByteSize()
    if size > MAX_MODEL_BYTES:
        raise bad_model(
            f"expected a network below 2 GiB, found {size:,} bytes after its conversion",
            "export a smaller network",
            name,
        )
    try:
        data: bytes = model.SerializeToString()
    except Exception as error:  # a class of the format's library, which carries no types
        raise CompileError(
            f"expected memory for a copy of {size >> 20} MiB, found too little: {error}",
            hint="free memory",
            kind=ErrorKind.COMPILE_OUT_OF_MEMORY,
            subject=name,
        ) from error
    return data


def _refuse_shape_inputs(session: TensorRtSession, model: Proto, name: str) -> None:
    """Refuse a network whose inputs decide shapes: the library would only report a missing profile."""
    found = [f"{each!r}, taken by {', '.join(consumers(model, each))}" for each in session.shape_inputs()]
    if found:
        raise bad_model(
            f"expected inputs whose values decide no shape, found {'; '.join(found)}",
            "export the network with that shape as a constant",
            name,
        )


def _shapes(session: TensorRtSession, job: EngineJob, *, opened: bool) -> Shapes:
    """Return the shapes of input and output; those of a descriptor engine get the job's batch if it is open."""
    shapes = session.tensor_shapes()
    if job.role == "descriptor":
        batches = {OPEN_SIZE} if opened else {OPEN_SIZE, job.batch}
        if len(shapes[1]) != 2 or shapes[1][0] not in batches or shapes[1][1] < 1:
            raise bad_model(
                f"expected a descriptor output of [{'any batch' if opened else job.batch}, d], found {shapes[1]}",
                "export the network with one vector for each image",
                job.model,
            )
        for shape in shapes:
            shape[0] = job.batch
    return shapes


def _require_same_alone(request: CompileRequest) -> None:
    """Require that a new engine answers one sample alone as in a batch, as near as its arithmetic allows."""
    job = request.job
    exact = job.precision == "fp32" and not (job.tf32 or job.quantized)
    least = LEAST_COSINE_ALONE if exact else least_cosine(job.precision, job.least_cosine)
    if not answers_alone_as_in_a_batch(request, least=least):
        raise bad_model(
            "expected an engine that answers one sample alone as in a batch, found another answer",
            "export the network with one vector for each image",
            job.model,
        )


def _require_parity(model: Proto, job: EngineJob, ranges: Mapping[str, ShapeRange]) -> None:
    """Compare a network in 16 bits with the original on golden inputs; name the node that loses most."""
    feeds = (
        {job.input: _samples(job)}
        if job.role == "descriptor"
        else sample_feeds(model, {name: each.opt for name, each in ranges.items()})
    )
    least = least_cosine(job.precision, job.least_cosine)
    found = conversion_parity(model, job.precision, feeds)
    if found >= least:
        return
    worst = worst_node(model, job.precision, feeds)
    raise CompileError(
        f"expected {job.precision} to agree with fp32 to a cosine of {least:g}, found {found:.6f}"
        + (f"; most is lost at {worst}" if worst else ""),
        hint='set engine.precision = "fp32", or lower checks.parity',
        kind=ErrorKind.CHECK_FAILED,
        subject=job.model,
    )


def _samples(job: EngineJob) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    """Return preprocessed golden images that fill one batch, float32 [batch, *sample_shape]."""
    preprocessing = job.preprocessing
    if preprocessing is None:
        return golden_inputs((job.batch, *job.sample_shape))
    count = min(job.batch, 4)
    distinct = [preprocessing.apply(each) for each in golden_images(count, *preprocessing.size)]
    return np.stack([distinct[number % count] for number in range(job.batch)])


def _copy_plugins(job: EngineJob, folder: Path) -> Sequence[str]:
    """Copy plug-ins to where nobody else writes, so that the library loads the bytes that were hashed."""
    copies = []
    for number, (path, digest) in enumerate(job.plugins):
        try:
            data = path.read_bytes()
        except OSError as error:
            data, why = b"", error.strerror or str(error)
        else:
            found = hashlib.sha256(data).hexdigest()
            why = "" if found == digest else f"one with SHA-256 {found}"
        if why:
            raise bad_model(
                f"expected the plug-in {path.name!r} with SHA-256 {digest}, found {why}",
                "keep the file still and run the build again",
                job.model,
            )
        copy = folder / f"plugin-{number}.so"
        copy.write_bytes(data)
        copies.append(str(copy))
    return copies


def _require_version(engine: bytes, backend: str, version: str, model: str) -> None:
    """Refuse an engine whose header names another version than its key."""
    stamped = tensorrt_library.engine_version(engine)
    if stamped is not None and not tensorrt_library.same_version(stamped, version):
        raise CompileError(
            f"expected an engine of {backend} {version}, found one whose header says {stamped}: two installations are "
            "mixed",
            hint="remove one of them, then install the other again",
            kind=ErrorKind.BACKEND_UNAVAILABLE,
            subject=model,
        )


class _Reports:
    """Reports progress to the parent: seldom enough not to slow the compile, often enough to look alive."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._last: tuple[str, int] = ("", -1)
        self._reported_at = 0.0
        self._ended = threading.Event()

    def step(self, phase: str, done: int) -> None:
        """Report a step of this process; raise `CompileError` if the parent cancelled it."""
        if _cancelled.is_set():
            raise CompileError(
                "expected to be left to finish, found that the compile was cancelled",
                hint="run it again",
                kind=ErrorKind.COMPILE_CANCELLED,
            )
        self._send(phase, done, at_once=True)

    def phase(self, phases: BuildPhases) -> bool:
        """Report a phase of the library's build; return False to cancel the build."""
        self._send(phases.name, _PARSED + round((_BUILT - _PARSED) * phases.part), at_once=False)
        return not _cancelled.is_set()

    @contextmanager
    def repeated(self) -> Iterator["_Reports"]:
        """Repeat the last report every few seconds, in a thread, for as long as the context lasts."""
        thread = threading.Thread(target=self._repeat, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._ended.set()
            thread.join()

    def _repeat(self) -> None:
        while not self._ended.wait(_REPEAT_S):
            with self._lock:
                self._write()

    def _send(self, phase: str, done: int, *, at_once: bool) -> None:
        with self._lock:
            new = (phase, done)
            if new == self._last or not (at_once or time.monotonic() - self._reported_at >= _MIN_INTERVAL_S):
                return
            self._last = new
            self._write()

    def _write(self) -> None:
        self._reported_at = time.monotonic()
        phase, done = self._last
        self._progress({"phase": phase, "done": max(0, done), "total": _TOTAL})


if __name__ == "__main__":
    serve(start)
