"""Measure what `FlightCache.locate` costs beyond the run of the network: among 30,000 chunks of one level, one thread.

Run from the root of the repository, with the extra `cpu` installed: `python -m tests.benchmarks.locate [--wall]`.
The cache is a real one of `builtin:place`, 384 dimensions, but for the vectors, which are random. Frames come as
arrays without distortion. `locate` and a bare run of its engine take turns; what is compared is the processor time
of each, which other load affects less, or with `--wall` the time that passed. The search compares all vectors
of a level in every kind of index, so that the index is a flat one unless `--kind` names another.

Then the cut of the square alone, beside Pillow's scaling of the part of the frame that it shows, which is how
chunks are scaled, and beside a copy of that part. Then a single frame: the engine of the cache, which takes any
batch, and the same network compiled for batch 1.
"""

import argparse
import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when NumPy is imported

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final

import numpy as np
from PIL import Image

from pipeline import C10ProvisionerConfig, build_cache_provisioner
from pipeline.build.report import BuildOutcome
from pipeline.builtin_model.place import place_model
from pipeline.engines.backends.onnxruntime import OnnxRuntimeCompiler
from pipeline.request.options import ChunkLevelOptions, ChunkOptions, IndexKind, IndexOptions
from store.base.geometry.camera import Camera, cut_square
from store.base.preprocessing import Pixels, resample
from store.reader import ALLOW_UNSIGNED, Answer, FlightCache
from tests.benchmarks.caches import Synthetic
from tests.benchmarks.engines_cpu import compiled
from tests.benchmarks.measuring import Work, in_turns, machine, processor, wall
from tests.small_builds import Site, encoded

Clock = Callable[[Work], float]

ZOOM: Final = 20
FIRST: Final = (875_900, 451_400)
"""Column and row of the first tile; there a tile has a side of about 35 m."""
TILES: Final = 91
STEPS: Final = 174
"""Chunks along each side of the area: 30,276 in all."""
SIDE_M: Final = 122.0
ALTITUDE_M: Final = 120.0
SIZE: Final = (256, 256)
HEADING_DEG: Final = 152.1
NEAR_M: Final = 215.0
CAMERA: Final = {"width": 1000, "height": 562, "fx": 755.9, "fy": 755.9, "cx": 500, "cy": 281}
FRAMES: Final = {"0.56 MP": (562, 1000), "2.0 MP": (1060, 1886)}
"""Height and width; both are of the camera's aspect."""


def build(folder: Path, kind: IndexKind) -> Path:
    """Build a cache of chunks; return its folder."""
    site = Site(folder)
    site.write("net.onnx", place_model())
    site.write("camera.json", json.dumps(CAMERA).encode())
    picture = encoded(frame_of(256, 256), "jpeg")
    for place in range(TILES * TILES):
        x, y = FIRST[0] + place // TILES, FIRST[1] + place % TILES
        # Nobody decodes them, but no two are equal.
        site.write(f"tiles/{ZOOM}/{x}/{y}.jpg", picture + place.to_bytes(4))
    # Two steps to a tile; the middles of all wanted chunks are two tiles from the edge of the imagery, or more.
    first, last = (_place(FIRST[0] + at, FIRST[1] + at) for at in (2, 2 + STEPS / 2))
    request = site.request(
        source="tiles/{z}/{x}/{y}.jpg",
        zoom=(ZOOM, ZOOM),
        bbox=(first[0], last[1], last[0], first[1]),
        origin=(*first, 0.0),
        chunks=ChunkOptions(level=(ChunkLevelOptions(side_m=SIDE_M, overlap=0.85),)),
        index=IndexOptions(kind=kind),
    )
    config = C10ProvisionerConfig(cache_root=site.cache, reserve_mb=0, allow_unknown_filesystem=True)
    report = build_cache_provisioner(config, descriptor_batcher=Synthetic(), host={}).build_cache_artifacts(
        request
    )
    if report.outcome is not BuildOutcome.BUILT:
        raise SystemExit(f"expected a build, found {report.outcome}: {report.error}")
    return site.cache


def _place(column: float, row: float) -> tuple[float, float]:
    """Return the longitude and latitude of a corner of tiles."""
    south = np.pi * (1 - 2 * row / 2**ZOOM)
    return column / 2**ZOOM * 360 - 180, float(np.degrees(np.arctan(np.sinh(south))))


