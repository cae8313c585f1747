"""Executes engines and searches indexes: the part that the ground and the aircraft share.

What runs here was compiled elsewhere and its bytes were verified by the caller. The libraries are imported when they
are first needed, because no single machine has all of them. Two rules hold for every backend:

- An engine runs only under the exact library version that compiled it.
- It has one fixed batch size. A shorter batch is filled up with zeros and the surplus rows are dropped, so that the
  shape the kernels see never changes and a row does not depend on how many neighbours it had.

This module neither compiles nor verifies digests, and knows nothing of the journal.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Foreign = Any
"""An object of a library that carries no types."""

Source = bytes | bytearray | memoryview | str
"""The bytes of an artifact, or a path such as ``/proc/self/fd/N`` of a sealed memory file."""


class ExecutionError(Exception):
    """An engine or index cannot be used; `message` says what was expected and found, `hint` what mends it."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class RuntimeUnavailableError(ExecutionError):
    """The library that executes this engine or index is not installed here."""


class EngineLoadError(ExecutionError):
    """The engine's bytes, its version or its shape are not what this machine or the caller expects."""


class EngineRunError(ExecutionError):
    """The samples have a wrong shape or type, or the library failed while running."""


class IndexLoadError(ExecutionError):
    """The index is unreadable or is not of the expected kind and size."""


class IndexSearchError(ExecutionError):
    """The query has a wrong shape or type."""


class BatchExecutor(Protocol):
    """One loaded engine of one backend. It only ever sees whole batches."""

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample, without the batch dimension."""
        ...

    @property
    def dimensions(self) -> int:
        """Length of one descriptor."""
        ...

    def execute(self, batch: Vectors) -> Vectors:
        """Run float32 [batch, *sample_shape] and return float32 [batch, dimensions]."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineExpectation:
    """What the caller knows of an engine from the manifest, and how to run it here.

    Attributes:
        version: Full version of the library that compiled the engine.
        input: Name of the input tensor.
        output: Name of the output tensor.
        batch: Fixed batch size.
        threads: Threads within one run.
    """

    version: str
    input: str
    output: str
    batch: int
    threads: int


class Engine:
    """A loaded engine that takes any number of samples."""

    def __init__(self, executor: BatchExecutor, *, batch: int) -> None:
        self._executor = executor
        self._padded: Vectors = np.zeros((batch, *executor.sample_shape), np.float32)
        self.batch: Final = batch
        self.dimensions: Final = executor.dimensions
        self.sample_shape: Final = executor.sample_shape

    def run(self, samples: Vectors) -> Vectors:
        """Return descriptors, float32 [n, dimensions], of preprocessed samples, float32 [n, *sample_shape].

        Not for two threads at once: the padded batch is reused.

        Raises:
            EngineRunError: The samples have another shape or dtype, or the library failed.
        """
        if samples.dtype != np.float32 or samples.shape[1:] != self.sample_shape or samples.ndim == 0:
            raise EngineRunError(
                f"expected samples as float32 [n, {', '.join(map(str, self.sample_shape))}], found {samples.dtype} "
                f"{list(samples.shape)}",
                hint="apply the preprocessing that the manifest names",
            )
        count = len(samples)
        out = np.empty((count, self.dimensions), np.float32)
        for start in range(0, count, self.batch):
            chunk = samples[start : start + self.batch]
            if len(chunk) < self.batch:
                self._padded[: len(chunk)] = chunk
                self._padded[len(chunk) :] = 0
                chunk = self._padded
            out[start : start + self.batch] = self._executor.execute(chunk)[: count - start]
        return out


