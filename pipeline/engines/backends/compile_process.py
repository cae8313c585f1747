"""What every backend does alike around its compiling child: the request, the wait, and what comes back."""

from collections.abc import Mapping
from pathlib import Path
from typing import assert_never

from pipeline.engines.port import CompiledEngine, EngineJob, EngineSignature, OnProgress
from pipeline.errors import CompileError, ErrorKind
from pipeline.processes.framing import Message, Payload
from pipeline.processes.outcome import Died, Failed, Finished, Outcome, OutOfMemory, TimedOut
from store.base.canonical_json import Document


def compile_in_child(
    module: str,
    job: EngineJob,
    *,
    engine: Path,
    settings: Mapping[str, Payload],
    on_progress: OnProgress | None,
    grace_s: float = 0.0,
) -> CompiledEngine:
    """Compile a network in a child process of its own.

    Args:
        module: The child; it gets `settings` beside what the job says and writes the engine.
        job: What to compile.
        engine: Where the engine goes.
        settings: What this backend adds: its version, target, precision and the like.
        on_progress: Called as the compiler reports.
        grace_s: Seconds that a cancelled child gets to end by itself.

    Raises:
        CompileError: Its kind tells a failure from a crash, a lack of memory and a time-out.
    """
    from pipeline.engines.backends.compile_process import compiled  # noqa: PLC0415 - as above
    from pipeline.processes.pool import run_once  # noqa: PLC0415 - step keys need no child

    request: dict[str, Payload] = {
        "model": job.model,
        "role": job.role,
        "onnx": str(job.onnx.absolute()),
        "sha256": job.onnx_sha256,
        "input": job.input,
        "output": job.output,
        "sample_shape": list(job.sample_shape),
        "batch": job.batch,
        "engine": str(engine.absolute()),
        **settings,
    }
    outcome = run_once(module, request, timeout_s=job.timeout_s, on_progress=on_progress, grace_s=grace_s)
    finished = compiled(outcome, model=job.model)
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


def tensors(job: EngineJob) -> Document:
    """Return the part of a step key's options that says which tensors the engine has."""
    return {
        "role": job.role,
        "input": job.input,
        "output": job.output,
        "sample_shape": list(job.sample_shape),
    }


def refuse_plugins(job: EngineJob, backend: str) -> None:
    """Raise if a job names plug-ins.

    Raises:
        CompileError: It does.
    """
    if job.plugins:
        raise CompileError(
            f"expected no plug-ins for the backend {backend}, found {len(job.plugins)}",
            hint='remove engine.plugins, or choose engine.backend = "tensorrt"',
            subject=job.model,
        )


_TAIL = 2_000
"""Characters of a log that go into a message; the journal keeps all of it."""


def compiled(outcome: Outcome, *, model: str) -> Finished:
    """Return the outcome of a child that answered.

    Raises:
        CompileError: With the kind that the outcome stands for.
    """
    match outcome:
        case Finished():
            return outcome
        case Failed(kind="CompileError", fields=(str(message), str(hint), str(kind), _, subject)):
            raise CompileError(message, hint=hint, kind=ErrorKind(kind), subject=subject or model)
        case Failed(kind=kind, message=message, log=log):
            raise CompileError(
                f"expected an engine, found that the compiler failed: {kind}: {message}{_tail(log)}",
                hint="usual causes: an operator that the backend lacks, or a full disk",
                kind=ErrorKind.COMPILE_FAILED,
                subject=model,
            )
        case Died(signal=signal, log=log):
            raise CompileError(
                f"expected an engine, found that {signal} ended the compiler{_tail(log)}",
                hint="try another backend or library version",
                kind=ErrorKind.COMPILE_CRASHED,
                subject=model,
            )
        case OutOfMemory(message=message, log=log):
            raise CompileError(
                f"expected an engine, found that memory ran out: {message}{_tail(log)}",
                hint="free memory, or lower engine.workspace_mb or engine.batch",
                kind=ErrorKind.COMPILE_OUT_OF_MEMORY,
                subject=model,
            )
        case TimedOut(seconds=seconds, log=log):
            raise CompileError(
                f"expected an engine within {seconds:g} s, found none{_tail(log)}",
                hint="raise engine.timeout_s",
                kind=ErrorKind.COMPILE_TIMEOUT,
                subject=model,
            )
        case _:
            assert_never(outcome)


def _tail(log: str) -> str:
    return f"; its log ends: {log[-_TAIL:].strip()}" if log.strip() else ""
