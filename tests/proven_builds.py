"""A site whose builds make chunks, prove that photographs are found, and carry tiles, all of it in one process."""

import json
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.embed.batcher import WindowQueue
from pipeline.embed.worker import load_embedder
from pipeline.embed.worker_messages import worker_request, worker_setup
from pipeline.request.options import CarryOptions
from pipeline.request.proof_options import ProofOptions
from pipeline.testing import Calls, FakeCompiler, FakeIndexBuilder, RecordingProgress
from store.base.geometry.level import tile_side_m
from store.disk.artifacts import Artifacts
from store.errors import TranslateOSErrors
from store.formats.tables import decode_packs
from store.manifest.manifest import parse
from store.testing import FakeClock
from tests.ground import (
    ALTITUDE_M,
    COLUMN,
    EDGE,
    GROUND,
    PLACES,
    ROW,
    ZOOM,
    GroundSite,
    chunk_middle,
    frame_at,
    latitude,
    longitude,
    place_at,
)
from tests.small_builds import DIMENSIONS, encoded

FIRST, LAST = 4, 8
"""Columns and rows of tiles in whose box the middles of chunks lie, counted from those of the ground."""

CHANGED = (5, 6)
"""The tile that `change_ground` replaces, under 25 chunks and in one photograph."""

UNCHANGED = ("one.png", "three.png")
"""Photographs that do not show that tile."""

WITHIN = ProofOptions(pictures="truth.csv", min=0.6, within_m=tile_side_m(ZOOM, 0) / 2)
"""Two of three photographs must be found, so that one over changed ground may be lost."""


class OwnBatcher:
    """Embeds with the real engine, as a worker does, in this process."""

    def embed(self, windows, *, engine, preprocessing, **callbacks):
        queue = WindowQueue(windows, engine, callbacks)
        with TranslateOSErrors(f"engine {engine.sha256[:12]}"):
            data = Path(engine.path).read_bytes()
        describe = load_embedder(data, worker_setup(engine, preprocessing)).embed
        while (window := queue.take()) is not None:
            request = worker_request(window, [list(tile.locator) for tile in window.tiles])
            yield queue.finish(window, describe(request, lambda *_: None))


def write_truth(site, wrong=()):
    """Write the photographs of `PLACES` and their table; those that are wrong claim a place two tiles away."""
    text = "file,lon,lat,altitude_m,heading_deg\n"
    for name, place in PLACES.items():
        x, y = chunk_middle(*place)
        if not (site.root / name).exists():
            Image.fromarray(frame_at(x, y)).save(site.root / name)
        lon, lat = place_at(x + (2 * EDGE if name in wrong else 0), y)
        text += f"{name},{lon:.7f},{lat:.7f},{ALTITUDE_M},0\n"
    site.write("truth.csv", text.encode())


def pixels_of(seed=None):
    """Pixels of the tile that changes, uint8 [edge, edge, 3]: those of the ground, or noise."""
    if seed is None:
        column, row = CHANGED
        return GROUND[row * EDGE : (row + 1) * EDGE, column * EDGE : (column + 1) * EDGE]
    return np.random.default_rng(seed).integers(0, 256, (EDGE, EDGE, 3), np.uint8)


class ProvenSite(GroundSite):
    """A site whose requests want chunks of 4 x 4 tiles, a proof, and their tiles carried."""

    def __init__(self, root, **options):
        new = not (Path(root) / "truth.csv").exists()
        super().__init__(root, **options)
        if new:
            write_truth(self)
        self.calls, self.clock, self.progress = Calls(), FakeClock(), RecordingProgress()

    def write_ground(self, ground, tiles=None):
        if tiles is not None or not (self.root / "tiles").exists():
            super().write_ground(ground, tiles)

    def request(self, **fields):
        west, east = longitude(COLUMN + FIRST), longitude(COLUMN + LAST)
        box = (west, latitude(ROW + LAST), east, latitude(ROW + FIRST))
        wanted = {"bbox": box, "proof": WITHIN, "carry": CarryOptions(tiles=True)}
        return super().request(**wanted | fields)

    def provisioner(self, **ports):
        own = {
            "engine_compiler": FakeCompiler(calls=self.calls, dimensions=DIMENSIONS),
            "descriptor_batcher": OwnBatcher(),
            "index_builder": FakeIndexBuilder(calls=self.calls),
            "progress": self.progress,
            "clock": self.clock,
            "reserve_mb": 0,
        }
        return super().provisioner(**(own | ports))

    def change_ground(self, seed=None):
        """Give one tile other pixels, or those of the ground again."""
        column, row = CHANGED
        self.write(f"tiles/{ZOOM}/{COLUMN + column}/{ROW + row}.png", encoded(pixels_of(seed)))

    def carried(self):
        """Place of each tile under a chunk to its file's bytes."""
        span = range(FIRST - 1, LAST + 1)
        return {
            (ZOOM, COLUMN + column, ROW + row): (
                self.root / f"tiles/{ZOOM}/{COLUMN + column}/{ROW + row}.png"
            ).read_bytes()
            for column, row in product(span, span)
        }

    def manifest(self):
        return parse(self.head_bytes())

    def packs(self):
        """The references of the head's packs, in the order of the table."""
        return [row.ref for row in decode_packs(Artifacts(self.layout).read(self.manifest().carried.packs))]

    def answers(self):
        """The recorded answers of the head's proof."""
        return json.loads(Artifacts(self.layout).read(self.manifest().proof))["answers"]


def frames():
    """Of each photograph whose ground never changes, the frame and its true place."""
    kept = [chunk_middle(*PLACES[name]) for name in UNCHANGED]
    return [(frame_at(*middle), place_at(*middle)) for middle in kept]
