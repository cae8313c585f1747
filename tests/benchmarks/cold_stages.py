"""Measure a first build by stage, beside its bare phases, in turns.

Run from the root of the repository: `python -m tests.benchmarks.cold_stages [--pairs N] [--tiles N]`. Ours is
told by the times of the journal's records, theirs by `tests.benchmarks.bare`. Both run in processes that stay;
the children that compile and embed start anew, with modules that are compiled. Each pair that is done gets a line on
standard error. The rows `cold` and `cold-command` of the table are here as well.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from statistics import median, quantiles
from time import monotonic_ns
from typing import Final
from unittest.mock import patch

from pipeline.builtin_model.place import place_model
from store.cache.view import read_history
from store.disk.layout import Layout
from store.domain.events import (
    BuildCommitted,
    BuildStarted,
    CellEmbedded,
    CheckPassed,
    CoverageWalked,
    EngineCompiled,
    IndexBuilt,
    StepStarted,
)
from tests.benchmarks.caches import around
from tests.benchmarks.measuring import Row, Settings, at_most, in_turns, machine, row
from tests.benchmarks.rows_work import BARE, PLACE_REQUEST, place_site, run_bare

Seconds = Mapping[str, float]
_TILES: Final = 2_000


@contextmanager
def compiled_modules() -> Iterator[None]:
    """Let children keep the modules that they compile, as those of an installed package are kept."""
    with patch.dict(os.environ):
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        yield


class ColdBuilds:
    """A site whose tiles are built into one new cache after another, and a process with the bare phases."""

    def __init__(self, folder: Path, number: int) -> None:
        """Paint the tiles."""
        self.site, self.number = place_site(folder, number), number
        self.request = {**PLACE_REQUEST, "bbox": around(number)}
        self._caches = count()
        self.bare = {
            "files": str(self.site.root / "tiles"),
            "network": str(self.site.write("place.onnx", place_model())),
            "batch": 32,
            "scratch": str(self.site.root),
            "workers": len(os.sched_getaffinity(0)),
        }

    def new_cache(self) -> Path:
        """Return the path of a cache that does not exist yet."""
        return self.site.root / f"cache-{next(self._caches)}"

    def build(self) -> None:
        """Build in this process."""
        self.site.cache = self.new_cache()
        self.site.layout = Layout(self.site.cache)
        provisioner = self.site.provisioner(workers=self.bare["workers"])
        report = provisioner.build_cache_artifacts(self.site.request(**self.request))
        if report.error is not None or report.tiles_embedded != self.number:
            raise SystemExit(f"expected {self.number} tiles to be embedded, found {report}")

    @contextmanager
    def bare_process(self) -> Iterator[Callable[[], Seconds]]:
        """Start the process that stays; yield what runs its phases and returns the seconds of each."""
        line = json.dumps(self.bare | {"phase": "build"}).encode() + b"\n"
        command = [sys.executable, str(BARE)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as staying:

            def run() -> Seconds:
                staying.stdin.write(line)
                staying.stdin.flush()
                answer = staying.stdout.readline()
                if not answer:
                    raise SystemExit("expected the bare phases to succeed, found them ended")
                return json.loads(answer)

            yield run


def cold_build(settings: Settings) -> Iterator[Row]:
    """A first build against its bare phases, one after another.

    In `cold` both sides run in processes that stay, so that the pair that does not count has loaded the
    libraries of both; children that compile and embed start anew on both. In `cold-command` both are commands
    and begin with loading their libraries.
    """
    number = settings.size(_TILES, 10_000)
    builds = ColdBuilds(settings.place("cold"), number)
    with compiled_modules(), builds.bare_process() as theirs:
        pairs = in_turns(builds.build, theirs, pairs=settings.pairs)
    work = f"cold build of {number:,} tiles"
    yield row("cold", work, "sum of its bare phases", at_most(1.15), pairs, rate=False)
    request = builds.site.write_request(**builds.request)
    command = [str(Path(sys.executable).with_name("c10")), "build", str(request), "--json", "--cache"]
    environ = {"XDG_CACHE_HOME": str(builds.site.root / "xdg")}

    def ours_anew() -> None:
        done = subprocess.run(
            [*command, str(builds.new_cache())],
            env={**os.environ, **environ},
            capture_output=True,
            check=False,
        )
        if done.returncode or json.loads(done.stdout)["tiles_embedded"] != number:
            raise SystemExit(f"expected {number} tiles to be embedded, found {done.stderr[-2000:]!r}")

    with compiled_modules():
        pairs = in_turns(ours_anew, lambda: run_bare("build", builds.bare), pairs=settings.pairs)
    peer = "sum of its bare phases, as a command"
    yield row("cold-command", f"{work}, as a command", peer, at_most(1.15), pairs, rate=False)


def stages_of(builds: ColdBuilds) -> Seconds:
    """Build, and return the seconds of each stage by the times of the build's records."""
    began = monotonic_ns()
    builds.build()
    ended, times = monotonic_ns(), list[tuple[str, int]]()
    waiting = False
    for fact in read_history(builds.site.layout).facts:
        match fact.event:
            case BuildStarted():
                times.append(("read the request, hash tiles, create the cache", fact.mono_ns))
            case StepStarted(kind="engine"):
                times.append(("plan", fact.mono_ns))
            case EngineCompiled():
                times.append(("compile", fact.mono_ns))
            case CheckPassed(check="engine"):
                times.append(("check the engine", fact.mono_ns))
            case StepStarted(kind="cells"):
                waiting = True
            case CellEmbedded():
                name = (
                    "embed, until the first window" if waiting and not _has(times, "embed") else "embed, rest"
                )
                times.append((name, fact.mono_ns))
            case StepStarted(kind="index"):
                times.append(("end the workers", fact.mono_ns))
            case IndexBuilt():
                times.append(("index", fact.mono_ns))
            case CheckPassed():
                times.append(("check the index", fact.mono_ns))
            case CoverageWalked():
                times.append(("walk", fact.mono_ns))
            case BuildCommitted():
                times.append(("commit", fact.mono_ns))
    times.append(("files of the commit", ended))
    found: dict[str, float] = {}
    for name, time in times:
        found[name] = found.get(name, 0.0) + (time - began) / 1e9
        began = time
    return found


