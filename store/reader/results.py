"""What a flight cache hands out."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from store.base.preprocessing import Preprocessing
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

    def run_once(self, contracts: Mapping[str, Preprocessing]) -> None:
        """Run each engine on one sample, and search the index once, so that nothing is loaded later.

        Args:
            contracts: Each model whose descriptors the index holds, to what prepares its sample, a black frame.
        """
        samples = {model: np.zeros(engine.sample_shape, np.float32) for model, engine in self.engines.items()}
        for model, preprocessing in contracts.items():
            samples[model] = preprocessing.apply(np.zeros((1, 1, 3), np.uint8))
        for model, engine in self.engines.items():
            engine.run(samples[model][None])
        query = np.zeros((1, sum(self.engines[model].dimensions for model in contracts)), np.float32)
        query[0, 0] = 1
        self.index.search(query, 1)
