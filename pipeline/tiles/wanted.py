"""Which tiles a request wants: of its area, or under the chunks of it. Pure.

Wanted tiles are parts of a few disjoint rectangles, so that a source is asked for little else.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from pipeline.errors import ErrorKind, PipelineError, RequestError, TileError
from pipeline.request.area import Area
from pipeline.request.geometry import BoxE7, box_text, split_at_antimeridian
from pipeline.request.request import BuildRequest
from pipeline.tiles.chunks import disjoint_ranges, tile_runs_under, tiles_of, wanted_chunks, wanted_total
from pipeline.tiles.grid import MAX_WANTED, TileRange, tile_ranges
from pipeline.tiles.patches import Rectangle, cover
from pipeline.tiles.raster import Mask, Runs, TooDetailedError, middle_runs, tile_runs
from pipeline.tiles.tile import Extent, TileMetadataStore
from pipeline.tiles.tile_columns import TileColumns
from store.base.level import Level
from store.manifest.levels import ChunkLevel

_MOST_PARTS: Final = 48
"""So many rectangles are asked for at most; an archive's list is kept for 64 (`pipeline.tiles.archive_cache`)."""


@dataclass(frozen=True, slots=True, eq=False)
class WantedTiles:
    """Some tiles of a rectangle: those of the mask, bool [columns, rows], or all without one."""

    part: TileRange
    mask: Mask | None = None

    @property
    def count(self) -> int:
        """Number of tiles."""
        return self.part.count if self.mask is None else int(self.mask.sum())

    def among(self, tiles: TileColumns) -> TileColumns:
        """Return those of some tiles of the rectangle that are wanted."""
        if self.mask is None:
            return tiles
        wanted = self.mask[tiles.places[:, 1] - self.part.x0, tiles.places[:, 2] - self.part.y0]
        return replace(tiles.take(wanted), warnings=tiles.warnings)


def wanted_tiles_of(
    request: BuildRequest, area: Area, levels: Sequence[ChunkLevel]
) -> tuple[WantedTiles, ...]:
    """Return the wanted tiles as parts of disjoint rectangles, sorted by zoom and column.

    Raises:
        RequestError: The area wants more than `MAX_WANTED` tiles or chunks, or a part of it is smaller than a step.
    """
    for level in levels:
        require_chunks(level.level, area)
    try:
        found = _wanted_parts(request, area, levels)
    except TooDetailedError as error:
        raise RequestError(
            f"area: expected an outline that fits the tiles, found {error}",
            hint="simplify the outline, or lower the highest zoom",
            kind=ErrorKind.TOO_MANY_TILES,
        ) from error
    return found


def _wanted_parts(request: BuildRequest, area: Area, levels: Sequence[ChunkLevel]) -> tuple[WantedTiles, ...]:
    if area.shape is not None:
        runs = _wanted_runs(request, area, levels)
        _require_few_tiles(sum(each.total for each in runs.values()))
        return tuple(
            WantedTiles(TileRange(z=zoom, x0=x0, x1=x0 + nx - 1, y0=y0, y1=y0 + ny - 1), patch.mask)
            for zoom, patch in cover(runs, most=_MOST_PARTS)
            for x0, nx, y0, ny in (patch.rectangle,)
        )
    ranges = tile_ranges(area.bbox_e7, request.zoom)
    if levels:
        by_zoom: dict[int, list[Rectangle]] = {}
        for each in levels:
            under = tiles_of(each.level, wanted_chunks(each.level, area.bbox_e7))
            by_zoom.setdefault(each.level.zoom, []).append(under)
        ranges = tuple(
            part for zoom, parts in sorted(by_zoom.items()) for part in disjoint_ranges(zoom, parts)
        )
    _require_few_tiles(sum(part.count for part in ranges))
    return tuple(map(WantedTiles, ranges))


def _wanted_runs(request: BuildRequest, area: Area, levels: Sequence[ChunkLevel]) -> dict[int, Runs]:
    """Return the wanted tiles by zoom."""
    if not levels:
        return {zoom: tile_runs(area, zoom) for zoom in range(request.zoom[0], request.zoom[1] + 1)}
    found: dict[int, Runs] = {}
    for each in levels:
        under = tile_runs_under(each.level, middle_runs(area, each.level))
        known = found.get(each.level.zoom)
        found[each.level.zoom] = under if known is None else known.joined(under)
    return found


