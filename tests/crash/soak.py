"""The long run: every writer, killed and hindered at every call. `python tests/crash/soak.py [--minutes 60]`

Without a limit it does everything there is; with one, as much as fits, chosen by the seed, so that a short run is a
fair sample of the long one. Prints a line for each sweep and the sums at the end, and ends with 1 if anything was wrong.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from threading import Timer
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.crash.harness import shim
from tests.crash.harness.drivers import DRIVERS
from tests.crash.harness.gate import summary
from tests.crash.harness.launch import AT_ONCE, Sweepers
from tests.crash.harness.plan import Plan

WITHOUT_JOURNAL = ("mirror", "mirror-birth", "rebuild")
"""Writers that begin without a journal that can be read, so that neither reader can live beside them."""

NESTED = 6
ALLOCATIONS = 400
NO_REHEARSAL = {"company", "failed", "provision-failed"}
"""Writers whose allocations are not made to fail: another process joins in, or they fail anyway."""


def plans(most: int | None, seed: int) -> Iterator[tuple[str, Plan]]:
    """Every sweep with the row of the scorecard that it counts for."""
    for name in DRIVERS:
        for action in shim.KILLS:
            yield "kills", Plan(driver=name, actions=(action,), most=most, seed=seed)
        for reader in () if name in WITHOUT_JOURNAL else ("keeps", "looks"):
            yield (
                "kills beside a reader",
                Plan(driver=name, actions=("kill", "after"), most=most or 12, reader=reader, seed=seed),
            )
        yield (
            "kills of recovery, too",
            Plan(driver=name, actions=("kill", "torn"), most=min(most or 8, 8), nested=NESTED, seed=seed),
        )
        for action in shim.ERRORS:
            yield "errors", Plan(driver=name, actions=(action,), most=most, seed=seed)
        if name not in NO_REHEARSAL:
            yield "allocations", Plan(driver=name, allocations=ALLOCATIONS, seed=seed)


def options() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, help="begin no sweep after so many minutes")
    parser.add_argument(
        "--most", type=int, help="at most so many calls of one kind in one folder; all if absent"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--at-once", type=int, default=AT_ONCE)
    parser.add_argument("--only", help="only rows and writers whose names contain this")
    parser.add_argument("--row", action="append", help="only this row; may be given more than once")
    parser.add_argument("--json", type=Path, help="write all results here, also while it runs")
    return parser.parse_args()


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
            self.file.write_text(json.dumps(self.results))

    def sums(self) -> None:
        """Say what came of all of it."""
        for row in sorted(self.bad):
            print(f"{row}: {self.points[row]} points happened, {self.bad[row]} bad")
        for place, count in sorted(self.deaths.items()):
            print(f"a failed allocation ended the process in a foreign library: {place}: {count}")


def main() -> int:
    """Run it; returns the exit code."""
    given = options()
    if shim.compiler() is None:
        print(
            "gcc is missing: the library that kills and hinders writers cannot be compiled", file=sys.stderr
        )
        return 2
    rows = {
        plan: row
        for row, plan in plans(given.most, given.seed)
        if (given.only is None or given.only in row or given.only in plan.driver)
        and (given.row is None or row in given.row)
    }
    chosen = list(rows)
    random.Random(given.seed).shuffle(chosen)
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
        finally:
            if timer is not None:
                timer.cancel()
            sweepers.end()
    print(
        f"\n{time.monotonic() - began:.0f} s, seed {given.seed}, {len(report.results)} sweeps of {len(chosen)}"
    )
    report.sums()
    return 1 if report.bad.total() else 0


if __name__ == "__main__":
    sys.exit(main())
