"""Fakes for every port of a build, for tests of the provisioner and of everything above it.

They do as little work as a build allows, always the same for the same inputs, and record what they were asked
for. All fakes of a build share one `Calls`. A fault that is planted there happens when the call of that name
is made: an error is raised, a file is changed, or the process dies.

The engine that the fake compiler makes is the network itself, which the real runtime loads, so checks of
engines and indexes stay real. The network must therefore have a fixed batch.
"""

import hashlib
import os
import signal
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.embed.batcher import OnDispatch, OnRetry, OnUnits
from pipeline.embed.cells import Window
from pipeline.embed.worker_messages import BadImage, EngineSpec, WindowResult
from pipeline.engines.backends.onnxruntime import OnnxRuntimeCompiler
from pipeline.engines.port import CompiledEngine, EngineJob, EngineSignature, OnProgress
from pipeline.index.faiss_builder import BuiltIndex, FaissIndexBuilder, OnRows
from pipeline.index.plan import IndexPlan
from pipeline.request.geometry import BoxE7
from pipeline.tiles.grid import tile_ranges
from pipeline.tiles.tile import Extent, Place, SourceTile, ZoomRange
from store.base.canonical_json import Document
from store.base.preprocessing import Preprocessing
from store.formats.descriptor_block import Block

TEXTURED = 50.0
"""Texture score of a fake tile, far above the featureless ones."""

_DOC_STRING = 0x32
"""Tag of `doc_string` in an ONNX file; a protocol buffer may be extended by appending fields."""

Vectors = NDArray[np.float32]
Fault = Callable[[], None]


def raising(error: BaseException) -> Fault:
    """Return a fault that raises."""

    def fault() -> None:
        raise error

    return fault


def kill_this_process() -> None:
    """End this process as `kill -9` does, without handlers or cleaning up."""
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(slots=True)
class Calls:
    """The calls of all fakes, in order, and the faults planted in them.

    Attributes:
        made: Names of the calls: "compile MODEL", "embed", "window NUMBER", "index".
        faults: Name of a call to the fault that happens in it.
    """

    made: list[str] = field(default_factory=list)
    faults: dict[str, Fault] = field(default_factory=dict)

    def record(self, name: str) -> None:
        """Record a call, and let its fault happen."""
        self.made.append(name)
        fault = self.faults.get(name)
        if fault is not None:
            fault()


@dataclass(kw_only=True)
class FakeCompiler(OnnxRuntimeCompiler):
    """Returns networks as engines of ONNX Runtime.

    Attributes:
        calls: Where calls are recorded.
        dimensions: Length of the descriptors of every network.
        edition: Another edition gives engines of other bytes that compute the same.
        instead: Model name to the file that is returned as its engine.
        device: The target of its engines; None for the processor. Only engines for the processor run here.
        timing_cache: The timing cache that every compile returns.
        given_timing_caches: The timing caches that compiles were given.
    """

    calls: Calls
    dimensions: int = 16
    edition: str = ""
    instead: dict[str, Path] = field(default_factory=dict)
    device: str | None = None
    timing_cache: bytes | None = None
    given_timing_caches: list[bytes | None] = field(default_factory=list)

    def target(self, requested: str | None) -> str:
        """Return the device; see `EngineCompiler.target`."""
        return self.device or super().target(requested)

    def key_components(self, job: EngineJob) -> Document:
        """Return what an engine depends on; see `EngineCompiler.key_components`."""
        if self.device is None:
            return super().key_components(job)
        # Another device may support a precision that the processor does not.
        return {**super().key_components(replace(job, precision="fp32")), "precision": job.precision}

    def compile(
        self, job: EngineJob, *, scratch: Path, on_progress: OnProgress | None = None
    ) -> CompiledEngine:
        """Copy the network; see `EngineCompiler.compile`."""
        self.calls.record(f"compile {job.model}" + (f" for {self.device}" if self.device else ""))
        self.given_timing_caches.append(job.timing_cache)
        path, text = scratch / "engine", self.edition.encode()
        data = self.instead.get(job.model, job.onnx).read_bytes()
        path.write_bytes(data + bytes([_DOC_STRING, len(text)]) + text if text else data)
        if on_progress is not None:
            on_progress({"phase": "copied", "done": 1, "total": 1})
        return CompiledEngine(
            path=path,
            seconds=0.0,
            log="copied",
            signature=EngineSignature(
                input=job.input,
                input_shape=(job.batch, *job.sample_shape),
                output=job.output,
                output_shape=(job.batch, self.dimensions),
            ),
            timing_cache=self.timing_cache,
        )


