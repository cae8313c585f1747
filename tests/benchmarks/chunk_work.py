"""Measure what embedding chunks costs besides the network: a worker against its bare engine, processor time.

Run from the root of the repository: `python -m tests.benchmarks.chunk_work [--tiles N]`. JPEG tiles of a
painted landscape lie in a folder, and the engine of `builtin:place` is compiled for this machine. The worker
reads, hashes and decodes the tiles of a window, cuts its chunks and embeds them; the peer runs the same engine
as often on samples that are ready. They take turns, batch by batch.

The shares of the stages are of another run, since their clocks cost time too. With few tiles, many of which
lie at the area's edge, there are more tiles to decode for each chunk.
"""

import argparse
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any, Final
from unittest.mock import patch

import numpy as np

from pipeline.builtin_model import place
from pipeline.embed import samples, worker
from pipeline.embed.cells import Window, group_cells, plan_windows, shared_digests
from pipeline.embed.worker_messages import worker_request
from pipeline.engines.backends.onnxruntime import OnnxRuntimeCompiler
from pipeline.request.area import Area
from pipeline.tiles.chunks import ShownTiles, make_chunks
from pipeline.tiles.sources.registry import open_source
from store.base.geometry import mosaic
from store.base.geometry.level import Level
from store.base.preprocessing import Preprocessing
from store.manifest.levels import ChunkLevel
from store.runtime import Engine
from tests.benchmarks.measuring import Row, Settings, at_most, machine, processor, row
from tests.engine_jobs import job_of, load_compiled
from tests.small_builds import encoded
from tests.tile_archives import WORLD
from tools.demo.terrain import terrain

LEVEL: Final = Level(20, 2, 14)
"""Chunks of 3.5 x 3.5 tiles, sixteen to a tile, as for a camera at 120 m and imagery of 0.15 m a pixel."""
EDGE: Final = 256
TARGET: Final = 1.10
_FIRST: Final = 1 << 19
"""First column and row of the tiles, in the middle of the world."""
_RIM: Final = 2
"""Tiles around the area, which its chunks reach into."""
_PREPROCESSING: Final = Preprocessing(size=place.PLACE_SIZE)
_BATCH: Final = 8


class Stages:
    """Processor seconds and calls by stage; the seconds are without those of the stages that it calls."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.calls: Counter[str] = Counter()
        self._now = "rest"
        self._since = 0.0

    def start(self) -> None:
        """Begin with the rest."""
        self._since = process_time()

    def enter(self, stage: str) -> str:
        """Begin a stage; return the one that it interrupts."""
        now, before = process_time(), self._now
        self.seconds[before] = self.seconds.get(before, 0.0) + now - self._since
        self._now, self._since = stage, now
        return before

    def of(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function whose time counts as a stage."""

        def timed(*args: Any, **named: Any) -> Any:
            self.calls[stage] += 1
            before = self.enter(stage)
            try:
                return function(*args, **named)
            finally:
                self.enter(before)

        return timed


STAGES: Final = (
    ("read, hash", worker, "read_bytes"),
    ("decode", worker, "decode_picture"),
    ("scale tiles", mosaic, "resample"),
    ("columns", mosaic._Mosaic, "column"),
    ("sums of grey", samples, "grey_sums"),
    ("texture", samples, "textures_of_sums"),
    ("samples", samples.Samples, "_write_rows"),
    ("network", Engine, "run"),
)
"""What is timed: a stage, and the function that does it. The rest is what is in none."""


def planned(folder: Path, tiles: int) -> list[tuple[Window, object]]:
    """Write about so many tiles; return the windows of their chunks, and the requests to a worker."""
    side = math.isqrt(tiles)
    ground, draw = terrain(2048, seed=0), np.random.default_rng(0)
    # Pieces from anywhere: seams cost nothing, and hardly two tiles are alike.
    for column in range(side):
        (folder / f"20/{_FIRST + column}").mkdir(parents=True)
        for line in range(side):
            y, x = draw.integers(0, len(ground) - EDGE, 2)
            path = folder / f"20/{_FIRST + column}/{_FIRST + line}.jpg"
            path.write_bytes(encoded(ground[y : y + EDGE, x : x + EDGE], "jpeg"))
    found = open_source("{z}/{x}/{y}.jpg", folder).query_by_bbox(WORLD, (LEVEL.zoom, LEVEL.zoom))
    # West, south, east, north; at the equator a tile is as high as it is wide.
    near, far = (_degrees_e7(each) for each in (_RIM, side - _RIM))
    made = make_chunks(ChunkLevel(level=LEVEL, tile_edge=EDGE), Area((near, -far, far, -near)), found).made
    cells = group_cells(made)
    windows = plan_windows(cells, shown=ShownTiles(found, {LEVEL.zoom: EDGE}), shared=shared_digests(cells))
    return [
        (window, worker_request(window, [list(tile.locator) for tile in window.tiles])) for window in windows
    ]


