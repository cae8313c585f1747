"""The artifacts of one build repaired: each that is damaged is made again by its own step.

An artifact takes its name again only if the bytes come out the same. Damaged bytes are kept in `quarantine/`.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from pipeline.errors import PipelineError
from pipeline.planning.recorded_inputs import UnavailableError
from pipeline.repair import rebuild_artifacts, rebuild_index
from pipeline.repair.rebuild_artifacts import RebuildContext, RebuiltArtifact
from pipeline.repair.report import Mend, remedy
from store.base.values import ArtifactRef
from store.cache.writer import CacheWriter
from store.disk.quarantine import move_to_quarantine
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
from store.domain.index_files import whole_of
from store.domain.step_cache import StepCache
from store.errors import ArtifactError, DiskFullError, ErrorKind, StoreError, from_os_error
from store.formats.tables import BlockRow, decode_blocks
from store.manifest.manifest import Manifest
from store.manifest.roles import DELTA, WHOLE
from store.runtime.load import ExecutionError
from store.verify import coverage

_FAILURES = (UnavailableError, PipelineError, StoreError, ExecutionError, ValueError)
"""What keeps one artifact from being made again, and is no reason to give the others up."""


def record_repair(store: CacheWriter, mend: Mend, *results: Event) -> None:
    """Record what was repaired, and the results of the steps that were run again for it."""
    if mend.ok:
        repaired = Repaired(
            subject=mend.what, sha256=mend.sha256, action=mend.action, quarantine=mend.quarantine
        )
        store.append(*results, repaired, build=None)


@dataclass(slots=True, kw_only=True)
class ArtifactRepair:
    """Repairs the artifacts of one build.

    Attributes:
        context: What rebuilding them needs.
        manifest: What the build names.
        seen: Digests of artifacts that were looked at, for this build or another.
        of_head: Whether the head shows this build.
    """

    context: RebuildContext
    manifest: Manifest
    seen: set[str]
    of_head: bool
    _whole: set[str] = field(default_factory=set, init=False)

    def repair(self) -> Iterator[Mend]:
        """Repair what is damaged, in the order in which things are made of each other."""
        context, manifest, recipe = self.context, self.manifest, self.context.recipe
        self._look(tuple(ref for _, ref in manifest.artifacts()))
        yield from self._one(
            "calibration", manifest.calibration, lambda: RebuiltArtifact(data=recipe.calibration())
        )
        yield from self._one("tile table", manifest.tiles, lambda: rebuild_artifacts.tile_table(recipe))
        for name, event in recipe.build.engines:
            yield from self._one(
                f"engine {name}", event.artifact, partial(rebuild_artifacts.engine, context, event)
            )
        yield from self._stand_in()
        index = recipe.build.index
        if index is None:
            return
        table = partial(rebuild_artifacts.block_table, context, manifest.tiles, index)
        yield from self._one("block table", index.blocks, table)
        try:
            rows = decode_blocks(context.artifacts.read(index.blocks))
        except ArtifactError:
            return
        yield from self._blocks(rows)
        yield from self._index(index)
        report = partial(rebuild_artifacts.geographic_report, context, rows)
        yield from self._one("geographic report", manifest.geography, report)

    def _index(self, index: Index) -> Iterator[Mend]:
        """Repair what faiss wrote, and what changed since; each can be made without the other."""
        if isinstance(index, IndexExtended):
            delta = partial(rebuild_index.index_delta, self.context, index)
            yield from self._one(DELTA, index.artifact, delta)
        whole = partial(rebuild_index.descriptor_index, self.context, index)
        yield from self._one(WHOLE, whole_of(index), whole)

    def _stand_in(self) -> Iterator[Mend]:
        """Repair what embedded the tiles on behalf of an engine for another device, and what it answered."""
        event = self.context.recipe.build.stand_in
        if event is None:
            return
        self._look((event.artifact,))
        compiled = partial(rebuild_artifacts.engine, self.context, event)
        yield from self._one(f"stand-in engine {event.model}", event.artifact, compiled)
        golden = attached(event).get(GOLDEN)
        if golden is not None:
            yield from self._one(
                "golden answers", golden, partial(rebuild_artifacts.golden, self.context, event)
            )

    def _look(self, refs: tuple[ArtifactRef, ...]) -> None:
        progress = self.context.recipe.ports.progress
        fresh = [ref for ref in refs if ref.sha256 not in self.seen]
        progress.start("verify", total=sum(ref.size for ref in fresh), unit="bytes")
        self._whole.update(
            coverage.intact_artifacts(self.context.artifacts, fresh, on_progress=progress.advance)
        )
        progress.finish(f"{len(fresh)} files")

    def _is_bad(self, ref: ArtifactRef) -> bool:
        """Whether an artifact is to be repaired here: damaged, and not looked at for a build before this."""
        if ref.sha256 in self.seen:
            return False
        self.seen.add(ref.sha256)
        return ref.sha256 not in self._whole

    def _one(self, what: str, ref: ArtifactRef, rebuild: Callable[[], RebuiltArtifact]) -> Iterator[Mend]:
        if not self._is_bad(ref):
            return
        was = self.context.artifacts.damage(ref) or "changed while it was looked at"
        try:
            made = rebuild()
            made.require(what, ref)
            yield self._replace(what, was, ref, made)
        except _FAILURES as error:
            _raise_if_ours(error)
            yield self._failed(what, was, ref, error)

    def _blocks(self, rows: tuple[BlockRow, ...]) -> Iterator[Mend]:
        self._look(tuple(row.ref for row in rows))
        bad = {row.ref.sha256: row for row in rows if self._is_bad(row.ref)}
        made_by = {
            fact.event.block.sha256: fact.event
            for fact in self.context.facts
            if isinstance(fact.event, CellEmbedded)
        }
        groups: dict[tuple[str, str], list[CellEmbedded]] = {}
        for digest, row in bad.items():
            event = made_by.get(digest)
            if event is None:
                was = self.context.artifacts.damage(row.ref) or ""
                error = UnavailableError("no record says how it was made")
                yield self._failed(coverage.block_role(row), was, row.ref, error)
                continue
            groups.setdefault((event.space, event.engine), []).append(event)
        for events in groups.values():
            left = {event.block.sha256: event for event in events}
            try:
                for event, found in rebuild_artifacts.cell_blocks(self.context, events):
                    del left[event.block.sha256]
                    what, was = self._block(event)
                    if isinstance(found, RebuiltArtifact):
                        yield self._replace(what, was, event.block, found)
                    else:
                        yield self._failed(what, was, event.block, found)
            except _FAILURES as error:
                _raise_if_ours(error)
                for event in left.values():
                    yield self._failed(*self._block(event), event.block, error)

    def _block(self, event: CellEmbedded) -> tuple[str, str]:
        what = f"block {event.zoom}/{event.cell_x}/{event.cell_y}"
        return what, self.context.artifacts.damage(event.block) or "changed while it was looked at"

    def _replace(self, what: str, was: str, ref: ArtifactRef, made: RebuiltArtifact) -> Mend:
        layout, artifacts = self.context.store.layout, self.context.artifacts
        path, kept = layout.artifact(ref.sha256), ""
        if os.path.lexists(path):
            try:
                kept = move_to_quarantine(layout, path)
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
        latest = event is not None and _current(self.context.store.state.step_cache, event)
        record_repair(self.context.store, mend, *((event,) if event is not None and latest else ()))
        return mend

    def _failed(self, what: str, was: str, ref: ArtifactRef, error: Exception) -> Mend:
        reason = str(getattr(error, "reason", None) or getattr(error, "message", None) or error)
        root = self.context.store.layout.root
        mend = remedy(root, ref, of_head=self.of_head)
        return Mend(
            what=what, was=was, action=f"not made again: {reason}; {mend}", ok=False, sha256=ref.sha256
        )


def _raise_if_ours(error: Exception) -> None:
    """Raise what would keep every other artifact from being made, too: a full disk, no memory, no open files."""
    if isinstance(error, DiskFullError) or getattr(error, "kind", None) is ErrorKind.RESOURCES:
        raise error


def _current(memo: StepCache, event: Event) -> bool:
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
