"""What every backend does alike around its compiling child: the request, the wait, and what comes back."""

from collections.abc import Mapping
from pathlib import Path

from pipeline.engines.port import CompiledEngine, EngineJob, EngineSignature, OnProgress
from pipeline.errors import CompileError
from pipeline.processes.framing import Message, Payload
from store.base.canonical_json import Document


def compile_in_child(
    module: str,
    job: EngineJob,
    *,
    engine: Path,
    settings: Mapping[str, Payload],
    on_progress: OnProgress | None,
    farewell_s: float = 0.0,
) -> CompiledEngine:
    """Compile a network in a child process of its own.

    Args:
        module: The child; it gets `settings` beside what the job says and writes the engine.
        job: What to compile.
        engine: Where the engine goes.
        settings: What this backend adds: its version, target, precision and the like.
        on_progress: Called as the compiler reports.
        farewell_s: Seconds that a cancelled child gets to end by itself.

    Raises:
        CompileError: Its kind tells a failure from a crash, a lack of memory and a time-out.
    """
    from pipeline.engines.outcomes import compiled  # noqa: PLC0415 - as above
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
    outcome = run_once(
        module, request, timeout_s=job.timeout_s, on_progress=on_progress, farewell_s=farewell_s
    )
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
            'remove engine.plugins, or choose engine.backend = "tensorrt"',
            None,
            None,
            job.model,
        )
