"""Drives TensorRT or TensorRT for RTX from an ONNX graph to the bytes of an engine. Runs in a child process.

One code for both libraries and for 10.x and 11.x. Networks are strongly typed on every version: types live in the graph,
no flag changes them. What a version lacks is asked for by name before it is used; no version number is compared.

The library fails by value, and tells why only to its logger: nothing here may go without looking at both. Its objects
refer to each other without keeping each other alive, so they are kept together.
"""

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

from pipeline.engines.backends.tensorrt_messages import ParseError, build_failure, parse_failure
from pipeline.engines.backends.tensorrt_progress import BuildPhases
from pipeline.engines.port import ShapeRange
from pipeline.errors import CompileError, ErrorKind
from store.runtime.backends.gpu import PORTABLE

Untyped = Any
"""An object of a library that carries no types."""

_LINE_LIMIT: Final = 4_000
_KEPT: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """How an engine is built.

    Attributes:
        model: Name of the network, for messages.
        library: Name and version of the library, for messages.
        target: The device: "portable", capabilities with plus signs, or this machine's GPU.
        tf32: Whether 19-bit matrix arithmetic may stand in for fp32.
        workspace_mb: Limit on scratch memory in MiB, None for the library's own.
        ranges: Shapes of inputs with an open size.
        timing_cache: From an earlier build; None where the library keeps none.
        plugins: Paths of libraries with further operators.
    """

    model: str
    library: str
    target: str
    tf32: bool
    workspace_mb: int | None
    ranges: Mapping[str, ShapeRange]
    timing_cache: bytes | None
    plugins: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What came out: the engine, and what was learnt about kernels if the library keeps that."""

    engine: bytes
    timing_cache: bytes | None


class TensorRtSession:
    """A builder with its network, from the first object to the engine.

    Attributes:
        errors: What the library logged as errors, the last 200.
    """

    def __init__(self, trt: ModuleType, options: BuildOptions, nodes: Mapping[str, str]) -> None:
        """Create a builder and an empty network.

        Args:
            trt: The library.
            options: How to build.
            nodes: Operator of each node of the network that will come, by name, for messages.

        Raises:
            CompileError: BACKEND_UNAVAILABLE, the library refuses to work here; BAD_MODEL, a plug-in does not load.
        """
        self._trt: Untyped = trt
        self._options = options
        self._nodes = nodes
        self.errors: list[str] = []
        self._logger = _logger(self._trt, self.errors)
        try:
            self._builder: Untyped = self._trt.Builder(self._logger)
        except (TypeError, RuntimeError) as error:
            # A factory that gives nothing shows as a TypeError; why is in the log.
            raise CompileError(
                f"expected {options.library} to work on this machine, found: {'; '.join(self.errors[-2:]) or error}",
                hint='build on the device, or choose engine.backend = "tensorrt-rtx" or "onnxruntime"',
                kind=ErrorKind.BACKEND_UNAVAILABLE,
                subject=options.model,
            ) from error
        self._load_plugins()
        self._network: Untyped = self._builder.create_network(_creation_flags(self._trt))
        self._parser: Untyped = self._trt.OnnxParser(self._network, self._logger)

    def parse(self, model: bytes) -> None:
        """Take in a network.

        Raises:
            CompileError: BAD_MODEL, with every node that the library does not take.
        """
        if not self._parser.parse(model):
            errors = [_complaint(self._parser.get_error(number)) for number in range(self._parser.num_errors)]
            raise parse_failure(errors, library=self._options.library, model=self._options.model)

    def shape_inputs(self) -> list[str]:
        """Return the inputs whose values decide the shapes of others: no profile here tells what they may be."""
        network = self._network
        tensors = (network.get_input(number) for number in range(network.num_inputs))
        return [tensor.name for tensor in tensors if tensor.is_shape_tensor]

    def tensor_shapes(
        self, input_name: str, output_name: str, *, floats: bool
    ) -> tuple[list[int], list[int]]:
        """Return the shapes of an input and an output of the network, -1 for open sizes.

        Raises:
            CompileError: BAD_MODEL, the network has no such tensor; or not in float32, where they must be `floats`.
        """
        network = self._network
        inputs = [network.get_input(number) for number in range(network.num_inputs)]
        outputs = [network.get_output(number) for number in range(network.num_outputs)]
        first, second = (
            self._shape(role, name, tensors, floats=floats)
            for role, name, tensors in (("input", input_name, inputs), ("output", output_name, outputs))
        )
        return first, second

    def build(self, on_phase: Callable[[BuildPhases], bool]) -> Built:
        """Make the engine.

        Args:
            on_phase: Told of how far it has come; the build is cancelled when it gives False.

        Raises:
            CompileError: COMPILE_FAILED, COMPILE_OUT_OF_MEMORY or COMPILE_CANCELLED.
        """
        config: Untyped = self._builder.create_builder_config()
        self._set_options(config)
        cache = self._take_timing_cache(config)
        monitor = _monitor(self._trt, on_phase)
        config.progress_monitor = monitor
        memory = self._builder.build_serialized_network(self._network, config)
        if monitor.cancelled:
            raise CompileError(
                "expected to be left to finish, found that the build was cancelled",
                hint="run it again",
                kind=ErrorKind.COMPILE_CANCELLED,
                subject=self._options.model,
            )
        engine = b"" if memory is None else bytes(memory)
        if not engine:
            raise build_failure(
                self.errors,
                self._nodes,
                library=self._options.library,
                model=self._options.model,
            )
        return Built(engine=engine, timing_cache=None if cache is None else bytes(cache.serialize()))

    def _shape(self, role: str, name: str, tensors: Sequence[Untyped], *, floats: bool) -> list[int]:
        for tensor in tensors:
            if tensor.name == name:
                if floats and tensor.dtype != self._trt.DataType.FLOAT:
                    break
                return [int(size) for size in tensor.shape]
        raise CompileError(
            f"expected the network to have {'a float32' if floats else 'an'} {role} {name!r}, found "
            f"{', '.join(f'{tensor.name!r} {tensor.dtype}' for tensor in tensors)}",
            hint=f"name the {role} of the model",
            kind=ErrorKind.BAD_MODEL,
            subject=self._options.model,
        )

    def _load_plugins(self) -> None:
        if not self._options.plugins:
            return
        registry: Untyped = self._builder.get_plugin_registry()
        for path in self._options.plugins:
            if registry.load_library(path) is None:
                raise CompileError(
                    f"expected a library of plug-ins for {self._options.library}, found one that does not load: "
                    f"{'; '.join(self.errors[-2:])}",
                    hint="build the library for this version, or remove it from engine.plugins",
                    kind=ErrorKind.BAD_MODEL,
                    subject=self._options.model,
                )

    def _set_options(self, config: Untyped) -> None:
        trt, options = self._trt, self._options
        flag = trt.BuilderFlag.TF32
        if options.tf32:
            config.set_flag(flag)
        else:
            config.clear_flag(flag)
        if options.workspace_mb is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mb << 20)
        # This machine's GPU ("sm87:Orin") is what the library compiles for anyway.
        if hasattr(trt, "ComputeCapability") and options.target != PORTABLE and ":" not in options.target:
            names = options.target.upper().split("+")
            config.num_compute_capabilities = len(names)
            for place, name in enumerate(names):
                config.set_compute_capability(trt.ComputeCapability.__members__[name], place)
        if options.ranges:
            profile: Untyped = self._builder.create_optimization_profile()
            for name, each in options.ranges.items():
                profile.set_shape(name, each.min, each.opt, each.max)
            if config.add_optimization_profile(profile) < 0:
                raise CompileError(
                    f"expected an optimisation profile that fits the network, found {dict(options.ranges)}: "
                    f"{'; '.join(self.errors[-2:])}",
                    hint="mend the profile of the model",
                    kind=ErrorKind.BAD_MODEL,
                    subject=options.model,
                )

    def _take_timing_cache(self, config: Untyped) -> Untyped:
        """Give the builder what an earlier build learnt; a cache from elsewhere is left aside, never forced."""
        if self._options.timing_cache is None:
            return None
        for data in dict.fromkeys((self._options.timing_cache, b"")):
            cache: Untyped = config.create_timing_cache(data)
            if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
                return cache
        return None


def _creation_flags(trt: Untyped) -> int:
    kinds = trt.NetworkDefinitionCreationFlag
    return 1 << int(kinds.STRONGLY_TYPED) if hasattr(kinds, "STRONGLY_TYPED") else 0


def _complaint(error: Untyped) -> ParseError:
    return ParseError(
        code=str(error.code()).rpartition(".")[2],
        operator=str(error.node_operator() or ""),
        node=str(error.node_name() or ""),
        text=str(error.desc() or ""),
        within=tuple(str(each) for each in error.local_function_stack() or ()),
    )


def _logger(trt: Untyped, errors: list[str]) -> Untyped:
    kinds = trt.ILogger

    class Logger(trt.ILogger):  # type: ignore[misc] # a base without types
        """Puts what matters on standard error, which the parent keeps, and remembers the errors."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Untyped, message: str) -> None:
            if severity in {kinds.Severity.VERBOSE, kinds.Severity.INFO}:
                return
            line = message.strip()[:_LINE_LIMIT]
            if severity in {kinds.Severity.ERROR, kinds.Severity.INTERNAL_ERROR}:
                errors.append(line)
                del errors[:-_KEPT]
            sys.stderr.write(f"[{severity.name}] {line}\n")
            sys.stderr.flush()

    return Logger()


def _monitor(trt: Untyped, on_phase: Callable[[BuildPhases], bool]) -> Untyped:

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc] # a base without types
        """Follows the phases of a build, which several threads may report."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.cancelled = False
            self._phases = BuildPhases()
            self._lock = threading.Lock()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self._lock:
                self._phases.start(phase_name, parent_phase, num_steps)
                self._tell()

        def step_complete(self, phase_name: str, step: int) -> bool:
            with self._lock:
                self._phases.step(phase_name, step)
                self._tell()
                return not self.cancelled

        def phase_finish(self, phase_name: str) -> None:
            with self._lock:
                self._phases.finish(phase_name)

        def _tell(self) -> None:
            self.cancelled = self.cancelled or not on_phase(self._phases)

    return Monitor()