def frame_of(height: int, width: int) -> Pixels:
    """Return a smooth picture."""
    coarse = np.random.default_rng(1).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def questions() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield what is asked, by name."""
    middle = _place(*(each + TILES / 2 for each in FIRST))
    for name, heading in (("", {}), (", heading", {"heading_deg": HEADING_DEG})):
        yield f"all{name}", heading
        yield f"near{name}", heading | {"near": (*middle, NEAR_M)}


def print_locate(cache: FlightCache, *, pairs: int, clock: Clock) -> None:
    """Print the times of `locate` and of the bare engine, and of the parts of an answer."""
    engine = cache.engine(cache.manifest.descriptor_engine.model)
    sample = np.zeros((1, *engine.sample_shape), np.float32)
    print(
        f"{'ms, p50':24}{'engine':>8}{'locate':>8}{'beyond':>8}  {'quartiles':14}{'cut':>6}{'search':>8}  chunks"
    )
    for size, shape in FRAMES.items():
        frame = frame_of(*shape)
        for name, question in questions():
            answers = list[Answer]()

            def ask(question: Mapping[str, Any] = question, frame: Pixels = frame) -> None:
                answers.append(cache.locate(frame, altitude_m=ALTITUDE_M, **question))  # noqa: B023

            found = in_turns(ask, lambda: engine.run(sample), pairs=pairs, clock=clock, tidy=False)
            beyond = [1e3 * (ours - bare) for ours, bare in found]
            low, _, high = quantiles(beyond, n=4)
            ours, bare = (1e3 * median(each) for each in zip(*found, strict=True))
            cut, search = (
                1e3 * median(getattr(each.timings, part) for each in answers) for part in ("cut", "search")
            )
            print(
                f"{size + ', ' + name:24}{bare:8.2f}{ours:8.2f}{median(beyond):8.2f}  "
                f"{f'({low:.2f}, {high:.2f})':14}{cut:6.2f}{search:8.2f}  {answers[0].searched:,}",
                flush=True,
            )


def print_cut(*, pairs: int, clock: Clock) -> None:
    """Print what the cut of the square takes, and two ways to touch the same pixels for comparison."""
    print(f"{'ms, p50':24}{'cut':>8}{'Pillow':>8}{'copy':>8}")
    for name, (height, width) in FRAMES.items():
        frame, camera = frame_of(height, width), Camera.from_document(CAMERA).scaled_to(width, height)
        pixel = ALTITUDE_M / camera.fx
        left = round(max(0, (width - SIDE_M / pixel) / 2))
        shown = frame[:, left : width - left]
        for turn, heading in (("", 0.0), (", heading", HEADING_DEG)):
            cut = partial(
                cut_square,
                frame,
                metres_per_pixel=pixel,
                side_m=SIDE_M,
                heading_deg=heading,
                size=SIZE,
                camera=camera,
            )
            scaled = in_turns(cut, lambda: resample(shown, SIZE), pairs=pairs, clock=clock, tidy=False)  # noqa: B023
            copied = in_turns(cut, shown.copy, pairs=pairs, clock=clock, tidy=False)
            ours, pillow = (1e3 * median(each) for each in zip(*scaled, strict=True))
            print(
                f"{name + turn:24}{ours:8.2f}{pillow:8.2f}{1e3 * median(bare for _, bare in copied):8.2f}",
                flush=True,
            )


def print_single(cache: FlightCache, folder: Path, *, pairs: int, clock: Clock) -> None:
    """Print what a single frame costs, against the network compiled for batch 1."""
    engine = cache.engine(cache.manifest.descriptor_engine.model)
    sample = np.zeros((1, *engine.sample_shape), np.float32)
    network = folder / "net.onnx"
    alone, _, _ = compiled(OnnxRuntimeCompiler(), "fp32", network, sample, threads=1)
    found = in_turns(
        lambda: engine.run(sample), lambda: alone.run(sample), pairs=pairs, clock=clock, tidy=False
    )
    low, middle, high = quantiles([ours / bare for ours, bare in found], n=4)
    ours, bare = (1e3 * median(each) for each in zip(*found, strict=True))
    print(
        f"single frame {ours:.2f} ms, compiled for batch 1 {bare:.2f} ms: {middle:.3f} ({low:.3f}, {high:.3f})"
    )


def main() -> None:
    """Build, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--wall", action="store_true", help="elapsed instead of processor time")
    parser.add_argument("--kind", type=IndexKind, choices=list(IndexKind), default=IndexKind.FLAT)
    asked = parser.parse_args()
    clock = wall if asked.wall else processor
    before = machine()
    with tempfile.TemporaryDirectory(prefix="c10-locate-") as name:
        folder = Path(name)
        with FlightCache.open(build(folder, asked.kind), trusted_keys=ALLOW_UNSIGNED) as cache:
            cache.load_all()
            print_locate(cache, pairs=asked.pairs, clock=clock)
            print_cut(pairs=asked.pairs, clock=clock)
            print_single(cache, folder, pairs=asked.pairs, clock=clock)
    print(f"{before['processor']}, load {before['load']} before, {machine()['load']} after")


if __name__ == "__main__":
    main()
