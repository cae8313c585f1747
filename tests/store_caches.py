"""Caches written through the store with tiny artifacts and a fake clock; see `tests.played_builds`."""

from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from store.cache.writer import CacheWriter
from store.testing import FakeClock
from store.trust.signatures import Signer
from tests.played_builds import play

ALICE, BOB = (Signer.of(Ed25519PrivateKey.from_private_bytes(name * 32)) for name in (b"a", b"b"))


def open_writer(layout, **options):
    """Open a cache for writing, and create it if there is none; it needs no free space."""
    settings = {"clock": FakeClock(), "create": True, "reserve_bytes": 0}
    return CacheWriter.open(layout, **(settings | options))


def record_builds(layout, *scenarios, **options):
    """Record the builds of some scenarios in one session."""
    with open_writer(layout, **options) as store:
        for scenario in scenarios:
            play(store, scenario)


class InterruptingClock(FakeClock):
    """A clock that lets something happen once, when it is read for the n-th time."""

    due: Callable[[], None] | None = None
    reads: int = 0

    def wall_ns(self):
        if self.due is not None:
            self.reads -= 1
            if self.reads <= 0:
                due, self.due = self.due, None
                due()
        return super().wall_ns()


def tree(layout):
    """Everything in a cache but LMDB's lock file and the lock of the artifacts."""
    quiet = {layout.journal.with_name("journal.mdb-lock"), layout.artifacts_lock}
    return {
        path.relative_to(layout.root): path.read_bytes() if path.is_file() and not path.is_symlink() else None
        for path in layout.root.rglob("*")
        if path not in quiet
    }
