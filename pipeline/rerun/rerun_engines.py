"""Engines compiled and checked again, from the network that was kept."""

from pipeline.errors import CompileError, ErrorKind
from pipeline.planning.recorded_inputs import UnavailableError
from pipeline.rerun.inputs import RerunInputs
from pipeline.rerun.report import Comparison, StepFailure
from pipeline.stages.checks import check_engine
from pipeline.stages.compile import compile_network
from store.domain.events import CheckFailed, EngineCompiled
from store.domain.state import FLIGHT, STAND_IN
from store.errors import is_shortage
from store.runtime.load import ExecutionError, RuntimeUnavailableError


def rerun_compile(supplies: RerunInputs, step: str, name: str) -> StepFailure | None:
    """Compile a network once more; returns how that fails now.

    Raises:
        UnavailableError: The network or its backend cannot be had.
    """
    try:
        model, compiler = supplies.network(name, STAND_IN if step == STAND_IN else FLIGHT)
        made = compile_network(model, compiler, scratch=supplies.scratch)
    except CompileError as error:
        if error.kind is ErrorKind.BACKEND_UNAVAILABLE:
            raise UnavailableError(error.message) from error
        return StepFailure(kind=str(error.kind), subject=error.subject or name, message=error.message)
    digest = made.event.artifact.sha256
    for fact in reversed(supplies.record.facts):
        if isinstance(fact.event, EngineCompiled) and fact.event.key == model.key:
            expected = fact.event.artifact.sha256
            supplies.findings.compared.append(
                Comparison(what=f"engine {name}", recorded=expected, found=digest)
            )
            break
    return None


def rerun_engine_check(supplies: RerunInputs, name: str) -> StepFailure | None:
    """Hold an engine against its network once more; returns why it does not pass now.

    Raises:
        UnavailableError: Engine, network or backend cannot be had.
    """
    event = supplies.engine(supplies.recorded("engine").get("sha256"))
    data = supplies.artifact("engine", name, event.artifact)
    model, _ = supplies.network(name, event.purpose)
    try:
        verdict = check_engine(model, event, data, scratch=supplies.scratch)
    except RuntimeUnavailableError as error:
        raise UnavailableError(error.message) from error
    except ExecutionError as error:
        return StepFailure(kind=str(ErrorKind.CHECK_FAILED), subject=name, message=error.message)
    except OSError as error:
        if is_shortage(error):
            raise
        raise UnavailableError(f"engine {name}: {error}") from error
    compare_measures(supplies, verdict.measured, name)
    if isinstance(verdict, CheckFailed):
        return StepFailure(kind=str(ErrorKind.CHECK_FAILED), subject=name, message=verdict.why)
    return None


def compare_measures(supplies: RerunInputs, measured: object, subject: str) -> None:
    """Put what a check measured now beside what it measured then."""
    for fact in reversed(supplies.record.facts):
        if (
            fact.build == supplies.build.number
            and isinstance(fact.event, CheckFailed)
            and fact.event.subject == subject
        ):
            then = fact.event.measured
            supplies.findings.compare("check", then, measured if isinstance(measured, dict) else {})
            return
