"""Which compiler a request's backend means."""

from typing import assert_never

from pipeline.engines.onnxruntime import OnnxRuntimeCompiler
from pipeline.engines.openvino import OpenVinoCompiler
from pipeline.engines.port import EngineCompiler
from pipeline.engines.tensorrt import TENSORRT, TENSORRT_RTX, TensorRtCompiler
from pipeline.request import Backend


def engine_compiler(backend: Backend) -> EngineCompiler:
    """Return the compiler of a backend; whether its library is installed shows when it is used."""
    match backend:
        case Backend.ONNXRUNTIME:
            return OnnxRuntimeCompiler()
        case Backend.TENSORRT:
            return TensorRtCompiler(TENSORRT)
        case Backend.TENSORRT_RTX:
            return TensorRtCompiler(TENSORRT_RTX)
        case Backend.OPENVINO:
            return OpenVinoCompiler()
        case _:
            assert_never(backend)
