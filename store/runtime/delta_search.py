"""Search an index of faiss, and an index and its delta as one: kept rows and added rows.

The added rows are few, so all of them are compared. Both sides score by inner product, so the best of both
are the best of all; of two equal scores, the row of the index comes first. (An index with 16-bit numbers
scores its own rows to three digits, which is its precision.)
"""

from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from store.formats.index_delta import Delta
from store.runtime.backends.base import IndexLoadError, Untyped, Vectors
from store.runtime.equal_rows import EqualRows
from store.runtime.stored_vectors import stored_vectors

_NO_ROW: Final = -1
_FEW_HIDDEN: Final = 32
"""So many rows of a flat index are left out of the answers to many queries; if more are hidden, the search skips them."""
_MULTIPLIED: Final = 20
"""From so many queries on they are left out: only where no row is skipped can FAISS multiply matrices, and it compares
pair by pair faster, too."""

StoredRows: TypeAlias = tuple[NDArray[np.int64], Vectors]
"""Descriptor ids, int64 [n], and vectors, float32 [n, d]."""


class KeptRows:
    """An index of faiss without some of its rows; in a graph, with the rows that are equal to found ones."""

    def __init__(self, faiss: Untyped, whole: Untyped, dropped: NDArray[np.int64]) -> None:
        """Take an `IndexIDMap2` and the ids of the rows to leave out."""
        inner = faiss.downcast_index(whole.index)
        self._faiss, self._whole, self._dropped = faiss, whole, dropped
        self._graph = inner if isinstance(inner, faiss.IndexHNSW) else None
        self._equal = None if self._graph is None else EqualRows(faiss, whole, inner)
        hidden = dropped if self._equal is None else self._equal.drop(dropped)
        self._hidden = len(hidden)
        self._selector = faiss.IDSelectorNot(faiss.IDSelectorBatch(hidden)) if self._hidden else None
        self._flat = isinstance(inner, faiss.IndexFlat)

    def search(self, vectors: Vectors, k: int) -> tuple[Vectors, NDArray[np.int64]]:
        """Find the k best; see `store.runtime.DescriptorIndex.search`."""
        if self._flat and 0 < self._hidden <= _FEW_HIDDEN and len(vectors) >= _MULTIPLIED:
            scores, ids = self._whole.search(vectors, k + self._hidden)
            return self._without_hidden(scores, ids, k)
        scores, ids = self._whole.search(vectors, k, params=self._parameters(k))
        if self._equal is not None:
            self._equal.expand(scores, ids)
        return scores, ids

    def _without_hidden(
        self, scores: Vectors, ids: NDArray[np.int64], k: int
    ) -> tuple[Vectors, NDArray[np.int64]]:
        """Leave hidden rows out of so many more answers, and return k: fewer are left if the index has no more."""
        hidden = np.isin(ids, self._dropped)
        scores[hidden], ids[hidden] = -np.inf, _NO_ROW
        order = np.argsort(hidden, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(scores, order, axis=1), np.take_along_axis(ids, order, axis=1)

    def _parameters(self, k: int) -> Untyped | None:
        """Return parameters that leave out hidden rows, anew for each search, since faiss writes to them.

        In a graph, hidden nodes still lead to others and are candidates. So a search takes as many candidates
        more, and has at least as many kept ones as in a graph without the hidden nodes.
        """
        if self._selector is None:
            return None
        if self._graph is not None:
            breadth = max(self._graph.hnsw.efSearch, k) + self._hidden
            return self._faiss.SearchParametersHNSW(sel=self._selector, efSearch=breadth)
        return self._faiss.SearchParameters(sel=self._selector)

    def rows(self, first: int, last: int) -> StoredRows | None:
        """Return the kept rows of a range of ids; see `store.runtime.DescriptorIndex.rows`."""
        ids: NDArray[np.int64] = self._faiss.vector_to_array(self._whole.id_map)
        wanted = (ids >= first) & (ids <= last) & ~np.isin(ids, self._dropped)
        places = np.flatnonzero(wanted)
        vectors = stored_vectors(self._faiss, self._faiss.downcast_index(self._whole.index), places)
        return None if vectors is None else (ids[places], vectors)


class IndexWithDelta:
    """An index of faiss with ids of its own, and the rows that changed since it was written."""

    def __init__(self, faiss: Untyped, whole: Untyped, delta: Delta) -> None:
        """Check that the delta fits the index.

        Args:
            faiss: The library.
            whole: An `IndexIDMap2` over a flat or HNSW index of inner products. Scores of a quantiser could
                not be compared with those of the added rows.
            delta: A delta of the same dimensions.

        Raises:
            IndexLoadError: The index is of another kind; or the delta has other dimensions, drops a row that
                the index does not have, or adds one that it has.
        """
        if delta.dimensions != whole.d:
            raise _index_error(f"a delta of {whole.d} dimensions", f"one of {delta.dimensions}")
        inner = faiss.downcast_index(whole.index)
        if isinstance(inner, faiss.IndexIVF):
            raise _index_error("a flat or hnsw index under a delta", type(inner).__name__)
        self._delta = delta
        self._added = faiss.IndexIDMap2(faiss.IndexFlat(whole.d, faiss.METRIC_INNER_PRODUCT))
        self._added.add_with_ids(np.ascontiguousarray(delta.added.vectors), delta.added.ids.astype(np.int64))
        known = np.sort(faiss.vector_to_array(whole.id_map)).astype(np.uint64)
        new = np.setdiff1d(delta.added.ids, delta.dropped.ids, assume_unique=True)
        if not _among(delta.dropped.ids, known).all() or _among(new, known).any():
            raise _index_error(
                "a delta that fits the index", "one that leaves out rows it lacks, or adds some it has"
            )
        self._kept = KeptRows(faiss, whole, delta.dropped.ids.astype(np.int64))

    def search(self, vectors: Vectors, k: int) -> tuple[Vectors, NDArray[np.int64]]:
        """Find the k best of both; see `store.runtime.DescriptorIndex.search`."""
        found = [self._kept.search(vectors, k), self._added.search(vectors, k)]
        scores = np.concatenate([each[0] for each in found], axis=1)
        ids = np.concatenate([each[1] for each in found], axis=1)
        scores[ids == _NO_ROW] = -np.inf
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        best = np.take_along_axis(scores, order, axis=1)
        return best, np.take_along_axis(ids, order, axis=1)

    def rows(self, first: int, last: int) -> StoredRows | None:
        """Return the rows of a range of ids; see `store.runtime.DescriptorIndex.rows`."""
        kept = self._kept.rows(first, last)
        ids = self._delta.added.ids.astype(np.int64)
        added = (ids >= first) & (ids <= last)
        if kept is None or not added.any():
            return kept
        vectors = np.concatenate([kept[1], self._delta.added.vectors[added]])
        return np.concatenate([kept[0], ids[added]]), vectors


def _among(ids: NDArray[np.uint64], known: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Say which ids are among known ones, which ascend. NumPy's own way would sort the many for the few."""
    if not len(known):
        return np.zeros(len(ids), np.bool_)
    nearest = known[np.minimum(np.searchsorted(known, ids), len(known) - 1)]
    found: NDArray[np.bool_] = nearest == ids
    return found


def _index_error(expected: str, found: str) -> IndexLoadError:
    return IndexLoadError(f"expected {expected}, found {found}", hint="c10 verify --full")
