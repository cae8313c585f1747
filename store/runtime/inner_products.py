"""Inner products on the calling thread alone: NumPy's BLAS would split large ones over all cores."""

import numpy as np

from store.runtime.backends.base import Vectors, import_library

_AT_ONCE = 512
"""Rows that are compared with all queries before the next ones: they stay in the processor's cache."""


def inner_products(queries: Vectors, vectors: Vectors) -> Vectors:
    """Return the inner products of queries, float32 [q, d], with vectors, float32 [n, d]: float32 [q, n]."""
    faiss = import_library("faiss", "the search of chunks")
    queries, vectors = np.ascontiguousarray(queries), np.ascontiguousarray(vectors)
    found = np.empty((len(queries), len(vectors)), np.float32)
    portion = _AT_ONCE if len(queries) > 1 else max(1, len(vectors))
    for start in range(0, len(vectors), portion):
        part = vectors[start : start + portion]
        ends = faiss.swig_ptr(part), part.shape[1], len(part)
        for query, scores in zip(queries, found, strict=True):
            into = faiss.swig_ptr(scores[start : start + portion])
            faiss.fvec_inner_products_ny(into, faiss.swig_ptr(query), *ends)
    return found
