"""Between the journal's records and the store's facts."""

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
    """Return the fact in a journal entry; an event of a newer version keeps its place as `Unknown`.

    Args:
        entry: The entry.
        canonical: Whether to refuse a record in another form than the one that its values have; see `decode_fields`.

    Raises:
        DamagedHistoryError: The payload does not have the shape its version fixes.
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

    What a C10 appended is canonical, and the chain says that it still is what was appended: only what comes from
    elsewhere has its form held against that, and a journal whose history is shown, proven or carried away (`to_recorded_events`).

    Raises:
        DamagedHistoryError: No C10 could have written them in this order, or one has not the shape its version fixes.
        journal.JournalError: An entry is no record, or reading the entries failed.
    """
    with without_collector():
        fold_into(state, (to_recorded_event(entry, canonical=False) for entry in entries))


@contextmanager
def without_collector() -> Iterator[None]:
    """Let no garbage be looked for meanwhile: what a fold makes lives on, and the search takes a quarter of its time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def to_recorded_events(entries: Iterable[Entry]) -> Iterator[RecordedEvent]:
    """Yield the facts of many entries, in their order."""
    return map(to_recorded_event, entries)
