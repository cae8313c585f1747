"""Measure how much more a cell costs on Ray than with local processes, for networks of different costs.

Run from the root of the repository: `python tests/benchmarks/ray_overhead.py [--network none place
resnet50]`, with the extra `ray`. Both executors have as many workers and embed the same cells of JPEG tiles
in turns, in one run; the one that goes first changes from pair to pair. Time runs from the first result to
the last, for each cell; the start is reported separately. The results are medians over the pairs, the
quartiles of the difference in a pair, and the time that the building process itself spent on a cell, which
bounds how many workers it can feed. `none` is a network that costs almost nothing, so that only the transport
is left; `place` is `builtin:place`; `resnet50` has random weights.
"""

import argparse
import hashlib
import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pipeline.builtin_model.place import PLACE_SIZE, place_model
from pipeline.embed.batcher import DescriptorBatcher, LocalDescriptorBatcher
from pipeline.embed.cells import Window, group_cells, plan_windows, shared_digests
from pipeline.embed.ray.batcher import RayDescriptorBatcher
from pipeline.embed.ray.cluster import connected
from pipeline.embed.worker_messages import EngineSpec
from pipeline.engines.backends.onnxruntime import OnnxRuntimeCompiler
from pipeline.engines.onnx.file import onnx_digest, parse_declaration
from pipeline.engines.port import EngineJob
from pipeline.tiles.chunks import ShownTiles
from pipeline.tiles.retrieval_units import RetrievalUnits
from pipeline.tiles.tile import SourceTile
from pipeline.tiles.tile_columns import TileColumns
from store.base.preprocessing import Preprocessing
from tests.networks import resnet50
from tests.toy_networks import toy_network

_BATCH = 8
_ROWS = 16
"""Of a cell, and its columns at most."""


