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
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from pipeline.embed.batcher import DescriptorBatcher
from pipeline.errors import PipelineError
from pipeline.lock import Lock
from pipeline.planning.recorded_inputs import Recipe, UnavailableError
from pipeline.ports import Ports
from pipeline.repair import rebuild_artifacts, rebuild_index
from pipeline.repair.rebuild_artifacts import Made, Workshop
from pipeline.repair.report import Mend, RepairReport, rehearsed, remedy
from store.base.values import ArtifactRef
from store.cache.event_mapper import to_facts
from store.cache.journal_consistency import require_journal
from store.cache.view import History, read, require_cache
from store.cache.writer import Store
from store.disk.artifacts import Artifacts
from store.disk.folder_integrity import free_displaced
from store.disk.layout import FOLDERS, Layout
from store.disk.quarantine import set_aside
from store.domain.attachments import GOLDEN, attached
from store.domain.events import (
    CellEmbedded,
    EngineCompiled,
    Event,
    Index,
    IndexBuilt,
    IndexExtended,
    Repaired,
)
from store.domain.manifest_projection import project
from store.domain.state import Build, Fact, State
from store.domain.step_cache import Memo
from store.errors import (
    ArtifactError,
    DiskFullError,
    ErrorKind,
    NoGoError,
    StoreError,
    UnknownEventError,
    from_os_error,
)
from store.files.permissions import refuse_exposed
from store.formats.tables import BlockRow, decode_blocks
from store.maintenance.rebuild_journal import Rebuilt, rebuild
from store.manifest.manifest import Manifest, parse
from store.manifest.roles import DELTA, WHOLE
from store.runtime.load import ExecutionError
from store.trust.go_no_go import TrustedKeys
from store.verify import coverage
from store.verify.projections import projection_findings
from store.verify.report import Depth, ProblemKind, Verification
from store.verify.verify import verify

_FAILURES = (UnavailableError, PipelineError, StoreError, ExecutionError, ValueError)
"""What keeps one artifact from being made again, and is no reason to give the others up."""


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
    open_store: Callable[[], AbstractContextManager[Store]]
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
                    self._record(store, mend)
                mends = [*mends, *self._artifacts(store, batcher, trust_plugins=trust_plugins)]
            return RepairReport(mends=tuple(mends), verification=self._verified())

    def rebuild(self) -> tuple[Rebuilt, RepairReport]:
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
                    self._record(store, Mend(what=what, was=was, action=action, ok=True, quarantine=kept))
                for mend in mends:
                    self._record(store, mend)
            return rebuilt, RepairReport(mends=tuple(mends), verification=self._verified())

    def _verified(self) -> Verification | None:
        """Return what a full verification says; nothing if there is no generation yet."""
        try:
            return verify(self.layout, depth=Depth.FULL, trusted_keys=self.trusted_keys)
        except NoGoError as error:
            if error.kind is not ErrorKind.NO_GENERATION:
                raise
            return None

    def _record(self, store: Store, mend: Mend, *results: Event) -> None:
        if mend.ok:
            repaired = Repaired(
                subject=mend.what, sha256=mend.sha256, action=mend.action, quarantine=mend.quarantine
            )
            store.append(*results, repaired, build=None)

    def _projections(self) -> list[Mend]:
        """Set aside what lies beside the journal and does not belong there; opening the cache projects it again.

        Raises:
            journal.JournalDamagedError, DamagedHistoryError: It is the journal that is damaged; nothing was changed.
            UnknownEventError: A newer version wrote this cache; nothing was changed.
        """
        refuse_exposed(self.layout.root)
        view = read(self.layout, strict=False)
        if view.state.unknown:
            raise UnknownEventError(
                f"expected events this version knows, found {view.state.unknown[0]}; nothing was changed",
                kind=ErrorKind.UNKNOWN_EVENT,
                hint="use the newer C10 that wrote this cache",
            )
        freed = self._folders()
        if freed:
            view = read(self.layout, strict=False)
        require_journal(self.layout, view.state, view.chains)
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
                kept = set_aside(self.layout, path)
            except OSError as error:
                return Mend(what=what, was=was, action=f"cannot be set aside: {error.strerror}", ok=False)
        action = "set aside" if stranger else "projected again from the journal"
        return Mend(what=what, was=was, action=action, ok=True, quarantine=kept)

    def _artifacts(self, store: Store, batcher: DescriptorBatcher, *, trust_plugins: bool) -> Iterator[Mend]:
        """Heal the artifacts of every generation that is kept."""
        facts = tuple(to_facts(store.journal.entries(1)))
        with tempfile.TemporaryDirectory(prefix="c10-") as scratch:
            shop = Workshop(
                store=store, facts=facts, batcher=batcher, ports=self.ports, scratch=Path(scratch)
            )
            seen: set[str] = set()
            for manifest, build in _kept(store.state):
                recipe = Recipe(build=build, ports=self.ports, trust_plugins=trust_plugins)
                head = store.state.head
                healer = _Healer(
                    shop=shop,
                    recipe=recipe,
                    manifest=manifest,
                    seen=seen,
                    record=lambda mend, *results: self._record(store, mend, *results),
                    of_head=head is not None and head.origin == build.number,
                )
                yield from healer.heal()


