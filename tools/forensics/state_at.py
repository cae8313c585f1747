"""The state after any record, and whether every commit projects to the manifest that it committed. Pure.

A record that no writer would have written does not raise an error, as it does for a writer: folding stops,
says why, and keeps the state before it. Every generation is projected at its own commit, from the records up
to it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from store.base.canonical_json import CanonicalError, sha256
from store.base.valueclass import valueclass
from store.domain.fold import fold_into
from store.domain.manifest_projection import body_of, project
from store.domain.state import Generation, State
from store.errors import StoreError
from store.manifest import manifest
from tools.forensics.records import DecodedRecord


@valueclass(frozen=True, slots=True, kw_only=True)
class CommitCheck:
    """A commit, and whether the state at it projects to the manifest and body that it committed."""

    generation: int
    seq: int
    body_sha256: str
    matches: bool


@dataclass(slots=True, kw_only=True)
class FoldedState:
    """A state, the commits up to it, and why folding stopped before the last record, if it did."""

    state: State = field(default_factory=State)
    commits: list[CommitCheck] = field(default_factory=list)
    problem: str = ""


def fold_stepwise(records: Iterable[DecodedRecord], folded: FoldedState) -> Iterator[DecodedRecord]:
    """Fold records one by one into `folded`, yield each, and stop at a record that cannot be folded."""
    state = folded.state
    for record in records:
        committed = len(state.generations)
        try:
            fold_into(state, (record.recorded_event,))
        except (StoreError, LookupError, TypeError, ValueError, AttributeError) as error:
            # A hostile journal may hold what no writer would write.
            folded.problem = getattr(error, "message", "") or f"record {record.seq}: {error!r}"
            return
        head = state.head
        if head is not None and head.number > committed:
            folded.commits.append(_check_commit(state, head))
        yield record


def _check_commit(state: State, head: Generation) -> CommitCheck:
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
