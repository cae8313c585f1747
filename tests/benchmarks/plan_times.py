"""How far off the estimates of `c10 plan` are: plan a request, build it, compare; with the network `builtin:place`.

Run from the root of the repository: `python -m tests.benchmarks.plan_times`. Tiles of smooth noise lie in a folder. Each
request is planned and built for tiles and for chunks: a small and a large one in a cache of their own, which are
measured, and the large one once more after half of it, which follows from that build. Wall time, since that is what is
estimated: other work on the machine counts.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

ZOOM, LEFT, TOP = 17, 76_000, 47_000
ACROSS, DOWN = 64, 47
SIDE_PX: Final = 256

REQUEST: Final = """\
flight_id = "times"
sector = "stable_rear"
bbox = {box}
zoom = [{zoom}, {zoom}]
origin = [{box[0]}, {box[1]}, 100.0]
calibration = "camera.json"
{chunks}
[tiles]
source = "tiles/{{z}}/{{x}}/{{y}}.jpg"
[[models]]
name = "place"
role = "descriptor"
onnx = "builtin:place"
"""
CHUNKS: Final = "[[chunks.level]]\nside_m = 500\noverlap = 0.6\n"


def corner(x: float, y: float) -> tuple[float, float]:
    """Return longitude and latitude of a corner in the grid of tiles."""
    latitude = math.degrees(math.atan(math.sinh(math.pi * (1 - 2 * y / 2**ZOOM))))
    return round(x / 2**ZOOM * 360 - 180, 7), round(latitude, 7)


def write_tiles(folder: Path) -> None:
    """Write the tiles."""
    noise = np.random.default_rng(7).integers(0, 256, (DOWN * 8, ACROSS * 8, 3), np.uint8)
    whole = Image.fromarray(noise).resize((ACROSS * 32, DOWN * 32), Image.Resampling.BICUBIC)
    for x in range(ACROSS):
        column = folder / "tiles" / str(ZOOM) / str(LEFT + x)
        column.mkdir(parents=True)
        for y in range(DOWN):
            tile = whole.crop((32 * x, 32 * y, 32 * x + 32, 32 * y + 32))
            tile.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC).save(column / f"{TOP + y}.jpg")


def write_request(folder: Path, name: str, across: int, down: int, *, chunks: bool) -> Path:
    """Write a request for some columns and rows."""
    margin = 0.01
    west, south = corner(LEFT + margin, TOP + down - margin)
    east, north = corner(LEFT + across - margin, TOP + margin)
    path = folder / f"{name}.toml"
    path.write_text(
        REQUEST.format(box=[west, south, east, north], zoom=ZOOM, chunks=CHUNKS if chunks else "")
    )
    return path


def run(folder: Path, command: str, request: Path, cache: Path) -> tuple[dict[str, Any], float]:
    """Run a command of c10 and return what it printed, and the seconds that it took."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "tools.cli", command, str(request), "--cache", str(cache), "--json"],
        check=True,
        capture_output=True,
        env=os.environ | {"XDG_CACHE_HOME": str(folder / "digests")},
    )
    document: dict[str, Any] = json.loads(done.stdout)
    return document, time.monotonic() - began


def compare(folder: Path, name: str, request: Path, cache: Path) -> None:
    """Plan and build a request, and print one row."""
    planned, _ = run(folder, "plan", request, cache)
    _, took = run(folder, "build", request, cache)
    written = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    basis = next(each["basis"] for each in planned["time"] if each["step"] == "embed")
    told = planned["seconds"]
    print(
        f"| {name} | {planned['to_embed']:,} | {basis} | {told:.0f} s | {took:.0f} s | {took / told:.2f} |"
        f" {planned['bytes'] / 1e6:.1f} MB | {written / 1e6:.1f} MB |",
        flush=True,
    )


def main() -> None:
    """Print the table."""
    print("| request | to embed | basis | estimate | build | build / estimate | at most | cache then |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_tiles(folder)
        (folder / "camera.json").write_text("{}")
        for chunks in (False, True):
            kind = "chunks" if chunks else "tiles"
            requests = {
                size: write_request(folder, f"{kind}-{size}", across, down, chunks=chunks)
                for size, across, down in (
                    ("small", 6, 5),
                    ("half", ACROSS // 2, DOWN),
                    ("large", ACROSS, DOWN),
                )
            }
            for size, after in (("small", None), ("large", None), ("large", "half")):
                cache = folder / f"cache-{kind}-{size}-{after}"
                if after is not None:
                    run(folder, "build", requests[after], cache)
                name = f"{kind}, {size}" + ("" if after is None else f", after {after}")
                compare(folder, name, requests[size], cache)


if __name__ == "__main__":
    main()
