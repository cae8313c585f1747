"""Hold one engine of TensorRT or TensorRT for RTX: the objects of the library, and what is asked of them."""

from dataclasses import dataclass, field
from types import ModuleType
from typing import Final

from store.runtime.backends.base import EngineLoadError, EngineRunError, Tensor, Untyped

_LOG_LINES: Final = 8
_OPEN: Final = -1
"""Stands for an open size in a shape."""


@dataclass(slots=True)
class TensorRtEngine:
    """The library's objects, each of which must outlive the next.

    If the library refuses, `load` and `make_context` raise `EngineLoadError`, all else `EngineRunError`.
    """

    library: ModuleType
    errors: list[str] = field(default_factory=list)
    logger: Untyped = None
    runtime: Untyped = None
    engine: Untyped = None
    config: Untyped = None
    context: Untyped = None

    def load(self, data: memoryview) -> None:
        """Create the engine."""
        self.logger = _logger(self.library, self.errors)
        self.runtime = self.library.Runtime(self.logger)
        if self.runtime is None:
            raise EngineLoadError(f"expected a runtime, found: {self.last_errors()}", hint="c10 doctor")
        self._require_valid(data)
        self.engine = self.runtime.deserialize_cuda_engine(data)
        if self.engine is None:
            raise EngineLoadError(
                f"expected an engine that {self.library.__name__} can load, found: {self.last_errors()}",
                hint="c10 verify --full; or build again for this device",
            )

    def tensors(self, batch: int) -> tuple[list[Tensor], list[Tensor]]:
        """Return the inputs and the outputs; an open batch gets the given size."""
        names = [self.engine.get_tensor_name(number) for number in range(self.engine.num_io_tensors)]
        found: tuple[list[Tensor], list[Tensor]] = ([], [])
        for name in names:
            declared = tuple(self.engine.get_tensor_shape(name))
            shape = (batch, *declared[1:]) if declared[:1] == (_OPEN,) else declared
            tensor = Tensor(name=name, type=self.engine.get_tensor_dtype(name).name, shape=shape)
            found[self.engine.get_tensor_mode(name) != self.library.TensorIOMode.INPUT].append(tensor)
        return found

    def profile_of_one(self, name: str) -> int | None:
        """Return the number of the optimisation profile that is for one sample alone, None without one."""
        if self.engine.get_tensor_shape(name)[0] != _OPEN:
            return None
        for number in range(self.engine.num_optimization_profiles):
            _, _, most = self.engine.get_tensor_profile_shape(name, number)
            if most[0] == 1:
                return number
        return None

    def activation_bytes(self) -> int:
        """Return the bytes that a context takes, which serve each of its optimisation profiles.

        Newer versions have only the second attribute.
        """
        size = getattr(self.engine, "device_memory_size_v2", None)
        return int(self.engine.device_memory_size if size is None else size)

    def make_context(self, name: str, shape: tuple[int, ...], *, profile: int, stream: Untyped) -> None:
        """Create the context, which takes the memory for activations, for one shape of the input.

        A context begins with the optimisation profile 0. The change to another one may be queued on a stream:
        on the one that computes, so that it comes first.

        If the engine leaves its batch open, TensorRT for RTX begins with kernels for any batch, compiles
        others for this batch in the background, and changes over in the middle of the work: rows would depend
        on when they were computed. So those kernels are compiled first.
        """
        is_open = self.engine.get_tensor_shape(name)[0] == _OPEN
        kinds = getattr(self.library, "DynamicShapesKernelSpecializationStrategy", None)
        if is_open and kinds is not None:
            self.config = config = self.engine.create_runtime_config()
            config.dynamic_shapes_kernel_specialization_strategy = kinds.EAGER
            self.context = self.engine.create_execution_context(runtime_config=config)
        else:
            self.context = self.engine.create_execution_context()
        if self.context is None:
            raise EngineLoadError(
                f"expected an execution context, found: {self.last_errors()}",
                hint="end other programs that use the GPU, or build with a smaller engine.batch",
            )
        chosen = not profile or self.context.set_optimization_profile_async(profile, int(stream))
        if is_open and not (chosen and self.context.set_input_shape(name, shape)):
            raise EngineLoadError(
                f"expected an engine that takes batches of {shape[0]}, found: {self.last_errors()}",
                hint="build the cache again",
            )

    def set_address(self, name: str, address: int) -> None:
        """Give a tensor its buffer on the device."""
        if not self.context.set_tensor_address(name, address):
            raise EngineRunError(f"expected tensor {name!r} to take its buffer, found: {self.last_errors()}")

    def enqueue(self, stream: Untyped) -> None:
        """Queue the computing of one batch on a stream."""
        if not self.context.execute_async_v3(int(stream)):
            raise EngineRunError(f"expected the engine to run, found: {self.last_errors()}")

    def last_errors(self) -> str:
        """Return the last errors that the library logged."""
        return "; ".join(self.errors) or "nothing said"

    def release(self) -> None:
        """Release everything, the newest object first."""
        self.context = self.config = self.engine = self.runtime = self.logger = None

    def _require_valid(self, data: memoryview) -> None:
        """Ask TensorRT for RTX whether the engine is for this GPU; it reads no more than the header."""
        if not hasattr(self.runtime, "get_engine_validity"):
            return
        verdict, reasons = self.runtime.get_engine_validity(data)
        if verdict == self.library.EngineValidity.INVALID:
            known = self.library.EngineInvalidityDiagnostics.__members__.items()
            names = [name for name, value in known if int(reasons) & int(value)]
            found = f"{' and '.join(names) or 'an invalid one'}: {self.last_errors()}"
            raise EngineLoadError(
                f"expected an engine for this GPU, found {found}", hint="build the cache again for this GPU"
            )


def _logger(library: ModuleType, errors: list[str]) -> Untyped:
    """Return a logger of the library that keeps the last errors, and prints nothing."""
    kept = {library.ILogger.Severity.INTERNAL_ERROR, library.ILogger.Severity.ERROR}

    class ErrorLogger(library.ILogger):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            library.ILogger.__init__(self)

        def log(self, severity: Untyped, message: str) -> None:
            if severity in kept:
                errors.append(message.strip())
                del errors[:-_LOG_LINES]

    return ErrorLogger()
