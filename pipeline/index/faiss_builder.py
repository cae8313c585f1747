"""Builds the FAISS index from the blocks, so that equal blocks give equal bytes.

The index is a projection: inner product on unit vectors, descriptor ids as row ids. What its bytes depend on is fixed,
because faiss leaves it to the caller: the order and the portions of the rows (`pipeline.index.row_order`), and the seeds of
random numbers. From faiss 1.15 on the thread count then changes nothing. The instruction set may: indexes made on two
kinds of processor are near-equal in their answers, not in their bytes; and so may a GPU (`pipeline.index.gpu`).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Protocol

import numpy as np

from pipeline.errors import ErrorKind, RequestError
from pipeline.index.gpu import HIDE, GpuIndex, suits
from pipeline.index.plan import EF_CONSTRUCTION, METRIC, PQ_BITS, IndexPlan, failed
from pipeline.index.row_order import chunks, in_order, training_rows
from pipeline.request.request import IndexKind, Storage
from store.formats.descriptor_block import Block
from store.runtime.backends.base import RuntimeUnavailableError
from store.runtime.backends.gpu import gpus
from store.runtime.faiss_install import FaissDistribution, installed_faiss

_SEED: Final = 20_111
_WRITE_BYTES: Final = 1 << 20

Untyped = Any
"""An object of faiss, which carries no types."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexFacts:
    """What was built.

    Attributes:
        ntotal: Number of rows.
        metric: "ip", the inner product.
        note: Where it was built, if that is not what one would expect.
    """

    ntotal: int
    metric: str
    note: str = ""


OnRows = Callable[[int, int], None]
"""Called with rows done and rows in all."""


class IndexBuilder(Protocol):
    """Makes a searchable index of descriptors."""

    @property
    def name(self) -> str:
        """The library."""
        ...

    @property
    def version(self) -> str:
        """Its full version.

        Raises:
            RequestError: It is not installed, or more than once.
        """
        ...

    def library(self, kind: IndexKind) -> str:
        """Return what an index of a kind depends on beside its rows and options: the library, as keys name it.

        Raises:
            RequestError: It is not installed, or more than once.
        """
        ...

    def build(
        self,
        rows: Iterable[Block],
        count: int,
        dimensions: int,
        plan: IndexPlan,
        *,
        fd_path: str,
        on_progress: OnRows | None = None,
    ) -> IndexFacts:
        """Write the index of all rows to a file.

        Args:
            rows: Blocks in ascending order of their cells. Iterated twice when the plan needs training.
            count: Rows in all blocks together.
            dimensions: Length of a descriptor.
            plan: From `resolve`.
            fd_path: Where to write, such as ``/proc/self/fd/N`` of an unnamed file.
            on_progress: Called as rows are added.

        Raises:
            EmbedError: INDEX_FAILED: blocks out of order or of other dimensions, another number of rows, too few
                rows to train, or the library failed.
            OSError: The file cannot be written, for instance because the disk is full.
        """
        ...


class FaissIndexBuilder:
    """Builds with faiss; on the GPU, where its flavour and the index allow it and there is one.

    Memory: the index itself, and one chunk.
    """

    @property
    def name(self) -> str:
        """The name "faiss"."""
        return "faiss"

    @property
    def version(self) -> str:
        """Version of the installed faiss.

        Raises:
            RequestError: It is not installed, or more than once.
        """
        return _flavour().version

    def library(self, kind: IndexKind) -> str:
        """Return name and version; and that there is a GPU, for the kind that depends on it.

        Raises:
            RequestError: It is not installed, or more than once.
        """
        own = f"{self.name} {self.version}"
        return f"{own} gpu" if kind is IndexKind.IVF_PQ and self._on_gpu() else own

    def build(
        self,
        rows: Iterable[Block],
        count: int,
        dimensions: int,
        plan: IndexPlan,
        *,
        fd_path: str,
        on_progress: OnRows | None = None,
    ) -> IndexFacts:
        """Write the index of all rows to a file; see `IndexBuilder.build`."""
        faiss = _faiss()
        try:
            inner = _empty(faiss, dimensions, plan)
            gpu = GpuIndex(faiss, inner, plan, count=count) if suits(plan) and self._on_gpu() else None
            working = inner if gpu is None else gpu.index
            _seed(working, plan)
            if not working.is_trained:
                working.train(training_rows(rows, count, dimensions))
            named = np.empty(count, np.int64)
            done = 0
            for ids, vectors in chunks(in_order(rows, dimensions), dimensions):
                if done + len(ids) <= count:
                    working.add(vectors)
                    named[done : done + len(ids)] = ids
                done += len(ids)
                if on_progress is not None:
                    on_progress(done, count)
            if done != count:
                raise failed(f"expected {count} rows in the blocks, found {done}", "c10 verify --full")
            if gpu is not None:
                inner = gpu.back()
            index = _with_ids(faiss, inner, named, plan)
        except (RuntimeError, MemoryError, AssertionError) as error:
            hint = f"free memory of the GPU; or {HIDE}" if self._on_gpu() and suits(plan) else "free memory"
            raise failed(f"expected faiss to build the index, found: {error!r}", hint) from error
        _write(faiss, index, fd_path)
        return IndexFacts(ntotal=done, metric=METRIC, note=self._note(plan))

    def _on_gpu(self) -> bool:
        return _flavour().gpu and bool(gpus())

    def _note(self, plan: IndexPlan) -> str:
        if not _flavour().gpu or not suits(plan):
            return ""
        return f"built on {gpus()[0].name}" if gpus() else "built on the CPU: no GPU is visible"


