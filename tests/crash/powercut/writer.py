"""A writer to be cut short: does a history with a cache and says what it has acknowledged.

Usage: writer.py HISTORY TOP PROMISES [BUG]. `TOP` is a folder that will hold the cache; each acknowledgement is a line
in the file `PROMISES`: "seq SEQ CHAIN" when an append returned, "generation N" when a commit or rollback did.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from store.cache.event_store import EventStore
from store.cache.optimistic_append import accept
from store.cache.projections import Projections
from store.cache.view import open_view
from store.cache.writer import CacheWriter
from store.disk.layout import Layout
from store.maintenance.collect_garbage import collect
from store.policy import rollback
from store.policy.retention import KeepPolicy
from store.runtime.capabilities import library_version
from store.testing import FakeClock
from store.trust.signatures import Signer
from tests.crash.powercut.model import Promise
from tests.played_builds import LEAST, PHOTOGRAPHS, Scenario, StopDeadError, play

SIGNER = Signer.of(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
TRUSTED = (SIGNER.public,)
VERSION = library_version("onnxruntime") or "1"
TILES = {(0, 0): "a", (1, 0): "b", (20, 3): "c"}
RESERVE = 1 << 12


def scenario(flight="f1", *, tiles=None, **fields):
    return Scenario(flight=flight, version=VERSION, tiles=TILES | (tiles or {}), **fields)


def opened(top, clock=None, **options):
    settings = {"clock": clock or FakeClock(), "create": True, "reserve_bytes": RESERVE, "signer": SIGNER}
    return CacheWriter.open(Layout(top / "cache"), **(settings | options))


class Promises:
    """Where acknowledgements go; the append is acknowledged by patching the one place where appends return."""

    def __init__(self, path):
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        appended, promises = EventStore.append_on, self

        def append_on(event_store, *arguments, **options):
            appended(event_store, *arguments, **options)
            head = event_store.head
            promises.say(f"seq {head.seq} {head.chain.hex()}")

        EventStore.append_on = append_on

    def say(self, text):
        os.write(self.fd, text.encode() + b"\n")

    def generation(self, number):
        self.say(f"generation {number}")


def births(top, promises):
    """The first creation of a cache, with its first build."""
    with opened(top) as store:
        promises.generation(play(store, scenario())[0].number)


def generations(top, promises):
    """Birth, a build, one that reuses, a rollback, a failure and another build."""
    clock = FakeClock()
    with opened(top, clock) as store:
        promises.generation(play(store, scenario())[0].number)
        promises.generation(play(store, scenario("f2", tiles={(1, 0): "B"}, extend=True))[0].number)
    with opened(top, clock) as store:
        promises.generation(store.roll_back(rollback.plan(store.state, to=None, why="test")).number)
        assert play(store, scenario("f3", tiles={(5, 5): "d"}, fail_at="index"))[0] is None
        promises.generation(play(store, scenario("f4", tiles={(5, 5): "d"}))[0].number)


def recovers(top, promises):
    """Opening a cache that a dead process left: a build under way, a generation without files, full scratch."""
    with opened(top) as store:
        promises.generation(len(store.state.generations))
        promises.generation(play(store, scenario("f3", tiles={(5, 5): "d"}))[0].number)


def collects(top, promises):
    """Three builds of different parts, one of them accepted, then a collection and a build after it."""
    clock = FakeClock()
    with opened(top, clock) as store:
        for number in range(1, 5):
            tiles = {(number, 0): f"c{number}", (1, 0): f"b{number}"}
            engine = "old" if number == 1 else "net"
            promises.generation(play(store, scenario(f"f{number}", tiles=tiles, engine=engine))[0].number)
    accept(Layout(top / "cache"), 2, why="test", host={}, clock=clock)
    with opened(top, clock, create=False, exclusive_within_s=1.0) as store:
        assert collect(store, KeepPolicy(keep=1)).files
    with opened(top, clock) as store:
        promises.generation(play(store, scenario("f9", tiles={(1, 0): "b1"}))[0].number)


def pipeline(top, promises):
    """Real checks and a real index around fakes: two builds and a rollback."""
    from tests.crash.damage.signed import SignedSite

    site = SignedSite(top)
    promises.generation(site.build().generation)
    site.settle()
    promises.generation(site.build(flight_id="f2").generation)
    promises.generation(site.provisioner().rollback().generation)


def carries(top, promises):
    """Builds with chunks, a proof and carried tiles, one whose proof fails, one without them, a rollback, a collection."""
    clock, proven = FakeClock(), {"chunks": True, "proof": PHOTOGRAPHS, "carry": True}
    with opened(top, clock) as store:
        promises.generation(play(store, scenario(**proven))[0].number)
        promises.generation(play(store, scenario("f2", tiles={(1, 0): "B"}, **proven))[0].number)
        assert play(store, scenario("f3", tiles={(5, 5): "d"}, **proven | {"proof": LEAST - 1}))[0] is None
        promises.generation(play(store, scenario("f4", tiles={(5, 5): "d"}))[0].number)
        promises.generation(store.roll_back(rollback.plan(store.state, to=None, why="test")).number)
    with opened(top, clock, create=False, exclusive_within_s=1.0) as store:
        assert collect(store, KeepPolicy(keep=1)).files
    with opened(top, clock) as store:
        promises.generation(play(store, scenario("f5", tiles={(5, 5): "d"}, **proven))[0].number)


def proven_site(top):
    """The site whose cache lies in a folder, with its tiles and photographs beside that."""
    from tests.crash.damage.signed import SignedProvenSite

    return SignedProvenSite(top.parent / "ground", cache=top / "cache")


def proves(top, promises):
    """Real builds with a proof and carried tiles, one of which finds too few photographs, and a rollback."""
    from tests.proven_builds import write_truth

    site = proven_site(top)
    promises.generation(site.build().generation)
    site.change_ground(3)
    promises.generation(site.build(flight_id="f2").generation)
    write_truth(site, ("one.png", "two.png"))
    assert site.build(flight_id="f3").generation is None
    promises.generation(site.provisioner().rollback().generation)
    write_truth(site)


def serves(top, promises):
    """Builds, rolls back and collects, until it is killed."""
    clock, number = FakeClock(), 0
    while True:
        with opened(top, clock) as store:
            for _ in range(3):
                number += 1
                tiles = {(number % 40, 7): f"t{number}", (0, 0): f"a{number}"}
                promises.generation(play(store, scenario(f"f{number}", tiles=tiles))[0].number)
            planned = rollback.plan(store.state, to=None, why="test")
            promises.generation(store.roll_back(planned).number)
        with opened(top, clock, create=False, exclusive_within_s=1.0) as store:
            collect(store, KeepPolicy(keep=2))


def prepare_recovers(top):
    """What `recovers` finds; returns what had been acknowledged of it."""
    with opened(top) as store:
        play(store, scenario())
        dead = Projections.write

        def dies(_self, _ledger, _generation):
            raise StopDeadError

        Projections.write = dies
        try:
            play(store, scenario("f2", tiles={(1, 0): "B"}))
        except StopDeadError:
            pass
        finally:
            Projections.write = dead
        try:
            play(store, scenario("f3", tiles={(5, 5): "d"}, die_at="cells"))
        except StopDeadError:
            pass
    for name in ("draft-1-ab", "journal-x/journal.mdb"):
        path = top / "cache" / "tmp" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"left")
    head = open_view(Layout(top / "cache")).head
    return Promise(1, head.seq, head.chain.hex())


def prepare_proves(top):
    proven_site(top)
    return Promise()


def prepare_pipeline(top):
    from tests.crash.damage.signed import SignedSite

    SignedSite(top)
    return Promise()


HISTORIES = {
    kind.__name__: kind
    for kind in (births, generations, recovers, collects, carries, pipeline, proves, serves)
}
PREPARE = {"recovers": prepare_recovers, "pipeline": prepare_pipeline, "proves": prepare_proves}


def main(history, top, promises, bug=""):
    if bug:
        from tests.crash.powercut.bugs import BUGS

        BUGS[bug]()
    HISTORIES[history](Path(top), Promises(promises))


if __name__ == "__main__":
    main(*sys.argv[1:])
