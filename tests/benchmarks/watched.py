"""Measure the peak memory of a build with every process that it starts.

    python -m tests.benchmarks.watched FOLDER NUMBER DIMENSIONS KIND

builds that many tiles of an MBTiles archive in a folder, and prints the bytes of the index and the greatest
resident memory of its own process. `peak` starts that and watches it from outside.
"""

import json
import subprocess
import sys
from pathlib import Path
from time import sleep
from typing import Any

from pipeline.request.options import CheckOptions, IndexKind
from store.cache.view import open_view
from tests.benchmarks.caches import BigSite

_EVERY_S = 0.05
_KIB = 1024
ARCHIVE = "tiles.mbtiles"


def peak(site: Path, number: int, dimensions: int, kind: IndexKind) -> tuple[int, int]:
    """Build in a process of its own; return the peak memory of its whole process tree, and the index size, in
    bytes.

    It adds the proportional share of each process, so that a page that several map counts once. It samples
    twenty times a second; only the building process reports its own peak, so that none of it is missed.
    """
    greatest, answer = watch(__spec__.name, str(site), str(number), str(dimensions), str(kind))
    return greatest, answer["index"]


def watch(module: str, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Run a module of measurements; return the peak memory of its whole process tree in bytes, and its answer.

    The answer is JSON on standard output; `own` in it is the peak of the process itself.
    """
    with subprocess.Popen([sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE) as running:
        greatest = 0
        while running.poll() is None:
            greatest = max(greatest, sum(map(_share, _tree(running.pid))))
            sleep(_EVERY_S)
        output = running.stdout.read() if running.stdout else b""
    if running.returncode:
        raise SystemExit(f"expected {module} to end well, found exit code {running.returncode}")
    answer = json.loads(output)
    return max(greatest, answer["own"]), answer


def _tree(root: int) -> list[int]:
    """Return a process and all its descendants."""
    found, left = [], [root]
    while left:
        pid = left.pop()
        found.append(pid)
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                left += map(int, task.read_text().split())
            except OSError:
                continue  # it ended meanwhile
    return found


def _share(pid: int) -> int:
    """Return the proportional share of memory of a process, bytes; 0 once it has ended."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * _KIB
    except OSError:
        pass
    return 0


def own_peak() -> int:
    """Return the greatest resident memory of this program, bytes; `ru_maxrss` counts that of its parent as well."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * _KIB


def main() -> None:
    """Build as the arguments say."""
    folder, number, dimensions, kind = sys.argv[1:]
    site = BigSite(Path(folder))
    site.number, site.dimensions, site.kind = int(number), int(dimensions), IndexKind(kind)
    # Vectors drawn by lot have no neighbourhoods: a graph of a million of them finds every other one again.
    site.built(source=ARCHIVE, checks=CheckOptions(recall=0.0))
    build = open_view(site.layout).state.head_build
    if build is None or build.index is None or build.index.kind != kind:
        raise SystemExit(f"expected an index of kind {kind}, found {build and build.index}")
    size = site.layout.artifact(build.index.artifact.sha256).stat().st_size
    print(json.dumps({"index": size, "own": own_peak()}))


if __name__ == "__main__":
    main()
