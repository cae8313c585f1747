"""How fine the imagery is that tiles are rendered from, whatever their zoom. Pure."""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from pipeline.request.area import Area
from pipeline.request.geometry import BoxE7
from pipeline.tiles.grid import tile_ranges
from pipeline.tiles.patches import Patch
from pipeline.tiles.wanted import wanted_tiles_of
from store.base.geometry.level import EARTH_M

_MOST_TILES: Final = 1 << 20
"""Of a larger area, tiles of a lower zoom are looked at."""
_NEAR: Final = 1.01 * math.sqrt(2)
"""Tiles of the zoom that is nearest to the imagery's own are up to so many times finer: that is not told."""


def upsampled_pixel_mm(
    area: Area, zoom: int, tile_edge: int, pixels: Sequence[tuple[BoxE7, float]]
) -> int | None:
    """Return the side of the imagery's pixels where tiles of a zoom are much finer than it, else None.

    It is that of the wanted tile whose imagery is coarsest; of the files that a tile touches, the finest counts.

    Args:
        area: The ground that is wanted.
        zoom: Zoom of the tiles.
        tile_edge: Their edge, pixels.
        pixels: As of `RendersTiles.pixel_sides`; empty where tiles are stored.

    Returns:
        Millimetres of the Web Mercator projection.
    """
    nominal = EARTH_M / (1 << zoom) / tile_edge
    if not pixels or max(pixel_m for _, pixel_m in pixels) <= nominal * _NEAR:
        return None
    coarsest = _coarsest_m(area, zoom, pixels)
    return round(coarsest * 1000) if coarsest > nominal * _NEAR else None


def _coarsest_m(area: Area, zoom: int, pixels: Sequence[tuple[BoxE7, float]]) -> float:
    parts = wanted_tiles_of(area, (zoom, zoom))
    while zoom and sum(each.count for each in parts) > _MOST_TILES:
        zoom -= 1
        parts = wanted_tiles_of(area, (zoom, zoom))
    coarsest = 0.0
    ranges = [(pixel_m, found) for box, pixel_m in pixels for found in tile_ranges(box, (zoom, zoom))]
    for each in parts:
        part = each.part
        finest = np.full((part.x1 - part.x0 + 1, part.y1 - part.y0 + 1), np.inf)
        for pixel_m, found in ranges:
            columns = slice(max(found.x0 - part.x0, 0), max(found.x1 - part.x0 + 1, 0))
            rows = slice(max(found.y0 - part.y0, 0), max(found.y1 - part.y0 + 1, 0))
            np.minimum(finest[columns, rows], pixel_m, out=finest[columns, rows])
        shown = finest[Patch(each.rectangle, each.mask).chosen() & np.isfinite(finest)]
        coarsest = max(coarsest, float(shown.max(initial=0.0)))
    return coarsest
