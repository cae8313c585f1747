"""Between the journal's records and the store's facts."""

import time
from collections.abc import Iterable, Iterator
from typing import Protocol

from journal.record import Entry, Record, decode_fields
from store import codec
from store.errors import DamagedHistoryError, ErrorKind, UnknownEventError
from store.events import Event
from store.fold import absorb
from store.remembering import without_collector
from store.state import Fact, Position, State, Unknown


class Clock(Protocol):
    """Where times come from."""

    def wall_ns(self) -> int:
        """Nanoseconds since the Unix epoch; may jump."""
        ...

    def mono_ns(self) -> int:
        """Nanoseconds that never run backwards within one boot."""
        ...


class SystemClock:
    """The machine's clocks."""

    def wall_ns(self) -> int:
        """Nanoseconds since the Unix epoch; may jump."""
        return time.time_ns()

    def mono_ns(self) -> int:
        """Nanoseconds that never run backwards within one boot."""
        return time.monotonic_ns()


def to_record(event: Event, *, build: int | None, wall_ns: int, mono_ns: int) -> Record:
    """Return the record that stores `event`."""
    tag, version, payload = codec.encode(event)
    return Record(tag=tag, version=version, build=build, wall_ns=wall_ns, mono_ns=mono_ns, payload=payload)


def to_fact(entry: Entry) -> Fact:
    """Return the fact in a journal entry; an event of a newer version keeps its place as `Unknown`.

    Raises:
        DamagedHistoryError: The payload does not have the shape its version fixes.
        journal.RecordError: The bytes are no record.
    """
    tag, version, build, wall_ns, mono_ns, payload = decode_fields(entry.raw)
    event: Event | Unknown
    try:
        event = codec.decode(tag, version, payload)
    except UnknownEventError:
        event = Unknown(tag=tag, version=version)
    return Fact(
        seq=entry.seq,
        chain=entry.chain.hex(),
        build=build,
        wall_ns=wall_ns,
        mono_ns=mono_ns,
        event=event,
    )


def fold_entries(state: State, entries: Iterable[Entry]) -> None:
    """Fold the facts of many entries into a state that the caller owns, in place.

    Raises:
        DamagedHistoryError: No C10 could have written them in this order, or one has not the shape its version fixes.
        journal.JournalError: An entry is no record, or reading the entries failed.
    """
    with without_collector():
        absorb(state, to_facts(entries))


def since_position(entries: Iterable[Entry], position: Position) -> Iterator[Entry]:
    """Yield the entries after a position, of entries that begin before it or with the first after it.

    Raises:
        DamagedHistoryError: They do not hold the very record that the position names.
    """
    last = Position() if position.seq == 0 else None
    for entry in entries:
        if entry.seq == position.seq:
            last = Position(entry.seq, entry.chain.hex())
        if entry.seq >= position.seq and last != position:
            break
        if entry.seq > position.seq:
            yield entry
    if last != position:
        raise DamagedHistoryError(
            ErrorKind.JOURNAL_REPLACED,
            f"expected record {position.seq} as it was known, found another one or none",
        )


def to_facts(entries: Iterable[Entry]) -> Iterator[Fact]:
    """Yield the facts of many entries, in their order."""
    return map(to_fact, entries)
