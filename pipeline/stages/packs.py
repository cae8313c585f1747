"""The pack stage: the encoded tiles that fly, one artifact for each cell.

A pack follows from the ids and digests of its tiles alone. A known one is used again if it holds the very
tiles, whoever recorded it; the others are read from the source, and each tile is hashed again.
"""

import hashlib
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from pipeline.errors import ErrorKind, TileError
from pipeline.planning.tile_packs import CarriedCell, carried_cells
from pipeline.progress import megabytes
from pipeline.stages.context import BuildContext
from pipeline.stages.survey import StoredBlocks
from pipeline.tiles.sources.read_tile import SOURCE_CHANGED_HINT, read_tile
from pipeline.tiles.tile import Place
from store.base.values import ArtifactRef
from store.disk.artifacts import Artifacts
from store.domain.events import StepStarted, TilesCarried, TilesPacked
from store.errors import ArtifactError
from store.formats import carried_tiles
from store.formats.tables import BlockRow, encode_packs
from store.verify.coverage import map_in_threads


def described_ids(artifacts: Artifacts, rows: Sequence[BlockRow]) -> npt.NDArray[np.int64]:
    """Return the descriptor ids of the rows of some blocks, int64 [n].

    Raises:
        ArtifactError: A block is missing or damaged.
    """
    parts = [block.ids.astype(np.int64) for block in StoredBlocks(artifacts, rows)]
    return np.concatenate([np.zeros(0, np.int64), *parts])


def pack_tiles(cell: CarriedCell) -> bytes:
    """Read the tiles of a cell from their source, and return their pack.

    Raises:
        TileError: A tile cannot be read, or is not the one that was selected.
    """
    images: dict[int, bytes] = {}
    for identifier, tile in zip(cell.tiles.ids.tolist(), cell.tiles, strict=True):
        image = read_tile(tile.locator)
        if hashlib.sha256(image).hexdigest() != tile.sha256:
            raise TileError(
                f"tile {tile.place}: expected SHA-256 {tile.sha256[:12]} as selected, found other bytes: "
                "the source changed during the build",
                hint=SOURCE_CHANGED_HINT,
                kind=ErrorKind.SOURCE_CHANGED,
                subject=str(Place(tile.z, tile.x, tile.y)),
            )
        images[identifier] = image
    return carried_tiles.encode(images)


def prepare_packs(run: BuildContext, rows: Sequence[BlockRow]) -> list[BlockRow]:
    """Give every cell of carried tiles a pack, and record the table of all; nothing if none are wanted.

    Raises:
        TileError: The source changed since the tiles were selected.
    """
    if not run.inputs.request.carries_tiles:
        return []
    run.enter("packs")
    described = described_ids(run.store.artifacts, rows)
    cells = list(carried_cells(run.inputs.selection.shown_tiles(), described))
    packs = _known_packs(run, cells)
    if packs:
        run.reuse("packs", {}, count=len(packs))
    if len(packs) < len(cells):
        run.append(StepStarted(kind="packs", subjects=(), key=""))
        packs |= {event.key: event for event in _write_packs(run, cells, packs)}
    table = [pack_row(packs[cell.key]) for cell in cells]
    size, tiles = sum(cell.size for cell in cells), sum(row.rows for row in table)
    run.append(TilesCarried(table=run.put(encode_packs(table)), tiles=tiles, size=size))
    return table


def _known_packs(run: BuildContext, cells: Sequence[CarriedCell]) -> dict[str, TilesPacked]:
    """Return key to event of the known packs that hold what their cells want."""
    steps, artifacts = run.store.state.step_cache, run.store.artifacts
    known = [(cell, steps.packs[cell.key]) for cell in cells if cell.key in steps.packs]
    whole = map_in_threads(partial(_holds, artifacts), known, [event.pack.size for _, event in known])
    found = {cell.key: event for (cell, event), holds in zip(known, whole, strict=True) if holds}
    run.hashed.update(event.pack.sha256 for event in found.values())
    return found


def _holds(artifacts: Artifacts, pair: tuple[CarriedCell, TilesPacked]) -> bool:
    """Whether a pack is intact and holds exactly the tiles of a cell."""
    cell, event = pair
    place = (event.zoom, event.cell_x, event.cell_y) == tuple(cell.cell) and event.tiles == len(cell.tiles)
    try:
        images = carried_tiles.decode(artifacts.read(event.pack))
    except ArtifactError:
        return False
    digests = {each: hashlib.sha256(image).hexdigest() for each, image in images.items()}
    return place and digests == dict(zip(cell.tiles.ids.tolist(), cell.tiles.hex_digests, strict=True))


def _write_packs(
    run: BuildContext, cells: Sequence[CarriedCell], known: dict[str, TilesPacked]
) -> Iterator[TilesPacked]:
    missing = [cell for cell in cells if cell.key not in known]
    progress = run.ports.progress
    progress.start("pack tiles", total=sum(len(cell.tiles) for cell in missing), unit="tiles")
    for cell in missing:
        made = packed_event(cell, run.put(pack_tiles(cell)))
        run.defer(made)
        progress.advance(len(cell.tiles))
        yield made
    progress.finish(megabytes(sum(cell.size for cell in missing)))


def packed_event(cell: CarriedCell, pack: ArtifactRef) -> TilesPacked:
    """Return the event that records the pack of a cell."""
    return TilesPacked(
        zoom=cell.cell.zoom,
        cell_x=cell.cell.x,
        cell_y=cell.cell.y,
        key=cell.key,
        pack=pack,
        tiles=len(cell.tiles),
    )


def pack_row(event: TilesPacked) -> BlockRow:
    """Return the row of a pack in the pack table."""
    return BlockRow(
        zoom=event.zoom, cell_x=event.cell_x, cell_y=event.cell_y, rows=event.tiles, ref=event.pack
    )
