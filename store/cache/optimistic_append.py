"""Append to a journal without the build lock: acceptance and engine runs do, while a build may be running.

Only the journal is opened and nothing is recovered: that is left to the holder of the build lock. Every append is one
transaction (optimistic concurrency): the events are decided from the state at the head, and appended only if that is
still the head. If it moved, they are decided again.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from journal import HeadMovedError
from store.base.canonical_json import Document
from store.base.clock import Clock
from store.base.valueclass import valueclass
from store.cache import journal_consistency
from store.cache.create import ensure_cache
from store.cache.event_store import EventStore
from store.cache.view import list_cache_files, open_view, require_cache
from store.disk.artifacts import Artifacts
from store.disk.folder_integrity import refuse_symlinked_folders, refuse_unfit_folder
from store.disk.layout import Layout
from store.disk.repair_commands import cache_option, listing
from store.domain.events import Event
from store.domain.maintenance_events import GenerationAccepted
from store.domain.state import State
from store.errors import DamagedHistoryError, ErrorKind, RequestRefusedError
from store.policy import recovery

Decide = Callable[[State], Sequence[Event]]
"""From a state to the events to append; none if there is nothing to append."""


@dataclass(slots=True, kw_only=True)
class OptimisticAppender:
    """An open journal of a cache, for single appends without the build lock."""

    layout: Layout
    event_store: EventStore
    artifacts: Artifacts

    @property
    def state(self) -> State:
        """What the journal folded to when it was last read."""
        return self.event_store.state

    def refresh(self) -> State:
        """Fold what others appended, and return the state."""
        self.event_store.refresh()
        return self.event_store.state

    def append(self, decide: Decide) -> bool:
        """Append the events that `decide` returns, in one durable transaction on the head that it decided from.

        Returns:
            Whether anything was appended.

        Raises:
            DamagedHistoryError: The events cannot follow what is there.
            journal.JournalError: They could not be made durable.
        """
        while True:
            events = decide(self.state)
            if not events:
                return False
            records = [self.event_store.record(event, build=None) for event in events]
            try:
                self.event_store.append_on(self.event_store.head, records)
            except HeadMovedError:
                self.refresh()
            else:
                return True


@contextmanager
def open_for_append(layout: Layout, *, clock: Clock, create: bool = False) -> Iterator[OptimisticAppender]:
    """Open a cache to append without the build lock; repair nothing.

    Args:
        layout: Where it is.
        clock: Where times come from.
        create: Whether to make the cache if there is none.

    Raises:
        RequestRefusedError: There is no cache, and `create` is off.
        DamagedHistoryError: The journal does not fit the files beside it; nothing was written.
        UnknownEventError: The journal holds events of a newer version.
        StoreError, journal.JournalError: The folder or the journal cannot be used.
    """
    refuse_unfit_folder(layout)
    refuse_symlinked_folders(layout)
    if create:
        ensure_cache(layout, clock=clock)
    require_cache(layout)
    # The files are listed first, so that a generation which is committed meanwhile is not missed among them.
    observed = list_cache_files(layout)
    event_store = EventStore.open(layout, clock)
    try:
        # As in recovery: after the death of a writer only a write transaction shows what it made durable.
        event_store.journal.append([])
        event_store.state.require_known("the cache may be read, not written")
        try:
            recovery.check(event_store.state, observed)
        except DamagedHistoryError as error:
            chains = [entry.chain.hex() for entry in event_store.journal.entries(1)]
            raise journal_consistency.explain_disagreement(
                layout, event_store.state, chains, error
            ) from error
        yield OptimisticAppender(layout=layout, event_store=event_store, artifacts=Artifacts(layout))
    finally:
        event_store.close()


@valueclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """An accepted generation. `changed` is off if it was accepted before; `accepted` are all accepted generations."""

    generation: int
    origin: int
    changed: bool
    accepted: tuple[int, ...]


def accept(layout: Layout, generation: int, *, why: str, host: Document, clock: Clock) -> Acceptance:
    """Mark a generation as good, so that garbage collection keeps it; return what a new read of the journal says.

    Raises:
        RequestRefusedError: There is no cache or no such generation, or it was collected.
        StoreError, journal.JournalError: The journal cannot be written.
    """

    def decide(state: State) -> list[Event]:
        _require_acceptable(layout, state, generation)
        if generation in state.accepted:
            return []
        return [GenerationAccepted(generation=generation, why=why, host=host)]

    with open_for_append(layout, clock=clock) as appender:
        changed = appender.append(decide)
    state = open_view(layout).state
    if generation not in state.accepted:
        raise RequestRefusedError(
            f"expected generation {generation} to be accepted, found that the journal was replaced meanwhile",
            kind=ErrorKind.JOURNAL_REPLACED,
            hint=f"c10 accept {generation}{cache_option(layout)} (once more)",
        )
    return Acceptance(
        generation=generation,
        origin=state.generations[generation].origin,
        changed=changed,
        accepted=tuple(sorted(state.accepted)),
    )


def _require_acceptable(layout: Layout, state: State, generation: int) -> None:
    if generation not in state.generations:
        last = len(state.generations)
        raise RequestRefusedError(
            f"expected a generation from 1 to {last}, found {generation}"
            if last
            else "expected a committed generation to accept, found none",
            kind=ErrorKind.UNKNOWN_GENERATION,
            hint=listing(layout),
        )
    if generation in state.collected_generations:
        raise RequestRefusedError(
            f"expected generation {generation} to be kept, found it collected: its files are gone",
            kind=ErrorKind.COLLECTED,
            hint=f"{listing(layout)} (tells which generations are left)",
        )
