"""Run a network as it was given on golden images, before time is spent on compiling it.

What no compiler can mend is refused here by its cause. A network that ONNX Runtime cannot run is left to its
compiler, which names the operator, unless it is another library: the check of the engine would fail.
"""

import numpy as np

from pipeline.engines.onnx.declaration import bad_model
from pipeline.engines.port import EngineJob
from pipeline.errors import CompileError, ErrorKind
from pipeline.stages.engines.reference import BadShapeError, FixedBatchError, Reference
from store.runtime.golden_vectors import Vectors, agreement, golden_samples
from store.runtime.load import EngineLoadError, ExecutionError

UNIT_TOLERANCE = 1e-3
"""How far a descriptor's length may be from 1."""

EVALUATION_HINT = "export the network in evaluation mode (model.eval()), without random operators"
WEIGHTS_HINT = "check the weights of the network and its mean, std and colour: it hardly tells tiles apart"
NEIGHBOURS = "descriptors that depend on their neighbours in a batch"
CHANGING = "descriptors that change from run to run"

_COMPARED_HINT = "export the network with operators that ONNX Runtime knows: engines are compared with it"
_IMAGES = 2
_MOST_TOGETHER = 8
_SAME_IN_ANY_BATCH = 0.999
"""Rounding differs between batch sizes; what depends on neighbours differs by more."""

_SAME_AGAIN = 0.99999
_ONE_ANSWER_WITHIN = 1e-6


def require_usable(job: EngineJob, *, loads: bool = False) -> None:
    """Refuse a descriptor network whose answers to golden images cannot be descriptors.

    Args:
        job: The network.
        loads: Whether ONNX Runtime must load it, because nothing else will tell that it does not.

    Raises:
        CompileError: BAD_MODEL, it fixes a batch that it does not declare, gives no list of vectors, or does
            not load.
            BAD_VECTORS, its answers change from run to run, depend on their neighbours in a batch, are not
            finite, have not length 1 or are all the same.
    """
    if job.preprocessing is None:
        return
    samples = golden_samples(job.preprocessing, _IMAGES)
    try:
        reference = Reference(job)
        alone, again = reference.run(samples), reference.run(samples)
        together = reference.fixed_batch or (min(job.batch, _MOST_TOGETHER) if job.batch > 1 else _IMAGES)
        beside = reference.run_together(samples, together)
    except BadShapeError as error:
        raise bad_model(error.message, error.hint, job.model) from error
    except FixedBatchError as error:
        if job.batch == error.rows:
            return
        raise bad_model(error.message, error.hint, job.model) from error
    except EngineLoadError as error:
        if loads:
            raise bad_model(error.message, _COMPARED_HINT, job.model) from error
        return
    except ExecutionError:
        return
    _require_descriptors(job, *map(job.preprocessing.finish, (alone, again, beside)))


def _require_descriptors(job: EngineJob, alone: Vectors, again: Vectors, beside: Vectors) -> None:
    """Refuse answers to images alone, again and beside others, float32 [n, d] each."""
    lengths = np.linalg.norm(alone.astype(np.float64), axis=1)
    if not np.isfinite(lengths).all():
        raise _unusable("NaN or infinity", "export the network again; check its mean and std", job)
    if agreement(alone, again) < _SAME_AGAIN:
        raise _unusable(CHANGING, EVALUATION_HINT, job)
    unit = bool((np.abs(lengths - 1) <= UNIT_TOLERANCE).all())
    if agreement(alone, beside) < _SAME_IN_ANY_BATCH and (job.batch > 1 or not unit):
        raise _unusable(NEIGHBOURS, EVALUATION_HINT + (", or set engine.batch = 1" if unit else ""), job)
    if not unit:
        raise _unusable(f"length {lengths.max():.6g}", length_hint(float(lengths.max())), job)
    if np.abs(alone - alone[0]).max() <= _ONE_ANSWER_WITHIN:
        raise _unusable("one answer for all of them", WEIGHTS_HINT, job)


def length_hint(length: float) -> str:
    """Return what mends descriptors that have not length 1."""
    if length > 0:
        return "end the network with an L2 normalisation, or set normalise = true on the model"
    return "check the network's weights, mean and std: it answers 0 to a picture with texture"


def _unusable(found: str, hint: str, job: EngineJob) -> CompileError:
    return CompileError(
        f"expected finite descriptors of length 1 for golden images, each by its image alone, found {found}",
        hint=hint,
        kind=ErrorKind.BAD_VECTORS,
        subject=job.model,
    )