@dataclass(slots=True, kw_only=True)
class _Healer:
    """The artifacts of one build.

    Attributes:
        shop: What making things again needs.
        recipe: What the build was made from.
        manifest: What it names.
        seen: Digests of artifacts that were looked at, for this build or another.
        record: Appends what was mended.
        of_head: Whether the head shows this build.
    """

    shop: Workshop
    recipe: Recipe
    manifest: Manifest
    seen: set[str]
    record: Callable[..., None]
    of_head: bool
    whole: set[str] = field(default_factory=set)

    def heal(self) -> Iterator[Mend]:
        """Heal what is damaged, in the order in which things are made of each other."""
        manifest, build = self.manifest, self.recipe.build
        self._look((*(ref for _, ref in manifest.artifacts()),))
        yield from self._one(
            "calibration",
            manifest.calibration,
            lambda: rebuild_artifacts.calibration(self.recipe, manifest.calibration),
        )
        yield from self._one(
            "tile table", manifest.tiles, lambda: rebuild_artifacts.tile_table(self.recipe, manifest.tiles)
        )
        for name, event in build.engines:
            make = partial(rebuild_artifacts.engine, self.shop, self.recipe, event)
            yield from self._one(f"engine {name}", event.artifact, make)
        yield from self._stand_in()
        index = build.index
        if index is None:
            return
        yield from self._one(
            "block table",
            index.blocks,
            lambda: rebuild_artifacts.block_table(self.shop, manifest.tiles, index),
        )
        try:
            rows = decode_blocks(self.shop.artifacts.read(index.blocks))
        except ArtifactError:
            return
        yield from self._blocks(rows)
        yield from self._index(index)
        yield from self._one(
            "geographic report",
            manifest.geography,
            lambda: rebuild_artifacts.geography(self.shop, self.recipe, manifest.geography, rows),
        )

    def _index(self, index: Index) -> Iterator[Mend]:
        """Heal what faiss wrote, and what changed since; each can be made without the other."""
        make = partial(rebuild_index.descriptor_index, self.shop, index)
        if not isinstance(index, IndexExtended):
            yield from self._one(WHOLE, index.artifact, make)
            return
        yield from self._one(DELTA, index.artifact, partial(rebuild_index.index_delta, self.shop, index))
        yield from self._one(WHOLE, index.base, make)

    def _stand_in(self) -> Iterator[Mend]:
        """Heal what embedded the tiles on behalf of an engine for another device, and what it answered."""
        event = self.recipe.build.stand_in
        if event is None:
            return
        self._look((event.artifact,))
        make = partial(rebuild_artifacts.engine, self.shop, self.recipe, event)
        yield from self._one(f"stand-in engine {event.model}", event.artifact, make)
        golden = attached(event).get(GOLDEN)
        if golden is not None:
            make = partial(rebuild_artifacts.golden, self.shop, self.recipe, event, golden)
            yield from self._one("golden answers", golden, make)

    def _look(self, refs: tuple[ArtifactRef, ...]) -> None:
        progress = self.shop.ports.progress
        fresh = [ref for ref in refs if ref.sha256 not in self.seen]
        progress.start("verify", total=sum(ref.size for ref in fresh), unit="bytes")
        self.whole.update(coverage.sound(self.shop.artifacts, fresh, on_progress=progress.advance))
        progress.finish(f"{len(fresh)} files")

    def _is_bad(self, ref: ArtifactRef) -> bool:
        """Whether an artifact is to be healed here: damaged, and not looked at for a build before this."""
        if ref.sha256 in self.seen:
            return False
        self.seen.add(ref.sha256)
        return ref.sha256 not in self.whole

    def _one(self, what: str, ref: ArtifactRef, make: Callable[[], Made]) -> Iterator[Mend]:
        if not self._is_bad(ref):
            return
        was = self.shop.artifacts.damage(ref) or "changed while it was looked at"
        try:
            yield self._replace(what, was, ref, make())
        except _FAILURES as error:
            _raise_if_ours(error)
            yield self._failed(what, was, ref, error)

    def _blocks(self, rows: tuple[BlockRow, ...]) -> Iterator[Mend]:
        self._look(tuple(row.ref for row in rows))
        bad = {row.ref.sha256: row for row in rows if self._is_bad(row.ref)}
        made_by = {
            event.block.sha256: event
            for event in map(_event, self.shop.facts)
            if isinstance(event, CellEmbedded)
        }
        groups: dict[tuple[str, str], list[CellEmbedded]] = {}
        for digest, row in bad.items():
            event = made_by.get(digest)
            if event is None:
                was = self.shop.artifacts.damage(row.ref) or ""
                error = UnavailableError("no record says how it was made")
                yield self._failed(coverage.block_role(row), was, row.ref, error)
                continue
            groups.setdefault((event.space, event.engine), []).append(event)
        for events in groups.values():
            left = {event.block.sha256: event for event in events}
            try:
                for event, found in rebuild_artifacts.cell_blocks(self.shop, self.recipe, events):
                    del left[event.block.sha256]
                    what, was = self._block(event)
                    if isinstance(found, Made):
                        yield self._replace(what, was, event.block, found)
                    else:
                        yield self._failed(what, was, event.block, found)
            except _FAILURES as error:
                _raise_if_ours(error)
                for event in left.values():
                    yield self._failed(*self._block(event), event.block, error)

    def _block(self, event: CellEmbedded) -> tuple[str, str]:
        what = f"block {event.zoom}/{event.cell_x}/{event.cell_y}"
        return what, self.shop.artifacts.damage(event.block) or "changed while it was looked at"

    def _replace(self, what: str, was: str, ref: ArtifactRef, made: Made) -> Mend:
        layout, artifacts = self.shop.store.layout, self.shop.artifacts
        path, kept = layout.artifact(ref.sha256), ""
        if os.path.lexists(path):
            try:
                kept = set_aside(layout, path)
            except OSError as error:
                raise from_os_error(error, f"artifact {ref.sha256}") from error
        artifacts.put(made.data)
        mend = Mend(
            what=what,
            was=was,
            action="made again, the same bytes",
            ok=True,
            sha256=ref.sha256,
            quarantine=kept,
        )
        event = made.event
        # A result that another has taken the place of, or that failed a check since, must not become the latest.
        self.record(
            mend, *(() if event is None or not _current(self.shop.store.state.memo, event) else (event,))
        )
        return mend

    def _failed(self, what: str, was: str, ref: ArtifactRef, error: Exception) -> Mend:
        reason = str(getattr(error, "reason", None) or getattr(error, "message", None) or error)
        root = self.shop.store.layout.root
        mend = remedy(root, ref, of_head=self.of_head)
        return Mend(
            what=what, was=was, action=f"not made again: {reason}; {mend}", ok=False, sha256=ref.sha256
        )


