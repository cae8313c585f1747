"""Run engines of ONNX Runtime on the CPU: graphs that were optimised when they were compiled."""

import os
from contextlib import suppress
from types import ModuleType
from typing import Final

import numpy as np

from store.runtime.backends import base
from store.runtime.backends.registry import BACKENDS

TARGET: Final = "cpu"
"""The only target."""


class OnnxRuntimeExecutor:
    """An engine of ONNX Runtime."""

    def __init__(self, source: base.Source, expected: base.EngineExpectation) -> None:
        runtime = onnxruntime("an engine of ONNX Runtime")
        base.require_version("onnxruntime", runtime.__version__, expected.version)
        try:
            session = runtime.InferenceSession(
                source if isinstance(source, str) else bytes(source),
                _session_options(runtime, expected.threads),
                providers=["CPUExecutionProvider"],
            )
        except Exception as error:  # the library raises a private class per status code
            raise base.EngineLoadError(
                f"expected an engine that ONNX Runtime can load, found: {error}", hint="c10 verify --full"
            ) from error
        # ONNX Runtime may use another provider, and says so only in its log.
        if session.get_providers()[:1] != ["CPUExecutionProvider"]:
            raise base.EngineLoadError(f"expected CPUExecutionProvider, found {session.get_providers()}")
        self._session = session
        self._input = expected.input
        self._output = expected.output
        inputs, outputs = session.get_inputs(), session.get_outputs()
        # An open size has a name, or none.
        self.takes_any_batch: Final = not any(
            isinstance(size, int) for each in (*inputs, *outputs) for size in each.shape[:1]
        )
        opened = expected.batch if self.takes_any_batch else None
        self.sample_shape, self.dimensions = base.sample_shapes(
            _tensors(inputs, opened),
            _tensors(outputs, opened),
            expected,
            float_type="tensor(float)",
        )

    def execute(self, batch: base.Vectors) -> base.Vectors:
        """Run one whole batch.

        Raises:
            base.EngineRunError: The library failed.
        """
        try:
            (result,) = self._session.run([self._output], {self._input: batch})
        except Exception as error:  # the library raises a private class per status code
            raise base.EngineRunError(f"ONNX Runtime failed while running: {error}") from error
        return np.asarray(result, np.float32)


class OnnxRuntime:
    """The backend "onnxruntime"; see `store.runtime.backends.base.BackendRuntime`."""

    load: Final = OnnxRuntimeExecutor

    def version(self) -> str | None:
        """Return the version of the installed package."""
        from importlib import metadata  # noqa: PLC0415 - slow; a cache that is opened asks before the flight

        for package in BACKENDS["onnxruntime"].packages:
            with suppress(metadata.PackageNotFoundError):
                return metadata.version(package)
        return None

    def runs(self, target: str) -> bool:
        """Whether the target is "cpu"."""
        return target == TARGET

    def device(self) -> str:
        """Name the target."""
        return f"a device for {TARGET!r}"


def _tensors(found: base.Untyped, opened: int | None) -> list[base.Tensor]:
    """Return inputs or outputs; `opened` is the batch to take for an open one."""
    shapes = [(each, each.shape if opened is None else [opened, *each.shape[1:]]) for each in found]
    return [base.Tensor(name=each.name, type=each.type, shape=tuple(shape)) for each, shape in shapes]


def _session_options(runtime: ModuleType, threads: int) -> base.Untyped:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Workers share the cores: a thread that spins while it waits takes time from the others.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # The graph was optimised when it was compiled.
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return options


SILENCE: Final = "ORT_DISABLE_TELEMETRY"
"""The library reads this variable when it is loaded; later is too late to disable telemetry."""


def onnxruntime(purpose: str) -> ModuleType:
    """Import the library; `purpose` says in the error what needs it.

    Raises:
        RuntimeUnavailableError: It is not installed, or does not load.
    """
    os.environ.setdefault(SILENCE, "1")
    return base.import_library("onnxruntime", purpose)
