"""Import a bundle as a new cache, or add its newer records to a cache that holds the older ones.

An import believes nothing in the file. Before it writes anything it checks the chain of the records, folds
them, and compares the projection of every generation with the manifest digest that was committed. With
trusted keys, one of them must have signed the newest generation, and the import ends with its commit: no
signature covers the records behind it. Of these it takes over, as records of its own, the signatures of trusted
keys, and that artifacts were collected which are not here. An artifact is stored only if a record names it and its
bytes match.

The records enter the journal last, after the whole file was read and the artifacts of the newest generation
are there: in one transaction, or in a new journal that appears complete. An import that is killed before
leaves artifacts that nothing names, which the next import uses; one that is killed after it leaves a cache
that the next writer recovers.

An `Imported` event says where a copy came from, and starts a history of its own. A copy that follows its
source, bundle by bundle, gets no such event, and nothing else may be appended to it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

from journal import HeadMovedError, Journal
from journal.record import Chain, Head
from store.base.canonical_json import Document
from store.base.clock import Clock, recorded_wall_ns
from store.base.valueclass import valueclass
from store.base.values import ArtifactRef
from store.cache.event_mapper import to_record
from store.cache.event_store import EventStore
from store.cache.projections import Projections
from store.disk.artifacts import Artifacts
from store.disk.folder_integrity import refuse_symlinked_folders, refuse_unfit_folder
from store.disk.layout import Layout
from store.domain.events import Event
from store.domain.maintenance_events import Imported
from store.domain.manifest_projection import head_projections, project
from store.domain.state import State
from store.errors import ArtifactError, BundleError, ErrorKind, NoGoError
from store.manifest import manifest
from store.transfer.bundle_format import BundleHeader
from store.transfer.bundle_history import (
    NOT_FOLLOWING,
    BundleHistory,
    ImportOutcome,
    check_history,
    events_left_out,
    require_signed,
)
from store.transfer.bundle_reader import BundleReader, open_bundle
from store.transfer.free_space import require_space
from store.transfer.selection import artifacts_expected, artifacts_named
from store.trust.go_no_go import ALLOW_UNSIGNED, TrustedKeys
from store.verify.coverage import missing_artifacts


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


def import_bundle(
    layout: Layout,
    source: Path | BundleReader,
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
        source: The bundle: a file, or a reader that has given no record yet.
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
    with open_bundle(source) if isinstance(source, Path) else nullcontext(source) as reader:
        entries = tuple(reader.entries())
        history = check_history(layout, entries, trusted_keys)
        if follows and trusted_keys is not ALLOW_UNSIGNED:
            require_signed(history.state, trusted_keys, NOT_FOLLOWING)
        layout.create()
        artifacts = Artifacts(layout)
        with artifacts.shared_lock():
            if on_total is not None:
                on_total(reader.header.size)
            require_space(layout.root, _bytes_to_store(reader.header, history, artifacts))
            stored = tuple(_store_artifacts(reader, artifacts, history, on_bytes))
            file = reader.finish()
            _require_artifacts(history, artifacts)
            state: State | None = None
            while state is None:
                events: list[Event] = []
                if not follows:
                    events += events_left_out(history, trusted_keys, artifacts, host)
                    if stored or history.outcome is not ImportOutcome.UNCHANGED:
                        events.append(
                            _imported(Path(reader.name).name, reader.header, history, file, len(stored), host)
                        )
                try:
                    state = _append(layout, history, events, clock)
                except HeadMovedError:
                    # Others accept generations and compile engines without the build lock: decide again.
                    history = check_history(layout, entries, trusted_keys)
    return ImportResult(
        outcome=history.outcome,
        header=reader.header,
        file=file,
        state=state,
        stored=stored,
        left_out=len(entries) - len(history.entries),
    )


def _bytes_to_store(header: BundleHeader, history: BundleHistory, artifacts: Artifacts) -> int:
    """Return how many bytes an import stores: what is carried and absent. Nobody says yet which are carried."""
    expected = artifacts_expected(history.facts).values()
    return min(header.size, sum(ref.size for ref in expected if not artifacts.present(ref)))


def _store_artifacts(
    reader: BundleReader,
    artifacts: Artifacts,
    history: BundleHistory,
    on_bytes: Callable[[int], None] | None,
) -> Iterator[ArtifactRef]:
    """Store the artifacts of imported records that the cache lacks, and yield their references."""
    wanted = artifacts_named(history.facts)
    for ref in reader.artifacts():
        if history.named.get(ref.sha256) != ref:
            found = f"{ref.sha256[:12]} of {ref.size:,} bytes"
            raise reader.error("artifacts that its records name", found)
        if ref.sha256 in wanted and artifacts.damage(ref) is not None:
            try:
                artifacts.take(ref, reader.pieces(ref))
            except ArtifactError as error:
                message = f"bundle {reader.name}: {error.message}"
                raise BundleError(message, kind=ErrorKind.BUNDLE, hint=reader.mend) from error
            yield ref
        if on_bytes is not None:
            on_bytes(ref.size)


def _require_artifacts(history: BundleHistory, artifacts: Artifacts) -> None:
    """Make sure that all artifacts of the newest generation are there, by type and size, unless they were collected."""
    state, head = history.state, history.state.head
    if head is None or head.number in history.base.collected_generations:
        return
    shown = manifest.parse(project(state, head))
    problems = missing_artifacts(shown, artifacts)
    if problems:
        raise NoGoError(
            problems,
            kind=ErrorKind.ARTIFACT_MISSING,
            hint="c10 export --artifacts all, where the cache is whole, without --have or with what c10 have --full says;"
            " c10 replay --bundle FILE reads this one",
        )


def _append(layout: Layout, history: BundleHistory, events: Sequence[Event], clock: Clock) -> State:
    """Append records and further events to the journal, and write the files projected from it.

    Raises:
        HeadMovedError: Another process has appended since `history` was compared with the journal.
    """
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
            known = history.base.position
            journal.append(own, expect=Head(known.seq, Chain(bytes.fromhex(known.chain))))
        event_store, projections = EventStore(layout, clock, journal), Projections(layout)
        # The newest first: a reader meanwhile sees the new head, or the one before the import.
        for _, generation in sorted(event_store.state.generations.items(), reverse=True):
            projections.write(event_store, generation)
        return event_store.state


def _imported(  # noqa: PLR0917 - the fields of the event
    name: str, header: BundleHeader, history: BundleHistory, file: ArtifactRef, stored: int, host: Document
) -> Imported:
    known = max(history.known, 0)
    return Imported(
        source=name,
        cache_id=header.cache_id,
        bundle=file,
        generations=tuple(number for number, found in history.state.generations.items() if found.seq > known),
        artifacts=stored,
        host=host,
    )
