"""The port `EngineCompiler`, with the job that it takes and the engine that it returns."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from store.base.canonical_json import Document
from store.base.preprocessing import Preprocessing
from store.base.valueclass import valueclass

DEFAULT_BATCH = 8
"""Fixed batch of an engine unless the request names one.

On a CPU it hardly matters: the built-in network takes 1.38 to 1.41 ms per sample at every batch from 1 to 32,
and large networks differ by a tenth. On a GPU a single sample leaves most of it idle. But a single query on
board costs a whole batch; where only that counts, ask for 1.
"""

Role = Literal["descriptor", "auxiliary"]


@valueclass(frozen=True, slots=True, kw_only=True)
class ShapeRange:
    """Optimisation profile of an input with variable sizes, each shape with its batch dimension."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]


@valueclass(frozen=True, slots=True, kw_only=True)
class EngineJob:
    """One network to be compiled.

    Attributes:
        model: Name of the network, unique in a build.
        role: "descriptor" networks take images and give one vector each; "auxiliary" ones are only compiled.
        onnx: The network's file; external weights are beside it.
        onnx_sha256: Its `onnx_digest`; a file that has changed since is refused.
        input: Name of the image input.
        output: Name of the descriptor output.
        sample_shape: Shape of one preprocessed sample, without batch; empty for an auxiliary network.
        batch: Fixed batch size.
        single: Whether one sample alone should cost one sample, for backends that can; the engine then takes
            batches of one too, and gives one sample the same answer as in a batch.
        precision: "fp32", "fp16" or "bf16".
        quantized: Whether the network computes with integers of 8 bits; see `Declaration.quantized`.
        target: What `EngineCompiler.target` returned.
        workspace_mb: Limit on the compiler's scratch memory in MiB, None for the backend's own.
        timeout_s: Longest time for this compile in seconds.
        tf32: Whether matrix products in fp32 may use 19-bit arithmetic.
        profile: Optimisation profile, for backends that know them.
        plugins: Libraries with further operators, each with its SHA-256, for backends that take them.
        timing_cache: Kernel timings of an earlier compile, for backends that use them; in no key.
        preprocessing: Turns golden images into samples when a conversion is measured; changes no engine.
        least_cosine: Least agreement of a converted graph with the original, None for the usual one of its
            precision; changes no engine.
    """

    model: str
    role: Role
    onnx: Path
    onnx_sha256: str
    input: str
    output: str
    sample_shape: tuple[int, ...]
    batch: int = DEFAULT_BATCH
    single: bool = False
    precision: str = "fp32"
    quantized: bool = False
    target: str
    workspace_mb: int | None = None
    timeout_s: float = 3600.0
    tf32: bool = False
    profile: ShapeRange | None = None
    plugins: tuple[tuple[Path, str], ...] = ()
    timing_cache: bytes | None = None
    preprocessing: Preprocessing | None = None
    least_cosine: float | None = None


@valueclass(frozen=True, slots=True, kw_only=True)
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


@valueclass(frozen=True, slots=True, kw_only=True)
class CompiledEngine:
    """A compile that succeeded.

    Attributes:
        path: The engine, in the scratch folder that was given.
        seconds: How long it took.
        log: The last 64 KiB of the compiler's output.
        signature: Its tensors.
        timing_cache: The compiler's kernel timings, if the backend keeps them.
    """

    path: Path
    seconds: float
    log: str
    signature: EngineSignature
    timing_cache: bytes | None = None


OnProgress = Callable[[Mapping[str, Any]], None]
"""Called with plain data: at least `phase` (str); `done` and `total` (int) where they are known."""


class EngineCompiler(Protocol):
    """Turns networks into engines for one device, one after the other."""

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
        """Tell whether this machine runs engines for a target; if not, a stand-in embeds the tiles."""
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
            CompileError: Its kind distinguishes a failure, a crash, a lack of memory and a time-out.
        """
        ...