def _raise_if_ours(error: Exception) -> None:
    """Raise what would keep every other artifact from being made, too: a full disk, no memory, no open files."""
    if isinstance(error, DiskFullError) or getattr(error, "kind", None) is ErrorKind.RESOURCES:
        raise error


def _misplaced(layout: Layout, view: History) -> Iterator[tuple[str, str, ProblemKind]]:
    """Yield path, what is wrong, and kind of everything beside the journal that is not as it should be."""
    for finding in projection_findings(view, view.chains):
        yield finding.path, finding.found, finding.kind
    walked = coverage.walk(Artifacts(layout), {}, referenced=frozenset(), full=False)
    for stranger in walked.strangers:
        path, expected, text = stranger.rpartition(": expected ")
        yield path, f"{expected}{text}".removeprefix(": "), ProblemKind.STRANGER


def _kept(state: State) -> Iterator[tuple[Manifest, Build]]:
    """Yield manifest and build of every origin that a kept generation shows, the head's first."""
    seen: set[int] = set()
    for number in sorted(state.generations.keys() - state.retired, reverse=True):
        generation = state.generations[number]
        if generation.origin not in seen:
            seen.add(generation.origin)
            yield parse(project(state, generation)), state.builds[generation.origin]


def _current(memo: Memo, event: Event) -> bool:
    match event:
        case EngineCompiled(key=key, artifact=artifact):
            known = memo.engines.get(key)
            return known is not None and known.artifact == artifact
        case IndexBuilt(key=key, artifact=artifact) | IndexExtended(key=key, artifact=artifact):
            index = memo.indexes.get(key)
            return index is not None and index.artifact == artifact
        case CellEmbedded(space=space, zoom=zoom, cell_x=x, cell_y=y, block=block):
            return any(known.block == block for known in memo.blocks_of((space, zoom, x, y)))
        case _:
            return False


def _event(fact: Fact) -> object:
    return fact.event
