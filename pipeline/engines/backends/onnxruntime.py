"""ONNX Runtime as an engine backend: an ONNX graph optimised ahead of time for the CPU.

The optimisation level is EXTENDED: it always gives the same bytes, and they do not depend on the processor.
The level above inserts layouts for one processor family and gave different bytes for one network.

Networks that quantise are computed as they are written, in floats between their roundings. The library would
replace quantised operators by operators in 8 bits, and merge roundings that follow each other. Sums of 8-bit
products overflow on processors without VNNI: descriptors would be wrong there, and others on each kind of
processor.
"""

from pathlib import Path
from typing import Final

from pipeline.engines.backends.compile_process import (
    compile_in_child,
    eight_bit_options,
    job_components,
    open_batch_options,
    refuse_plugins,
    tensor_options,
)
from pipeline.engines.port import CompiledEngine, EngineJob, OnProgress
from pipeline.errors import CompileError, ErrorKind
from store.base.canonical_json import Document
from store.runtime.backends.onnxruntime import OnnxRuntime

_CHILD: Final = "pipeline.engines.backends.onnxruntime_child"
_ENGINE_NAME: Final = "engine.onnx"
_GPU: Final = '"tensorrt" or "tensorrt-rtx"'
_BACKENDS_BY_PRECISION: Final = {"bf16": f'"openvino", {_GPU}'}
"""Backends of precisions that others than those for GPUs offer too."""


class OnnxRuntimeCompiler:
    """The embedded default backend. Its engines run on any CPU, in fp32."""

    @property
    def backend(self) -> str:
        """The name "onnxruntime"."""
        return "onnxruntime"

    @property
    def version(self) -> str:
        """Version of the installed ONNX Runtime, without importing it."""
        version = OnnxRuntime().version()
        if version is None:
            raise CompileError(
                "expected the Python package 'onnxruntime', found none",
                hint="pip install 'c10[cpu]'",
                kind=ErrorKind.BACKEND_UNAVAILABLE,
            )
        return version

    def target(self, requested: str | None) -> str:
        """Return "cpu", the only device of this backend; refuse another."""
        if requested is not None and requested != "cpu":
            raise CompileError(
                f"expected the target 'cpu' for the backend onnxruntime, found {requested!r}",
                hint=f"leave engine.target out, or choose engine.backend = {_backend_of(requested)}",
            )
        return "cpu"

    def runs_here(self, target: str) -> bool:
        """Tell whether the target is "cpu": every machine has one."""
        return target == "cpu"

    def key_components(self, job: EngineJob) -> Document:
        """Return everything the engine depends on. This backend ignores workspace, TF32 and profile."""
        _check(job)
        options = {
            "level": "extended",
            **eight_bit_options(job),
            **open_batch_options(job),
            **tensor_options(job),
        }
        return job_components(job, self, options=options)

    def compile(
        self, job: EngineJob, *, scratch: Path, on_progress: OnProgress | None = None
    ) -> CompiledEngine:
        """Optimise the network in a child process; see `EngineCompiler.compile`."""
        _check(job)
        return compile_in_child(_CHILD, job, self, engine=scratch / _ENGINE_NAME, on_progress=on_progress)


def _backend_of(target: str) -> str:
    """Return the backend, quoted, whose targets look like this; those for GPUs share plain capabilities."""
    from store.runtime.backends.gpu import PORTABLE  # noqa: PLC0415 - for an error alone

    if target.startswith("cpu:"):
        return '"openvino"'
    if "+" in target or target == PORTABLE:
        return '"tensorrt-rtx"'
    return '"tensorrt"' if ":" in target else _GPU


def _check(job: EngineJob) -> None:
    refuse_plugins(job, "onnxruntime")
    if job.precision != "fp32":
        raise CompileError(
            f"expected the precision fp32 for the backend onnxruntime, found {job.precision!r}",
            hint=f'set engine.precision = "fp32", or choose engine.backend = {_BACKENDS_BY_PRECISION.get(job.precision, _GPU)}',
            subject=job.model,
        )
