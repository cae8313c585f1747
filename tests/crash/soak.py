"""The long run of all rigs.

    python -m tests.crash.soak [--minutes 60]
    python -m tests.crash.soak --forever [--json FILE]

The first kills and hinders every writer at every call. Without a limit it does everything there is; with one, as much
as fits, chosen by the seed, so that a short run is a fair sample of the long one. Prints a line for each sweep.

With `--forever` all rigs of this folder take turns, each for a slice of time with a fresh seed, until SIGINT or
SIGTERM. Prints a line for each slice, and for each failure the command that does the same again.

Both print the sums at the end, and end with 1 if anything was wrong.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path
from threading import Timer
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.crash.harness import shim
from tests.crash.harness.gate import summary
from tests.crash.harness.launch import AT_ONCE, Sweeper, Sweepers, kind_of
from tests.crash.harness.plan import plan_of
from tests.crash.longrun.catalogue import rigs
from tests.crash.longrun.forever import LongRun
from tests.crash.longrun.scorecard import replace_json
from tests.crash.longrun.sweeps import plans

SLICE_S = 60.0
NO_COMPILER = "gcc is missing: the library that kills and hinders writers cannot be compiled"


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, help="begin no sweep or slice after so many minutes")
    parser.add_argument(
        "--most", type=int, help="at most so many calls of one kind in one folder; all if absent"
    )
    parser.add_argument("--seed", type=int, help="1 if absent, and a fresh one for --forever")
    parser.add_argument("--at-once", type=int, default=AT_ONCE, help="processes that work at once")
    parser.add_argument("--only", help="only rows and writers, or rigs, whose names contain this")
    parser.add_argument("--row", action="append", help="only this row, or rig; may be given more than once")
    parser.add_argument("--json", type=Path, help="write all results here, also while it runs")
    parser.add_argument("--plan", help="do this one sweep, given as JSON, and print one JSON object")
    parser.add_argument("--first", type=int, default=0, help="of --plan: pass over so many points")
    parser.add_argument("--points", type=int, default=0, help="of --plan: do at most so many points")
    parser.add_argument(
        "--seconds", type=float, default=0.0, help="of --plan: begin no point after that time"
    )
    parser.add_argument("--forever", action="store_true", help="let all rigs take turns until it is stopped")
    parser.add_argument("--slice", type=float, default=SLICE_S, help="seconds of a turn (%(default)g)")
    parser.add_argument("--bug", default="", help="a mistake to put into the writers of rigs that know it")
    return parser.parse_args(arguments)


class Report:
    """The sums of the rows."""

    def __init__(self, file: Path | None) -> None:
        self.file, self.results = file, list[dict[str, Any]]()
        self.points: Counter[str] = Counter()
        self.bad: Counter[str] = Counter()
        self.deaths: Counter[str] = Counter()

    def add(self, row: str, result: dict[str, Any]) -> None:
        """Book a result, and say what was wrong."""
        self.results.append({"row": row} | result)
        self.points[row] += result["happened"]
        self.bad[row] += len(result["bad"]) + (result["happened"] != result["planned"])
        self.deaths.update(result["deaths"])
        print(f"{row}: {' '.join(result['plan']['actions'])} {summary(result)}", flush=True)
        for line in result["bad"]:
            print(f"  BAD {line}", flush=True)
        if self.file is not None:
            replace_json(self.file, self.results)

    def sums(self) -> None:
        """Say what came of all of it."""
        for row in sorted(self.bad):
            print(f"{row}: {self.points[row]} points happened, {self.bad[row]} bad")
        for place, count in sorted(self.deaths.items()):
            print(f"a failed allocation ended the process in a foreign library: {place}: {count}")


def sweep_all(given: argparse.Namespace, seed: int) -> int:
    """Do all sweeps that were asked for; returns the exit code."""
    rows = {
        plan: row
        for row, plan in plans(given.most, seed, given.bug)
        if (given.only is None or given.only in row or given.only in plan.driver)
        and (given.row is None or row in given.row)
    }
    chosen = list(rows)
    random.Random(seed).shuffle(chosen)
    began, report = time.monotonic(), Report(given.json)
    with tempfile.TemporaryDirectory(prefix="c10-soak-") as folder:
        sweepers = Sweepers(chosen, shim.build(Path(folder)), at_once=given.at_once)
        timer = Timer(60 * given.minutes, sweepers.leave_out) if given.minutes is not None else None
        if timer is not None:
            timer.start()
        try:
            for plan in chosen:
                try:
                    report.add(rows[plan], sweepers.results[plan].result())
                except CancelledError:
                    report.points["sweeps left out"] += 1
                except AssertionError as error:
                    report.bad[rows[plan]] += 1
                    print(f"  BAD {error}", flush=True)
        except KeyboardInterrupt:
            sweepers.stop()
        finally:
            if timer is not None:
                timer.cancel()
            sweepers.end()
    print(f"\n{time.monotonic() - began:.0f} s, seed {seed}, {len(report.results)} sweeps of {len(chosen)}")
    report.sums()
    return 1 if report.bad.total() else 0


def sweep_one(given: argparse.Namespace) -> int:
    """Do one sweep, or a part of one; returns the exit code."""
    plan = plan_of(json.loads(given.plan))
    plan = replace(plan, first=given.first, points=given.points, seconds=given.seconds)
    with (
        tempfile.TemporaryDirectory(prefix="c10-soak-") as folder,
        Sweeper(kind_of(plan), shim.build(Path(folder))) as sweeper,
    ):
        try:
            result = sweeper.sweep(plan)
        except KeyboardInterrupt:
            sweeper.stop()
            raise
    bad = result["bad"]
    answer = {"points": result["happened"], "failures": len(bad), "examples": bad[:6], "first": plan.first}
    more = ("done", "of", "plan", "planned", "endings", "deaths", "seconds")
    print(json.dumps(answer | {name: result[name] for name in more}))
    return 1 if bad else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; returns the exit code."""
    given = options(arguments)
    if given.forever:
        seed = given.seed if given.seed is not None else random.SystemRandom().randrange(10**9)
        print(f"seed {seed}", flush=True)
        chosen = [
            rig
            for rig in rigs(most=given.most, workers=given.at_once, bug=given.bug)
            if (given.only is None or given.only in rig.name) and (given.row is None or rig.name in given.row)
        ]
        run = LongRun(chosen, seed=seed, slice_s=given.slice, file=given.json)
        return run.run(minutes=given.minutes)
    if shim.compiler() is None:
        print(NO_COMPILER, file=sys.stderr)
        return 2
    if given.plan is not None:
        return sweep_one(given)
    return sweep_all(given, given.seed if given.seed is not None else 1)


if __name__ == "__main__":
    sys.exit(main())
