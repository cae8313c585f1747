"""The networks that describe a picture, and their descriptors joined to the vector that the index holds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from store.base.joined_vectors import concatenate, unit_rows
from store.base.preprocessing import Pixels, Preprocessing, Sample
from store.errors import TranslateShortages
from store.runtime.backends.base import Vectors
from store.runtime.load import Engine, EngineRunError


@dataclass(frozen=True, slots=True, kw_only=True)
class DescriptorNetwork:
    """A network, its image contract, and how much its descriptors count, in units of 1e-6."""

    engine: Engine
    preprocessing: Preprocessing
    weight: int

    def run(self, samples: Sample) -> Vectors:
        """Return the descriptors of samples, float32 [n, d]."""
        return self.preprocessing.finish(self.engine.run(samples))


class NoDescriptorError(EngineRunError):
    """A network has no descriptor of a picture: what it gave is zero or not finite."""


def describe(picture: Pixels, networks: Sequence[DescriptorNetwork]) -> Vectors:
    """Return the vector of a picture, uint8 [height, width, 3], to search for; see `query_vectors`.

    Raises:
        ValueError: The picture has another shape or type.
        StoreError: As for `query_vectors`; a network does not run; or this process lacks memory.
    """
    with TranslateShortages("describing a picture"):
        return query_vectors(
            [network.run(network.preprocessing.apply(picture)[None]) for network in networks], networks
        )


def query_vectors(parts: Sequence[Vectors], networks: Sequence[DescriptorNetwork]) -> Vectors:
    """Return the vectors to search for, float32 [n, sum of d], of length 1, from those of each network.

    Raises:
        NoDescriptorError: One of the networks has no descriptor of a picture.
    """
    for part in parts:
        lengths = np.linalg.norm(part, axis=1)
        if not (np.isfinite(lengths).all() and (lengths > 0).all()):
            raise NoDescriptorError(
                "expected a descriptor of the frame, found one that is zero or not finite",
                hint="take another frame: there is nothing in this one",
            )
    return unit_rows(concatenate(parts, [network.weight for network in networks]))
