"""A journal as forensics reads it: every record in its place, understood or not. Pure.

Where the records come from does not matter: a cache, a copied journal, the segments of a mirror, a bundle. The chain is
checked here once more. What cannot be decoded, and events of a later version, keep their place; reading ends only where
the chain breaks, since nothing after that can be believed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from journal.errors import JournalDamagedError, RecordError
from journal.record import EMPTY, Record, decode, verify_chain
from store.domain import event_codec
from store.domain.events import Event
from store.domain.state import RecordedEvent, Unknown
from store.errors import DamagedHistoryError, UnknownEventError


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One record: its place, its envelope, and what it means if that is known.

    Attributes:
        seq: Its place, from 1.
        chain: Digest up to and with it, hexadecimal.
        build: Number of its build, if any.
        wall_ns: Nanoseconds since 1970 by the wall clock.
        mono_ns: Nanoseconds by a clock that never steps back; comparable within one boot.
        tag: Kind of event.
        version: Of its payload.
        event: The event; None if this version does not understand it.
        payload: What the record holds, where it is not understood.
        problem: Why it is not understood, although its kind and version are known.
    """

    seq: int
    chain: str
    build: int | None
    wall_ns: int
    mono_ns: int
    tag: str
    version: int
    event: Event | None
    payload: Any = None
    problem: str = ""

    @property
    def fact(self) -> RecordedEvent:
        """The same for the fold."""
        return RecordedEvent(
            seq=self.seq,
            chain=self.chain,
            build=self.build,
            wall_ns=self.wall_ns,
            mono_ns=self.mono_ns,
            event=Unknown(tag=self.tag, version=self.version) if self.event is None else self.event,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """All records that can be believed, in order; `problem` says why there are no more, if something is wrong."""

    moments: Sequence[Moment]
    problem: str = ""

    @property
    def head(self) -> tuple[int, str]:
        """Place and chain digest of the last one."""
        last = self.moments[-1] if self.moments else None
        return (last.seq, last.chain) if last else (0, EMPTY.chain.hex())

    def until(self, seq: int) -> "History":
        """The history as it was after a record."""
        return History(moments=self.moments[:seq], problem=self.problem)


def read(values: Iterable[tuple[int, bytes, bytes]], *, problem: str = "") -> History:
    """Read records given as (seq, chain digest, record bytes), from the first on.

    Args:
        values: The records.
        problem: Why there are no more of them, if the caller knows.
    """
    moments: list[Moment] = []
    try:
        for entry in verify_chain(EMPTY, ((seq, chain + raw) for seq, chain, raw in values)):
            moments.append(_moment(entry.seq, entry.chain, entry.raw))  # noqa: PERF401 - what came before a break stays
    except JournalDamagedError as error:
        problem = problem or error.message
    return History(moments=tuple(moments), problem=problem)


def _moment(seq: int, chain: bytes, raw: bytes) -> Moment:
    try:
        record = decode(raw)
    except RecordError as error:
        return Moment(
            seq=seq,
            chain=chain.hex(),
            build=None,
            wall_ns=0,
            mono_ns=0,
            tag="?",
            version=0,
            event=None,
            problem=error.message,
        )
    try:
        return _known(seq, chain, record, event_codec.decode(record.tag, record.version, record.payload))
    except UnknownEventError:
        return _known(seq, chain, record, None)
    except DamagedHistoryError as error:
        return _known(seq, chain, record, None, error.message)


def _known(seq: int, chain: bytes, record: Record, event: Event | None, problem: str = "") -> Moment:
    return Moment(
        seq=seq,
        chain=chain.hex(),
        build=record.build,
        wall_ns=record.wall_ns,
        mono_ns=record.mono_ns,
        tag=record.tag,
        version=record.version,
        event=event,
        payload=record.payload if event is None else None,
        problem=problem,
    )
