"""The event store: append events if the head is the expected one, and keep the folded state in step.

An event is validated before it is durable: it is encoded and decoded as a reader would, folded into the state, and
only then appended, on condition that the head of the journal has not moved. So a journal never holds an event that
its own readers refuse. If an append fails, it is unknown whether it is durable; the state is then folded again from
the journal before its next use.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from journal import HeadMovedError, Journal, JournalFullError
from journal.errors import JournalClosedError, JournalIOError
from journal.record import EMPTY, Chain, Entry, Head, Record, encode, link
from store.backports import Self
from store.base.clock import Clock, recorded_wall_ns
from store.cache.event_mapper import fold_entries, to_record, to_recorded_event
from store.disk.layout import Layout
from store.domain.events import Event
from store.domain.fold import fold_into
from store.domain.state import State
from store.errors import DamagedHistoryError, ErrorKind, RequestRefusedError

_NONE: Mapping[bytes, bytes] = MappingProxyType({})


@dataclass(slots=True)
class EventStore:
    """An open journal with its state.

    Attributes:
        appended: How many transactions were committed through it.
        on_folded: Called with the state, which it may change, whenever that took records from the journal; it returns
            records that say what it changed, and that the next `append` puts before its own.
        before_append: Called with the number of the first record and the head that an append is about to make.
    """

    layout: Layout
    clock: Clock
    journal: Journal
    appended: int = 0
    on_folded: Callable[[State], Sequence[Record]] | None = None
    before_append: Callable[[int, Head], None] | None = None
    _state: State = field(default_factory=State)
    _in_step: bool = False
    _owed: Sequence[Record] = ()

    @classmethod
    def open(cls, layout: Layout, clock: Clock) -> Self:
        """Open the journal of a cache.

        Args:
            layout: Where the cache is.
            clock: Where times come from.

        Raises:
            journal.JournalError: It cannot be opened.
        """
        path, allow = layout.journal, layout.allow_unknown_filesystem
        return cls(layout, clock, Journal.open(path, allow_unknown_filesystem=allow))

    @property
    def state(self) -> State:
        """What the records of the journal folded to when it was last read."""
        if not self._in_step:
            self._reload()
        return self._state

    @property
    def head(self) -> Head:
        """The head that the state was folded up to."""
        seq, chain = self.state.position.seq, self.state.position.chain
        return Head(seq, Chain(bytes.fromhex(chain))) if seq else EMPTY

    def refresh(self) -> None:
        """Fold what others appended."""
        state = self.state
        self._in_step = False
        fold_entries(state, self.journal.entries(state.position.seq + 1))
        self._set_state(state)

    def record(self, event: Event, *, build: int | None, wall_ns: int | None = None) -> Record:
        """Return the record of an event that happens now."""
        wall = recorded_wall_ns(self.clock) if wall_ns is None else wall_ns
        return to_record(event, build=build, wall_ns=wall, mono_ns=self.clock.mono_ns())

    def append(self, records: Sequence[Record]) -> None:
        """Validate records and append them in one durable transaction, on the current head.

        Raises:
            DamagedHistoryError: They cannot follow what is there; nothing was appended.
            RequestRefusedError: Nor can they follow what folding changed, on which they rely.
            journal.JournalError: They could not be made durable.
        """
        while True:
            try:
                # The head first: finding it may fold.
                self.append_on(self.head, [*self._owed, *records])
            except HeadMovedError:
                self.refresh()
            except DamagedHistoryError as error:
                if self._owed and self._follow_the_journal(records):
                    raise withdrawn("what is reused") from error
                raise
            else:
                self._owed = ()
                return

    def append_on(
        self, head: Head, records: Sequence[Record], projections: Mapping[bytes, bytes | None] = _NONE
    ) -> None:
        """Validate records and append them in one durable transaction, if `head` is still the head.

        Raises:
            HeadMovedError: It is not; nothing was appended.
            DamagedHistoryError: They cannot follow what is there; nothing was appended.
            journal.JournalError: They could not be made durable.
        """
        entries = _entries_on(head, records)
        facts = [to_recorded_event(entry) for entry in entries]
        state = self.state
        self._in_step = False
        fold_into(state, facts)
        if entries and self.before_append is not None:
            self.before_append(head.seq + 1, Head(entries[-1].seq, entries[-1].chain))
        self.journal.append(records, projections, expect=head)
        self._in_step = True
        self.appended += 1

    def chain_at(self, seq: int) -> str | None:
        """Return the chain digest of a record, hexadecimal; None if there is no such record."""
        return next((entry.chain.hex() for entry in self.journal.entries(seq, seq + 1)), None)

    def reopen(self) -> None:
        """Open the journal again after a disk error, and fold it again."""
        self._in_step = False
        self.journal.close()
        self.journal = Journal.open(self.layout.journal, allow_unknown_filesystem=True)
        self._reload()

    def close(self) -> None:
        """Close the journal."""
        self.journal.close()

    def _follow_the_journal(self, records: Sequence[Record]) -> bool:
        """Return whether records could be appended if folding had changed nothing."""
        state = State()
        fold_entries(state, self.journal.entries())
        head = Head(state.position.seq, Chain(bytes.fromhex(state.position.chain)))
        try:
            fold_entries(state, _entries_on(head, records))
        except DamagedHistoryError:
            return False
        return True

    def _reload(self) -> None:
        state, self._owed = State(), ()
        fold_entries(state, self.journal.entries())
        self._set_state(state)

    def _set_state(self, state: State) -> None:
        if self.on_folded is not None:
            self._owed = (*self._owed, *self.on_folded(state))
        self._state, self._in_step = state, True


def _entries_on(head: Head, records: Sequence[Record]) -> list[Entry]:
    """Return the entries that records make of a journal with this head."""
    entries, (seq, chain) = [], head
    for record in records:
        raw = encode(record)
        seq, chain = seq + 1, link(chain, raw)
        entries.append(Entry(seq=seq, chain=chain, raw=raw))
    return entries


def withdrawn(what: str) -> RequestRefusedError:
    """Return the error of a build that used what another process has withdrawn or replaced."""
    return RequestRefusedError(
        f"expected {what} to be what it was when the build used it, found it withdrawn or replaced meanwhile",
        kind=ErrorKind.WITHDRAWN,
        hint="c10 build (runs what is missing)",
    )


RETRYABLE = (JournalFullError, JournalIOError, JournalClosedError)
"""After these the journal may be opened again and may then take an append."""
