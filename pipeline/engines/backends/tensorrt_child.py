"""The process that compiles one network with TensorRT or TensorRT for RTX.

Asked to end (SIGTERM), it cancels a build through the library's own progress monitor, says so and stays in order; the
parent kills it where that takes too long.
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

from pipeline.engines.backends.tensorrt_build import BuildOptions, TensorRtSession
from pipeline.engines.backends.tensorrt_progress import BuildPhases
from pipeline.engines.onnx.file import MAX_MODEL_BYTES, Proto, read_onnx
from pipeline.engines.onnx.graph import nodes_given
from pipeline.engines.onnx.input_shapes import settle_sizes
from pipeline.engines.port import EngineJob, ShapeRange
from pipeline.engines.precision.convert import conversion_parity, convert, sample_feeds, worst_node
from pipeline.engines.precision.float16 import least_cosine
from pipeline.errors import CompileError, ErrorKind
from pipeline.processes.framing import Message, Payload
from pipeline.processes.serve import Handler, Progress, serve
from store.base.preprocessing import Preprocessing
from store.runtime.backends.gpu import gpus
from store.runtime.backends.tensorrt_library import (
    LibraryMissingError,
    engine_version,
    library,
    loaded_version,
    same_version,
)
from store.runtime.golden_vectors import golden_images, golden_inputs

TOTAL: Final = 1000
"""What `done` is counted against in reports."""

_READ, _CONVERTED, _PARSED, _BUILT = 0, 30, 60, 980
_PULSE_S: Final = 5.0
_RARELY_S: Final = 0.05
_MIB: Final = 1 << 20

_cancelled = threading.Event()


def start(_first: Message) -> Handler:
    """Take no initial request; from here on a wish to end is heard by a thread of its own."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_listen, daemon=True).start()
    return compile_network


def _listen() -> None:
    # The main thread sits in the library for minutes, where no signal handler of Python would run.
    signal.sigwait({signal.SIGTERM})
    _cancelled.set()


def compile_network(request: Message, progress: Progress) -> Payload:
    """Read, fix the sizes, convert, parse, hold the conversion against the original, build, and write the engine.

    Raises:
        CompileError: The network cannot become an engine.
    """
    began = time.monotonic()
    job, backend = _job(request), str(request["backend"])
    with _Reports(progress).pulse() as reports:
        reports.tell("load the library", _READ)
        name = _library_name(backend, request["version"])
        reports.tell("read the network", _READ)
        model = read_onnx(job.onnx, expected_sha256=job.onnx_sha256).model
        nodes = _name_nodes(model)
        ranges = settle_sizes(model, job)
        reports.tell("convert", _CONVERTED)
        converted = convert(model, job.precision)
        options = BuildOptions(
            model=job.model,
            library=name,
            target=job.target,
            tf32=job.tf32,
            workspace_mb=job.workspace_mb,
            ranges=ranges,
            timing_cache=job.timing_cache,
            plugins=_own_copies(job, Path(request["engine"]).parent),
        )
        session = TensorRtSession(library(backend), options, nodes)
        reports.tell("parse", _CONVERTED)
        session.parse(_serialised(converted, job.model))
        _refuse_shape_inputs(session, model, job.model)
        shapes = _shapes(session, job)
        _require_conversion(model, job, ranges, reports)
        del model, converted  # their weights are in the library's network now
        reports.tell("build", _PARSED)
        built = session.build(reports.phase)
        _require_version(built.engine, backend, str(request["version"]), job.model)
        Path(request["engine"]).write_bytes(built.engine)
        reports.tell("done", TOTAL)
    return {
        "seconds": time.monotonic() - began,
        "input_shape": shapes[0],
        "output_shape": shapes[1],
        "timing_cache": built.timing_cache,
    }


def _job(request: Message) -> EngineJob:
    profile, image = request["profile"], request["preprocessing"]
    return EngineJob(
        model=request["model"],
        role=request["role"],
        onnx=Path(request["onnx"]),
        onnx_sha256=request["sha256"],
        input=request["input"],
        output=request["output"],
        sample_shape=tuple(request["sample_shape"]),
        batch=request["batch"],
        precision=request["precision"],
        target=request["target"],
        workspace_mb=request["workspace_mb"],
        tf32=request["tf32"],
        profile=None
        if profile is None
        else ShapeRange(min=tuple(profile[0]), opt=tuple(profile[1]), max=tuple(profile[2])),
        plugins=tuple((Path(path), digest) for path, digest in request["plugins"]),
        timing_cache=request["timing_cache"],
        preprocessing=None if image is None else Preprocessing.from_document(image),
        least_cosine=request["least_cosine"],
    )


def _library_name(backend: str, version: str) -> str:
    """Import the library, hold it against the version in the key, and say where this runs.

    Raises:
        CompileError: BACKEND_UNAVAILABLE, it is missing or another one.
    """
    try:
        found = loaded_version(backend)
    except LibraryMissingError as error:
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
    """Give nameless nodes a name by operator and place, and return the operator of each node by name.

    A conversion inserts nodes, so that places no longer tell which node of the network somebody means.
    """
    nodes: dict[str, str] = {}
    for place, node in enumerate(model.graph.node):
        if not node.name or node.name in nodes:
            node.name = f"{node.name or node.op_type}#{place}"
        nodes[node.name] = node.op_type
    return nodes


