"""OpenVINO as an engine backend: networks compiled for this machine's CPU and exported, to be imported later.

By itself the library computes in bfloat16 wherever the processor has it, which is several times as fast and
gives other numbers. So it is always given the precision: fp32 unless the request asks for bf16. Exported
engines are tied to the library's version and the processor's instruction set; both are in the key.
"""

from pathlib import Path
from typing import Final

from pipeline.engines.backends.compile_process import (
    compile_in_child,
    eight_bit_options,
    job_components,
    refuse_plugins,
    tensor_options,
)
from pipeline.engines.port import CompiledEngine, EngineJob, OnProgress
from pipeline.errors import CompileError, ErrorKind
from store.base.canonical_json import Document
from store.runtime.backends.base import EngineLoadError, RuntimeUnavailableError
from store.runtime.backends.openvino_library import (
    BACKEND,
    PRECISIONS,
    cpu_target,
    has_bfloat16,
    library,
    library_version,
    numerics,
)

_CHILD: Final = "pipeline.engines.backends.openvino_child"
_ENGINE_NAME: Final = "engine.blob"
_ANY_CPU: Final = "cpu"


class OpenVinoCompiler:
    """Compiles for the CPU of this machine, in fp32 or bf16."""

    @property
    def backend(self) -> str:
        """The name "openvino"."""
        return BACKEND

    @property
    def version(self) -> str:
        """Version of the installed OpenVINO, without importing it."""
        try:
            return library_version()
        except RuntimeUnavailableError as error:
            raise _unavailable(error) from error

    def target(self, requested: str | None) -> str:
        """Return this processor's instruction set, such as "cpu:Intel AVX2"; "cpu" asks for it too."""
        try:
            here = cpu_target()
        except (RuntimeUnavailableError, EngineLoadError) as error:
            raise _unavailable(error) from error
        if requested not in {None, _ANY_CPU, here}:
            raise CompileError(
                f"expected the target 'cpu' for the backend openvino, which on this machine is {here!r}, found "
                f"{requested!r}",
                hint="leave engine.target out, or build on a machine of that kind",
            )
        return here

    def runs_here(self, target: str) -> bool:
        """Tell whether the target is this processor's instruction set."""
        return target == self.target(None)

    def key_components(self, job: EngineJob) -> Document:
        """Return everything the engine depends on. This backend ignores workspace, TF32 and profile."""
        _check(job)
        return job_components(
            job,
            self,
            options={
                "settings": numerics(job.precision, quantized=job.quantized),
                **eight_bit_options(job),
                **tensor_options(job),
            },
        )

    def compile(
        self, job: EngineJob, *, scratch: Path, on_progress: OnProgress | None = None
    ) -> CompiledEngine:
        """Compile and export in a child process; see `EngineCompiler.compile`."""
        _check(job)
        return compile_in_child(_CHILD, job, self, engine=scratch / _ENGINE_NAME, on_progress=on_progress)


def _check(job: EngineJob) -> None:
    refuse_plugins(job, "openvino")
    if job.precision not in PRECISIONS:
        raise CompileError(
            f"expected the precision {' or '.join(PRECISIONS)} for the backend openvino, found {job.precision!r}",
            hint='set engine.precision = "fp32" or "bf16", or choose engine.backend = "tensorrt"',
            subject=job.model,
        )
    if job.precision == "bf16":
        _require_bfloat16(job.model)


def _require_bfloat16(model: str) -> None:
    try:
        present = has_bfloat16(library())
    except RuntimeUnavailableError as error:
        raise _unavailable(error) from error
    if not present:
        raise CompileError(
            "expected a processor that computes in bfloat16, found one that does not: OpenVINO would compute in float32 "
            "and give other descriptors",
            hint='set engine.precision = "fp32"',
            subject=model,
        )


def _unavailable(error: RuntimeUnavailableError | EngineLoadError) -> CompileError:
    return CompileError(error.message, hint=error.hint, kind=ErrorKind.BACKEND_UNAVAILABLE)
