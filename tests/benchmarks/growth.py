"""Measure how cost grows with the area: caches of a thousand to a million tiles, and exponents fitted to
them.

    python -m tests.benchmarks.growth [--sizes N ...] [--folder DIR] [--json FILE] [--plot FILE.svg]

Tiles come from an MBTiles archive and go through everything but a network: selection, journal, blocks, flat
index, checks, coverage walk, commit. Each size has a process of its own and so its own peak of memory. Costs
are processor seconds, children included, since others may use the machine too; for short ones the median of
several runs. The exponent is the slope of a line through the logarithms (least squares) from ten thousand
tiles on, where constant costs no longer hide it: 1 is linear, and n log n gives about 1.1 in this range.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from math import log
from pathlib import Path
from statistics import linear_regression, median
from typing import Any, Final

from store.cache.view import open_view
from store.disk.layout import Layout
from store.maintenance.collect_garbage import preview
from store.policy.retention import KeepPolicy
from store.reader import ALLOW_UNSIGNED, FlightCache
from store.verify.verify import Depth, verify
from tests.benchmarks.caches import BigSite, change_one, write_mbtiles
from tests.benchmarks.measuring import apart, machine
from tests.benchmarks.plot import plotted
from tools.analysis.replay_document import replay
from tools.forensics.sources import from_cache

SIZES: Final = (1_000, 10_000, 100_000, 1_000_000)
NEARLY_LINEAR: Final = 1.15
NEARLY_FLAT: Final = 0.35

FLAT: Final = ("open",)
"""What should not grow with the area; every other command folds the journal, which has a record for each cell."""


def main() -> None:
    """Measure every size in a process of its own, fit, print, and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), metavar="N")
    parser.add_argument("--dimensions", type=int, default=64, help="of a descriptor")
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder by default")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw them there, as SVG")
    parser.add_argument("--one", type=int, metavar="N", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one is not None:
        print(json.dumps(one(asked.one, asked.dimensions, asked.folder)))
        return
    before, found = machine(), dict[int, Any]()
    for size in sorted(asked.sizes):
        with tempfile.TemporaryDirectory(dir=asked.folder, prefix=f"c10-growth-{size}-") as folder:
            found[size] = _apart(size, asked.dimensions, folder)
        print(f"{size:>9,} tiles: {_line(found[size])}", flush=True)
    exponents = dict(fitted(found))
    for name, exponent in exponents.items():
        limit = NEARLY_FLAT if name in FLAT else NEARLY_LINEAR
        print(f"{name:14} grows as n^{exponent:.2f}   {'as it should' if exponent <= limit else 'TOO FAST'}")
    if asked.json is not None:
        document = {"before": before, "after": machine(), "sizes": found, "exponents": exponents}
        asked.json.write_text(json.dumps(document, indent=1) + "\n")
    if asked.plot is not None:
        asked.plot.write_text(plotted({size: each["processor"] for size, each in found.items()}, exponents))


def _apart(size: int, dimensions: int, folder: str) -> Mapping[str, Any]:
    given = ["--one", str(size), "--folder", folder, "--dimensions", str(dimensions)]
    found: Mapping[str, Any] = apart("tests.benchmarks.growth", given, what=f"{size} tiles")
    return found


def one(size: int, dimensions: int, folder: Path) -> Mapping[str, Any]:
    """Measure one size: wall and processor seconds by name, and the peak of memory."""
    site = BigSite(folder / "site")
    site.number, site.dimensions = size, dimensions
    archive = site.root / "tiles.mbtiles"
    write_mbtiles(archive, size)
    layout = Layout(site.cache)
    ours: dict[str, Callable[[], object]] = {}
    found: dict[str, tuple[float, float]] = {}
    source = {"source": archive.name}

    def take(name: str, work: Callable[[], object], *, times: int = 1) -> None:
        ours[name] = work
        runs = [_timed(work) for _ in range(times)]
        found[name] = median(run[0] for run in runs), median(run[1] for run in runs)

    take("build", lambda: site.built(**source))
    peak = _peak()
    index = _index_bytes(layout)
    time.sleep(2.1)
    site.warm(**source)
    take("up to date", lambda: site.warm(**source), times=3)
    change_one(archive, 0)
    take("one changed", lambda: site.built(**source))
    take("open", lambda: FlightCache.open(layout.root, trusted_keys=ALLOW_UNSIGNED), times=9)
    take("status", lambda: open_view(layout), times=5)
    take("verify", lambda: verify(layout, depth=Depth.QUICK), times=3)
    take("verify --full", lambda: verify(layout, depth=Depth.FULL))
    take("replay", lambda: replay(from_cache(layout)))
    take("gc", lambda: preview(layout, KeepPolicy(keep=1, unfinished=False)))
    take("rollback", lambda: site.provisioner().rollback(why="measured"))
    return {
        "wall": {name: each[0] for name, each in found.items()},
        "processor": {name: each[1] for name, each in found.items()},
        "peak_bytes": peak,
        "index_bytes": index,
        "journal_bytes": layout.journal.stat().st_size,
    }


def fitted(found: Mapping[int, Mapping[str, Any]]) -> Iterator[tuple[str, float]]:
    """Yield each name and its exponent."""
    sizes = [size for size in found if size >= 10_000]
    if len(sizes) < 2:
        return
    for name in found[sizes[0]]["processor"]:
        seconds = [max(found[size]["processor"][name], 1e-4) for size in sizes]
        slope, _ = linear_regression([log(size) for size in sizes], [log(each) for each in seconds])
        yield name, slope


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    began, spent = time.perf_counter(), _processor()
    work()
    return time.perf_counter() - began, _processor() - spent


def _processor() -> float:
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def _peak() -> int:
    """Return the greatest resident memory of this process and of the largest child, bytes."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(resource.getrusage(kind).ru_maxrss for kind in kinds) * 1024


def _index_bytes(layout: Layout) -> int:
    build = open_view(layout).state.head_build
    if build is None or build.index is None:
        raise SystemExit("expected an index, found none")
    return build.index.artifact.size


def _line(found: Mapping[str, Any]) -> str:
    parts = [f"{name} {seconds:.3g} s" for name, seconds in found["processor"].items()]
    return ", ".join(
        [*parts, f"peak {found['peak_bytes'] >> 20} MiB, index {found['index_bytes'] >> 20} MiB"]
    )


if __name__ == "__main__":
    main()