class OnnxRuntimeExecutor:
    """An engine of ONNX Runtime: an ONNX graph that was optimised ahead of time, run on the CPU."""

    def __init__(self, source: Source, expected: EngineExpectation) -> None:
        runtime = _import("onnxruntime", "an engine of ONNX Runtime")
        _require_version("onnxruntime", runtime.__version__, expected.version)
        try:
            session = runtime.InferenceSession(
                source if isinstance(source, str) else bytes(source),
                _session_options(runtime, expected.threads),
                providers=["CPUExecutionProvider"],
            )
        except Exception as error:  # the library raises a private class per status code
            raise EngineLoadError(
                f"expected an engine that ONNX Runtime can load, found: {error}", hint="c10 verify --full"
            ) from error
        # ONNX Runtime falls back to another provider with no more than a line in its log.
        if session.get_providers()[:1] != ["CPUExecutionProvider"]:
            raise EngineLoadError(f"expected CPUExecutionProvider, found {session.get_providers()}")
        self._session = session
        self._input = expected.input
        self._output = expected.output
        self.sample_shape = _fixed_shape("input", session.get_inputs(), expected.input, expected.batch)
        output = _fixed_shape("output", session.get_outputs(), expected.output, expected.batch)
        if len(output) != 1:
            raise EngineLoadError(
                f"expected an output of [{expected.batch}, d], found {[expected.batch, *output]}"
            )
        self.dimensions = output[0]

    def execute(self, batch: Vectors) -> Vectors:
        """Run one whole batch.

        Raises:
            EngineRunError: The library failed.
        """
        try:
            (result,) = self._session.run([self._output], {self._input: batch})
        except Exception as error:  # the library raises a private class per status code
            raise EngineRunError(f"ONNX Runtime failed while running: {error}") from error
        return np.asarray(result, np.float32)


_EXECUTORS: Mapping[str, Callable[[Source, EngineExpectation], BatchExecutor]] = {
    "onnxruntime": OnnxRuntimeExecutor,
}


def load_engine(
    data: Source,
    *,
    backend: str,
    version: str,
    input: str,  # noqa: A002 - the manifest's word
    output: str,
    batch: int,
    threads: int = 1,
) -> Engine:
    """Load an engine whose bytes were already verified.

    Args:
        data: The engine's bytes, or a path to them that cannot change.
        backend: The backend that compiled it, such as "onnxruntime".
        version: Full version of that backend's library; another one is refused.
        input: Name of the input tensor.
        output: Name of the output tensor, [batch, dimensions].
        batch: Fixed batch size of the engine.
        threads: Threads within one run. Descriptors do not depend on it.

    Raises:
        RuntimeUnavailableError: The backend is unknown or its library is not installed.
        EngineLoadError: Another version, damaged bytes, or tensors of other names or shapes.
    """
    opener = _EXECUTORS.get(backend)
    if opener is None:
        raise RuntimeUnavailableError(
            f"expected an engine of {' or '.join(sorted(_EXECUTORS))}, found one of {backend!r}",
            hint="this version of C10 cannot execute it",
        )
    expected = EngineExpectation(version=version, input=input, output=output, batch=batch, threads=threads)
    return Engine(opener(data, expected), batch=batch)


class DescriptorIndex:
    """A loaded index that was checked against what the manifest says of it."""

    def __init__(self, index: Foreign, *, kind: str, dimensions: int, ntotal: int) -> None:
        self._index = index
        self.kind: Final = kind
        self.dimensions: Final = dimensions
        self.ntotal: Final = ntotal

    def search(self, vectors: Vectors, k: int) -> tuple[Vectors, NDArray[np.int64]]:
        """Find the k rows most like each query.

        Args:
            vectors: Unit descriptors, float32 [n, dimensions].
            k: Rows wanted per query, at least 1.

        Returns:
            Scores (inner products, falling), float32 [n, k], and descriptor ids, int64 [n, k]. Where the index has
            fewer than k rows to offer, the id is -1.

        Raises:
            IndexSearchError: The queries have another shape or dtype, are not finite, or k is below 1.
        """
        if vectors.dtype != np.float32 or vectors.ndim != 2 or vectors.shape[1] != self.dimensions:
            raise IndexSearchError(
                f"expected queries as float32 [n, {self.dimensions}], found {vectors.dtype} {list(vectors.shape)}"
            )
        if k < 1:
            raise IndexSearchError(f"expected k of at least 1, found {k}")
        if not np.isfinite(vectors).all():
            raise IndexSearchError("expected finite queries, found a number that is not")
        scores, ids = self._index.search(np.ascontiguousarray(vectors), k)
        return scores, ids


