"""The engine backends, one row each. Pure.

Whatever knows the backends reads this table: requests, compiling, executing, the check of the device, `c10 doctor` and
the workers of Ray. The two halves of a backend are named and not imported, since no machine has every library and the
aircraft has no compiler.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineBackend:
    """One backend.

    Attributes:
        name: What requests, manifests and messages call it.
        compiler: "module:name" of what returns its `pipeline.engines.port.EngineCompiler`.
        runtime: "module:name" of what returns its `store.runtime.backends.base.BackendRuntime`.
        packages: Python distributions that bring its library, for `c10 doctor`.
        on_gpu: Whether its engines run on a GPU: each worker then needs one, and only then do `workspace_mb`, `tf32` and
            `profile` of a request mean something.
    """

    name: str
    compiler: str
    runtime: str
    packages: tuple[str, ...]
    on_gpu: bool = False


BACKENDS: Final[Mapping[str, EngineBackend]] = {
    row.name: row
    for row in (
        EngineBackend(
            name="onnxruntime",
            compiler="pipeline.engines.backends.onnxruntime:OnnxRuntimeCompiler",
            runtime="store.runtime.backends.onnxruntime:OnnxRuntime",
            packages=("onnxruntime", "onnxruntime-gpu"),
        ),
        EngineBackend(
            name="tensorrt",
            compiler="pipeline.engines.backends.tensorrt:tensorrt_compiler",
            runtime="store.runtime.backends.tensorrt:tensorrt",
            packages=("tensorrt",),
            on_gpu=True,
        ),
        EngineBackend(
            name="tensorrt-rtx",
            compiler="pipeline.engines.backends.tensorrt:tensorrt_rtx_compiler",
            runtime="store.runtime.backends.tensorrt:tensorrt_rtx",
            packages=("tensorrt-rtx-cu12",),
            on_gpu=True,
        ),
        EngineBackend(
            name="openvino",
            compiler="pipeline.engines.backends.openvino:OpenVinoCompiler",
            runtime="store.runtime.backends.openvino:OpenVino",
            packages=("openvino",),
        ),
    )
}
"""Name to backend, in the order in which messages list them."""

DEFAULT_BACKEND: Final = "onnxruntime"
