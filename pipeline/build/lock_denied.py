"""Record a run that could not become a build, since another build held the lock.

Otherwise nobody could find out later why a flight was not prepared: the run itself writes nothing. The record
is one transaction and belongs to no build. Of the runs with the same identity that met the same holder only
the first is recorded, so that a job that tries again every minute does not fill the journal.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress

from journal import BuildLockHeldError, JournalError
from pipeline.errors import PipelineError
from pipeline.planning.inputs import Inputs
from pipeline.request.request import BuildRequest
from store.base.canonical_json import Document
from store.base.clock import Clock
from store.cache.optimistic_append import open_for_append
from store.disk.layout import Layout
from store.domain.events import BuildDenied, Event
from store.domain.state import State
from store.errors import StoreError

_TEXT_LIMIT = 1_000


def denied_event(
    error: BuildLockHeldError,
    inputs: Inputs | PipelineError,
    request: BuildRequest,
    *,
    waited_ms: int,
    host: Document,
) -> BuildDenied:
    """Return the event of such a run; the identity is empty if its inputs could not be read."""
    return BuildDenied(
        identity=inputs.identity if isinstance(inputs, Inputs) else "",
        holder=_journal_values(error.holder or {}),
        waited_ms=waited_ms,
        inputs=_journal_values({"flight_id": request.flight_id, "source": request.tiles.source_name}),
        host=host,
    )


def record_denied(denied: BuildDenied, layout: Layout, *, clock: Clock) -> None:
    """Append the event if that is possible; the caller raises the lock error in any case."""

    def decide(state: State) -> Sequence[Event]:
        known = ((each.identity, each.holder) for each in state.denied.values())
        return () if (denied.identity, denied.holder) in known else (denied,)

    # The journal may just be replaced, the disk full, or the user allowed only to read.
    with suppress(StoreError, JournalError, OSError):
        if layout.journal.exists():
            with open_for_append(layout, clock=clock) as appender:
                appender.append(decide)


def _journal_values(document: Mapping[str, object]) -> dict[str, object]:
    """Convert a map that another process wrote to values that the journal can hold."""
    found: dict[str, object] = {}
    for name, value in document.items():
        if value is None or isinstance(value, (bool, int)):
            found[name] = value
        else:
            found[name] = str(value)[:_TEXT_LIMIT].encode("utf-8", "backslashreplace").decode("utf-8")
    return found
