"""Searches an index and its delta as one: what faiss wrote without the rows that were left out, and the rows that came.

The rows that came are searched exhaustively, since they are few. Scores are inner products on both sides, so that the best
of both are the best of all; where two are equal, the row of the index comes first. (An index that stores 16 bits for a
number scores its own rows to three digits, which is what its scores are worth anyway.)
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from store.formats.index_delta import Delta
from store.runtime.backends.base import IndexLoadError, Untyped, Vectors

_NO_ROW: Final = -1


class IndexWithDelta:
    """An index of faiss with ids of its own, and what changed since it was written."""

    def __init__(self, faiss: Untyped, whole: Untyped, delta: Delta) -> None:
        """Put both beside each other.

        Args:
            faiss: The library.
            whole: An `IndexIDMap2` over a flat or HNSW index of inner products, whose scores are those of the vectors
                themselves; those of a quantiser would not bear comparing.
            delta: Of the same dimensions.

        Raises:
            IndexLoadError: The index is of another kind; or the delta is of other dimensions, leaves out a row that the
                index does not have, or adds one that it has.
        """
        if delta.dimensions != whole.d:
            raise _other(f"a delta of {whole.d} dimensions", f"one of {delta.dimensions}")
        inner = faiss.downcast_index(whole.index)
        if isinstance(inner, faiss.IndexIVF):
            raise _other("a flat or hnsw index under a delta", type(inner).__name__)
        self._faiss, self._whole, self._inner = faiss, whole, inner
        self._added = faiss.IndexIDMap2(faiss.IndexFlat(whole.d, faiss.METRIC_INNER_PRODUCT))
        self._added.add_with_ids(np.ascontiguousarray(delta.added.vectors), delta.added.ids.astype(np.int64))
        self._dropped, self._kept = len(delta.dropped), None
        known = np.sort(faiss.vector_to_array(whole.id_map)).astype(np.uint64)
        kept_too = np.setdiff1d(delta.added.ids, delta.dropped.ids, assume_unique=True)
        if not np.isin(delta.dropped.ids, known).all() or np.isin(kept_too, known).any():
            raise _other(
                "a delta that fits the index", "one that leaves out rows it lacks, or adds some it has"
            )
        if len(delta.dropped):
            dropped = faiss.IDSelectorBatch(delta.dropped.ids.astype(np.int64))
            self._kept = faiss.IDSelectorNot(dropped)

    def search(self, vectors: Vectors, k: int) -> tuple[Vectors, NDArray[np.int64]]:
        """Find the k best of both; see `store.runtime.DescriptorIndex.search`."""
        found = [
            self._whole.search(vectors, k, params=self._parameters()),
            self._added.search(vectors, k),
        ]
        scores = np.concatenate([each[0] for each in found], axis=1)
        ids = np.concatenate([each[1] for each in found], axis=1)
        scores[ids == _NO_ROW] = -np.inf
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        best = np.take_along_axis(scores, order, axis=1)
        return best, np.take_along_axis(ids, order, axis=1)

    def _parameters(self) -> Untyped | None:
        """Return how to search without the rows that were left out; made for each search, since faiss writes into it.

        Nodes of a graph that are left out still lead to others, and take places among the candidates. So there are as
        many places more: the candidates that count are at least those of a search in a graph without them.
        """
        if self._kept is None:
            return None
        if isinstance(self._inner, self._faiss.IndexHNSW):
            breadth = self._inner.hnsw.efSearch + self._dropped
            return self._faiss.SearchParametersHNSW(sel=self._kept, efSearch=breadth)
        return self._faiss.SearchParameters(sel=self._kept)


def _other(expected: str, found: str) -> IndexLoadError:
    return IndexLoadError(f"expected {expected}, found {found}", hint="c10 verify --full")
