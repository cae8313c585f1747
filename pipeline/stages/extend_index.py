"""Extend the head's index by the rows that changed, so that one changed tile does not cost a whole index.

Changes are found by cell: a cell with the same block as in the head did not change. A delta always refers to
the file that faiss wrote, never to another delta. Where too much has changed, a new file is written instead.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from time import monotonic

import numpy as np

from pipeline.index.plan import IndexJob, can_extend, delta_limits
from pipeline.progress import Progress
from pipeline.stages.context import BuildContext
from store.base.canonical_json import Document
from store.base.identity import extended_index_components, index_key
from store.base.valueclass import valueclass
from store.base.values import ArtifactRef
from store.disk.artifacts import Artifacts, ref_of
from store.domain.events import Index, IndexExtended, StepStarted
from store.domain.index_files import delta_of, whole_of
from store.errors import ArtifactError
from store.formats import index_delta
from store.formats.descriptor_block import Block, BlockError
from store.formats.index_delta import CellName, Delta, DeltaError, Rows
from store.formats.joined_blocks import read_block
from store.formats.tables import BlockRow, decode_blocks


@valueclass(frozen=True, slots=True, kw_only=True)
class ExtendedIndex:
    """The event that records an extended index, and its delta."""

    event: IndexExtended
    data: bytes


def extend_index(
    index: Index,
    rows: Sequence[BlockRow],
    *,
    table: ArtifactRef,
    components: Document,
    artifacts: Artifacts,
    progress: Progress,
    most: tuple[int, int] | None = None,
) -> ExtendedIndex | None:
    """Extend an index by what changed since faiss wrote its file.

    Args:
        index: The existing index.
        rows: The current block of every cell.
        table: The block table of `rows`.
        components: The key of the extended index is their digest.
        artifacts: Holds the index, and the blocks of then and now.
        progress: Receives progress reports.
        most: Rows that may have changed in all, and that may have left; None for any number.

    Returns:
        The extended index, or None if more has changed.

    Raises:
        ArtifactError, BlockError, DeltaError: A block, table or delta is missing or damaged.
    """
    began = monotonic()
    delta = _find_changes(index, rows, artifacts, progress, most)
    if delta is None:
        return None
    data = index_delta.encode(delta)
    event = IndexExtended(
        key=index_key(components),
        components=components,
        artifact=ref_of(data),
        base=whole_of(index),
        blocks=table,
        kind=index.kind,
        metric=index.metric,
        dimensions=index.dimensions,
        rows=sum(row.rows for row in rows),
        added=len(delta.added),
        dropped=len(delta.dropped),
        elapsed_ms=round((monotonic() - began) * 1000),
    )
    return ExtendedIndex(event=event, data=data)


def _find_changes(
    index: Index,
    rows: Sequence[BlockRow],
    artifacts: Artifacts,
    progress: Progress,
    most: tuple[int, int] | None,
) -> Delta | None:
    before, now = _by_cell(decode_blocks(artifacts.read(index.blocks))), _by_cell(rows)
    earlier, changed = read_delta(artifacts, index), _changed_cells(before, now)
    deltas = [earlier.outside_cells(changed)]
    size, dropped = deltas[0].size, len(deltas[0].dropped)
    progress.start("index", total=len(changed), unit="cells")
    for cell in changed:
        written = index_delta.undo_delta(
            _read_rows(artifacts, before.get(cell), index.dimensions), earlier.in_cell(cell)
        )
        delta = index_delta.delta_between(written, _read_rows(artifacts, now.get(cell), index.dimensions))
        deltas.append(delta)
        size, dropped = size + delta.size, dropped + len(delta.dropped)
        progress.advance(1)
        if most is not None and (size > most[0] or dropped > most[1]):
            progress.finish("too much changed for a delta")
            return None
    progress.finish(f"{index.kind}, {size:,} changes beside it")
    return index_delta.merge_deltas(deltas, index.dimensions)


def extend_head_index(run: BuildContext, rows: Sequence[BlockRow], job: IndexJob) -> Index | None:
    """Return the head's index extended to all blocks of a build, or None if a new one must be written.

    `job` describes the index as it would be written anew.
    """
    index = _extendable(run, job)
    if index is None:
        return None
    components = extended_index_components(job.components, base=whole_of(index).sha256)
    known = run.store.state.step_cache.indexes.get(index_key(components))
    if known is not None and _is_intact(run, known.artifact):
        run.reuse("index", {"index": known.key})
        return known
    try:
        made = extend_index(
            index,
            rows,
            table=job.table,
            components=components,
            artifacts=run.store.artifacts,
            progress=run.ports.progress,
            most=delta_limits(job.plan, job.count, index.dimensions),
        )
    except (ArtifactError, BlockError, DeltaError):
        _explain_new_index(run, index, "its delta, block table or a block of it is missing or damaged")
        return None
    if made is None:
        return None
    # Recorded only now: a step that was started and has no result looks like one that was interrupted.
    run.append(StepStarted(kind="index", subjects=(), key=made.event.key))
    run.put(made.data)
    run.append(made.event)
    return made.event


def _extendable(run: BuildContext, job: IndexJob) -> Index | None:
    """Return the head's index if the request allows a delta, the options are equal and it is intact."""
    state = run.store.state
    index = None if state.head_build is None else state.head_build.index
    if (
        index is None
        or index.key not in state.step_cache.indexes
        or not run.inputs.request.index.delta
        or not can_extend(job.plan, job.count, index.components, job.components)
    ):
        return None
    if _is_intact(run, whole_of(index)):
        return index
    _explain_new_index(run, index, "what faiss wrote of it is missing or damaged")
    return None


