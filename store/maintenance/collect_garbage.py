"""Collection: carry out what `store.policy.retention` decided, so that a death at any moment costs nothing.

It runs under the build lock, with `artifacts/.lock` held exclusively, in four steps:

1. The plan is durable in the journal. From here on the state neither reuses what goes nor projects the generations
   that go, whether or not anybody gets any further.
2. Signatures, then manifests of the generations that go are unlinked, and the folder is made durable after each: a
   manifest never outlives an artifact that it names, nor a signature its manifest.
3. The artifacts are unlinked and their folders made durable.
4. The result is durable in the journal.

A collection that died is finished by the next one, which decides anew: what the plan named and nothing names any
more is found as such in the tree. Open readers keep what they have opened. Segments, quarantine, the head and what
is accepted are never touched; of the latter two the journal itself would refuse the plan.
"""

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from journal import HeadMovedError
from journal.fsync import fsync_dir
from store.base.values import ArtifactRef
from store.cache.event_store import RETRYABLE
from store.cache.view import open_view
from store.cache.writer import CacheWriter
from store.disk.artifacts import Artifacts
from store.disk.layout import Layout
from store.disk.scratch import RESERVE_NAME, release_reserve
from store.domain.events import MAX_COLLECTED, Collected, CollectionPlanned
from store.domain.state import State
from store.errors import ArtifactError, from_os_error
from store.formats.tables import BlockRow, decode_blocks
from store.manifest.file_names import signed_manifest
from store.policy.retention import (
    CollectionPlan,
    KeepPolicy,
    Removal,
    RemovalReason,
    decide,
    tables_needed,
    tables_wanted,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionResult:
    """What a collection does or did.

    Attributes:
        decision: Why what goes goes, and what stays.
        projections: Manifest and signature files of generations that are no longer shown, and their size in bytes.
        done: Whether it was carried out.
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
        """Files removed, or to be removed."""
        return len(self.decision.removals) + self.projections[0]

    @property
    def size(self) -> int:
        """Their bytes."""
        return self.decision.size + self.projections[1]


def preview(layout: Layout, policy: KeepPolicy) -> CollectionResult:
    """Tell what a collection would do; writes nothing and takes no lock.

    Raises:
        ArtifactError: A block table that must stay cannot be read.
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
        store: Opened under the build lock with `exclusive_within_s`.
        policy: What to keep.

    Raises:
        ArtifactError: A block table that must stay cannot be read; nothing was removed.
        journal.JournalError: The plan could not be made durable; nothing that it names was removed.
        StoreError: A file could not be removed; the next collection goes on from here.
    """
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
            for first, some in _pieces(decision.removals)
        ]
        try:
            store.event_store.append_on(
                head, [store.event_store.record(event, build=None) for event in planned]
            )
        except HeadMovedError:
            # Somebody accepted a generation or compiled an engine beside us: decide again.
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
    """Free what needs no plan, on a disk too full to record one: the reserve, and files that nothing names."""
    unnamed = [each for each in decision.removals if each.why is RemovalReason.UNREFERENCED]
    freed = bool(unnamed) or (store.layout.scratch / RESERVE_NAME).exists()
    release_reserve(store.layout)
    _remove(store.layout, {}, unnamed)
    store.event_store.reopen()
    return freed


def _decide(state: State, policy: KeepPolicy, artifacts: Artifacts) -> CollectionPlan:
    tables = dict(_read(tables_needed(state, policy), artifacts))
    for origin, table in tables_wanted(state, policy).items():
        try:
            tables.update(_read({origin: table}, artifacts))
        except ArtifactError:
            continue
    return decide(state, policy, tables=tables, present=_present(artifacts))


def _read(
    tables: Mapping[int, ArtifactRef], artifacts: Artifacts
) -> Iterator[tuple[int, tuple[BlockRow, ...]]]:
    for origin, table in tables.items():
        try:
            yield origin, decode_blocks(artifacts.read(table))
        except ArtifactError as error:
            raise ArtifactError(
                f"expected the block table of build {origin}, which tells what must stay, found it damaged or missing:"
                f" {error.message}",
                kind=error.kind,
                hint="c10 verify --full (says what mends it)",
            ) from error


def _present(artifacts: Artifacts) -> dict[str, int]:
    try:
        return {
            digest: found.st_size
            for digest, found, _ in artifacts.names()
            if digest and stat.S_ISREG(found.st_mode)
        }
    except OSError as error:
        raise from_os_error(error, f"artifacts in {artifacts.layout.artifacts}") from error


def _projections(layout: Layout, state: State, decision: CollectionPlan) -> dict[int, tuple[Path, ...]]:
    """Signatures, then the manifest, of generations that are retired, now or by a collection that did not finish."""
    collected_generations = state.collected_generations.union(decision.collected_generations)
    names = {
        number: name for number, name in layout.manifest_files().items() if number in collected_generations
    }
    found = {number: list[Path]() for number in sorted(names)}
    of = {name: number for number, name in names.items()}
    for path in sorted(layout.manifests.iterdir()) if names else ():
        signed = signed_manifest(path.name)
        if signed is not None and signed[0] in of:
            found[of[signed[0]]].append(path)
    return {number: (*paths, layout.manifests / names[number]) for number, paths in found.items()}


def _measure(projections: Mapping[int, Sequence[Path]]) -> tuple[int, int]:
    sizes = [
        path.lstat().st_size for paths in projections.values() for path in paths if os.path.lexists(path)
    ]
    return len(sizes), sum(sizes)


def _pieces(removals: Sequence[Removal]) -> Iterator[tuple[bool, list[Removal]]]:
    """Cut what goes into as many events as it needs, at least one; the first is told apart."""
    rest = iter(removals)
    yield True, list(islice(rest, MAX_COLLECTED))
    while some := list(islice(rest, MAX_COLLECTED)):
        yield False, some


def _remove(layout: Layout, projections: Mapping[int, Sequence[Path]], removals: Sequence[Removal]) -> None:
    try:
        for some in (slice(-1), slice(-1, None)):
            for path in (path for paths in projections.values() for path in paths[some]):
                path.unlink(missing_ok=True)
            if projections:
                fsync_dir(layout.manifests)
        for each in removals:
            layout.artifact(each.sha256).unlink(missing_ok=True)
        for folder in sorted({layout.artifact_folder(each.sha256) for each in removals}):
            fsync_dir(folder)
    except OSError as error:
        raise from_os_error(error, f"collecting from {layout.root}") from error
