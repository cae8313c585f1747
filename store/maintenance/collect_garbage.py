"""Collect garbage as `store.policy.retention` decided, so that a kill at any moment loses nothing.

A collection runs under the build lock, with `artifacts/.lock` held exclusively, in four steps:

1. The plan becomes durable in the journal. From now on the state neither reuses what the plan removes nor
   projects the generations that it removes, even if the collection gets no further.
2. The signatures of those generations are unlinked, then their manifests; the folder is made durable after
   each. A manifest never outlives an artifact that it names, nor a signature its manifest.
3. The artifacts are unlinked, and their folders made durable.
4. The result becomes durable in the journal.

The next collection finishes one that was killed. It decides anew: what the plan named and nothing names any
more is in the tree. Open readers keep the files that they have opened. Segments, quarantine, the head and
accepted generations are never touched; of the latter two the journal itself would refuse the plan.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from journal import HeadMovedError
from journal.fsync import fsync_dir
from store.base.valueclass import valueclass
from store.base.values import ArtifactRef
from store.cache.event_store import RETRYABLE
from store.cache.view import open_view
from store.cache.writer import CacheWriter
from store.disk.artifacts import Artifacts
from store.disk.cell_tables import tables_of_build
from store.disk.layout import Layout
from store.disk.scratch import RESERVE_NAME, release_reserve
from store.domain.maintenance_events import MAX_COLLECTED, Collected, CollectionPlanned
from store.domain.state import State
from store.errors import ArtifactError, ErrorKind, TranslateOSErrors
from store.manifest.file_names import parse_signature_name
from store.policy.retention import (
    CollectionPlan,
    KeepPolicy,
    Removal,
    RemovalReason,
    decide,
    kept_origins,
    origins_going,
)


@valueclass(frozen=True, slots=True, kw_only=True)
class CollectionResult:
    """What a collection removes or, if `done`, has removed.

    `projections` are number and bytes of the manifest and signature files of removed generations.
    """

    decision: CollectionPlan
    projections: tuple[int, int]
    done: bool

    @property
    def empty(self) -> bool:
        """Whether there is nothing to remove."""
        return not (self.decision.removals or self.decision.collected_generations or self.projections[0])

    @property
    def files(self) -> int:
        """How many files are removed."""
        return len(self.decision.removals) + self.projections[0]

    @property
    def size(self) -> int:
        """Their bytes, all together."""
        return self.decision.size + self.projections[1]


def preview(layout: Layout, policy: KeepPolicy) -> CollectionResult:
    """Return what a collection would do, without writing or locking.

    Raises:
        ArtifactError: A block table that must be kept cannot be read.
        StoreError, journal.JournalError: The cache cannot be read.
    """
    state = open_view(layout).state
    decision = _decide(state, policy, Artifacts(layout))
    return CollectionResult(
        decision=decision, projections=_measure(_projections(layout, state, decision)), done=False
    )


def collect(store: CacheWriter, policy: KeepPolicy) -> CollectionResult:
    """Remove what the policy does not keep.

    Args:
        store: The cache, opened under the build lock with `exclusive_within_s`.
        policy: What to keep.

    Raises:
        ArtifactError: A block table that must be kept cannot be read, or the head cannot become visible since artifacts
            of it are missing; nothing was removed.
        journal.JournalError: The plan could not be made durable; nothing that it names was removed.
        StoreError: A file could not be removed; the next collection continues from here.
    """
    if not store.head_is_whole:
        raise ArtifactError(
            f"expected all artifacts of generation {len(store.state.generations)}, found some missing, so that an"
            " earlier one flies; nothing was collected",
            kind=ErrorKind.ARTIFACT_MISSING,
            hint="c10 repair (makes them again), or c10 rollback",
        )
    while True:
        head, state = store.event_store.head, store.state
        decision = _decide(state, policy, store.artifacts)
        projections = _projections(store.layout, state, decision)
        done = CollectionResult(decision=decision, projections=_measure(projections), done=True)
        if done.empty:
            return done
        generations = tuple(sorted({*decision.collected_generations, *projections}))
        planned = [
            CollectionPlanned(
                digests=tuple(each.sha256 for each in some),
                generations=generations if first else (),
                size=sum(each.size for each in some),
                policy=policy.to_document(),
                host=store.host,
            )
            for first, some in _batches(decision.removals)
        ]
        try:
            store.event_store.append_on(
                head, [store.event_store.record(event, build=None) for event in planned]
            )
        except HeadMovedError:
            # Another process accepted a generation or compiled an engine: decide again.
            store.event_store.refresh()
        except RETRYABLE:
            if not _make_room(store, decision):
                raise
        else:
            break
    _remove(store.layout, projections, decision.removals)
    store.append(
        *(
            Collected(digests=event.digests, generations=event.generations, size=event.size, host=store.host)
            for event in planned
        ),
        build=None,
    )
    return done


def _make_room(store: CacheWriter, decision: CollectionPlan) -> bool:
    """If the disk is too full to record a plan, free the reserve and files that nothing names."""
    unnamed = [each for each in decision.removals if each.why is RemovalReason.UNREFERENCED]
    freed = bool(unnamed) or (store.layout.scratch / RESERVE_NAME).exists()
    release_reserve(store.layout)
    _remove(store.layout, {}, unnamed)
    store.event_store.reopen()
    return freed


def _decide(state: State, policy: KeepPolicy, artifacts: Artifacts) -> CollectionPlan:
    tables = {
        origin: tuple(_listed(state, origin, artifacts, needed=True))
        for origin in kept_origins(state, policy)
    }
    for origin in origins_going(state, policy):
        tables[origin] = tuple(_listed(state, origin, artifacts, needed=False))
    return decide(state, policy, tables=tables, present=_artifact_sizes(artifacts))


def _listed(state: State, origin: int, artifacts: Artifacts, *, needed: bool) -> Iterator[ArtifactRef]:
    """Yield what the tables of a build list; those that cannot be read are left out unless they are needed."""
    for table in tables_of_build(state.builds[origin]):
        try:
            yield from (ref for _, ref in table.files(artifacts))
        except ArtifactError as error:
            if not needed:
                continue
            raise ArtifactError(
                f"expected the {table.role} of build {origin}, which says what must be kept, found it damaged or"
                f" missing: {error.message}",
                kind=error.kind,
                hint="c10 verify --full (says how to fix it)",
            ) from error


def _artifact_sizes(artifacts: Artifacts) -> dict[str, int]:
    with TranslateOSErrors(f"artifacts in {artifacts.layout.artifacts}"):
        return {
            digest: entry.stat(follow_symlinks=False).st_size
            for digest, entry in artifacts.names()
            if digest and entry.is_file(follow_symlinks=False)
        }


def _projections(layout: Layout, state: State, decision: CollectionPlan) -> dict[int, tuple[Path, ...]]:
    """Return signatures, then manifest, of each removed generation, also of an unfinished collection."""
    removed = state.collected_generations.union(decision.collected_generations)
    names = {name: number for number, name in layout.manifest_files().items() if number in removed}
    found = {number: list[Path]() for number in sorted(names.values())}
    for path in sorted(layout.manifests.iterdir()) if names else ():
        signed = parse_signature_name(path.name)
        if signed is not None and signed[0] in names:
            found[names[signed[0]]].append(path)
    for name, number in names.items():
        found[number].append(layout.manifests / name)
    return {number: tuple(paths) for number, paths in found.items()}


def _measure(projections: Mapping[int, Sequence[Path]]) -> tuple[int, int]:
    sizes = [
        path.lstat().st_size for paths in projections.values() for path in paths if os.path.lexists(path)
    ]
    return len(sizes), sum(sizes)


def _batches(removals: Sequence[Removal]) -> Iterator[tuple[bool, Sequence[Removal]]]:
    """Yield the removals of each event, of which there is at least one, and whether it is the first."""
    for start in range(0, max(1, len(removals)), MAX_COLLECTED):
        yield not start, removals[start : start + MAX_COLLECTED]


def _remove(layout: Layout, projections: Mapping[int, Sequence[Path]], removals: Sequence[Removal]) -> None:
    with TranslateOSErrors(f"collecting from {layout.root}"):
        for some in (slice(-1), slice(-1, None)):
            for path in (path for paths in projections.values() for path in paths[some]):
                path.unlink(missing_ok=True)
            if projections:
                fsync_dir(layout.manifests)
        for each in removals:
            layout.artifact(each.sha256).unlink(missing_ok=True)
        for folder in sorted({layout.artifact_folder(each.sha256) for each in removals}):
            fsync_dir(folder)
