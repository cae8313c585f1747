"""Run the failed step of a build again in a temporary folder, and compare the result with the record.

Nothing is written to the cache. A failure that depends on the inputs alone happens again. One that depended
on the machine at that time (a full disk, a lock, a kill) does not, and the report says so.
"""

import tempfile
from pathlib import Path
from typing import Final

from pipeline.engines.models.network import inspect_models
from pipeline.errors import ErrorKind, PipelineError, RequestError
from pipeline.planning.recorded_inputs import UnavailableError
from pipeline.planning.resolve_inputs import read_calibration
from pipeline.ports import Ports
from pipeline.rerun.inputs import RerunInputs
from pipeline.rerun.report import BuildRecord, InputStatus, Rerun, RerunVerdict, StepFailure
from pipeline.rerun.rerun_cells import rerun_cells
from pipeline.rerun.rerun_engines import rerun_compile, rerun_engine_check
from pipeline.rerun.rerun_index import rerun_coverage_walk, rerun_index, rerun_index_check, rerun_survey
from pipeline.tiles.selection import select_tiles
from store.domain.proof import SUBJECT
from store.domain.state import BuildStatus
from store.errors import ErrorKind as StoreKind
from store.errors import StoreError
from store.transfer.selection import last_step

DIED: Final = "died"
"""The kind of failure of a build whose process ended without recording one."""

_CIRCUMSTANCES: Final = {
    str(StoreKind.DISK_FULL): "the disk was full then; nothing is wrong with the inputs of the step",
    str(StoreKind.PERMISSION): "what this user might write then is no input of the step",
    str(StoreKind.INPUT_OUTPUT): "how the disk answered then is no input of the step",
    "interrupted": "somebody interrupted it; nothing was wrong with the step",
    "rolled-back": "no step was run: the request had been rolled back from",
}
"""Kinds of failures that depend on no input."""


def rerun(record: BuildRecord, ports: Ports) -> Rerun:
    """Run the failed step of a build again.

    Args:
        record: What the records say of the build.
        ports: The parts that do the work.

    Raises:
        RequestError: The build was committed, so no step failed.
        OSError: There is no room for temporary files.
    """
    build = record.build
    if build.status is BuildStatus.COMMITTED:
        raise RequestError(
            f"expected a build that failed, found that build {build.number} was committed",
            hint=f"name another: {record.listing}",
        )
    failure = build.failure
    step, subject = last_step(build)
    recorded = StepFailure(
        kind=failure.kind if failure else "rolled-back" if build.status is BuildStatus.REFUSED else DIED,
        subject=failure.subject if failure else subject,
        message=failure.message if failure else build.ending,
    )
    with tempfile.TemporaryDirectory(prefix="c10-rerun-") as scratch:
        inputs = RerunInputs(record=record, ports=ports, scratch=Path(scratch))
        verdict, found, why = _run_and_compare(inputs, step, subject, recorded)
    return Rerun(
        step=step,
        subject=subject,
        verdict=verdict,
        recorded=recorded,
        found=found,
        why=why,
        findings=inputs.findings,
    )


def _run_and_compare(
    inputs: RerunInputs, step: str, subject: str, recorded: StepFailure
) -> tuple[RerunVerdict, StepFailure | None, str]:
    """Return how the step ended this time, how it failed, and why it could not run or may have passed."""
    why = _CIRCUMSTANCES.get(recorded.kind, "")
    if not why:
        try:
            found = _run_step(inputs, step, subject)
        except UnavailableError as error:
            why = error.reason
        except (PipelineError, StoreError) as error:
            why = error.message
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            why = f"the records say it in a form that this version does not understand: {error!r}"
        else:
            verdict, why = _compare(recorded, found)
            return verdict, found, why
    return RerunVerdict.IMPOSSIBLE, None, why


def _run_step(inputs: RerunInputs, step: str, subject: str) -> StepFailure | None:
    """Run one step again; return how it fails now, or None."""
    match step:
        case "cells":
            return rerun_cells(inputs)
        case "engine" | "stand-in":
            return rerun_compile(inputs, step, subject)
        case "check" if subject == "index":
            return rerun_index_check(inputs)
        case "check" if subject == SUBJECT:
            raise UnavailableError("photographs are asked for again by c10 prove, or by another build")
        case "check":
            return rerun_engine_check(inputs, subject)
        case "index":
            return rerun_index(inputs)
        case "coverage" if subject == "area":
            return rerun_survey(inputs)
        case "coverage":
            return rerun_coverage_walk(inputs)
        case "inputs" | "tiles":
            return _rerun_input_resolution(inputs)
        case _:
            raise UnavailableError(
                f"step {step or 'start'!r} cannot be run again: it has no inputs of its own and depends on the machine"
            )


def _rerun_input_resolution(inputs: RerunInputs) -> StepFailure | None:
    """Read what the request names again; return a failure, if possible of the recorded kind."""
    request, precision = inputs.recorded_inputs.request_and_precision
    inputs.recorded_inputs.refuse_plugins()
    ports, networks = inputs.ports, ", ".join(model.onnx for model in request.models)

    def inspect() -> object:
        return inspect_models(request, ports.compiler_for(request), precision, stand_in=ports.stand_in)

    def select() -> object:
        return select_tiles(request, ports.source_for(request), today=inputs.recorded_inputs.day)

    found: list[StepFailure] = []
    for role, name, read in (
        ("calibration", request.calibration, lambda: read_calibration(request)),
        ("network", networks, inspect),
        ("source", request.tiles.source, select),
    ):
        try:
            read()
        except RequestError as error:
            inputs.note(role, name, None, InputStatus.GONE, error.message)
        except PipelineError as error:
            inputs.note(role, name, None, InputStatus.SAME)
            found.append(
                StepFailure(kind=str(error.kind), subject=error.subject or "", message=error.message)
            )
        else:
            inputs.note(role, name, None, InputStatus.SAME)
    same_kind = [each for each in found if inputs.failure is None or each.kind == inputs.failure.kind]
    gone = [each for each in inputs.findings.inputs if each.status is InputStatus.GONE]
    if gone and not same_kind:
        raise UnavailableError(gone[0].found)
    if request.has_heads and not found:
        raise UnavailableError(
            "what the request names can be read; whether its head can be fitted, c10 plan shows"
        )
    return next(iter((*same_kind, *found)), None)


def _compare(recorded: StepFailure, found: StepFailure | None) -> tuple[RerunVerdict, str]:
    if found is None:
        if recorded.kind == DIED:
            return RerunVerdict.PASSED, "what ended the process is not in the inputs of its last step"
        if recorded.kind == str(ErrorKind.WORKER_DIED):
            return (
                RerunVerdict.PASSED,
                "no tile ends a worker here: memory was short then, or something killed it",
            )
        return RerunVerdict.PASSED, "the step does not fail here"
    if found.kind != recorded.kind:
        return RerunVerdict.FAILED_DIFFERENTLY, f"then it was {recorded.kind}, now it is {found.kind}"
    return RerunVerdict.REPRODUCED, ""
