"""Import a bundle as a new cache, or add its newer records to a cache that holds the older ones.

An import believes nothing in the file. Before it writes anything it checks the chain of the records, folds
them, and compares the projection of every generation with the manifest digest that was committed. With
trusted keys, one of them must have signed the newest generation, and the import ends with its commit: no
signature covers the records behind it. Of these it takes over, as records of its own, the signatures of trusted
keys, and that generations were collected whose artifacts are not here. An artifact is stored only if a record
names it and its bytes match.

The records enter the journal last, after the whole file was read and the artifacts of the newest generation
are there: in one transaction, or in a new journal that appears complete. An import that is killed before
leaves artifacts that nothing names, which the next import uses; one that is killed after it leaves a cache
that the next writer recovers.

An `Imported` event says where a copy came from, and starts a history of its own. A copy that follows its
source, bundle by bundle, gets no such event, and nothing else may be appended to it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from journal import Entry, Journal, RecordError
from journal.record import Head
from store.backports import StrEnum
from store.base.canonical_json import Document, sha256
from store.base.clock import Clock, recorded_wall_ns
from store.base.valueclass import valueclass
from store.base.values import ArtifactRef
from store.cache.event_mapper import to_record, to_recorded_events
from store.cache.event_store import EventStore
from store.cache.projections import Projections, is_whole, signatures_of
from store.cache.view import HistoryView, read_history
from store.disk.artifacts import Artifacts
from store.disk.folder_integrity import refuse_symlinked_folders, refuse_unfit_folder
from store.disk.layout import Layout
from store.domain.events import (
    BuildDenied,
    Collected,
    CollectionPlanned,
    Event,
    GenerationAccepted,
    GenerationSigned,
    Imported,
    Repaired,
)
from store.domain.fold import fold
from store.domain.manifest_projection import head_projections, project
from store.domain.state import RecordedEvent, State
from store.errors import (
    ArtifactError,
    BundleError,
    DamagedHistoryError,
    ErrorKind,
    NoGoError,
    RequestRefusedError,
)
from store.manifest import manifest
from store.manifest.file_names import MAX_SIGNATURES
from store.transfer.bundle_format import BundleHeader
from store.transfer.bundle_reader import COPY_AGAIN, BundleReader, open_bundle
from store.transfer.free_space import require_space
from store.transfer.selection import artifacts_named
from store.trust.go_no_go import ALLOW_UNSIGNED, TrustedKeys
from store.trust.signatures import (
    Signature,
    TrustedKey,
    parse_trusted_keys,
    signature_file,
    signature_problems,
)
from store.verify.coverage import missing_artifacts

_EXPORT_AGAIN: Final = "make it again: c10 export"
_SIGN_AGAIN: Final = "c10 sign, where the cache is, then export it again; or c10 import --unsigned"
_NOT_FOLLOWING: Final = (
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
class ImportResult:
    """What an import did to the journal, the bundle, the folded journal, and the stored artifacts.

    `left_out` counts the records of the bundle behind its signed head.
    """

    outcome: ImportOutcome
    header: BundleHeader
    file: ArtifactRef
    state: State
    stored: tuple[ArtifactRef, ...]
    left_out: int


@valueclass(frozen=True, slots=True, kw_only=True)
class _BundleHistory:
    """The records of a bundle that are imported.

    `known` is how many of them the cache has, -1 if there is no cache. `named` are the artifacts that all records of
    the bundle name, digest to reference. `whole` is what all of them fold to, `base` what the cache will be without
    further events.
    """

    entries: Sequence[Entry]
    facts: Sequence[RecordedEvent]
    state: State
    whole: State
    base: State
    named: Mapping[str, ArtifactRef]
    known: int
    outcome: ImportOutcome


def import_bundle(
    layout: Layout,
    path: Path,
    *,
    clock: Clock,
    host: Document,
    trusted_keys: TrustedKeys = ALLOW_UNSIGNED,
    follows: bool = False,
    on_total: Callable[[int], None] | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> ImportResult:
    """Store the records and artifacts of a bundle in a cache; the caller holds the build lock.

    Args:
        layout: The cache; it need not exist.
        path: The bundle.
        clock: The clock for new records.
        host: Facts about this machine, for the event.
        trusted_keys: One of them must have signed the newest generation, and the records behind it are left out; or
            `ALLOW_UNSIGNED`.
        follows: Append no `Imported` event, so that later bundles of the same cache can be imported as well.
        on_total: Called with the bytes of all artifacts before they are read.
        on_bytes: Called with the bytes of each artifact.

    Raises:
        BundleError: It is no bundle, not a whole one, or holds an artifact that no record names.
        RequestRefusedError: The cache has a history of its own.
        NoGoError: No trusted key signed it, or artifacts of its newest generation are missing.
        DamagedHistoryError: No C10 could have written its records.
        UnknownEventError: It holds events of a newer version.
        StoreError, journal.JournalError: The folder or the journal cannot be used.
    """
    refuse_unfit_folder(layout)
    refuse_symlinked_folders(layout)
    with open_bundle(path) as reader:
        entries = tuple(reader.entries())
        history = _check_history(layout, entries, trusted_keys)
        if follows and trusted_keys is not ALLOW_UNSIGNED:
            _require_signed(history.state, trusted_keys, _NOT_FOLLOWING)
        layout.create()
        artifacts = Artifacts(layout)
        with artifacts.shared_lock():
            if on_total is not None:
                on_total(reader.header.size)
            present = sum(ref.size for ref in history.named.values() if artifacts.present(ref))
            require_space(layout.root, reader.header.size - present)
            stored = tuple(_store_artifacts(reader, artifacts, history, on_bytes))
            file = reader.finish()
            _require_artifacts(history.state, artifacts)
            events: list[Event] = []
            if not follows:
                events += _events_left_out(history, trusted_keys, artifacts, host)
                if stored or history.outcome is not ImportOutcome.UNCHANGED:
                    events.append(_imported(path, reader.header, history, file, len(stored), host))
            state = _append(layout, history, events, clock)
    return ImportResult(
        outcome=history.outcome,
        header=reader.header,
        file=file,
        state=state,
        stored=stored,
        left_out=len(entries) - len(history.entries),
    )


def _check_history(layout: Layout, entries: Sequence[Entry], trusted_keys: TrustedKeys) -> _BundleHistory:
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
    whole, named = state, artifacts_named(facts)
    if trusted_keys is not ALLOW_UNSIGNED:
        _require_signed(state, trusted_keys, _SIGN_AGAIN)
        count = _count_signed(state, facts)
        entries, facts = entries[:count], facts[:count]
        state = fold(facts)
    base, common, outcome = state, -1, ImportOutcome.IMPORTED
    if layout.exists():
        own = read_history(layout)
        common = min(len(own.entries), len(entries))
        if not common or own.entries[common - 1].chain != entries[common - 1].chain:
            raise _own_history_error(layout, own, entries)
        outcome = ImportOutcome.ADVANCED
        if common == len(entries):
            base, outcome = own.state, ImportOutcome.UNCHANGED
    return _BundleHistory(
        entries=entries,
        facts=facts,
        state=state,
        whole=whole,
        base=base,
        named=named,
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


def _require_signed(state: State, trusted_keys: Sequence[TrustedKey | bytes], hint: str) -> None:
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


def _events_left_out(
    history: _BundleHistory, trusted_keys: TrustedKeys, artifacts: Artifacts, host: Document
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
    if gone:
        events.append(CollectionPlanned(digests=(), generations=gone, size=0, policy={}, host=host))
        events.append(Collected(digests=(), generations=gone, size=0, host=host))
    return events


def _signatures_left_out(
    history: _BundleHistory, keys: Sequence[TrustedKey], host: Document
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


def _store_artifacts(
    reader: BundleReader,
    artifacts: Artifacts,
    history: _BundleHistory,
    on_bytes: Callable[[int], None] | None,
) -> Iterator[ArtifactRef]:
    """Store the artifacts of imported records that the cache lacks, and yield their references."""
    wanted = artifacts_named(history.facts)
    for ref in reader.artifacts():
        if history.named.get(ref.sha256) != ref:
            found = f"{ref.sha256[:12]} of {ref.size} bytes"
            raise reader.error("artifacts that its records name", found)
        if ref.sha256 in wanted and artifacts.damage(ref) is not None:
            try:
                artifacts.take(ref, reader.pieces(ref))
            except ArtifactError as error:
                message = f"bundle {reader.path}: {error.message}"
                raise BundleError(message, kind=ErrorKind.BUNDLE, hint=COPY_AGAIN) from error
            yield ref
        if on_bytes is not None:
            on_bytes(ref.size)


def _require_artifacts(state: State, artifacts: Artifacts) -> None:
    """Make sure that all artifacts of the newest generation are there, by type and size."""
    if state.head is None:
        return
    shown = manifest.parse(project(state, state.head))
    problems = missing_artifacts(shown, artifacts)
    if problems:
        raise NoGoError(
            problems,
            kind=ErrorKind.ARTIFACT_MISSING,
            hint="c10 export --artifacts all, where the cache is whole; c10 replay --bundle FILE reads this one",
        )


def _append(layout: Layout, history: _BundleHistory, events: Sequence[Event], clock: Clock) -> State:
    """Append records and further events to the journal, and write the files projected from it."""
    records = [entry.record for entry in history.entries[max(history.known, 0) :]]
    own = [
        to_record(event, build=None, wall_ns=recorded_wall_ns(clock), mono_ns=clock.mono_ns())
        for event in events
    ]
    head = history.state.head
    views = {} if head is None else head_projections(head.number, project(history.state, head))
    if history.outcome is ImportOutcome.IMPORTED:
        Journal.create(
            layout.journal,
            [*records, *own],
            scratch=layout.scratch,
            projections=views,
            allow_unknown_filesystem=layout.allow_unknown_filesystem,
        )
    with Journal.open(layout.journal, allow_unknown_filesystem=layout.allow_unknown_filesystem) as journal:
        if history.outcome is ImportOutcome.ADVANCED:
            last = history.entries[history.known - 1]
            journal.append([*records, *own], views, expect=Head(last.seq, last.chain))
        elif history.outcome is ImportOutcome.UNCHANGED and own:
            journal.append(own)
        event_store, projections = EventStore(layout, clock, journal), Projections(layout)
        # The newest first: a reader meanwhile sees the new head, or the one before the import.
        for _, generation in sorted(event_store.state.generations.items(), reverse=True):
            projections.write(event_store, generation)
        return event_store.state


def _imported(  # noqa: PLR0917 - the fields of the event
    path: Path, header: BundleHeader, history: _BundleHistory, file: ArtifactRef, stored: int, host: Document
) -> Imported:
    known = max(history.known, 0)
    return Imported(
        source=path.name,
        cache_id=header.cache_id,
        bundle=file,
        generations=tuple(number for number, found in history.state.generations.items() if found.seq > known),
        artifacts=stored,
        host=host,
    )


def _impossible(expected: str) -> DamagedHistoryError:
    return DamagedHistoryError(
        f"bundle: expected {expected}, found another one",
        kind=ErrorKind.IMPOSSIBLE_HISTORY,
        hint=_REPLAY,
    )
