"""Rebuild the artifacts of a committed build, each by the step that made it.

Calibration, tile table, engines, blocks and geographic report need the build's inputs, which its start
recorded. Block table and index need only the journal and the other artifacts. The caller stores a result only
if its digest is the committed one.
"""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

from pipeline.embed.batcher import DescriptorBatcher
from pipeline.embed.cells import Cell, CellKey, group_cells
from pipeline.embed.reusable_rows import ReusableRows
from pipeline.planning.recorded_inputs import RecordedInputs, UnavailableError, last_event
from pipeline.progress import megabytes
from pipeline.stages.embed import EmbeddedCell, block_row, embed_cells, embed_windows, engine_spec, join_rows
from pipeline.stages.engines.compile import compile_network
from pipeline.stages.engines.compile_progress import CompileProgress
from pipeline.stages.engines.stand_in import golden_answers
from pipeline.stages.survey import survey_selection
from pipeline.tiles.chunks import units_of_table
from pipeline.tiles.retrieval_units import RetrievalUnits
from store.base.identity import ONE_PPM, cell_components, cell_key, digest_packed_tiles, spaces_of_index
from store.base.valueclass import valueclass
from store.base.values import ArtifactRef
from store.cache.writer import CacheWriter
from store.disk.artifacts import Artifacts
from store.domain.events import (
    CellEmbedded,
    EngineCompiled,
    Event,
    Index,
    IndexBuilt,
    IndexExtended,
    StepStarted,
)
from store.domain.state import RecordedEvent
from store.formats.tables import BlockRow, decode_tiles, encode_blocks


@valueclass(frozen=True, slots=True, kw_only=True)
class RebuildContext:
    """What all functions that rebuild an artifact need.

    `store` is open for writing, `history` has all events of the journal, `scratch` is outside of the cache.
    """

    store: CacheWriter
    history: Sequence[RecordedEvent]
    inputs: RecordedInputs
    batcher: DescriptorBatcher
    scratch: Path

    @property
    def artifacts(self) -> Artifacts:
        """Where artifacts are."""
        return self.store.artifacts

    def begin(self, kind: str, subjects: tuple[str, ...], key: str) -> None:
        """Record that a step starts again."""
        self.store.append(StepStarted(kind=kind, subjects=subjects, key=key), build=None)


@valueclass(frozen=True, slots=True, kw_only=True)
class RebuiltArtifact:
    """The result of a step that ran again.

    Attributes:
        data: The bytes.
        event: The step's result, if later builds may reuse it.
        note: Why the bytes may differ from the committed ones.
    """

    data: bytes
    event: Event | None = None
    note: str = ""

    def require(self, what: str, expected: ArtifactRef) -> None:
        """Raise `UnavailableError` if the bytes are not the committed ones."""
        found = hashlib.sha256(self.data).hexdigest()
        if found != expected.sha256:
            raise UnavailableError(
                f"{what}{self.note}: expected SHA-256 {expected.sha256[:12]} again, found {found[:12]}"
            )


def rebuild_engine(context: RebuildContext, event: EngineCompiled) -> RebuiltArtifact:
    """Compile a network again."""
    model, compiler = context.inputs.model(event), context.inputs.compiler(event)
    context.begin("engine", (event.model,), event.key)
    progress, host = context.inputs.ports.progress, context.inputs.ports.host
    on_progress = CompileProgress.started(progress, event.model)
    made = compile_network(model, compiler, scratch=context.scratch, host=host, on_progress=on_progress)
    progress.finish(megabytes(len(made.engine)))
    version, here = event.components["version"], compiler.version
    return RebuiltArtifact(
        data=made.engine,
        event=replace(event, elapsed_ms=made.event.elapsed_ms, log=made.event.log, host=made.event.host),
        note="" if here == version else f" (made by {compiler.backend} {version}, here is {here})",
    )


def rebuild_fitted_network(context: RebuildContext, event: EngineCompiled) -> RebuiltArtifact:
    """Fit the head of a network again."""
    model = context.inputs.model(event)
    return RebuiltArtifact(data=model.fitted, note=" (another processor or library may give other bytes)")


def rebuild_golden_answers(context: RebuildContext, event: EngineCompiled) -> RebuiltArtifact:
    """Run a stand-in on the golden images again."""
    return RebuiltArtifact(data=golden_answers(context.artifacts, context.inputs.model(event), event))


def rebuild_tile_table(inputs: RecordedInputs) -> RebuiltArtifact:
    """Select the tiles again."""
    return RebuiltArtifact(
        data=inputs.tiles().encoded(), note=" (digests are the same, capture dates may not be)"
    )


def rebuild_area_report(context: RebuildContext, rows: Sequence[BlockRow]) -> RebuiltArtifact:
    """Report on the area again."""
    found = survey_selection(context.inputs.tiles(), rows, context.artifacts)
    return RebuiltArtifact(data=found.encoded())


