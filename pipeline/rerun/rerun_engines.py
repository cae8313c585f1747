"""Compile and check an engine again, from the recorded network."""

from pipeline.errors import CompileError, ErrorKind
from pipeline.planning.recorded_inputs import UnavailableError, last_event
from pipeline.rerun.inputs import RerunInputs
from pipeline.rerun.report import Comparison, StepFailure
from pipeline.stages.engines.check_engine import ON_TILES, check_engine
from pipeline.stages.engines.compile import compile_network
from store.domain.events import CheckFailed, EngineCompiled
from store.domain.state import FLIGHT, STAND_IN
from store.errors import is_shortage
from store.runtime.load import ExecutionError, RuntimeUnavailableError


def rerun_compile(inputs: RerunInputs, step: str, name: str) -> StepFailure | None:
    """Compile a network again; return how that fails now, or None.

    Raises:
        UnavailableError: The network or its backend is not available.
    """
    try:
        model, compiler = inputs.network(name, STAND_IN if step == STAND_IN else FLIGHT)
        made = compile_network(model, compiler, scratch=inputs.scratch)
    except CompileError as error:
        if error.kind is ErrorKind.BACKEND_UNAVAILABLE:
            raise UnavailableError(error.message) from error
        return StepFailure(kind=str(error.kind), subject=error.subject or name, message=error.message)
    then = last_event(inputs.record.history, EngineCompiled, lambda compiled: compiled.key == model.key)
    if then is not None:
        expected, found = then.artifact.sha256, made.event.artifact.sha256
        inputs.findings.compared.append(Comparison(what=f"engine {name}", recorded=expected, found=found))
    return None


def rerun_engine_check(inputs: RerunInputs, name: str) -> StepFailure | None:
    """Compare an engine with its network again; return why it does not pass now, or None.

    Raises:
        UnavailableError: Engine, network or backend is not available.
    """
    event = inputs.engine(inputs.failure_input("engine").get("sha256"))
    data = inputs.artifact("engine", name, event.artifact)
    model, _ = inputs.network(name, event.purpose)
    then = last_event(inputs.record.own_history, CheckFailed, lambda failed: failed.subject == name)
    if then is not None and ON_TILES in then.why:
        raise UnavailableError(
            "expected the tiles that the engine was compared on, found none in the records"
        )
    try:
        verdict = check_engine(model, event, data, scratch=inputs.scratch)
    except RuntimeUnavailableError as error:
        raise UnavailableError(error.message) from error
    except ExecutionError as error:
        return StepFailure(kind=str(ErrorKind.CHECK_FAILED), subject=name, message=error.message)
    except OSError as error:
        if is_shortage(error):
            raise
        raise UnavailableError(f"engine {name}: {error}") from error
    compare_measures(inputs, verdict.measured, name)
    if isinstance(verdict, CheckFailed):
        return StepFailure(kind=str(ErrorKind.CHECK_FAILED), subject=name, message=verdict.why)
    return None


def compare_measures(inputs: RerunInputs, measured: object, subject: str) -> None:
    """Add what a check measured then and now to the findings."""
    then = last_event(inputs.record.own_history, CheckFailed, lambda failed: failed.subject == subject)
    if then is not None:
        inputs.findings.compare("check", then.measured, measured if isinstance(measured, dict) else {})
