"""Remembers what a journal folded to, so that a command folds only what came since. Disposable.

What is kept is the value of a pure function: the chain digest stands for every record up to it, and these records fold
to one state. So it lies outside of the cache, in a folder of this user alone, and is taken only where the journal still
holds the very record it ends with, and only by the same code that folded it. Without it, or where anything about it is
strange, the journal is folded from its first record, with the same result.

Layout: magic (8), SHA-256 of all that follows (32), digest of the folding code (32), bytes of `store.checkpoint`.
"""

import hashlib
import os
from contextlib import suppress
from functools import cache
from pathlib import Path

from journal.record import EMPTY, Chain, Head
from store import canonical, codec, events, fold, lineage, memo
from store import state as states
from store.layout import Layout
from store.state import State
from store.writeonce import read_regular

WORTH_RECORDS = 512
"""From so many records on that were folded anew, the result is kept: folding fewer takes about as long as reading it."""

_MAGIC = b"C10FOLD\x01"
_DIGEST = 32
_MAX_BYTES = 4 << 30


def head_of(state: State) -> Head:
    """Return the place in the journal up to which a state was folded; `EMPTY` for a new one."""
    position = state.position
    return Head(position.seq, Chain(bytes.fromhex(position.chain))) if position.seq else EMPTY


def recall(layout: Layout) -> State:
    """Return what was remembered of this journal, to be held against it; a new state if there is nothing."""
    path = _path(layout)
    if path is None:
        return State()
    from store import checkpoint  # noqa: PLC0415 - most journals are short, and nothing is remembered of them

    try:
        if path.lstat().st_uid != os.geteuid():
            return State()
        data = read_regular(path, limit=_MAX_BYTES) or b""
        start = len(_MAGIC) + _DIGEST
        if not data.startswith(_MAGIC + hashlib.sha256(memoryview(data)[start:]).digest() + _law()):
            return State()
        return checkpoint.decode(data[start + _DIGEST :])
    except (OSError, ValueError):
        return State()


def remember(layout: Layout, state: State, *, since: int) -> None:
    """Keep a state for later commands, if folding it was worth that. Best effort: a full disk costs only speed.

    Args:
        layout: Where the cache is.
        state: What its journal folds to.
        since: How many records did not have to be folded.
    """
    path = _path(layout)
    if path is None or state.unknown or state.position.seq - since < WORTH_RECORDS:
        return
    from store import checkpoint  # noqa: PLC0415 - as above

    with suppress(OSError):
        body = _law() + checkpoint.encode(state)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        # No temporary name is needed: until the last byte is there the checksum makes readers ignore the file.
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(_MAGIC + hashlib.sha256(body).digest())
            file.write(body)


def _path(layout: Layout) -> Path | None:
    if layout.memory is None:
        return None
    # By its real place, since one cache may be reached under several names.
    name = hashlib.sha256(os.fsencode(os.path.realpath(layout.journal))).hexdigest()[:32]
    return layout.memory / f"state-{name}"


@cache
def _law() -> bytes:
    """Digest of the code that a state follows from: what other code folded may mean something else."""
    digest = hashlib.sha256()
    for module in (canonical, codec, events, fold, lineage, memo, states):
        about = os.stat(str(module.__file__))  # noqa: PTH116 - a dozen paths made of it would be felt at every start
        digest.update(f"{module.__name__} {about.st_size} {about.st_mtime_ns}\n".encode())
    return digest.digest()
