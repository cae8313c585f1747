"""Load engines and indexes, run and search them, on the ground and on board.

The caller has verified the bytes. Libraries are imported when they are first needed, because no single
machine has all of them. Two rules hold for every backend:

- An engine runs only under the exact library version that compiled it.
- It runs with one batch size. A shorter batch is filled up with zeros and the surplus rows are dropped, so
  that the kernels always see the same shape, and a row does not depend on the number of rows beside it.
  Engines that take batches of one too run with the batch of the ground, or with 1 in flight.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from store.base.values import require_threads, whole_number
from store.errors import TranslateShortages
from store.formats.index_delta import Delta
from store.runtime.backends.base import (
    BatchExecutor,
    EngineExpectation,
    EngineLoadError,
    EngineRunError,
    ExecutionError,
    IndexLoadError,
    IndexSearchError,
    PipelinedExecutor,
    RuntimeUnavailableError,
    Source,
    Untyped,
    Vectors,
    import_library,
)
from store.runtime.backends.registry import BACKENDS
from store.runtime.capabilities import runtime_of
from store.runtime.delta_search import IndexWithDelta, KeptRows, StoredRows
from store.runtime.faiss_install import installed_faiss

__all__ = [
    "DescriptorIndex",
    "Engine",
    "EngineLoadError",
    "EngineRunError",
    "ExecutionError",
    "IndexLoadError",
    "IndexSearchError",
    "RuntimeUnavailableError",
    "load_engine",
    "load_index",
]


_PORTION_BATCHES: Final = 16
_PORTION_BYTES: Final = 256 << 20


class Engine:
    """A loaded engine that takes any number of samples.

    Attributes:
        batch: Its fixed batch size.
        dimensions: Length of one descriptor.
        sample_shape: Shape of one sample.
        portion: How many samples are worth collecting for one run: whole batches, more than one where copies
            and computing overlap.
    """

    def __init__(self, executor: BatchExecutor | PipelinedExecutor, *, batch: int) -> None:
        self._executor = executor
        pipelined = isinstance(executor, PipelinedExecutor)
        # A pipelined executor fills up the last batch in its own buffers.
        self._padded: Vectors = np.zeros((0 if pipelined else batch, *executor.sample_shape), np.float32)
        self.batch: Final = batch
        self.dimensions: Final = executor.dimensions
        self.sample_shape: Final = executor.sample_shape
        self.portion: Final = batch * (_portion_batches(batch, executor.sample_shape) if pipelined else 1)

    def run(self, samples: Vectors) -> Vectors:
        """Return descriptors, float32 [n, dimensions], of preprocessed samples, float32 [n, *sample_shape].

        Not for two threads at once: the padded batch is reused.

        Raises:
            EngineRunError: The samples have another shape or dtype, or the library failed.
            CacheUnusableError: This process lacks memory or threads.
        """
        if not _is_float32(samples) or samples.shape[1:] != self.sample_shape or samples.ndim == 0:
            raise EngineRunError(
                f"expected samples as float32 [n, {', '.join(map(str, self.sample_shape))}], found {_described(samples)}",
                hint="apply the preprocessing that the manifest names",
            )
        with TranslateShortages("running an engine"):
            return self._run(samples)

    def __repr__(self) -> str:
        """Return batch size and shapes."""
        return f"Engine(batch={self.batch}, sample_shape={self.sample_shape}, dimensions={self.dimensions})"

    def _run(self, samples: Vectors) -> Vectors:
        count = len(samples)
        out = np.empty((count, self.dimensions), np.float32)
        if isinstance(self._executor, PipelinedExecutor):
            self._executor.execute_all(samples, out)
            return out
        for start in range(0, count, self.batch):
            chunk = samples[start : start + self.batch]
            if len(chunk) < self.batch:
                self._padded[: len(chunk)] = chunk
                self._padded[len(chunk) :] = 0
                chunk = self._padded
            out[start : start + self.batch] = self._executor.execute(chunk)[: count - start]
        return out


def _is_float32(value: object) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == np.float32


def _described(value: object) -> str:
    """Describe an argument that should be an array, for errors."""
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__


def _portion_batches(batch: int, sample_shape: tuple[int, ...]) -> int:
    size = 4 * batch * math.prod(sample_shape)
    return max(1, min(_PORTION_BATCHES, _PORTION_BYTES // size))


def load_engine(
    data: Source,
    *,
    backend: str,
    version: str,
    input: str,  # noqa: A002 - the manifest's word
    output: str,
    batch: int,
    threads: int = 1,
    target: str | None = None,
    precision: str | None = None,
    single: bool = False,
) -> Engine:
    """Load an engine whose bytes were already verified.

    Args:
        data: The engine's bytes, or a path to bytes that cannot change.
        backend: The backend that compiled it, such as "onnxruntime".
        version: Full version of that backend's library; another one is refused.
        input: Name of the input tensor.
        output: Name of the output tensor, [batch, dimensions].
        batch: Fixed batch size of the engine.
        threads: Threads within one run, 1 to 1,024. Descriptors do not depend on it.
        target: The device that the engine was compiled for; on another one, the library never sees the bytes.
        precision: Arithmetic that the engine was compiled for. OpenVINO needs it: the bytes do not say it,
            and the library would choose by itself.
        single: Run each sample alone, if the engine takes batches of one too, as for the frames of a flight:
            one frame then costs one frame. Engines of a fixed batch do not change.

    Raises:
        RuntimeUnavailableError: The backend is unknown, its library is not installed, or its device is not
            here.
        EngineLoadError: Another version, another device, damaged bytes, or tensors of other names or shapes.
        CacheUnusableError: This process lacks memory, threads or open files.
        TypeError, ValueError: The number of threads is no whole number, or out of its range.
    """
    runtime = runtime_of(backend)
    if runtime is None:
        raise RuntimeUnavailableError(
            f"expected an engine of {' or '.join(sorted(BACKENDS))}, found one of {backend!r}",
            hint="this version of C10 cannot execute it",
        )
    expected = EngineExpectation(
        version=version,
        target=target,
        precision=precision,
        input=input,
        output=output,
        batch=batch,
        threads=require_threads(threads),
        single=single,
    )
    with TranslateShortages(f"loading an engine of {backend}"):
        executor = runtime.load(data, expected)
        return Engine(executor, batch=1 if single and executor.takes_any_batch else batch)


_PADDED_K = 65_536
"""More rows than this are asked for only of an index that has them: faiss reserves k places for each query."""


class DescriptorIndex:
    """A loaded index that is as its manifest says."""

    def __init__(
        self,
        index: KeptRows | IndexWithDelta,
        *,
        kind: str,
        dimensions: int,
        ntotal: int,
        set_threads: Callable[[], None],
    ) -> None:
        self._index = index
        self._set_threads = set_threads
        self.kind: Final = kind
        self.dimensions: Final = dimensions
        self.ntotal: Final = ntotal

    def search(self, vectors: Vectors, k: int) -> tuple[Vectors, NDArray[np.int64]]:
        """Find the k rows most similar to each query.

        Args:
            vectors: Unit descriptors, float32 [n, dimensions].
            k: Rows wanted per query, from 1 to the number of rows, or to 65,536 if that is more.

        Returns:
            Scores (inner products, falling), float32 [n, k], and descriptor ids, int64 [n, k]. If the index
            finds fewer than k rows, the id is -1.

        Raises:
            IndexSearchError: The queries have another shape or dtype, are not finite, or k is no whole number
                in its range.
            CacheUnusableError: This process lacks memory or threads.
        """
        if not _is_float32(vectors) or vectors.ndim != 2 or vectors.shape[1] != self.dimensions:
            raise IndexSearchError(
                f"expected queries as float32 [n, {self.dimensions}], found {_described(vectors)}"
            )
        if (count := whole_number(k)) is None or count < 1:
            raise IndexSearchError(f"expected k as a whole number of at least 1, found {k!r}")
        if count > (most := max(self.ntotal, _PADDED_K)):
            raise IndexSearchError(f"expected k of at most {most}, found {count}")
        if not np.isfinite(vectors).all():
            raise IndexSearchError("expected finite queries, found a number that is not")
        self._set_threads()
        with TranslateShortages("searching the index"):
            scores, ids = self._index.search(np.ascontiguousarray(vectors), count)
        return scores, ids

    def rows(self, first: int, last: int) -> StoredRows | None:
        """Return the rows of a range of ids; None if this kind of index keeps no vectors.

        Args:
            first: Lowest descriptor id.
            last: Highest descriptor id.

        Returns:
            Descriptor ids, int64 [n], in any order, and a copy of their vectors with the precision of the
            index, float32 [n, dimensions].

        Raises:
            CacheUnusableError: This process lacks memory.
        """
        with TranslateShortages("reading the vectors of the index"):
            return self._index.rows(first, last)

    def __repr__(self) -> str:
        """Return kind and size."""
        return f"DescriptorIndex(kind={self.kind!r}, rows={self.ntotal}, dimensions={self.dimensions})"


def load_index(
    data: Source,
    *,
    kind: str,
    dimensions: int,
    ntotal: int,
    metric: str = "ip",
    delta: Delta | None = None,
    threads: int | None = None,
) -> DescriptorIndex:
    """Load an index whose bytes were already verified, and check that it is as expected.

    Vectors in a file are mapped and not copied where the index type allows it, so the file must not change
    while the index lives. The caller must check size and digest before: faiss accepts flipped bytes, and its
    mapped reader a last element that is cut short.

    Args:
        data: The index's bytes, or a path such as ``/proc/self/fd/N`` of a sealed memory file.
        kind: "flat", "hnsw" or "ivf-pq".
        dimensions: Length of a descriptor.
        ntotal: Number of rows in the file.
        metric: Only "ip", the inner product.
        delta: The rows that changed since the file was written; both are searched as one.
        threads: Threads of a search, 1 to 1,024, set for the calling thread before each; by default as FAISS has
            them.

    Raises:
        RuntimeUnavailableError: faiss is not installed, or two distributions of it are.
        IndexLoadError: The index is unreadable, or of another kind, metric or size; or the delta does not fit
            it.
        CacheUnusableError: This process lacks memory, threads or open files.
        TypeError, ValueError: The number of threads is no whole number, or out of its range.
    """
    set_threads = _keep_threads
    installed_faiss()
    with TranslateShortages("loading the index"):
        faiss = import_library("faiss", "the descriptor index")
        if threads is not None:
            set_threads = partial(faiss.omp_set_num_threads, require_threads(threads))
        outer = _read_index(faiss, data)
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
        if delta is None:
            index: KeptRows | IndexWithDelta = KeptRows(faiss, outer, np.zeros(0, np.int64))
        else:
            index, ntotal = (
                IndexWithDelta(faiss, outer, delta),
                ntotal + len(delta.added) - len(delta.dropped),
            )
    return DescriptorIndex(index, kind=kind, dimensions=dimensions, ntotal=ntotal, set_threads=set_threads)


def _keep_threads() -> None:
    """Leave the number of threads as it is."""


def _read_index(faiss: Untyped, data: Source) -> Untyped:
    try:
        if isinstance(data, str):
            return faiss.read_index(data, faiss.IO_FLAG_MMAP_IFC)
        return faiss.deserialize_index(np.frombuffer(data, np.uint8))
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()
        raise IndexLoadError(
            f"expected an index that faiss can read, found: {reason[-1] if reason else error!r}",
            hint="c10 verify --full",
        ) from error


def _describe(faiss: Untyped, outer: Untyped) -> tuple[str, int, int, str]:
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
    # An id map of another length than its index would return wrong ids.
    rows = outer.ntotal if outer.ntotal == inner.ntotal == outer.id_map.size() else -1
    return kind, inner.d if inner.d == outer.d else -1, rows, metric
