"""Fakes for every port of a build, for tests of the provisioner and of what stands on it.

They do as little work as the rest of a build allows, always the same for the same inputs, and note what they were
asked for. One `Calls` is shared by all fakes of a build; a fault planted in it happens when the call of that name is
made: an error is raised, a file is changed under the build, or the process dies.

The engine that the fake compiler makes is the network itself, which the real runtime loads: checks of engines and
indexes stay real. The network must therefore have a fixed batch.
"""

import hashlib
import os
import signal
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.embed.batcher import BadTile, EngineSpec, OnDispatch, OnRetry, OnTiles, WindowResult
from pipeline.embed.cells import Window
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
"""Tag of `doc_string` in an ONNX file: fields may be appended to a protocol buffer."""

Vectors = NDArray[np.float32]
Fault = Callable[[], None]


def raising(error: BaseException) -> Fault:
    """Return a fault that raises."""

    def fault() -> None:
        raise error

    return fault


def kill_this_process() -> None:
    """End this process as `kill -9` does: no handler, no cleaning up, no last word."""
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(slots=True)
class Calls:
    """What fakes were asked for, in order, and what is to happen at some of it.

    Attributes:
        made: Names of the calls: "compile MODEL", "embed", "window NUMBER", "index".
        faults: Name of a call to what happens when it is made.
    """

    made: list[str] = field(default_factory=list)
    faults: dict[str, Fault] = field(default_factory=dict)

    def make(self, name: str) -> None:
        """Note a call, and let its fault happen."""
        self.made.append(name)
        fault = self.faults.get(name)
        if fault is not None:
            fault()


@dataclass(slots=True, kw_only=True)
class FakeCompiler:
    """Passes networks off as engines of ONNX Runtime.

    Attributes:
        calls: Where calls are noted.
        dimensions: Length of the descriptors of every network.
        edition: Other editions give engines of other bytes that compute the same.
        instead: Model name to the file that is passed off as its engine.
        device: What its engines are for; they run here if that is nothing, or the processor.
        learns: What it claims to have learnt about kernels with every compile.
        taught: What it was given of that, compile by compile.
        real: The backend it stands in for.
    """

    calls: Calls
    dimensions: int = 16
    edition: str = ""
    instead: dict[str, Path] = field(default_factory=dict)
    device: str | None = None
    learns: bytes | None = None
    taught: list[bytes | None] = field(default_factory=list)
    real: OnnxRuntimeCompiler = field(default_factory=OnnxRuntimeCompiler)

    @property
    def backend(self) -> str:
        """The name of the backend that runs the engines."""
        return self.real.backend

    @property
    def version(self) -> str:
        """The version of the library that runs the engines."""
        return self.real.version

    def target(self, requested: str | None) -> str:
        """Return the device; see `EngineCompiler.target`."""
        return self.device or self.real.target(requested)

    def runs_here(self, target: str) -> bool:
        """Tell whether engines for a target run here; see `EngineCompiler.runs_here`."""
        return self.real.runs_here(target)

    def key_components(self, job: EngineJob) -> Document:
        """Return what an engine depends on; see `EngineCompiler.key_components`."""
        if self.device is None:
            return self.real.key_components(job)
        # Another device may take what the processor does not.
        return {**self.real.key_components(replace(job, precision="fp32")), "precision": job.precision}

    def compile(
        self, job: EngineJob, *, scratch: Path, on_progress: OnProgress | None = None
    ) -> CompiledEngine:
        """Copy the network; see `EngineCompiler.compile`."""
        self.calls.make(f"compile {job.model}" + (f" for {self.device}" if self.device else ""))
        self.taught.append(job.timing_cache)
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
            timing_cache=self.learns,
        )


