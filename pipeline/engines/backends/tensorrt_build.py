"""Build an engine from an ONNX graph with TensorRT or TensorRT for RTX. Runs in a child process.

The same code serves both libraries, in versions 10 and 11. Networks are strongly typed: the types are in the
graph and no flag changes them. Before something is used that a version may lack, it is looked up by name; no
version number is compared.

The library fails by its return value and says why only to its logger, so both must be checked. Its objects
refer to each other without keeping each other alive, so they are kept together.
"""

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Final

from pipeline.engines.backends.compile_steps import Shapes
from pipeline.engines.backends.tensorrt_messages import ParseError, build_failure, parse_failure
from pipeline.engines.backends.tensorrt_progress import BuildPhases
from pipeline.engines.onnx.declaration import bad_model
from pipeline.engines.port import EngineJob, ShapeRange
from pipeline.errors import CompileError, ErrorKind
from store.runtime.backends.base import Untyped
from store.runtime.backends.gpu import PORTABLE

_MAX_LINE: Final = 4_000
_MAX_ERRORS: Final = 200


class TensorRtSession:
    """A builder with its network, from the first object to the engine."""

    def __init__(
        self,
        trt: ModuleType,
        job: EngineJob,
        *,
        library: str,
        plugins: Sequence[str],
        nodes: Mapping[str, str],
    ) -> None:
        """Create a builder and an empty network.

        Args:
            trt: The library.
            job: What to build. Its timing cache is None where the library keeps none.
            library: Name and version of the library, for messages.
            plugins: Paths of libraries with further operators.
            nodes: Operator of each node of the job's network, by name, for messages.

        Raises:
            CompileError: BACKEND_UNAVAILABLE, the library refuses to work here; BAD_MODEL, a plug-in does not
                load.
        """
        self._trt: Untyped = trt
        self._job = job
        self._library = library
        self._nodes = nodes
        self._errors: list[str] = []
        self._logger = _logger(self._trt, self._errors)
        try:
            self._builder: Untyped = self._trt.Builder(self._logger)
        except (TypeError, RuntimeError) as error:
            # A factory that returns nothing becomes a TypeError; the log says why.
            raise CompileError(
                f"expected {library} to work on this machine, found: {self._last_errors() or error}",
                hint='build on the device, or choose engine.backend = "tensorrt-rtx" or "onnxruntime"',
                kind=ErrorKind.BACKEND_UNAVAILABLE,
                subject=job.model,
            ) from error
        for path in plugins:
            self._load_plugin(path)
        self._network: Untyped = self._builder.create_network(_creation_flags(self._trt))
        self._parser: Untyped = self._trt.OnnxParser(self._network, self._logger)

    def parse(self, model: bytes) -> None:
        """Read a network from its bytes.

        Raises:
            CompileError: BAD_MODEL, with every node that the library does not take.
        """
        if not self._parser.parse(model):
            errors = [
                _parse_error(self._parser.get_error(number)) for number in range(self._parser.num_errors)
            ]
            raise parse_failure(errors, library=self._library, model=self._job.model)

    def shape_inputs(self) -> list[str]:
        """Return the inputs whose values decide the shapes of other tensors; no profile gives such values."""
        network = self._network
        tensors = (network.get_input(number) for number in range(network.num_inputs))
        return [tensor.name for tensor in tensors if tensor.is_shape_tensor]

    def tensor_shapes(self) -> Shapes:
        """Return the shapes of the job's input and output.

        Raises:
            CompileError: BAD_MODEL, the network has no such tensor, or a descriptor network has it not in
                float32.
        """
        network = self._network
        inputs = [network.get_input(number) for number in range(network.num_inputs)]
        outputs = [network.get_output(number) for number in range(network.num_outputs)]
        return (
            self._shape("input", self._job.input, inputs),
            self._shape("output", self._job.output, outputs),
        )

    def build(
        self, profiles: Sequence[Mapping[str, ShapeRange]], on_phase: Callable[[BuildPhases], bool]
    ) -> tuple[bytes, bytes | None]:
        """Build the engine; return it with its timing cache, None where the library keeps none.

        Args:
            profiles: Optimisation profiles, each with the shapes of all inputs with an open size.
            on_phase: Called with the progress; the build is cancelled when it returns False.

        Raises:
            CompileError: COMPILE_FAILED, COMPILE_OUT_OF_MEMORY or COMPILE_CANCELLED.
        """
        config: Untyped = self._builder.create_builder_config()
        self._set_options(config)
        for ranges in profiles:
            self._add_profile(config, ranges)
        cache = self._load_timing_cache(config)
        monitor = _monitor(self._trt, on_phase)
        config.progress_monitor = monitor
        memory = self._builder.build_serialized_network(self._network, config)
        if monitor.cancelled:
            raise CompileError(
                "expected to be left to finish, found that the build was cancelled",
                hint="run it again",
                kind=ErrorKind.COMPILE_CANCELLED,
                subject=self._job.model,
            )
        engine = b"" if memory is None else bytes(memory)
        if not engine:
            raise build_failure(self._errors, self._nodes, library=self._library, model=self._job.model)
        return engine, None if cache is None else bytes(cache.serialize())

    def _last_errors(self) -> str:
        return "; ".join(self._errors[-2:])

    def _shape(self, what: str, name: str, tensors: Sequence[Untyped]) -> list[int]:
        floats = self._job.role == "descriptor"
        for tensor in tensors:
            if tensor.name == name:
                if floats and tensor.dtype != self._trt.DataType.FLOAT:
                    break
                return [int(size) for size in tensor.shape]
        raise bad_model(
            f"expected the network to have {'a float32' if floats else 'an'} {what} {name!r}, found "
            f"{', '.join(f'{tensor.name!r} {tensor.dtype}' for tensor in tensors)}",
            f"name the {what} of the model",
            self._job.model,
        )

    def _load_plugin(self, path: str) -> None:
        registry: Untyped = self._builder.get_plugin_registry()
        if registry.load_library(path) is None:
            raise bad_model(
                f"expected a library of plug-ins for {self._library}, found one that does not load: "
                f"{self._last_errors()}",
                "build the library for this version, or remove it from engine.plugins",
                self._job.model,
            )

    def _set_options(self, config: Untyped) -> None:
        trt, job = self._trt, self._job
        flag = trt.BuilderFlag.TF32
        if job.tf32:
            config.set_flag(flag)
        else:
            config.clear_flag(flag)
        if job.workspace_mb is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, job.workspace_mb << 20)
        # For this machine's GPU ("sm87:Orin") the library compiles by default.
        if hasattr(trt, "ComputeCapability") and job.target != PORTABLE and ":" not in job.target:
            names = job.target.upper().split("+")
            config.num_compute_capabilities = len(names)
            for place, name in enumerate(names):
                config.set_compute_capability(trt.ComputeCapability.__members__[name], place)

    def _add_profile(self, config: Untyped, ranges: Mapping[str, ShapeRange]) -> None:
        profile: Untyped = self._builder.create_optimization_profile()
        for name, each in ranges.items():
            profile.set_shape(name, each.min, each.opt, each.max)
        if config.add_optimization_profile(profile) < 0:
            raise bad_model(
                f"expected an optimisation profile that fits the network, found {dict(ranges)}: "
                f"{self._last_errors()}",
                "correct the profile of the model",
                self._job.model,
            )

    def _load_timing_cache(self, config: Untyped) -> Untyped:
        """Give the builder the timing cache of an earlier build, or an empty one where that does not fit."""
        if self._job.timing_cache is None:
            return None
        for data in dict.fromkeys((self._job.timing_cache, b"")):
            cache: Untyped = config.create_timing_cache(data)
            if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
                return cache
        return None


