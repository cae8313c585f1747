"""Rebuild the pack table from journal, tile table and blocks, and packs from the source of the tiles."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from pipeline.embed.cells import CellKey
from pipeline.planning.recorded_inputs import UnavailableError
from pipeline.planning.tile_packs import CarriedCell, carried_cells
from pipeline.repair.rebuild_artifacts import RebuildContext, RebuiltArtifact
from pipeline.stages.packs import described_ids, pack_row, pack_tiles
from pipeline.tiles.chunks import ShownTiles
from pipeline.tiles.tile_columns import TileColumns
from store.base.values import ArtifactRef
from store.domain.events import TilesPacked
from store.formats.tables import BlockRow, decode_tiles, encode_packs
from store.manifest.levels import parse_levels


def carried_by(
    context: RebuildContext, tiles: ArtifactRef, blocks: Sequence[BlockRow]
) -> dict[CellKey, CarriedCell]:
    """Return the cells of carried tiles of a build, from its tile table and its blocks; their tiles have no locators.

    Raises:
        ArtifactError: One of them is missing or damaged.
    """
    columns = TileColumns.from_table(decode_tiles(context.artifacts.read(tiles)))
    edges = {each.level.zoom: each.tile_edge for each in parse_levels(context.inputs.build.inputs)}
    cells = carried_cells(ShownTiles(columns, edges), described_ids(context.artifacts, blocks))
    return {each.cell: each for each in cells}


def rebuild_pack_table(context: RebuildContext, cells: Sequence[CarriedCell]) -> RebuiltArtifact:
    """List the packs of a build again, as the journal has them."""
    known = {
        entry.event.key: entry.event for entry in context.history if isinstance(entry.event, TilesPacked)
    }
    if missing := [str(each.cell) for each in cells if each.key not in known]:
        raise UnavailableError(f"pack table: expected a pack of cell {missing[0]} in the journal, found none")
    return RebuiltArtifact(data=encode_packs(pack_row(known[each.key]) for each in cells))


def rebuild_pack(
    context: RebuildContext, place: CellKey, cells: Callable[[], Mapping[CellKey, CarriedCell]]
) -> RebuiltArtifact:
    """Read the tiles of a cell from their source again; other tiles may have changed."""
    cell = cells().get(place)
    if cell is None:
        raise UnavailableError("expected carried tiles of this cell, found none")
    context.begin("packs", (str(cell.cell),), cell.key)
    found = replace(cell, tiles=context.inputs.tiles_at(cell.tiles.ids))
    return RebuiltArtifact(data=pack_tiles(found))
