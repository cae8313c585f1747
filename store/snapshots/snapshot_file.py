"""Remembers what a journal folded to, so that a command folds only what came since. Disposable.

What is kept is the value of a pure function: a chain digest stands for every record up to it, and these records fold to
one state. So it lies outside of the cache, in a folder of this user, and is taken only where the journal holds a record
with that very digest in that very place, and only by a release that folds alike (`store.snapshots.snapshot_codec.LAW`). Without it, or
where anything about it is strange, the journal is folded from its first record, with the same result. Whoever removes
something, or proves something, does that in any case.

Layout: magic (8), SHA-256 of all that follows (32), law (2, big-endian), bytes of `store.snapshots.snapshot_codec`.
"""

import gc
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from journal.record import EMPTY, Chain, Head
from store.base.values import Position
from store.disk.layout import Layout
from store.domain.state import Generation, State
from store.errors import StoreError
from store.files.regular_file import read_own

WORTH_RECORDS = 512
"""Fewer records than these are folded anew rather than kept: that takes a few milliseconds."""

_WORTH_PART = 8
"""Of a long journal without a new generation, at least the eighth part: the whole state is written each time."""

_MAGIC = b"C10FOLD\x02"
_DIGEST = 32
_LAW_BYTES = 2
_MAX_BYTES = 4 << 30


def head_of(position: Position) -> Head:
    """Return a place in the journal as the journal names it."""
    return Head(position.seq, Chain(bytes.fromhex(position.chain))) if position.seq else EMPTY


def trusted_head(state: State) -> Head:
    """Return from where the chain is checked again though the state is known: from before the last commit.

    What the next commit stands on is thereby whole when it is made.
    """
    return EMPTY if state.head is None else head_of(state.head.before)


def recall(layout: Layout) -> State:
    """Return what was remembered of this journal, to be held against it; a new state if there is nothing."""
    path = _path(layout)
    if path is None:
        return State()
    try:
        data = read_own(path, limit=_MAX_BYTES)
    except OSError:
        return State()
    from store.snapshots import snapshot_codec  # noqa: PLC0415 - most journals are short, and nothing is remembered of them

    start = len(_MAGIC) + _DIGEST
    law = snapshot_codec.LAW.to_bytes(_LAW_BYTES, "big")
    seal = hashlib.sha256(memoryview(data)[start:]).digest()
    if data[:start] != _MAGIC + seal or data[start : start + _LAW_BYTES] != law:
        return State()
    with without_collector():
        try:
            return snapshot_codec.decode(data[start + _LAW_BYTES :])
        except ValueError:
            return State()


def remember(layout: Layout, state: State, *, since: Position, head: Generation | None) -> None:
    """Keep a state for later commands, if folding it was worth that. Best effort: a full disk costs only speed.

    Args:
        layout: Where the cache is.
        state: What its journal folds to.
        since: Up to where it did not have to be folded.
        head: The newest generation that was known there.
    """
    path = _path(layout)
    more, newer = state.position.seq - since.seq, state.head is not None and state.head != head
    worth = WORTH_RECORDS if newer else max(WORTH_RECORDS, state.position.seq // _WORTH_PART)
    if path is None or state.unknown or more < worth:
        return
    try:
        _write(path, state)
    except (OSError, ValueError, OverflowError, MemoryError, StoreError):
        # A full disk, too little memory, a count that no 64 bits hold: the journal is folded anew.
        forget(layout)


def _write(path: Path, state: State) -> None:
    from store.snapshots import snapshot_codec  # noqa: PLC0415 - as above

    body = snapshot_codec.LAW.to_bytes(_LAW_BYTES, "big") + snapshot_codec.encode(state)
    if len(body) <= _MAX_BYTES:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        # No temporary name is needed: until the last byte is there the checksum makes readers ignore the file.
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(_MAGIC + hashlib.sha256(body).digest())
            file.write(body)


def forget(layout: Layout) -> None:
    """Remove what was remembered of a journal: it turned out to be of another one, or is not whole."""
    path = _path(layout)
    if path is not None:
        with suppress(OSError):
            path.unlink()


@contextmanager
def without_collector() -> Iterator[None]:
    """Let no garbage be looked for meanwhile.

    What a fold makes lives on and holds no cycles, and to look through all of it again and again takes a fifth of the time.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _path(layout: Layout) -> Path | None:
    if layout.memory is None:
        return None
    # By its real place, since one cache may be reached under several names.
    name = hashlib.sha256(os.fsencode(os.path.realpath(layout.journal))).hexdigest()[:32]
    return layout.memory / f"state-{name}"
