"""Damage one file of a sound cache after another, and ask ground and aircraft about it.

    python -m tests.crash.damage.trials --trials 20000 [--proven]

After each damage: verification in full names every file that is not as it was, the generations that it touches and a
command that mends it, or the cache is what it was before, to the last record; the aircraft refuses, or hands out the
very same bytes, and the very same pixels and places if nobody asked it to verify first. Nobody dies, nobody hangs.
`--proven` damages a cache of chunks with a proof and carried tiles. Prints one JSON object.
"""

import argparse
import collections
import json
import os
import signal
import sys
import tempfile
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np

from journal import JournalError
from journal.storage import integrity
from store.cache.view import open_view
from store.disk.artifacts import Artifacts
from store.disk.layout import Layout
from store.domain.manifest_projection import project
from store.errors import DamagedHistoryError, NoGoError
from store.formats import descriptor_block
from store.formats.tables import decode_blocks
from store.manifest import manifest as manifests
from store.reader import FlightCache
from store.verify.coverage import named_by
from store.verify.report import Depth
from store.verify.verify import verify
from tests.crash.damage.damages import Cache, dice_for
from tests.crash.damage.signed import grown, grown_proven
from tests.crash.powercut.farm import attempt, run, until_told
from tests.ground import ALTITUDE_M
from tests.proven_builds import frames

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
LIMIT_S = 60
BY_CELL = {"block": "block table", "pack": "pack table"}
"""Kinds of files by cell, and the table that lists them."""


class HungError(Exception):
    """A trial did not come to an end."""


class Known:
    """A sound cache and everything that is true of it."""

    def __init__(self, top, *, proven=False):
        self.site = (grown_proven if proven else grown)(top)
        self.layout = Layout(self.site.cache)
        view = open_view(self.layout)
        self.head, self.state = view.head, view.state
        self.roles, self.generations = {}, collections.defaultdict(set)
        for number, generation in view.state.generations.items():
            shown = manifests.parse(project(view.state, generation))
            for digest, (role, _) in named_by(shown, Artifacts(self.layout)).items():
                path = f"artifacts/{digest[:2]}/{digest}"
                kind = role.partition(" ")[0]
                self.roles[path] = kind if kind in BY_CELL and role != BY_CELL[kind] else role
                self.generations[path].add(number)
            for path in (self.layout.manifest_name(number), self.layout.manifest_name(number)[:-5] + ".sig"):
                self.generations[f"manifests/{path}"] = {number}
            self.generations[f"segments/{self.layout.segment_name(number)}"] = {number}
        self.cache = Cache(self.layout.root)
        self.cache.learn(self._stratum)
        self.aboard = handed_out(self)
        self.asked = questions(self) if proven else {}
        self.answers = answered(self) if proven else {}
        assert self.answers.keys() == self.asked.keys()
        assert self.verified().go

    def verified(self):
        return verify(self.layout, depth=Depth.FULL, trusted_keys=self.site.trusted_keys)

    def _stratum(self, path):
        if path in self.roles:
            return self.roles[path]
        if path.startswith(("manifests/", "segments/")):
            return Path(path).suffix
        return "journal" if path == "journal.mdb" else None


def handed_out(known):
    """Everything that the aircraft gets out of a cache."""
    floor, keys = known.state.head.number, known.site.trusted_keys
    with FlightCache.open(known.layout.root, trusted_keys=keys, floor=floor) as cache:
        found = cache.verify()
        return (
            cache.manifest,
            found,
            [cache.engine_bytes(entry.model) for entry in cache.manifest.engines],
            bytes(cache._files.view("index", cache.manifest.index.artifact)),
            cache.calibration(),
        )