def rebuild_block_table(context: RebuildContext, tiles: ArtifactRef, index: Index) -> RebuiltArtifact:
    """List the blocks of the build again: for each cell of its tile table the last block before its index."""
    networks = index.components.get("networks", [{"weight_ppm": ONE_PPM}])
    blocks = [
        [*map(block_row, _blocks_in(context, tiles, index, space))]
        for space in spaces_of_index(index.components)
    ]
    rows = join_rows(blocks, [each["weight_ppm"] for each in networks], context.artifacts)
    return RebuiltArtifact(data=encode_blocks(rows))


def _blocks_in(
    context: RebuildContext, tiles: ArtifactRef, index: Index, space: str
) -> Collection[CellEmbedded]:
    """Return the blocks of a vector space that an index was built from."""
    cells: dict[tuple[str, int, int, int], CellEmbedded] = {}
    wanted = _cell_keys(context, tiles, space)
    for entry in context.history:
        match entry.event:
            case CellEmbedded(space=of, key=key) as event if of == space and key in wanted:
                cells[key, event.zoom, event.cell_x, event.cell_y] = event
            case IndexBuilt(blocks=table) | IndexExtended(blocks=table) if table == index.blocks:
                break
            case _:
                pass
    if len(cells) != len(wanted):
        raise UnavailableError(
            f"block table: expected a block of {len(wanted)} cells in the journal, found {len(cells)}"
        )
    return cells.values()


def rebuild_blocks(
    context: RebuildContext, events: Sequence[CellEmbedded]
) -> Iterator[tuple[CellEmbedded, RebuiltArtifact | UnavailableError]]:
    """Embed cells again: first with rows from other blocks, and where the bytes differ, without them.

    Args:
        context: The cache and the recorded inputs.
        events: The events of the cells, all of one vector space and one engine.
    """
    cells: dict[CellKey, tuple[CellEmbedded, Cell]] = {}
    for event in events:
        key = CellKey(event.zoom, event.cell_x, event.cell_y)
        try:
            cells[key] = event, context.inputs.cell(key, space=event.space, step_key=event.key)
        except UnavailableError as error:
            yield event, error
    damaged, space = {event.block.sha256 for event in events}, events[0].space
    blocks = context.store.state.step_cache.blocks_in(space)
    for known in ([found for found in blocks if found.block.sha256 not in damaged], []):
        if not cells:
            return
        context.begin("cells", tuple(map(str, cells)), space)
        for made in _embed_again(context, events[0], [cell for _, cell in cells.values()], known):
            key = CellKey(made.event.zoom, made.event.cell_x, made.event.cell_y)
            event, found = cells[key][0], RebuiltArtifact(data=made.data, event=made.event)
            try:
                found.require(f"block {key}", event.block)
            except UnavailableError as error:
                if not known:
                    del cells[key]
                    yield event, error
            else:
                del cells[key]
                yield event, found


def _embed_again(
    context: RebuildContext,
    like: CellEmbedded,
    cells: Sequence[Cell],
    others: Sequence[CellEmbedded],
) -> list[EmbeddedCell]:
    engine = engine_spec(context.store.layout.artifact(like.engine), _engine_of(context, like))
    progress = context.inputs.ports.progress
    # A tile without a descriptor may have been skipped then, too; the digest of the block decides.
    embed = partial(
        embed_windows,
        batcher=context.batcher,
        engine=engine,
        preprocessing=context.inputs.preprocessing(space=like.space),
        on_progress=progress.advance,
    )
    known = ReusableRows(
        context.artifacts, others, RetrievalUnits.joined(cell.units for cell in cells).digests
    )
    answered = embed_cells(
        cells,
        embed,
        shown=context.inputs.shown_tiles(),
        space=like.space,
        engine=engine,
        known=known,
        progress=progress,
    )
    with closing(answered):
        return [made for completed in answered for made in completed]


def _engine_of(context: RebuildContext, cell: CellEmbedded) -> EngineCompiled:
    """Return the engine that embedded a cell; it must be intact on disk."""
    event = last_event(context.history, EngineCompiled, lambda made: made.artifact.sha256 == cell.engine)
    if event is None:
        raise UnavailableError(
            f"expected engine {cell.engine[:12]}, which embeds them, in the journal, found none"
        )
    damage = context.artifacts.damage(event.artifact)
    if damage is not None:
        raise UnavailableError(f"engine {event.model} {cell.engine[:12]}, which embeds them: {damage}")
    return event


def _cell_keys(context: RebuildContext, tiles: ArtifactRef, space: str) -> set[str]:
    """Return the step keys of the cells of a tile table."""
    inputs = context.inputs.build.inputs
    units = units_of_table(decode_tiles(context.artifacts.read(tiles)), inputs, context.inputs.area)
    return {
        cell_key(cell_components(space=space, tiles=digest_packed_tiles(cell.units.packed())))
        for cell in group_cells(units)
    }
