"""Builds the FAISS index from the blocks, so that equal blocks give equal bytes.

The index is a projection: inner product on unit vectors, descriptor ids as row ids. What its bytes depend on is fixed
here, because faiss leaves it to the caller:

- Rows are added in the order of the cells (zoom, cell x, cell y) and, within a cell, of the ids.
- They are added in chunks whose length follows from the dimensions alone, wherever blocks begin and end; a graph grown
  by one call of 15,000 rows is not the one grown by 15 calls of 1,000.
- Random numbers have fixed seeds, and training takes every k-th row.

From faiss 1.15 on the thread count then changes nothing. The instruction set may: indexes made on two kinds of
processor are near-equal in their answers, not in their bytes.
"""

import importlib.metadata
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import EmbedError, ErrorKind
from pipeline.request import IndexKind, IndexOptions, Storage
from store.blocks import Block
from store.canonical import Document

FLAT_BELOW: Final = 20_000
"""Rows below which `auto` searches exhaustively: exact, and a query still takes under 10 ms."""

EF_CONSTRUCTION: Final = 40
"""Breadth of the search for neighbours while a graph grows: faiss's default, pinned."""

_DEFAULT_M: Final = 32
_DEFAULT_EF: Final = 64
_DEFAULT_NPROBE: Final = 16
_DEFAULT_SUBSPACES: Final = 64
_SEED: Final = 20_111
_PQ_BITS: Final = 8
_LEAST_TRAINING_ROWS: Final = 1 << _PQ_BITS
_MOST_LISTS: Final = 4_096
_ROWS_PER_LIST: Final = 64
_CHUNK_ROWS: Final = 16_384
_CHUNK_BYTES: Final = 64 << 20
_TRAINING_BYTES: Final = 512 << 20
_WRITE_BYTES: Final = 1 << 20
_METRIC: Final = "ip"

