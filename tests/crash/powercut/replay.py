"""Power cuts by replay: record what a writer does, make legal disk states of it, and let the cache live on in each.

    python -m tests.crash.powercut.replay --states 100000

Prints one JSON object: states checked (all different), failures, and the calls they come from. `--bug NAME` puts a
mistake of `bugs` into the writer; then failures are what is expected.
"""

import argparse
import collections
import json
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from journal.storage import integrity
from tests.crash.powercut import trace, writer
from tests.crash.powercut.farm import attempt, run, until_told
from tests.crash.powercut.judge import Past, judge
from tests.crash.powercut.model import Recording
from tests.crash.powercut.states import Cuts, fingerprint, materialise

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
WEIGHTS = {
    "generations": 6,
    "births": 2,
    "recovers": 2,
    "collects": 3,
    "carries": 3,
    "pipeline": 1,
    "proves": 1,
}
"""Histories and their share of the states; a state of the last two takes longest."""

ROUNDS_WITHOUT_NEWS = 70
APART = 7
THOROUGH = 25
"""One state in so many is verified in full as well."""


def recorded(history, folder, bug=""):
    """Record a history; returns the recording and what happened in it."""
    top, promises = folder / "top", folder / "promises"
    top.mkdir(parents=True)
    recording = Recording(str(top), str(promises))
    if history in writer.PREPARE:
        recording.start = writer.PREPARE[history](top)
    recording.begin()
    command = [sys.executable, writer.__file__, history, str(top), str(promises), *([bug] if bug else [])]
    variables = {**os.environ, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}
    recording.follow(trace.record(command, output=folder / "trace", environment=variables))
    return recording, Past.of(top / "cache")


def explore(history, cuts, past, folder, number, done, workers, *, states, every):
    """Check different states until there are enough of them or no new ones come; yields one value for each."""
    # Nobody writes while a state is judged, so that nothing is gained by looking twice.
    integrity._IDLE_S = 0.0
    seen, begun, quiet, drawn = set(), 0, 0, 0
    points = range(cuts.recording.points + 1)
    while begun < states and quiet < ROUNDS_WITHOUT_NEWS:
        quiet += 1
        # A part of the points in turn, so that a short run sees all of the history.
        for point in points[drawn % APART :: APART]:
            promise = cuts.promise(point)
            files = cuts.draw(point, drawn)
            mark = fingerprint(files, promise)
            if mark in seen or begun >= states:
                continue
            seen.add(mark)
            quiet = 0
            if mark[0] % workers != number:
                continue
            begun += 1
            if begun <= done:
                continue
            target = folder / f"state-{number}"
            materialise(files, target)
            build = begun % every == 0
            result = attempt(
                lambda: judge(target, promise, past, build=build, thorough=begun % THOROUGH == 0)
            )
            yield {"history": history, "point": point, "draw": drawn, **result}
        drawn += 1


def main(arguments=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--states", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument(
        "--every", type=int, default=5, help="the next build is tried in one state of so many"
    )
    parser.add_argument("--history", choices=sorted(WEIGHTS), action="append")
    parser.add_argument("--bug", default="")
    options = parser.parse_args(arguments)
    if trace.STRACE is None:
        sys.stdout.write('{"skipped": "needs strace"}\n')
        return 0
    began = time.monotonic()
    histories = options.history or list(WEIGHTS)
    total = sum(WEIGHTS[history] for history in histories)
    counted, failed, points = collections.Counter(), [], {}
    with until_told() as told, tempfile.TemporaryDirectory(dir=MEMORY, prefix="c10-replay-") as name:
        for history in histories:
            folder = Path(name, history)
            recording, past = recorded(history, folder, options.bug)
            points[history] = recording.points
            share = options.states * WEIGHTS[history] // total // options.workers + 1
            states = partial(
                explore,
                history,
                Cuts(recording, seed=options.seed),
                past,
                folder,
                states=share,
                every=options.every,
            )
            for result in run(states, workers=options.workers):
                counted[history] += 1
                if "failed" in result:
                    failed.append(result)
    json.dump(
        {
            "states": counted.total(),
            "by_history": counted,
            "points": points,
            "failures": len(failed),
            "examples": failed[:5],
            "seed": options.seed,
            "bug": options.bug,
            **told,
            "seconds": round(time.monotonic() - began, 1),
        },
        sys.stdout,
    )
    sys.stdout.write("\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
