"""The engine stage: compile what the plan says, check each engine once, note what was reused."""

import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from time import monotonic

from pipeline.engines.models.model import Model
from pipeline.engines.models.network import located
from pipeline.engines.port import CompiledEngine, EngineCompiler
from pipeline.errors import CheckError
from pipeline.planning.plan import BuildPlan, Decision
from pipeline.stages.checks import check_engine, check_vectors
from pipeline.stages.compile_progress import CompileProgress
from pipeline.stages.context import Run
from store.base.canonical_json import Document
from store.base.values import ArtifactRef
from store.disk.artifacts import Artifacts
from store.domain.attachments import TIMING_CACHE, attached, with_attached
from store.domain.events import CheckFailed, EngineCompiled, StepReused, StepStarted
from store.domain.state import FLIGHT, State
from store.errors import StoreError, from_os_error

_LOG_LIMIT = 16_384
_SAME_KERNELS = ("backend", "version", "target")


def prepare_engines(run: Run, plan: BuildPlan) -> None:
    """Make sure that every network of the build has an engine for its device, checked as far as this machine can.

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
            run.engines[name] = compile_engine(run, engine.model, run.ports.compiler)
            run.append(run.engines[name])
        if not engine.checked:
            require_passed(run, engine.model, run.engines[name])
    if reused:
        run.append(StepReused(kind="engine", count=len(reused), keys=reused))
        run.counts.reused += len(reused)


def compile_engine(
    run: Run, model: Model, compiler: EngineCompiler, *, purpose: str = FLIGHT
) -> EngineCompiled:
    """Compile a network and store what came out; the fact that is returned is the caller's to append.

    Raises:
        CompileError: It could not be compiled.
    """
    name, progress, artifacts = model.spec.name, run.ports.progress, run.store.artifacts
    what, kind = (name, "engine") if purpose == FLIGHT else (f"{name} ({purpose})", purpose)
    run.append(StepStarted(kind=kind, subjects=(name,), key=model.key))
    told = CompileProgress.started(progress, what)
    began = monotonic()
    with tempfile.TemporaryDirectory(dir=run.scratch) as folder:
        scratch = Path(folder)
        job = replace(
            located(model, scratch), timing_cache=learnt(run.store.state, artifacts, model.components)
        )
        compiled = compiler.compile(job, scratch=scratch, on_progress=told)
        elapsed_ms = round((monotonic() - began) * 1000)
        artifact = run.put(engine_bytes(model, compiled))
    belonging = {} if compiled.timing_cache is None else {TIMING_CACHE: run.put(compiled.timing_cache)}
    run.counts.networks.add(name)
    progress.finish(f"{artifact.size / 1e6:.1f} MB")
    return engine_event(model, compiled, artifact, elapsed_ms, purpose=purpose, belonging=belonging)


def learnt(state: State, artifacts: Artifacts, components: Document) -> bytes | None:
    """Return what the last compile of the same backend, version and target learnt about kernels, if it is there."""
    for event in reversed([*state.memo.engines.values()]):
        if any(event.components.get(name) != components[name] for name in _SAME_KERNELS):
            continue
        found = attached(event).get(TIMING_CACHE)
        if found is not None:
            with suppress(StoreError):
                return artifacts.read(found)
    return None


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
    purpose: str = FLIGHT,
    belonging: Mapping[str, ArtifactRef] | None = None,
    host: Document | None = None,
) -> EngineCompiled:
    """Return the fact that a network was compiled.

    Args:
        model: The network.
        compiled: What the compiler said.
        artifact: Its engine.
        elapsed_ms: How long it took.
        purpose: What the engine is for.
        belonging: What is attached to it; see `store.domain.attachments`.
        host: Facts about this machine, only outside of a build, whose start has them.
    """
    signature: Document = {
        "input": compiled.signature.input,
        "input_shape": list(compiled.signature.input_shape),
        "output": compiled.signature.output,
        "output_shape": list(compiled.signature.output_shape),
        "dimensions": compiled.signature.dimensions,
    }
    return EngineCompiled(
        model=model.spec.name,
        purpose=purpose,
        key=model.key,
        components=model.components,
        artifact=artifact,
        signature=with_attached(signature, belonging or {}),
        elapsed_ms=elapsed_ms,
        log=compiled.log[-_LOG_LIMIT:],
        host=host or {},
    )


def vectors_forgotten(run: Run) -> bool:
    """Hold the engine that embeds against vectors that other bytes under its key made.

    Returns:
        Whether it gives other vectors, so that the blocks made with them were forgotten and the cells must be planned
        again.
    """
    run.enter("check", run.inputs.descriptor.spec.name)
    verdict = check_vectors(run, run.embedder)
    if verdict is not None:
        run.append(verdict)
    return isinstance(verdict, CheckFailed)


def require_passed(run: Run, model: Model, event: EngineCompiled, *, what: str = "engine") -> None:
    """Hold an engine against its network.

    Raises:
        CheckError: It disagrees; it will not be used again.
    """
    name = model.spec.name
    run.enter("check", name)
    verdict = check_engine(model, event, run.store.artifacts.read(event.artifact), scratch=run.scratch)
    run.append(verdict)
    if isinstance(verdict, CheckFailed):
        raise CheckError(
            f"expected {what} {name} to agree with its network, found {verdict.why}",
            hint="compile at another precision, or set engine.batch = 1",
            subject=name,
        )
