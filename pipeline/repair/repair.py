"""Repair a cache, without being told what is damaged.

First the files beside the journal: a manifest, signature or segment that differs from the journal is set
aside and written again, and foreign files are set aside. Then the artifacts of every kept generation, the
head's first: the step of each damaged one runs again, and its result is stored if the bytes are the same.
Damaged bytes are never deleted: they are moved to `quarantine/`, and the journal records where. What cannot
be repaired stays, and the report says why.

A damaged journal is not touched here; `store.maintenance.rebuild_journal` is for that.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from pipeline.embed.batcher import DescriptorBatcher
from pipeline.lock import CacheLock
from pipeline.planning.recorded_inputs import RecordedInputs
from pipeline.ports import Ports
from pipeline.repair.artifact_repair import ArtifactRepair, record_repair
from pipeline.repair.rebuild_artifacts import RebuildContext
from pipeline.repair.report import RepairAction, RepairReport, preview_repair
from pipeline.stages.engines.fit_head import heads_of
from store.base.valueclass import valueclass
from store.base.values import ArtifactRef
from store.cache.event_mapper import to_recorded_events
from store.cache.journal_consistency import require_consistent_journal
from store.cache.projections import is_whole
from store.cache.view import HistoryView, list_cache_files, read_history, require_cache
from store.cache.writer import CacheWriter
from store.disk.artifacts import Artifacts
from store.disk.folder_integrity import free_displaced
from store.disk.layout import FOLDERS, Layout
from store.disk.quarantine import move_to_quarantine
from store.domain.manifest_projection import project
from store.domain.state import Build, State
from store.errors import ArtifactError, ErrorKind, NoGoError, TranslateOSErrors
from store.files.permissions import refuse_world_writable
from store.maintenance.rebuild_journal import RebuildResult, rebuild
from store.manifest.manifest import Manifest, parse
from store.policy.recovery import plan
from store.trust.go_no_go import TrustedKeys
from store.verify import coverage
from store.verify.projections import projection_findings
from store.verify.report import Depth, ProblemKind, VerifyReport
from store.verify.verify import verify


@valueclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """Repairs a cache; `CacheProvisioner` creates it.

    The final verification accepts signatures of `trusted_keys`, and a rebuild records them again.
    """

    layout: Layout
    lock: CacheLock
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
        """Repair the cache; see `CacheProvisioner.repair`."""
        require_cache(self.layout)
        batcher = executor()()
        if dry_run:
            return preview_repair(self._verify())
        with self.lock:
            visible = self.layout.manifest_files()
            actions = self._repair_projections()
            with self.open_store() as store:
                for action in actions:
                    record_repair(store, action)
                actions = [*actions, *self._repair_artifacts(store, batcher, trust_plugins=trust_plugins)]
                head = store.state.head
                # A head that was visible stays so: no earlier generation may take its place unnoticed.
                if head and (head.number in visible or is_whole(store.state, head, store.artifacts)):
                    store.recover(plan(store.state, list_cache_files(self.layout)))
            return RepairReport(actions=tuple(actions), verification=self._verify())

    def rebuild(self) -> tuple[RebuildResult, RepairReport]:
        """Rebuild the journal, then the files beside it; see `CacheProvisioner.rebuild`."""
        if not self.layout.exists():
            require_cache(self.layout)
        with self.lock:
            refuse_world_writable(self.layout.root)
            links = self._set_links_aside()
            rebuilt = rebuild(
                self.layout,
                trusted_keys=self.trusted_keys,
                clock=self.ports.clock,
                host=self.ports.host,
            )
            actions = [*links, *self._repair_projections()]
            with self.open_store() as store:
                if rebuilt.quarantine:
                    journal = RepairAction(
                        what=self.layout.journal.name,
                        was="replaced by a rebuild",
                        action=f"made again with {rebuilt.records} records",
                        ok=True,
                        quarantine=rebuilt.quarantine,
                    )
                    record_repair(store, journal)
                for action in actions:
                    record_repair(store, action)
            return rebuilt, RepairReport(actions=tuple(actions), verification=self._verify())

    def _verify(self) -> VerifyReport | None:
        """Return the result of a full verification; None if there is no generation yet."""
        try:
            return verify(self.layout, depth=Depth.FULL, trusted_keys=self.trusted_keys)
        except NoGoError as error:
            if error.kind is not ErrorKind.NO_GENERATION:
                raise
            return None

    def _repair_projections(self) -> list[RepairAction]:
        """Set aside wrong files beside the journal; opening the cache then writes them again.

        Raises:
            journal.JournalDamagedError, DamagedHistoryError: The journal itself is damaged; nothing was
                changed.
            UnknownEventError: A newer version wrote this cache; nothing was changed.
        """
        refuse_world_writable(self.layout.root)
        view = read_history(self.layout, strict=False)
        view.state.require_known("nothing was changed")
        links = self._set_links_aside()
        if links:
            view = read_history(self.layout, strict=False)
        require_consistent_journal(self.layout, view.state, view.chains)
        with TranslateOSErrors(f"cache {self.layout.root}"):
            for name in FOLDERS:
                (self.layout.root / name).mkdir(exist_ok=True, mode=0o755)
        actions = [self._set_aside(what, was, kind) for what, was, kind in _wrong_files(self.layout, view)]
        self.layout.create()
        return [*links, *actions]

    def _set_links_aside(self) -> list[RepairAction]:
        """Set aside links and files where the cache has a folder; the target of a link is not part of it."""
        was, action = "expected a folder of the cache, found something else", "set aside"
        return [
            RepairAction(what=name, was=was, action=action, ok=True, quarantine=kept)
            for name, kept in free_displaced(self.layout)
        ]

    def _set_aside(self, what: str, was: str, kind: ProblemKind) -> RepairAction:
        path, kept = self.layout.root / what, ""
        if os.path.lexists(path):
            try:
                kept = move_to_quarantine(self.layout, path)
            except OSError as error:
                return RepairAction(
                    what=what, was=was, action=f"cannot be set aside: {error.strerror}", ok=False
                )
        action = "set aside" if kind is ProblemKind.STRANGER else "projected again from the journal"
        return RepairAction(what=what, was=was, action=action, ok=True, quarantine=kept)

    def _repair_artifacts(
        self, store: CacheWriter, batcher: DescriptorBatcher, *, trust_plugins: bool
    ) -> Iterator[RepairAction]:
        """Repair the artifacts of every kept generation."""
        history = tuple(to_recorded_events(store.journal.entries(1)))
        with tempfile.TemporaryDirectory(prefix="c10-") as scratch:
            seen: set[str] = set()
            for manifest, build in _kept_builds(store.state):
                head = store.state.head
                engines = [event for _, event in (*build.engines, *build.stand_ins)]
                heads = heads_of(engines, self.layout, self.ports.progress, any_sample=True)
                context = RebuildContext(
                    store=store,
                    history=history,
                    inputs=RecordedInputs(
                        build=build,
                        ports=self.ports,
                        trust_plugins=trust_plugins,
                        read_artifact=partial(_read_intact, store.artifacts),
                        heads=heads,
                    ),
                    batcher=batcher,
                    scratch=Path(scratch),
                )
                yield from ArtifactRepair(
                    context=context,
                    manifest=manifest,
                    seen=seen,
                    of_head=head is not None and head.origin == build.number,
                ).repair()


def _read_intact(artifacts: Artifacts, ref: ArtifactRef) -> bytes | None:
    """Return the bytes of an artifact; None if it is missing or damaged."""
    try:
        return artifacts.read(ref)
    except ArtifactError:
        return None


def _wrong_files(layout: Layout, view: HistoryView) -> Iterator[tuple[str, str, ProblemKind]]:
    """Yield path, problem and kind of every wrong file beside the journal."""
    for finding in projection_findings(view, view.chains):
        yield finding.path, finding.found, finding.kind
    walked = coverage.walk(Artifacts(layout), {}, referenced=frozenset(), full=False)
    for path, expected in walked.foreign_files:
        yield path, expected, ProblemKind.STRANGER


def _kept_builds(state: State) -> Iterator[tuple[Manifest, Build]]:
    """Yield manifest and build of each kept generation, the head's first, and each build only once."""
    seen: set[int] = set()
    for number in sorted(state.generations.keys() - state.collected_generations, reverse=True):
        generation = state.generations[number]
        if generation.origin not in seen:
            seen.add(generation.origin)
            yield parse(project(state, generation)), state.builds[generation.origin]
