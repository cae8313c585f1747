"""Report on the area from its blocks: what can be localised, and what looks like elsewhere."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.planning.area_report import AreaReport, Place, ground_coverage
from pipeline.stages.repeated_rows import repeated_rows
from pipeline.tiles.chunks import LevelChunks, chunks_of, tile_ids_under
from pipeline.tiles.selection import Selection
from store.base.identity import AXIS_MASK, MAX_ZOOM, X_SHIFT, ZOOM_SHIFT, tile_of
from store.base.level import Level
from store.base.texture import FEATURELESS_BELOW
from store.disk.artifacts import Artifacts
from store.formats.descriptor_block import Block
from store.formats.joined_blocks import read_block
from store.formats.tables import BlockRow


class StoredBlocks:
    """The blocks of a table, read and checked one at a time; may be iterated again and again."""

    def __init__(self, artifacts: Artifacts, rows: Sequence[BlockRow]) -> None:
        self._artifacts, self._rows = artifacts, rows

    def __iter__(self) -> Iterator[Block]:
        for row in self._rows:
            yield read_block(row, self._artifacts.read)


def survey_selection(
    selection: Selection, rows: Sequence[BlockRow] | None, artifacts: Artifacts
) -> AreaReport:
    """Report on everything that a selection wants.

    A tile or chunk that nearly equals another one is featureless; see `repeated_rows`.

    Args:
        selection: The selection.
        rows: The blocks; None before anything is embedded: then nothing is known to be featureless or skipped.
        artifacts: Holds the blocks.

    Raises:
        ArtifactError: A block is missing or damaged.
    """
    units = selection.units.ids
    indexed, featureless = (
        (units, np.zeros(len(units), np.bool_))
        if rows is None
        else _judge_rows(rows, artifacts, selection.levels)
    )
    skipped = units[np.isin(units, indexed, invert=True)]
    if selection.levels:
        skipped = np.setdiff1d(tile_ids_under(skipped), tile_ids_under(indexed))
    return AreaReport(
        tiles_wanted=selection.wanted,
        tiles_present=len(selection.tiles),
        holes=tuple(map(tuple, selection.holes.tolist())),
        featureless=() if selection.levels else _places(indexed[featureless]),
        skipped=_places(skipped),
        excluded=tuple(map(tuple, selection.excluded.places.tolist())),
        levels=tuple(
            ground_coverage(each.level, each.area, indexed[own], featureless[own])
            for each in selection.levels
            for own in (chunks_of(each.level, indexed),)
        ),
    )


def _judge_rows(
    rows: Sequence[BlockRow], artifacts: Artifacts, levels: Sequence[LevelChunks]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the ids of the rows of some blocks, and which of them are featureless."""
    parts, textures = [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
    for block in StoredBlocks(artifacts, rows):
        parts.append(block.ids.astype(np.int64))
        textures.append(block.texture)
    ids = np.concatenate(parts)
    # What looks the same cannot be told apart: "no imagery" of a provider, the same ground repeated.
    if not levels:
        repeated = repeated_rows(_StoredVectors(artifacts, rows), _centres(ids))
    else:
        repeated = np.zeros(len(ids), np.bool_)
        for each in levels:
            own = chunks_of(each.level, ids)
            places = np.stack([ids[own] >> X_SHIFT & AXIS_MASK, ids[own] & AXIS_MASK], axis=1)
            # Neighbours that overlap may be alike; what repeats with the tiles, as "no imagery" does, may not.
            apart = min(each.level.m // 4, each.level.steps_per_tile - 1)
            repeated[own] = repeated_rows(_StoredVectors(artifacts, rows, each.level), places, apart=apart)
    return ids, (np.concatenate(textures) < FEATURELESS_BELOW) | repeated


def _places(ids: NDArray[np.int64]) -> tuple[Place, ...]:
    return tuple(tile_of(identifier)[:3] for identifier in ids.tolist())


class _StoredVectors:
    """The vectors of the blocks of a table, of all rows or of those of one level; may be iterated again."""

    def __init__(self, artifacts: Artifacts, rows: Sequence[BlockRow], level: Level | None = None) -> None:
        self._blocks, self._level = StoredBlocks(artifacts, rows), level

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        for block in self._blocks:
            own = slice(None) if self._level is None else chunks_of(self._level, block.ids.astype(np.int64))
            yield block.vectors[own]


def _centres(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the middle of each tile, in halves of a tile of the highest zoom."""
    corners = np.stack([ids >> X_SHIFT & AXIS_MASK, ids & AXIS_MASK], axis=1)
    centres: NDArray[np.int64] = 2 * corners + 1 << (MAX_ZOOM - (ids >> ZOOM_SHIFT))[:, None]
    return centres
