"""TensorRT and TensorRT for RTX as engine backends.

TensorRT compiles for the GPU of this machine and no other. TensorRT for RTX compiles ahead of time for any GPU that it
lists, on machines without one too. Everything else is the same, so one class serves both; the work is done by a child
process, which imports the library.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from pipeline.engines.backends.compile_process import compile_in_child, tensors
from pipeline.engines.port import CompiledEngine, EngineJob, OnProgress
from pipeline.engines.precision.convert import conversion_document
from pipeline.errors import CompileError, ErrorKind
from pipeline.processes.framing import Payload
from store.base.canonical_json import Document
from store.base.identity import engine_components
from store.runtime.backends.gpu import PORTABLE, exact_target, gpu_runs, gpus
from store.runtime.backends.tensorrt_library import LibraryMissingError, cuda_major, library, library_version

_CHILD: Final = "pipeline.engines.backends.tensorrt_child"
_ENGINE_NAME: Final = "engine.plan"
_FAREWELL_S: Final = 10.0
"""Seconds that a build gets to end by itself when it is cancelled: a single step of it may take that long."""
_ORIN: Final = "sm87"
_NO_CAPABILITY: Final = frozenset({"none", "current"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Flavour:
    """One of the two libraries.

    Attributes:
        backend: Name of the backend.
        title: What its maker calls it.
        extra: Which extra of C10 brings it.
        keeps_timings: Whether it honours timing caches.
    """

    backend: str
    title: str
    extra: str
    keeps_timings: bool


TENSORRT: Final = Flavour(backend="tensorrt", title="TensorRT", extra="gpu", keeps_timings=True)
TENSORRT_RTX: Final = Flavour(
    backend="tensorrt-rtx", title="TensorRT for RTX", extra="rtx", keeps_timings=False
)


class TensorRtCompiler:
    """A backend whose engines run on NVIDIA GPUs, in the precision that the graph is given."""

    def __init__(self, flavour: Flavour) -> None:
        """Serve one of the two libraries, which is not looked for before it is needed."""
        self._flavour = flavour

    @property
    def backend(self) -> str:
        """The name "tensorrt" or "tensorrt-rtx"."""
        return self._flavour.backend

    @property
    def version(self) -> str:
        """Version of the installed library in four parts.

        Raises:
            CompileError: BACKEND_UNAVAILABLE, it is not installed.
        """
        try:
            return library_version(self.backend)
        except LibraryMissingError as error:
            raise self._missing(error) from error

    def target(self, requested: str | None) -> str:
        """Return the device to compile for.

        Of TensorRT for RTX "portable", or capabilities such as "sm86+sm89"; by default the one of this machine's GPU,
        or "portable" where the library knows none. Of TensorRT this machine's GPU, such as "sm87:Orin".

        Raises:
            CompileError: The backend does not compile for that device here; BACKEND_UNAVAILABLE, there is no GPU.
        """
        return self._exact(requested) if self.backend == "tensorrt" else self._listed(requested)

    def runs_here(self, target: str) -> bool:
        """Tell whether the first GPU of this machine runs engines for a target, and is all that the target means.

        An engine for several capabilities may fly on a GPU that is not here, so that it is treated as one for a
        device elsewhere: a stand-in embeds, and golden answers go with it.
        """
        wide = target == PORTABLE or "+" in target
        return not wide and any(gpu_runs(self.backend, target, gpu) for gpu in gpus()[:1])

    def key_components(self, job: EngineJob) -> Document:
        """Return everything the engine depends on.

        Raises:
            CompileError: An unknown precision, or the library is not installed.
        """
        profile = job.profile
        return engine_components(
            onnx_sha256=job.onnx_sha256,
            backend=self.backend,
            version=self.version,
            target=job.target,
            precision=job.precision,
            batch=job.batch,
            options={
                **tensors(job),
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

        When `on_progress` raises, or on an interrupt, the library is asked to cancel before the child is killed.
        """
        return compile_in_child(
            _CHILD,
            job,
            engine=scratch / _ENGINE_NAME,
            settings=self._settings(job),
            on_progress=on_progress,
            grace_s=_FAREWELL_S,
        )

    def _settings(self, job: EngineJob) -> Mapping[str, Payload]:
        profile = job.profile
        return {
            "backend": self.backend,
            "version": self.version,
            "precision": job.precision,
            "target": job.target,
            "workspace_mb": job.workspace_mb,
            "tf32": job.tf32,
            "profile": None if profile is None else [profile.min, profile.opt, profile.max],
            "plugins": [[str(path.absolute()), digest] for path, digest in job.plugins],
            "timing_cache": (job.timing_cache or b"") if self._flavour.keeps_timings else None,
            "preprocessing": job.preprocessing.to_document() if job.preprocessing else None,
            "least_cosine": job.least_cosine,
        }

    def _exact(self, requested: str | None) -> str:
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

    def _listed(self, requested: str | None) -> str:
        known = self._capabilities()
        if requested is None:
            here = next(iter(gpus()), None)
            return here.capability if here is not None and here.capability in known else PORTABLE
        wanted = sorted(set(requested.lower().split("+")), key=_by_number)
        if wanted == [PORTABLE]:
            return PORTABLE
        if _ORIN in wanted:
            raise CompileError(
                f"expected a target of {self._flavour.title}, found {requested!r}: engines for Orin are built on an Orin",
                hint='run this build there with engine.backend = "tensorrt"',
            )
        unknown = [name for name in wanted if name not in known]
        if unknown:
            raise CompileError(
                f"expected the target {PORTABLE!r} or some of {', '.join(known)} with + in between, found {requested!r}",
                hint=f'set engine.target = "{known[-1]}", or leave it out',
            )
        return "+".join(wanted)

    def _capabilities(self) -> list[str]:
        """Return the compute capabilities that the library compiles for, in rising order."""
        try:
            members = library(self.backend).ComputeCapability.__members__
        except LibraryMissingError as error:
            raise self._missing(error) from error
        names = (name.lower() for name in members)
        return sorted((name for name in names if name not in _NO_CAPABILITY), key=_by_number)

    def _missing(self, error: LibraryMissingError) -> CompileError:
        return CompileError(
            f"expected {self._flavour.title}, found none that works: {error}",
            hint=f"pip install 'c10[{self._flavour.extra}]', or set engine.backend = \"onnxruntime\"",
            kind=ErrorKind.BACKEND_UNAVAILABLE,
        )


tensorrt_compiler: Final = partial(TensorRtCompiler, TENSORRT)
tensorrt_rtx_compiler: Final = partial(TensorRtCompiler, TENSORRT_RTX)


def _by_number(capability: str) -> tuple[int, str]:
    digits = capability.removeprefix("sm")
    return int(digits) if digits.isdecimal() else 0, capability
