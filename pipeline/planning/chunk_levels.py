"""Choose the levels of chunks: from altitude and camera, or from the sides that the request names.

A chunk is to show as much ground as the camera sees, at about the resolution that the network takes in.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from pipeline.errors import ErrorKind, PipelineError, RequestError
from pipeline.planning.imagery_detail import upsampled_pixel_mm
from pipeline.request.area import Area
from pipeline.request.geometry import E7, FULL_TURN_E7, HALF_TURN_E7, BoxE7
from pipeline.request.options import DEFAULT_OVERLAP
from pipeline.request.request import BuildRequest
from pipeline.tiles.grid import range_box_e7, tile_box_e7
from pipeline.tiles.images.image_header import read_header
from pipeline.tiles.selection import no_tiles
from pipeline.tiles.sources.read_tile import read_tile
from pipeline.tiles.tile import Locator, Place, RendersTiles, TileMetadataStore
from pipeline.tiles.tile_columns import TileColumns
from pipeline.tiles.wanted import wanted_tiles_of
from store.base.cache_warning import CacheWarning
from store.base.canonical_json import Document
from store.base.geometry.camera import Camera, level_sides_m
from store.base.geometry.lattice import choose_level, overlap_of
from store.base.geometry.level import Level, metres_per_pixel, pixel_m, side_m
from store.base.valueclass import valueclass
from store.manifest.levels import MAX_LEVELS, ChunkLevel, parse_levels

_SAMPLED_TILES: Final = 9
_COARSER: Final = 4
"""Of an area that is no box, tiles are sampled under tiles of so many zooms less."""
_BY_HAND: Final = "change zoom, bbox, tiles.source, or the side and overlap of chunks, so that they meet"
_BY_ALTITUDE: Final = (
    "change altitude_m, zoom, bbox or tiles.source so that they meet; fx and fy of the calibration are in pixels, "
    "not millimetres"
)
_LARGEST_DIFFERENCE: Final = 0.12
"""Greatest difference of a side across the area, as a part, that needs no warning."""


@valueclass(frozen=True, slots=True, kw_only=True)
class DescribedLevel:
    """A level of chunks; its side is true at the take-off point.

    Attributes:
        number: From 1 by rising side.
        chunks: The level, and the edge of its tiles.
        side_m: Side of a chunk, metres.
    """

    number: int
    chunks: ChunkLevel
    side_m: float

    @property
    def level(self) -> Level:
        """The level."""
        return self.chunks.level

    def to_document(self) -> dict[str, Any]:
        """Return what programs get."""
        return {
            "level": self.number,
            "zoom": self.level.zoom,
            "k": self.level.k,
            "m": self.level.m,
            "side_m": round(self.side_m, 2),
            "overlap": round(overlap_of(self.level), 3),
        }


def described_levels(inputs: Mapping[str, Any]) -> list[DescribedLevel]:
    """Return the levels in the inputs of a build.

    Raises:
        KeyError, TypeError, ValueError: No build of this version records such inputs.
    """
    latitude = inputs["origin"]["lat_e7"] / E7
    return [
        DescribedLevel(number=number, chunks=each, side_m=side_m(each.level, latitude))
        for number, each in enumerate(parse_levels(inputs), 1)
    ]


@valueclass(frozen=True, slots=True, kw_only=True)
class ChosenLevel:
    """A level that a request wants; lengths are true at the take-off point.

    Attributes:
        described: The level.
        wanted_m: Side that was asked for, metres.
        also_wanted_m: Further sides that were chosen by hand and are these very chunks on the lattice.
        asked: Metres per pixel of the network's input.
        available: Metres per pixel of the imagery.
        source_mm: Side of its pixels where its tiles are upsampled, millimetres of the Web Mercator projection.
    """

    described: DescribedLevel
    wanted_m: float
    asked: float
    available: float
    source_mm: int | None = None
    also_wanted_m: tuple[float, ...] = ()

    @property
    def chunks(self) -> ChunkLevel:
        """The level, and the edge of its tiles."""
        return self.described.chunks

    def to_document(self, chunks: int) -> dict[str, Any]:
        """Return what programs get, given the number of its chunks."""
        return {
            **self.described.to_document(),
            "wanted_m": round(self.wanted_m, 2),
            "chunks": chunks,
            "metres_per_pixel": {"asked": round(self.asked, 3), "available": round(self.available, 3)},
        }

    def warnings(self, box: BoxE7, origin_latitude: float) -> Iterator[CacheWarning]:
        """Yield what is allowed, but makes places harder to find; that imagery is too coarse says its readiness."""
        number, side = self.described.number, self.described.side_m
        if self.also_wanted_m:
            wanted = ", ".join(f"{each:g}" for each in (self.wanted_m, *self.also_wanted_m))
            yield CacheWarning(
                kind="same-chunks",
                message=f"level {number}: sides of {wanted} m are the same chunks, of {side:.0f} m",
                hint="remove one from [[chunks.level]], or raise its overlap",
            )
        widest = min(max(box[1], 0), box[3])
        sides = [side_m(self.chunks.level, latitude / E7) for latitude in (box[1], widest, box[3])]
        furthest = max(sides, key=lambda each: abs(each - side))
        if abs(furthest / side - 1) > _LARGEST_DIFFERENCE:
            yield CacheWarning(
                kind="uneven-sides",
                message=f"level {number}: a chunk is {side:.0f} m wide at latitude {origin_latitude:g}, but"
                f" {furthest:.0f} m elsewhere in the area",
                hint="build several caches",
            )


def read_camera(calibration: bytes) -> Camera:
    """Return the camera of a calibration file.

    Raises:
        RequestError: The file does not describe one.
    """
    try:
        return Camera.from_document(json.loads(calibration))
    except ValueError as error:
        raise RequestError(
            f"calibration: {error}",
            hint="altitude_m needs the camera's width, height, fx and fy in pixels; or name [[chunks.level]] side_m",
        ) from error


def choose_levels(
    request: BuildRequest,
    calibration: bytes,
    source: TileMetadataStore,
    *,
    area: Area | None = None,
    input_side_px: int,
) -> tuple[ChosenLevel, ...]:
    """Choose the levels that a request wants, by rising side; none if tiles get the descriptors.

    Args:
        request: The request.
        calibration: Bytes of the calibration file.
        source: The imagery.
        area: The ground that is wanted; by default the request's box or boxes.
        input_side_px: Side of the network's input, pixels; the smaller one.

    Raises:
        RequestError: The sizes cannot be met, or the calibration has no camera.
        TileError: The source is damaged.
    """
    if not request.cuts_chunks:
        return ()
    wanted = _wanted_sides(request, calibration)
    if len(wanted) > MAX_LEVELS:
        raise RequestError(
            f"altitude_m: expected heights that {MAX_LEVELS} sizes of chunks serve, found that they take {len(wanted)}",
            hint="narrow altitude_m, and build another cache for the other heights",
        )
    ground = request.area_of_boxes() if area is None else area
    edges = {zoom: edge for zoom in _zooms(request) if (edge := _tile_edge(ground, source, zoom))}
    if not edges:
        _require_tiles(request, source, ground)
    latitude = request.origin_e7[1] / E7
    chosen: dict[Level, list[float]] = {}
    for side, overlap in wanted:
        try:
            level = choose_level(
                side,
                overlap,
                zooms=request.zoom,
                tile_edges=edges,
                input_side_px=input_side_px,
                latitude_deg=latitude,
            )
        except ValueError as error:
            raise RequestError(
                f"chunks: {error}",
                hint=_BY_HAND if request.altitude_m is None else _BY_ALTITUDE,
                kind=ErrorKind.BAD_REQUEST if edges else ErrorKind.NO_TILES,
            ) from error
        chosen.setdefault(level, []).append(side)
    pixels = source.pixel_sides() if isinstance(source, RendersTiles) else ()
    return tuple(
        replace(each, source_mm=source_mm, available=max(each.available, pixel_m(source_mm, latitude)))
        for each in _chosen_levels(request, chosen, edges, latitude, input_side_px=input_side_px)
        for source_mm in (
            upsampled_pixel_mm(ground, each.described.level.zoom, each.chunks.tile_edge, pixels),
        )
    )


def _chosen_levels(
    request: BuildRequest,
    chosen: Mapping[Level, Sequence[float]],
    edges: Mapping[int, int],
    latitude: float,
    *,
    input_side_px: int,
) -> Iterator[ChosenLevel]:
    """Yield levels by rising side, given the sides that each was chosen for, and the edges of tiles by zoom."""
    for number, level in enumerate(sorted(chosen, key=lambda each: side_m(each, latitude)), 1):
        chunks, side = ChunkLevel(level=level, tile_edge=edges[level.zoom]), side_m(level, latitude)
        yield ChosenLevel(
            described=DescribedLevel(number=number, chunks=chunks, side_m=side),
            wanted_m=chosen[level][0],
            also_wanted_m=tuple(chosen[level][1:]) if request.altitude_m is None else (),
            asked=side / input_side_px,
            available=metres_per_pixel(level.zoom, chunks.tile_edge, latitude),
        )


def _require_tiles(request: BuildRequest, source: TileMetadataStore, area: Area) -> None:
    wanted = wanted_tiles_of(area, request.zoom, ())
    found = TileColumns.joined([source.query_by_bbox(area.bbox_e7, request.zoom)])
    if not len(found):
        error = no_tiles(request, source, area, wanted, *found.warnings)
        raise RequestError(f"chunks: {error.message}", hint=error.hint, kind=ErrorKind.NO_TILES)
    from pipeline.tiles.images.decode import decode  # noqa: PLC0415 - loads decoders, which only this error needs

    first = found[0]
    try:
        decode(read_tile(first.locator))
    except PipelineError as error:
        raise RequestError(
            f"expected tiles that can be read in {source.name}, found tile {first.place}: {error.message}",
            hint="fetch the imagery again, or name other imagery",
            kind=ErrorKind.BAD_TILE,
            subject=source.name,
        ) from error


def _wanted_sides(request: BuildRequest, calibration: bytes) -> Sequence[tuple[float, float]]:
    """Return side in metres and overlap of every level that a request wants."""
    chunks = request.chunks
    if request.altitude_m is None:
        return [] if chunks is None else [(each.side_m, each.overlap) for each in chunks.level]
    overlap = DEFAULT_OVERLAP if chunks is None else chunks.overlap
    lowest, highest = request.altitude_m
    return [(side, overlap) for side in level_sides_m(lowest, highest, read_camera(calibration))]


def _zooms(request: BuildRequest) -> range:
    return range(request.zoom[0], request.zoom[1] + 1)


def _tile_edge(area: Area, source: TileMetadataStore, zoom: int) -> int | None:
    """Return the most usual edge of the tiles of a zoom in the area's middle, pixels; None without tiles."""
    for box in _sampled_boxes(area, zoom):
        tiles = source.query_by_bbox(box, (zoom, zoom))
        edges = Counter(filter(None, (_edge(tile.locator) for tile in tiles[:_SAMPLED_TILES])))
        if edges:
            return max(edges, key=lambda edge: (edges[edge], -edge))
    return None


