"""The index of the head, extended by what changed since: a changed tile does not cost a whole index.

What changed is found by cells: those whose block is the one of the head hold what they held then. The delta is always the
one to the file that faiss wrote, so that the tenth change does not stand on nine others; where too much has changed, a new
file is due, and takes the place of both.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from time import monotonic

import numpy as np

from pipeline.index.plan import IndexPlan, extends, most_changed
from pipeline.stages.context import Run
from store.base.canonical_json import Document
from store.base.identity import extended_index_components, index_key
from store.base.values import ArtifactRef
from store.disk.artifacts import Artifacts
from store.domain.events import Index, IndexExtended, StepStarted
from store.domain.index_files import delta_of, whole_of
from store.errors import ArtifactError
from store.formats import descriptor_block
from store.formats.descriptor_block import Block, BlockError
from store.formats.index_delta import (
    CellName,
    Delta,
    DeltaError,
    Rows,
    decode,
    difference,
    encode,
    joined,
    nothing,
    rows_of,
    undone,
)
from store.formats.tables import BlockRow, decode_blocks

_Cells = Mapping[CellName, BlockRow]


def extended_index(
    run: Run, rows: Sequence[BlockRow], plan: IndexPlan, whole: Document, table: ArtifactRef
) -> tuple[Index, bool] | None:
    """Extend the index that the head shows, where that pays.

    Args:
        run: The build.
        rows: The blocks of all its cells.
        plan: The index that it wants.
        whole: Components of the key of that index, if it were written anew.
        table: The block table of `rows`.

    Returns:
        The index, and whether it was known already; nothing if a new one is due.
    """
    build = run.store.state.head_build
    head = None if build is None else build.index
    count = sum(row.rows for row in rows)
    if head is None or not run.inputs.request.index.delta or not extends(plan, count, head.components, whole):
        return None
    base = whole_of(head)
    if not _is_whole(run, base):
        _say_why(run, head, "what faiss wrote of it is missing or damaged")
        return None
    components = extended_index_components(whole, base=base.sha256)
    known = run.store.state.memo.indexes.get(index_key(components))
    if known is not None and _is_whole(run, known.artifact):
        return known, True
    began = monotonic()
    delta = _delta(run, head, rows, most=most_changed(plan, count, head.dimensions))
    if delta is None:
        return None
    # Not before it is known that there is something to do: a step that is begun ends, or was cut.
    run.append(StepStarted(kind="index", subjects=(), key=index_key(components)))
    event = _event(components, head, delta, count, artifact=run.put(encode(delta)), table=table, began=began)
    run.append(event)
    return event, False


def _say_why(run: Run, head: Index, why: str) -> None:
    """Say that a new index is written where an extended one was to be expected: somebody wants to know what is damaged."""
    run.ports.progress.say(
        f"a new index is written: the {head.kind} index of the head cannot be extended, {why}; c10 verify --full names it"
    )


def _is_whole(run: Run, ref: ArtifactRef) -> bool:
    if ref.sha256 not in run.hashed and run.store.artifacts.damage(ref) is not None:
        return False
    run.hashed.add(ref.sha256)
    return True


def _event(
    components: Document,
    head: Index,
    delta: Delta,
    rows: int,
    *,
    artifact: ArtifactRef,
    table: ArtifactRef,
    began: float,
) -> IndexExtended:
    return IndexExtended(
        key=index_key(components),
        components=components,
        artifact=artifact,
        base=whole_of(head),
        blocks=table,
        kind=head.kind,
        metric=head.metric,
        dimensions=head.dimensions,
        rows=rows,
        added=len(delta.added),
        dropped=len(delta.dropped),
        elapsed_ms=round((monotonic() - began) * 1000),
    )


def _delta(run: Run, head: Index, rows: Sequence[BlockRow], *, most: tuple[int, int]) -> Delta | None:
    """What changed since the file of the head's index was written; nothing if that is too much, or cannot be told."""
    artifacts = run.store.artifacts
    try:
        before, now = _cells(decode_blocks(artifacts.read(head.blocks))), _cells(rows)
        earlier = delta_in(artifacts, head)
        changed = _changed(before, now)
        found = [earlier.outside(changed)]
        size, left_out = found[0].size, len(found[0].dropped)
        progress = run.ports.progress
        progress.start("index", total=len(changed), unit="cells")
        for name in changed:
            was = undone(_rows(artifacts, before.get(name), head.dimensions), earlier.within(name))
            found.append(difference(was, _rows(artifacts, now.get(name), head.dimensions)))
            size, left_out = size + found[-1].size, left_out + len(found[-1].dropped)
            progress.advance(1)
            if size > most[0] or left_out > most[1]:
                progress.finish("too much changed for a delta")
                return None
        progress.finish(f"{head.kind}, {size:,} changes beside it")
    except (ArtifactError, BlockError, DeltaError):
        _say_why(run, head, "its delta, block table or a block of it is missing or damaged")
        return None
    return joined(found, head.dimensions)


