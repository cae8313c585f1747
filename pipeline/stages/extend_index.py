"""The index of the head, extended by what changed since: a changed tile does not cost a whole index.

What changed is found by cells: those whose block is the one of the head hold what they held then. The delta is always the
one to the file that faiss wrote, so that the tenth change does not stand on nine others; where too much has changed, a new
file is due, and takes the place of both.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic

import numpy as np

from pipeline.index.plan import IndexJob, can_extend, delta_limits
from pipeline.progress import Progress
from pipeline.stages.context import BuildContext
from store.base.canonical_json import Document
from store.base.identity import extended_index_components, index_key
from store.base.values import ArtifactRef
from store.disk.artifacts import Artifacts, ref_of
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtendedIndex:
    """What extending an index made: the event that records it, and its delta."""

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
        index: The one that is there.
        rows: The blocks of all cells of now.
        table: Their block table.
        components: What the key of the extended index is the digest of.
        artifacts: Where the index is, and the blocks of then and now.
        progress: Told how the work moves on.
        most: Rows that may have changed in all, and that may have left; None for any number.

    Returns:
        The extended index; nothing if more has changed.

    Raises:
        ArtifactError, BlockError, DeltaError: Something that it is made from is missing or damaged.
    """
    began = monotonic()
    delta = _delta(index, rows, artifacts, progress, most)
    if delta is None:
        return None
    data = encode(delta)
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


def _delta(
    index: Index,
    rows: Sequence[BlockRow],
    artifacts: Artifacts,
    progress: Progress,
    most: tuple[int, int] | None,
) -> Delta | None:
    before, now = _cells(decode_blocks(artifacts.read(index.blocks))), _cells(rows)
    earlier, changed = delta_in(artifacts, index), _changed(before, now)
    found = [earlier.outside(changed)]
    size, left_out = found[0].size, len(found[0].dropped)
    progress.start("index", total=len(changed), unit="cells")
    for name in changed:
        was = undone(_rows(artifacts, before.get(name), index.dimensions), earlier.within(name))
        found.append(difference(was, _rows(artifacts, now.get(name), index.dimensions)))
        size, left_out = size + found[-1].size, left_out + len(found[-1].dropped)
        progress.advance(1)
        if most is not None and (size > most[0] or left_out > most[1]):
            progress.finish("too much changed for a delta")
            return None
    progress.finish(f"{index.kind}, {size:,} changes beside it")
    return joined(found, index.dimensions)


def extend_head_index(run: BuildContext, rows: Sequence[BlockRow], job: IndexJob) -> Index | None:
    """Extend the index that the head shows, where that pays.

    Args:
        run: The build.
        rows: The blocks of all its cells.
        job: The index, if it were written anew.

    Returns:
        The index; nothing if a new one is due.
    """
    head, plan, whole = run.store.state.head_build, job.plan, job.components
    index = None if head is None else head.index
    if (
        index is None
        or not run.inputs.request.index.delta
        or not can_extend(plan, job.count, index.components, whole)
    ):
        return None
    base = whole_of(index)
    if not _is_whole(run, base):
        _say_why(run, index, "what faiss wrote of it is missing or damaged")
        return None
    components = extended_index_components(whole, base=base.sha256)
    known = run.store.state.step_cache.indexes.get(index_key(components))
    if known is not None and _is_whole(run, known.artifact):
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
            most=delta_limits(plan, job.count, index.dimensions),
        )
    except (ArtifactError, BlockError, DeltaError):
        _say_why(run, index, "its delta, block table or a block of it is missing or damaged")
        return None
    if made is None:
        return None
    # Not before it is known that there is something to do: a step that is begun ends, or was cut.
    run.append(StepStarted(kind="index", subjects=(), key=made.event.key))
    run.put(made.data)
    run.append(made.event)
    return made.event


def _say_why(run: BuildContext, head: Index, why: str) -> None:
    """Say that a new index is written where an extended one was to be expected: somebody wants to know what is damaged."""
    run.ports.progress.say(
        f"a new index is written: the {head.kind} index of the head cannot be extended, {why}; c10 verify --full names it"
    )


def _is_whole(run: BuildContext, ref: ArtifactRef) -> bool:
    if ref.sha256 not in run.hashed and run.store.artifacts.damage(ref) is not None:
        return False
    run.hashed.add(ref.sha256)
    return True


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
