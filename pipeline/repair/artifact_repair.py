"""Repair the artifacts of one build: run the step of each damaged one again.

A rebuilt artifact is stored only if its bytes are the same as before. Damaged bytes are kept in
`quarantine/`.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Final

from pipeline.embed.cells import CellKey
from pipeline.errors import PipelineError
from pipeline.planning.recorded_inputs import UnavailableError
from pipeline.progress import file_count
from pipeline.repair import rebuild_artifacts, rebuild_index, rebuild_packs
from pipeline.repair.rebuild_artifacts import RebuildContext, RebuiltArtifact
from pipeline.repair.rebuild_proof import rebuild_proof
from pipeline.repair.report import RepairAction, repair_hint
from store.base.values import ArtifactRef
from store.cache.writer import CacheWriter
from store.disk.quarantine import move_to_quarantine
from store.domain.attachments import GOLDEN, NETWORK, attached
from store.domain.events import CellEmbedded, EngineCompiled, Event, Index, IndexBuilt, IndexExtended
from store.domain.index_files import whole_of
from store.domain.maintenance_events import Repaired
from store.domain.step_cache import StepCache
from store.errors import ArtifactError, DiskFullError, ErrorKind, StoreError, TranslateOSErrors
from store.formats.tables import BlockRow, decode_blocks, decode_packs
from store.manifest.manifest import Manifest
from store.manifest.roles import AREA, DELTA, PACKS, PROOF, WHOLE, golden_role
from store.verify import coverage

_FAILURES = (UnavailableError, PipelineError, StoreError, ValueError)
"""Errors of rebuilding one artifact, after which the others are still repaired."""


def record_repair(store: CacheWriter, action: RepairAction, *results: Event) -> None:
    """Record a successful repair, and the results of the steps that ran again for it."""
    if action.ok:
        repaired = Repaired(
            subject=action.what, sha256=action.sha256, action=action.action, quarantine=action.quarantine
        )
        store.append(*results, repaired, build=None)


_WORTH_A_LINE: Final = 1 << 26
"""Least bytes to hash whose progress is shown: there may be hundreds of generations with little that is new."""


@dataclass(slots=True, kw_only=True)
class ArtifactRepair:
    """Repairs the artifacts of one build.

    Attributes:
        context: The cache, the recorded inputs and the ports.
        manifest: The manifest of the build.
        seen: Digests of artifacts that were checked, for this build or another.
        of_head: Whether the head shows this build.
    """

    context: RebuildContext
    manifest: Manifest
    seen: set[str]
    of_head: bool
    _intact: set[str] = field(default_factory=set, init=False)

    def repair(self) -> Iterator[RepairAction]:
        """Repair damaged artifacts, each after those that it is made from."""
        context, manifest, inputs = self.context, self.manifest, self.context.inputs
        self._check(tuple(ref for _, ref in manifest.artifacts()))
        yield from self._repair(
            "calibration", manifest.calibration, lambda: RebuiltArtifact(data=inputs.calibration())
        )
        if manifest.area is not None:
            yield from self._repair(
                AREA, manifest.area, lambda: RebuiltArtifact(data=inputs.area_read_again().encoded or b"")
            )
        yield from self._repair(
            "tile table", manifest.tiles, lambda: rebuild_artifacts.rebuild_tile_table(inputs)
        )
        for name, event in inputs.build.engines:
            yield from self._repair_fitted_network(name, event)
            yield from self._repair(
                f"engine {name}", event.artifact, partial(rebuild_artifacts.rebuild_engine, context, event)
            )
        for name, event in inputs.build.stand_ins:
            yield from self._repair_stand_in(name, event)
        index = inputs.build.index
        if index is None:
            return
        table = partial(rebuild_artifacts.rebuild_block_table, context, manifest.tiles, index)
        yield from self._repair("block table", index.blocks, table)
        try:
            rows = decode_blocks(context.artifacts.read(index.blocks))
        except ArtifactError:
            return
        yield from self._repair_blocks(rows)
        yield from self._repair_index(index)
        report = partial(rebuild_artifacts.rebuild_area_report, context, rows)
        yield from self._repair("geographic report", manifest.geography, report)
        if manifest.carried is not None:
            yield from self._repair_packs(manifest.carried.packs, rows)
        if manifest.proof is not None:
            yield from self._repair(PROOF, manifest.proof, partial(rebuild_proof, context))

    def _repair_index(self, index: Index) -> Iterator[RepairAction]:
        """Repair the delta and the file that faiss wrote; neither needs the other."""
        if isinstance(index, IndexExtended):
            delta = partial(rebuild_index.rebuild_delta, self.context, index)
            yield from self._repair(DELTA, index.artifact, delta)
        whole = partial(rebuild_index.rebuild_file, self.context, index)
        yield from self._repair(WHOLE, whole_of(index), whole)

    def _repair_fitted_network(self, name: str, event: EngineCompiled) -> Iterator[RepairAction]:
        """Repair the file of a network whose head was fitted on the area; its engine is made from it."""
        ref = attached(event).get(NETWORK)
        if ref is not None:
            self._check((ref,))
            rebuild = partial(rebuild_artifacts.rebuild_fitted_network, self.context, event)
            yield from self._repair(f"network with fitted head {name}", ref, rebuild)

    def _repair_stand_in(self, name: str, event: EngineCompiled) -> Iterator[RepairAction]:
        """Repair a stand-in engine and its golden answers."""
        self._check((event.artifact,))
        compiled = partial(rebuild_artifacts.rebuild_engine, self.context, event)
        yield from self._repair(f"stand-in engine {event.model}", event.artifact, compiled)
        golden = attached(event).get(GOLDEN)
        if golden is not None:
            yield from self._repair(
                golden_role(name, alone=len(self.manifest.descriptor_engines) == 1),
                golden,
                partial(rebuild_artifacts.rebuild_golden_answers, self.context, event),
            )

    def _check(self, refs: tuple[ArtifactRef, ...]) -> None:
        progress = self.context.inputs.ports.progress
        fresh = [ref for ref in refs if ref.sha256 not in self.seen]
        size = sum(ref.size for ref in fresh)
        shown = size >= _WORTH_A_LINE
        if shown:
            progress.start("verify", total=size, unit="bytes")
        on_progress = progress.advance if shown else None
        self._intact.update(coverage.intact_artifacts(self.context.artifacts, fresh, on_progress=on_progress))
        if shown:
            progress.finish(file_count(len(fresh)))

    def _needs_repair(self, ref: ArtifactRef) -> bool:
        """Say whether an artifact is damaged and was not handled for another build already."""
        if ref.sha256 in self.seen:
            return False
        self.seen.add(ref.sha256)
        return ref.sha256 not in self._intact

    def _repair(
        self, what: str, ref: ArtifactRef, rebuild: Callable[[], RebuiltArtifact]
    ) -> Iterator[RepairAction]:
        if not self._needs_repair(ref):
            return
        was = self.context.artifacts.damage(ref) or "changed while it was checked"
        try:
            made = rebuild()
            made.require(what, ref)
            yield self._replace(what, was, ref, made)
        except _FAILURES as error:
            _raise_shortage(error)
            yield self._failure(what, was, ref, error)

    def _repair_blocks(self, rows: tuple[BlockRow, ...]) -> Iterator[RepairAction]:
        listed = [found for row in rows for found in row.files("block")]
        self._check(tuple(ref for _, ref in listed))
        bad = {ref.sha256: (role, ref) for role, ref in listed if self._needs_repair(ref)}
        made_by = {
            entry.event.block.sha256: entry.event
            for entry in self.context.history
            if isinstance(entry.event, CellEmbedded)
        }
        groups: dict[tuple[str, str], list[CellEmbedded]] = {}
        for digest, (role, ref) in bad.items():
            event = made_by.get(digest)
            if event is None:
                was = self.context.artifacts.damage(ref) or ""
                error = UnavailableError("no record says how it was made")
                yield self._failure(role, was, ref, error)
                continue
            groups.setdefault((event.space, event.engine), []).append(event)
        for events in groups.values():
            left = {event.block.sha256: event for event in events}
            try:
                for event, found in rebuild_artifacts.rebuild_blocks(self.context, events):
                    del left[event.block.sha256]
                    what, was = self._describe_block(event)
                    if isinstance(found, RebuiltArtifact):
                        yield self._replace(what, was, event.block, found)
                    else:
                        yield self._failure(what, was, event.block, found)
            except _FAILURES as error:
                _raise_shortage(error)
                for event in left.values():
                    yield self._failure(*self._describe_block(event), event.block, error)

    def _repair_packs(self, table: ArtifactRef, blocks: tuple[BlockRow, ...]) -> Iterator[RepairAction]:
        """Repair the table of the packs, then the packs; without the blocks nobody knows what is in them."""
        context, tiles = self.context, self.manifest.tiles
        cells = cache(partial(rebuild_packs.carried_by, context, tiles, blocks))
        yield from self._repair(
            PACKS, table, lambda: rebuild_packs.rebuild_pack_table(context, tuple(cells().values()))
        )
        try:
            rows = decode_packs(context.artifacts.read(table))
        except ArtifactError:
            return
        self._check(tuple(row.ref for row in rows))
        for row in rows:
            place = CellKey(row.zoom, row.cell_x, row.cell_y)
            made = partial(rebuild_packs.rebuild_pack, context, place, cells)
            for role, ref in row.files("pack"):
                yield from self._repair(role, ref, made)

    def _describe_block(self, event: CellEmbedded) -> tuple[str, str]:
        what = f"block {event.zoom}/{event.cell_x}/{event.cell_y}"
        return what, self.context.artifacts.damage(event.block) or "changed while it was checked"

    def _replace(self, what: str, was: str, ref: ArtifactRef, made: RebuiltArtifact) -> RepairAction:
        layout, artifacts = self.context.store.layout, self.context.artifacts
        path, kept = layout.artifact(ref.sha256), ""
        if os.path.lexists(path):
            with TranslateOSErrors(f"artifact {ref.sha256}"):
                kept = move_to_quarantine(layout, path)
        artifacts.put(made.data)
        action = RepairAction(
            what=what,
            was=was,
            action="made again, the same bytes",
            ok=True,
            sha256=ref.sha256,
            quarantine=kept,
        )
        event = made.event
        # A result that was replaced, or failed a check since, must not become the latest again.
        latest = event is not None and _is_latest(self.context.store.state.step_cache, event)
        record_repair(self.context.store, action, *((event,) if event is not None and latest else ()))
        return action

    def _failure(self, what: str, was: str, ref: ArtifactRef, error: Exception) -> RepairAction:
        reason = str(getattr(error, "reason", None) or getattr(error, "message", None) or error)
        root = self.context.store.layout.root
        hint = repair_hint(root, ref, of_head=self.of_head)
        return RepairAction(
            what=what, was=was, action=f"not made again: {reason}; {hint}", ok=False, sha256=ref.sha256
        )


def _raise_shortage(error: Exception) -> None:
    """Raise an error that affects all artifacts: a full disk, no memory, no open files."""
    if isinstance(error, DiskFullError) or getattr(error, "kind", None) is ErrorKind.RESOURCES:
        raise error


def _is_latest(steps: StepCache, event: Event) -> bool:
    match event:
        case EngineCompiled(key=key, artifact=artifact):
            known = steps.engines.get(key)
            return known is not None and known.artifact == artifact
        case IndexBuilt(key=key, artifact=artifact) | IndexExtended(key=key, artifact=artifact):
            index = steps.indexes.get(key)
            return index is not None and index.artifact == artifact
        case CellEmbedded(space=space, zoom=zoom, cell_x=x, cell_y=y, block=block):
            return any(known.block == block for known in steps.blocks_of((space, zoom, x, y)))
        case _:
            return False