@dataclass(slots=True, kw_only=True)
class FakeBatcher:
    """Makes unit vectors of tile digests, without looking at the tiles.

    Attributes:
        calls: Where calls are noted.
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
        on_progress: OnTiles | None = None,
        on_retry: OnRetry | None = None,  # noqa: ARG002 - the port's signature
    ) -> Generator[WindowResult, None, None]:
        """Embed windows; see `DescriptorBatcher.embed`."""
        self.calls.make("embed")
        for window in windows:
            if on_dispatch is not None:
                on_dispatch(window)
            self.calls.make(f"window {window.number}")
            result = self._result(window, engine.dimensions)
            self.embedded.extend(tile.sha256 for tile in result.tiles)
            if on_progress is not None:
                on_progress(len(result.tiles))
            yield result

    def _result(self, window: Window, dimensions: int) -> WindowResult:
        good = tuple(tile for tile in window.tiles if tile.sha256 not in self.bad)
        vectors = np.array([fake_vector(tile.sha256, dimensions) for tile in good], np.float32)
        vectors = vectors.reshape(len(good), dimensions)
        return WindowResult(
            window=window,
            tiles=good,
            vectors=vectors if self.spoil is None else self.spoil(vectors),
            texture=np.array(
                [0.0 if tile.sha256 in self.featureless else TEXTURED for tile in good], np.float32
            ),
            bad=tuple(
                BadTile(tile=tile, kind=self.bad[tile.sha256][0], message=self.bad[tile.sha256][1])
                for tile in window.tiles
                if tile.sha256 in self.bad
            ),
        )


@dataclass(slots=True, kw_only=True)
class FakeIndexBuilder(FaissIndexBuilder):
    """Builds with faiss, which is quick for few rows.

    Attributes:
        calls: Where calls are noted.
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
        self.calls.make("index")
        if self.wrong:
            rows = [replace(block, vectors=-block.vectors) for block in rows]
        return FaissIndexBuilder.build(
            self, rows, count, dimensions, plan, fd_path=fd_path, on_progress=on_progress
        )


@dataclass(slots=True, kw_only=True)
class FakeTiles:
    """A source of tiles in memory: place to content.

    Attributes:
        tiles: The content of each tile; its digest is what counts.
        queries: How often it was asked.
    """

    tiles: Mapping[tuple[int, int, int], bytes]
    queries: int = 0

    @property
    def name(self) -> str:
        """What messages call it."""
        return "fake tiles"

    @property
    def tile_format(self) -> str:
        """Encoding that the tiles pretend to have."""
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
        """Return what it covers; see `TileMetadataStore.extent`."""
        zooms = sorted({Place(*place).z for place in self.tiles})
        return Extent(zoom=(zooms[0], zooms[-1]) if zooms else None, box_e7=None)


@dataclass(slots=True)
class RecordingProgress:
    """Remembers what it was told.

    Attributes:
        steps: Each step: its name, total, how far it came, and the note at its end, None if it has not ended.
        said: Lines for people.
        on_start: Called with the name of each step that begins.
    """

    steps: list[tuple[str, int | None, int, str | None]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    on_start: Callable[[str], None] | None = None

    def start(self, step: str, *, total: int | None, unit: str) -> None:  # noqa: ARG002 - the port's signature
        """A step began."""
        self.steps.append((step, total, 0, None))
        if self.on_start is not None:
            self.on_start(step)

    def advance(self, amount: int = 1, *, phase: str = "") -> None:  # noqa: ARG002 - the port's signature
        """So many more units are done."""
        step, total, done, note = self.steps[-1]
        self.steps[-1] = step, total, done + amount, note

    def finish(self, note: str = "") -> None:
        """The step is done."""
        step, total, done, _ = self.steps[-1]
        self.steps[-1] = step, total, done, note

    def say(self, text: str) -> None:
        """A person should know this."""
        self.said.append(text)


def fake_vector(sha256: str, dimensions: int) -> Vectors:
    """Return the unit vector, float32 [dimensions], that stands for a tile digest."""
    seed = int.from_bytes(bytes.fromhex(sha256)[:8], "big")
    vector = np.random.default_rng(seed).standard_normal(dimensions)
    unit: Vectors = (vector / np.linalg.norm(vector)).astype(np.float32)
    return unit
