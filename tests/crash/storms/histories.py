"""Random operations on one cache after another, many of them killed, against a plain model.

    python -m tests.crash.storms.histories --operations 2000

Each operation runs in a process of its own: a build (of tiles or chunks, some with a proof, which may fail, some with
carried tiles), a build that fails, a rollback, an acceptance, one more signature, a collection. Two in five are killed
at a random moment. Afterwards the cache must be what it was before the operation or what it is after
it; nothing that was ever committed may look otherwise than then. Prints one JSON object.
"""

import argparse
import collections
import contextlib
import ctypes
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from journal import JournalError
from journal.lock import BuildLock, lock_holder
from store.cache.optimistic_append import accept
from store.cache.projections import signers_of
from store.cache.view import open_view
from store.disk.layout import Layout
from store.errors import NoGoError, RequestRefusedError, StoreError
from store.maintenance.collect_garbage import collect
from store.maintenance.sign import sign
from store.manifest.file_names import signature_name
from store.policy import rollback
from store.policy.retention import KeepPolicy
from store.reader import FlightCache
from store.trust.signatures import Signer
from store.verify.report import Depth, ProblemKind
from store.verify.verify import verify
from tests.crash.powercut.farm import until_told
from tests.crash.powercut.judge import FAKE
from tests.crash.powercut.writer import TRUSTED, FakeClock, opened, play, scenario
from tests.played_builds import LEAST, PHOTOGRAPHS, STEPS, Work

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
KILLED = 0.4
LONGEST_LIFE_S = 0.08
LENGTH = 50
"""Operations on one cache, before the next one is begun."""

SIGNERS = [Signer.of(Ed25519PrivateKey.from_private_bytes(bytes([number] * 32))) for number in range(3)]
"""Who signs what others have signed."""

VERIFIED_EVERY = 10
PROOFS = (None, LEAST - 1, PHOTOGRAPHS, PHOTOGRAPHS)
"""How many photographs a build finds that must find `LEAST`; None if it asks for none."""


@dataclass
class Model:
    """What the cache must be.

    Attributes:
        shown: Origin and manifest digest of every generation.
        accepted: Generations that are accepted.
        behind: Whether the newest generation's files are owed: its writer was killed between commit and files.
        retired: Generations that were collected.
        builds: How many builds have begun.
        signed: Keys that signed each generation, in their order.
    """

    shown: list[tuple[int, str]] = field(default_factory=list)
    accepted: set[int] = field(default_factory=set)
    behind: bool = False
    collected_generations: set[int] = field(default_factory=set)
    builds: int = 0
    signed: list[tuple[str, ...]] = field(default_factory=list)

    @classmethod
    def of(cls, state):
        numbers = sorted(state.generations)
        return cls(
            shown=[
                (state.generations[each].origin, state.generations[each].manifest_sha256) for each in numbers
            ],
            accepted=set(state.accepted),
            collected_generations=set(state.collected_generations),
            builds=len(state.builds),
            signed=[signers_of(state.generations[each]) for each in numbers],
        )


def build(top, dice):
    tiles = {
        (dice.randrange(40), dice.randrange(40)): dice.choice("abcdef") for _ in range(dice.randrange(1, 5))
    }
    step = dice.choice(STEPS) if dice.random() < 0.2 else ""
    kind = {"chunks": dice.random() < 0.5, "carry": dice.random() < 0.5, "proof": dice.choice(PROOFS)}
    chosen = scenario(
        f"f{dice.randrange(4)}", tiles=tiles, engine=dice.choice(("net", "other")), fail_at=step, **kind
    )
    with opened(top) as store:
        generation, _ = play(store, chosen)
        return "built" if generation else "failed"


def roll_back(top, dice):
    with opened(top, create=False) as store:
        standing = sorted(set(store.state.generations) - set(store.state.collected_generations))
        planned = rollback.plan(store.state, to=dice.choice([None, *standing]), why="soak")
        if planned is None:
            return "no change"
        store.roll_back(planned)
        return "rolled back"


def mark(top, dice):
    layout = Layout(top / "cache")
    standing = sorted(open_view(layout).state.generations)
    found = accept(layout, dice.choice(standing or [1]), why="soak", host={}, clock=FakeClock())
    return "accepted" if found.changed else "no change"


def add_signature(top, dice):
    with opened(top, create=False) as store:
        standing = sorted(set(store.state.generations) - set(store.state.collected_generations))
        found = sign(store, dice.choice([None, *standing]), dice.choice(SIGNERS))
        return "signed" if found.changed else "no change"


def clear(top, dice):
    with opened(top, create=False, exclusive_within_s=1.0) as store:
        done = collect(store, KeepPolicy(keep=dice.randrange(1, 4), unfinished=dice.random() < 0.5))
        return "collected" if done.files else "no change"


OPERATIONS = {
    "build": (build, 6),
    "roll_back": (roll_back, 2),
    "mark": (mark, 1),
    "countersign": (add_signature, 1),
    "clear": (clear, 1),
}


def _locked(name, top):
    """The build lock, for everything but an acceptance, which needs none."""
    if name == "mark":
        return contextlib.nullcontext()
    (top / "cache").mkdir(exist_ok=True)
    return BuildLock(Layout(top / "cache").build_lock)


