"""A stand-in for TensorRT's Python module, as of 10.16: as little of it as compiling needs, with its failures by value.

It stands on the path of the compiling process. What it is to do wrong is told by C10_FAKE_TENSORRT; what it was asked
for is written into the engine, as JSON behind a header like the real one.
"""

import enum
import json
import os
import signal
import sys
import time
from pathlib import Path

import onnx

__version__ = os.environ.get("C10_FAKE_TENSORRT_VERSION", "10.16.1.11")

FAULT = os.environ.get("C10_FAKE_TENSORRT", "")
STEPS = 4


class NetworkDefinitionCreationFlag(enum.Enum):
    EXPLICIT_BATCH = 0
    STRONGLY_TYPED = 1

    def __int__(self):
        return self.value


class BuilderFlag(enum.Enum):
    TF32 = 7


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1


class ErrorCode(enum.Enum):
    UNSUPPORTED_NODE = 8

    def __str__(self):
        return f"ErrorCode.{self.name}"


class ILogger:
    class Severity(enum.Enum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4


class IProgressMonitor:
    pass


class Tensor:
    is_shape_tensor = False

    def __init__(self, value):
        self.name = value.name
        self.shape = [size.dim_value or -1 for size in value.type.tensor_type.shape.dim]
        self.dtype = DataType.FLOAT if value.type.tensor_type.elem_type == 1 else DataType.HALF


class Network:
    def __init__(self, flags):
        assert flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED.value
        self.model = None

    @property
    def num_inputs(self):
        return len(self.model.graph.input)

    @property
    def num_outputs(self):
        return len(self.model.graph.output)

    def get_input(self, number):
        return Tensor(self.model.graph.input[number])

    def get_output(self, number):
        return Tensor(onnx.shape_inference.infer_shapes(self.model).graph.output[number])


class ParserError:
    def code(self):
        return ErrorCode.UNSUPPORTED_NODE

    def desc(self):
        return "false"

    def node_name(self):
        return "pooled"

    def node_operator(self):
        return "GlobalAveragePool"

    def local_function_stack(self):
        return []


class OnnxParser:
    num_errors = 1

    def __init__(self, network, logger):
        self.network = network

    def parse(self, data):
        if FAULT == "parse":
            return False
        self.network.model = onnx.load_from_string(data)
        return True

    def get_error(self, number):
        return ParserError()


class TimingCache:
    def __init__(self, data):
        self.data = data

    def serialize(self):
        return memoryview(self.data + b"+learnt")


class Config:
    def __init__(self):
        self.tf32 = True
        self.asked = {"profiles": []}
        self.cache = None
        self.progress_monitor = None

    def set_flag(self, flag):
        self.tf32 = self.tf32 or flag is BuilderFlag.TF32

    def clear_flag(self, flag):
        self.tf32 = self.tf32 and flag is not BuilderFlag.TF32

    def set_memory_pool_limit(self, pool, size):
        self.asked["workspace"] = size

    def add_optimization_profile(self, profile):
        if FAULT == "profile":
            return -1
        self.asked["profiles"].append(profile.shapes)
        return 0

    def create_timing_cache(self, data):
        return TimingCache(bytes(data))

    def set_timing_cache(self, cache, ignore_mismatch):
        assert ignore_mismatch is False
        if cache.data == b"from another GPU":
            return False
        self.cache = cache
        return True


class Profile:
    def __init__(self):
        self.shapes = {}

    def set_shape(self, name, least, usual, most):
        self.shapes[name] = [list(least), list(usual), list(most)]


class Registry:
    def load_library(self, path):
        return None if Path(path).read_bytes() == b"broken" else object()


class Builder:
    def __init__(self, logger):
        self.logger = logger
        if FAULT == "no device":
            logger.log(ILogger.Severity.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def create_network(self, flags):
        return Network(flags)

    def create_builder_config(self):
        return Config()

    def create_optimization_profile(self):
        return Profile()

    def get_plugin_registry(self):
        return Registry()

    def build_serialized_network(self, network, config):
        monitor = config.progress_monitor
        monitor.phase_start("Building engine", None, STEPS)
        for step in range(STEPS):
            if FAULT == "slow":
                time.sleep(0.2)
            if not monitor.step_complete("Building engine", step):
                Path(os.environ["C10_FAKE_TENSORRT_NOTES"]).write_text(
                    f"cancelled after step {step}", "utf-8"
                )
                return None
        monitor.phase_finish("Building engine")
        return self._end(network, config)

    def _end(self, network, config):
        match FAULT:
            case "segv":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "stuck":
                time.sleep(600)
            case "oom":
                self.logger.log(
                    ILogger.Severity.ERROR, "Error Code 2: OutOfMemory (Requested size was 9 bytes.)"
                )
                return None
            case "none":
                self.logger.log(ILogger.Severity.WARNING, "this is no error")
                self.logger.log(
                    ILogger.Severity.ERROR, "Error Code 10: Could not find any implementation for node conv."
                )
                return None
            case "empty":
                return memoryview(b"")
        asked = config.asked | {
            "tf32": config.tf32,
            "cache": config.cache.data.decode(),
            "python": sys.version,
        }
        version = bytes(int(part) % 256 for part in __version__.split("."))
        header = b"ftrt" + bytes(20) + (b"\x0a\x0d\x03\x09" if FAULT == "stamp" else version) + bytes(4)
        return memoryview(header + json.dumps(asked).encode())
