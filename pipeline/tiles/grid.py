"""Compute which tiles an area wants, as ranges of columns and rows. Pure.

A tile belongs to a box when their areas overlap; a shared edge is not enough. Edges are compared as integers
of 1e-7 degree, tile edges rounded like the box's, so that a box copied from a tile's printed bounds wants
that tile and not its eight neighbours. A box across the antimeridian is the union of its two halves.
"""

from collections.abc import Iterator

import mercantile

from pipeline.request.geometry import (
    E7,
    HALF_TURN_E7,
    MERCATOR_LIMIT_E7,
    BoxE7,
    degrees_to_e7,
    split_at_antimeridian,
)
from pipeline.tiles.tile import Place, ZoomRange
from store.base.valueclass import valueclass

MAX_WANTED = 20_000_000
"""A request for more tiles is refused as a mistake; this many are about 200,000 km² at zoom 18."""


@valueclass(frozen=True, slots=True, kw_only=True)
class TileRange:
    """A rectangle of tiles of one zoom; all bounds inclusive.

    Attributes:
        z: Zoom.
        x0: First column.
        x1: Last column.
        y0: First row.
        y1: Last row.
    """

    z: int
    x0: int
    x1: int
    y0: int
    y1: int

    @property
    def count(self) -> int:
        """Number of tiles."""
        return (self.x1 - self.x0 + 1) * (self.y1 - self.y0 + 1)

    def places(self) -> Iterator[Place]:
        """Iterate over the places of its tiles, by column, then by row."""
        return (Place(self.z, x, y) for x in range(self.x0, self.x1 + 1) for y in range(self.y0, self.y1 + 1))


def west_edge_e7(z: int, x: int) -> int:
    """Return the longitude of a column's west edge in 1e-7 degree; column 2^z has the grid's east edge."""
    if x == 1 << z:
        return HALF_TURN_E7
    return degrees_to_e7(mercantile.ul(x, 0, z).lng)


def north_edge_e7(z: int, y: int) -> int:
    """Return the latitude of a row's north edge in 1e-7 degree; row 2^z has the grid's south edge."""
    if y == 1 << z:
        return -MERCATOR_LIMIT_E7
    return degrees_to_e7(mercantile.ul(0, y, z).lat)


def tile_box_e7(place: Place) -> BoxE7:
    """Return west, south, east, north of a tile in 1e-7 degree."""
    z, x, y = place
    return range_box_e7(TileRange(z=z, x0=x, x1=x, y0=y, y1=y))


def range_box_e7(part: TileRange) -> BoxE7:
    """Return west, south, east, north of a rectangle of tiles in 1e-7 degree."""
    west, east = west_edge_e7(part.z, part.x0), west_edge_e7(part.z, part.x1 + 1)
    return west, north_edge_e7(part.z, part.y1 + 1), east, north_edge_e7(part.z, part.y0)


def tile_ranges(bbox_e7: BoxE7, zoom: ZoomRange) -> tuple[TileRange, ...]:
    """Return the wanted tiles as at most two disjoint rectangles per zoom, sorted by zoom and column."""
    ranges: list[TileRange] = []
    for z in range(zoom[0], zoom[1] + 1):
        parts = sorted(
            (_range_of(z, half) for half in split_at_antimeridian(bbox_e7)), key=lambda part: part.x0
        )
        if len(parts) == 2 and parts[1].x0 <= parts[0].x1 + 1:
            # At low zooms both halves meet in the same column.
            first, second = parts
            x1 = max(first.x1, second.x1)
            parts = [TileRange(z=z, x0=first.x0, x1=x1, y0=first.y0, y1=first.y1)]
        ranges += parts
    return tuple(ranges)


def wanted_tiles(bbox_e7: BoxE7, zoom: ZoomRange) -> Iterator[Place]:
    """Iterate over the places of all wanted tiles, sorted by (z, x, y)."""
    return (place for part in tile_ranges(bbox_e7, zoom) for place in part.places())


def wanted_count(bbox_e7: BoxE7, zoom: ZoomRange) -> int:
    """Return how many tiles are wanted, without enumerating them."""
    return sum(part.count for part in tile_ranges(bbox_e7, zoom))


def _range_of(z: int, box: BoxE7) -> TileRange:
    """Return the tiles that a box with west < east overlaps.

    The library returns every tile that the box overlaps by half a unit or more, and so all that overlap it in
    whole units. The loops remove those at the ends that only touch it.
    """
    west, south, east, north = box
    last = (1 << z) - 1
    upper_left = mercantile.tile(west / E7, north / E7, z)
    lower_right = mercantile.tile(east / E7, south / E7, z)
    x0, x1 = min(max(upper_left.x, 0), last), min(max(lower_right.x, 0), last)
    y0, y1 = min(max(upper_left.y, 0), last), min(max(lower_right.y, 0), last)
    while x0 < last and west_edge_e7(z, x0 + 1) <= west:
        x0 += 1
    while x1 > x0 and west_edge_e7(z, x1) >= east:
        x1 -= 1
    while y0 < last and north_edge_e7(z, y0 + 1) >= north:
        y0 += 1
    while y1 > y0 and north_edge_e7(z, y1) <= south:
        y1 -= 1
    return TileRange(z=z, x0=x0, x1=x1, y0=y0, y1=y1)
