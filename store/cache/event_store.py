"""The journal and the state it folds to, kept in step.

An event is judged before it is durable: it is encoded and decoded as a reader would, folded into the state, and
only then appended, on condition that the journal's head is still the one it was judged on. A journal can
therefore never hold an event that its own readers refuse. If an append does not come back in good order, nobody
knows whether it is durable; the state is then folded anew from the journal before it is used again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Self, TypeVar

from journal import HeadMovedError, Journal, JournalDamagedError, JournalFullError
from journal.errors import JournalClosedError, JournalIOError
from journal.record import Entry, Head, Record, encode, link
from store.base.clock import Clock
from store.cache.event_mapper import fold_entries, since_position, to_fact, to_record
from store.disk.layout import Layout
from store.domain.events import Event
from store.domain.fold import absorb
from store.domain.state import State
from store.errors import DamagedHistoryError
from store.snapshots.snapshot_file import forget, head_of, recall, remember, trusted_head

Judgement = TypeVar("Judgement")

_NONE: Mapping[bytes, bytes] = MappingProxyType({})


@dataclass(slots=True)
class Ledger:
    """An open journal with its state. `appended` counts transactions committed through it."""

    layout: Layout
    clock: Clock
    journal: Journal
    appended: int = 0
    _start: State = field(default_factory=State)
    _state: State = field(default_factory=State)
    _in_step: bool = False
    _vouched: bool = False

    @classmethod
    def open(cls, layout: Layout, clock: Clock, *, whole: bool = False) -> Self:
        """Open the journal of a cache; what is remembered of it is not folded again.

        Args:
            layout: Where the cache is.
            clock: Where times come from.
            whole: Whether to fold every record in any case.

        Raises:
            DamagedHistoryError: No C10 could have written these records.
            journal.JournalError: It cannot be opened.
        """
        start = State() if whole else recall(layout)
        path, allow = layout.journal, layout.allow_unknown_filesystem
        if start.position.seq:
            try:
                journal = Journal.open(path, verified=trusted_head(start), allow_unknown_filesystem=allow)
            except JournalDamagedError:
                # Of another journal, or of one that is damaged: its own records say which.
                forget(layout)
            else:
                ledger = cls(layout, clock, journal, _start=start)
                try:
                    ledger.begin()
                except BaseException:
                    journal.close()
                    raise
                return ledger
        return cls(layout, clock, Journal.open(path, allow_unknown_filesystem=allow))

    def begin(self) -> None:
        """Fold what came since what is remembered, and without it if that does not fit."""
        try:
            self._reload()
        except DamagedHistoryError:
            if not self.doubt():
                raise

    def judged(self, judge: Callable[[State], Judgement]) -> Judgement:
        """Return what is judged of the state; where it is found wrong, of the state that every record folds to.

        Raises:
            DamagedHistoryError: That one is wrong as well.
        """
        try:
            return judge(self.state)
        except DamagedHistoryError:
            if not self.doubt():
                raise
            return judge(self.state)

    def doubt(self) -> bool:
        """Give up what was remembered and fold every record; tell whether there was anything to give up."""
        if not self._start.position.seq:
            return False
        forget(self.layout)
        self._start, self._in_step = State(), False
        self.journal.check_chain()
        return True

    def vouch(self, seq: int) -> None:
        """Make sure that records from here on are those the head stands on: of recalled ones opening checked the last.

        Raises:
            journal.JournalDamagedError: They are not.
        """
        if not self._vouched and seq < trusted_head(self._start).seq:
            self.journal.check_chain()
            self._vouched = True

    @property
    def state(self) -> State:
        """What the journal's records fold to, as of the last look."""
        if not self._in_step:
            self._reload()
        return self._state

    @property
    def head(self) -> Head:
        """The head that the state was folded up to."""
        return head_of(self.state.position)

    def refresh(self) -> None:
        """Fold what others appended."""
        state = self.state
        self._in_step = False
        fold_entries(state, self.journal.entries(state.position.seq + 1))
        self._in_step = True

    def record(self, event: Event, *, build: int | None, wall_ns: int | None = None) -> Record:
        """Return the record of an event that happens now."""
        wall = self.clock.wall_ns() if wall_ns is None else wall_ns
        return to_record(event, build=build, wall_ns=wall, mono_ns=self.clock.mono_ns())

    def append(self, records: Sequence[Record]) -> None:
        """Judge records and append them in one durable transaction, on whatever head there is.

        Raises:
            DamagedHistoryError: They cannot follow what is there; nothing was appended.
            journal.JournalError: They could not be made durable.
        """
        while True:
            try:
                self.append_on(self.head, records)
            except HeadMovedError:
                self.refresh()
            else:
                return

    def append_on(
        self, head: Head, records: Sequence[Record], projections: Mapping[bytes, bytes | None] = _NONE
    ) -> None:
        """Judge records and append them in one durable transaction, if `head` is still the head.

        Raises:
            HeadMovedError: It is not; nothing was appended.
            DamagedHistoryError: They cannot follow what is there; nothing was appended.
            journal.JournalError: They could not be made durable.
        """
        facts, (seq, chain) = [], head
        for record in records:
            raw = encode(record)
            seq, chain = seq + 1, link(chain, raw)
            facts.append(to_fact(Entry(seq=seq, chain=chain, raw=raw)))
        state = self.state
        self._in_step = False
        absorb(state, facts)
        self.journal.append(records, projections, expect=head)
        self._in_step = True
        self.appended += 1

    def reopen(self) -> None:
        """Open the journal again after an error of the disk, and fold it anew."""
        self._in_step = False
        self.journal.close()
        self._start = State()
        self.journal = Journal.open(self.layout.journal, allow_unknown_filesystem=True)
        self._reload()

    def close(self) -> None:
        """Close the journal, and remember what it folds to."""
        self.journal.close()
        if self._in_step:
            remember(self.layout, self._state, since=self._start.position, head=self._start.head)

    def _reload(self) -> None:
        state, since = self._start.copy(), self._start.position
        fold_entries(state, since_position(self.journal.entries(max(since.seq, 1)), since))
        self._state, self._in_step = state, True


RETRYABLE = (JournalFullError, JournalIOError, JournalClosedError)
"""After these the journal may be opened again and may then take an append."""
