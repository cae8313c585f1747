"""Build the FAISS index from the descriptor blocks, so that equal blocks give equal bytes.

The index is a projection: inner product on unit vectors, descriptor ids as row ids. faiss leaves to the
caller what its bytes depend on, and that is fixed here: order and chunks of the rows
(`pipeline.index.row_order`) and random seeds. Since faiss 1.15 the number of threads then makes no
difference. The instruction set may, and so may a GPU (`pipeline.index.gpu`): such indexes give nearly the
same answers, but have other bytes.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from pipeline.errors import ErrorKind, RequestError
from pipeline.index.added_rows import AddedRows, GraphRows, PlainRows
from pipeline.index.gpu import CPU_HINT, GpuIndex, gpu_can_build
from pipeline.index.plan import EF_CONSTRUCTION, METRIC, PQ_BITS, IndexPlan, index_error
from pipeline.index.row_order import checked_blocks, row_chunks, training_rows
from pipeline.request.options import IndexKind, Storage
from store.base.valueclass import valueclass
from store.formats.descriptor_block import Block
from store.runtime.backends.base import RuntimeUnavailableError, import_library
from store.runtime.backends.gpu import gpus
from store.runtime.faiss_install import FaissDistribution, installed_faiss

_SEED: Final = 20_111
_WRITE_BYTES: Final = 1 << 20

Untyped = Any
"""An object of faiss, which carries no types."""


@valueclass(frozen=True, slots=True, kw_only=True)
class BuiltIndex:
    """What is known of an index that was built.

    Attributes:
        ntotal: Number of rows.
        metric: "ip", the inner product.
        note: The device that built it, if that may surprise.
    """

    ntotal: int
    metric: str
    note: str = ""


OnRows = Callable[[int, int], None]
"""Called with the number of rows added and of all rows."""


class FaissIndexBuilder:
    """Builds with faiss, on a GPU if the machine, the installed faiss and the kind of index allow it.

    It needs memory for the index and one chunk.
    """

    def library(self, kind: IndexKind) -> str:
        """Return the library as step keys name it, and whether there is a GPU if the bytes depend on that.

        Raises:
            RequestError: It is not installed, or more than once.
        """
        library = f"faiss {_installed_faiss().version}"
        return f"{library} gpu" if kind is IndexKind.IVF_PQ and self._on_gpu() else library

    def build(
        self,
        rows: Iterable[Block],
        count: int,
        dimensions: int,
        plan: IndexPlan,
        *,
        fd_path: str,
        on_progress: OnRows | None = None,
    ) -> BuiltIndex:
        """Write the index of all rows to a file.

        Args:
            rows: Blocks in ascending order of their cells. Iterated twice when the plan needs training.
            count: Rows in all blocks together.
            dimensions: Length of a descriptor.
            plan: From `plan_index`.
            fd_path: Where to write, such as ``/proc/self/fd/N`` of an unnamed file.
            on_progress: Called as rows are added.

        Raises:
            EmbedError: INDEX_FAILED: blocks out of order or of other dimensions, a wrong number of rows, too
                few rows to train, or the library failed.
            OSError: The file cannot be written.
        """
        faiss = import_faiss("building the index")
        on_gpu = gpu_can_build(plan) and self._on_gpu()
        try:
            index = _empty_index(faiss, dimensions, plan)
            gpu = GpuIndex(faiss, index, plan, count=count) if on_gpu else None
            target = index if gpu is None else gpu.index
            _fix_seeds(target, plan)
            if not target.is_trained:
                target.train(training_rows(rows, count, dimensions))
            distinct = plan.kind is IndexKind.HNSW and not plan.links_equal
            added = GraphRows(faiss, target) if distinct else PlainRows(target)
            _add_rows(added, checked_blocks(rows, dimensions), count, dimensions, on_progress)
            ids = added.finish()
            index = _with_ids(faiss, index if gpu is None else gpu.to_cpu(), ids, plan)
        except (RuntimeError, MemoryError, AssertionError) as error:
            hint = f"free memory of the GPU; or {CPU_HINT}" if on_gpu else "free memory"
            raise index_error(f"expected faiss to build the index, found: {error!r}", hint) from error
        _write_index(faiss, index, fd_path)
        return BuiltIndex(ntotal=count, metric=METRIC, note=self._note(plan))

    def _on_gpu(self) -> bool:
        return _installed_faiss().gpu and bool(gpus())

    def _note(self, plan: IndexPlan) -> str:
        if not _installed_faiss().gpu or not gpu_can_build(plan):
            return ""
        return f"built on {gpus()[0].name}" if gpus() else "built on the CPU: no GPU is visible"


def _empty_index(faiss: Untyped, dimensions: int, plan: IndexPlan) -> Untyped:
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


def _fix_seeds(index: Untyped, plan: IndexPlan) -> None:
    if plan.kind is IndexKind.IVF_PQ:
        for clustering in (index.cp, index.pq.cp):
            clustering.seed = _SEED
            clustering.min_points_per_centroid = 1


def _add_rows(
    added: AddedRows, blocks: Iterable[Block], count: int, dimensions: int, on_progress: OnRows | None
) -> None:
    done = 0
    for ids, vectors in row_chunks(blocks, dimensions):
        if done + len(ids) <= count:
            added.add(ids, vectors)
        done += len(ids)
        if on_progress is not None:
            on_progress(done, count)
    if done != count:
        raise index_error(f"expected {count} rows in the blocks, found {done}", "c10 verify --full")


def _with_ids(faiss: Untyped, inner: Untyped, ids: Untyped, plan: IndexPlan) -> Untyped:
    """Return the index with descriptor ids in place of row numbers, ready to be written.

    Its bytes are those of an index whose rows were added with their ids. The map from id to row is made on
    reading.
    """
    if plan.kind is IndexKind.IVF_PQ:
        inner.nprobe = plan.nprobe
    # An id map accepts only an empty index, so it is made with another one.
    index = faiss.IndexIDMap2(faiss.IndexFlat(inner.d, inner.metric_type))
    index.index, index.ntotal = inner, inner.ntotal
    faiss.copy_array_to_vector(ids, index.id_map)
    index.referenced_objects = (inner,)
    inner.this.acquire()  # the assignment released it, and it would never be freed
    return index


def _write_index(faiss: Untyped, index: Untyped, path: str) -> None:
    """Write an index through a Python file.

    When the last buffer does not fit the disk, the library's own writer only prints a line and leaves a
    truncated index.

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
            raise index_error(f"expected faiss to write the index, found: {error}", "free memory") from error
    if problems:
        raise problems[0]


def _installed_faiss() -> FaissDistribution:
    try:
        return installed_faiss()
    except RuntimeUnavailableError as error:
        raise RequestError(error.message, hint=error.hint, kind=ErrorKind.BACKEND_UNAVAILABLE) from error


def import_faiss(purpose: str) -> ModuleType:
    """Import faiss, which `purpose` needs.

    Raises:
        RequestError: It is not installed, or more than once.
    """
    _installed_faiss()
    return import_library("faiss", purpose)
