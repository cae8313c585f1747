"""Measure how much of the time an engine as quick as a GPU's is busy in a worker: for tiles, and for chunks.

Run from the root of the repository: `python -m tests.benchmarks.busy_engine [--rate N]`. One worker of the
product embeds JPEG tiles of a painted landscape, and chunks that are cut from them, with an engine that sleeps
(`tests.benchmarks.sleeping_engine`) for as long as a network needs that embeds N pictures a second. It is busy for
the time that its pictures take at that rate; all else between its first and its last run, it waits: for pictures, or
for Python's lock. `ahead` is the worker as it is; `waiting` prepares a batch only when the engine has done the
one before, as workers do for engines on the processor.
"""

import argparse
import hashlib
import json
import math
import tempfile
from pathlib import Path
from unittest.mock import patch

from pipeline.builtin_model import place
from pipeline.embed.batcher import LocalDescriptorBatcher
from pipeline.embed.cells import Window, group_cells, plan_windows, shared_digests
from pipeline.embed.worker_messages import EngineSpec
from pipeline.tiles.chunks import ShownTiles
from pipeline.tiles.retrieval_units import RetrievalUnits
from pipeline.tiles.sources.registry import open_source
from store.base.preprocessing import Preprocessing
from tests.benchmarks import sleeping_engine
from tests.benchmarks.chunk_work import LEVEL, planned
from tests.benchmarks.measuring import machine
from tests.tile_archives import WORLD

_PREPROCESSING = Preprocessing(size=place.PLACE_SIZE)
_BATCH = 8
TARGET = 0.95


def tile_windows(folder: Path) -> list[Window]:
    """Return the windows of the tiles themselves."""
    found = open_source("{z}/{x}/{y}.jpg", folder).query_by_bbox(WORLD, (LEVEL.zoom, LEVEL.zoom))
    cells = group_cells(RetrievalUnits(ids=found.ids, digests=found.digests))
    return list(plan_windows(cells, shown=ShownTiles(found, {}), shared=shared_digests(cells)))


def runs_of(windows: list[Window], folder: Path, backend: str, rate: float) -> list[list[float]]:
    """Let one worker embed windows; return what its engine wrote down of each run."""
    log, path = folder / "runs.jsonl", folder / "engine.json"
    log.unlink(missing_ok=True)
    data = sleeping_engine.settings(log, sample_shape=_PREPROCESSING.shape, seconds=_BATCH / rate)
    path.write_bytes(data)
    spec = EngineSpec(
        path=str(path),
        sha256=hashlib.sha256(data).hexdigest(),
        backend=backend,
        version="1",
        input="input",
        output="output",
        batch=_BATCH,
        dimensions=512,
    )
    with patch("pipeline.embed.batcher.WORKER", sleeping_engine.__name__):
        batcher = LocalDescriptorBatcher(workers=1)
        done = sum(
            len(each.units) for each in batcher.embed(windows, engine=spec, preprocessing=_PREPROCESSING)
        )
    if done != sum(len(window.units) for window in windows):
        raise SystemExit(f"expected a descriptor of every picture, found {done}")
    return [json.loads(line) for line in log.read_text(encoding="ascii").splitlines()]


def busy_share(runs: list[list[float]], rate: float) -> tuple[float, float]:
    """Return the part of the time that the engine is busy, and processor milliseconds of the worker for a picture."""
    first, last = runs[0], runs[-1]
    pictures = sum(count for _, _, count, _ in runs[1:])
    needed = sum(math.ceil(count / _BATCH) * _BATCH / rate for _, _, count, _ in runs)
    return needed / (last[1] - first[0]), (last[3] - first[3]) / pictures * 1e3


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiles", type=int, default=1_600, help="about how many tiles are painted")
    parser.add_argument("--chunks", type=int, default=4, help="how many windows of chunks are embedded")
    parser.add_argument("--rate", type=float, default=500, help="pictures that the engine embeds in a second")
    parser.add_argument("--rounds", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="c10-busy-") as name:
        folder = Path(name)
        chunks = [window for window, _ in planned(folder / "tiles", asked.tiles)][: asked.chunks]
        kinds = {"tiles": tile_windows(folder / "tiles"), "chunks": chunks}
        for _ in range(asked.rounds):
            for kind, windows in kinds.items():
                for word, backend in (("waiting", "sleeping-waiting"), ("ahead", "sleeping")):
                    runs = runs_of(windows, folder, backend, asked.rate)
                    share, spent = busy_share(runs, asked.rate)
                    count = sum(len(window.units) for window in windows)
                    print(
                        f"{kind:7} {word:8} busy {share:.3f} at {asked.rate:g} pictures a second, {count:,} of them; "
                        f"{spent:.2f} ms of a processor each"
                    )
    print(f"target: ahead busy >= {TARGET}")
    print(machine())


if __name__ == "__main__":
    main()
