"""The cell stage: give every cell of the build a block in the build's vector space.

A cell with the same units (tiles, or chunks of ground) keeps its block. The others are assembled from rows that
any block of this vector space has, and from units that go through the network, each new digest once.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.embed import batcher
from pipeline.embed.batcher import DescriptorBatcher
from pipeline.embed.cells import (
    AssembledCell,
    Cell,
    CellAssembler,
    Row,
    Window,
    plan_windows,
    shared_digests,
)
from pipeline.embed.reusable_rows import ReusableRows
from pipeline.embed.worker import BLANK_TILE
from pipeline.embed.worker_messages import BadImage, EngineSpec, WindowResult
from pipeline.engines.models.model import Model
from pipeline.errors import EmbedError, ErrorKind, TileError
from pipeline.planning.plan import BuildPlan, CellPlan, Decision
from pipeline.progress import Progress
from pipeline.request.options import BadTilePolicy
from pipeline.stages.context import BuildContext
from pipeline.stages.engines.check_network import UNIT_TOLERANCE, length_hint
from pipeline.tiles.chunks import ShownTiles
from pipeline.tiles.retrieval_units import RetrievalUnits, unit_name
from pipeline.tiles.sources.read_tile import SOURCE_CHANGED_HINT
from pipeline.tiles.tile import SourceTile
from store.base.identity import cell_components, cell_key, digest_packed_tiles
from store.base.preprocessing import Preprocessing
from store.base.valueclass import valueclass
from store.disk.artifacts import Artifacts, ref_of
from store.domain.events import CellEmbedded, EngineCompiled, StepRetried, StepStarted
from store.formats import descriptor_block
from store.formats.joined_blocks import read_block
from store.formats.tables import BlockRow

_NAMED_TILES = 20
"""How many bad tiles an error names."""


@valueclass(frozen=True, slots=True, kw_only=True)
class EmbeddedCell:
    """The event that records an embedded cell, and its block; `whole` if every unit has a row."""

    event: CellEmbedded
    data: bytes
    whole: bool


def engine_spec(path: Path, event: EngineCompiled) -> EngineSpec:
    """Return what a worker needs to load the engine file at a path."""
    return EngineSpec(
        path=str(path),
        sha256=event.artifact.sha256,
        backend=event.components["backend"],
        version=event.components["version"],
        input=event.signature["input"],
        output=event.signature["output"],
        batch=event.components["batch"],
        dimensions=event.signature["dimensions"],
        precision=event.components["precision"],
    )


def embed_windows(
    windows: Iterable[Window],
    *,
    batcher: DescriptorBatcher,
    engine: EngineSpec,
    preprocessing: Preprocessing,
    on_bad: Callable[[BadImage], object] = lambda _: None,
    on_answer: Callable[[Window], object] = lambda _: None,
    on_dispatch: batcher.OnDispatch | None = None,
    on_progress: batcher.OnUnits | None = None,
    on_retry: batcher.OnRetry | None = None,
) -> Generator[WindowResult, None, None]:
    """Embed some windows, and yield each answer after checking it.

    `on_bad` is called with each tile or unit that cannot be used, and may raise; `on_answer` with each window
    before its answer is yielded; the others as in `DescriptorBatcher.embed`.

    Raises:
        EmbedError: Workers failed again and again, or the network gives no unit vectors.
    """
    results = batcher.embed(
        windows,
        engine=engine,
        preprocessing=preprocessing,
        on_dispatch=on_dispatch,
        on_progress=on_progress,
        on_retry=on_retry,
    )
    # Closed explicitly: an error's traceback keeps this frame alive, and the workers with it.
    with closing(results):
        for result in results:
            _require_unit_vectors(result)
            for bad in result.bad:
                on_bad(bad)
            on_answer(result.window)
            yield result


def _require_unit_vectors(result: WindowResult) -> None:
    lengths = np.linalg.norm(result.vectors, axis=1)
    wrong = np.flatnonzero(~(np.abs(lengths - 1.0) <= UNIT_TOLERANCE))
    if len(wrong):
        name = unit_name(int(result.units.ids[wrong[0]]))
        what = "chunk" if result.window.shows_chunks else "tile"
        raise EmbedError(
            f"expected descriptors of length 1, found {lengths[wrong[0]]:.6g} for {what} {name}",
            hint=length_hint(float(lengths[wrong[0]])),
            kind=ErrorKind.BAD_VECTORS,
            subject=name,
        )


class _Assembly:
    """Assembles the blocks of cells from known rows and from the answers of workers."""

    def __init__(
        self, cells: Sequence[Cell], shown: ShownTiles, known: ReusableRows, dimensions: int
    ) -> None:
        self._cells, self._known, self._shared = cells, known, shared_digests(cells)
        self._shown = shown
        self._assembler = CellAssembler(dimensions=dimensions, shared=self._shared)
        self._complete = deque[AssembledCell]()

    def windows(self, *, count: int, batch: int) -> Iterator[Window]:
        """Plan the windows of the `count` units that have no row yet."""
        return plan_windows(
            self._added_cells(),
            shown=self._shown,
            known=self._known,
            shared=self._shared,
            count=count,
            batch=batch,
        )

    def _added_cells(self) -> Iterator[Cell]:
        # Each cell is added just before its window is planned, so that few are open at a time.
        for cell in self._cells:
            complete = self._assembler.add(cell, self._known.rows(set(cell.units.hex_digests)))
            self._complete.extend(() if complete is None else (complete,))
            yield cell

    def add_answer(self, result: WindowResult) -> None:
        """Add the rows of a window; a unit without a descriptor gets no row."""
        rows = zip(result.units.hex_digests, result.vectors, result.texture, strict=True)
        for digest, vector, texture in rows:
            self._complete.extend(self._assembler.supply(digest, Row(vector, float(texture))))
        for digest in result.without:
            self._complete.extend(self._assembler.drop(digest))

    def take_complete(self) -> Iterator[AssembledCell]:
        """Remove and yield the cells that are complete."""
        while self._complete:
            yield self._complete.popleft()

    @property
    def pending(self) -> int:
        """How many cells still lack rows."""
        return self._assembler.pending


def embed_cells(
    cells: Sequence[Cell],
    embed: Callable[[Iterable[Window]], Generator[WindowResult, None, None]],
    *,
    shown: ShownTiles,
    space: str,
    engine: EngineSpec,
    known: ReusableRows,
    progress: Progress,
) -> Generator[Iterator[EmbeddedCell], None, None]:
    """Embed cells, and yield for each answered window the cells that it completed.

    A block is encoded only when it is taken, so that few are in memory. A unit that gets no descriptor gets
    no row.

    Args:
        cells: The cells.
        embed: `embed_windows` with all arguments but the windows.
        shown: Finds the tiles that the units show.
        space: The vector space of the cells.
        engine: The engine that embeds them.
        known: The rows of their units that exist in that space.
        progress: Receives progress reports.

    Raises:
        EmbedError: Workers failed again and again, or the network gives no unit vectors.
    """
    progress.start("embed", total=known.missing, unit="chunks" if shown.edges else "tiles")
    assembly = _Assembly(cells, shown, known, engine.dimensions)
    results = embed(assembly.windows(count=known.missing, batch=engine.batch))
    with closing(results):
        for result in results:
            assembly.add_answer(result)
            yield (_embedded(cell, space, engine) for cell in assembly.take_complete())
    yield (_embedded(cell, space, engine) for cell in assembly.take_complete())
    if assembly.pending:
        raise EmbedError(f"expected all cells to be complete, found {assembly.pending} that are not")
    progress.finish()


def _embedded(assembled: AssembledCell, space: str, engine: EngineSpec) -> EmbeddedCell:
    block, units = assembled.block, digest_packed_tiles(assembled.units.packed())
    components, data = cell_components(space=space, tiles=units), descriptor_block.encode(block)
    event = CellEmbedded(
        space=space,
        zoom=block.zoom,
        cell_x=block.cell_x,
        cell_y=block.cell_y,
        key=cell_key(components),
        components=components,
        engine=engine.sha256,
        block=ref_of(data),
        rows=len(block.ids),
        embedded=assembled.embedded,
        copied=assembled.copied,
    )
    return EmbeddedCell(event=event, data=data, whole=len(block.ids) == len(assembled.units))


def prepare_cells(run: BuildContext, plan: BuildPlan) -> list[BlockRow]:
    """Give every cell a block of every network; return the rows of the block table.

    Raises:
        TileError: A tile is damaged or changed, and such tiles are not to be skipped.
        EmbedError: Workers failed again and again, or the network gives no unit vectors.
    """
    run.enter("cells")
    reused = [cell for cell in plan.cells if cell.decision is Decision.REUSE and cell.known is not None]
    known = {(cell.network.spec.name, cell.cell.key): cell.known for cell in reused if cell.known is not None}
    if reused:
        run.counts.copied += sum(event.rows for event in known.values())
        run.reuse("cells", {}, count=len(reused))
    bad: dict[str, str] = {}
    blocks = []
    for model in run.inputs.descriptors:
        name = run.embedding = model.spec.name
        rows = [block_row(event) for (network, _), event in known.items() if network == name]
        stale = [cell for cell in plan.stale if cell.network.spec.name == name]
        if stale:
            rows.extend(_embed_stale(run, model, stale, bad))
        blocks.append(rows)
    units = {tuple(cell.cell.key): len(cell.cell.units) for cell in plan.cells}
    weights = [weight for _, weight in run.inputs.networks]
    return join_rows(blocks, weights, run.store.artifacts, units)


def join_rows(
    blocks: Sequence[Sequence[BlockRow]],
    weights: Sequence[int],
    artifacts: Artifacts,
    units: Mapping[tuple[int, ...], int] | None = None,
) -> list[BlockRow]:
    """Return the rows of the block table of some networks, given those of each network's blocks.

    A cell has no row if one of the networks has no block of it. `units` says how many units a cell has: blocks
    without skipped ones need not be read.

    Raises:
        ArtifactError: A block is missing or damaged.
    """
    first, *others = ({row.cell: row for row in rows} for rows in blocks)
    if not others:
        return [first[cell] for cell in sorted(first)]
    joined = []
    for cell in sorted(set(first).intersection(*others)):
        rows = [first[cell], *(each[cell] for each in others)]
        row = replace(rows[0], further=tuple(each.ref for each in rows[1:]), weights=tuple(weights))
        if units is None or any(each.rows != units[cell] for each in rows):
            row = replace(row, rows=read_block(row, artifacts.read).rows)
        joined.append(row)
    return joined


def _embed_stale(
    run: BuildContext, model: Model, plans: Sequence[CellPlan], bad: dict[str, str]
) -> list[BlockRow]:
    """Embed cells with a network; store and record those that a window completes together."""
    space, preprocessing = plans[0].components["space"], model.preprocessing
    if preprocessing is None:
        raise AssertionError("a descriptor network has an image contract")
    embedder, found = run.embedder(model), len(bad)
    engine = engine_spec(run.store.layout.artifact(embedder.artifact.sha256), embedder)
    embed = partial(
        embed_windows,
        batcher=run.batcher,
        engine=engine,
        preprocessing=preprocessing,
        on_bad=partial(_note_bad_tile, run, bad),
        on_answer=lambda window: run.windows.pop(window.number, None),
        on_dispatch=partial(_record_dispatch, run, space),
        on_progress=run.ports.progress.advance,
        on_retry=partial(_record_retry, run),
    )
    answered = embed_cells(
        [plan.cell for plan in plans],
        embed,
        shown=run.inputs.selection.shown_tiles(),
        space=space,
        engine=engine,
        known=ReusableRows(
            run.store.artifacts,
            run.store.state.step_cache.blocks_in(space),
            RetrievalUnits.joined(plan.cell.units for plan in plans).digests,
        ),
        progress=run.ports.progress,
    )
    rows: list[BlockRow] = []
    fails = run.inputs.request.tiles.on_bad is BadTilePolicy.FAIL
    with closing(answered):
        for cells in answered:
            for made in cells:
                if fails and not made.whole:
                    continue
                run.put(made.data)
                run.counts.embedded += made.event.embedded
                run.counts.copied += made.event.copied
                run.defer(made.event)
                rows.append(block_row(made.event))
            run.append()
    if len(bad) > max(found, _NAMED_TILES):
        what = "bad" if fails else "skipped"
        run.ports.progress.say(f"{what} are {len(bad)} different tiles, of which {_NAMED_TILES} are named")
    if fails and bad:
        raise _bad_tiles(bad, run.inputs.selection.tiles)
    return rows


def _record_dispatch(run: BuildContext, space: str, window: Window) -> None:
    run.windows[window.number] = window
    run.append(StepStarted(kind="cells", subjects=window.subjects, key=space))


def _record_retry(run: BuildContext, retry: batcher.Retry) -> None:
    subjects = retry.window.subjects if retry.window else ()
    run.append(StepRetried(kind="cells", subjects=subjects, attempt=retry.attempt, why=retry.why))
    run.ports.progress.say(f"a worker failed ({retry.why}); going on with {retry.workers}")


def _note_bad_tile(run: BuildContext, found: dict[str, str], bad: BadImage) -> None:
    """Note a tile that cannot be decoded, by its digest; the build goes on, to find all of them in one run.

    Windows of chunks overlap, so that it may be found more than once.

    Raises:
        EmbedError, TileError: Something else is wrong, and going on would be of no use.
    """
    place = bad.name
    failing = run.inputs.request.tiles.on_bad is BadTilePolicy.FAIL
    blank = bad.message == BLANK_TILE
    if bad.kind == ErrorKind.BAD_VECTORS and (failing or not blank):
        hint = 'set tiles.on_bad = "skip", or leave the tile out' if blank else "check the network"
        raise EmbedError(bad.message, hint=hint, kind=ErrorKind.BAD_VECTORS, subject=place)
    if bad.kind not in {ErrorKind.BAD_TILE, ErrorKind.BAD_VECTORS}:
        message = f"tile {place}: {bad.message}"
        raise TileError(message, hint=SOURCE_CHANGED_HINT, kind=ErrorKind(bad.kind), subject=place)
    if bad.sha256 in found:
        return
    found[bad.sha256] = bad.message
    what = "bad" if failing else "skipped"
    if len(found) <= _NAMED_TILES:
        run.ports.progress.say(f"{what} tile {place}: {bad.message}")


def _bad_tiles(messages: Mapping[str, str], tiles: Iterable[SourceTile]) -> TileError:
    """Return the error that names the tiles that cannot be decoded; several may have the same bytes."""
    found = sorted((tile.place, tile.sha256) for tile in tiles if tile.sha256 in messages)
    first, digest = found[0]
    message = f"tile {first}: {messages[digest]}"
    if len(found) > 1:
        named = ", ".join(str(place) for place, _ in found[1:_NAMED_TILES])
        message += f"; bad are {len(found)} tiles, also {named}{', …' if len(found) > _NAMED_TILES else ''}"
    hint = f'replace the tile{"s" if len(found) > 1 else ""}, or set tiles.on_bad = "skip"'
    return TileError(message, hint=hint, kind=ErrorKind.BAD_TILE, subject=str(first))


def block_row(event: CellEmbedded) -> BlockRow:
    """Return the row of a block in the block table."""
    return BlockRow(
        zoom=event.zoom, cell_x=event.cell_x, cell_y=event.cell_y, rows=event.rows, ref=event.block
    )
