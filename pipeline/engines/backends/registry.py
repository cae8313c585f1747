"""Which compiler a request's backend means; it is imported when it is chosen."""

from typing import assert_never

from pipeline.engines.port import EngineCompiler
from pipeline.request.request import Backend


def engine_compiler(backend: Backend) -> EngineCompiler:
    """Return the compiler of a backend; whether its library is installed shows when it is used."""
    match backend:
        case Backend.ONNXRUNTIME:
            from pipeline.engines.backends.onnxruntime import OnnxRuntimeCompiler

            return OnnxRuntimeCompiler()
        case Backend.TENSORRT | Backend.TENSORRT_RTX:
            from pipeline.engines.backends.tensorrt import TENSORRT, TENSORRT_RTX, TensorRtCompiler

            return TensorRtCompiler(TENSORRT if backend is Backend.TENSORRT else TENSORRT_RTX)
        case Backend.OPENVINO:
            from pipeline.engines.backends.openvino import OpenVinoCompiler

            return OpenVinoCompiler()
        case _:
            assert_never(backend)