def _empty(faiss: Untyped, dimensions: int, plan: IndexPlan) -> Untyped:
    """Return the index that rows go into, with fixed seeds."""
    ip, fp16 = faiss.METRIC_INNER_PRODUCT, faiss.ScalarQuantizer.QT_fp16
    match plan.kind, plan.storage:
        case IndexKind.FLAT, Storage.FP32:
            return faiss.IndexFlat(dimensions, ip)
        case IndexKind.FLAT, _:
            return faiss.IndexScalarQuantizer(dimensions, fp16, ip)
        case IndexKind.HNSW, storage:
            index = (
                faiss.IndexHNSWFlat(dimensions, plan.m, ip)
                if storage is Storage.FP32
                else faiss.IndexHNSWSQ(dimensions, fp16, plan.m, ip)
            )
            index.hnsw.efConstruction = EF_CONSTRUCTION
            index.hnsw.efSearch = plan.ef
            return index
        case _:
            coarse = faiss.IndexFlat(dimensions, ip)
            index = faiss.IndexIVFPQ(coarse, dimensions, plan.lists, plan.m, PQ_BITS, ip)
            coarse.this.disown()  # the index owns it from here on
            index.own_fields = True
            index.nprobe = plan.nprobe
            return index


def _seed(index: Untyped, plan: IndexPlan) -> None:
    """Fix what training draws by lot."""
    if plan.kind is IndexKind.IVF_PQ:
        for clustering in (index.cp, index.pq.cp):
            clustering.seed = _SEED
            clustering.min_points_per_centroid = 1


def _with_ids(faiss: Untyped, inner: Untyped, ids: Untyped, plan: IndexPlan) -> Untyped:
    """Return the index with descriptor ids for row numbers, fit to be written.

    What is written is what adding rows with their ids would have made; the way from id to row is made on reading.
    """
    if plan.kind is IndexKind.IVF_PQ:
        inner.nprobe = plan.nprobe
    # A map takes over an empty index alone, so it begins with another one.
    index = faiss.IndexIDMap2(faiss.IndexFlat(inner.d, inner.metric_type))
    index.index, index.ntotal = inner, inner.ntotal
    faiss.copy_array_to_vector(ids, index.id_map)
    index.referenced_objects = (inner,)
    inner.this.acquire()  # the assignment gave it away, and nobody would free it
    return index


def _write(faiss: Untyped, index: Untyped, path: str) -> None:
    """Write an index through a file of our own.

    The library's own writer closes its file with no more than a line on standard error when the last buffer does not
    fit the disk, and leaves a shorter index behind.

    Raises:
        OSError: The file cannot be written.
    """
    problems: list[OSError] = []
    with Path(path).open("wb", buffering=0) as file:

        def write(data: bytes) -> int:
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[file.write(rest) or 0 :]
            except OSError as error:
                problems.append(error)
            return len(data)

        try:
            faiss.write_index(index, faiss.PyCallbackIOWriter(write, _WRITE_BYTES))
        except RuntimeError as error:
            raise failed(f"expected faiss to write the index, found: {error}", "free memory") from error
    if problems:
        raise problems[0]


def _flavour() -> FaissDistribution:
    try:
        return installed_faiss()
    except RuntimeUnavailableError as error:
        raise RequestError(error.message, hint=error.hint, kind=ErrorKind.BACKEND_UNAVAILABLE) from error


def _faiss() -> ModuleType:
    _flavour()
    import faiss  # noqa: PLC0415 - heavy, and not needed by a warm run

    module: ModuleType = faiss
    return module