def _sampled_boxes(area: Area, zoom: int) -> Iterator[BoxE7]:
    """Yield where to look for tiles of a zoom: the middle of a box, or of each part of another area, and then all."""
    if area.shape is None:
        yield from (_middle_part(area.bbox_e7, part) for part in (64, 8, 1))
        return
    coarse = max(0, zoom - _COARSER)
    parts = wanted_tiles_of(area, (coarse, coarse))
    for each in parts:
        places = np.argwhere(each.absent(np.zeros((0, 3), np.int32)))
        column, row = places[len(places) // 2].tolist()
        yield tile_box_e7(Place(coarse, each.part.x0 + column, each.part.y0 + row))
    yield from (range_box_e7(each.part) for each in parts)


def _edge(locator: Locator) -> int | None:
    try:
        header = read_header(read_tile(locator))
    except PipelineError:
        return None
    return None if header is None else header.width


def _middle_part(box: BoxE7, part: int) -> BoxE7:
    """Return the middle 1/part of a box along each axis."""
    west, south, east, north = box
    east += FULL_TURN_E7 if west > east else 0
    across, down = (east - west) * (part - 1) // (2 * part), (north - south) * (part - 1) // (2 * part)
    west, east = west + across, east - across
    return (
        west - FULL_TURN_E7 if west >= HALF_TURN_E7 else west,
        south + down,
        east - FULL_TURN_E7 if east > HALF_TURN_E7 else east,
        north - down,
    )


def imagery_document(levels: Sequence[ChosenLevel]) -> Document | None:
    """Return what the identity of a build names of its imagery: how coarse it is, where that is told; else None."""
    sides = [each.source_mm or 0 for each in levels]
    return {"pixel_mm": sides} if any(sides) else None


def levels_document(levels: Sequence[ChosenLevel]) -> Document | None:
    """Return what the identity of a build names of its levels; None without any."""
    return {"levels": [each.chunks.to_document() for each in levels]} if levels else None
