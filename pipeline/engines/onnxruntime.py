"""ONNX Runtime as an engine backend: an ONNX graph optimised ahead of time for the CPU.

The optimisation level is EXTENDED: it gives the same bytes every time and nothing in them depends on the processor.
The level above inserts layouts for one processor family and was seen to give different bytes for one network.
"""

import importlib.metadata
from pathlib import Path
from typing import Final

from pipeline.children import run_once
from pipeline.engines.outcomes import compiled
from pipeline.engines.port import CompiledEngine, EngineJob, EngineSignature, OnProgress
from pipeline.errors import CompileError, ErrorKind
from pipeline.frames import Message, Payload
from store.canonical import Document
from store.identity import engine_components

_CHILD: Final = "pipeline.engines.onnxruntime_child"
_ENGINE_NAME: Final = "engine.onnx"
_DISTRIBUTIONS: Final = ("onnxruntime", "onnxruntime-gpu")


class OnnxRuntimeCompiler:
    """The embedded default backend. Its engines run on any CPU, in fp32."""

    @property
    def backend(self) -> str:
        """The name "onnxruntime"."""
        return "onnxruntime"

    @property
    def version(self) -> str:
        """Version of the installed ONNX Runtime, without importing it.

        Raises:
            CompileError: BACKEND_UNAVAILABLE, it is not installed.
        """
        for name in _DISTRIBUTIONS:
            try:
                return importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
        raise CompileError(
            "expected the Python package 'onnxruntime', found none",
            "pip install 'c10[cpu]'",
            ErrorKind.BACKEND_UNAVAILABLE,
        )

    def target(self, requested: str | None) -> str:
        """Return "cpu", the only device of this backend.

        Raises:
            CompileError: Another device was requested.
        """
        if requested not in {None, "cpu"}:
            raise CompileError(
                f"expected the target 'cpu' for the backend onnxruntime, found {requested!r}",
                'leave engine.target out, or choose engine.backend = "tensorrt"',
            )
        return "cpu"

    def runs_here(self, target: str) -> bool:
        """Tell whether the target is "cpu": every machine has one."""
        return target == "cpu"

    def key_components(self, job: EngineJob) -> Document:
        """Return everything the engine depends on. Workspace, TF32 and profile mean nothing to this backend.

        Raises:
            CompileError: A precision other than fp32.
        """
        _check(job)
        return engine_components(
            onnx_sha256=job.onnx_sha256,
            backend=self.backend,
            version=self.version,
            target=job.target,
            precision=job.precision,
            batch=job.batch,
            options={
                "level": "extended",
                "role": job.role,
                "input": job.input,
                "output": job.output,
                "sample_shape": list(job.sample_shape),
            },
        )

    def compile(
        self, job: EngineJob, *, scratch: Path, on_progress: OnProgress | None = None
    ) -> CompiledEngine:
        """Optimise the network in a child process; see `EngineCompiler.compile`."""
        _check(job)
        path = scratch / _ENGINE_NAME
        request: dict[str, Payload] = {
            "onnx": str(job.onnx.absolute()),
            "sha256": job.onnx_sha256,
            "version": self.version,
            "role": job.role,
            "input": job.input,
            "output": job.output,
            "sample_shape": list(job.sample_shape),
            "batch": job.batch,
            "model": job.model,
            "engine": str(path.absolute()),
        }
        outcome = run_once(_CHILD, request, timeout_s=job.timeout_s, on_progress=on_progress)
        finished = compiled(outcome, model=job.model)
        answer: Message = finished.value
        return CompiledEngine(
            path=path,
            seconds=answer["seconds"],
            log=finished.log,
            signature=EngineSignature(
                input=job.input,
                input_shape=tuple(answer["input_shape"]),
                output=job.output,
                output_shape=tuple(answer["output_shape"]),
            ),
        )


def _check(job: EngineJob) -> None:
    if job.plugins:
        raise CompileError(
            f"expected no plug-ins for the backend onnxruntime, found {len(job.plugins)}",
            'remove engine.plugins, or choose engine.backend = "tensorrt"',
            None,
            None,
            job.model,
        )
    if job.precision != "fp32":
        raise CompileError(
            f"expected the precision fp32 for the backend onnxruntime, found {job.precision!r}",
            'set engine.precision = "fp32", or choose engine.backend = "tensorrt"',
            None,
            None,
            job.model,
        )
