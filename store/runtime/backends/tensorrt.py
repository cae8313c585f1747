"""Run engines of TensorRT and of TensorRT for RTX on a GPU.

An engine's bytes reach the library only after all other checks against the manifest: all four parts of the
library's version, the version in the bytes themselves, the GPU, its free memory.

Batches go through two sets of buffers, two streams and one context. While one stream computes a batch, the
other copies the next one to the GPU and the one before back. A stream runs its work in order; between the
two, events keep the order:

- the computing of a batch waits for its upload,
- the download of a batch waits for its computing,
- before a set of buffers is filled again, this thread waits for the download of its last batch. That download
  comes after computing and upload, so that nothing reads or writes the set any more.
"""

import contextlib
import math
import mmap
import weakref
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Final

from store.base.valueclass import valueclass
from store.errors import CacheUnusableError, ErrorKind
from store.runtime.backends import base
from store.runtime.backends.cuda import Cuda, CudaError
from store.runtime.backends.gpu import Gpu, first_gpu, gpu_runs, gpus
from store.runtime.backends.tensorrt_engine import TensorRtEngine
from store.runtime.backends.tensorrt_library import (
    LibraryMissingError,
    engine_version,
    library,
    library_version,
    loaded_version,
    same_version,
)

_EXTRAS: Final = {"tensorrt": "gpu", "tensorrt-rtx": "rtx"}
"""Backend to the extra that brings its library."""

_SETS: Final = 2
_SPARE: Final = 64 << 20
"""Bytes of GPU memory that are left to others."""


class TensorRt:
    """The backend "tensorrt" or "tensorrt-rtx"; see `store.runtime.backends.base.BackendRuntime`."""

    def __init__(self, backend: str) -> None:
        self._backend = backend
        self.load: Final = partial(TensorRtExecutor, backend=backend)

    def version(self) -> str | None:
        """Return all four parts of the version that is installed."""
        try:
            return library_version(self._backend)
        except LibraryMissingError:
            return None

    def runs(self, target: str) -> bool:
        """Whether the first GPU, on which engines run, is one of the target."""
        found = gpus()
        return bool(found) and gpu_runs(self._backend, target, found[0])

    def device(self) -> str:
        """Describe the first GPU."""
        return first_gpu()


tensorrt: Final = partial(TensorRt, "tensorrt")
tensorrt_rtx: Final = partial(TensorRt, "tensorrt-rtx")


