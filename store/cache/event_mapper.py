"""Between the journal's records and the store's facts."""

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from journal.record import Entry, Record, decode_fields
from store.domain import event_codec
from store.domain.events import Event
from store.domain.fold import absorb
from store.domain.state import CellRun, Fact, State, Unknown
from store.errors import UnknownEventError

if TYPE_CHECKING:
    from store.snapshots.batch_fold import CellReader

_CELL: Final = b"\x96\xadcell.embedded\x01"
"""How a record begins that tells of a cell: six fields, the tag, version 1."""

_WORTH_CELLS: Final = 2048
"""Cells, in all that was read so far, for which NumPy is loaded: it takes as long as reading some five thousand records one by one."""

_FEW_CELLS: Final = 64
"""Cells that are read together once it is there."""

_BATCH_BYTES: Final = 2 << 20
"""Records of as many bytes are looked at together: some four thousand, but where they are long, a few."""


def to_record(event: Event, *, build: int | None, wall_ns: int, mono_ns: int) -> Record:
    """Return the record that stores `event`."""
    tag, version, payload = event_codec.encode(event)
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
        event = event_codec.decode(tag, version, payload)
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
        absorb(state, _in_runs(entries))


def _in_runs(entries: Iterable[Entry]) -> Iterator[Fact | CellRun]:
    """Yield what `to_facts` does, many cells at a time where there are many."""
    reader: CellReader | None = None
    met = 0
    for batch in _batches(entries):
        cells = [place for place, entry in enumerate(batch) if entry.raw.startswith(_CELL)]
        met += len(cells)
        if met < _WORTH_CELLS or len(cells) < _FEW_CELLS:
            yield from to_facts(batch)
            continue
        reader = _cell_reader() if reader is None else reader
        yield from reader.runs(batch, cells, to_fact)


def _cell_reader() -> "CellReader":
    from store.snapshots.batch_fold import CellReader  # noqa: PLC0415 - with it comes NumPy, which a short journal can do without

    return CellReader()


def _batches(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    batch, size = list[Entry](), 0
    for entry in entries:
        batch.append(entry)
        size += len(entry.raw)
        if size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    yield batch


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


def to_facts(entries: Iterable[Entry]) -> Iterator[Fact]:
    """Yield the facts of many entries, in their order."""
    return map(to_fact, entries)
