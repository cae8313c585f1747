"""Add rows to an index of faiss and keep their ids; a graph gets a link to each distinct vector once.

Equal rows follow the linked ones, and have the links by which `store.runtime.equal_rows` finds them. Rows are
equal if the index stores them as equal bytes. Without equal rows a graph is as faiss builds it.
"""

import hashlib
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.index.row_order import chunk_rows

Ids = NDArray[np.int64]
Vectors = NDArray[np.float32]
Untyped = Any
"""An object of faiss, which carries no types."""

_DIGEST: Final = 16
_CHUNK: Final = 16_384


class AddedRows(Protocol):
    """Rows on their way into an index."""

    def add(self, ids: Ids, vectors: Vectors) -> None:
        """Add rows, at most a chunk; the arrays may change afterwards."""
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
        self._waiting = [(np.zeros(0, np.int64), np.zeros((0, index.d), np.float32))]
        self._rows: dict[bytes, int] = {}
        self._equal = [np.zeros(0, np.int64)]
        self._equal_to = [np.zeros(0, np.int64)]

    def add(self, ids: Ids, vectors: Vectors) -> None:
        """Keep the rows whose vector is new until a chunk is full; remember of which row the others are equals."""
        rows = np.empty(len(ids), np.int64)
        new = np.zeros(len(ids), np.bool_)
        for place, code in enumerate(self._storage.sa_encode(vectors)):
            digest = hashlib.blake2b(code, digest_size=_DIGEST).digest()
            new[place] = digest not in self._rows
            rows[place] = self._rows.setdefault(digest, len(self._rows))
        self._waiting.append((ids[new], vectors[new]))
        if sum(len(each) for each, _ in self._waiting) >= chunk_rows(self._index.d):
            self._link()
        self._equal.append(ids[~new])
        self._equal_to.append(rows[~new])

    def finish(self) -> Ids:
        """Link what still waits, and append the equal rows."""
        self._link(rest=True)
        ids, linked = np.concatenate(self._equal), np.concatenate(self._equal_to)
        if len(ids):
            self._append(linked)
        return np.concatenate([self._linked.finish(), ids])

    def _link(self, *, rest: bool = False) -> None:
        """Add a full chunk, so that a graph does not depend on how equal rows lie between the others."""
        ids, vectors = (np.concatenate(each) for each in zip(*self._waiting, strict=True))
        most = len(ids) if rest else chunk_rows(self._index.d)
        if len(ids[:most]):
            self._linked.add(ids[:most], vectors[:most])
        self._waiting = [(ids[most:].copy(), vectors[most:].copy())]

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
