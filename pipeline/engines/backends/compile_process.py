"""Steps that all backends share: collect what an engine depends on, and compile in a child process."""

from pathlib import Path

from pipeline.engines.backends.compile_request import CompileRequest
from pipeline.engines.onnx.declaration import EXPORT_HINT
from pipeline.engines.port import CompiledEngine, EngineCompiler, EngineJob, EngineSignature, OnProgress
from pipeline.errors import CompileError, ErrorKind
from pipeline.processes.framing import Message
from pipeline.processes.outcome import Died, Failed, Finished, Outcome, OutOfMemory, TimedOut
from store.backports import assert_never
from store.base.canonical_json import Document
from store.base.identity import engine_components
from store.runtime.backends.base import EngineLoadError, EngineRunError

_LOG_TAIL = 2_000
"""Characters of a log that go into a message; the journal keeps all of it."""


def compile_in_child(
    module: str,
    job: EngineJob,
    compiler: EngineCompiler,
    *,
    engine: Path,
    on_progress: OnProgress | None,
    grace_s: float = 0.0,
) -> CompiledEngine:
    """Compile a network in a child process of its own.

    Args:
        module: The child's module; it takes a `CompileRequest` and writes the engine.
        job: What to compile.
        compiler: The backend that asks.
        engine: Where the engine goes.
        on_progress: Called as the compiler reports.
        grace_s: Seconds that a cancelled child gets to end by itself.

    Raises:
        CompileError: Its kind distinguishes a failure, a crash, a lack of memory and a time-out.
    """
    from pipeline.processes.pool import run_once  # noqa: PLC0415 - step keys need no child

    request = CompileRequest(job=job, backend=compiler.backend, version=compiler.version, engine=engine)
    outcome = run_once(
        module, request.to_message(), timeout_s=job.timeout_s, on_progress=on_progress, grace_s=grace_s
    )
    finished = _require_finished(outcome, job.model)
    answer: Message = finished.value
    return CompiledEngine(
        path=engine,
        seconds=answer["seconds"],
        log=finished.log,
        signature=EngineSignature(
            input=job.input,
            input_shape=tuple(answer["input_shape"]),
            output=job.output,
            output_shape=tuple(answer["output_shape"]),
        ),
        timing_cache=answer.get("timing_cache"),
    )


def job_components(job: EngineJob, compiler: EngineCompiler, *, options: Document) -> Document:
    """Return everything that the engine of a job depends on; `options` are what its backend adds."""
    return engine_components(
        onnx_sha256=job.onnx_sha256,
        backend=compiler.backend,
        version=compiler.version,
        target=job.target,
        precision=job.precision,
        batch=job.batch,
        options=options,
    )


def eight_bit_options(job: EngineJob) -> Document:
    """Return the part of a step key's options that says how integers of 8 bits are computed, if there are any."""
    return {"eight_bit": "floats"} if job.quantized else {}


def open_batch_options(job: EngineJob) -> Document:
    """Return the part of a step key's options that says that one sample alone costs one sample, if it should."""
    return {"batch": "open"} if job.single else {}


def tensor_options(job: EngineJob) -> Document:
    """Return the part of a step key's options that says which tensors the engine has."""
    return {
        "role": job.role,
        "input": job.input,
        "output": job.output,
        "sample_shape": list(job.sample_shape),
    }


def refuse_plugins(job: EngineJob, backend: str) -> None:
    """Raise `CompileError` if a job names plug-ins, which this backend does not take."""
    if job.plugins:
        raise CompileError(
            f"expected no plug-ins for the backend {backend}, found {len(job.plugins)}",
            hint='remove engine.plugins, or choose engine.backend = "tensorrt"',
            subject=job.model,
        )


def _require_finished(outcome: Outcome, model: str) -> Finished:
    """Return the outcome of a child that answered; raise the `CompileError` of any other."""
    match outcome:
        case Finished():
            return outcome
        case Failed(kind="CompileError", fields=(str(message), str(hint), str(error_kind), _, subject)):
            raise CompileError(message, hint=hint, kind=ErrorKind(error_kind), subject=subject or model)
        case Failed():
            found = f", found that the compiler failed: {outcome.kind}: {outcome.message}"
            hint = "usual causes: an operator that the backend lacks, or a full disk"
            if outcome.kind in {EngineLoadError.__name__, EngineRunError.__name__}:
                hint = f"{EXPORT_HINT}, and leave its batch open or set engine.batch to the one that it fixes"
            kind = ErrorKind.COMPILE_FAILED
        case Died():
            found = f", found that {outcome.signal} ended the compiler"
            hint = "try another backend or library version"
            kind = ErrorKind.COMPILE_CRASHED
        case OutOfMemory():
            found = f", found that memory ran out: {outcome.message}"
            hint = "free memory, or lower engine.workspace_mb or engine.batch"
            kind = ErrorKind.COMPILE_OUT_OF_MEMORY
        case TimedOut():
            found = f" within {outcome.seconds:g} s, found none"
            hint = "raise engine.timeout_s"
            kind = ErrorKind.COMPILE_TIMEOUT
        case _:
            assert_never(outcome)
    log = outcome.log[-_LOG_TAIL:].strip()
    tail = f"; its log ends: {log}" if log else ""
    raise CompileError(f"expected an engine{found}{tail}", hint=hint, kind=kind, subject=model)
