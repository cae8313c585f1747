"""Say whether the index of a build is there already, before it begins. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from pipeline.embed.cells import CellKey
from pipeline.errors import EmbedError
from pipeline.index.plan import plan_index
from pipeline.planning.inputs import Inputs
from store.base.identity import difference, joined_space
from store.disk.artifacts import ref_of
from store.domain.events import CellEmbedded, Index
from store.domain.index_files import named
from store.domain.state import State
from store.formats.tables import BlockRow, encode_blocks


def why_new_index(
    state: State,
    inputs: Inputs,
    blocks: Iterable[tuple[CellKey, CellEmbedded]],
    present: Mapping[str, int],
) -> str:
    """Return why known blocks need a new index; empty if their index is known.

    Args:
        state: The folded journal.
        inputs: What the build is defined by.
        blocks: Cell and block of each network, these in the order of their names.
        present: Digest to size of the files of the head's index that are there.
    """
    head = state.head_build
    index = None if head is None else head.index
    if head is not None and index is not None:
        if head.inputs.get("index") != inputs.document["index"]:
            return "its options or its library changed"
        missing = [role for role, ref in named(index) if present.get(ref.sha256) != ref.size]
        if missing:
            return f"{missing[0]} is missing or damaged"
    space, table = joined_space(inputs.networks), ref_of(_block_table(inputs, blocks))
    if any(
        known.blocks == table and known.components.get("space") == space and _is_as_asked(known, inputs)
        for known in state.step_cache.indexes.values()
    ):
        return ""
    if index is None:
        return "there is none of these blocks"
    same_space = index.components.get("space") == space
    return "its cells are others" if same_space else "its networks or their weights changed"


def _is_as_asked(index: Index, inputs: Inputs) -> bool:
    """Whether an index has the options of a request, and was written by the library that is installed."""
    try:
        plan = plan_index(inputs.request.index, count=index.rows, dimensions=index.dimensions)
    except EmbedError:  # these rows cannot have such an index
        return False
    wanted = {"options": plan.to_document(), "library": inputs.document["index"]["library"]}
    return not difference(wanted, {name: index.components.get(name) for name in wanted})


def _block_table(inputs: Inputs, blocks: Iterable[tuple[CellKey, CellEmbedded]]) -> bytes:
    cells = defaultdict[CellKey, list[CellEmbedded]](list)
    for cell, block in blocks:
        cells[cell].append(block)
    weights = tuple(weight for _, weight in inputs.networks)
    rows = [
        BlockRow(
            zoom=first.zoom,
            cell_x=first.cell_x,
            cell_y=first.cell_y,
            rows=min(each.rows for each in (first, *further)),
            ref=first.block,
            further=tuple(each.block for each in further),
            weights=weights if further else (),
        )
        for first, *further in cells.values()
    ]
    return encode_blocks(rows)
