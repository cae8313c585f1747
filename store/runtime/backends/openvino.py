"""Run engines that OpenVINO exported, on the CPU, without compiling them again."""

from typing import Final

import numpy as np

from store.runtime.backends import base
from store.runtime.backends.openvino_library import (
    DEVICE,
    PRECISIONS,
    configuration,
    cpu_target,
    has_bfloat16,
    library,
    library_version,
    loaded_version,
    read_requirements,
)

_HINT: Final = "INFERENCE_PRECISION_HINT"


class OpenVinoExecutor:
    """An engine of OpenVINO.

    The library accepts damaged bytes whose structure holds: only the caller's digest keeps them away. It
    wants writable memory, so that it gets a copy of sealed memory.
    """

    def __init__(self, source: base.Source, expected: base.EngineExpectation) -> None:
        precision = _require_known(expected.precision)
        self._bytes = _open_bytes(source)
        requirements = read_requirements(self._bytes.data)
        openvino = library()
        base.require_version("openvino", loaded_version(openvino), expected.version)
        base.require_version("openvino", loaded_version(openvino), requirements.version)
        for target in (requirements.target, expected.target or requirements.target):
            _require_target(target)
        if precision == "bf16" and not has_bfloat16(openvino):
            raise base.EngineLoadError(
                "expected a processor that computes in bfloat16, as this engine does, found one that does not",
                hint='set engine.precision = "fp32" and build the cache again',
            )
        settings = configuration(precision, threads=expected.threads)
        try:
            compiled = openvino.Core().import_model(openvino.Tensor(self._bytes), DEVICE, settings)
        except RuntimeError as error:
            raise base.EngineLoadError(
                f"expected an engine that OpenVINO can import, found: {last_line(error)}",
                hint="c10 verify --full",
            ) from error
        require_precision(compiled, precision)
        self.sample_shape, self.dimensions = base.sample_shapes(
            _tensors(compiled.inputs, expected.input),
            _tensors(compiled.outputs, expected.output),
            expected,
            float_type="f32",
        )
        self.takes_any_batch: Final = False
        self._request = compiled.create_infer_request()
        self._output = expected.output

    def execute(self, batch: base.Vectors) -> base.Vectors:
        """Run one whole batch.

        Raises:
            base.EngineRunError: The library failed.
        """
        try:
            self._request.infer([np.ascontiguousarray(batch)], share_inputs=True, share_outputs=True)
            # A copy: the next run overwrites the request's own buffer.
            return np.array(self._request.get_tensor(self._output).data, np.float32)
        except RuntimeError as error:
            raise base.EngineRunError(f"OpenVINO failed while running: {last_line(error)}") from error


class OpenVino:
    """The backend "openvino"; see `store.runtime.backends.base.BackendRuntime`."""

    load: Final = OpenVinoExecutor

    def version(self) -> str | None:
        """Return the version of the installed package."""
        try:
            return library_version()
        except base.RuntimeUnavailableError:
            return None

    def runs(self, target: str) -> bool:
        """Whether the target is the instruction set of this processor."""
        return target == self.device()

    def device(self) -> str:
        """Return the target of this processor."""
        try:
            return cpu_target()
        except base.ExecutionError:
            return "no OpenVINO that runs"


def require_precision(compiled: base.Untyped, precision: str) -> None:
    """Require that the library computes in a precision.

    Raises:
        base.EngineLoadError: It chose another one.
    """
    found = compiled.get_property(_HINT).get_type_name()
    if found != PRECISIONS[precision]:
        raise base.EngineLoadError(
            f"expected OpenVINO to compute in {PRECISIONS[precision]}, found {found}",
            hint='set engine.precision = "fp32" and build the cache again',
        )


def last_line(error: Exception) -> str:
    """Return the line of a library message that says what failed; the others name places in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next(
        (line for line in reversed(lines) if not line.startswith(("Exception from", "Check "))), repr(error)
    )


def _require_known(precision: str | None) -> str:
    if precision not in PRECISIONS:
        raise base.EngineLoadError(
            f"expected the precision {' or '.join(PRECISIONS)} for an engine of OpenVINO, found {precision!r}",
            hint="name the precision that the manifest names: the engine's bytes do not say it",
        )
    return precision


def _require_target(target: str) -> None:
    here = cpu_target()
    if target != here:
        raise base.EngineLoadError(
            f"expected an engine for {here!r}, this processor, found one for {target!r}",
            hint="build the cache again here",
        )


def _open_bytes(source: base.Source) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    try:
        if isinstance(source, str):
            return np.memmap(source, np.uint8, mode="r")
        return np.frombuffer(source, np.uint8)
    except (OSError, ValueError) as error:
        raise base.EngineLoadError(
            f"expected the bytes of an engine, found: {error}", hint="c10 verify --full"
        ) from error


def _tensors(ports: base.Untyped, wanted: str) -> list[base.Tensor]:
    """Describe inputs or outputs; one tensor may have several names."""
    return [
        base.Tensor(
            name=wanted if wanted in port.get_names() else min(port.get_names(), default=""),
            type=port.get_element_type().get_type_name(),
            shape=tuple(size.get_length() if size.is_static else None for size in port.get_partial_shape()),
        )
        for port in ports
    ]