def _serialised(model: Proto, name: str) -> bytes:
    """Return a network's bytes.

    Raises:
        CompileError: BAD_MODEL, it is too large for the format; COMPILE_OUT_OF_MEMORY.
    """
    size = model.ByteSize()
    if size > MAX_MODEL_BYTES:
        raise CompileError(
            f"expected a network below 2 GiB, found {size} bytes after its conversion",
            hint="export a smaller network",
            kind=ErrorKind.BAD_MODEL,
            subject=name,
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
    """Refuse a network whose inputs decide shapes: the library would only say that it lacks a profile.

    Raises:
        CompileError: BAD_MODEL, it has such inputs; they are named with the nodes that take them.
    """
    found = [f"{each!r}, taken by {', '.join(nodes_given(model, each))}" for each in session.shape_inputs()]
    if found:
        raise CompileError(
            f"expected inputs whose values decide no shape, found {'; '.join(found)}",
            hint="export the network with that shape as a constant",
            kind=ErrorKind.BAD_MODEL,
            subject=name,
        )


def _shapes(session: TensorRtSession, job: EngineJob) -> tuple[list[int], list[int]]:
    """Return the shapes of input and output; of a descriptor engine with the batch that it is run with.

    Raises:
        CompileError: BAD_MODEL, a descriptor network gives something other than [batch, d].
    """
    shapes = session.tensor_shapes(job.input, job.output, floats=job.role == "descriptor")
    if job.role == "descriptor":
        for shape in shapes:
            if shape and shape[0] < 0:
                shape[0] = job.batch
        if len(shapes[1]) != 2 or shapes[1][0] != job.batch or shapes[1][1] < 1:
            raise CompileError(
                f"expected a descriptor output of [{job.batch}, d], found {shapes[1]}",
                hint="export the network with one vector for each image",
                kind=ErrorKind.BAD_MODEL,
                subject=job.model,
            )
    return shapes


def _require_conversion(
    model: Proto, job: EngineJob, ranges: Mapping[str, ShapeRange], reports: "_Reports"
) -> None:
    """Hold a graph in 16 bits against the one in 32 on golden inputs.

    Raises:
        CompileError: They disagree; the node that loses most is named.
    """
    if job.precision == "fp32":
        return
    reports.tell(f"measure {job.precision}", _PARSED)
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
    """Return golden samples that fill one batch, float32 [batch, *sample_shape], made by the image contract."""
    image = job.preprocessing
    if image is None:
        return golden_inputs((job.batch, *job.sample_shape))
    count = min(job.batch, 4)
    distinct = [image.apply(each) for each in golden_images(count, *image.size)]
    return np.stack([distinct[number % count] for number in range(job.batch)])


def _own_copies(job: EngineJob, folder: Path) -> Sequence[str]:
    """Copy plug-ins to where nobody else writes; what was hashed is what is loaded.

    Raises:
        CompileError: BAD_MODEL, one cannot be read or is another than the key says.
    """
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
            raise CompileError(
                f"expected the plug-in {path.name!r} with SHA-256 {digest}, found {why}",
                hint="keep the file still and run the build again",
                kind=ErrorKind.BAD_MODEL,
                subject=job.model,
            )
        copy = folder / f"plugin-{number}.so"
        copy.write_bytes(data)
        copies.append(str(copy))
    return copies


def _require_version(engine: bytes, backend: str, version: str, model: str) -> None:
    """Refuse an engine whose header names another version than its key.

    Raises:
        CompileError: BACKEND_UNAVAILABLE, libraries of two versions are mixed.
    """
    stamped = engine_version(engine)
    if stamped is not None and not same_version(stamped, version):
        raise CompileError(
            f"expected an engine of {backend} {version}, found one whose header says {stamped}: two installations are "
            "mixed",
            hint="remove one of them, then install the other again",
            kind=ErrorKind.BACKEND_UNAVAILABLE,
            subject=model,
        )


class _Reports:
    """Tells the parent how far the compile has come: seldom enough not to slow it, often enough to look alive."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._last: tuple[str, int] = ("", -1)
        self._told_at = 0.0
        self._over = threading.Event()

    def tell(self, phase: str, done: int) -> None:
        """Report a step of this process.

        Raises:
            CompileError: COMPILE_CANCELLED, somebody wished it to end.
        """
        if _cancelled.is_set():
            raise CompileError(
                "expected to be left to finish, found that the compile was cancelled",
                hint="run it again",
                kind=ErrorKind.COMPILE_CANCELLED,
            )
        self._send(phase, done, at_once=True)

    def phase(self, phases: BuildPhases) -> bool:
        """Report what the library says of a build; False asks it to stop."""
        self._send(phases.name, _PARSED + round((_BUILT - _PARSED) * phases.part), at_once=False)
        return not _cancelled.is_set()

    @contextmanager
    def pulse(self) -> Iterator["_Reports"]:
        """Repeat the last report every few seconds while there is nothing new."""
        thread = threading.Thread(target=self._repeat, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._over.set()
            thread.join()

    def _repeat(self) -> None:
        while not self._over.wait(_PULSE_S):
            with self._lock:
                self._write()

    def _send(self, phase: str, done: int, *, at_once: bool) -> None:
        with self._lock:
            new = (phase, done)
            if new == self._last or not (at_once or time.monotonic() - self._told_at >= _RARELY_S):
                return
            self._last = new
            self._write()

    def _write(self) -> None:
        self._told_at = time.monotonic()
        phase, done = self._last
        self._progress({"phase": phase, "done": max(0, done), "total": TOTAL})


if __name__ == "__main__":
    serve(start)