def _degrees_e7(tiles: int) -> int:
    return round(tiles / (1 << LEVEL.zoom) * 360e7)


def compiled(folder: Path) -> Engine:
    """Return the engine of `builtin:place`, as builds compile it."""
    job = job_of(
        folder,
        place.place_model(),
        input=place.PLACE_INPUT,
        output=place.PLACE_OUTPUT,
        sample_shape=_PREPROCESSING.shape,
        batch=_BATCH,
        single=True,
    )
    compiler = OnnxRuntimeCompiler()
    engine = compiler.compile(job, scratch=folder)
    return load_compiled(
        compiler, engine.path.read_bytes(), input=job.input, output=job.output, batch=job.batch
    )


class InTurns:
    """An engine that runs each batch twice: as it is given, and as many samples that were ready, by a clock."""

    def __init__(self, engine: Engine, ready: np.ndarray) -> None:
        self._engine, self._ready = engine, ready
        self.portion, self.sample_shape, self.dimensions = (
            engine.portion,
            engine.sample_shape,
            engine.dimensions,
        )
        self.bare = 0.0

    def run(self, samples: np.ndarray) -> np.ndarray:
        """Run both; return the answer to what is given."""
        found = self._engine.run(samples)
        self.bare += processor(partial(self._engine.run, self._ready[: len(samples)]))
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What was measured.

    Attributes:
        pairs: Seconds of the worker and of the bare engine, for each window.
        chunks: How many chunks the windows have.
        stages: Seconds of a worker by stage, in another run.
        decoded: How many tiles that run decoded.
    """

    pairs: list[tuple[float, float]]
    chunks: int
    stages: dict[str, float]
    decoded: int


def measured(folder: Path, tiles: int, *, rounds: int) -> Measured:
    """Let worker and bare engine take turns, batch by batch, so that other load affects both."""
    requests, engine = planned(folder / "tiles", tiles), compiled(folder)
    draw = np.random.default_rng(0)
    both = InTurns(engine, draw.integers(0, 256, (engine.portion, *engine.sample_shape)).astype(np.float32))
    pairs = []
    for number in range(rounds + 1):
        # A new one each time: it keeps tiles. The first loads what is loaded once, and does not count.
        embedder = worker.Embedder(both, _PREPROCESSING)
        for _, request in requests if number else requests[:1]:
            both.bare = 0.0
            together = processor(partial(embedder.describe, request))
            pairs.append((together - both.bare, both.bare))
    stages, embedder = Stages(), worker.Embedder(engine, _PREPROCESSING)
    with ExitStack() as patches:
        for stage, home, name in STAGES:
            patches.enter_context(patch.object(home, name, stages.of(stage, getattr(home, name))))
        stages.start()
        for _, request in requests:
            embedder.describe(request)
        stages.enter("rest")
    return Measured(
        pairs=pairs[1:],
        chunks=sum(len(window.units) for window, _ in requests),
        stages=stages.seconds,
        decoded=stages.calls["decode"],
    )


def embedding_chunks(settings: Settings) -> Iterator[Row]:
    """Processor seconds of a worker that embeds chunks, against its bare engine on samples that are ready."""
    tiles = settings.size(256, 2_000)
    found = measured(settings.place("chunks"), tiles, rounds=max(1, settings.pairs // 3))
    yield _row(found, tiles)


def _row(found: Measured, tiles: int) -> Row:
    work = f"embedding {found.chunks:,} chunks of {math.isqrt(tiles) ** 2:,} tiles, processor seconds"
    peer = "the bare engine, samples ready"
    return row("embed-chunks", work, peer, at_most(TARGET), found.pairs, rate=False)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiles", type=int, default=256, help="about how many tiles; 2,000 for the target")
    parser.add_argument("--rounds", type=int, default=1, help="how often each window is embedded")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="c10-chunks-") as folder:
        found = measured(Path(folder), asked.tiles, rounds=asked.rounds)
    line = _row(found, asked.tiles)
    ours, theirs = (sum(side) for side in zip(*found.pairs, strict=True))
    embedded = found.chunks * asked.rounds
    print(f"{line.work}; {found.decoded:,} tiles decoded")
    print(f"worker {ours / embedded * 1e3:.3f} ms a chunk, {line.peer} {theirs / embedded * 1e3:.3f} ms")
    print(
        f"ratio {ours / theirs:.3f}; of windows {line.ratio:.3f} ({line.low:.3f} to {line.high:.3f}); "
        f"target {line.target}"
    )
    whole = sum(found.stages.values())
    for stage, spent in sorted(found.stages.items(), key=lambda each: -each[1]):
        print(f"  {stage:20} {spent / found.chunks * 1e3:8.4f} ms a chunk {spent / whole:7.1%}")
    print(machine())


if __name__ == "__main__":
    main()