Vectors = NDArray[np.float32]
Foreign = Any
"""An object of faiss, which carries no types."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexPlan:
    """Index options with every choice made.

    Attributes:
        kind: FLAT, HNSW or IVF_PQ, never AUTO.
        storage: How vectors are kept.
        m: Links per node of the graph, or subspaces of the product quantiser; 0 where it means nothing.
        ef: Breadth of a search in the graph; 0 where it means nothing.
        lists: Inverted lists; 0 where it means nothing.
        nprobe: Lists that a search visits; 0 where it means nothing.
    """

    kind: IndexKind
    storage: Storage
    m: int = 0
    ef: int = 0
    lists: int = 0
    nprobe: int = 0

    def to_document(self) -> Document:
        """Return the plan for the index's step key."""
        return {
            "kind": str(self.kind),
            "metric": _METRIC,
            "storage": str(self.storage),
            "m": self.m,
            "ef": self.ef,
            "ef_construction": EF_CONSTRUCTION if self.kind is IndexKind.HNSW else 0,
            "lists": self.lists,
            "nprobe": self.nprobe,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexFacts:
    """What was built.

    Attributes:
        plan: The options it was built with.
        dimensions: Length of a descriptor.
        ntotal: Number of rows.
        metric: "ip", the inner product.
        seconds: How long it took.
    """

    plan: IndexPlan
    dimensions: int
    ntotal: int
    metric: str
    seconds: float


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
            EmbedError: It is not installed, or more than once.
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


def resolve(options: IndexOptions, *, count: int, dimensions: int) -> IndexPlan:
    """Make every choice that the request leaves open. Pure.

    Args:
        options: As requested.
        count: Rows that the index will have.
        dimensions: Length of a descriptor.

    Raises:
        EmbedError: INDEX_FAILED, the request cannot be met with these rows.
    """
    kind = options.kind
    if kind is IndexKind.AUTO:
        kind = IndexKind.FLAT if count < FLAT_BELOW else IndexKind.HNSW
    match kind:
        case IndexKind.FLAT:
            return IndexPlan(kind=kind, storage=options.storage)
        case IndexKind.HNSW:
            return IndexPlan(
                kind=kind, storage=options.storage, m=options.m or _DEFAULT_M, ef=options.ef or _DEFAULT_EF
            )
        case _:
            return _resolve_ivf_pq(options, count, dimensions)


def _resolve_ivf_pq(options: IndexOptions, count: int, dimensions: int) -> IndexPlan:
    if count < _LEAST_TRAINING_ROWS:
        raise _failed(
            f"expected at least {_LEAST_TRAINING_ROWS} tiles to train an ivf-pq index, found {count}",
            'set index.kind = "flat"',
        )
    divisors = [m for m in range(1, _DEFAULT_SUBSPACES + 1) if dimensions % m == 0]
    m = options.m or divisors[-1]
    if dimensions % m:
        raise _failed(
            f"expected index.m to divide the {dimensions} dimensions of the descriptor, found {m}",
            f"set index.m to one of {divisors}",
        )
    lists = 1
    while lists * 2 * _ROWS_PER_LIST <= count and lists < _MOST_LISTS:
        lists *= 2
    nprobe = min(options.nprobe or _DEFAULT_NPROBE, lists)
    return IndexPlan(kind=IndexKind.IVF_PQ, storage=options.storage, m=m, lists=lists, nprobe=nprobe)


def chunk_rows(dimensions: int) -> int:
    """Return how many rows are added at a time: 16,384, or fewer if they would pass 64 MiB. Part of the recipe."""
    return max(1, min(_CHUNK_ROWS, _CHUNK_BYTES // (4 * dimensions)))


class FaissIndexBuilder:
    """Builds with faiss on the CPU. Memory: the index itself, and one chunk."""

    @property
    def name(self) -> str:
        """The name "faiss"."""
        return "faiss"

    @property
    def version(self) -> str:
        """Version of the installed faiss.

        Raises:
            EmbedError: It is not installed, or more than once.
        """
        return faiss_distribution(_installed())[1]

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
        began = time.monotonic()
        faiss = _faiss()
        try:
            inner = _empty(faiss, dimensions, plan)
            if not inner.is_trained:
                inner.train(_training_rows(rows, count, dimensions))
            index = faiss.IndexIDMap2(inner)
            done = 0
            for ids, vectors in _chunks(_in_order(rows, dimensions), dimensions):
                index.add_with_ids(vectors, ids)
                done += len(ids)
                if on_progress is not None:
                    on_progress(done, count)
            if done != count:
                raise _failed(f"expected {count} rows in the blocks, found {done}", "c10 verify --full")
        except (RuntimeError, MemoryError, AssertionError) as error:
            raise _failed(f"expected faiss to build the index, found: {error!r}", "free memory") from error
        _write(faiss, index, fd_path)
        return IndexFacts(
            plan=plan, dimensions=dimensions, ntotal=done, metric=_METRIC, seconds=time.monotonic() - began
        )


def faiss_distribution(installed: Iterable[tuple[str, str]]) -> tuple[str, str]:
    """Return (name, version) of the one distribution of faiss among those installed. Pure.

    Args:
        installed: (name, version) of installed distributions.

    Raises:
        EmbedError: There is none, or more than one: they own the same files, so that neither is whole.
    """
    found = sorted({each for each in installed if each[0].lower().startswith("faiss")})
    if not found:
        raise EmbedError(
            "expected the Python package 'faiss', found none",
            "pip install 'c10[cpu]'",
            ErrorKind.BACKEND_UNAVAILABLE,
        )
    if len(found) > 1:
        names = " and ".join(f"{name} {version}" for name, version in found)
        raise EmbedError(
            f"expected one distribution of faiss, found {names}: they overwrite each other's files",
            f"pip uninstall {' '.join(name for name, _ in found)}, then install one of them again",
            ErrorKind.BACKEND_UNAVAILABLE,
        )
    return found[0]


def _empty(faiss: Foreign, dimensions: int, plan: IndexPlan) -> Foreign:
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
            index = faiss.IndexIVFPQ(coarse, dimensions, plan.lists, plan.m, _PQ_BITS, ip)
            coarse.this.disown()  # the index owns it from here on
            index.own_fields = True
            index.nprobe = plan.nprobe
            for clustering in (index.cp, index.pq.cp):
                clustering.seed = _SEED
                clustering.min_points_per_centroid = 1
            return index


def _write(faiss: Foreign, index: Foreign, path: str) -> None:
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
            raise _failed(f"expected faiss to write the index, found: {error}", "free memory") from error
    if problems:
        raise problems[0]


def _in_order(rows: Iterable[Block], dimensions: int) -> Iterator[Block]:
    """Pass the blocks on. Ascending cells cannot repeat an id, since a block holds no other cell's."""
    previous: tuple[int, int, int] | None = None
    for block in rows:
        if previous is not None and block.cell <= previous:
            raise _failed(
                f"expected blocks in ascending order of their cells, found {block.cell} after {previous}",
                "this is a fault in C10; report it",
            )
        if block.dimensions != dimensions:
            raise _failed(
                f"expected descriptors of {dimensions} numbers, found {block.dimensions} in cell {block.cell}",
                "build again: blocks of two vector spaces are mixed",
            )
        if np.any(block.ids[1:] <= block.ids[:-1]):
            raise _failed(
                f"expected ids without repetition, found others in cell {block.cell}",
                "build again with the damaged block collected",
            )
        previous = block.cell
        yield block


def _chunks(blocks: Iterable[Block], dimensions: int) -> Iterator[tuple[NDArray[np.int64], Vectors]]:
    """Cut the rows of all blocks into chunks of a fixed length; the last one may be shorter. The buffer is reused."""
    size = chunk_rows(dimensions)
    vectors = np.empty((size, dimensions), np.float32)
    ids = np.empty(size, np.int64)
    filled = 0
    for block in blocks:
        taken = 0
        while taken < block.rows:
            step = min(size - filled, block.rows - taken)
            vectors[filled : filled + step] = block.vectors[taken : taken + step]
            ids[filled : filled + step] = block.ids[taken : taken + step].astype(np.int64)
            filled += step
            taken += step
            if filled == size:
                yield ids, vectors
                filled = 0
    if filled:
        yield ids[:filled], vectors[:filled]


def _training_rows(rows: Iterable[Block], count: int, dimensions: int) -> Vectors:
    """Return every k-th row, as many as fit 512 MiB."""
    if iter(rows) is rows:
        raise _failed(
            "expected blocks that can be read twice, found an iterator", "this is a fault in C10; report it"
        )
    most = max(_LEAST_TRAINING_ROWS, _TRAINING_BYTES // (4 * dimensions))
    stride = -(-count // most)
    taken: list[Vectors] = []
    seen = 0
    for block in _in_order(rows, dimensions):
        taken.append(np.array(block.vectors[-seen % stride :: stride]))
        seen += block.rows
    sample: Vectors = np.concatenate(taken)
    return sample


def _installed() -> Sequence[tuple[str, str]]:
    return [
        (distribution.name, distribution.version)
        for distribution in importlib.metadata.distributions()
        if (distribution.name or "").lower().startswith("faiss")
    ]


def _faiss() -> ModuleType:
    faiss_distribution(_installed())
    import faiss  # noqa: PLC0415 - heavy, and not needed by a warm run

    module: ModuleType = faiss
    return module


def _failed(message: str, hint: str) -> EmbedError:
    return EmbedError(message, hint, ErrorKind.INDEX_FAILED)