def changes_between(
    artifacts: Artifacts, before: Sequence[BlockRow], now: Sequence[BlockRow], dimensions: int
) -> Delta:
    """Return what changed between the blocks of two tables.

    Raises:
        ArtifactError, BlockError: One that changed is missing or damaged.
    """
    was, there = _cells(before), _cells(now)
    found = [
        difference(_rows(artifacts, was.get(name), dimensions), _rows(artifacts, there.get(name), dimensions))
        for name in _changed(was, there)
    ]
    return joined(found, dimensions)


class EarlierBlocks:
    """The blocks from before a change, as often as they are asked for: their ids and vectors, and nothing beside."""

    def __init__(self, now: Iterable[Block], delta: Delta) -> None:
        """Take the blocks of now, in ascending order of their cells, and what changed."""
        self._now, self._delta = now, delta

    def __iter__(self) -> Iterator[Block]:
        """Yield them in ascending order of their cells."""
        left = deque(self._delta.cells_left)
        none = nothing(self._delta.dimensions).added
        for block in self._now:
            while left and left[0] < block.cell:
                yield self._earlier(left.popleft(), none)
            if left and left[0] == block.cell:
                left.popleft()
            yield self._earlier(block.cell, rows_of(block))
        for cell in left:
            yield self._earlier(cell, none)

    def _earlier(self, cell: CellName, now: Rows) -> Block:
        rows = undone(now, self._delta.within(cell))
        return Block(
            zoom=cell[0],
            cell_x=cell[1],
            cell_y=cell[2],
            dimensions=self._delta.dimensions,
            ids=rows.ids,
            vectors=rows.vectors,
            digests=np.zeros((len(rows), 32), np.uint8),
            texture=np.zeros(len(rows), np.float32),
        )


def delta_in(artifacts: Artifacts, index: Index) -> Delta:
    """Return the delta of an index, or one in which nothing changed.

    Raises:
        ArtifactError, DeltaError: It is missing or damaged.
    """
    ref = delta_of(index)
    return nothing(index.dimensions) if ref is None else decode(artifacts.read(ref))


def _cells(rows: Sequence[BlockRow]) -> _Cells:
    return {(row.zoom, row.cell_x, row.cell_y): row for row in rows}


def _changed(before: _Cells, now: _Cells) -> list[CellName]:
    """The cells whose blocks are not the same, in ascending order."""
    return sorted(
        name
        for name in before.keys() | now.keys()
        if name not in before or name not in now or before[name].ref != now[name].ref
    )


def _rows(artifacts: Artifacts, row: BlockRow | None, dimensions: int) -> Rows:
    """The rows of a cell; none of one that is not there."""
    return (
        nothing(dimensions).added
        if row is None
        else rows_of(descriptor_block.decode(artifacts.read(row.ref)))
    )
