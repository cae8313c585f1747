"""Compare searches of one query among few vectors, on one thread: `python -m tests.benchmarks.search`.

Sides: `DescriptorIndex.search` of a flat and a graph index, FAISS's flat index on an array, a product of NumPy with
`argpartition`, the search of chunks (`RoundedVectors` and exact products), and usearch, exact and with a graph. All
but FAISS on an array read their vectors from sealed memory, as on board. Every query goes to each side in turn, so
that other load affects all; printed are milliseconds of processor time of a query, median and p99 (`--wall`: time
that passed), and which share of the ten best each side finds. The extra `bench` brings usearch.
"""

import argparse
import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when NumPy is imported

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from fcntl import F_ADD_SEALS, F_SEAL_GROW, F_SEAL_SHRINK, F_SEAL_WRITE, fcntl
from typing import Final, TypeAlias

import faiss
import numpy as np
from numpy.typing import NDArray
from usearch.index import BatchMatches, Index, Matches
from usearch.index import search as search_exactly

from pipeline.index.plan import DEFAULT_EF, DEFAULT_M, EF_CONSTRUCTION
from store.files.sealed_memory import SealedMemory
from store.runtime.inner_products import inner_products
from store.runtime.load import load_index
from store.runtime.rounded_vectors import RoundedVectors

Vectors: TypeAlias = NDArray[np.float32]
Ids: TypeAlias = NDArray[np.int64]
Search: TypeAlias = Callable[[Vectors], Ids]
"""A query, float32 [d], to the ids of the best rows, int64 [BEST]."""

BEST: Final = 10
ROUNDED_BEST: Final = 256


def main() -> None:
    """Print a table for each number of rows."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rows", type=int, nargs="+", default=[1_000, 5_000, 10_000, 20_000])
    options.add_argument("--dimensions", type=int, default=384)
    options.add_argument("--queries", type=int, default=1_000)
    options.add_argument("--wall", action="store_true")
    given = options.parse_args()
    faiss.omp_set_num_threads(1)
    clock = time.perf_counter if given.wall else time.process_time
    print("| rows | side | p50 ms | p99 ms | of the ten best |\n|---|---|---|---|---|")
    for rows in given.rows:
        random = np.random.default_rng(rows)
        vectors, queries = (
            _unit(random.standard_normal((number, given.dimensions), np.float32))
            for number in (rows, given.queries)
        )
        # A query of a random direction has no near rows, which graphs are not made for.
        queries = _unit(queries + 1.5 * vectors[random.integers(0, rows, given.queries)])
        for line in _compared(vectors, queries, clock):
            print(f"| {rows:,} {line}", flush=True)


def _compared(vectors: Vectors, queries: Vectors, clock: Callable[[], float]) -> Iterator[str]:
    with _sides(vectors) as sides:
        times: dict[str, list[float]] = {name: [] for name in sides}
        hits = dict.fromkeys(sides, 0)
        for number, query in enumerate(queries):
            best = set(np.argsort(vectors @ query)[-BEST:].tolist())
            turn = list(sides.items())
            for name, search in turn[number % len(turn) :] + turn[: number % len(turn)]:
                began = clock()
                ids = search(query)
                times[name].append(clock() - began)
                hits[name] += len(best & set(ids.tolist()))
        for name, found in times.items():
            p50, p99 = 1e3 * np.quantile(found[10:], (0.5, 0.99))
            yield f"| {name} | {p50:.3f} | {p99:.3f} | {hits[name] / BEST / len(queries):.3f} |"


@contextmanager
def _sides(vectors: Vectors) -> Iterator[dict[str, Search]]:
    count, dimensions = vectors.shape
    flat = faiss.IndexFlatIP(dimensions)
    graph = faiss.IndexHNSWFlat(dimensions, DEFAULT_M, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction, graph.hnsw.efSearch = EF_CONSTRUCTION, DEFAULT_EF
    links = Index(
        ndim=dimensions,
        metric="ip",
        dtype="f32",
        connectivity=DEFAULT_M,
        expansion_add=EF_CONSTRUCTION,
        expansion_search=DEFAULT_EF,
    )
    links.add(np.arange(count), vectors, threads=1)
    with ExitStack() as kept:
        content = kept.enter_context(_sealed(vectors.tobytes())).view()
        plain: Vectors = np.frombuffer(content, np.float32).reshape(vectors.shape)
        view = Index(ndim=dimensions, metric="ip", dtype="f32", expansion_search=DEFAULT_EF)
        view.view(kept.enter_context(_sealed(bytes(links.save() or b""))).path)
        ours = {}
        for kind, index in (("flat", flat), ("hnsw", graph)):
            whole = faiss.IndexIDMap2(index)
            whole.add_with_ids(vectors, np.arange(count))
            sealed = kept.enter_context(_sealed(faiss.serialize_index(whole).tobytes()))
            ours[kind] = load_index(sealed.path, kind=kind, dimensions=dimensions, ntotal=count, threads=1)
        rounded = RoundedVectors(plain)
        yield {
            "c10, flat": lambda query: ours["flat"].search(query[None], BEST)[1][0],
            "FAISS, flat, on an array": lambda query: flat.search(query[None], BEST)[1][0],
            "NumPy, product": lambda query: _best(plain @ query),
            "usearch, exact": lambda query: _keys(
                search_exactly(plain, query, BEST, "ip", exact=True, threads=1)
            ),
            "c10, all chunks": lambda query: _best(inner_products(query[None], plain)[0]),
            "c10, chunks, rounded first": lambda query: _rounded_first(plain, rounded, query),
            "c10, graph": lambda query: ours["hnsw"].search(query[None], BEST)[1][0],
            "usearch, graph": lambda query: _keys(view.search(query, BEST, threads=1)),
        }


@contextmanager
def _sealed(content: bytes) -> Iterator[SealedMemory]:
    """Yield a sealed memory file of some bytes."""
    fd = os.memfd_create("c10-benchmark", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(fd, "wb", closefd=False) as file:
        file.write(content)
    fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_WRITE)
    sealed = SealedMemory(fd)
    try:
        yield sealed
    finally:
        sealed.close()


def _best(scores: Vectors) -> Ids:
    found = np.argpartition(scores, -BEST)[-BEST:]
    return found[np.argsort(-scores[found])]


def _rounded_first(vectors: Vectors, rounded: RoundedVectors, query: Vectors) -> Ids:
    rows, _ = rounded.best(query, ROUNDED_BEST)
    return rows[_best(inner_products(query[None], vectors[rows])[0])]


def _keys(found: Matches | BatchMatches) -> Ids:
    keys: Ids = found.keys.astype(np.int64)
    return keys


def _unit(vectors: Vectors) -> Vectors:
    lengths: Vectors = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / lengths


if __name__ == "__main__":
    main()