def _creation_flags(trt: Untyped) -> int:
    kinds = trt.NetworkDefinitionCreationFlag
    return 1 << int(kinds.STRONGLY_TYPED) if hasattr(kinds, "STRONGLY_TYPED") else 0


def _parse_error(error: Untyped) -> ParseError:
    return ParseError(
        code=str(error.code()).rpartition(".")[2],
        operator=str(error.node_operator() or ""),
        node=str(error.node_name() or ""),
        text=str(error.desc() or ""),
        within=tuple(str(each) for each in error.local_function_stack() or ()),
    )


def _logger(trt: Untyped, errors: list[str]) -> Untyped:
    kinds = trt.ILogger

    class BuildLogger(trt.ILogger):  # type: ignore[misc] # a base without types
        """Writes warnings and errors to standard error, which the parent keeps, and collects the errors."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Untyped, message: str) -> None:
            if severity in {kinds.Severity.VERBOSE, kinds.Severity.INFO}:
                return
            line = message.strip()[:_MAX_LINE]
            if severity in {kinds.Severity.ERROR, kinds.Severity.INTERNAL_ERROR}:
                errors.append(line)
                del errors[:-_MAX_ERRORS]
            sys.stderr.write(f"[{severity.name}] {line}\n")
            sys.stderr.flush()

    return BuildLogger()


def _monitor(trt: Untyped, on_phase: Callable[[BuildPhases], bool]) -> Untyped:

    class BuildMonitor(trt.IProgressMonitor):  # type: ignore[misc] # a base without types
        """Follows the phases of a build, which several threads may report."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.cancelled = False
            self._phases = BuildPhases()
            self._lock = threading.Lock()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self._lock:
                self._phases.start(phase_name, parent_phase, num_steps)
                self._report()

        def step_complete(self, phase_name: str, step: int) -> bool:
            with self._lock:
                self._phases.step(phase_name, step)
                self._report()
                return not self.cancelled

        def phase_finish(self, phase_name: str) -> None:
            with self._lock:
                self._phases.finish(phase_name)

        def _report(self) -> None:
            self.cancelled = self.cancelled or not on_phase(self._phases)

    return BuildMonitor()
