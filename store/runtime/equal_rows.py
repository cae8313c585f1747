"""Find the rows of a graph that are equal to a linked row, and put them into its answers.

A graph links each distinct vector once. Many equal rows would be neighbours of each other alone, so that a
search that reaches one of them would never leave them and the rows behind them could not be found. An equal
row is in the file like any other, but no link leads to it. Its own two links lead to the linked row of its
vector and to itself; no other row links to itself.
"""

import numpy as np
from numpy.typing import NDArray

from store.runtime.backends.base import Untyped, Vectors

Ids = NDArray[np.int64]


class EqualRows:
    """The groups of equal rows in a graph."""

    def __init__(self, faiss: Untyped, whole: Untyped, graph: Untyped) -> None:
        """Read the groups of `graph`, the HNSW index in the `IndexIDMap2` `whole`."""
        ids: Ids = faiss.vector_to_array(whole.id_map)
        starts = faiss.vector_to_array(graph.hnsw.offsets)[:-1].astype(np.int64)
        neighbours = graph.hnsw.neighbors
        links = faiss.rev_swig_ptr(neighbours.data(), neighbours.size())
        equal = np.flatnonzero(links[starts + 1] == np.arange(len(starts)))
        linked = ids[links[starts[equal]]]
        firsts = np.unique(linked)
        every, members = np.concatenate([firsts, linked]), np.concatenate([firsts, ids[equal]])
        order = np.argsort(every, kind="stable")
        # Two columns: a row, and the linked row of its vector. A linked row is a member of its own group.
        self._linked: Ids = every[order]
        self._members: Ids = members[order]

    def drop(self, dropped: Ids) -> Ids:
        """Leave out rows; return those that the graph must not find.

        A linked row stands for its group until all rows of that are dropped.
        """
        ungrouped = np.setdiff1d(dropped, self._members)
        kept = ~np.isin(self._members, dropped)
        hidden = np.setdiff1d(self._linked, self._linked[kept])
        self._linked, self._members = self._linked[kept], self._members[kept]
        return np.concatenate([ungrouped, hidden])

    def expand(self, scores: Vectors, ids: Ids) -> None:
        """Replace each found row by its group, in place; what no longer fits is left out."""
        width = ids.shape[1]
        starts = np.searchsorted(self._linked, ids)
        ends = np.searchsorted(self._linked, ids, side="right")
        for row in np.flatnonzero((ends > starts).any(axis=1)):
            places = zip(starts[row], ends[row], strict=True)
            groups = [
                self._members[start : min(end, start + width)] if end > start else found[None]
                for found, (start, end) in zip(ids[row], places, strict=True)
            ]
            scores[row] = np.repeat(scores[row], [len(group) for group in groups])[:width]
            ids[row] = np.concatenate(groups)[:width]
