"""A flight cache says how much memory it holds, and after `load_all` opens no file for an answer."""

import re
import shutil
import subprocess
import sys

import pytest

from pipeline.request.options import CarryOptions
from store.errors import RequestRefusedError
from store.formats.carried_tiles import HEADER_SIZE
from store.reader import ALLOW_UNSIGNED, FlightCache, Memory
from tests.child_python import ROOT
from tests.ground import ALTITUDE_M, PIXEL_M, GroundSite, chunk_middle, frame_at
from tests.small_builds import DIMENSIONS, Site, spread

STRACE = shutil.which("strace")
FRAME = frame_at(*chunk_middle(9, 7))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    site = GroundSite(tmp_path_factory.mktemp("memory"))
    lens = b', "distortion": {"model": "opencv", "coefficients": [0.01, 0, 0, 0]}}'
    site.write("camera.json", (site.root / "camera.json").read_bytes()[:-1] + lens)
    assert site.build().error is None
    return site


def test_the_parts_are_those_of_the_manifest(site, monkeypatch):
    monkeypatch.setattr("store.reader.places.level_table._MANY_CHUNKS", 1)
    monkeypatch.setattr("store.reader.places.level_table._FEW_OF_MANY", 1)
    with FlightCache.open(site.cache, trusted_keys=ALLOW_UNSIGNED) as cache:
        assert cache.memory() == Memory()
        cache.load_all()
        held, manifest = cache.memory(), cache.manifest
        rows = manifest.index.rows
        assert held.engines == manifest.descriptor_engine.artifact.size
        assert held.index == manifest.index.artifact.size
        assert held.vectors == 4 * DIMENSIONS * rows
        assert held.rounded == DIMENSIONS * rows
        # int64 id; longitude, latitude; a point; two days
        assert held.places == (8 + 16 + 24 + 8) * rows
        assert held.tables == manifest.tiles.size + manifest.calibration.size
        assert held.total == sum(getattr(held, part) for part in Memory.__slots__)
        for _ in range(3):
            cache.locate(FRAME, altitude_m=ALTITUDE_M, threads=2)
        assert cache.memory() == held
    with pytest.raises(RequestRefusedError, match="closed"):
        cache.memory()


def test_a_cache_of_tiles_and_its_packs_count_too(tmp_path):
    site = Site(tmp_path)
    site.write_tiles(spread(2, 2))
    assert site.build(carry=CarryOptions(tiles=True)).error is None
    with FlightCache.open(site.cache, trusted_keys=ALLOW_UNSIGNED) as cache:
        cache.load_all()
        held, manifest = cache.memory(), cache.manifest
        named = manifest.tiles.size + manifest.calibration.size + manifest.carried.packs.size
        assert (held.vectors, held.rounded, held.places) == (0, 0, 0)
        # Four packs of one tile, of each the header and where the tile is.
        assert named + 4 * HEADER_SIZE < held.tables < named + 400


CHILD = """
import os, sys
import numpy as np
from store.formats.carried_tiles import HEADER_SIZE
from store.reader import ALLOW_UNSIGNED, FlightCache

folder, altitude, pixel = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
frame = np.random.default_rng(1).integers(0, 256, (64, 80, 3), np.uint8)
with FlightCache.open(folder, trusted_keys=ALLOW_UNSIGNED) as cache:
    cache.load_all(threads=2)
    before = sorted(os.listdir("/proc/self/fd"))
    os.access("/take-off", os.F_OK)
    for question in (
        {"altitude_m": altitude},
        {"altitude_m": altitude, "heading_deg": 30.0, "near": (0.0, 0.0, 30 * altitude), "pitch_deg": 20},
        {"metres_per_pixel": 2 * pixel, "headings": 4},
    ):
        for _ in range(5):
            cache.locate(frame, **question)
    os.access("/landing", os.F_OK)
    assert sorted(os.listdir("/proc/self/fd")) == before
"""


@pytest.mark.skipif(STRACE is None, reason="strace is not installed")
def test_an_answer_opens_no_file(site, tmp_path):
    log = tmp_path / "calls"
    child = [sys.executable, "-c", CHILD, site.cache, str(ALTITUDE_M), str(PIXEL_M)]
    traced = [STRACE, "-f", "-e", "trace=%file,openat2,memfd_create", "-o", log, *child]
    done = subprocess.run(traced, check=False, capture_output=True, text=True, cwd=ROOT)
    if "PTRACE" in done.stderr:
        pytest.skip("this user may not trace processes")
    assert done.returncode == 0, done.stderr
    (_, flight, _) = re.split(r".*(?:/take-off|/landing).*\n", log.read_text())
    assert re.findall(r"^\d+ +\w+\(.*", flight, re.MULTILINE) == []