@dataclass(slots=True, kw_only=True)
class FakeBatcher:
    """Makes unit vectors of the digests of units, without looking at the tiles.

    Attributes:
        calls: Where calls are recorded.
        bad: Digest to kind and message, for tiles that get no descriptor.
        featureless: Digests of tiles without texture.
        spoil: Changes the vectors of every window.
        embedded: Digests that were embedded, in order.
    """

    calls: Calls
    bad: dict[str, tuple[str, str]] = field(default_factory=dict)
    featureless: set[str] = field(default_factory=set)
    spoil: Callable[[Vectors], Vectors] | None = None
    embedded: list[str] = field(default_factory=list)

    def embed(
        self,
        windows: Iterable[Window],
        *,
        engine: EngineSpec,
        preprocessing: Preprocessing,  # noqa: ARG002 - the port's signature
        on_dispatch: OnDispatch | None = None,
        on_progress: OnUnits | None = None,
        on_retry: OnRetry | None = None,  # noqa: ARG002 - the port's signature
    ) -> Generator[WindowResult, None, None]:
        """Embed windows; see `DescriptorBatcher.embed`."""
        self.calls.record("embed")
        for window in windows:
            if on_dispatch is not None:
                on_dispatch(window)
            self.calls.record(f"window {window.number}")
            result = self._result(window, engine.dimensions)
            self.embedded.extend(result.units.hex_digests)
            if on_progress is not None:
                on_progress(len(result.units))
            yield result

    def _result(self, window: Window, dimensions: int) -> WindowResult:
        digests = window.units.hex_digests
        units = window.units.take(np.array([digest not in self.bad for digest in digests], np.bool_))
        good = units.hex_digests
        vectors = np.array([fake_vector(digest, dimensions) for digest in good], np.float32)
        vectors = vectors.reshape(len(good), dimensions)
        return WindowResult(
            window=window,
            units=units,
            vectors=vectors if self.spoil is None else self.spoil(vectors),
            texture=np.array(
                [0.0 if digest in self.featureless else TEXTURED for digest in good], np.float32
            ),
            without=tuple(digest for digest in digests if digest in self.bad),
            bad=tuple(
                BadImage(
                    identifier=identifier,
                    sha256=digest,
                    kind=self.bad[digest][0],
                    message=self.bad[digest][1],
                )
                for identifier, digest in zip(window.units.ids.tolist(), digests, strict=True)
                if digest in self.bad
            ),
        )


@dataclass(kw_only=True)
class FakeIndexBuilder(FaissIndexBuilder):
    """Builds with faiss, which is quick for few rows.

    Attributes:
        calls: Where calls are recorded.
        wrong: Whether the index holds the opposite of every vector, so that no tile finds itself.
    """

    calls: Calls
    wrong: bool = False

    def build(
        self,
        rows: Iterable[Block],
        count: int,
        dimensions: int,
        plan: IndexPlan,
        *,
        fd_path: str,
        on_progress: OnRows | None = None,
    ) -> BuiltIndex:
        """Write the index; see `FaissIndexBuilder.build`."""
        self.calls.record("index")
        if self.wrong:
            rows = [replace(block, vectors=-block.vectors) for block in rows]
        return super().build(rows, count, dimensions, plan, fd_path=fd_path, on_progress=on_progress)


@dataclass(slots=True, kw_only=True)
class FakeTiles:
    """A source of tiles in memory: place to content.

    Attributes:
        tiles: The content of each tile; only its digest matters.
        queries: Number of queries.
    """

    tiles: Mapping[tuple[int, int, int], bytes]
    queries: int = 0

    @property
    def name(self) -> str:
        """Its name in messages."""
        return "fake tiles"

    @property
    def tile_format(self) -> str:
        """The encoding of the tiles."""
        return "png"

    def query_by_bbox(self, bbox_e7: BoxE7, zoom: ZoomRange) -> list[SourceTile]:
        """Return the tiles of a box; see `TileMetadataStore.query_by_bbox`."""
        self.queries += 1
        wanted = tile_ranges(bbox_e7, zoom)
        return [
            SourceTile(
                z=z,
                x=x,
                y=y,
                sha256=hashlib.sha256(content).hexdigest(),
                size=len(content),
                captured=None,
                locator=("file", f"/fake/{z}/{x}/{y}"),
            )
            for (z, x, y), content in sorted(self.tiles.items())
            if any(part.z == z and part.x0 <= x <= part.x1 and part.y0 <= y <= part.y1 for part in wanted)
        ]

    def extent(self) -> Extent:
        """Return the area that it covers; see `TileMetadataStore.extent`."""
        zooms = sorted({Place(*place).z for place in self.tiles})
        return Extent(zoom=(zooms[0], zooms[-1]) if zooms else None, box_e7=None)


@dataclass(slots=True)
class RecordingProgress:
    """Keeps every progress report.

    Attributes:
        steps: Each step: its name, total, units done, and the note at its end, None if it has not ended.
        said: Lines for people.
        on_start: Called with the name of each step that begins.
    """

    steps: list[tuple[str, int | None, int, str | None]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    on_start: Callable[[str], None] | None = None

    def start(self, step: str, *, total: int | None, unit: str) -> None:  # noqa: ARG002 - the port's signature
        """Begin a step."""
        self.steps.append((step, total, 0, None))
        if self.on_start is not None:
            self.on_start(step)

    def advance(self, amount: int = 1, *, phase: str = "") -> None:  # noqa: ARG002 - the port's signature
        """Count more units as done."""
        step, total, done, note = self.steps[-1]
        self.steps[-1] = step, total, done + amount, note

    def finish(self, note: str = "") -> None:
        """End the step."""
        step, total, done, _ = self.steps[-1]
        self.steps[-1] = step, total, done, note

    def say(self, text: str) -> None:
        """Keep a line for people."""
        self.said.append(text)


def fake_vector(sha256: str, dimensions: int) -> Vectors:
    """Return the unit vector, float32 [dimensions], that stands for a tile digest."""
    seed = int.from_bytes(bytes.fromhex(sha256)[:8], "big")
    vector = np.random.default_rng(seed).standard_normal(dimensions)
    unit: Vectors = (vector / np.linalg.norm(vector)).astype(np.float32)
    return unit
