"""TensorRT and TensorRT for RTX as engine backends.

TensorRT compiles for the GPU of this machine only. TensorRT for RTX compiles ahead of time for any GPU that
it lists, also on machines without one. The rest is the same, so one class serves both. A child process
imports the library and does the work.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from pipeline.engines.backends.compile_process import (
    compile_in_child,
    job_components,
    open_batch_options,
    tensor_options,
)
from pipeline.engines.port import CompiledEngine, EngineJob, OnProgress
from pipeline.engines.precision.convert import conversion_document
from pipeline.errors import CompileError, ErrorKind
from store.base.canonical_json import Document
from store.base.valueclass import valueclass
from store.runtime.backends.gpu import PORTABLE, exact_target, gpu_runs, gpus
from store.runtime.backends.tensorrt_library import LibraryMissingError, cuda_major, library, library_version

_CHILD: Final = "pipeline.engines.backends.tensorrt_child"
_ENGINE_NAME: Final = "engine.plan"
_GRACE_S: Final = 10.0
"""Seconds that a cancelled build gets to end by itself: one step of it may take that long."""
_ORIN: Final = "sm87"
_NO_CAPABILITY: Final = frozenset({"none", "current"})
_OPEN_BATCH_FAILS: Final = frozenset(
    {ErrorKind.BAD_MODEL, ErrorKind.COMPILE_FAILED, ErrorKind.COMPILE_CRASHED}
)
"""How the compile of a network for one sample too ends, if it works at a fixed batch alone."""


@valueclass(frozen=True, slots=True, kw_only=True)
class TensorRtProduct:
    """One of the two libraries.

    Attributes:
        backend: Name of the backend.
        title: Its maker's name for it.
        extra: The extra of C10 that installs it.
        keeps_timings: Whether it uses timing caches.
    """

    backend: str
    title: str
    extra: str
    keeps_timings: bool


TENSORRT: Final = TensorRtProduct(backend="tensorrt", title="TensorRT", extra="gpu", keeps_timings=True)
TENSORRT_RTX: Final = TensorRtProduct(
    backend="tensorrt-rtx", title="TensorRT for RTX", extra="rtx", keeps_timings=False
)


class TensorRtCompiler:
    """A backend whose engines run on NVIDIA GPUs, in the precision that the graph is given."""

    def __init__(self, product: TensorRtProduct) -> None:
        """Choose the library; it is loaded when it is first needed."""
        self._product = product

    @property
    def backend(self) -> str:
        """The name "tensorrt" or "tensorrt-rtx"."""
        return self._product.backend

    @property
    def version(self) -> str:
        """Version of the installed library in four parts."""
        try:
            return library_version(self.backend)
        except LibraryMissingError as error:
            raise self._missing(error) from error

    def target(self, requested: str | None) -> str:
        """Return the device to compile for.

        For TensorRT it is this machine's GPU, such as "sm87:Orin". For TensorRT for RTX it is "portable" or
        some capabilities, such as "sm86+sm89"; by default that of this machine's GPU if the library knows it,
        else "portable".
        """
        return self._own_gpu(requested) if self.backend == "tensorrt" else self._capabilities(requested)

    def runs_here(self, target: str) -> bool:
        """Tell whether a target names one kind of GPU, and this machine's first GPU is of that kind.

        An engine for several capabilities may fly on a GPU that is not here. So it counts as one for a device
        elsewhere: a stand-in embeds, and golden vectors are stored with it.
        """
        several = target == PORTABLE or "+" in target
        return not several and any(gpu_runs(self.backend, target, gpu) for gpu in gpus()[:1])

    def key_components(self, job: EngineJob) -> Document:
        """Return everything the engine depends on."""
        profile = job.profile
        return job_components(
            job,
            self,
            options={
                **open_batch_options(job),
                **tensor_options(job),
                "profile": None
                if profile is None
                else {"min": list(profile.min), "opt": list(profile.opt), "max": list(profile.max)},
                "typing": "strong",
                "tf32": job.tf32,
                "workspace_mb": job.workspace_mb,
                "plugins": sorted(digest for _, digest in job.plugins),
                "cuda": cuda_major(self.backend),
                "conversion": conversion_document(job.precision),
            },
        )

    def compile(
        self, job: EngineJob, *, scratch: Path, on_progress: OnProgress | None = None
    ) -> CompiledEngine:
        """Compile in a child process; see `EngineCompiler.compile`.

        When `on_progress` raises, or on an interrupt, the library is asked to cancel before the child is
        killed.

        Some networks work at a fixed batch alone, which they say nowhere: they are compiled for that.
        """
        timing_cache = (job.timing_cache or b"") if self._product.keeps_timings else None
        job = replace(job, timing_cache=timing_cache)
        try:
            return self._compile(job, scratch, on_progress)
        except CompileError as error:
            if not job.single or error.kind not in _OPEN_BATCH_FAILS:
                raise
            first = error
        try:
            fixed = self._compile(replace(job, single=False), scratch, on_progress)
        except CompileError as error:
            if error.message != first.message:
                error.message += f"; before that, for any batch: {first.message}"
            raise
        return replace(fixed, log=f"compiled for batches of {job.batch} alone: {first.message}\n{fixed.log}")

    def _compile(self, job: EngineJob, scratch: Path, on_progress: OnProgress | None) -> CompiledEngine:
        return compile_in_child(
            _CHILD,
            job,
            self,
            engine=scratch / _ENGINE_NAME,
            on_progress=on_progress,
            grace_s=_GRACE_S,
        )

    def _own_gpu(self, requested: str | None) -> str:
        here = next(iter(gpus()), None)
        if here is None:
            raise CompileError(
                "expected an NVIDIA GPU, for which alone TensorRT compiles, found none that CUDA and the Python package "
                "cuda-python show",
                hint='build on the device that flies, or set engine.backend = "tensorrt-rtx" for RTX GPUs, or "onnxruntime"',
                kind=ErrorKind.BACKEND_UNAVAILABLE,
            )
        own = exact_target(here)
        if requested not in {None, own, here.capability}:
            raise CompileError(
                f"expected the target {own!r}, this machine's GPU, found {requested!r}: TensorRT compiles for no other",
                hint="build on that device, or leave engine.target out",
            )
        return own

    def _capabilities(self, requested: str | None) -> str:
        known = self._known_capabilities()
        if requested is None:
            here = next(iter(gpus()), None)
            return here.capability if here is not None and here.capability in known else PORTABLE
        wanted = sorted(set(requested.lower().split("+")), key=_sort_key)
        if wanted == [PORTABLE]:
            return PORTABLE
        if _ORIN in wanted:
            raise CompileError(
                f"expected a target of {self._product.title}, found {requested!r}: engines for Orin are built on an Orin",
                hint='run this build there with engine.backend = "tensorrt"',
            )
        unknown = [name for name in wanted if name not in known]
        if unknown:
            raise CompileError(
                f"expected the target {PORTABLE!r} or some of {', '.join(known)} with + in between, found {requested!r}",
                hint=f'set engine.target = "{known[-1]}", or leave it out',
            )
        return "+".join(wanted)

    def _known_capabilities(self) -> list[str]:
        """Return the compute capabilities that the library compiles for, in rising order."""
        try:
            members = library(self.backend).ComputeCapability.__members__
        except LibraryMissingError as error:
            raise self._missing(error) from error
        names = (name.lower() for name in members)
        return sorted((name for name in names if name not in _NO_CAPABILITY), key=_sort_key)

    def _missing(self, error: LibraryMissingError) -> CompileError:
        return CompileError(
            f"expected {self._product.title}, found none that works: {error}",
            hint=f"pip install 'c10[{self._product.extra}]', or set engine.backend = \"onnxruntime\"",
            kind=ErrorKind.BACKEND_UNAVAILABLE,
        )


tensorrt_compiler: Final = partial(TensorRtCompiler, TENSORRT)
tensorrt_rtx_compiler: Final = partial(TensorRtCompiler, TENSORRT_RTX)


def _sort_key(capability: str) -> tuple[int, str]:
    digits = capability.removeprefix("sm")
    return int(digits) if digits.isdecimal() else 0, capability
