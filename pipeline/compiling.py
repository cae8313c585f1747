"""The engine stage: compile what the plan says, check each engine once, note what was reused."""

import tempfile
from pathlib import Path
from time import monotonic

from pipeline.checks import check_engine, check_vectors
from pipeline.engines.port import CompiledEngine
from pipeline.errors import CheckError
from pipeline.gathering import located
from pipeline.inputs import Model
from pipeline.plan import BuildPlan, Decision, EnginePlan
from pipeline.run import Run
from store.canonical import Document
from store.errors import from_os_error
from store.events import ArtifactRef, CheckFailed, EngineCompiled, StepReused, StepStarted
from store.state import FLIGHT

_LOG_LIMIT = 16_384


def prepare_engines(run: Run, plan: BuildPlan) -> bool:
    """Make sure that every network of the build has a checked engine.

    Returns:
        Whether a recompiled engine gives other vectors, so that the blocks made with it were forgotten and the
        cells must be planned again.

    Raises:
        CompileError: A network could not be compiled.
        CheckError: An engine disagrees with its network; it will not be used again.
    """
    reused: dict[str, str] = {}
    for engine in plan.engines:
        name, key = engine.model.spec.name, engine.model.key
        run.enter("engine", name)
        known = run.store.state.memo.engines.get(key)
        if engine.decision is Decision.REUSE and known is not None:
            run.engines[name] = known
            reused[name] = key
        else:
            run.engines[name] = _compile(run, engine)
        if not engine.checked:
            _check(run, engine)
    if reused:
        run.append(StepReused(kind="engine", count=len(reused), keys=reused))
        run.counts.reused += len(reused)
    return _vectors_forgotten(run)


def _compile(run: Run, plan: EnginePlan) -> EngineCompiled:
    model, progress = plan.model, run.ports.progress
    run.append(StepStarted(kind="engine", subjects=(model.spec.name,), key=model.key))
    progress.start(f"compile {model.spec.name}", total=None, unit="steps")
    began = monotonic()
    with tempfile.TemporaryDirectory(dir=run.scratch) as folder:
        scratch = Path(folder)
        compiled = run.ports.compiler.compile(
            located(model, scratch), scratch=scratch, on_progress=lambda _: progress.advance()
        )
        elapsed_ms = round((monotonic() - began) * 1000)
        event = engine_event(plan.model, compiled, run.put(engine_bytes(plan.model, compiled)), elapsed_ms)
    run.append(event)
    run.counts.compiled += 1
    progress.finish(f"{event.artifact.size / 1e6:.1f} MB")
    return event


def engine_bytes(model: Model, compiled: CompiledEngine) -> bytes:
    """Return what the compiler made.

    Raises:
        StoreError: It cannot be read.
    """
    try:
        return compiled.path.read_bytes()
    except OSError as error:
        raise from_os_error(error, f"engine of {model.spec.name}") from error


def engine_event(
    model: Model,
    compiled: CompiledEngine,
    artifact: ArtifactRef,
    elapsed_ms: int,
    *,
    host: Document | None = None,
) -> EngineCompiled:
    """Return the fact that a network was compiled; `host` only outside of a build, whose start has it."""
    signature = compiled.signature
    return EngineCompiled(
        model=model.spec.name,
        purpose=FLIGHT,
        key=model.key,
        components=model.components,
        artifact=artifact,
        signature={
            "input": signature.input,
            "input_shape": list(signature.input_shape),
            "output": signature.output,
            "output_shape": list(signature.output_shape),
            "dimensions": signature.dimensions,
        },
        elapsed_ms=elapsed_ms,
        log=compiled.log[-_LOG_LIMIT:],
        host=host or {},
    )


def _vectors_forgotten(run: Run) -> bool:
    """Hold the descriptor engine against vectors that other bytes under its key made."""
    name = run.inputs.descriptor.spec.name
    run.enter("check", name)
    verdict = check_vectors(run, run.engines[name])
    if verdict is not None:
        run.append(verdict)
    return isinstance(verdict, CheckFailed)


def _check(run: Run, plan: EnginePlan) -> None:
    """Hold the engine against its network."""
    event = run.engines[plan.model.spec.name]
    run.enter("check", plan.model.spec.name)
    verdict = check_engine(
        plan.model,
        event,
        run.store.artifacts.read(event.artifact),
        least_cosine=run.inputs.request.checks.parity,
        scratch=run.scratch,
    )
    if isinstance(verdict, CheckFailed):
        run.append(verdict)
        raise CheckError(
            f"expected engine {plan.model.spec.name} to agree with its network, found {verdict.why}",
            "compile at another precision, or set engine.batch = 1",
            subject=plan.model.spec.name,
        )
    run.append(verdict)
