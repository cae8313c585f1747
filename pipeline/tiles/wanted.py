"""Which tiles a request wants: of its area, or under the chunks of it. Pure.

Wanted tiles are parts of a few disjoint rectangles, so that a source is asked for little else.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pipeline.errors import ErrorKind, RequestError
from pipeline.request.area import Area, Shape
from pipeline.request.geometry import E7, BoxE7, doubt_of_crossing
from pipeline.tiles.chunks import disjoint_ranges, tile_runs_under, tiles_of, wanted_chunks, wanted_total
from pipeline.tiles.grid import MAX_WANTED, TileRange, tile_ranges
from pipeline.tiles.patches import Patch, Rectangle, cover
from pipeline.tiles.raster import Mask, Runs, TooDetailedError, middle_runs, polygons_with_middles, tile_runs
from pipeline.tiles.tile import ZoomRange
from pipeline.tiles.tile_columns import TileColumns
from store.base.geometry.level import Level, side_m
from store.manifest.levels import ChunkLevel

_MOST_PARTS: Final = 128
"""So many rectangles are asked for at most; an archive's list is kept for 256 (`pipeline.tiles.sources.archive_cache`)."""
_SPARE: Final = 256
"""Tiles beside the wanted ones are listed and hashed, and those of a GeoTIFF rendered, for nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class WantedTiles:
    """Some tiles of a rectangle: those of the mask, bool [columns, rows], or all without one."""

    part: TileRange
    mask: Mask | None = None

    @property
    def count(self) -> int:
        """Number of tiles."""
        return self.part.count if self.mask is None else int(self.mask.sum())

    @property
    def rectangle(self) -> Rectangle:
        """The rectangle."""
        part = self.part
        return Rectangle(part.x0, part.x1 - part.x0 + 1, part.y0, part.y1 - part.y0 + 1)

    def absent(self, places: npt.NDArray[np.signedinteger[Any]]) -> Mask:
        """Return which wanted tiles are none of some places, int [n, 3]; bool [columns, rows]."""
        part, absent = self.part, Patch(self.rectangle, self.mask).chosen()
        inside = (places[:, 0] == part.z) & (places[:, 1] >= part.x0) & (places[:, 1] <= part.x1)
        inside &= (places[:, 2] >= part.y0) & (places[:, 2] <= part.y1)
        absent[places[inside, 1] - part.x0, places[inside, 2] - part.y0] = False
        return absent

    def among(self, tiles: TileColumns) -> TileColumns:
        """Return those of some tiles of the rectangle that are wanted."""
        if self.mask is None:
            return tiles
        wanted = self.mask[tiles.places[:, 1] - self.part.x0, tiles.places[:, 2] - self.part.y0]
        return replace(tiles.take(wanted), warnings=tiles.warnings)


def wanted_tiles_of(
    area: Area, zooms: ZoomRange, levels: Sequence[ChunkLevel] = ()
) -> tuple[WantedTiles, ...]:
    """Return the wanted tiles as parts of disjoint rectangles, sorted by zoom and column.

    Args:
        area: The ground.
        zooms: Lowest and highest zoom; of no meaning where there are levels.
        levels: The levels of chunks; none if the tiles get the descriptors.

    Raises:
        RequestError: The area wants more than `MAX_WANTED` tiles or chunks, or no chunk, or a part of it none.
    """
    try:
        for each in levels:
            _require_chunks(each.level, area)
        found = (
            _parts_of_box(area.bbox_e7, zooms, levels) if area.shape is None else _parts(area, zooms, levels)
        )
    except TooDetailedError as error:
        raise RequestError(
            f"area: expected an outline no finer than the tiles, found {error}",
            hint="simplify the outline, or lower the highest zoom",
            kind=ErrorKind.TOO_MANY_TILES,
        ) from error
    _require_few(area, sum(part.count for part in found), "zoom", "tiles")
    return found


def _parts_of_box(box: BoxE7, zooms: ZoomRange, levels: Sequence[ChunkLevel]) -> tuple[WantedTiles, ...]:
    ranges = tile_ranges(box, zooms)
    if levels:
        by_zoom: dict[int, list[Rectangle]] = {}
        for each in levels:
            by_zoom.setdefault(each.level.zoom, []).append(
                tiles_of(each.level, wanted_chunks(each.level, box))
            )
        ranges = tuple(
            part for zoom, parts in sorted(by_zoom.items()) for part in disjoint_ranges(zoom, parts)
        )
    return tuple(map(WantedTiles, ranges))


def _parts(area: Area, zooms: ZoomRange, levels: Sequence[ChunkLevel]) -> tuple[WantedTiles, ...]:
    runs: dict[int, Runs] = {}
    for each in levels:
        under = tile_runs_under(each.level, middle_runs(area, each.level))
        known = runs.get(each.level.zoom)
        runs[each.level.zoom] = under if known is None else known.joined(under)
    if not levels:
        runs = {zoom: tile_runs(area, zoom) for zoom in range(zooms[0], zooms[1] + 1)}
    _require_few(area, sum(each.total for each in runs.values()), "zoom", "tiles")
    return tuple(
        WantedTiles(TileRange(z=zoom, x0=x0, x1=x0 + nx - 1, y0=y0, y1=y0 + ny - 1), patch.mask)
        for zoom, patch in cover(runs, most=_MOST_PARTS, spare=_SPARE)
        for x0, nx, y0, ny in (patch.rectangle,)
    )


def _require_few(area: Area, wanted: int, key: str, what: str) -> None:
    if wanted > MAX_WANTED:
        mend = "lower the highest zoom" if what == "tiles" else "lower chunks.overlap"
        doubt = doubt_of_crossing(area.bbox_e7) if area.shape is None else ""
        raise RequestError(
            f"{_key(area)}, {key}: expected at most {MAX_WANTED} {what}, found an area that wants {wanted}",
            hint=f"shrink the area or {mend}{doubt}",
            kind=ErrorKind.TOO_MANY_TILES,
        )


def _key(area: Area) -> str:
    """Return the key of a request that names an area, as messages have it."""
    return "bbox" if area.shape is None else "area"


def _require_chunks(level: Level, area: Area) -> None:
    """Refuse an area that wants no chunk, or too many, or a part of which would be lost without a word."""
    wanted = wanted_total(level, area)
    _require_few(area, wanted, "chunks", "chunks")
    # Ground is counted in steps. Where m is even, their middles are others than those of chunks.
    counted = wanted and wanted_total(Level(level.zoom, level.k, 1), area)
    lost = "" if counted else "a smaller one"
    if counted and area.shape is not None:
        lost = next(_lost_parts(level, area, area.shape), "")
    if lost:
        raise RequestError(
            f"{_key(area)}: expected an area in which a chunk of zoom {level.zoom} has its middle, and a step of it, "
            f"found {lost}",
            hint="widen the area, or raise chunks.overlap",
            kind=ErrorKind.NO_TILES,
        )


def _lost_parts(level: Level, area: Area, shape: Shape) -> Iterator[str]:
    """Yield the polygons that hold no middle, and corridors that are narrower than a step."""
    alone = len(shape.polygons) < 2 and not shape.routes
    held = {0} if alone else set(polygons_with_middles(area, level).tolist())
    for number, polygon in enumerate(shape.polygons):
        if number not in held:
            longitude, latitude = (each / E7 for each in polygon[0][0])
            longitude -= 360 * (longitude > 180)
            yield f"a polygon without one at longitude {longitude:.7f}, latitude {latitude:.7f}"
    if shape.routes:
        latitude = min(abs(y) for route in shape.routes for _, y in route) / E7
        step_m = side_m(Level(level.zoom, level.k, 1), latitude)
        if shape.width_mm < step_m * 1000:
            yield f"a corridor of {shape.width_mm / 1000:g} m, narrower than a step of {step_m:.1f} m"


def find_holes(wanted: Iterable[WantedTiles], places: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Return the wanted places that are none of some, int32 [n, 3]."""
    parts = [np.zeros((0, 3), dtype=np.int32)]
    for each in wanted:
        columns, rows = np.nonzero(each.absent(places))
        zooms = np.full(len(rows), each.part.z)
        parts.append(np.stack([zooms, columns + each.part.x0, rows + each.part.y0], axis=1).astype(np.int32))
    return np.concatenate(parts)
