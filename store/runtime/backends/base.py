"""Define what all engine backends share: the port, the expectations of an engine, and the errors.

Each backend has a module of its own beside this one, and a row in `store.runtime.backends.registry`. A
library is imported only when it is needed, because no single machine has all of them.
"""

import importlib
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from store.base.valueclass import valueclass
from store.errors import CacheUnusableError, Category, ErrorKind, StoreError, TranslateShortages, import_takes

Vectors = NDArray[np.float32]
Untyped = Any
"""An object of a library without type annotations."""

Source = bytes | bytearray | memoryview | str
"""The bytes of an artifact, or a path such as ``/proc/self/fd/N`` of a sealed memory file."""


class ExecutionError(StoreError):
    """An engine or index cannot be used; `message` says what was expected and found, `hint` how to fix it."""

    category = Category.INCOMPATIBLE
    default_kind: ClassVar[ErrorKind] = ErrorKind.EXECUTION

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, kind=self.default_kind, hint=hint)


class RuntimeUnavailableError(ExecutionError):
    """The library or the device for this engine or index is not here."""

    category = Category.REFUSED
    default_kind = ErrorKind.RUNTIME_UNAVAILABLE


class EngineLoadError(ExecutionError):
    """The engine's bytes, version or shapes are not what this machine or the caller expects."""

    default_kind = ErrorKind.ENGINE_LOAD


class EngineRunError(ExecutionError):
    """The samples have a wrong shape or type, or the library failed while running."""

    default_kind = ErrorKind.ENGINE_RUN


class IndexLoadError(ExecutionError):
    """The index is unreadable or is not of the expected kind and size."""

    category = Category.NO_GO
    default_kind = ErrorKind.INDEX_LOAD


class IndexSearchError(ExecutionError):
    """The query has a wrong shape or type."""

    category = Category.INTERNAL
    default_kind = ErrorKind.INDEX_SEARCH


class LoadedEngine(Protocol):
    """One loaded engine of one backend."""

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample, without the batch dimension."""
        ...

    @property
    def dimensions(self) -> int:
        """Length of one descriptor."""
        ...

    @property
    def takes_any_batch(self) -> bool:
        """Whether it runs batches of one too, and not only of the expected size."""
        ...


class BatchExecutor(LoadedEngine, Protocol):
    """An engine that runs one whole batch at a time."""

    def execute(self, batch: Vectors) -> Vectors:
        """Run float32 [batch, *sample_shape] and return float32 [batch, dimensions]."""
        ...


@runtime_checkable
class PipelinedExecutor(LoadedEngine, Protocol):
    """An engine that takes all samples at once, because it copies one batch while it computes another.

    It fills up the last batch with zeros itself.
    """

    def execute_all(self, samples: Vectors, out: Vectors) -> None:
        """Run float32 [n, *sample_shape] into float32 [n, dimensions]."""
        ...


@valueclass(frozen=True, slots=True, kw_only=True)
class EngineExpectation:
    """What the manifest says of an engine, and how to run it here: see `store.runtime.load.load_engine`."""

    version: str
    target: str | None = None
    precision: str | None = None
    input: str
    output: str
    batch: int
    threads: int
    single: bool = False


class BackendRuntime(Protocol):
    """A backend on a machine that runs its engines; a row in `store.runtime.backends.registry` names it."""

    def version(self) -> str | None:
        """Return the full version of its library here, None if it is not installed."""
        ...

    def runs(self, target: str) -> bool:
        """Whether this machine runs engines that were compiled for a target."""
        ...

    def device(self) -> str:
        """Describe the device that engines would run on here, for messages."""
        ...

    def load(self, source: Source, expected: EngineExpectation) -> BatchExecutor | PipelinedExecutor:
        """Load an engine.

        Raises:
            RuntimeUnavailableError: The library or the device is not here.
            EngineLoadError: The engine is not what is expected, or not for this machine.
        """
        ...


@valueclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """An input or output of a loaded engine, with the library's names of types and of open sizes."""

    name: str
    type: str
    shape: tuple[object, ...]


def import_library(name: str, purpose: str, *, extra: str = "onboard") -> ModuleType:
    """Import a library.

    Args:
        name: Name of its module.
        purpose: What needs it, for the message.
        extra: The extra of C10 that installs it.

    Raises:
        RuntimeUnavailableError: It is not installed, or does not load.
        CacheUnusableError: This process lacks memory to load it.
    """
    try:
        with TranslateShortages(f"{name}, which {purpose} needs", takes=import_takes(name)):
            return importlib.import_module(name)
    except CacheUnusableError:
        raise
    except Exception as error:
        # Not only ImportError: a shared library that does not load may be an OSError, one for another NumPy a
        # RuntimeError or AttributeError.
        raise RuntimeUnavailableError(
            f"expected the Python package {name!r} for {purpose}, found none: {error}",
            hint=f"pip install 'c10[{extra}]'",
        ) from error


def require_version(library: str, found: str, expected: str) -> None:
    """Require the version of a library that compiled an engine.

    Raises:
        EngineLoadError: Another version is here.
    """
    if found != expected:
        raise EngineLoadError(
            f"expected {library} {expected}, the version that compiled this engine, found {library} {found}",
            hint=f"install {library} {expected} or build the cache again here",
        )


def sample_shapes(
    inputs: Iterable[Tensor], outputs: Iterable[Tensor], expected: EngineExpectation, *, float_type: str
) -> tuple[tuple[int, ...], int]:
    """Return the shape of one sample and the length of one descriptor.

    Args:
        inputs: All inputs of the engine; there must be one.
        outputs: All outputs of the engine.
        expected: Names and batch size.
        float_type: The library's name of float32.

    Raises:
        EngineLoadError: Names, types, batch size or ranks are not as expected, or a size is open.
    """
    sample = _fixed_shape("input", [*inputs], expected.input, expected.batch, float_type)
    output = _fixed_shape("output", [*outputs], expected.output, expected.batch, float_type)
    if len(output) != 1:
        raise EngineLoadError(
            f"expected an output of [{expected.batch}, d], found {[expected.batch, *output]}"
        )
    return sample, output[0]


def _fixed_shape(
    role: str, tensors: Sequence[Tensor], name: str, batch: int, float_type: str
) -> tuple[int, ...]:
    """Return the shape of one sample of a tensor, after checking its name, type and batch."""
    by_name = {tensor.name: tensor for tensor in tensors}
    if name not in by_name:
        raise EngineLoadError(f"expected an {role} called {name!r}, found {sorted(by_name)}")
    if role == "input" and len(by_name) != 1:
        raise EngineLoadError(f"expected one input, found {sorted(by_name)}")
    tensor = by_name[name]
    if tensor.type != float_type:
        raise EngineLoadError(f"expected {role} {name!r} as {float_type}, found {tensor.type}")
    sizes = [size for size in tensor.shape if isinstance(size, int) and size > 0]
    if not sizes or sizes[0] != batch or len(sizes) != len(tensor.shape):
        raise EngineLoadError(
            f"expected {role} {name!r} with a batch of {batch} and fixed sizes, found {list(tensor.shape)}"
        )
    return tuple(sizes[1:])
