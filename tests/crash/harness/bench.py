"""A cache to be mistreated: where it is, who acts on it, and what was acknowledged.

An acknowledgement is a line, written unbuffered to a pipe after a call returned: `A SEQ CHAIN` for an append to the
journal, `G GENERATION DIGEST` for a commit whose files are there. Whatever happens afterwards must not take it back.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from journal import Journal
from journal.lock import BuildLock
from store.base.clock import SystemClock
from store.cache.view import open_view
from store.cache.writer import CacheWriter
from store.disk.layout import Layout
from store.reader import ALLOW_UNSIGNED, FlightCache
from store.trust.signatures import Signer

LOCK_TIMEOUT_S = 60.0
"""Nobody holds a lock for long, so that only a lock that is held for ever makes anybody wait so long."""


class Acknowledged(NamedTuple):
    """What the world was told is done: (seq, chain) of appends, (generation, digest of the manifest) of commits."""

    appends: tuple[tuple[int, str], ...] = ()
    commits: tuple[tuple[int, str], ...] = ()

    def __add__(self, other: "Acknowledged") -> "Acknowledged":  # type: ignore[override]
        return Acknowledged(self.appends + other.appends, self.commits + other.commits)


def acknowledged(lines: list[str]) -> Acknowledged:
    """Take the lines of a pipe apart."""
    words = [line.split() for line in lines]
    return Acknowledged(
        tuple((int(word[1]), word[2]) for word in words if word[:1] == ["A"]),
        tuple((int(word[1]), word[2]) for word in words if word[:1] == ["G"]),
    )


@dataclass(slots=True)
class Bench:
    """A cache and the pipe of acknowledgements.

    Attributes:
        root: Folder of everything; the cache lies in it.
        pipe: Descriptor to write acknowledgements to; negative for none.
        helper: Calls another process into the cache, if the driver wants one.
        reserve_bytes: Size of the disk reserve.
        signer: Signs what is committed; readers then want it signed.
        clock: Where times come from.
    """

    root: Path
    pipe: int = -1
    helper: Callable[[], None] | None = None
    reserve_bytes: int = 16384
    signer: Signer | None = None
    clock: SystemClock = field(default_factory=SystemClock)

    @property
    def layout(self) -> Layout:
        """Where the cache is."""
        return Layout(self.root / "cache")

    def fly(self, generation: int | None = None) -> FlightCache:
        """Open the newest generation, or one, as an aircraft does."""
        trusted = ALLOW_UNSIGNED if self.signer is None else [self.signer.public]
        return FlightCache.open(self.layout.root, trusted_keys=trusted, generation=generation)

    def say(self, line: str) -> None:
        """Write a line, at once."""
        if self.pipe >= 0:
            os.write(self.pipe, f"{line}\n".encode())

    @contextmanager
    def store(self, *, create: bool = False, alone: bool = False) -> Iterator[CacheWriter]:
        """Open the cache for writing as a command does; alone, as collection does."""
        self.layout.make_root()
        with (
            BuildLock(self.layout.build_lock, timeout_s=LOCK_TIMEOUT_S, command="crash test"),
            CacheWriter.open(
                self.layout,
                clock=self.clock,
                create=create,
                reserve_bytes=self.reserve_bytes,
                exclusive_within_s=LOCK_TIMEOUT_S if alone else None,
                signer=self.signer,
            ) as store,
        ):
            yield store


def acknowledge(bench: Bench) -> None:
    """From now on, tell of every append and every commit of this process once it returned."""
    append, create = Journal.append, Journal.create.__func__
    commit = CacheWriter._commit

    def append_and_tell(self, records, *args, **options):
        head = append(self, records, *args, **options)
        if records:
            bench.say(f"A {head.seq} {head.chain.hex()}")
        return head

    def create_and_tell(cls, path, records, **options):
        head = create(cls, path, records, **options)
        bench.say(f"A {head.seq} {head.chain.hex()}")
        return head

    def commit_and_tell(self, *args, **options):
        generation = commit(self, *args, **options)
        bench.say(f"G {generation.number} {generation.manifest_sha256}")
        return generation

    Journal.append = append_and_tell
    Journal.create = classmethod(create_and_tell)
    CacheWriter._commit = commit_and_tell


def generations(layout: Layout) -> int:
    """How many generations the journal holds; none if there is no journal."""
    return len(open_view(layout).state.generations) if layout.journal.exists() else 0
