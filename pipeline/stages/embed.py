"""The cell stage: every cell of the build has a block in the build's vector space.

Cells whose tiles are the same keep their block. The others are put together from rows that exist in this
vector space, whatever block they are in, and from tiles that go through the network: each new digest once.
"""

from collections.abc import Iterator
from contextlib import closing

import numpy as np

from pipeline.embed.batcher import BadTile, EngineSpec, Retry, WindowResult
from pipeline.embed.cells import (
    AssembledCell,
    Cell,
    CellAssembler,
    CellKey,
    Row,
    Window,
    plan_windows,
    shared_digests,
)
from pipeline.embed.reusable_rows import KnownRows
from pipeline.errors import EmbedError, ErrorKind, TileError
from pipeline.planning.plan import BuildPlan, CellPlan, Decision
from pipeline.request.request import BadTilePolicy
from pipeline.stages.context import Run
from pipeline.tiles.sources.read_tile import REST
from store.disk.layout import Layout
from store.domain.events import CellEmbedded, EngineCompiled, StepRetried, StepReused, StepStarted
from store.formats import descriptor_block
from store.formats.tables import BlockRow

NORM_TOLERANCE = 1e-3
"""How far a descriptor's length may be from 1."""


def embed_cells(run: Run, plan: BuildPlan) -> list[BlockRow]:
    """Make sure that every cell has a block; returns the rows of the block table.

    Raises:
        TileError: A tile is damaged or changed, and such tiles are not to be skipped.
        EmbedError: Workers failed again and again, or the network gives no unit vectors.
    """
    run.enter("cells")
    reused = [cell for cell in plan.cells if cell.decision is Decision.REUSE and cell.known is not None]
    rows = [block_row(cell.known) for cell in reused if cell.known is not None]
    if reused:
        run.append(StepReused(kind="cells", count=len(reused), keys={}))
        run.counts.reused += len(reused)
    if plan.stale:
        rows.extend(_Stage(run, plan.stale).work())
    return sorted(rows, key=lambda row: (row.zoom, row.cell_x, row.cell_y))


def engine_spec(layout: Layout, event: EngineCompiled) -> EngineSpec:
    """Return what a worker needs to load an engine."""
    return EngineSpec(
        path=str(layout.artifact(event.artifact.sha256)),
        sha256=event.artifact.sha256,
        backend=event.components["backend"],
        version=event.components["version"],
        input=event.signature["input"],
        output=event.signature["output"],
        batch=event.components["batch"],
        dimensions=event.signature["dimensions"],
        precision=event.components["precision"],
    )


