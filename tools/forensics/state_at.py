"""The state after any record, and whether every commit shows what it committed. Pure.

Unlike a writer, forensics does not stop at the first thing that could not have happened: it says so, and keeps the state
from before. The body of every generation is projected at its own commit, from the records up to it and no others.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from store.base.canonical_json import CanonicalError, sha256
from store.domain.fold import fold_into
from store.domain.manifest_projection import body_of, project
from store.domain.state import Generation, State
from store.errors import StoreError
from store.manifest import manifest
from tools.forensics.records import DecodedRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitCheck:
    """A commit: its record, and whether what was folded up to it gives the very manifest and body it committed."""

    generation: int
    seq: int
    body_sha256: str
    matches: bool


@dataclass(slots=True, kw_only=True)
class FoldedState:
    """A state, the commits on the way to it, and why folding ended before the last record, if it did."""

    state: State = field(default_factory=State)
    commits: list[CommitCheck] = field(default_factory=list)
    problem: str = ""


def fold_stepwise(records: Iterable[DecodedRecord], folded: FoldedState) -> Iterator[DecodedRecord]:
    """Fold records one by one into `folded`, which may be looked at after each; stops where folding must end."""
    state = folded.state
    for record in records:
        committed = len(state.generations)
        try:
            fold_into(state, (record.recorded_event,))
        except (StoreError, LookupError, TypeError, ValueError, AttributeError) as error:
            # A hostile journal may hold what no writer would; the state stays where it was understood.
            folded.problem = getattr(error, "message", "") or f"record {record.seq}: {error!r}"
            return
        head = state.head
        if head is not None and head.number > committed:
            folded.commits.append(_projected(state, head))
        yield record


def _projected(state: State, head: Generation) -> CommitCheck:
    try:
        body = manifest.body_digest(body_of(state, state.builds[head.origin]))
        whole = sha256(project(state, head))
        matches = (body, whole) == (head.body_sha256, head.manifest_sha256)
    except (StoreError, CanonicalError, LookupError, TypeError, ValueError, AttributeError):
        matches = False
    return CommitCheck(
        generation=head.number,
        seq=head.seq,
        body_sha256=head.body_sha256,
        matches=matches,
    )
