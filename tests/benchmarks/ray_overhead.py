"""What a cell costs more on Ray than with local processes.

Run from the root of the repository: `python tests/benchmarks/ray_overhead.py [--rounds N]`, with the extra `ray`. Both
executors have one worker and embed the same cells of 256 JPEG tiles with a network that costs almost nothing, in turns,
so that what is left is the transport. Time runs from the first result to the last; starting is told apart.
"""

import argparse
import hashlib
import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pipeline.cells import Window, group_cells, plan_windows, shared_digests
from pipeline.descriptors import DescriptorBatcher, EngineSpec, LocalDescriptorBatcher
from pipeline.ray_batcher import RayDescriptorBatcher, connected
from pipeline.tiles.tile import Tile
from store.preprocessing import Preprocessing
from tests.toy_networks import DIMENSIONS, toy_network

PREPROCESSING = Preprocessing(size=(32, 32), mean=(100.0, 110.0, 120.0), std=(50.0, 51.0, 52.0))


def one_cell(folder: Path) -> Window:
    """A cell of 256 tiles of 256 x 256 pixels."""
    tiles = []
    for number in range(256):
        coarse = np.random.default_rng(number).integers(0, 256, (48, 48, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(coarse).resize((256, 256)).save(buffer, "JPEG", quality=80)
        path = folder / f"{number}.jpg"
        path.write_bytes(buffer.getvalue())
        tiles.append(
            Tile(
                z=12,
                x=number // 16,
                y=number % 16,
                sha256=hashlib.sha256(buffer.getvalue()).hexdigest(),
                size=path.stat().st_size,
                captured=None,
                locator=("file", str(path)),
            )
        )
    cells = group_cells(tiles)
    return next(iter(plan_windows(cells, shared=shared_digests(cells), size=256)))


def engine_in(folder: Path) -> EngineSpec:
    """A network that costs almost nothing."""
    data = toy_network(batch=32, size=(32, 32)).SerializeToString()
    (folder / "engine.onnx").write_bytes(data)
    return EngineSpec(
        path=str(folder / "engine.onnx"),
        sha256=hashlib.sha256(data).hexdigest(),
        backend="onnxruntime",
        version=onnxruntime.__version__,
        input="input",
        output="descriptor",
        batch=32,
        dimensions=DIMENSIONS,
    )


def timed(
    batcher: DescriptorBatcher, windows: Iterator[Window], engine: EngineSpec
) -> tuple[float, float, bytes]:
    """Return seconds to the first result, seconds for each later cell, and the descriptors of a cell."""
    begun = time.perf_counter()
    marks, rows = [], b""
    for result in batcher.embed(windows, engine=engine, preprocessing=PREPROCESSING):
        marks.append(time.perf_counter())
        rows = result.vectors.tobytes()
    return marks[0] - begun, (marks[-1] - marks[0]) / (len(marks) - 1), rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--cells", type=int, default=12)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, connected("local", 1):
        window, engine = one_cell(Path(name)), engine_in(Path(name))
        local, far = LocalDescriptorBatcher(workers=1), RayDescriptorBatcher(workers=1)
        pairs = []
        for _ in range(asked.rounds):
            here, there = (
                timed(each, (replace(window, number=n) for n in range(asked.cells)), engine)
                for each in (local, far)
            )
            if here[2] != there[2]:
                raise SystemExit("expected the same descriptors from both, found others")
            pairs.append((here, there))
    told = {
        "cell_bytes": sum(tile.size for tile in window.tiles),
        "local_ms_per_cell": 1e3 * statistics.median(here[1] for here, _ in pairs),
        "ray_ms_per_cell": 1e3 * statistics.median(there[1] for _, there in pairs),
        "overhead_ms_per_cell": 1e3 * statistics.median(there[1] - here[1] for here, there in pairs),
        "ratio": statistics.median(there[1] / here[1] for here, there in pairs),
        "local_start_s": statistics.median(here[0] for here, _ in pairs),
        "ray_start_s": statistics.median(there[0] for _, there in pairs),
        "rounds": len(pairs),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
