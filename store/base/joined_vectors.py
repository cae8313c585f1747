"""Join the descriptors of several networks to one. Pure; ground and aircraft run the same code.

Each network's descriptors get length 1 and are multiplied by its weight; then all are written side by side, and
the whole gets length 1. The inner product of two such vectors is the mean of the networks' cosines, weighted by
the squares of their weights.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


def unit_rows(vectors: Vectors) -> Vectors:
    """Return rows of length 1, float32 [n, d]; rows of zeros, and those that are not finite, stay as they are."""
    lengths = np.sqrt(np.square(vectors, dtype=np.float64).sum(axis=1, keepdims=True))
    usable = np.isfinite(lengths) & (lengths > 0)
    return np.asarray(vectors / np.where(usable, lengths, 1.0), np.float32)


def concatenate(vectors: Sequence[Vectors], weights: Sequence[int]) -> Vectors:
    """Return the joined descriptors, float32 [n, sum of d], of length 1.

    Args:
        vectors: The descriptors of each network, float32 [n, d], in the order of the networks' names; not 0.
        weights: Their weights; only the ratios matter.
    """
    if len(vectors) == 1:
        return vectors[0]
    parts = [weight * unit_rows(part) for part, weight in zip(vectors, weights, strict=True)]
    return unit_rows(np.concatenate(parts, axis=1, dtype=np.float32))
