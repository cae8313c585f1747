"""Repair: heal what can be healed, without being told what broke.

First what lies beside the journal: a manifest, signature or segment that is not what the journal projects is set
aside and projected again, and so is everything set aside that nothing of C10's could have put there. Then the
artifacts of every generation that is kept, the head's first: each that is damaged is made again by its own step, and
takes its name again if the bytes come out the same. Damaged bytes are never thrown away: they lie in `quarantine/`,
and the journal says where. What cannot be healed stays as it was and is told with its reason.

A journal that is damaged itself is not touched: that is what `store.maintenance.rebuild_journal` is for.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from pipeline.embed.batcher import DescriptorBatcher
from pipeline.lock import Lock
from pipeline.planning.recorded_inputs import Recipe
from pipeline.ports import Ports
from pipeline.repair.artifact_repair import ArtifactRepair, record_repair
from pipeline.repair.rebuild_artifacts import RebuildContext
from pipeline.repair.report import Mend, RepairReport, rehearsed
from store.cache.event_mapper import to_recorded_events
from store.cache.journal_consistency import require_consistent_journal
from store.cache.view import HistoryView, read_history, require_cache
from store.cache.writer import CacheWriter
from store.disk.artifacts import Artifacts
from store.disk.folder_integrity import free_displaced
from store.disk.layout import FOLDERS, Layout
from store.disk.quarantine import move_to_quarantine
from store.domain.manifest_projection import project
from store.domain.state import Build, State
from store.errors import (
    ErrorKind,
    NoGoError,
    UnknownEventError,
    from_os_error,
)
from store.files.permissions import refuse_exposed
from store.maintenance.rebuild_journal import RebuildResult, rebuild
from store.manifest.manifest import Manifest, parse
from store.trust.go_no_go import TrustedKeys
from store.verify import coverage
from store.verify.projections import projection_findings
from store.verify.report import Depth, ProblemKind, VerifyReport
from store.verify.verify import verify


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """What repairing needs; made by `CacheProvisioner`.

    Attributes:
        layout: Where the cache is.
        lock: The build lock.
        open_store: Opens the cache for writing.
        ports: What else does the work.
        trusted_keys: Whose signatures the verification at the end accepts, and a rebuild records again.
    """

    layout: Layout
    lock: Lock
    open_store: Callable[[], AbstractContextManager[CacheWriter]]
    ports: Ports
    trusted_keys: TrustedKeys

    def repair(
        self,
        executor: Callable[[], Callable[[], DescriptorBatcher]],
        *,
        dry_run: bool = False,
        trust_plugins: bool = False,
    ) -> RepairReport:
        """Heal the cache; see `CacheProvisioner.repair`."""
        require_cache(self.layout)
        batcher = executor()()
        if dry_run:
            return rehearsed(self._verified())
        with self.lock:
            mends = self._projections()
            with self.open_store() as store:
                for mend in mends:
                    record_repair(store, mend)
                mends = [*mends, *self._artifacts(store, batcher, trust_plugins=trust_plugins)]
            return RepairReport(mends=tuple(mends), verification=self._verified())

    def rebuild(self) -> tuple[RebuildResult, RepairReport]:
        """Make the journal again, then what lies beside it; see `CacheProvisioner.rebuild`."""
        if not self.layout.exists():
            require_cache(self.layout)
        with self.lock:
            refuse_exposed(self.layout.root)
            freed = self._folders()
            rebuilt = rebuild(
                self.layout,
                trusted_keys=self.trusted_keys,
                clock=self.ports.clock,
                host=self.ports.host,
            )
            mends = [*freed, *self._projections()]
            with self.open_store() as store:
                if rebuilt.quarantine:
                    what, was = self.layout.journal.name, "replaced by a rebuild"
                    action = f"made again with {rebuilt.records} records"
                    kept = rebuilt.quarantine
                    record_repair(store, Mend(what=what, was=was, action=action, ok=True, quarantine=kept))
                for mend in mends:
                    record_repair(store, mend)
            return rebuilt, RepairReport(mends=tuple(mends), verification=self._verified())

    def _verified(self) -> VerifyReport | None:
        """Return what a full verification says; nothing if there is no generation yet."""
        try:
            return verify(self.layout, depth=Depth.FULL, trusted_keys=self.trusted_keys)
        except NoGoError as error:
            if error.kind is not ErrorKind.NO_GENERATION:
                raise
            return None

    def _projections(self) -> list[Mend]:
        """Set aside what lies beside the journal and does not belong there; opening the cache projects it again.

        Raises:
            journal.JournalDamagedError, DamagedHistoryError: It is the journal that is damaged; nothing was changed.
            UnknownEventError: A newer version wrote this cache; nothing was changed.
        """
        refuse_exposed(self.layout.root)
        view = read_history(self.layout, strict=False)
        if view.state.unknown:
            raise UnknownEventError(
                f"expected events this version knows, found {view.state.unknown[0]}; nothing was changed",
                kind=ErrorKind.UNKNOWN_EVENT,
                hint="use the newer C10 that wrote this cache",
            )
        freed = self._folders()
        if freed:
            view = read_history(self.layout, strict=False)
        require_consistent_journal(self.layout, view.state, view.chains)
        try:
            for name in FOLDERS:
                (self.layout.root / name).mkdir(exist_ok=True, mode=0o755)
        except OSError as error:
            raise from_os_error(error, f"cache {self.layout.root}") from error
        mends = [self._mended(what, was, kind) for what, was, kind in _misplaced(self.layout, view)]
        self.layout.create()
        return [*freed, *mends]

    def _folders(self) -> list[Mend]:
        """Set aside what has the place of a folder: whatever lies behind a link is no part of this cache."""
        was, action = "expected a folder of the cache, found something else", "set aside"
        return [
            Mend(what=name, was=was, action=action, ok=True, quarantine=kept)
            for name, kept in free_displaced(self.layout)
        ]

    def _mended(self, what: str, was: str, kind: ProblemKind) -> Mend:
        path, stranger = self.layout.root / what, kind is ProblemKind.STRANGER
        kept = ""
        if os.path.lexists(path):
            try:
                kept = move_to_quarantine(self.layout, path)
            except OSError as error:
                return Mend(what=what, was=was, action=f"cannot be set aside: {error.strerror}", ok=False)
        action = "set aside" if stranger else "projected again from the journal"
        return Mend(what=what, was=was, action=action, ok=True, quarantine=kept)

    def _artifacts(
        self, store: CacheWriter, batcher: DescriptorBatcher, *, trust_plugins: bool
    ) -> Iterator[Mend]:
        """Heal the artifacts of every generation that is kept."""
        facts = tuple(to_recorded_events(store.journal.entries(1)))
        with tempfile.TemporaryDirectory(prefix="c10-") as scratch:
            seen: set[str] = set()
            for manifest, build in _kept(store.state):
                head = store.state.head
                context = RebuildContext(
                    store=store,
                    facts=facts,
                    recipe=Recipe(build=build, ports=self.ports, trust_plugins=trust_plugins),
                    batcher=batcher,
                    scratch=Path(scratch),
                )
                yield from ArtifactRepair(
                    context=context,
                    manifest=manifest,
                    seen=seen,
                    of_head=head is not None and head.origin == build.number,
                ).repair()


def _misplaced(layout: Layout, view: HistoryView) -> Iterator[tuple[str, str, ProblemKind]]:
    """Yield path, what is wrong, and kind of everything beside the journal that is not as it should be."""
    for finding in projection_findings(view, view.chains):
        yield finding.path, finding.found, finding.kind
    walked = coverage.walk(Artifacts(layout), {}, referenced=frozenset(), full=False)
    for stranger in walked.foreign_files:
        path, expected, text = stranger.rpartition(": expected ")
        yield path, f"{expected}{text}".removeprefix(": "), ProblemKind.STRANGER


def _kept(state: State) -> Iterator[tuple[Manifest, Build]]:
    """Yield manifest and build of every origin that a kept generation shows, the head's first."""
    seen: set[int] = set()
    for number in sorted(state.generations.keys() - state.collected_generations, reverse=True):
        generation = state.generations[number]
        if generation.origin not in seen:
            seen.add(generation.origin)
            yield parse(project(state, generation)), state.builds[generation.origin]
