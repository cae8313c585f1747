"""Readers in a storm of commits: none sees half a generation or an older one than before; the journal stays small.

    python -m tests.crash.storms.storm --seconds 600

One process commits as fast as it can, with builds, rollbacks and collections; eight look: five as the aircraft, of
which one keeps each cache open for a while, two from the ground, one verifies. Prints one JSON object.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from journal import JournalError
from journal.lock import BuildLock
from store.cache.view import read_history
from store.disk.layout import Layout
from store.errors import ErrorKind, NoGoError, StoreError
from store.maintenance.collect_garbage import collect
from store.policy import rollback
from store.policy.retention import KeepPolicy
from store.reader import FlightCache
from store.verify.report import Depth, ProblemKind
from store.verify.verify import verify
from tests.crash.powercut.judge import FAKE
from tests.crash.powercut.writer import TRUSTED, FakeClock, opened, play, scenario
from tests.crash.storms.together import run_together

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
ROUND = 6
COLLECTS_EVERY = 5
"""A collection comes after so many rounds of builds and a rollback."""

HOLD_S = 0.5
OVERHEAD_BYTES = 1 << 20
GROWTH = 5
"""The journal may be so many times as large as its records, and the overhead."""


def commit_on(folder, until, tell):
    """Commit without a pause."""
    clock, number, rounds, lock = FakeClock(), 0, 0, Layout(folder / "cache").build_lock
    while time.monotonic() < until:
        rounds += 1
        with BuildLock(lock), opened(folder, clock) as store:
            for _ in range(ROUND):
                number += 1
                tiles = {(number % 40, 7): f"t{number}", (0, 0): f"a{number % 7}"}
                play(store, scenario(f"f{number}", tiles=tiles))
            store.roll_back(rollback.plan(store.state, to=None, why="storm"))
            tell(commits=ROUND + 1)
        if rounds % COLLECTS_EVERY == 0:
            with BuildLock(lock), opened(folder, clock, create=False, exclusive_within_s=5.0) as store:
                tell(collected=collect(store, KeepPolicy(keep=3)).files)


def fly(folder):
    """Open, verify, and go."""
    with FlightCache.open(folder / "cache", trusted_keys=TRUSTED) as cache:
        cache.verify()
        return cache.manifest.envelope.generation


def hold(folder):
    """Open, wait, and use what was opened: whatever happens to the folder meanwhile, its engine stays."""
    with FlightCache.open(folder / "cache", trusted_keys=TRUSTED) as cache:
        time.sleep(HOLD_S)
        cache.engine_bytes("place")
        cache.calibration()
        return cache.manifest.envelope.generation


def ground(folder):
    view = read_history(Layout(folder / "cache"))
    assert view.facts[-1].chain == view.head.chain.hex()
    return view.state.head.number if view.state.head else 0


def inspect(folder):
    found = verify(Layout(folder / "cache"), depth=Depth.FULL, trusted_keys=TRUSTED)
    wrong = [
        f"{problem.kind} {problem}"
        for problem in found.problems
        if problem.kind is not ProblemKind.CONTENT or problem.subject not in FAKE
    ]
    assert not wrong, "; ".join(wrong[:3])
    return found.generation


READERS = [("fly", fly)] * 4 + [("hold", hold)] + [("ground", ground)] * 2 + [("inspect", inspect)]


def watch(act, folder, until, tell):
    """Look again and again."""
    newest, looks, changes = 0, 0, 0
    while time.monotonic() < until:
        try:
            seen = act(folder)
            assert seen >= newest, f"generation {seen} after {newest}"
        except (AssertionError, NoGoError, StoreError, JournalError) as error:
            if _overtaken(folder, error, newest):
                tell(overtaken=1)
            else:
                tell(alarm=f"{type(error).__name__}: {error}"[:600])
        else:
            looks, changes, newest = looks + 1, changes + (seen != newest), seen
    tell(looks=looks, changes=changes)


def _overtaken(folder, error, newest):
    """Whether a collection took a generation away that had long been replaced when its reader got to its files.

    A reader that is slower than seven commits and a collection may be refused an old generation; never the newest.
    """
    missing = isinstance(error, NoGoError) and error.kind is ErrorKind.ARTIFACT_DAMAGED
    return missing and "No such file" in str(error) and fly(folder) > newest


def main(arguments=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=20)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="c10-storm-") as name:
        folder = Path(name)
        with opened(folder) as store:
            play(store, scenario())
        until = time.monotonic() + options.seconds
        actors = [("writer", lambda tell: commit_on(folder, until, tell))]
        actors += [(word, lambda tell, act=act: watch(act, folder, until, tell)) for word, act in READERS]
        answer = run_together(actors)
        layout = Layout(folder / "cache")
        journal_bytes = os.stat(layout.journal).st_size
        facts = read_history(layout).facts
        records = sum(os.stat(layout.segments / each).st_size for each in layout.segment_files().values())
    grown = journal_bytes > GROWTH * records + OVERHEAD_BYTES
    failures = answer["alarms"] + len(answer["ended_badly"]) + grown
    answer |= {
        "failures": failures,
        "journal_bytes": journal_bytes,
        "record_bytes": records,
        "records": len(facts),
        "seconds": options.seconds,
    }
    json.dump(answer, sys.stdout)
    sys.stdout.write("\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
