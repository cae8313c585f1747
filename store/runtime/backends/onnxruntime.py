"""Runs engines of ONNX Runtime: graphs that were optimised ahead of time, on the CPU."""

import os
from contextlib import suppress
from importlib import metadata
from types import ModuleType
from typing import Final

import numpy as np

from store.runtime.backends.base import (
    EngineExpectation,
    EngineLoadError,
    EngineRunError,
    Source,
    Tensor,
    Untyped,
    Vectors,
    import_library,
    require_version,
    sample_shapes,
)
from store.runtime.backends.registry import BACKENDS

TARGET: Final = "cpu"
"""The only target; every machine has one."""


class OnnxRuntimeExecutor:
    """An engine of ONNX Runtime."""

    def __init__(self, source: Source, expected: EngineExpectation) -> None:
        runtime = onnxruntime("an engine of ONNX Runtime")
        require_version("onnxruntime", runtime.__version__, expected.version)
        try:
            session = runtime.InferenceSession(
                source if isinstance(source, str) else bytes(source),
                _session_options(runtime, expected.threads),
                providers=["CPUExecutionProvider"],
            )
        except Exception as error:  # the library raises a private class per status code
            raise EngineLoadError(
                f"expected an engine that ONNX Runtime can load, found: {error}", hint="c10 verify --full"
            ) from error
        # ONNX Runtime falls back to another provider with no more than a line in its log.
        if session.get_providers()[:1] != ["CPUExecutionProvider"]:
            raise EngineLoadError(f"expected CPUExecutionProvider, found {session.get_providers()}")
        self._session = session
        self._input = expected.input
        self._output = expected.output
        self.sample_shape, self.dimensions = sample_shapes(
            _tensors(session.get_inputs()),
            _tensors(session.get_outputs()),
            expected,
            float_type="tensor(float)",
        )

    def execute(self, batch: Vectors) -> Vectors:
        """Run one whole batch.

        Raises:
            EngineRunError: The library failed.
        """
        try:
            (result,) = self._session.run([self._output], {self._input: batch})
        except Exception as error:  # the library raises a private class per status code
            raise EngineRunError(f"ONNX Runtime failed while running: {error}") from error
        return np.asarray(result, np.float32)


class OnnxRuntime:
    """The backend "onnxruntime"; see `store.runtime.backends.base.BackendRuntime`."""

    load: Final = OnnxRuntimeExecutor

    def version(self) -> str | None:
        """Return what its package says, whichever of them is installed."""
        for package in BACKENDS["onnxruntime"].packages:
            with suppress(metadata.PackageNotFoundError):
                return metadata.version(package)
        return None

    def runs(self, target: str) -> bool:
        """Tell whether the target is "cpu"."""
        return target == TARGET

    def device(self) -> str:
        """Name the target."""
        return f"a device for {TARGET!r}"


def _tensors(found: Untyped) -> list[Tensor]:
    return [Tensor(name=each.name, type=each.type, shape=tuple(each.shape)) for each in found]


def _session_options(runtime: ModuleType, threads: int) -> Untyped:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Several workers share the cores: a thread that spins while it waits takes its neighbour's time.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # The graph was optimised when it was compiled; doing it again here would be work, and hardware specific.
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return options


SILENCE: Final = "ORT_DISABLE_TELEMETRY"
"""Looked at when the library is loaded; its own function to the same end comes too late by then."""


def onnxruntime(purpose: str) -> ModuleType:
    """Return the library.

    Args:
        purpose: What needs it, for the message.

    Raises:
        RuntimeUnavailableError: It is not installed, or does not load.
    """
    os.environ.setdefault(SILENCE, "1")
    return import_library("onnxruntime", purpose)