def operate(name, top, dice):
    """Run an operation in a child, perhaps to its death; returns what it said, or "killed"."""
    seed, dies, life = dice.random(), dice.random() < KILLED, dice.random() * LONGEST_LIFE_S
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        said = "crashed"
        try:
            with _locked(name, top):
                said = OPERATIONS[name][0](top, random.Random(seed))
        except (RequestRefusedError, JournalError, StoreError) as error:
            said = f"refused {getattr(error, 'kind', '')}"
        except BaseException:  # noqa: BLE001 - the parent tells of it
            said = "crashed " + traceback.format_exc()[-600:]
        finally:
            os.write(writing, said.encode())
            os._exit(0)
    os.close(writing)
    if dies:
        time.sleep(life)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with os.fdopen(reading, "rb") as file:
        said = file.read().decode()
    os.waitpid(pid, 0)
    return said or "killed"


def check(top, name, before, said, *, thorough):
    """Hold the cache against the model before the operation; returns the model after it."""
    layout = Layout(top / "cache")
    assert lock_holder(layout.build_lock) is None, "a lock is stale"
    if not layout.exists():
        assert not before.shown, "the cache is gone"
        assert said in {"killed", "refused no-cache"}, f"no cache after: {said}"
        return before
    view = open_view(layout)
    now = Model.of(view.state)
    assert now.shown[: len(before.shown)] == before.shown, "a generation is another one than before"
    new = len(now.shown) - len(before.shown)
    wanted = {"built": {1}, "rolled back": {1}, "killed": {0, 1}}.get(said, {0})
    assert new in wanted, f"{new} new generations, expected {wanted}"
    assert now.accepted >= before.accepted, "an acceptance is gone"
    assert now.collected_generations >= before.collected_generations, "a collected generation is back"
    for number, (was, keys) in enumerate(zip(before.signed, now.signed, strict=False), start=1):
        assert keys[: len(was)] == was, f"generation {number} lost a signature"
        assert len(keys) <= len(was) + (said in {"signed", "killed"}), f"generation {number} got a signature"
    assert not now.accepted & now.collected_generations - before.collected_generations, (
        "an accepted generation was collected"
    )
    assert len(now.shown) not in now.collected_generations, "the head was collected"
    shown = _aboard(layout)
    # A writer that was killed between the commit and its files leaves the generation before, until the next that
    # opens the cache for writing. Builds, rollbacks and collections do so before they decide anything, and so have
    # recovered even where they then refuse or change nothing. An acceptance is one record beside whoever builds.
    may_lag = said == "killed" or (name == "mark" and before.behind and not new)
    assert shown == len(now.shown) or (may_lag and shown == len(now.shown) - 1), f"aboard {shown}: {said}"
    owed = _owed(layout, view.state)
    assert not owed or said == "killed" or (name == "mark" and before.behind), f"signatures are owed: {owed}"
    now.behind = shown < len(now.shown) or bool(owed)
    if thorough and not now.behind and shown:
        found = verify(layout, depth=Depth.FULL, trusted_keys=TRUSTED)
        wrong = [
            f"{problem.kind} {problem}"
            for problem in found.problems
            if problem.kind is not ProblemKind.CONTENT or problem.subject not in FAKE
        ]
        # What a killed collection had left to do is no damage.
        assert not wrong, f"verification: {wrong[:3]}"
    return now


def _owed(layout, state):
    """Generations that are visible and lack a signature file that the journal holds."""
    files = layout.manifest_files()
    return [
        number
        for number, name in files.items()
        if number not in state.collected_generations
        for place, _ in enumerate(state.generations[number].signatures, start=1)
        if not (layout.manifests / signature_name(name, place)).exists()
    ]


def _aboard(layout):
    try:
        with FlightCache.open(layout.root, trusted_keys=TRUSTED) as cache:
            cache.verify()
            return cache.manifest.envelope.generation
    except NoGoError:
        assert not layout.manifest_files(), "NO-GO beside manifests"
        return 0


def live(folder, dice, length, counted):
    """One cache from its birth on; returns failures."""
    model, done = Model(), []
    names = [name for name, (_, weight) in OPERATIONS.items() for _ in range(weight)]
    for number in range(length):
        name = dice.choice(names) if done else "build"
        said = operate(name, folder, dice)
        done.append((name, said[:40]))
        counted[f"{name}: {said.splitlines()[0][:40]}"] += 1
        try:
            assert not said.startswith("crashed"), said
            model = check(folder, name, model, said, thorough=number % VERIFIED_EVERY == 0)
        except (AssertionError, NoGoError, StoreError, JournalError) as error:
            return [{"failed": f"{type(error).__name__}: {error}"[:700], "history": done[-6:]}]
    with opened(folder) as store:
        chosen = scenario("last", tiles={(3, 3): "z"}, chunks=True, carry=True, proof=PHOTOGRAPHS)
        play(store, chosen)
        _, work = play(store, chosen)
        if work != Work():
            return [{"failed": f"a second build of the same does {work}", "history": done[-6:]}]
    return []


def main(arguments=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--operations", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    began, counted, failures, caches = time.monotonic(), collections.Counter(), [], 0
    told = {"interrupted": False}
    while counted.total() < options.operations and not told["interrupted"]:
        with until_told() as told, tempfile.TemporaryDirectory(dir=MEMORY, prefix="c10-histories-") as name:
            dice = random.Random(f"{options.seed} {caches}")
            length = min(LENGTH, options.operations - counted.total())
            failures += live(Path(name), dice, length, counted)
            caches += 1
    json.dump(
        {
            "operations": counted.total(),
            "caches": caches,
            "killed": sum(count for what, count in counted.items() if what.endswith("killed")),
            "failures": len(failures),
            "examples": failures[:5],
            "counted": counted,
            "seed": options.seed,
            **told,
            "seconds": round(time.monotonic() - began, 1),
        },
        sys.stdout,
    )
    sys.stdout.write("\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
