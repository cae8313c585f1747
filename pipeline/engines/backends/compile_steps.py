"""Steps that child processes of several backends share: read the network, run the new engine once."""

from typing import Final

import numpy as np

from pipeline.engines.backends.compile_request import CompileRequest
from pipeline.engines.onnx.eight_bit import rewrite_integer_products
from pipeline.engines.onnx.file import Proto, declaration_of, fix_sizes, read_onnx
from pipeline.engines.port import EngineJob
from pipeline.errors import CompileError, ErrorKind
from store.runtime.golden_vectors import agreement, golden_inputs
from store.runtime.load import Engine, load_engine

OPEN_SIZE: Final = -1
"""Stands for an open size in a shape."""

LEAST_COSINE_ALONE: Final = 0.999999
"""Kernels for one sample may add in another order, which in float32 changes the last digits."""

Shapes = tuple[list[int], list[int]]
"""Shapes of input and output, with their batch."""


def read_network(job: EngineJob) -> Proto:
    """Read a job's network; compute products of 8-bit integers in floats; fix a descriptor network's sizes.

    Raises:
        CompileError: BAD_MODEL, it is another network than the job says, or no engine of its role can be
            made.
    """
    model = rewrite_integer_products(read_onnx(job.onnx, expected_sha256=job.onnx_sha256), job.model)
    if job.role == "descriptor":
        signature = declaration_of(model).signature(input=job.input, output=job.output, subject=job.model)
        fix_sizes(model, signature, batch=job.batch, sample_shape=job.sample_shape, model_name=job.model)
    return model


def run_new_engine(request: CompileRequest) -> Shapes:
    """Load a new engine as the runtime will, and run it once: some networks fail only when they run.

    Raises:
        CompileError: BAD_VECTORS, its descriptors are not finite.
        ExecutionError: It does not load or run.
    """
    engine = _load(request)
    vectors = engine.run(golden_inputs((engine.batch, *engine.sample_shape)))
    if not np.isfinite(vectors).all():
        raise CompileError(
            "expected finite descriptors of the golden images, found others",
            hint="export the network again: it gives NaN or infinity for ordinary images",
            kind=ErrorKind.BAD_VECTORS,
        )
    return [engine.batch, *engine.sample_shape], [engine.batch, engine.dimensions]


def answers_alone_as_in_a_batch(request: CompileRequest, *, least: float = LEAST_COSINE_ALONE) -> bool:
    """Return whether a new engine takes one sample, and answers it as it does in a batch.

    Args:
        request: The compile that made it.
        least: Least cosine between the two answers.

    Raises:
        ExecutionError: It does not load or run.
    """
    alone, together = _load(request, single=True), _load(request)
    samples = golden_inputs((request.job.batch, *together.sample_shape))
    return alone.batch == 1 and agreement(alone.run(samples), together.run(samples)) >= least


def _load(request: CompileRequest, *, single: bool = False) -> Engine:
    job = request.job
    return load_engine(
        str(request.engine),
        backend=request.backend,
        version=request.version,
        input=job.input,
        output=job.output,
        batch=job.batch,
        target=job.target,
        precision=job.precision,
        single=single,
    )
