"""Add rows to an index of faiss and keep their ids; a graph gets a link to each distinct vector once.

Equal rows follow the linked ones, and have the links by which `store.runtime.equal_rows` finds them. Rows are
equal if the index stores them as equal bytes. Without equal rows a graph is as faiss builds it.
"""

import hashlib
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Vectors = NDArray[np.float32]
Untyped = Any
"""An object of faiss, which carries no types."""

_DIGEST: Final = 16
_CHUNK: Final = 16_384


class AddedRows(Protocol):
    """Rows on their way into an index."""

    def add(self, ids: Ids, vectors: Vectors) -> None:
        """Add a chunk of rows; the arrays may change afterwards."""
        ...

    def finish(self) -> Ids:
        """Complete the index; return the ids in the order of its rows."""
        ...


class PlainRows:
    """Rows of an index without a graph, in the order in which they come."""

    def __init__(self, index: Untyped) -> None:
        self._index = index
        self._ids = [np.zeros(0, np.int64)]

    def add(self, ids: Ids, vectors: Vectors) -> None:
        """Add a chunk of rows."""
        self._index.add(vectors)
        self._ids.append(ids.copy())

    def finish(self) -> Ids:
        """Return the ids."""
        return np.concatenate(self._ids)


class GraphRows:
    """Rows of a graph: those with a vector that is new, then those equal to one of them."""

    def __init__(self, faiss: Untyped, index: Untyped) -> None:
        self._faiss, self._index = faiss, index
        self._storage = faiss.downcast_index(index.storage)
        self._linked = PlainRows(index)
        self._rows: dict[bytes, int] = {}
        self._equal = [np.zeros(0, np.int64)]
        self._equal_to = [np.zeros(0, np.int64)]

    def add(self, ids: Ids, vectors: Vectors) -> None:
        """Link the rows whose vector is new; remember of which row the others are equals."""
        first = len(self._rows)
        rows = np.empty(len(ids), np.int64)
        new = np.zeros(len(ids), np.bool_)
        for place, code in enumerate(self._storage.sa_encode(vectors)):
            digest = hashlib.blake2b(code, digest_size=_DIGEST).digest()
            new[place] = digest not in self._rows
            rows[place] = self._rows.setdefault(digest, len(self._rows))
        if len(self._rows) > first:
            self._linked.add(ids[new], vectors[new])
        self._equal.append(ids[~new])
        self._equal_to.append(rows[~new])

    def finish(self) -> Ids:
        """Append the equal rows."""
        ids, linked = np.concatenate(self._equal), np.concatenate(self._equal_to)
        if len(ids):
            self._append(linked)
        return np.concatenate([self._linked.finish(), ids])

    def _append(self, linked: Ids) -> None:
        index, storage, graph = self._index, self._storage, self._index.hnsw
        for start in range(0, len(linked), _CHUNK):
            codes = self._faiss.rev_swig_ptr(storage.codes.data(), storage.codes.size())
            storage.add_sa_codes(codes.reshape(-1, storage.code_size)[linked[start : start + _CHUNK]])
        rows = np.arange(index.ntotal, storage.ntotal)
        for _ in rows:
            graph.levels.push_back(1)
        graph.prepare_level_tab(len(rows), True)  # noqa: FBT003 - the library takes no names
        index.ntotal = storage.ntotal
        links = self._faiss.rev_swig_ptr(graph.neighbors.data(), graph.neighbors.size())
        starts = self._faiss.vector_to_array(graph.offsets)[rows].astype(np.int64)
        links[starts], links[starts + 1] = linked, rows
