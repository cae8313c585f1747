"""Run the step at which a build failed once more, in a folder of its own, and hold the outcome against the record.

Nothing of the cache is written. What depends on its inputs alone fails again; what depended on the machine at that hour
(a full disk, a lock, a kill) does not, and the answer says so instead of pretending.
"""

import tempfile
from pathlib import Path
from typing import Final

from pipeline.engines.models.network import look_at_models
from pipeline.errors import ErrorKind, PipelineError, RequestError
from pipeline.planning.recorded_inputs import UnavailableError
from pipeline.planning.resolve_inputs import read_calibration
from pipeline.ports import Ports
from pipeline.rerun.inputs import Supplies
from pipeline.rerun.report import Ended, Evidence, Rerun, Standing, Verdict
from pipeline.rerun.rerun_cells import embed_again
from pipeline.rerun.rerun_engines import check_again, compile_again
from pipeline.rerun.rerun_index import check_index_again, index_again, survey_again, walk_again
from pipeline.tiles.selection import select_tiles
from store.domain.state import BuildStatus
from store.errors import ErrorKind as StoreKind
from store.errors import StoreError
from store.transfer.selection import last_step

DIED: Final = "died"
"""What a build is said to have failed with whose process ended without a word."""

_CIRCUMSTANCES: Final = {
    str(StoreKind.DISK_FULL): "the disk was full then; nothing is wrong with the inputs of the step",
    str(StoreKind.PERMISSION): "what this user might write then is no input of the step",
    str(StoreKind.INPUT_OUTPUT): "how the disk answered then is no input of the step",
    "interrupted": "somebody interrupted it; nothing was wrong with the step",
    "rolled-back": "no step was run: the request had been rolled back from",
}
"""Kinds of failures that no input explains."""


def rerun(evidence: Evidence, ports: Ports) -> Rerun:
    """Run the failed step of a build again.

    Args:
        evidence: What is known of the build.
        ports: What does the work.

    Raises:
        RequestError: The build was committed, so that no step of it failed.
        OSError: There is no room for temporary files.
    """
    build = evidence.build
    if build.status is BuildStatus.COMMITTED:
        raise RequestError(
            f"expected a build that failed, found that build {build.number} was committed",
            hint=f"name another: {evidence.listing}",
        )
    failure = build.failure
    step, subject = last_step(build)
    recorded = Ended(
        kind=failure.kind if failure else "rolled-back" if build.status is BuildStatus.REFUSED else DIED,
        subject=failure.subject if failure else subject,
        message=failure.message if failure else build.ending,
    )
    found: Ended | None = None
    with tempfile.TemporaryDirectory(prefix="c10-rerun-") as scratch:
        supplies = Supplies(evidence=evidence, ports=ports, scratch=Path(scratch))
        verdict, why = Verdict.IMPOSSIBLE, _CIRCUMSTANCES.get(recorded.kind, "")
        if not why:
            try:
                found = _take(supplies, step, subject)
            except UnavailableError as error:
                why = error.reason
            except (PipelineError, StoreError) as error:
                why = error.message
            except (LookupError, TypeError, ValueError, AttributeError) as error:
                why = f"the records say it in a form that this version does not understand: {error!r}"
            else:
                verdict, why = _verdict(recorded, found)
    return Rerun(
        step=step,
        subject=subject,
        verdict=verdict,
        recorded=recorded,
        found=found,
        why=why,
        findings=supplies.findings,
    )


def _take(supplies: Supplies, step: str, subject: str) -> Ended | None:
    """Take one step again; returns how it fails now."""
    match step:
        case "cells":
            return embed_again(supplies)
        case "engine" | "stand-in":
            return compile_again(supplies, step, subject)
        case "check" if subject == "index":
            return check_index_again(supplies)
        case "check":
            return check_again(supplies, subject)
        case "index":
            return index_again(supplies)
        case "coverage" if subject == "area":
            return survey_again(supplies)
        case "coverage":
            return walk_again(supplies)
        case "inputs" | "tiles":
            return _gather_again(supplies)
        case _:
            raise UnavailableError(
                f"step {step or 'start'!r} has no inputs of its own that could be taken again: it depends on the machine"
            )


def _gather_again(supplies: Supplies) -> Ended | None:
    """Read once more what the request names, where it is named; returns how that fails now, as it did if it can."""
    request, precision = supplies.request
    supplies.refuse_libraries(request)
    ports, networks = supplies.ports, ", ".join(model.onnx for model in request.models)

    def look() -> object:
        return look_at_models(request, ports.compiler_for(request), precision, stand_in=ports.stand_in)

    def select() -> object:
        return select_tiles(request, ports.source_for(request), today=supplies.recipe.day)

    found: list[Ended] = []
    for role, name, read in (
        ("calibration", request.calibration, lambda: read_calibration(request)),
        ("network", networks, look),
        ("source", request.tiles.source, select),
    ):
        try:
            read()
        except RequestError as error:
            supplies.note(role, name, None, Standing.GONE, error.message)
        except PipelineError as error:
            supplies.note(role, name, None, Standing.SAME)
            found.append(Ended(kind=str(error.kind), subject=error.subject or "", message=error.message))
        else:
            supplies.note(role, name, None, Standing.SAME)
    as_then = [ended for ended in found if supplies.failure is None or ended.kind == supplies.failure.kind]
    gone = [each for each in supplies.findings.inputs if each.standing is Standing.GONE]
    if gone and not as_then:
        raise UnavailableError(gone[0].found)
    return next(iter((*as_then, *found)), None)


def _verdict(recorded: Ended, found: Ended | None) -> tuple[Verdict, str]:
    if found is None:
        if recorded.kind == DIED:
            return Verdict.PASSED, "what ended the process is not in the inputs of its last step"
        if recorded.kind == str(ErrorKind.WORKER_DIED):
            return Verdict.PASSED, "no tile ends a worker here: memory was short then, or something killed it"
        return Verdict.PASSED, "the step does not fail here"
    if found.kind != recorded.kind:
        return Verdict.OTHERWISE, f"then it was {recorded.kind}, now it is {found.kind}"
    return Verdict.REPRODUCED, ""