class TensorRtExecutor:
    """An engine of TensorRT or TensorRT for RTX on the first GPU. Not for two threads at once."""

    def __init__(self, source: base.Source, expected: base.EngineExpectation, *, backend: str) -> None:
        module = _require_library(backend, expected.version)
        with _open_bytes(source) as data:
            _require_header(backend, data, expected.version)
            gpu = _require_gpu(backend, expected.target)
            self._cuda = Cuda(gpu.index, extra=_EXTRAS[backend])
            # Whatever fails from here on, and however this object ends, all memory is released.
            self._engine = TensorRtEngine(module)
            self.close = weakref.finalize(self, _release, self._cuda, self._engine)
            try:
                with _load_errors(backend):
                    self._load(data, gpu, expected)
            except BaseException:
                self.close()
                raise

    def execute_all(self, samples: base.Vectors, out: base.Vectors) -> None:
        """Run float32 [n, *sample_shape] into float32 [n, dimensions]; fill up the last batch with zeros.

        Raises:
            base.EngineRunError: CUDA or the library failed.
        """
        try:
            self._cuda.use_device()
            try:
                self._run(samples, out)
            except BaseException:
                # No copy may be running when the next call fills the buffers.
                self._cuda.synchronize_streams(self._copying, self._computing)
                raise
        except CudaError as error:
            if error.memory:
                raise _shortage(f"expected enough memory of the GPU, found: {error.message}") from error
            raise base.EngineRunError(
                f"the GPU failed while running: {error.message}",
                hint="restart the program; see dmesg for Xid",
            ) from error

    def _load(self, data: memoryview, gpu: Gpu, expected: base.EngineExpectation) -> None:
        self._require_memory(len(data), "the weights", gpu)
        self._engine.load(data)
        inputs, outputs = self._engine.tensors(expected.batch)
        self.sample_shape, self.dimensions = base.sample_shapes(inputs, outputs, expected, float_type="FLOAT")
        self._input, self._output = expected.input, expected.output
        of_one = self._engine.profile_of_one(self._input)
        self.takes_any_batch = of_one is not None
        self._batch, profile = (expected.batch, 0) if of_one is None or not expected.single else (1, of_one)
        others = [tensor for tensor in outputs if tensor.name != expected.output]
        input_shape, output_shape = (self._batch, *self.sample_shape), (self._batch, self.dimensions)
        numbers = _SETS * (math.prod(input_shape) + math.prod(output_shape))
        buffers = 4 * numbers + sum(map(_tensor_bytes, others))
        self._require_memory(self._engine.activation_bytes() + buffers, "activations and buffers", gpu)
        self._copying, self._computing = self._cuda.stream(), self._cuda.stream()
        self._engine.make_context(self._input, input_shape, profile=profile, stream=self._computing)
        for tensor in others:
            self._engine.set_address(tensor.name, self._cuda.device_memory(_tensor_bytes(tensor)))
        self._sets = tuple(_Buffers.on(self._cuda, input_shape, output_shape) for _ in range(_SETS))

    def _require_memory(self, size: int, what: str, gpu: Gpu) -> None:
        free = self._cuda.free_memory()
        if size + _SPARE > free:
            raise _shortage(
                f"expected {size + _SPARE >> 20} MiB of free memory on {gpu.name} for {what}, found {free >> 20} MiB"
            )

    def _run(self, samples: base.Vectors, out: base.Vectors) -> None:
        batches = -(-len(samples) // self._batch)
        for number in range(batches):
            buffers = self._sets[number % _SETS]
            if number >= _SETS:
                self._finish(number - _SETS, out)
            self._fill(buffers.samples, samples, number)
            self._cuda.upload(self._copying, buffers.samples, buffers.device_samples)
            self._cuda.record(buffers.uploaded, self._copying)
            self._cuda.stream_wait_event(self._computing, buffers.uploaded)
            self._compute(buffers)
            self._cuda.record(buffers.computed, self._computing)
            # Only now: queued before the upload, it would delay that until the batch before is computed.
            if number:
                self._download(number - 1)
        if batches:
            self._download(batches - 1)
        for number in range(max(0, batches - _SETS), batches):
            self._finish(number, out)

    def _fill(self, staged: base.Vectors, samples: base.Vectors, number: int) -> None:
        chunk = samples[number * self._batch : (number + 1) * self._batch]
        staged[: len(chunk)] = chunk
        staged[len(chunk) :] = 0

    def _compute(self, buffers: "_Buffers") -> None:
        self._engine.set_address(self._input, buffers.device_samples)
        self._engine.set_address(self._output, buffers.device_vectors)
        self._engine.enqueue(self._computing)

    def _download(self, number: int) -> None:
        buffers = self._sets[number % _SETS]
        self._cuda.stream_wait_event(self._copying, buffers.computed)
        self._cuda.download(self._copying, buffers.device_vectors, buffers.vectors)
        self._cuda.record(buffers.downloaded, self._copying)

    def _finish(self, number: int, out: base.Vectors) -> None:
        buffers = self._sets[number % _SETS]
        self._cuda.synchronize_event(buffers.downloaded)
        rows = out[number * self._batch : (number + 1) * self._batch]
        rows[...] = buffers.vectors[: len(rows)]


@valueclass(frozen=True, slots=True, kw_only=True)
class _Buffers:
    """One set of buffers: page-locked arrays, device memory of the same sizes, events of its batch."""

    samples: base.Vectors
    vectors: base.Vectors
    device_samples: int
    device_vectors: int
    uploaded: base.Untyped
    computed: base.Untyped
    downloaded: base.Untyped

    @classmethod
    def on(cls, cuda: Cuda, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> "_Buffers":
        samples, vectors = cuda.host_array(input_shape), cuda.host_array(output_shape)
        return cls(
            samples=samples,
            vectors=vectors,
            device_samples=cuda.device_memory(samples.nbytes),
            device_vectors=cuda.device_memory(vectors.nbytes),
            uploaded=cuda.event(),
            computed=cuda.event(),
            downloaded=cuda.event(),
        )


def _release(cuda: Cuda, engine: TensorRtEngine) -> None:
    engine.release()
    cuda.close()


@contextlib.contextmanager
def _open_bytes(source: base.Source) -> Iterator[memoryview]:
    """Yield the bytes; those of a file are mapped."""
    if not isinstance(source, str):
        yield memoryview(source)
        return
    try:
        with Path(source).open("rb") as file:
            data: mmap.mmap | bytes = (
                mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) if file.seek(0, 2) else b""
            )
    except OSError as error:
        raise base.EngineLoadError(
            f"expected an engine, found {error.strerror}", hint="c10 verify --full"
        ) from error
    # The file is unmapped with its last view, which an error's traceback may hold for a while.
    yield memoryview(data)


@contextlib.contextmanager
def _load_errors(backend: str) -> Iterator[None]:
    """Turn errors of CUDA and of the library into `EngineLoadError`, unless memory of the GPU is short."""
    try:
        yield
    except CudaError as error:
        found = f"expected the GPU to take an engine of {backend}, found: {error.message}"
        if error.memory:
            raise _shortage(found) from error
        raise base.EngineLoadError(found, hint="c10 doctor") from error
    except base.EngineRunError as error:
        raise base.EngineLoadError(error.message, hint=error.hint) from error
    except (RuntimeError, TypeError, ValueError) as error:
        raise base.EngineLoadError(
            f"expected an engine that {backend} can load, found: {error}", hint="c10 verify --full"
        ) from error


def _shortage(message: str) -> CacheUnusableError:
    return CacheUnusableError(
        message,
        kind=ErrorKind.RESOURCES,
        hint="end other programs that use the GPU, or build with a smaller engine.batch",
    )


def _require_library(backend: str, version: str) -> ModuleType:
    try:
        module, found = library(backend), loaded_version(backend)
    except LibraryMissingError as error:
        raise base.RuntimeUnavailableError(
            f"an engine of {backend}: {error}", hint=f"pip install 'c10[{_EXTRAS[backend]}]'"
        ) from error
    base.require_version(backend, found, version)
    return module


def _require_header(backend: str, data: memoryview, expected: str) -> None:
    found = engine_version(data)
    if found is not None and not same_version(found, expected):
        raise base.EngineLoadError(
            f"expected an engine made by {backend} {expected}, found bytes of {backend} {found}",
            hint="c10 verify --full; or build again",
        )


def _require_gpu(backend: str, target: str | None) -> Gpu:
    found = gpus()
    if not found:
        raise base.RuntimeUnavailableError(
            f"expected an NVIDIA GPU with its driver for an engine of {backend}, found none",
            hint="run it on the device that it was built for; c10 doctor shows the devices here",
        )
    # Engines run on the first GPU: CUDA_VISIBLE_DEVICES chooses which one that is.
    if target is not None and not gpu_runs(backend, target, found[0]):
        raise base.EngineLoadError(
            f"expected a GPU for engines of {backend} with the target {target!r}, found {found[0]}",
            hint="build a cache for this device",
        )
    return found[0]


def _tensor_bytes(tensor: base.Tensor) -> int:
    """Return enough bytes for a tensor of any type: no type has more than eight per number."""
    sizes = [size for size in tensor.shape if isinstance(size, int) and size >= 0]
    if len(sizes) != len(tensor.shape):
        raise base.EngineLoadError(
            f"expected output {tensor.name!r} of fixed sizes, found {list(tensor.shape)}"
        )
    return 8 * math.prod(sizes)
