"""A fake GPU: streams, events and memory as CUDA describes them, and a TensorRT that runs on it.

What is queued on a stream happens late, at some moment that a seeded die chooses among all that CUDA allows. Buffers on
the device know whether what they hold was made and is still wanted, so that work on one that is not ready, or over one
that is still needed, is noticed even where the numbers would come out right. Beside that runs a clock: it tells how
long the same queues take on a device whose copies and kernels have given lengths.
"""

import ctypes
import enum
import json
import random
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace

import numpy as np

UPLOAD, COMPUTE, DOWNLOAD = 1.0, 3.0, 0.25
VERSION = "10.13.3.9"
SEVERITY = enum.Enum("SEVERITY", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE")


Code = enum.IntEnum(
    "Code", {"cudaSuccess": 0, "cudaErrorMemoryAllocation": 2, "cudaErrorIllegalAddress": 700}
)
Attribute = enum.IntEnum("Attribute", {"cudaDevAttrIntegrated": 18})
CALLS = {
    "cudaDeviceGetAttribute": "cuda_device_get_attribute",
    "cudaSetDevice": "cuda_set_device",
    "cudaMemGetInfo": "cuda_mem_get_info",
    "cudaHostAlloc": "cuda_host_alloc",
    "cudaFreeHost": "cuda_free_host",
    "cudaMalloc": "cuda_malloc",
    "cudaFree": "cuda_free",
    "cudaStreamCreateWithFlags": "cuda_stream_create_with_flags",
    "cudaStreamDestroy": "cuda_stream_destroy",
    "cudaEventCreateWithFlags": "cuda_event_create_with_flags",
    "cudaEventDestroy": "cuda_event_destroy",
    "cudaEventRecord": "cuda_event_record",
    "cudaStreamWaitEvent": "cuda_stream_wait_event",
    "cudaEventSynchronize": "cuda_event_synchronize",
    "cudaStreamSynchronize": "cuda_stream_synchronize",
    "cudaMemcpyAsync": "cuda_memcpy_async",
}
Kind = enum.IntEnum("Kind", {"cudaMemcpyHostToDevice": 1, "cudaMemcpyDeviceToHost": 2})


@dataclass(eq=False)
class Stream:
    number: int
    queue: list = field(default_factory=list)
    end: float = 0.0

    def __int__(self):
        return self.number


@dataclass(eq=False)
class Event:
    recorded: int = 0
    happened: int = 0
    time: float = 0.0


@dataclass
class Memory:
    data: bytearray
    ready: bool = False


@dataclass
class FakeGpu:
    """The state of the device; `cuda` and `tensorrt` give the modules that work on it."""

    seed: int = 0
    free: int = 1 << 33
    activations: int = 1 << 20
    integrated: bool = False
    failing: dict = field(default_factory=dict)
    """Name of a call to the number of its calls that succeed and the code after them."""
    refuses: str = ""
    """The object for which the library returns nothing and logs an error: "engine" or "context" or "run"."""

    def __post_init__(self):
        self.dice = random.Random(self.seed)
        self.streams, self.device, self.host = {}, {}, {}
        self.alive = set()
        self.now, self.next = 0.0, 0x1000
        self.calls = {}
        self.ended_busy = False
        self.seen = None
        self.batches = []

    # --- what the streams do

    def step(self):
        """Let one stream do what is next in it, if any can."""
        able = [s for s in self.streams.values() if s.queue and s.queue[0][0]()]
        if not able:
            return False
        self.dice.choice(able).queue.pop(0)[1]()
        return True

    def until(self, done):
        # The streams may or may not do more while the host waits.
        while not done():
            assert self.step(), "every stream waits for something that never happens"
        while self.dice.random() < 0.3 and self.step():
            pass

    def put(self, stream, action, *, able=lambda: True, length=0.0):
        stream.queue.append((able, action))
        stream.end = max(stream.end, self.now) + length
        while self.dice.random() < 0.2 and self.step():
            pass

    def address(self):
        self.next += 0x1000
        return self.next

    # --- the modules

    def cuda(self):
        module = ModuleType("cuda.bindings.runtime")
        module.cudaMemcpyKind, module.cudaError_t, module.cudaDeviceAttr = Kind, Code, Attribute
        module.cudaGetErrorName = lambda code: (Code.cudaSuccess, Code(code).name.encode())
        module.cudaGetErrorString = lambda code: (Code.cudaSuccess, b"as told")
        module.cudaGetLastError = lambda: (Code.cudaSuccess,)
        for name in CALLS:
            setattr(module, name, self.guarded(name))
        return module

    def guarded(self, name):
        def call(*arguments):
            done = self.calls[name] = self.calls.get(name, 0) + 1
            after, code = self.failing.get(name, (1 << 30, Code.cudaSuccess))
            if done > after:
                return (code, None)
            result = getattr(self, CALLS[name])(*arguments)
            return (Code.cudaSuccess,) if result is None else (Code.cudaSuccess, *result)

        return call

    def cuda_set_device(self, number):
        assert number == 0

    def cuda_device_get_attribute(self, attribute, number):
        assert (attribute, number) == (Attribute.cudaDevAttrIntegrated, 0)
        return (int(self.integrated),)

    def cuda_mem_get_info(self):
        return self.free, 1 << 34

    def cuda_host_alloc(self, size, flags):
        buffer = (ctypes.c_ubyte * size)()
        ctypes.memset(buffer, 0xAA, size)
        address = ctypes.addressof(buffer)
        self.host[address] = buffer
        self.alive.add(("host", address))
        return (address,)

    def cuda_free_host(self, address):
        self.alive.remove(("host", address))

    def cuda_malloc(self, size):
        address = self.address()
        self.device[address] = Memory(bytearray(b"\xaa" * size))
        self.free -= size
        self.alive.add(("device", address))
        return (address,)

    def cuda_free(self, address):
        self.free += len(self.device.pop(address).data)
        self.alive.remove(("device", address))

    def cuda_stream_create_with_flags(self, flags):
        assert flags == 1, "a stream that waits for the default one serialises everything"
        stream = Stream(len(self.streams) + 7)
        self.streams[stream.number] = stream
        self.alive.add(("stream", stream))
        return (stream,)

    def cuda_stream_destroy(self, stream):
        self.ended_busy |= bool(stream.queue)
        self.alive.remove(("stream", stream))

    def cuda_event_create_with_flags(self, flags):
        event = Event()
        self.alive.add(("event", event))
        return (event,)

    def cuda_event_destroy(self, event):
        self.alive.remove(("event", event))

    def cuda_event_record(self, event, stream):
        event.recorded += 1
        ticket = event.recorded

        def happen():
            event.happened = max(event.happened, ticket)

        self.put(stream, happen)
        event.time = stream.end

    def cuda_stream_wait_event(self, stream, event, flags):
        # The latest record when the wait is queued counts; without one there is no wait.
        ticket = event.recorded
        stream.end = max(stream.end, event.time)
        self.put(stream, lambda: None, able=lambda: event.happened >= ticket)

    def cuda_event_synchronize(self, event):
        ticket = event.recorded
        self.until(lambda: event.happened >= ticket)
        self.now = max(self.now, event.time)

    def cuda_stream_synchronize(self, stream):
        self.until(lambda: not stream.queue)
        self.now = max(self.now, stream.end)

    def cuda_memcpy_async(self, target, source, size, kind, stream):
        def upload():
            memory = self.device[target]
            assert not memory.ready, "overwrites samples that were not computed yet"
            memory.data[:size] = ctypes.string_at(source, size)
            memory.ready = True

        def download():
            memory = self.device[source]
            assert memory.ready, "takes vectors that were not computed yet"
            ctypes.memmove(target, bytes(memory.data[:size]), size)
            memory.ready = False

        up = kind == Kind.cudaMemcpyHostToDevice
        host, device = (source, target) if up else (target, source)
        assert host in self.host, "copies from memory that is not page-locked are not asynchronous"
        assert size <= len(self.device[device].data)
        self.put(stream, upload if up else download, length=UPLOAD if up else DOWNLOAD)

    def compute(self, engine, addresses, number):
        """Queue one run of an engine."""
        stream, given, made = (
            self.streams[number],
            self.device[addresses["input"]],
            self.device[addresses["descriptor"]],
        )

        def run():
            assert given.ready, "computes on samples that were not uploaded yet"
            assert not made.ready, "overwrites vectors that were not downloaded yet"
            samples = np.frombuffer(given.data, np.float32).reshape(engine["input"])
            self.batches.append(len(samples))
            self.seen = samples.copy()
            made.data[:] = answer(samples, engine).tobytes()
            given.ready, made.ready = False, True

        self.put(stream, run, length=COMPUTE)

    def tensorrt(self, *, version=VERSION, rtx=False):
        """Return the module of a flavour, of a version."""
        module = ModuleType("tensorrt")
        module.__version__ = version
        module.TensorIOMode = enum.Enum("TensorIOMode", "NONE INPUT OUTPUT")
        module.EngineValidity = enum.Enum("EngineValidity", "VALID SUBOPTIMAL INVALID")
        module.EngineInvalidityDiagnostics = enum.IntEnum(
            "EngineInvalidityDiagnostics",
            {"VERSION_MISMATCH": 1, "UNSUPPORTED_CC": 2, "INSUFFICIENT_GPU_MEMORY": 16},
        )

        class ILogger:
            Severity = SEVERITY

        module.ILogger = ILogger
        gpu = self

        class Runtime:
            def __init__(self, logger):
                self.logger = logger

            def deserialize_cuda_engine(self, data):
                gpu.calls["deserialize"] = gpu.calls.get("deserialize", 0) + 1
                self.logger.log(SEVERITY.INFO, "loading")
                if gpu.refuses == "engine":
                    self.logger.log(SEVERITY.ERROR, "IRuntime: Error Code 1: no kernel for this GPU")
                    return None
                return Engine(gpu, module, json.loads(bytes(data[64:])), self.logger)

        if rtx:

            def validity(self, data):
                if gpu.refuses == "validity":
                    self.logger.log(SEVERITY.ERROR, "capability 8.7 is not in the engine")
                    return module.EngineValidity.INVALID, 2
                return module.EngineValidity.VALID, 0

            Runtime.get_engine_validity = validity
            module.DynamicShapesKernelSpecializationStrategy = enum.Enum(
                "DynamicShapesKernelSpecializationStrategy", "LAZY EAGER NONE"
            )
        module.Runtime = Runtime
        return module


class Engine:
    def __init__(self, gpu, module, facts, logger):
        self.gpu, self.module, self.facts, self.logger = gpu, module, facts, logger
        self.names = ["input", "descriptor", *facts["others"]]
        self.num_io_tensors = len(self.names)
        if facts["old"]:
            self.device_memory_size = gpu.activations
        else:
            self.device_memory_size_v2 = gpu.activations

    def get_tensor_name(self, number):
        return self.names[number]

    def get_tensor_mode(self, name):
        mode = self.module.TensorIOMode
        return mode.INPUT if name == "input" else mode.OUTPUT

    def get_tensor_dtype(self, name):
        return SimpleNamespace(name=self.facts["type"])

    def get_tensor_shape(self, name):
        return self.facts[name] if name in self.facts else self.facts["others"][name]

    @property
    def num_optimization_profiles(self):
        return len(self.facts["profiles"])

    def get_tensor_profile_shape(self, name, number):
        assert name == "input"
        least, most = self.facts["profiles"][number]
        return [(size, *self.facts["input"][1:]) for size in (least, most, most)]

    def create_runtime_config(self):
        return SimpleNamespace(dynamic_shapes_kernel_specialization_strategy=None)

    def create_execution_context(self, runtime_config=None):
        chosen = getattr(runtime_config, "dynamic_shapes_kernel_specialization_strategy", None)
        self.gpu.specialises = chosen and chosen.name
        if self.gpu.refuses == "context":
            self.logger.log(SEVERITY.ERROR, "OutOfMemory: activations")
            return None
        return Context(self)


class Context:
    def __init__(self, engine):
        self.engine, self.addresses, self.batch = engine, {}, engine.facts["input"][0]
        self.profile, self.switched_on = 0, None

    def set_optimization_profile_async(self, number, stream):
        gpu, facts = self.engine.gpu, self.engine.facts
        assert facts["input"][0] == -1, "a fixed batch needs no profile"
        if gpu.refuses == "profile":
            self.engine.logger.log(SEVERITY.ERROR, "setOptimizationProfileAsync: no memory")
            return False
        self.profile, self.batch = number, -1
        self.switched_on = stream
        return 0 <= number < len(facts["profiles"])

    def set_input_shape(self, name, shape):
        least, most = self.engine.facts["profiles"][self.profile]
        assert name == "input"
        assert list(shape[1:]) == self.engine.facts["input"][1:]
        if not least <= shape[0] <= most:
            self.engine.logger.log(SEVERITY.ERROR, "setInputShape: outside of the profile")
            return False
        self.batch = shape[0]
        return True

    def set_tensor_address(self, name, address):
        assert address in self.engine.gpu.device
        self.addresses[name] = address
        return name in self.engine.names

    def execute_async_v3(self, number):
        assert number != 0, "the default stream serialises everything"
        assert self.batch > 0, "runs without knowing its batch"
        assert set(self.addresses) == set(self.engine.names)
        assert self.switched_on in {None, number}, "computes on a stream that does not wait for the change"
        if self.engine.gpu.refuses == "run":
            self.engine.logger.log(SEVERITY.ERROR, "enqueueV3: Error Code 3")
            return False
        self.engine.gpu.compute(self.engine.facts, dict(self.addresses), number)
        return True


def engine_bytes(
    batch=4,
    sample=(3, 6, 5),
    dimensions=7,
    *,
    version=VERSION,
    old=False,
    others=None,
    kind="FLOAT",
    profiles=((1, 8),),
):
    """Return an engine that the fake TensorRT can load; its first bytes are laid out as real ones are."""
    header = bytearray(64)
    header[:4] = b"ftrt"
    header[24:28] = bytes(map(int, version.split(".")))
    facts = {
        "input": [batch, *sample],
        "descriptor": [batch, dimensions],
        "profiles": profiles,
        "others": others or {},
        "old": old,
        "type": kind,
    }
    return bytes(header) + json.dumps(facts).encode()


def answer(samples, facts=None, *, dimensions=7):
    """Return what the fake engine answers to samples."""
    dimensions = facts["descriptor"][1] if facts else dimensions
    flat = samples.reshape(len(samples), int(np.prod(samples.shape[1:]))).astype(np.float64)
    weights = np.sin(np.arange(flat.shape[1] * dimensions, dtype=np.float64)).reshape(-1, dimensions)
    # Row by row: a product of whole matrices may add up in another order for another number of rows.
    return np.array([row @ weights for row in flat], np.float32).reshape(len(samples), dimensions)
