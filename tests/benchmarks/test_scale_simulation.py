"""The study of scale: its constants are what was measured, and its parts run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.scale_table import REMEMBERED_BYTES, fitted

ROOT = Path(__file__).resolve().parents[2]


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
    assert line.powered(1_600_000) == pytest.approx(1e-6 * 1_600_000**1.5)
    slower = fitted(measured("s", base=0.0, each=1e-6, power=0.5), "s")
    assert slower.powered(1_600_000) == pytest.approx(100 * 1e-6 * 16_000**0.5)


def test_two_sizes_are_no_growth():
    with pytest.raises(ValueError, match="expected bytes at three sizes or more, found 2"):
        fitted(measured("bytes", base=1.0, each=1.0, sizes=(10, 20)), "bytes")


def test_every_part_runs_and_fills_the_table(tmp_path):
    file = tmp_path / "scale.json"
    small = (
        *("--sizes", "256", "512", "1024", "--cells", "512", "1024", "2048"),
        *("--graphs", "256", "512", "1024", "--dimensions", "16"),
    )
    told = run("--json", file, "--only", "builds", "journals", "indexes", *small)
    assert len(told.splitlines()) == 9
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


def test_a_state_that_is_too_large_to_be_remembered_is_said_to_be():
    sizes = {str(size): {"remembered_bytes": 4.0 * size} for size in (1000, 2000, 4000)}
    line = fitted(sizes, "remembered_bytes")
    assert line.at(1_000_000_000) < REMEMBERED_BYTES < line.at(2_000_000_000)


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
