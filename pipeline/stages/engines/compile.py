"""The engine stage: compile the networks that the plan names, and check each engine once."""

import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from time import monotonic

from pipeline.engines.models.model import Model
from pipeline.engines.models.network import HEAD, job_with_file
from pipeline.engines.port import EngineCompiler, EngineSignature, OnProgress
from pipeline.planning.plan import BuildPlan, Decision
from pipeline.progress import megabytes
from pipeline.stages.checks import check_vectors
from pipeline.stages.context import BuildContext
from pipeline.stages.engines.check_engine import check_engine, require_passed
from pipeline.stages.engines.check_network import require_usable
from pipeline.stages.engines.compile_progress import CompileProgress
from store.base.canonical_json import Document
from store.base.valueclass import valueclass
from store.disk.artifacts import Artifacts, ref_of
from store.domain.attachments import NETWORK, TIMING_CACHE, attached, with_attached
from store.domain.events import CheckFailed, EngineCompiled, StepStarted
from store.domain.state import FLIGHT, State
from store.errors import StoreError, TranslateOSErrors
from store.runtime.backends.registry import DEFAULT_BACKEND

_LOG_LIMIT = 16_384
_SAME_KERNELS = ("backend", "version", "target")


@valueclass(frozen=True, slots=True, kw_only=True)
class CompiledNetwork:
    """The event that records a compiled network, the engine, and what is attached to it, by name."""

    event: EngineCompiled
    engine: bytes
    attachments: Mapping[str, bytes]

    @property
    def contents(self) -> tuple[bytes, ...]:
        """The bytes of the artifacts that the event names."""
        return (self.engine, *self.attachments.values())


def compile_network(
    model: Model,
    compiler: EngineCompiler,
    *,
    scratch: Path,
    purpose: str = FLIGHT,
    timing_cache: bytes | None = None,
    host: Document | None = None,
    on_progress: OnProgress | None = None,
) -> CompiledNetwork:
    """Compile a network, with temporary files in `scratch`.

    `timing_cache` is that of an earlier compile. `host` is given only outside of a build, whose start records
    it.

    Raises:
        CompileError: It could not be compiled, or gives no descriptors; see `check_network`.
        StoreError: The engine cannot be read.
    """
    began = monotonic()
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        job = replace(job_with_file(model, Path(folder)), timing_cache=timing_cache)
        if model.spec.builtin is None:
            if on_progress is not None:
                on_progress({"phase": "run the network on golden images"})
            others = compiler.backend != DEFAULT_BACKEND and compiler.runs_here(job.target)
            require_usable(job, loads=others)
        compiled = compiler.compile(job, scratch=Path(folder), on_progress=on_progress)
        elapsed_ms = round((monotonic() - began) * 1000)
        with TranslateOSErrors(f"engine of {model.spec.name}"):
            engine = compiled.path.read_bytes()
            network = job.onnx.read_bytes() if HEAD in model.components else None
    found = {TIMING_CACHE: compiled.timing_cache, NETWORK: network}
    attachments = {name: data for name, data in found.items() if data is not None}
    event = EngineCompiled(
        model=model.spec.name,
        purpose=purpose,
        key=model.key,
        components=model.components,
        artifact=ref_of(engine),
        signature=with_attached(
            _signature_document(compiled.signature),
            {name: ref_of(data) for name, data in attachments.items()},
        ),
        elapsed_ms=elapsed_ms,
        log=compiled.log[-_LOG_LIMIT:],
        host=host or {},
    )
    return CompiledNetwork(event=event, engine=engine, attachments=attachments)


def _signature_document(signature: EngineSignature) -> Document:
    return {
        "input": signature.input,
        "input_shape": list(signature.input_shape),
        "output": signature.output,
        "output_shape": list(signature.output_shape),
        "dimensions": signature.dimensions,
    }


def last_timing_cache(state: State, artifacts: Artifacts, components: Document) -> bytes | None:
    """Return the timing cache of the last compile for the same backend, version and target, if any."""
    for event in reversed([*state.step_cache.engines.values()]):
        if any(event.components.get(name) != components[name] for name in _SAME_KERNELS):
            continue
        ref = attached(event).get(TIMING_CACHE)
        if ref is not None:
            with suppress(StoreError):
                return artifacts.read(ref)
    return None


def prepare_engines(run: BuildContext, plan: BuildPlan) -> None:
    """Give every network of the build an engine for its device, checked as far as this machine can.

    Raises:
        CompileError: A network could not be compiled.
        CheckError: An engine disagrees with its network; it will not be used again.
    """
    reused: dict[str, str] = {}
    compiler = run.ports.compiler_for(run.inputs.request)
    for engine in plan.engines:
        name, key = engine.model.spec.name, engine.model.key
        run.enter("engine", name)
        known = run.store.state.step_cache.engines.get(key)
        if engine.decision is Decision.REUSE and known is not None:
            run.engines[name] = known
            reused[name] = key
            if engine.model.fitted:
                # The file was lost, and was made again to the same bytes: the key names them.
                run.put(engine.model.fitted)
        else:
            run.engines[name] = compile_engine(run, engine.model, compiler)
            run.append(run.engines[name])
        if not engine.checked:
            record_check(run, engine.model, run.engines[name])
    if reused:
        run.reuse("engine", reused)


def compile_engine(
    run: BuildContext, model: Model, compiler: EngineCompiler, *, purpose: str = FLIGHT
) -> EngineCompiled:
    """Compile a network and store the engine; the caller appends the event that is returned.

    Raises:
        CompileError: It could not be compiled.
    """
    name, progress = model.spec.name, run.ports.progress
    label, kind = (name, "engine") if purpose == FLIGHT else (f"{name} ({purpose})", purpose)
    run.append(StepStarted(kind=kind, subjects=(name,), key=model.key))
    made = compile_network(
        model,
        compiler,
        scratch=run.scratch,
        purpose=purpose,
        timing_cache=last_timing_cache(run.store.state, run.store.artifacts, model.components),
        on_progress=CompileProgress.started(progress, label),
    )
    for data in made.contents:
        run.put(data)
    run.counts.networks.add(name)
    progress.finish(megabytes(len(made.engine)))
    return made.event


def forget_changed_vectors(run: BuildContext) -> bool:
    """Compare the engines that embed with vectors that earlier engines under the same keys gave.

    Returns:
        Whether the vectors of one differ. Then the recorded check makes the journal forget the old blocks of its
        vector space, and the cells must be planned again.
    """
    differ = False
    for model in run.inputs.descriptors:
        run.enter("check", model.spec.name)
        steps = run.store.state.step_cache
        verdict = check_vectors(run.store.artifacts, steps, run.inputs, model, run.embedder(model))
        if verdict is not None:
            run.append(verdict)
        differ |= isinstance(verdict, CheckFailed)
    return differ


def record_check(run: BuildContext, model: Model, event: EngineCompiled, *, what: str = "engine") -> None:
    """Compare an engine with its network and record the result.

    Raises:
        CheckError: They disagree; the engine will not be used again.
    """
    run.enter("check", model.spec.name)
    run.ports.progress.start(f"check {model.spec.name}", total=None, unit="steps")
    verdict = check_engine(
        model,
        event,
        run.store.artifacts.read(event.artifact),
        scratch=run.scratch,
        tiles=run.inputs.selection.tiles,
    )
    run.append(verdict)
    run.ports.progress.finish()
    require_passed(model, verdict, what=what)
