"""Runs engines of TensorRT and of TensorRT for RTX on a GPU.

An engine's bytes reach the library only after everything that can be known without it was held against the manifest:
the library's version, all four parts; the version that the bytes themselves carry; the GPU; its free memory.

Batches go through two sets of buffers, two streams and one context. While one batch is computed on the one stream, the
next one is copied to the GPU and the one before is copied back on the other. Work queued on a stream runs in its
order; between the two, events say what must have happened:

- compute of a batch waits for its upload,
- download of a batch waits for its compute,
- before a set of buffers is filled again, this thread waits for the download of the batch that it last held. That
  download follows the compute, which follows the upload, so that nothing reads or writes the set any more.
"""

import contextlib
import math
import mmap
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Final

from store.runtime.backends.base import (
    EngineExpectation,
    EngineLoadError,
    EngineRunError,
    RuntimeUnavailableError,
    Source,
    Tensor,
    Untyped,
    Vectors,
    require_version,
    sample_shapes,
)
from store.runtime.backends.cuda import Cuda, CudaError
from store.runtime.backends.gpu import Gpu, first_gpu, gpu_runs, gpus
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

_LOG_LINES: Final = 8


class TensorRt:
    """The backend "tensorrt" or "tensorrt-rtx"; see `store.runtime.backends.base.BackendRuntime`."""

    def __init__(self, backend: str) -> None:
        self._backend = backend
        self.load: Final = partial(TensorRtExecutor, backend=backend)

    def version(self) -> str | None:
        """Return all four parts of it."""
        try:
            return library_version(self._backend)
        except LibraryMissingError:
            return None

    def runs(self, target: str) -> bool:
        """Tell whether the first GPU, the one that engines run on, is among those that the target means."""
        found = gpus()
        return bool(found) and gpu_runs(self._backend, target, found[0])

    def device(self) -> str:
        """Describe that GPU."""
        return first_gpu()


tensorrt: Final = partial(TensorRt, "tensorrt")
tensorrt_rtx: Final = partial(TensorRt, "tensorrt-rtx")