def one_cell(folder: Path, count: int) -> Window:
    """A cell of tiles of 256 x 256 pixels."""
    tiles = []
    for number in range(count):
        coarse = np.random.default_rng(number).integers(0, 256, (48, 48, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(coarse).resize((256, 256)).save(buffer, "JPEG", quality=80)
        path = folder / f"{number}.jpg"
        path.write_bytes(buffer.getvalue())
        tiles.append(
            SourceTile(
                z=12,
                x=number // _ROWS,
                y=number % _ROWS,
                sha256=hashlib.sha256(buffer.getvalue()).hexdigest(),
                size=path.stat().st_size,
                captured=None,
                locator=("file", str(path)),
            )
        )
    cells = group_cells(RetrievalUnits.of_tiles(tiles))
    shown = ShownTiles(TileColumns.joined([tiles]), {})
    return next(plan_windows(cells, shown=shown, shared=shared_digests(cells), size=count))


def _toy() -> bytes:
    data: bytes = toy_network(size=(32, 32)).SerializeToString()
    return data


def _resnet50() -> bytes:
    data: bytes = resnet50().SerializeToString()
    return data


NETWORKS: Mapping[str, tuple[Callable[[], bytes], Preprocessing]] = {
    "none": (_toy, Preprocessing(size=(32, 32), mean=(100.0, 110.0, 120.0), std=(50.0, 51.0, 52.0))),
    "place": (place_model, Preprocessing(size=PLACE_SIZE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))),
    "resnet50": (
        _resnet50,
        Preprocessing(size=(224, 224), mean=(123.7, 116.3, 103.5), std=(58.4, 57.1, 57.4)),
    ),
}


def engine_in(folder: Path, name: str) -> tuple[EngineSpec, Preprocessing]:
    """Compile a network as a build does; return the engine and the preprocessing."""
    make, preprocessing = NETWORKS[name]
    path, compiler = folder / f"{name}.onnx", OnnxRuntimeCompiler()
    path.write_bytes(make())
    signature = parse_declaration(path.read_bytes()).signature()
    job = EngineJob(
        model=name,
        role="descriptor",
        onnx=path,
        onnx_sha256=onnx_digest(path),
        input=signature.input.name,
        output=signature.output.name,
        sample_shape=(3, *preprocessing.size),
        batch=_BATCH,
        precision="fp32",
        target=compiler.target(None),
    )
    compiler.key_components(job)
    scratch = folder / f"{name}.scratch"
    scratch.mkdir()
    made = compiler.compile(job, scratch=scratch)
    spec = EngineSpec(
        path=str(made.path),
        sha256=hashlib.sha256(made.path.read_bytes()).hexdigest(),
        backend=compiler.backend,
        version=compiler.version,
        input=job.input,
        output=job.output,
        batch=_BATCH,
        dimensions=int(signature.output.shape[1]),
        precision="fp32",
    )
    return spec, preprocessing


@dataclass(frozen=True, slots=True, kw_only=True)
class Took:
    """Seconds to the first result and for each later cell, and processor seconds of this process for each cell."""

    start: float
    cell: float
    own: float
    rows: bytes


def timed(
    batcher: DescriptorBatcher, windows: Iterator[Window], engine: EngineSpec, preprocessing: Preprocessing
) -> Took:
    """Embed windows."""
    begun, spent = time.perf_counter(), list[float]()
    marks, rows = list[float](), b""

    def dispatched(_: Window) -> None:
        spent.append(time.process_time())

    for result in batcher.embed(windows, engine=engine, preprocessing=preprocessing, on_dispatch=dispatched):
        marks.append(time.perf_counter())
        rows = result.vectors.tobytes()
    return Took(
        start=marks[0] - begun,
        cell=(marks[-1] - marks[0]) / (len(marks) - 1),
        own=(time.process_time() - spent[0]) / len(marks),
        rows=rows,
    )


def quartiles(values: Sequence[float]) -> list[float]:
    """Return the quartiles, rounded."""
    return [round(each, 3) for each in statistics.quantiles(values, n=4)]


def measured(
    folder: Path, name: str, *, rounds: int, cells: int, tiles: int, workers: int
) -> Mapping[str, object]:
    """Let both executors take turns."""
    window = one_cell(folder, tiles)
    engine, preprocessing = engine_in(folder, name)
    sides = [LocalDescriptorBatcher(workers=workers), RayDescriptorBatcher(workers=workers)]
    pairs: list[tuple[Took, Took]] = []
    for number in range(rounds + 1):
        found: dict[int, Took] = {}
        for side in (0, 1) if number % 2 else (1, 0):
            work = (replace(window, number=each) for each in range(cells))
            found[side] = timed(sides[side], work, engine, preprocessing)
        if found[0].rows != found[1].rows:
            raise SystemExit("expected the same descriptors from both, found others")
        pairs.append((found[0], found[1]))
    del pairs[0]  # for both to have their libraries in memory
    return {
        "network": name,
        "tiles": tiles,
        "cell_bytes": sum(tile.size for tile in window.tiles),
        "pairs": len(pairs),
        "cells": cells,
        "workers": workers,
        "local_ms_per_cell": round(1e3 * statistics.median(here.cell for here, _ in pairs), 1),
        "ray_ms_per_cell": round(1e3 * statistics.median(there.cell for _, there in pairs), 1),
        "overhead_ms_per_cell": quartiles([1e3 * (there.cell - here.cell) for here, there in pairs]),
        "ratio": quartiles([there.cell / here.cell for here, there in pairs]),
        "builder_ms_per_cell_local": round(1e3 * statistics.median(here.own for here, _ in pairs), 1),
        "builder_ms_per_cell_ray": round(1e3 * statistics.median(there.own for _, there in pairs), 1),
        "local_start_s": round(statistics.median(here.start for here, _ in pairs), 2),
        "ray_start_s": round(statistics.median(there.start for _, there in pairs), 2),
    }


def main() -> None:
    """Measure and print a line of JSON for each network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", nargs="+", choices=list(NETWORKS), default=["none", "place"])
    parser.add_argument("--rounds", type=int, default=9, help="pairs")
    parser.add_argument("--cells", type=int, default=8, help="of a run")
    parser.add_argument("--tiles", type=int, default=256, help="of a cell")
    parser.add_argument("--workers", type=int, default=1, help="of either executor")
    asked = parser.parse_args()
    sizes = {name: getattr(asked, name) for name in ("rounds", "cells", "tiles", "workers")}
    with tempfile.TemporaryDirectory() as name, connected("local", asked.workers):
        for network in asked.network:
            folder = Path(name) / network
            folder.mkdir()
            print(json.dumps(measured(folder, network, **sizes)), flush=True)


if __name__ == "__main__":
    main()
