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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.crash.harness import shim
from tests.crash.harness.drivers import DRIVERS
from tests.crash.harness.gate import summary
from tests.crash.harness.launch import AT_ONCE, sweep
from tests.crash.harness.sweep import Plan

NESTED = 6
ALLOCATIONS = 400


def plans(most: int | None, seed: int) -> Iterator[tuple[str, Plan]]:
    """Every sweep with the row of the scorecard that it counts for."""
    for name in DRIVERS:
        for action in shim.KILLS:
            yield "kills", Plan(driver=name, actions=(action,), most=most, seed=seed)
        for reader in ("keeps", "looks"):
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
        if name != "company":
            yield "allocations", Plan(driver=name, allocations=ALLOCATIONS, seed=seed)


def main() -> int:
    """Run it; returns the exit code."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--minutes", type=float, help="start no sweep after so many minutes")
    options.add_argument(
        "--most", type=int, help="at most so many calls of one kind in one folder; all if absent"
    )
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--at-once", type=int, default=AT_ONCE)
    options.add_argument("--only", help="only rows and writers whose names contain this")
    options.add_argument("--json", type=Path, help="write all results here")
    given = options.parse_args()
    if shim.compiler() is None:
        print(
            "gcc is missing: the library that kills and hinders writers cannot be compiled", file=sys.stderr
        )
        return 2
    chosen = [
        (row, plan)
        for row, plan in plans(given.most, given.seed)
        if given.only is None or given.only in row or given.only in plan.driver
    ]
    random.Random(given.seed).shuffle(chosen)
    began, results = time.monotonic(), list[dict[str, Any]]()
    points: Counter[str] = Counter()
    bad: Counter[str] = Counter()

    def one(row: str, plan: Plan) -> tuple[str, dict[str, Any] | None]:
        if given.minutes is not None and time.monotonic() - began > 60 * given.minutes:
            return row, None
        return row, sweep(plan, library)

    with tempfile.TemporaryDirectory(prefix="c10-soak-") as folder, ThreadPoolExecutor(given.at_once) as pool:
        library = shim.build(Path(folder))
        for row, result in pool.map(lambda each: one(*each), chosen):
            if result is None:
                points["sweeps left out"] += 1
                continue
            results.append({"row": row} | result)
            points[row] += result["happened"]
            bad[row] += len(result["bad"]) + (result["happened"] != result["planned"])
            print(f"{row}: {' '.join(result['plan']['actions'])} {summary(result)}", flush=True)
            for line in result["bad"]:
                print(f"  BAD {line}", flush=True)
    print(f"\n{time.monotonic() - began:.0f} s, seed {given.seed}, {len(results)} sweeps of {len(chosen)}")
    for row in sorted(bad):
        print(f"{row}: {points[row]} points happened, {bad[row]} bad")
    if given.json is not None:
        given.json.write_text(json.dumps(results))
    return 1 if bad.total() else 0


if __name__ == "__main__":
    sys.exit(main())
