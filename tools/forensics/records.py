"""Decode all records of a history, whether this version understands them or not. Pure.

The records may come from a cache, a copied journal, the segments of a mirror, or a bundle. Their chain is
checked again here. Records that cannot be decoded, and events of a later version, keep their place. Reading
ends only where the chain breaks, since nothing after that can be trusted.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from journal.errors import JournalDamagedError, RecordError
from journal.record import EMPTY, decode, verify_chain
from store.base.valueclass import valueclass
from store.domain import event_codec
from store.domain.events import Event
from store.domain.state import RecordedEvent, Unknown
from store.errors import DamagedHistoryError, UnknownEventError


@valueclass(frozen=True, slots=True, kw_only=True)
class DecodedRecord:
    """One record: its place, its envelope, and its event if that is understood.

    Attributes:
        seq: Its place, from 1.
        chain: Digest up to and with it, hexadecimal.
        build: Number of its build, if any.
        wall_ns: Nanoseconds since 1970 by the wall clock.
        mono_ns: Nanoseconds by a clock that never steps back; comparable within one boot.
        tag: Kind of event.
        version: Version of the event's payload.
        event: The event; None if this version of C10 does not understand it.
        payload: What the record holds, if it is not understood.
        problem: Why it is not understood, although its kind and version are known.
    """

    seq: int
    chain: str
    build: int | None = None
    wall_ns: int = 0
    mono_ns: int = 0
    tag: str = "?"
    version: int = 0
    event: Event | None = None
    payload: Any = None
    problem: str = ""

    @classmethod
    def of(cls, recorded: RecordedEvent) -> "DecodedRecord":
        """Return the record of an event as the fold takes it; its tag and version are not known."""
        return cls(
            seq=recorded.seq,
            chain=recorded.chain,
            build=recorded.build,
            wall_ns=recorded.wall_ns,
            mono_ns=recorded.mono_ns,
            event=None if isinstance(recorded.event, Unknown) else recorded.event,
        )

    @property
    def recorded_event(self) -> RecordedEvent:
        """The record as the fold takes it."""
        return RecordedEvent(
            seq=self.seq,
            chain=self.chain,
            build=self.build,
            wall_ns=self.wall_ns,
            mono_ns=self.mono_ns,
            event=Unknown(tag=self.tag, version=self.version) if self.event is None else self.event,
        )


@valueclass(frozen=True, slots=True, kw_only=True)
class RecordHistory:
    """All records that can be trusted, in order.

    Attributes:
        problem: Why reading ended early, if it did.
        mend: What would bring the others back.
    """

    records: Sequence[DecodedRecord]
    problem: str = ""
    mend: str = "c10 rebuild"

    @property
    def head(self) -> tuple[int, str]:
        """Sequence number and chain digest of the last record."""
        last = self.records[-1] if self.records else None
        return (last.seq, last.chain) if last else (0, EMPTY.chain.hex())

    def until(self, seq: int) -> "RecordHistory":
        """Return the history as it was after a record."""
        return replace(self, records=self.records[:seq])


def read(values: Iterable[tuple[int, bytes, bytes]], *, problem: str = "") -> RecordHistory:
    """Decode records, given as (seq, chain digest, record bytes) from the first on.

    Args:
        values: The records.
        problem: Why there are no more of them, if the caller knows.
    """
    records: list[DecodedRecord] = []
    try:
        for entry in verify_chain(EMPTY, ((seq, chain + raw) for seq, chain, raw in values)):
            records.append(_decode_record(entry.seq, entry.chain, entry.raw))  # noqa: PERF401 - keeps those before a break
    except JournalDamagedError as error:
        problem = problem or error.message
    return RecordHistory(records=tuple(records), problem=problem)


def _decode_record(seq: int, chain: bytes, raw: bytes) -> DecodedRecord:
    try:
        record = decode(raw)
    except RecordError as error:
        return DecodedRecord(seq=seq, chain=chain.hex(), problem=error.message)
    event, problem = None, ""
    try:
        event = event_codec.decode(record.tag, record.version, record.payload)
    except UnknownEventError:
        pass  # an event of a later version, which is no problem
    except DamagedHistoryError as error:
        problem = error.message
    return DecodedRecord(
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
