"""Verification beside live builds: nothing is wrong, and nobody may say so.

    python -m tests.crash.damage.beside --seconds 120

One process builds, fails, rolls back and builds again without a pause; others verify in full, in quick, and as the
aircraft does. Prints one JSON object: how often each looked, and every alarm.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from journal import JournalError
from store.errors import NoGoError, StoreError
from store.reader import FlightCache
from store.verify.report import Depth
from store.verify.verify import verify
from tests.crash.damage.signed import SignedSite, grown
from tests.crash.damage.trials import MEMORY
from tests.crash.storms.together import run_together

FAILS_EVERY, ROLLS_BACK_EVERY = 5, 4


def build_on(folder, until, tell):
    """Build, fail and roll back until the time is up."""
    from pipeline.errors import EmbedError
    from pipeline.testing import raising
    from tests.small_builds import words

    site = SignedSite(folder)
    site.settle()
    number = 0
    while time.monotonic() < until:
        number += 1
        site.tiles[6, number * 5 % 64, number % 64] = words(100 + number)
        fails = number % FAILS_EVERY == 0
        if fails:
            site.calls.faults["index"] = raising(EmbedError("told to fail", hint="none"))
        report = site.build(flight_id=f"flight-{number}")
        site.calls.faults.clear()
        assert report.outcome == ("failed" if fails else "built"), report.error
        tell(commits=int(not fails))
        if number % ROLLS_BACK_EVERY == 0:
            site.provisioner().rollback()
            tell(commits=1)


def fly(site):
    with FlightCache.open(site.cache, trusted_keys=site.trusted_keys) as cache:
        cache.verify()
        return cache.manifest.envelope.generation


def full(site):
    return _verified(site, Depth.FULL)


def quick(site):
    return _verified(site, Depth.QUICK)


def _verified(site, depth):
    found = verify(site.layout, depth=depth, trusted_keys=site.trusted_keys)
    assert found.go, "; ".join(f"{problem.kind} {problem}" for problem in found.problems[:3])
    return found.generation


LOOKS = {look.__name__: look for look in (full, quick, fly)}


def watch(look, folder, until, tell):
    """Look again and again; what is newest is never older than before."""
    site, newest, looks, changes = SignedSite(folder), 0, 0, 0
    while time.monotonic() < until:
        try:
            seen = look(site)
            assert seen >= newest, f"generation {seen} after {newest}"
        except (AssertionError, NoGoError, StoreError, JournalError) as error:
            tell(alarm=f"{type(error).__name__}: {error}"[:600])
        else:
            looks, changes, newest = looks + 1, changes + (seen != newest), seen
    tell(looks=looks, changes=changes)


def main(arguments=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--readers", default="full,quick,fly", help="one process for each word")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="c10-beside-") as name:
        folder = Path(name)
        # The libraries of a build do not survive a fork, so that the first builds happen elsewhere as well.
        first = run_together([("first", lambda _: grown(folder))])
        until = time.monotonic() + options.seconds
        actors = [("builder", lambda tell: build_on(folder, until, tell))]
        actors += [
            (word, lambda tell, word=word: watch(LOOKS[word], folder, until, tell))
            for word in options.readers.split(",")
        ]
        answer = run_together(actors)
        size = os.stat(folder / "cache" / "journal.mdb").st_size
    failures = answer["alarms"] + len(answer["ended_badly"]) + len(first["ended_badly"])
    answer |= {"failures": failures, "journal_bytes": size, "seconds": options.seconds}
    json.dump(answer, sys.stdout)
    sys.stdout.write("\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
