"""What an import takes over of a bundle's records: checked, folded, and compared with those of the cache."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from journal import Entry, RecordError
from store.backports import StrEnum
from store.base.canonical_json import Document, sha256
from store.base.valueclass import valueclass
from store.base.values import ArtifactRef
from store.cache.event_mapper import to_recorded_events
from store.cache.projections import is_whole, signatures_of
from store.cache.view import HistoryView, read_history
from store.disk.artifacts import Artifacts
from store.disk.layout import Layout
from store.domain.events import BuildDenied, Event
from store.domain.fold import fold
from store.domain.maintenance_events import (
    MAX_COLLECTED,
    Collected,
    CollectionPlanned,
    GenerationAccepted,
    GenerationSigned,
    Imported,
    Repaired,
)
from store.domain.manifest_projection import project
from store.domain.state import RecordedEvent, State
from store.errors import BundleError, DamagedHistoryError, ErrorKind, NoGoError, RequestRefusedError
from store.manifest.file_names import MAX_SIGNATURES
from store.transfer.selection import artifacts_named, digests_collected
from store.trust.go_no_go import ALLOW_UNSIGNED, TrustedKeys
from store.trust.signatures import (
    Signature,
    TrustedKey,
    parse_trusted_keys,
    signature_file,
    signature_problems,
)

_EXPORT_AGAIN: Final = "make it again: c10 export"
_SIGN_AGAIN: Final = "c10 sign, where the cache is, then export it again; or c10 import --unsigned"
NOT_FOLLOWING: Final = (
    "c10 import without --follow: the signature is recorded behind other records, which no signature covers"
)
_HARMLESS: Final = (GenerationSigned, GenerationAccepted, BuildDenied, Repaired)
"""Events that leave what may be reused, and what is shown, as it was."""

_REPLAY: Final = "c10 replay --bundle FILE (reads it all the same)"


class ImportOutcome(StrEnum):
    """What an import did to the journal."""

    IMPORTED = "imported"
    ADVANCED = "advanced"
    UNCHANGED = "unchanged"


@valueclass(frozen=True, slots=True, kw_only=True)
class BundleHistory:
    """The records of a bundle that are imported.

    `known` is how many of them the cache has, -1 if there is no cache. `named` are the artifacts that all records of
    the bundle name, digest to reference. `whole` is what all of them fold to, `base` what the cache will be without
    further events. `collected` are the digests that records of the bundle say were collected, and none of the cache.
    """

    entries: Sequence[Entry]
    facts: Sequence[RecordedEvent]
    state: State
    whole: State
    base: State
    named: Mapping[str, ArtifactRef]
    collected: frozenset[str]
    known: int
    outcome: ImportOutcome


def check_history(layout: Layout, entries: Sequence[Entry], trusted_keys: TrustedKeys) -> BundleHistory:
    """Fold the records of a bundle, and compare them with each other and with those of the cache."""
    try:
        facts = tuple(to_recorded_events(entries))
        state = fold(facts)
    except RecordError as error:
        raise BundleError(f"bundle: {error.message}", kind=ErrorKind.BUNDLE, hint=_EXPORT_AGAIN) from error
    except DamagedHistoryError as error:
        raise DamagedHistoryError(f"bundle: {error.message}", kind=error.kind, hint=_REPLAY) from error
    state.require_known(
        "nothing was changed", "use the newer C10 that wrote it; c10 replay --bundle FILE reads it"
    )
    for number, generation in state.generations.items():
        if sha256(project(state, generation)) != generation.manifest_sha256:
            raise _impossible(f"generation {number} to project to the manifest that it committed")
    if state.pending_rollback is not None:
        raise _impossible("a rollback to end with its commit")
    whole, named, collected = state, artifacts_named(facts), digests_collected(facts)
    if trusted_keys is not ALLOW_UNSIGNED:
        require_signed(state, trusted_keys, _SIGN_AGAIN)
        count = _count_signed(state, facts)
        entries, facts = entries[:count], facts[:count]
        state = fold(facts)
    base, recorded, common, outcome = state, facts, -1, ImportOutcome.IMPORTED
    if layout.exists():
        own = read_history(layout)
        own.state.require_known("nothing was changed")
        common = min(len(own.entries), len(entries))
        if not common or own.entries[common - 1].chain != entries[common - 1].chain:
            raise _own_history_error(layout, own, entries)
        outcome = ImportOutcome.ADVANCED
        if common == len(entries):
            base, recorded, outcome = own.state, own.facts, ImportOutcome.UNCHANGED
    return BundleHistory(
        entries=entries,
        facts=facts,
        state=state,
        whole=whole,
        base=base,
        named=named,
        collected=collected - digests_collected(recorded),
        known=common,
        outcome=outcome,
    )


def _own_history_error(layout: Layout, own: HistoryView, entries: Sequence[Entry]) -> RequestRefusedError:
    pairs = zip(own.entries, entries, strict=False)
    same = next((ours.seq - 1 for ours, theirs in pairs if ours.chain != theirs.chain), 0)
    what = f"one that shares the first {same} and goes its own way from there" if same else "another cache"
    hint = "c10 import FILE --cache DIR, with a new DIR"
    if same and isinstance(own.facts[same].event, Imported):
        what += ": it was imported without --follow"
        hint = "c10 import FILE --follow --cache DIR, with a new DIR: --follow is needed from the first import on"
    return RequestRefusedError(
        f"expected no cache in {layout.root}, or the first records of the bundle and no others, found {what}",
        kind=ErrorKind.OWN_HISTORY,
        hint=hint,
    )


def _count_signed(state: State, facts: Sequence[RecordedEvent]) -> int:
    """Return how many records to import: up to the commit of the head, and those right after that change no result."""
    count = state.head.seq if state.head else 0
    while count < len(facts) and isinstance(facts[count].event, _HARMLESS):
        count += 1
    return count


def require_signed(state: State, trusted_keys: Sequence[TrustedKey | bytes], hint: str) -> None:
    """Require a trusted signature of the newest generation, which covers every record before its commit."""
    head = state.head
    reasons: Sequence[str] = ("signature: expected a signed generation, found none at all",)
    if head is not None:
        try:
            keys = parse_trusted_keys(trusted_keys)
        except ValueError as error:
            reasons = str(error).splitlines()
        else:
            raw = project(state, head)
            reasons = signature_problems(raw, signatures_of(head), generation=head.number, keys=keys)
    if reasons:
        raise NoGoError(reasons, kind=ErrorKind.SIGNATURE, hint=hint)


def events_left_out(
    history: BundleHistory, trusted_keys: TrustedKeys, artifacts: Artifacts, host: Document
) -> list[Event]:
    """Return what is recorded again of the records behind the signed head: it needs nobody's word."""
    if trusted_keys is ALLOW_UNSIGNED:
        return []
    events: list[Event] = [*_signatures_left_out(history, parse_trusted_keys(trusted_keys), host)]
    base, head = history.base, history.base.head
    gone = tuple(
        number
        for number in sorted(history.whole.collected_generations - base.collected_generations)
        if head is not None
        and base.generations[number].origin != head.origin
        and number not in base.accepted
        and not is_whole(base, base.generations[number], artifacts)
    )
    # What is absent can be used by nothing: without these digests, an export would call them missing.
    absent = sorted(digest for digest in history.collected if artifacts.size(digest) is None)
    planned = [
        CollectionPlanned(
            digests=tuple(absent[start : start + MAX_COLLECTED]),
            generations=() if start else gone,
            size=0,
            policy={},
            host=host,
        )
        for start in range(0, max(len(absent), bool(gone)), MAX_COLLECTED)
    ]
    done = (
        Collected(digests=each.digests, generations=each.generations, size=0, host=host) for each in planned
    )
    return [*events, *planned, *done]


def _signatures_left_out(
    history: BundleHistory, keys: Sequence[TrustedKey], host: Document
) -> Iterator[GenerationSigned]:
    for number, generation in history.whole.generations.items():
        known = history.base.generations[number]
        if number in history.base.collected_generations:
            continue
        raw, room = project(history.state, known), MAX_SIGNATURES - len(known.signatures)
        for key_id, signature in generation.signatures:
            file = signature_file(Signature(key_id=key_id, signature=signature))
            if (key_id, signature) in known.signatures or room <= 0:
                continue
            if not signature_problems(raw, [file], generation=number, keys=keys):
                room -= 1
                yield GenerationSigned(generation=number, signature=signature, key_id=key_id, host=host)


def _impossible(expected: str) -> DamagedHistoryError:
    return DamagedHistoryError(
        f"bundle: expected {expected}, found another one",
        kind=ErrorKind.IMPOSSIBLE_HISTORY,
        hint=_REPLAY,
    )
