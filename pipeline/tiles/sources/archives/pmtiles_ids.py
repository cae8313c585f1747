"""Compute PMTiles ids: one number for zoom and place, along a Hilbert curve (version 3, section 4.1). Pure.

Ids of a zoom follow those of all lower zooms. Within a zoom each aligned square of 2^k by 2^k tiles has 4^k
consecutive ids, so that a rectangle of tiles becomes a few intervals of ids.
"""

from collections.abc import Sequence

import numpy as np

from pipeline.tiles.grid import TileRange
from pipeline.tiles.tile_columns import Numbers

MAX_PMTILES_ZOOM = 31
_MAX_CELLS = 4096


def first_id(z: int) -> int:
    """Return the id of the first tile of a zoom: the number of tiles of all lower zooms."""
    return ((1 << (2 * z)) - 1) // 3


def tile_ids(z: int, x: Numbers, y: Numbers) -> Numbers:
    """Return the ids of tiles of one zoom, int64 [n]."""
    x, y = x.astype(np.int64), y.astype(np.int64)
    ids = np.full(x.shape, first_id(z), dtype=np.int64)
    for level in range(z - 1, -1, -1):
        right, lower = (x >> level) & 1, (y >> level) & 1
        ids += ((3 * right) ^ lower) << (2 * level)
        x, y = _rotate(level, x, y, right, lower)
    return ids


def tile_places(z: int, ids: Numbers) -> tuple[Numbers, Numbers]:
    """Return columns and rows of tiles of one zoom, int64 [n] each."""
    at = ids - first_id(z)
    x, y = np.zeros_like(at), np.zeros_like(at)
    for level in range(z):
        right = (at >> 1) & 1
        lower = (at ^ right) & 1
        x, y = _rotate(level, x, y, right, lower)
        x, y = x + (right << level), y + (lower << level)
        at >>= 2
    return x, y


def covering_intervals(ranges: Sequence[TileRange]) -> tuple[Numbers, Numbers]:
    """Return sorted disjoint intervals of ids that contain every tile of some rectangles, and few others.

    Squares that are partly in a rectangle are divided until there are some thousands of them, and then taken
    whole. The caller must still compare places.

    Returns:
        First ids and ids one past the last, int64 [n] each.
    """
    starts, ends = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for part in ranges:
        x, y = np.zeros(1, np.int64), np.zeros(1, np.int64)
        for level in range(part.z + 1):
            below = part.z - level
            left, right, top, bottom = x << below, ((x + 1) << below) - 1, y << below, ((y + 1) << below) - 1
            touched = (left <= part.x1) & (right >= part.x0) & (top <= part.y1) & (bottom >= part.y0)
            inside = (left >= part.x0) & (right <= part.x1) & (top >= part.y0) & (bottom <= part.y1)
            cut = touched & ~inside
            done = touched if below == 0 or int(cut.sum()) > _MAX_CELLS else inside
            first = first_id(part.z) + ((tile_ids(level, x[done], y[done]) - first_id(level)) << (2 * below))
            starts.append(first)
            ends.append(first + (1 << (2 * below)))
            x, y = x[touched & ~done], y[touched & ~done]
            x, y = (
                np.concatenate([2 * x, 2 * x + 1, 2 * x, 2 * x + 1]),
                np.concatenate([2 * y, 2 * y, 2 * y + 1, 2 * y + 1]),
            )
    return _merge(np.concatenate(starts), np.concatenate(ends))


def _rotate(level: int, x: Numbers, y: Numbers, right: Numbers, lower: Numbers) -> tuple[Numbers, Numbers]:
    """Rotate coordinates in a quadrant so that its part of the curve starts and ends in the right corners."""
    side = (1 << level) - 1
    mirrored = (lower == 0) & (right == 1)
    x, y = x & side, y & side
    x, y = np.where(mirrored, side - x, x), np.where(mirrored, side - y, y)
    swapped = lower == 0
    return np.where(swapped, y, x), np.where(swapped, x, y)


def _merge(starts: Numbers, ends: Numbers) -> tuple[Numbers, Numbers]:
    order = np.argsort(starts)
    starts, ends = starts[order], ends[order]
    if not len(starts):
        return starts, ends
    breaks = np.concatenate([[True], starts[1:] != ends[:-1]])
    return starts[breaks], ends[np.concatenate([breaks[1:], [True]])]
