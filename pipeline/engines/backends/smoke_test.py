"""The first run of a new engine, in the process that compiled it."""

import numpy as np

from pipeline.errors import CompileError, ErrorKind
from store.runtime.golden_vectors import golden_inputs
from store.runtime.load import Engine

Shapes = tuple[list[int], list[int]]
"""Shapes of input and output, with their batch."""


def try_out(engine: Engine) -> Shapes:
    """Run an engine once on golden inputs, because some networks only fail when they run.

    Raises:
        CompileError: BAD_VECTORS, its descriptors are not finite.
        ExecutionError: It does not run.
    """
    vectors = engine.run(golden_inputs((engine.batch, *engine.sample_shape)))
    if not np.isfinite(vectors).all():
        raise CompileError(
            "expected finite descriptors of the golden images, found others",
            hint="export the network again: it gives NaN or infinity for ordinary images",
            kind=ErrorKind.BAD_VECTORS,
        )
    return [engine.batch, *engine.sample_shape], [engine.batch, engine.dimensions]
