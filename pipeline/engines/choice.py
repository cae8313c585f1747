"""Which compiler a request's backend means."""

from pipeline.engines.onnxruntime import OnnxRuntimeCompiler
from pipeline.engines.port import EngineCompiler
from pipeline.errors import ErrorKind, RequestError
from pipeline.request import Backend


def engine_compiler(backend: Backend) -> EngineCompiler:
    """Return the compiler of a backend.

    Raises:
        RequestError: This version does not offer it.
    """
    if backend is Backend.ONNXRUNTIME:
        return OnnxRuntimeCompiler()
    raise RequestError(
        f"expected the backend 'onnxruntime', found {str(backend)!r}, which this version does not offer",
        'set engine.backend = "onnxruntime"',
        ErrorKind.BACKEND_UNAVAILABLE,
        subject=str(backend),
    )