def questions(known):
    """What the aircraft asks of a cache that finds places and carries tiles, by name: a function of the cache each."""
    artifacts = Artifacts(known.layout)
    rows = decode_blocks(artifacts.read(known.state.head_build.index.blocks))
    ids = descriptor_block.decode(artifacts.read(rows[0].ref)).ids
    scale = {"altitude_m": ALTITUDE_M, "heading_deg": 0}
    tiles = {
        f"tile {z}/{x}/{y}": partial(FlightCache.tile_image, z=z, x=x, y=y)
        for z, x, y in known.site.carried()
    }
    chunks = {
        f"chunk {each}": partial(FlightCache.chunk_image, descriptor_id=int(each), size=(32, 32))
        for each in ids[:: len(ids) // 3]
    }
    found = enumerate(frame for frame, _ in frames())
    places = {f"frame {number}": partial(FlightCache.locate, frame=frame, **scale) for number, frame in found}
    return tiles | chunks | places


def answered(known):
    """The answers without verifying first, by name: bytes of pixels, or candidates; without those that are refused."""
    keys, found = known.site.trusted_keys, {}
    with FlightCache.open(known.layout.root, trusted_keys=keys, floor=known.state.head.number) as cache:
        for name, question in known.asked.items():
            with suppress(NoGoError):
                answer = question(cache)
                found[name] = answer.tobytes() if isinstance(answer, np.ndarray) else answer.candidates
    return found


def trial(known, stratum, dice):
    """One damage; returns what came of it."""
    damaged = known.cache.damage(stratum, dice)
    signal.alarm(LIMIT_S)
    try:
        changed = known.cache.changed(damaged)
        ground = on_the_ground(known, changed)
        air = in_the_air(known, changed)
    except AssertionError as error:
        raise AssertionError(f"{stratum}, {damaged.kind} of {damaged.touched}: {error}") from error
    finally:
        signal.alarm(0)
        known.cache.fix(damaged)
    return {"stratum": stratum, "kind": damaged.kind, "ground": ground, "air": air}


def on_the_ground(known, changed):
    """Damage is named, or nothing is different."""
    layout = known.layout
    try:
        found = known.verified()
    except (JournalError, DamagedHistoryError, NoGoError) as error:
        assert "c10 " in error.hint, f"no way out is told: {error}, {error.hint}"
        assert changed, f"refused, and nothing is damaged: {error}"
        assert any(_blamed(path, error) for path in changed), f"another file is blamed: {error}"
        return "refused"
    if found.go:
        view = open_view(layout)
        assert changed in {(), ("journal.mdb",)}, (
            f"{changed} are not as they were, and all is said to be well"
        )
        assert (view.head, view.state.generations) == (known.head, known.state.generations), "another history"
        return "unchanged"
    for problem in found.problems:
        assert problem.fix, f"no way out is told: {problem}"
    # The blocks or packs that a broken table lists were not looked at, and the result says so.
    partly = any("were not looked at" in note for note in found.notes)
    for path in changed:
        said = any(path in (problem.path, problem.subject) for problem in found.problems)
        excused = path == "journal.mdb" or (partly and known.roles.get(path) in BY_CELL)
        assert said or excused, f"{path} is not named: {[str(each) for each in found.problems][:4]}"
    touched = {number for problem in found.problems for number in problem.generations}
    expected = set().union(*(known.generations.get(path, ()) for path in changed))
    assert touched == expected or "journal.mdb" in changed or (partly and touched < expected), (
        f"generations {touched} are named, {expected} touched"
    )
    return "named"


def _blamed(path, error):
    if path == "journal.mdb":
        return isinstance(error, JournalError) or "journal" in str(error)
    return Path(path).name in str(error)


def in_the_air(known, changed):
    """The aircraft refuses, or has the very same content."""
    if known.asked:
        with suppress(NoGoError):
            answers = answered(known)
            wrong = [name for name, answer in answers.items() if answer != known.answers[name]]
            assert not wrong, f"another answer to {wrong}"
            assert changed or answers == known.answers, "an answer is refused, and nothing is damaged"
    try:
        found = handed_out(known)
    except NoGoError as error:
        assert changed, f"NO-GO, and nothing is damaged: {error}"
        assert all(error.reasons), "a reason is empty"
        return "no-go"
    assert found == known.aboard, "wrong content was accepted"
    return "identical"


def work(options):
    """A worker: its own cache, every so-manyth trial."""

    def trials(number, done, workers):
        def hung(*_):
            raise HungError

        signal.signal(signal.SIGALRM, hung)
        integrity._IDLE_S = 0.0
        with tempfile.TemporaryDirectory(dir=MEMORY, prefix="c10-damage-") as folder:
            known = Known(Path(folder) / "site", proven=options.proven)
            strata = sorted(known.cache.strata)
            # The journal is the hardest, and manifests decide most.
            strata += ["journal"] * 6 + [".json"] * 2
            for at in range(number, options.trials, workers):
                if at // workers >= done:
                    stratum = strata[at // workers % len(strata)]
                    yield attempt(trial, known, stratum, dice_for(options.seed, at))

    return trials


def main(arguments=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--proven", action="store_true", help="a cache with a proof and carried tiles")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    options = parser.parse_args(arguments)
    began, failed, outcomes, trials = time.monotonic(), [], collections.defaultdict(collections.Counter), 0
    kinds = collections.Counter()
    with until_told() as told:
        for result in run(work(options), workers=options.workers):
            trials += 1
            if "failed" in result:
                failed.append(result)
            else:
                outcomes[result["stratum"]][f"{result['ground']}, {result['air']}"] += 1
                kinds[result["kind"]] += 1
    json.dump(
        {
            "trials": trials,
            "failures": len(failed),
            "examples": failed[:6],
            "deaths": sum(result["failed"].startswith("died") for result in failed),
            "outcomes": outcomes,
            "kinds": kinds,
            "seed": options.seed,
            **told,
            "seconds": round(time.monotonic() - began, 1),
        },
        sys.stdout,
    )
    sys.stdout.write("\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
