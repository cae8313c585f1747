"""Import: a cache from a bundle, in a new place, or more of the history of a cache that has the beginning of it.

Nothing in the file is believed. Before anything is written its records are held against the chain, folded, and every
generation must project to the manifest that it committed; where keys are trusted, the newest must be signed by one.
Artifacts are stored as they come, each if a record names it and its bytes are the ones named. Only when the file has
been read to its end, and what the newest generation shows is whole, do the records get into a journal: all of them in
one transaction, or in a journal that appears complete. Whoever dies before that leaves artifacts that nothing names,
and the next import takes them up; whoever dies after it leaves a cache that the next writer sets right.

A copy goes its own way from the `Imported` event on that says where it came from. One that is to follow its source,
bundle by bundle, gets no such event, and nothing else may be appended to it.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from journal import Entry, Journal, RecordError
from journal.record import Head
from journal.storage.filesystem import filesystem_type, require_supported_filesystem
from store.base.canonical_json import Document, sha256
from store.base.clock import Clock
from store.base.values import ArtifactRef
from store.cache.event_mapper import to_record, to_recorded_events
from store.cache.event_store import EventStore
from store.cache.projections import Projections, signatures_of
from store.cache.view import HistoryView, read_history
from store.disk.artifacts import Artifacts
from store.disk.folder_integrity import refuse_symlinked_folders
from store.disk.layout import Layout
from store.domain.events import Event, Imported
from store.domain.fold import fold
from store.domain.manifest_projection import head_projections, project
from store.domain.state import RecordedEvent, State
from store.errors import (
    ArtifactError,
    BundleError,
    DamagedHistoryError,
    DiskFullError,
    ErrorKind,
    NoGoError,
    RequestRefusedError,
    UnknownEventError,
    from_os_error,
)
from store.files.permissions import refuse_exposed
from store.manifest import manifest
from store.transfer import bundle
from store.transfer.bundle import BundleHeader, BundleReader
from store.transfer.selection import artifacts_named
from store.trust.go_no_go import ALLOW_UNSIGNED, TrustedKeys
from store.trust.signatures import reasons_against, trusted
from store.verify.coverage import missing

_MAKE_AGAIN: Final = "make it again: c10 export"
_READ_IT: Final = "c10 replay --bundle FILE (reads it all the same)"


class ImportOutcome(StrEnum):
    """What an import did to the journal."""

    IMPORTED = "imported"
    ADVANCED = "advanced"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportResult:
    """What came of an import.

    Attributes:
        outcome: What became of the journal.
        header: What the bundle says of itself.
        file: Digest and size of the bundle.
        state: What the journal folds to now.
        stored: References of the artifacts that were stored.
    """

    outcome: ImportOutcome
    header: BundleHeader
    file: ArtifactRef
    state: State
    stored: tuple[ArtifactRef, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _History:
    """The records of a bundle, and how many of them the cache has already; -1 if there is no cache."""

    entries: Sequence[Entry]
    facts: Sequence[RecordedEvent]
    state: State
    known: int
    longer: bool = False

    @property
    def outcome(self) -> ImportOutcome:
        if self.known < 0:
            return ImportOutcome.IMPORTED
        return (
            ImportOutcome.UNCHANGED
            if self.longer or self.known == len(self.entries)
            else ImportOutcome.ADVANCED
        )


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
    """Take over what a bundle holds; the caller holds the build lock.

    Args:
        layout: Where the cache is, or is to be.
        path: The bundle.
        clock: Where times come from.
        host: Facts about this machine, for the event.
        trusted_keys: One of them must have signed the newest generation; or `ALLOW_UNSIGNED`.
        follows: Append no event of the import, so that a later bundle of the same cache can be taken over as well.
        on_total: Called with the bytes of all artifacts before they are read.
        on_bytes: Called with the bytes of each artifact.

    Raises:
        BundleError: It is no bundle, not a whole one, or holds what no record names.
        RequestRefusedError: The cache has a history of its own.
        NoGoError: Nobody who is trusted signed it, or what it shows is not whole.
        DamagedHistoryError: Its records could not have been written by any C10.
        UnknownEventError: It holds events of a newer version.
        StoreError, journal.JournalError: The folder or the journal cannot be used.
    """
    refuse_exposed(layout.root)
    refuse_symlinked_folders(layout)
    with bundle.open_bundle(path) as reader:
        history = _held_against(layout, tuple(reader.entries()))
        _require_signed(history.state, trusted_keys)
        layout.create()
        try:
            allow = layout.allow_unknown_filesystem
            require_supported_filesystem(filesystem_type(layout.root), layout.journal, allow_unknown=allow)
        except OSError as error:
            raise from_os_error(error, f"cache {layout.root}") from error
        artifacts = Artifacts(layout)
        with artifacts.shared_lock():
            if on_total is not None:
                on_total(reader.header.size)
            named = artifacts_named(history.facts)
            _require_space(artifacts, named.values(), reader.header.size)
            stored = tuple(_store(reader, artifacts, named, on_bytes))
            file = reader.finish()
            _require_shown(history.state, artifacts)
            more: list[Event] = []
            if not follows and (stored or history.outcome is not ImportOutcome.UNCHANGED):
                more.append(_event(path, reader.header, history, file, len(stored), host))
            state = _append(layout, history, more, clock)
    return ImportResult(outcome=history.outcome, header=reader.header, file=file, state=state, stored=stored)


def _held_against(layout: Layout, entries: Sequence[Entry]) -> _History:
    """Fold the records of a bundle, hold them against themselves, and against those of the cache if there is one."""
    try:
        facts = tuple(to_recorded_events(entries))
        state = fold(facts)
    except RecordError as error:
        raise BundleError(f"bundle: {error.message}", kind=ErrorKind.BUNDLE, hint=_MAKE_AGAIN) from error
    except DamagedHistoryError as error:
        raise DamagedHistoryError(f"bundle: {error.message}", kind=error.kind, hint=_READ_IT) from error
    if state.unknown:
        raise UnknownEventError(
            f"expected events this version knows, found {state.unknown[0]}; nothing was changed",
            kind=ErrorKind.UNKNOWN_EVENT,
            hint="use the newer C10 that wrote it; c10 replay --bundle FILE reads it",
        )
    for number, generation in state.generations.items():
        if sha256(project(state, generation)) != generation.manifest_sha256:
            raise _impossible(f"generation {number} to project to the manifest that it committed")
    if state.pending_rollback is not None:
        raise _impossible("a rollback to end with its commit")
    if not layout.exists():
        return _History(entries=entries, facts=facts, state=state, known=-1)
    own = read_history(layout)
    ours, common = own.entries, min(len(own.entries), len(entries))
    if not common or ours[common - 1].chain != entries[common - 1].chain:
        raise _of_its_own(layout, own, entries)
    return _History(entries=entries, facts=facts, state=state, known=common, longer=len(ours) > len(entries))


def _of_its_own(layout: Layout, own: HistoryView, entries: Sequence[Entry]) -> RequestRefusedError:
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


def _require_signed(state: State, trusted_keys: TrustedKeys) -> None:
    """Hold the newest generation against trusted keys: its signature covers every record before its commit.

    Raises:
        NoGoError: None of them signed it.
    """
    if trusted_keys is ALLOW_UNSIGNED:
        return
    head = state.head
    reasons: Sequence[str] = ("signature: expected a signed generation, found none at all",)
    if head is not None:
        try:
            keys = trusted(trusted_keys)
        except ValueError as error:
            reasons = str(error).splitlines()
        else:
            raw = project(state, head)
            reasons = reasons_against(raw, signatures_of(head), generation=head.number, keys=keys)
    if reasons:
        raise NoGoError(
            reasons,
            kind=ErrorKind.SIGNATURE,
            hint="c10 sign, where the cache is, then export it again; or c10 import --unsigned",
        )


def _store(
    reader: BundleReader,
    artifacts: Artifacts,
    named: Mapping[str, ArtifactRef],
    on_bytes: Callable[[int], None] | None,
) -> Iterator[ArtifactRef]:
    """Store the artifacts that are not there yet; yields their references."""
    for ref in reader.artifacts():
        if named.get(ref.sha256) != ref:
            raise BundleError(
                f"bundle {reader.path}: expected artifacts that its records name, found {ref.sha256[:12]} of {ref.size}"
                " bytes",
                kind=ErrorKind.BUNDLE,
                hint=_MAKE_AGAIN,
            )
        if artifacts.damage(ref) is not None:
            try:
                artifacts.take(ref, reader.pieces(ref))
            except ArtifactError as error:
                raise reader.damaged(error) from error
            yield ref
        if on_bytes is not None:
            on_bytes(ref.size)


def _require_space(artifacts: Artifacts, named: Iterable[ArtifactRef], size: int) -> None:
    """Make sure, before a long copy begins, that there is room for what is not there yet.

    Raises:
        DiskFullError: There is not.
    """
    needed = size - sum(ref.size for ref in named if artifacts.present(ref))
    try:
        free = shutil.disk_usage(artifacts.layout.root).free
    except OSError as error:
        raise from_os_error(error, f"cache {artifacts.layout.root}") from error
    if needed > free:
        raise DiskFullError(
            f"expected {needed} bytes of free space for the artifacts, found {free}",
            kind=ErrorKind.DISK_FULL,
            hint="free disk space, then run it again",
        )


def _require_shown(state: State, artifacts: Artifacts) -> None:
    """Make sure that what the newest generation shows is there, as far as type and size tell.

    Raises:
        NoGoError: With everything that is not.
    """
    if state.head is None:
        return
    shown = manifest.parse(project(state, state.head))
    problems = missing(shown, artifacts)
    if problems:
        raise NoGoError(
            problems,
            kind=ErrorKind.ARTIFACT_MISSING,
            hint="c10 export --artifacts all, where the cache is whole; c10 replay --bundle FILE reads this one",
        )


def _append(layout: Layout, history: _History, more: Sequence[Event], clock: Clock) -> State:
    """Get the records into the journal, and the files that are projected from it beside it."""
    records = [entry.record for entry in history.entries[max(history.known, 0) :]]
    told = [to_record(event, build=None, wall_ns=clock.wall_ns(), mono_ns=clock.mono_ns()) for event in more]
    head = history.state.head
    views = {} if head is None else head_projections(head.number, project(history.state, head))
    if history.outcome is ImportOutcome.IMPORTED:
        Journal.create(
            layout.journal,
            [*records, *told],
            scratch=layout.scratch,
            projections=views,
            allow_unknown_filesystem=layout.allow_unknown_filesystem,
        )
    with Journal.open(layout.journal, allow_unknown_filesystem=layout.allow_unknown_filesystem) as journal:
        if history.outcome is ImportOutcome.ADVANCED:
            last = history.entries[history.known - 1]
            journal.append([*records, *told], views, expect=Head(last.seq, last.chain))
        elif history.outcome is ImportOutcome.UNCHANGED and told:
            journal.append(told)
        event_store, projections = EventStore(layout, clock, journal), Projections(layout)
        # The newest first: whoever looks meanwhile sees what is shown in the end, or what was shown before.
        for _, generation in sorted(event_store.state.generations.items(), reverse=True):
            projections.write(event_store, generation)
        return event_store.state


def _event(  # noqa: PLR0917 - what the event names
    path: Path, header: BundleHeader, history: _History, file: ArtifactRef, stored: int, host: Document
) -> Imported:
    """What the journal is told of the import."""
    known = max(history.known, 0)
    return Imported(
        source=path.name.encode("utf-8", "backslashreplace").decode("utf-8"),
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
        hint=_READ_IT,
    )