def load_index(
    data: Source, *, kind: str, dimensions: int, ntotal: int, metric: str = "ip"
) -> DescriptorIndex:
    """Load an index whose bytes were already verified, and check it against what is expected of it.

    From a path the vectors are mapped, not copied, where the index type allows it: the file must not change while
    the index lives. The check of size and digest comes first and is the caller's: faiss accepts flipped bytes, and its
    mapped reader a last element that is cut short.

    Args:
        data: The index's bytes, or a path such as ``/proc/self/fd/N`` of a sealed memory file.
        kind: "flat", "hnsw" or "ivf-pq".
        dimensions: Length of a descriptor.
        ntotal: Number of rows.
        metric: Only "ip", the inner product.

    Raises:
        RuntimeUnavailableError: faiss is not installed.
        IndexLoadError: Unreadable, or of another kind, metric or size.
    """
    faiss = _import("faiss", "the descriptor index")
    try:
        if isinstance(data, str):
            outer = faiss.read_index(data, faiss.IO_FLAG_MMAP_IFC)
        else:
            outer = faiss.deserialize_index(np.frombuffer(data, np.uint8))
    except (RuntimeError, MemoryError, ValueError) as error:
        reason = str(error).strip().splitlines()
        raise IndexLoadError(
            f"expected an index that faiss can read, found: {reason[-1] if reason else error!r}",
            hint="c10 verify --full",
        ) from error
    found = _describe(faiss, outer)
    expected = (kind, dimensions, ntotal, metric)
    if found != expected:
        names = ("kind", "dimensions", "rows", "metric")
        differing = "; ".join(
            f"{name}: expected {want}, found {have}"
            for name, want, have in zip(names, expected, found, strict=True)
            if want != have
        )
        raise IndexLoadError(f"the index is not the one expected: {differing}", hint="c10 verify --full")
    return DescriptorIndex(outer, kind=kind, dimensions=dimensions, ntotal=ntotal)


def _describe(faiss: Foreign, outer: Foreign) -> tuple[str, int, int, str]:
    """Return kind, dimensions, rows and metric of a loaded index."""
    kinds = (
        ("flat", (faiss.IndexFlat, faiss.IndexScalarQuantizer)),
        ("hnsw", (faiss.IndexHNSWFlat, faiss.IndexHNSWSQ)),
        ("ivf-pq", (faiss.IndexIVFPQ,)),
    )
    if not isinstance(outer, faiss.IndexIDMap2):
        return type(outer).__name__, outer.d, outer.ntotal, "unknown"
    inner = faiss.downcast_index(outer.index)
    kind = next((name for name, classes in kinds if isinstance(inner, classes)), type(inner).__name__)
    metrics = {outer.metric_type, inner.metric_type}
    metric = "ip" if metrics == {faiss.METRIC_INNER_PRODUCT} else "other"
    # A map of ids with another length than the index below it would hand out foreign ids.
    rows = outer.ntotal if outer.ntotal == inner.ntotal == outer.id_map.size() else -1
    return kind, inner.d if inner.d == outer.d else -1, rows, metric


def _import(name: str, purpose: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"expected the Python package {name!r} for {purpose}, found none: {error}",
            hint="pip install 'c10[cpu]'",
        ) from error


def _require_version(backend: str, found: str, expected: str) -> None:
    if found != expected:
        raise EngineLoadError(
            f"expected {backend} {expected}, the version that compiled this engine, found {backend} {found}",
            hint=f"install {backend} {expected} or build the cache again here",
        )


def _session_options(runtime: ModuleType, threads: int) -> Foreign:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Several workers share the cores: a thread that spins while it waits takes its neighbour's time.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # The graph was optimised when it was compiled; doing it again here would be work, and hardware specific.
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return options


def _fixed_shape(role: str, tensors: Foreign, name: str, batch: int) -> tuple[int, ...]:
    """Return the shape of one sample of the tensor called ``name``, after checking name, type and batch."""
    by_name = {tensor.name: tensor for tensor in tensors}
    if name not in by_name:
        raise EngineLoadError(f"expected an {role} called {name!r}, found {sorted(by_name)}")
    if role == "input" and len(by_name) != 1:
        raise EngineLoadError(f"expected one input, found {sorted(by_name)}")
    tensor = by_name[name]
    shape = list(tensor.shape)
    if tensor.type != "tensor(float)":
        raise EngineLoadError(f"expected {role} {name!r} as tensor(float), found {tensor.type}")
    if not shape or shape[0] != batch or not all(isinstance(size, int) and size > 0 for size in shape):
        raise EngineLoadError(
            f"expected {role} {name!r} with a batch of {batch} and fixed sizes, found {shape}"
        )
    return tuple(shape[1:])