def _require_few_tiles(wanted: int) -> None:
    if wanted > MAX_WANTED:
        raise RequestError(
            f"bbox, zoom: expected at most {MAX_WANTED} tiles, found an area that wants {wanted}",
            hint="shrink the box or lower the highest zoom",
            kind=ErrorKind.TOO_MANY_TILES,
        )


def require_chunks(level: Level, area: Area) -> None:
    """Refuse an area that wants no chunk, or too many.

    Raises:
        RequestError: It does.
        TooDetailedError: Its outline has too many edges.
    """
    wanted = wanted_total(level, area)
    if not wanted:
        raise RequestError(
            f"bbox: expected an area in which a chunk of zoom {level.zoom} has its middle, found a smaller one",
            hint="widen the box, or raise chunks.overlap",
            kind=ErrorKind.NO_TILES,
        )
    if wanted > MAX_WANTED:
        raise RequestError(
            f"bbox, chunks: expected at most {MAX_WANTED} chunks, found an area that wants {wanted}",
            hint="shrink the box or lower chunks.overlap",
            kind=ErrorKind.TOO_MANY_TILES,
        )


def no_tiles(
    request: BuildRequest,
    source: TileMetadataStore,
    area: Area,
    wanted: Sequence[WantedTiles],
    *hints: str,
) -> PipelineError:
    """Return the error of a request of whose tiles a source has none."""
    extent, count = source.extent(), sum(part.count for part in wanted)
    zooms = f"zooms {extent.zoom[0]} to {extent.zoom[1]}" if extent.zoom else "nothing"
    bounds = f" in {box_text(extent.box_e7)}" if extent.box_e7 else ""
    # A box was refused by this error before there were shapes, and a build of it is recorded as failed.
    kind = TileError if area.shape is None else RequestError
    return kind(
        f"expected some of the {count} tiles of zooms {request.zoom[0]} to {request.zoom[1]} in "
        f"{area.text}, found none: {source.name} holds {zooms}{bounds}",
        hint="; ".join(hints) or _hint_to_meet(request, area, extent),
        kind=ErrorKind.NO_TILES,
        subject=source.name,
    )


def _hint_to_meet(request: BuildRequest, area: Area, extent: Extent) -> str:
    if extent.zoom is None:
        return "put tiles there, or name another tiles.source"
    least, greatest = extent.zoom
    if request.zoom[0] > greatest or request.zoom[1] < least:
        return f"set zoom = [{least}, {greatest}], or name a tiles.source that has other zooms"
    west, south, east, north = area.bbox_e7
    if extent.box_e7 is not None and _meet((south, west, north, east), extent.box_e7):
        return "exchange longitude and latitude: the source has imagery where they are exchanged"
    what = "bbox" if area.shape is None else "the area"
    if area.shape is None and west > east:
        return "exchange west and east in bbox: a box whose west is greater crosses the antimeridian"
    return f"change {what}, zoom or tiles.source so that they meet"


def _meet(one: BoxE7, other: BoxE7) -> bool:
    return any(
        a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
        for a in split_at_antimeridian(one)
        for b in split_at_antimeridian(other)
    )


def find_holes(wanted: Iterable[WantedTiles], places: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Return the wanted places that are none of some, int32 [n, 3]."""
    parts = [np.zeros((0, 3), dtype=np.int32)]
    for each in wanted:
        part = each.part
        size = (part.x1 - part.x0 + 1, part.y1 - part.y0 + 1)
        absent = np.ones(size, dtype=np.bool_) if each.mask is None else each.mask.copy()
        inside = (places[:, 0] == part.z) & (places[:, 1] >= part.x0) & (places[:, 1] <= part.x1)
        inside &= (places[:, 2] >= part.y0) & (places[:, 2] <= part.y1)
        absent[places[inside, 1] - part.x0, places[inside, 2] - part.y0] = False
        columns, rows = np.nonzero(absent)
        zooms = np.full(len(rows), part.z)
        parts.append(np.stack([zooms, columns + part.x0, rows + part.y0], axis=1).astype(np.int32))
    return np.concatenate(parts)