class _Stage:
    """The putting together of stale cells, from planning windows to journaling blocks."""

    def __init__(self, run: Run, plans: tuple[CellPlan, ...]) -> None:
        self._run = run
        self._plans = {plan.cell.key: plan for plan in plans}
        self._cells = [plan.cell for plan in plans]
        space = run.inputs.space
        self._known = KnownRows(run.store.artifacts, run.store.state.memo.blocks_in(space))
        self._engine = run.embedder
        self._shared = shared_digests(self._cells)
        self._assembler = CellAssembler(dimensions=self._engine.signature["dimensions"], shared=self._shared)
        self._ready: list[AssembledCell] = []
        self._rows: list[BlockRow] = []

    def work(self) -> list[BlockRow]:
        run, preprocessing = self._run, self._run.inputs.descriptor.preprocessing
        if preprocessing is None:
            raise AssertionError("the descriptor network has an image contract")
        digests = {tile.sha256 for cell in self._cells for tile in cell.tiles}
        run.ports.progress.start(
            "embed", total=sum(digest not in self._known for digest in digests), unit="tiles"
        )
        results = run.ports.batcher.embed(
            plan_windows(self._feed(), known=self._known, shared=self._shared),
            engine=engine_spec(run.store.layout, self._engine),
            preprocessing=preprocessing,
            on_dispatch=self._dispatched,
            on_progress=run.ports.progress.advance,
            on_retry=self._retried,
        )
        # Closed at once: an error keeps this frame alive, and would keep the workers with it.
        with closing(results):
            for result in results:
                self._take(result)
                self._store()
                run.append()
        self._store()
        if self._assembler.pending:
            raise EmbedError(
                f"expected all cells to be complete, found {self._assembler.pending} that are not"
            )
        run.append()
        run.ports.progress.finish()
        return self._rows

    def _feed(self) -> Iterator[Cell]:
        """Hand each cell to the assembler just before its window is planned, so that few are under way."""
        for cell in self._cells:
            complete = self._assembler.add(cell, self._known.rows({tile.sha256 for tile in cell.tiles}))
            if complete is not None:
                self._ready.append(complete)
            yield cell

    def _dispatched(self, window: Window) -> None:
        self._run.windows[window.number] = window
        self._run.append(StepStarted(kind="cells", subjects=window.subjects, key=self._run.inputs.space))

    def _retried(self, retry: Retry) -> None:
        subjects = retry.window.subjects if retry.window else ()
        self._run.append(StepRetried(kind="cells", subjects=subjects, attempt=retry.attempt, why=retry.why))
        self._run.ports.progress.say(f"a worker failed ({retry.why}); going on with {retry.workers}")

    def _take(self, result: WindowResult) -> None:
        lengths = np.linalg.norm(result.vectors, axis=1)
        wrong = np.flatnonzero(~(np.abs(lengths - 1.0) <= NORM_TOLERANCE))
        if len(wrong):
            place = str(result.tiles[int(wrong[0])].place)
            raise EmbedError(
                f"expected descriptors of length 1, found {lengths[wrong[0]]:.6g} for tile {place}",
                hint="end the network with an L2 normalisation",
                kind=ErrorKind.BAD_VECTORS,
                subject=place,
            )
        for tile, vector, texture in zip(result.tiles, result.vectors, result.texture, strict=True):
            self._ready.extend(self._assembler.supply(tile.sha256, Row(vector, float(texture))))
        for bad in result.bad:
            self._refuse_or_skip(bad)
        self._run.windows.pop(result.window.number, None)

    def _refuse_or_skip(self, bad: BadTile) -> None:
        place = str(bad.tile.place)
        if bad.kind == ErrorKind.BAD_VECTORS:
            raise EmbedError(bad.message, hint="check the network", kind=ErrorKind.BAD_VECTORS, subject=place)
        if bad.kind != ErrorKind.BAD_TILE or self._run.inputs.request.tiles.on_bad is BadTilePolicy.FAIL:
            hint = 'replace the tile, or set tiles.on_bad = "skip"'
            if bad.kind != ErrorKind.BAD_TILE:
                hint = REST
            raise TileError(
                f"tile {place}: {bad.message}", hint=hint, kind=ErrorKind(bad.kind), subject=place
            )
        self._run.ports.progress.say(f"skipped tile {place}: {bad.message}")
        self._ready.extend(self._assembler.drop(bad.tile.sha256))

    def _store(self) -> None:
        ready, self._ready = self._ready, []
        for assembled in ready:
            block = assembled.block
            plan = self._plans[CellKey(block.zoom, block.cell_x, block.cell_y)]
            event = CellEmbedded(
                space=self._run.inputs.space,
                zoom=block.zoom,
                cell_x=block.cell_x,
                cell_y=block.cell_y,
                key=plan.key,
                components=plan.components,
                engine=self._engine.artifact.sha256,
                block=self._run.put(descriptor_block.encode(block)),
                rows=len(block.ids),
                embedded=assembled.embedded,
                copied=assembled.copied,
            )
            self._run.counts.embedded += assembled.embedded
            self._run.put_off(event)
            self._rows.append(block_row(event))


def block_row(event: CellEmbedded) -> BlockRow:
    """Return the row of a block in the block table."""
    return BlockRow(
        zoom=event.zoom, cell_x=event.cell_x, cell_y=event.cell_y, rows=event.rows, ref=event.block
    )
