"""The EngineCompiler port: what the build asks of a backend, and what it gets back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from store.base.canonical_json import Document
from store.base.preprocessing import Preprocessing

DEFAULT_BATCH = 8
"""Fixed batch of an engine unless the request names one.

On a CPU it hardly matters: the embedded descriptor takes 1.38 to 1.41 ms per sample at every batch from 1 to 32, large
networks differ by a tenth. On a GPU a single sample leaves most of it idle. Against large batches speaks that a single
query on board costs a whole one; where only that counts, ask for 1.
"""

Role = Literal["descriptor", "auxiliary"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeRange:
    """Optimisation profile of an input with variable sizes, each shape with its batch dimension."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineJob:
    """One network to be compiled.

    Attributes:
        model: Name of the network, unique in a build.
        role: "descriptor" networks take images and give one vector each; "auxiliary" ones are only compiled.
        onnx: The network's file. External weights lie beside it.
        onnx_sha256: What `onnx_digest` said of it; a file that has changed since is refused.
        input: Name of the image input.
        output: Name of the descriptor output.
        sample_shape: Shape of one preprocessed sample, without batch; empty for an auxiliary network.
        batch: Fixed batch size.
        precision: "fp32", "fp16" or "bf16".
        target: What `EngineCompiler.target` returned.
        workspace_mb: Limit on the compiler's scratch memory in MiB, None for the backend's own.
        timeout_s: Longest time for this compile in seconds.
        tf32: Whether 19-bit matrix arithmetic may stand in for fp32.
        profile: Optimisation profile, for backends that know them.
        plugins: Libraries with operators of their own, each with the SHA-256 of its bytes, for backends that
            take them.
        timing_cache: What an earlier compile learnt about kernels, for backends that keep it. It saves time
            and belongs to no key.
        preprocessing: The image contract, by which golden images become samples when a conversion is
            measured; it changes no engine.
        least_cosine: What a converted graph must agree to with the one given, None for the usual of its
            precision; it changes no engine.
    """

    model: str
    role: Role
    onnx: Path
    onnx_sha256: str
    input: str
    output: str
    sample_shape: tuple[int, ...]
    batch: int = DEFAULT_BATCH
    precision: str = "fp32"
    target: str
    workspace_mb: int | None = None
    timeout_s: float = 3600.0
    tf32: bool = False
    profile: ShapeRange | None = None
    plugins: tuple[tuple[Path, str], ...] = ()
    timing_cache: bytes | None = None
    preprocessing: Preprocessing | None = None
    least_cosine: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSignature:
    """Tensors of a compiled engine.

    Attributes:
        input: Name of the input.
        input_shape: Its shape with batch; -1 where an auxiliary engine takes any size.
        output: Name of the output.
        output_shape: Its shape with batch.
    """

    input: str
    input_shape: tuple[int, ...]
    output: str
    output_shape: tuple[int, ...]

    @property
    def dimensions(self) -> int:
        """Length of one descriptor."""
        return self.output_shape[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledEngine:
    """A compile that succeeded.

    Attributes:
        path: The engine, in the scratch folder that was given.
        seconds: How long it took.
        log: What the compiler said, last 64 KiB.
        signature: Its tensors.
        timing_cache: What the compiler learnt about kernels, if the backend keeps it.
    """

    path: Path
    seconds: float
    log: str
    signature: EngineSignature
    timing_cache: bytes | None = None


OnProgress = Callable[[Mapping[str, Any]], None]
"""Called with plain data: at least `phase` (str); `done` and `total` (int) where they are known."""


class EngineCompiler(Protocol):
    """Turns a network into an engine for one device. Implementations may be called for several models in turn."""

    @property
    def backend(self) -> str:
        """Name under which the runtime executes these engines."""
        ...

    @property
    def version(self) -> str:
        """Full version of the compiling library; engines run under exactly this one.

        Raises:
            CompileError: BACKEND_UNAVAILABLE, the library is not installed.
        """
        ...

    def target(self, requested: str | None) -> str:
        """Return the device that engines are compiled for, or this machine's when none is requested.

        Raises:
            CompileError: The backend cannot compile for the requested device here.
        """
        ...

    def runs_here(self, target: str) -> bool:
        """Tell whether this machine executes engines that were compiled for a target.

        Where it does not, tiles are embedded by a stand-in: an engine of the same network for this machine.
        """
        ...

    def key_components(self, job: EngineJob) -> Document:
        """Return everything the engine depends on, by name; never a path. See `store.base.identity`.

        Raises:
            CompileError: The backend does not offer what the job asks for.
        """
        ...

    def compile(
        self, job: EngineJob, *, scratch: Path, on_progress: OnProgress | None = None
    ) -> CompiledEngine:
        """Compile in a child process.

        Args:
            job: What to compile.
            scratch: An existing folder for the result and for temporary files.
            on_progress: Called as the compiler reports.

        Raises:
            CompileError: Its kind tells a failure from a crash, a lack of memory and a time-out.
        """
        ...
