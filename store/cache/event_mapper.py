"""Map records of the journal to events and back."""

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from journal.record import Entry, Record, decode_fields
from store.domain import event_codec
from store.domain.events import Event
from store.domain.fold import fold_into
from store.domain.state import RecordedEvent, State, Unknown
from store.errors import UnknownEventError


def to_record(event: Event, *, build: int | None, wall_ns: int, mono_ns: int) -> Record:
    """Return the record that stores `event`."""
    tag, version, payload = event_codec.encode(event)
    return Record(tag=tag, version=version, build=build, wall_ns=wall_ns, mono_ns=mono_ns, payload=payload)


def to_recorded_event(entry: Entry, *, canonical: bool = True) -> RecordedEvent:
    """Return the recorded event of a journal entry; an event of a newer version becomes `Unknown`.

    Args:
        entry: The entry.
        canonical: Whether to refuse a record in another form than the one that its values have; see `decode_fields`.

    Raises:
        DamagedHistoryError: The payload does not have the shape of its version.
        journal.RecordError: The bytes are no record.
    """
    tag, version, build, wall_ns, mono_ns, payload = decode_fields(entry.raw, canonical=canonical)
    event: Event | Unknown
    try:
        event = event_codec.decode(tag, version, payload)
    except UnknownEventError:
        event = Unknown(tag=tag, version=version)
    return RecordedEvent(
        seq=entry.seq,
        chain=entry.chain.hex(),
        build=build,
        wall_ns=wall_ns,
        mono_ns=mono_ns,
        event=event,
    )


def fold_entries(state: State, entries: Iterable[Entry]) -> None:
    """Fold entries of a cache's own journal into a state that the caller owns, in place.

    C10 appends canonical records, and the chain proves that they are unchanged. So their form is checked only in
    records from elsewhere, and when a history is shown, verified or exported (`to_recorded_events`).

    Raises:
        DamagedHistoryError: No C10 could have written them in this order, or a payload is malformed.
        journal.JournalError: An entry is no record, or reading the entries failed.
    """
    with without_collector():
        fold_into(state, (to_recorded_event(entry, canonical=False) for entry in entries))


@contextmanager
def without_collector() -> Iterator[None]:
    """Pause Python's garbage collector: the objects of a fold live on, and the collector takes a quarter of its time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def to_recorded_events(entries: Iterable[Entry]) -> Iterator[RecordedEvent]:
    """Yield the recorded events of entries, in order."""
    return map(to_recorded_event, entries)
