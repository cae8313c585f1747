"""Measure a build after one tile of an archive changed, by stage.

Run from the root of the repository: `python -m tests.benchmarks.changed_stages [--pairs N] [--tiles N]`. A stage is
what the builder tells people that it does, or what lies between two of those; of each it prints the median seconds,
and processor seconds of the builder alone and of the workers that hash.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from statistics import median

from pipeline.request.options import IndexKind
from tests.benchmarks.caches import BigSite, change_one, write_mbtiles
from tests.benchmarks.measuring import machine
from tests.benchmarks.rows_scale import REALISTIC

_TILES = 1_000_000
_DIMENSIONS = 16
_JUST_WRITTEN_S = 2.1
"""What was just written is not remembered: it could change once more without showing it."""

Times = tuple[float, float, float]
"""Seconds, processor seconds of this process, and those of its children that have ended."""


class Stages:
    """The progress of a build, kept as the times at which each stage began."""

    def __init__(self) -> None:
        """Begin with what comes before the first stage."""
        self.began: list[tuple[str, Times]] = []
        self._last = ""
        self._mark("before the first stage")

    def _mark(self, stage: str) -> None:
        times = os.times()
        mine = (
            time.perf_counter(),
            times.user + times.system,
            times.children_user + times.children_system,
        )
        self.began.append((stage, mine))

    def start(self, step: str, *, total: int | None, unit: str) -> None:
        """See `Progress.start`."""
        self._last = step
        self._mark(step)

    def advance(self, amount: int = 1, *, phase: str = "") -> None:
        """See `Progress.advance`."""

    def finish(self, note: str = "") -> None:
        """See `Progress.finish`."""
        self._mark(f"after {self._last!r}")

    def say(self, text: str) -> None:
        """See `Progress.say`."""

    def seconds(self) -> dict[str, Times]:
        """Return what each stage took."""
        self._mark("")
        found: dict[str, Times] = {}
        for (stage, begin), (_, end) in zip(self.began, self.began[1:], strict=False):
            before = found.get(stage, (0.0, 0.0, 0.0))
            found[stage] = (
                before[0] + end[0] - begin[0],
                before[1] + end[1] - begin[1],
                before[2] + end[2] - begin[2],
            )
        return found


def measured(folder: Path, number: int, pairs: int) -> list[dict[str, Times]]:
    """Build a cache of an archive, then change a tile and build again, some times; return the stages of those."""
    site = BigSite(folder)
    site.number, site.dimensions, site.kind = number, _DIMENSIONS, IndexKind.FLAT
    archive = folder / "tiles.mbtiles"
    write_mbtiles(archive, number, repeats=REALISTIC)
    site.built(source=archive.name)
    found = []
    for pair in range(pairs):
        change_one(archive, pair)
        time.sleep(_JUST_WRITTEN_S)
        stages = Stages()
        report = site.provisioner(progress=stages).build_cache_artifacts(site.request(source=archive.name))
        if report.tiles_embedded != 1:
            raise SystemExit(f"expected one tile to be embedded, found {report}")
        found.append(stages.seconds())
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--tiles", type=int, default=_TILES)
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder by default")
    asked = parser.parse_args()
    before = machine()
    with tempfile.TemporaryDirectory(prefix="c10-changed-", dir=asked.folder) as folder:
        runs = measured(Path(folder), asked.tiles, asked.pairs)
    print(f"{'stage':40} {'seconds':>8} {'builder':>8} {'workers':>8}")
    for stage in (*runs[0], "all"):
        found = [run.get(stage) or tuple(map(sum, zip(*run.values(), strict=True))) for run in runs]
        print(f"{stage:40}", *(f"{median(each[place] for each in found):8.2f}" for place in range(3)))
    print(f"{before['processor']}, {before['cores']} cores, load {before['load']}")


if __name__ == "__main__":
    main()
