"""Search vectors that are rounded to 8 bits, and say how good what was not found can be at most.

A search of all vectors waits for the memory that they lie in; the rounded ones are a quarter of it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
from numpy.typing import NDArray

from store.runtime.backends.base import Vectors, import_library

_AT_ONCE: Final = 4096
_SUMMING: Final = 1e-4
"""More than the scores of unit vectors are off by rounding while they are summed up."""


class RoundedVectors:
    """Copies of unit vectors in 8 bits."""

    def __init__(self, vectors: Vectors) -> None:
        """Round vectors, float32 [n, d], at least one."""
        self._faiss = import_library("faiss", "the search of chunks")
        eight_bits, product = self._faiss.ScalarQuantizer.QT_8bit, self._faiss.METRIC_INNER_PRODUCT
        self._index = self._faiss.IndexScalarQuantizer(vectors.shape[1], eight_bits, product)
        with self._one_thread():
            self._index.train(vectors)
            self._index.add(vectors)
        parts = ((at, vectors[at : at + _AT_ONCE]) for at in range(0, len(vectors), _AT_ONCE))
        errors = (part - self._index.reconstruct_n(at, len(part)) for at, part in parts)
        self._error = max(float(np.linalg.norm(each, axis=1).max()) for each in errors) + _SUMMING

    @property
    def size(self) -> int:
        """How much memory they take, bytes."""
        return int(self._index.codes.size())

    def best(self, query: Vectors, count: int) -> tuple[NDArray[np.int64], float]:
        """Return the rows that are best after rounding, ascending, and a score that no other row exceeds.

        Args:
            query: A vector of length 1, float32 [d].
            count: How many rows to return; at most as many as there are.
        """
        with self._one_thread():
            scores, rows = self._index.search(query[None], count)
        return np.sort(rows[0]), float(scores[0, -1]) + self._error

    @contextmanager
    def _one_thread(self) -> Iterator[None]:
        before = self._faiss.omp_get_max_threads()
        self._faiss.omp_set_num_threads(1)
        try:
            yield
        finally:
            self._faiss.omp_set_num_threads(before)
