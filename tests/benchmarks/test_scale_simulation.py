"""The study of scale: its constants equal the measurements, and its parts run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from journal.storage import open_environment
from pipeline.provisioner import CacheProvisioner
from pipeline.tiles import digest_cache
from pipeline.tiles.grid import MAX_WANTED
from pipeline.tiles.sources import archive_cache
from tests.benchmarks import scale_simulation
from tests.benchmarks.scale_table import (
    MAP_BYTES,
    _limits,
    fitted,
    table,
)

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "tests" / "benchmarks" / "scale.json"
FEED_MS = 13.0
"""What the document says that it is reckoned with."""


def measured(name, *, base, each, power=1.0, sizes=(1000, 4000, 16_000)):
    return {str(size): {name: base + each * size**power} for size in sizes}


def test_a_line_is_found_again_and_carried_on():
    line = fitted(measured("bytes", base=700.0, each=3.0), "bytes")
    assert (line.each, line.base) == (pytest.approx(3.0), pytest.approx(700.0))
    assert line.at(100_000_000) == pytest.approx(300_000_700)
    assert line.shown[-1] == pytest.approx(3.0 + 700 / 16_000)


def test_sizes_in_cells_count_their_tiles():
    line = fitted(measured("bytes", base=0.0, each=768.0), "bytes", tiles=256)
    assert line.each == pytest.approx(3.0)
    assert line.last == 16_000 * 256


def test_what_grows_faster_than_its_number_is_carried_on_by_its_exponent():
    line = fitted(measured("s", base=0.0, each=1e-6, power=1.5), "s")
    assert line.exponent == pytest.approx(1.5)
    assert line.steep
    assert line.at(1_600_000) == pytest.approx(1e-6 * 1_600_000**1.5)
    assert line.at(1_600_000) > 5 * line.straight(1_600_000)
    assert line.reaching(line.at(1_600_000)) == pytest.approx(1_600_000)


@pytest.mark.parametrize("power", [0.5, 1.0, 1.09])
def test_what_hardly_grows_faster_than_its_number_is_carried_on_as_a_line(power):
    line = fitted(measured("s", base=0.0, each=1e-6, power=power), "s")
    assert not line.steep
    assert line.at(1_600_000) == line.straight(1_600_000)
    assert line.reaching(line.at(1_600_000)) == pytest.approx(1_600_000)


def test_whatever_is_steep_is_reckoned_by_its_exponent_and_said_to_be():
    kept = json.loads(KEPT.read_text())
    for part, name, words in (
        ("journals", "fold_s", "fold the journal"),
        ("builds", "cells_s", "cells without a network"),
        ("builds", "flat_s", "flat index"),
    ):
        steep = {size: {**found, name: 1e-9 * int(size) ** 1.5} for size, found in kept[part].items()}
        lines = list(table({**kept, part: steep}, network_ms=None, feed_ms=FEED_MS))
        assert any(line.startswith(f"| {words}") and line.endswith("| 1.50 | exponent |") for line in lines)
        assert any(line.startswith(f"| {words}") and ", 1.50 | " in line for line in lines)


def test_two_sizes_are_no_growth():
    with pytest.raises(ValueError, match="expected bytes at three sizes or more, found 2"):
        fitted(measured("bytes", base=1.0, each=1.0, sizes=(10, 20)), "bytes")


@pytest.mark.deep
def test_every_part_runs_and_fills_the_table(tmp_path):
    file = tmp_path / "scale.json"
    small = (
        *("--sizes", "256", "512", "1024", "--cells", "512", "1024", "2048"),
        *("--graphs", "256", "512", "1024", "--dimensions", "16"),
    )
    output = run("--json", file, "--only", "builds", "journals", "indexes", *small)
    assert len(output.splitlines()) == 9
    kept = json.loads(file.read_text())
    build = kept["builds"]["1024"]
    assert build["records"]["cell.embedded"] == build["cells"] == 4
    assert build["records"]["build.committed"] == 1
    assert build["flat_bytes"] > 1024 * 16 * 4
    assert kept["indexes"]["1024"]["hnsw_bytes"] > 1024 * (16 * 4 + 2 * 32 * 4)
    assert kept["journals"]["2048"]["journal_bytes"] >= 2048 * 500
    kept["embedding"] = {"64": EMBEDDING}
    file.write_text(json.dumps(kept))
    lines = run("--json", file, "--table", "--network-ms", "36", "--feed-ms", "9").splitlines()
    assert "| embed with 36 ms a tile, one worker | 50 h | 42 days | 417 days |" in lines
    assert "| the builder's share on Ray: read, send, receive | 2.9 min | 59 min | 9.8 h |" in lines
    assert any(line.startswith("| journal, one build | ") for line in lines)


def test_the_map_is_the_one_of_the_journal():
    assert MAP_BYTES == open_environment.MAP_BYTES


def test_the_limits_of_the_program_are_told_as_they_are():
    assert [line.split(" | ")[1] for line in list(_limits())[2:]] == [
        f"{tiles / 1e6:g} M" for tiles in (digest_cache.MAX_ROWS, MAX_WANTED, archive_cache.MAX_ROWS)
    ]


def test_the_document_says_what_its_measurements_make():
    document = (ROOT / "docs" / "scale.md").read_text()
    assert f"--feed-ms {FEED_MS:g}" in document
    flat = " ".join(document.split())
    printed = [*table(json.loads(KEPT.read_text()), network_ms=None, feed_ms=FEED_MS)]
    assert len(printed) > 50
    assert [line for line in printed if " ".join(line.split()) not in flat] == []


def test_gathering_is_timed_by_itself(monkeypatch):
    gathered, timed = [], []
    gather = CacheProvisioner._resolve

    def gathering(self, request, *keys):
        gathered.append(request)
        return gather(self, request, *keys)

    def wall(work):
        before = len(gathered)
        work()
        timed.append(len(gathered) - before)
        return 4321.0

    monkeypatch.setattr(CacheProvisioner, "_resolve", gathering)
    monkeypatch.setattr(scale_simulation, "wall", wall)
    found = scale_simulation.one_build(256, 16)
    assert found["gather_s"] == 4321.0
    assert timed == [1, 1, 1]


EMBEDDING = {
    "tile_bytes": 20_000.0,
    "hash_ms": 0.01,
    "decode_ms": 0.3,
    "none_ms": 0.5,
    "place_ms": 1.8,
    "resnet50_ms": 49.0,
}


def run(*given):
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.scale_simulation", *map(str, given)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
