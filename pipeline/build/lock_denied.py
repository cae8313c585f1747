"""A run that did not become a build, since another one held the build lock, leaves a word in the journal.

Without it nobody could tell later why a flight was not prepared: the run wrote nothing, and the build that it met knows
nothing of it. The word is one transaction beside that build, and no build's. Of runs that met the same holder with the
same identity only the first is recorded, so that a job that tries again every minute does not fill the journal.
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
    """Return the event of a run that found the lock held; its identity is empty if its inputs could not be read."""
    return BuildDenied(
        identity=inputs.identity if isinstance(inputs, Inputs) else "",
        holder=_plain(error.holder or {}),
        waited_ms=waited_ms,
        inputs=_plain({"flight_id": request.flight_id, "source": request.tiles.source}),
        host=host,
    )


def record_denied(denied: BuildDenied, layout: Layout, *, clock: Clock) -> None:
    """Record it; where that is not possible, the error that is raised must do."""

    def decide(state: State) -> Sequence[Event]:
        met = ((known.identity, known.holder) for known in state.denied.values())
        return () if (denied.identity, denied.holder) in met else (denied,)

    # Beside a journal that is being replaced, on a disk that is full, for a person who may only read.
    with suppress(StoreError, JournalError, OSError):
        if layout.journal.exists():
            with open_for_append(layout, clock=clock) as beside:
                beside.append(decide)


def _plain(document: Mapping[str, object]) -> dict[str, object]:
    """What the journal can hold of a map that another process wrote."""
    found: dict[str, object] = {}
    for name, value in document.items():
        if value is None or isinstance(value, (bool, int)):
            found[name] = value
        else:
            found[name] = str(value)[:_TEXT_LIMIT].encode("utf-8", "backslashreplace").decode("utf-8")
    return found