def _explain_new_index(run: BuildContext, head: Index, why: str) -> None:
    run.ports.progress.say(
        f"a new index is written: the {head.kind} index of the head cannot be extended, {why}; c10 verify --full names it"
    )


def _is_intact(run: BuildContext, ref: ArtifactRef) -> bool:
    if ref.sha256 not in run.hashed and run.store.artifacts.damage(ref) is not None:
        return False
    run.hashed.add(ref.sha256)
    return True


class EarlierBlocks:
    """The blocks from before a change, with their ids and vectors only; may be iterated again and again."""

    def __init__(self, now: Iterable[Block], delta: Delta) -> None:
        """Take the current blocks, in ascending order of their cells, and what changed."""
        self._now, self._delta = now, delta

    def __iter__(self) -> Iterator[Block]:
        """Yield the blocks in ascending order of their cells."""
        left = deque(self._delta.cells_of_dropped)
        none = index_delta.empty_delta(self._delta.dimensions).added
        for block in self._now:
            while left and left[0] < block.cell:
                yield self._earlier(left.popleft(), none)
            if left and left[0] == block.cell:
                left.popleft()
            yield self._earlier(block.cell, index_delta.block_rows(block))
        for cell in left:
            yield self._earlier(cell, none)

    def _earlier(self, cell: CellName, now: Rows) -> Block:
        rows = index_delta.undo_delta(now, self._delta.in_cell(cell))
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


def read_delta(artifacts: Artifacts, index: Index) -> Delta:
    """Return the delta of an index, or an empty one if it has none.

    Raises:
        ArtifactError, DeltaError: It is missing or damaged.
    """
    ref = delta_of(index)
    return (
        index_delta.empty_delta(index.dimensions) if ref is None else index_delta.decode(artifacts.read(ref))
    )


def _by_cell(rows: Sequence[BlockRow]) -> dict[CellName, BlockRow]:
    return {(row.zoom, row.cell_x, row.cell_y): row for row in rows}


def _changed_cells(before: Mapping[CellName, BlockRow], now: Mapping[CellName, BlockRow]) -> list[CellName]:
    """Return the cells that have another block, or have one only before or now, in ascending order."""
    return sorted(
        name
        for name in before.keys() | now.keys()
        if name not in before or name not in now or before[name].refs != now[name].refs
    )


def _read_rows(artifacts: Artifacts, row: BlockRow | None, dimensions: int) -> Rows:
    """Return the rows of a block; none if there is no block."""
    if row is None:
        return index_delta.empty_delta(dimensions).added
    return index_delta.block_rows(read_block(row, artifacts.read))