def _has(times: list[tuple[str, int]], begin: str) -> bool:
    return any(name.startswith(begin) for name, _ in times)


def _tell(what: str, runs: list[Seconds], pairs: int) -> None:
    """Say that a run has ended; the first does not count."""
    number = f"{len(runs) - 1} of {pairs}" if len(runs) > 1 else "to load the libraries"
    print(f"{what} {number}: {sum(runs[-1].values()):.1f} s", file=sys.stderr, flush=True)


def _print(title: str, runs: list[Seconds]) -> None:
    print(f"\n{title:48} median ms  quartiles")
    whole = [{"all": sum(run.values())} for run in runs]
    for found in (runs, whole):
        for name in found[0]:
            values = sorted(1e3 * run.get(name, 0.0) for run in found)
            low, _, high = quantiles(values, n=4) if len(values) > 1 else values * 3
            print(f"{name:48} {median(values):9.1f}  {low:.1f} to {high:.1f}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--tiles", type=int, default=_TILES)
    asked = parser.parse_args()
    before, ours, theirs = machine(), list[Seconds](), list[Seconds]()
    with tempfile.TemporaryDirectory(prefix="c10-cold-") as folder:
        builds = ColdBuilds(Path(folder), asked.tiles)
        with compiled_modules(), builds.bare_process() as bare:

            def build() -> None:
                ours.append(stages_of(builds))
                _tell("build", ours, asked.pairs)

            def phases() -> None:
                theirs.append(bare())
                _tell("bare phases", theirs, asked.pairs)

            pairs = in_turns(build, phases, pairs=asked.pairs)
    _print(f"cold build of {asked.tiles:,} tiles", ours[1:])
    _print("bare phases", theirs[1:])
    found = row("cold", "", "", at_most(1.15), pairs, rate=False)
    print(f"\nratio {found.ratio:.3f} ({found.low:.3f} to {found.high:.3f}); ", end="")
    print(f"{before['processor']}, {before['cores']} cores, load {before['load']}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
