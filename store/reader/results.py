"""What a flight cache hands out."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from store.base.valueclass import valueclass
from store.runtime.load import DescriptorIndex, Engine


class Tile(NamedTuple):
    """One tile of the cache: XYZ scheme, `y` grows southwards; SHA-256 of its encoded bytes."""

    z: int
    x: int
    y: int
    sha256: str


@valueclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """How much was hashed and is not damaged. Size in bytes."""

    files: int
    size: int


@valueclass(frozen=True, slots=True, kw_only=True)
class LoadedCache:
    """Everything that a flight uses, in memory.

    Attributes:
        engines: Model name to its engine.
        index: The descriptor index.
        calibration: The camera calibration, as given in the request.
        threads: Threads within one run of an engine, and of a search.
    """

    engines: Mapping[str, Engine]
    index: DescriptorIndex
    calibration: Mapping[str, Any]
    threads: int

    def run_once(self, descriptor_model: str) -> None:
        """Run each engine on one sample of zeros, and search the index once, so that nothing is loaded later.

        Args:
            descriptor_model: The model whose descriptors the index holds.
        """
        for engine in self.engines.values():
            engine.run(np.zeros((1, *engine.sample_shape), np.float32))
        query = np.zeros((1, self.engines[descriptor_model].dimensions), np.float32)
        query[0, 0] = 1
        self.index.search(query, 1)
