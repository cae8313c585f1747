"""Report on the area from its blocks: what can be localised, and what looks like elsewhere."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.planning.area_report import AreaReport, Place, ground_coverage
from pipeline.stages.repeated_rows import RowSignatures
from pipeline.tiles.chunks import LevelChunks, chunks_of, tile_ids_under
from pipeline.tiles.selection import Selection
from store.base.identity import AXIS_MASK, MAX_ZOOM, X_SHIFT, ZOOM_SHIFT, tile_of
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
    selection: Selection,
    rows: Sequence[BlockRow] | None,
    artifacts: Artifacts,
    *,
    seen: "SurveyedRows | None" = None,
    on_rows: Callable[[int], None] | None = None,
) -> AreaReport:
    """Report on everything that a selection wants.

    A tile or chunk that nearly equals another one is featureless; see `pipeline.stages.repeated_rows`.

    Args:
        selection: The selection.
        rows: The blocks; None before anything is embedded: then nothing is known to be featureless or skipped.
        artifacts: Holds the blocks.
        seen: What was taken from all these blocks already, if they were read before.
        on_rows: Called with the number of rows of each block that was read.

    Raises:
        ArtifactError: A block is missing or damaged.
    """
    units = selection.units.ids
    indexed, featureless, skipped = units, np.zeros(len(units), np.bool_), units[:0]
    if rows is not None:
        if seen is None:
            seen = SurveyedRows(selection.levels)
            for block in StoredBlocks(artifacts, rows):
                seen.add(block)
                if on_rows is not None:
                    on_rows(block.rows)
        indexed, featureless = seen.judge(rows, artifacts)
        known = np.sort(indexed)
        # No id is below zero.
        skipped = units[np.append(known, -1)[np.searchsorted(known, units)] != units]
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


class SurveyedRows:
    """What the report needs of all blocks, taken from one after the other in their order."""

    def __init__(self, levels: Sequence[LevelChunks]) -> None:
        self._ids = [np.zeros(0, np.int64)]
        self._textures = [np.zeros(0, np.float32)]
        self._kinds = [(each, RowSignatures()) for each in levels or (None,)]

    def add(self, block: Block) -> None:
        """Add the next block."""
        ids = block.ids.astype(np.int64)
        self._ids.append(ids)
        self._textures.append(block.texture.copy())
        for level, signatures in self._kinds:
            signatures.add(block.vectors if level is None else block.vectors[chunks_of(level.level, ids)])

    def judge(
        self, rows: Sequence[BlockRow], artifacts: Artifacts
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the ids of all rows, and which of them are featureless.

        Args:
            rows: The blocks that were added, in this order.
            artifacts: Holds them.

        Raises:
            ArtifactError: A block is missing or damaged.
        """
        ids, textures = np.concatenate(self._ids), np.concatenate(self._textures)
        ends = np.cumsum([len(part) for part in self._ids[1:]])
        # What looks the same cannot be told apart: "no imagery" of a provider, the same ground repeated.
        repeated = np.zeros(len(ids), np.bool_)
        for level, signatures in self._kinds:
            own = np.flatnonzero(_own(level, ids))
            places, apart = _centres(ids[own]), 0
            if level is not None:
                places = np.stack([ids[own] >> X_SHIFT & AXIS_MASK, ids[own] & AXIS_MASK], axis=1)
                # Neighbours that overlap may be alike; what repeats with the tiles, as "no imagery" does, may not.
                apart = min(level.level.m // 4, level.level.steps_per_tile - 1)

            def vectors_of(
                chosen: NDArray[np.intp], own: NDArray[np.intp] = own
            ) -> Iterator[NDArray[np.float32]]:
                return _stored_vectors(rows, artifacts, ends, own[chosen])

            repeated[own] = signatures.repeated(places, vectors_of, apart=apart)
        return ids, (textures < FEATURELESS_BELOW) | repeated


def _own(level: LevelChunks | None, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which ids are those of a level; all of them, if there are no levels."""
    return np.ones(len(ids), np.bool_) if level is None else chunks_of(level.level, ids)


def _stored_vectors(
    rows: Sequence[BlockRow], artifacts: Artifacts, ends: NDArray[np.intp], chosen: NDArray[np.intp]
) -> Iterator[NDArray[np.float32]]:
    """Yield the vectors of some rows, numbered through all blocks, ascending; other blocks are not read."""
    for row, first, end in zip(rows, [0, *ends[:-1]], ends, strict=True):
        of_block = chosen[slice(*np.searchsorted(chosen, (first, end)))] - first
        if len(of_block):
            yield read_block(row, artifacts.read).vectors[of_block]


def _places(ids: NDArray[np.int64]) -> tuple[Place, ...]:
    return tuple(tile_of(identifier)[:3] for identifier in ids.tolist())


def _centres(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the middle of each tile, in halves of a tile of the highest zoom."""
    corners = np.stack([ids >> X_SHIFT & AXIS_MASK, ids & AXIS_MASK], axis=1)
    centres: NDArray[np.int64] = 2 * corners + 1 << (MAX_ZOOM - (ids >> ZOOM_SHIFT))[:, None]
    return centres
