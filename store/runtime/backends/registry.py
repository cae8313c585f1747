"""List the engine backends, one row each. Pure.

Requests, compiling, running, the check of the device, `c10 doctor` and the workers of Ray all read this
table. It names the two halves of a backend and does not import them, since no machine has every library and
the aircraft has no compiler.
"""

from collections.abc import Mapping
from typing import Final

from store.base.valueclass import valueclass


@valueclass(frozen=True, slots=True, kw_only=True)
class EngineBackend:
    """One backend.

    Attributes:
        name: Its name in requests, manifests and messages.
        compiler: "module:name" of a callable that returns its `pipeline.engines.port.EngineCompiler`.
        runtime: "module:name" of a callable that returns its `store.runtime.backends.base.BackendRuntime`.
        packages: Python distributions that install its library, for `c10 doctor`.
        on_gpu: Whether its engines run on a GPU. Each worker then needs one; only then do `workspace_mb`,
            `tf32` and `profile` of a request have a meaning.
        preference: Its place in the order in which `AUTO` tries backends, the lowest first; None: it does not.
    """

    name: str
    compiler: str
    runtime: str
    packages: tuple[str, ...]
    on_gpu: bool = False
    preference: int | None = None


BACKENDS: Final[Mapping[str, EngineBackend]] = {
    row.name: row
    for row in (
        EngineBackend(
            name="onnxruntime",
            compiler="pipeline.engines.backends.onnxruntime:OnnxRuntimeCompiler",
            runtime="store.runtime.backends.onnxruntime:OnnxRuntime",
            packages=("onnxruntime", "onnxruntime-gpu"),
            preference=4,
        ),
        EngineBackend(
            name="tensorrt",
            compiler="pipeline.engines.backends.tensorrt:tensorrt_compiler",
            runtime="store.runtime.backends.tensorrt:tensorrt",
            packages=("tensorrt",),
            on_gpu=True,
            preference=1,
        ),
        EngineBackend(
            name="tensorrt-rtx",
            compiler="pipeline.engines.backends.tensorrt:tensorrt_rtx_compiler",
            runtime="store.runtime.backends.tensorrt:tensorrt_rtx",
            packages=("tensorrt-rtx-cu12",),
            on_gpu=True,
            preference=2,
        ),
        EngineBackend(
            name="openvino",
            compiler="pipeline.engines.backends.openvino:OpenVinoCompiler",
            runtime="store.runtime.backends.openvino:OpenVino",
            packages=("openvino",),
            preference=3,
        ),
    )
}
"""Name to backend, in the order in which messages list them."""

DEFAULT_BACKEND: Final = "onnxruntime"

AUTO: Final = "auto"
"""In a request: the backend of the lowest preference that works on this machine for what is requested."""