class TensorRtExecutor:
    """An engine of one of the two flavours of TensorRT, on the first GPU. Not for two threads at once."""

    def __init__(self, source: Source, expected: EngineExpectation, *, backend: str) -> None:
        module = _library(backend, expected.version)
        with _opened(source) as data:
            _require_header(backend, data, expected.version)
            gpu = _require_gpu(backend, expected.target)
            self._cuda = Cuda(gpu.index, extra=_EXTRAS[backend])
            # Whatever fails from here on, and however this object ends, gives all of it back.
            self._parts = _Parts(module)
            self.close = weakref.finalize(self, _release, self._cuda, self._parts)
            try:
                with _loading(backend):
                    self._load(data, gpu, expected)
            except BaseException:
                self.close()
                raise

    def execute_all(self, samples: Vectors, out: Vectors) -> None:
        """Run float32 [n, *sample_shape] into float32 [n, dimensions]; the last batch is filled up with zeros.

        Raises:
            EngineRunError: CUDA or the library failed.
        """
        try:
            self._cuda.enter()
            try:
                self._run(samples, out)
            except BaseException:
                # Nothing may be under way in buffers that the next call fills.
                self._cuda.drain(self._copying, self._computing)
                raise
        except CudaError as error:
            raise EngineRunError(
                f"the GPU failed while running: {error.message}",
                hint="restart the program; see dmesg for Xid",
            ) from error

    def _load(self, data: memoryview, gpu: Gpu, expected: EngineExpectation) -> None:
        self._require_memory(len(data), "the weights", gpu)
        self._parts.load(data)
        engine = self._parts.engine
        inputs, outputs = self._tensors(engine, expected.batch)
        self.sample_shape, self.dimensions = sample_shapes(inputs, outputs, expected, float_type="FLOAT")
        self._batch, self._input, self._output = expected.batch, expected.input, expected.output
        others = [tensor for tensor in outputs if tensor.name != expected.output]
        given, wanted = (self._batch, *self.sample_shape), (self._batch, self.dimensions)
        buffers = _SETS * 4 * (math.prod(given) + math.prod(wanted)) + sum(map(_size, others))
        self._require_memory(_activations(engine) + buffers, "activations and buffers", gpu)
        is_open = engine.get_tensor_shape(self._input)[0] != self._batch
        self._parts.make_context(is_open=is_open)
        if is_open:
            self._settle_batch(given)
        for tensor in others:
            self._address(tensor.name, self._cuda.device_memory(_size(tensor)))
        self._copying, self._computing = self._cuda.stream(), self._cuda.stream()
        self._sets = tuple(_Buffers.on(self._cuda, given, wanted) for _ in range(_SETS))

    def _settle_batch(self, given: tuple[int, ...]) -> None:
        """Choose the batch of an engine whose profile leaves it open, once and for all."""
        if not self._parts.context.set_input_shape(self._input, given):
            raise EngineLoadError(
                f"expected an engine that takes batches of {self._batch}, found: {self._parts.complaints()}",
                hint="build the cache again",
            )

    def _tensors(self, engine: Untyped, batch: int) -> tuple[list[Tensor], list[Tensor]]:
        """Return the inputs and the outputs; where an engine leaves its batch open, with the one that it will have."""
        names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
        found: tuple[list[Tensor], list[Tensor]] = ([], [])
        for name in names:
            declared = tuple(engine.get_tensor_shape(name))
            shape = (batch, *declared[1:]) if declared[:1] == (-1,) else declared
            tensor = Tensor(name=name, type=engine.get_tensor_dtype(name).name, shape=shape)
            found[engine.get_tensor_mode(name) != self._parts.library.TensorIOMode.INPUT].append(tensor)
        return found

    def _require_memory(self, size: int, what: str, gpu: Gpu) -> None:
        free = self._cuda.free_memory()
        if size + _SPARE > free:
            raise EngineLoadError(
                f"expected {size + _SPARE >> 20} MiB of free memory on {gpu.name} for {what}, found {free >> 20} MiB",
                hint="end other programs that use the GPU, or build with a smaller engine.batch",
            )

    def _run(self, samples: Vectors, out: Vectors) -> None:
        batches = -(-len(samples) // self._batch)
        for number in range(batches):
            buffers = self._sets[number % _SETS]
            if number >= _SETS:
                self._finish(number - _SETS, out)
            self._fill(buffers.samples, samples, number)
            self._cuda.upload(self._copying, buffers.samples, buffers.given)
            self._cuda.record(buffers.uploaded, self._copying)
            self._cuda.hold(self._computing, buffers.uploaded)
            self._compute(buffers)
            self._cuda.record(buffers.computed, self._computing)
            # Only now: queued before the upload, it would keep that waiting for the compute of the batch before.
            if number:
                self._download(number - 1)
        if batches:
            self._download(batches - 1)
        for number in range(max(0, batches - _SETS), batches):
            self._finish(number, out)

    def _fill(self, staged: Vectors, samples: Vectors, number: int) -> None:
        chunk = samples[number * self._batch : (number + 1) * self._batch]
        staged[: len(chunk)] = chunk
        staged[len(chunk) :] = 0

    def _compute(self, buffers: "_Buffers") -> None:
        self._address(self._input, buffers.given)
        self._address(self._output, buffers.made)
        if not self._parts.context.execute_async_v3(int(self._computing)):
            raise EngineRunError(f"expected the engine to run, found: {self._parts.complaints()}")

    def _address(self, name: str, address: int) -> None:
        if not self._parts.context.set_tensor_address(name, address):
            raise EngineRunError(
                f"expected tensor {name!r} to take its buffer, found: {self._parts.complaints()}"
            )

    def _download(self, number: int) -> None:
        buffers = self._sets[number % _SETS]
        self._cuda.hold(self._copying, buffers.computed)
        self._cuda.download(self._copying, buffers.made, buffers.vectors)
        self._cuda.record(buffers.downloaded, self._copying)

    def _finish(self, number: int, out: Vectors) -> None:
        buffers = self._sets[number % _SETS]
        self._cuda.wait(buffers.downloaded)
        rows = out[number * self._batch : (number + 1) * self._batch]
        rows[...] = buffers.vectors[: len(rows)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Buffers:
    """One set of buffers: page-locked ones, their twins on the device, and the events of its batch."""

    samples: Vectors
    vectors: Vectors
    given: int
    made: int
    uploaded: Untyped
    computed: Untyped
    downloaded: Untyped

    @classmethod
    def on(cls, cuda: Cuda, given: tuple[int, ...], wanted: tuple[int, ...]) -> "_Buffers":
        samples, vectors = cuda.host_array(given), cuda.host_array(wanted)
        return cls(
            samples=samples,
            vectors=vectors,
            given=cuda.device_memory(samples.nbytes),
            made=cuda.device_memory(vectors.nbytes),
            uploaded=cuda.event(),
            computed=cuda.event(),
            downloaded=cuda.event(),
        )


@dataclass(slots=True)
class _Parts:
    """The library's own objects, each of which must outlive the next."""

    library: ModuleType
    lines: list[str] = field(default_factory=list)
    logger: Untyped = None
    runtime: Untyped = None
    engine: Untyped = None
    config: Untyped = None
    context: Untyped = None

    def load(self, data: memoryview) -> None:
        """Make the engine.

        Raises:
            EngineLoadError: The library refuses it.
        """
        self.logger = _logger(self.library, self.lines)
        self.runtime = self.library.Runtime(self.logger)
        if self.runtime is None:
            raise EngineLoadError(f"expected a runtime, found: {self.complaints()}", hint="c10 doctor")
        self._require_validity(data)
        self.engine = self.runtime.deserialize_cuda_engine(data)
        if self.engine is None:
            raise EngineLoadError(
                f"expected an engine that {self.library.__name__} can load, found: {self.complaints()}",
                hint="c10 verify --full; or build again for this device",
            )

    def make_context(self, *, is_open: bool) -> None:
        """Make the context, which takes the memory for activations.

        Args:
            is_open: Whether the engine leaves its batch open. TensorRT for RTX then begins with kernels for any batch,
                compiles others for the one that it gets in the background, and changes over in the middle of the work:
                rows would depend on when they were made. So these are compiled first.

        Raises:
            EngineLoadError: The library refuses.
        """
        kinds = getattr(self.library, "DynamicShapesKernelSpecializationStrategy", None)
        if is_open and kinds is not None:
            self.config = config = self.engine.create_runtime_config()
            config.dynamic_shapes_kernel_specialization_strategy = kinds.EAGER
            self.context = self.engine.create_execution_context(runtime_config=config)
        else:
            self.context = self.engine.create_execution_context()
        if self.context is None:
            raise EngineLoadError(
                f"expected an execution context, found: {self.complaints()}",
                hint="end other programs that use the GPU, or build with a smaller engine.batch",
            )

    def complaints(self) -> str:
        """Return what the library said last."""
        return "; ".join(self.lines) or "nothing said"

    def release(self) -> None:
        """Let go of everything, the last made first."""
        self.context = self.config = self.engine = self.runtime = self.logger = None

    def _require_validity(self, data: memoryview) -> None:
        """Ask the flavour that can tell whether this engine is for this GPU; what it reads is the header alone."""
        if not hasattr(self.runtime, "get_engine_validity"):
            return
        verdict, reasons = self.runtime.get_engine_validity(data)
        if verdict == self.library.EngineValidity.INVALID:
            known = self.library.EngineInvalidityDiagnostics.__members__.items()
            names = [name for name, value in known if int(reasons) & int(value)]
            raise EngineLoadError(
                f"expected an engine for this GPU, found {' and '.join(names) or 'an invalid one'}: {self.complaints()}",
                hint="build the cache again for this GPU",
            )


def _release(cuda: Cuda, parts: _Parts) -> None:
    parts.release()
    cuda.close()


@contextlib.contextmanager
def _opened(source: Source) -> Iterator[memoryview]:
    """Give the bytes, mapped where they are a file."""
    if not isinstance(source, str):
        yield memoryview(source)
        return
    try:
        with Path(source).open("rb") as file:
            data: mmap.mmap | bytes = (
                mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) if file.seek(0, 2) else b""
            )
    except OSError as error:
        raise EngineLoadError(
            f"expected an engine, found {error.strerror}", hint="c10 verify --full"
        ) from error
    # Unmapped when the last view of it goes, which an error's traceback may hold for a while.
    yield memoryview(data)


@contextlib.contextmanager
def _loading(backend: str) -> Iterator[None]:
    """Tell of CUDA's failures, and of what the library raises, as failures to load."""
    try:
        yield
    except CudaError as error:
        hint = "end other programs that use the GPU" if error.memory else "c10 doctor"
        raise EngineLoadError(
            f"expected the GPU to take an engine of {backend}, found: {error.message}", hint=hint
        ) from error
    except EngineRunError as error:
        raise EngineLoadError(error.message, hint=error.hint) from error
    except (RuntimeError, TypeError, ValueError) as error:
        raise EngineLoadError(
            f"expected an engine that {backend} can load, found: {error}", hint="c10 verify --full"
        ) from error


def _library(backend: str, version: str) -> ModuleType:
    """Return the module of a backend, if it is of a version.

    Raises:
        RuntimeUnavailableError: It is not installed.
        EngineLoadError: It is of another version.
    """
    try:
        module, found = library(backend), loaded_version(backend)
    except LibraryMissingError as error:
        raise RuntimeUnavailableError(
            f"an engine of {backend}: {error}", hint=f"pip install 'c10[{_EXTRAS[backend]}]'"
        ) from error
    require_version(backend, found, version)
    return module


def _require_header(backend: str, data: memoryview, expected: str) -> None:
    found = engine_version(data)
    if found is not None and not same_version(found, expected):
        raise EngineLoadError(
            f"expected an engine made by {backend} {expected}, found bytes of {backend} {found}",
            hint="c10 verify --full; or build again",
        )


def _require_gpu(backend: str, target: str | None) -> Gpu:
    found = gpus()
    if not found:
        raise RuntimeUnavailableError(
            f"expected an NVIDIA GPU with its driver for an engine of {backend}, found none",
            hint="run it on the device that it was built for; c10 doctor tells what is seen here",
        )
    # Engines run on the first GPU: CUDA_VISIBLE_DEVICES chooses which one that is.
    if target is not None and not gpu_runs(backend, target, found[0]):
        raise EngineLoadError(
            f"expected a GPU for engines of {backend} with the target {target!r}, found {found[0]}",
            hint="build a cache for this device",
        )
    return found[0]


def _activations(engine: Untyped) -> int:
    """Return the bytes that a context takes; newer versions only know the second spelling."""
    size = getattr(engine, "device_memory_size_v2", None)
    return int(engine.device_memory_size if size is None else size)


def _size(tensor: Tensor) -> int:
    """Return enough bytes for a tensor of any type: none has more than eight to the number."""
    sizes = [size for size in tensor.shape if isinstance(size, int) and size >= 0]
    if len(sizes) != len(tensor.shape):
        raise EngineLoadError(f"expected output {tensor.name!r} of fixed sizes, found {list(tensor.shape)}")
    return 8 * math.prod(sizes)


def _logger(library: ModuleType, lines: list[str]) -> Untyped:
    """Return a logger of the library that keeps the last lines of what went wrong, and prints nothing."""
    worst = {library.ILogger.Severity.INTERNAL_ERROR, library.ILogger.Severity.ERROR}

    class Logger(library.ILogger):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            library.ILogger.__init__(self)

        def log(self, severity: Untyped, message: str) -> None:
            if severity in worst:
                lines.append(message.strip())
                del lines[:-_LOG_LINES]

    return Logger()
