"""Between the journal's records and the store's facts."""

import time
from collections.abc import Iterable, Iterator
from typing import Protocol

from journal.record import Entry, Record
from store import codec
from store.errors import UnknownEventError
from store.events import Event
from store.state import Fact, Unknown


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
    record = entry.record
    event: Event | Unknown
    try:
        event = codec.decode(record.tag, record.version, record.payload)
    except UnknownEventError:
        event = Unknown(tag=record.tag, version=record.version)
    return Fact(
        seq=entry.seq,
        chain=entry.chain.hex(),
        build=record.build,
        wall_ns=record.wall_ns,
        mono_ns=record.mono_ns,
        event=event,
    )


def to_facts(entries: Iterable[Entry]) -> Iterator[Fact]:
    """Yield the facts of many entries, in their order."""
    return map(to_fact, entries)
