"""Read the vectors that an index of faiss keeps."""

import numpy as np
from numpy.typing import NDArray

from store.runtime.backends.base import Untyped, Vectors


def stored_vectors(faiss: Untyped, index: Untyped, rows: NDArray[np.int64]) -> Vectors | None:
    """Return a copy of the vectors of some rows, float32 [n, d]; None if the index keeps none.

    It is a copy also of a mapped file, whose numbers may lie at odd addresses: a product would copy them each
    time.

    Args:
        faiss: The library.
        index: A flat or HNSW index, or one of another kind, which keeps no vectors.
        rows: Numbers of rows.
    """
    storage = faiss.downcast_index(index.storage) if isinstance(index, faiss.IndexHNSW) else index
    if isinstance(storage, faiss.IndexFlat):
        every = faiss.rev_swig_ptr(storage.get_xb(), storage.ntotal * storage.d)
        return np.array(every.reshape(-1, storage.d)[rows], np.float32)
    if isinstance(storage, faiss.IndexScalarQuantizer):
        codes = faiss.rev_swig_ptr(storage.codes.data(), storage.codes.size()).reshape(storage.ntotal, -1)
        return np.asarray(storage.sa_decode(np.ascontiguousarray(codes[rows])), np.float32)
    return None
