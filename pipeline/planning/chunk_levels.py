"""Choose the levels of chunks: from altitude and camera, or from the sides that the request names.

A chunk is to show as much ground as the camera sees, at about the resolution that the network takes in.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from pipeline.errors import ErrorKind, PipelineError, RequestError
from pipeline.request.geometry import E7, FULL_TURN_E7, HALF_TURN_E7, BoxE7
from pipeline.request.options import DEFAULT_OVERLAP
from pipeline.request.request import BuildRequest
from pipeline.tiles.chunks import make_chunks
from pipeline.tiles.image_header import read_header
from pipeline.tiles.retrieval_units import RetrievalUnits
from pipeline.tiles.sources.read_tile import read_tile
from pipeline.tiles.tile import Locator, TileMetadataStore
from pipeline.tiles.tile_columns import TileColumns
from store.base.camera import Camera, level_sides_m
from store.base.canonical_json import Document
from store.base.lattice import Level, choose_level, metres_per_pixel, overlap_of, side_m
from store.base.valueclass import valueclass
from store.formats.tables import TileTable
from store.manifest.levels import MAX_LEVELS, ChunkLevel, parse_levels

_SAMPLED_TILES: Final = 9
_LARGEST_DIFFERENCE: Final = 0.12
"""Greatest difference of a side across the area, as a part, that needs no warning."""


@valueclass(frozen=True, slots=True, kw_only=True)
class ChosenLevel:
    """A level of chunks, and what it was chosen for; lengths are true at the take-off point.

    Attributes:
        number: From 1 by rising side.
        chunks: The level, and the edge of its tiles.
        wanted_m: Side that was asked for, metres; as recorded builds do not keep it, `side_m` there.
        side_m: Side, metres.
        asked: Metres per pixel of the network's input.
        available: Metres per pixel of the imagery.
    """

    number: int
    chunks: ChunkLevel
    wanted_m: float
    side_m: float
    asked: float
    available: float

    @property
    def level(self) -> Level:
        """The level."""
        return self.chunks.level

    def to_document(self, chunks: int) -> Document:
        """Return what programs get, given the number of its chunks."""
        level = self.level
        return {
            "level": self.number,
            "zoom": level.zoom,
            "k": level.k,
            "m": level.m,
            "wanted_m": round(self.wanted_m, 2),
            "side_m": round(self.side_m, 2),
            "overlap": round(overlap_of(level), 3),
            "chunks": chunks,
            "metres_per_pixel": {"asked": round(self.asked, 3), "available": round(self.available, 3)},
        }

    def warnings(self, box: BoxE7, origin_latitude: float) -> Iterator[str]:
        """Yield what is allowed, but makes places harder to find."""
        if self.available > 2 * self.asked:
            yield (
                f"level {self.number}: the imagery has {self.available:.2f} m per pixel, less than half of the"
                f" detail that chunks of {self.side_m:.0f} m can show ({self.asked:.2f} m); add a higher zoom"
            )
        sides = [side_m(self.level, latitude / E7) for latitude in (box[1], box[3])]
        furthest = max(sides, key=lambda side: abs(side - self.side_m))
        if abs(furthest / self.side_m - 1) > _LARGEST_DIFFERENCE:
            yield (
                f"level {self.number}: a chunk is {self.side_m:.0f} m wide at latitude {origin_latitude:g}, but"
                f" {furthest:.0f} m at an edge of the area; build several caches"
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
    request: BuildRequest, calibration: bytes, source: TileMetadataStore, *, input_side_px: int
) -> tuple[ChosenLevel, ...]:
    """Choose the levels that a request wants, by rising side; none if tiles get the descriptors.

    Args:
        request: The request.
        calibration: Bytes of the calibration file.
        source: The imagery.
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
    edges = {zoom: edge for zoom in _zooms(request) if (edge := _tile_edge(request, source, zoom))}
    latitude = request.origin_e7[1] / E7
    chosen: dict[Level, float] = {}
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
                hint="change zoom, bbox, tiles.source, or the side and overlap of chunks, so that they meet",
                kind=ErrorKind.BAD_REQUEST if edges else ErrorKind.NO_TILES,
            ) from error
        chosen.setdefault(level, side)
    ordered = sorted(chosen, key=lambda level: side_m(level, latitude))
    return tuple(
        _described(number, ChunkLevel(level=each, tile_edge=edges[each.zoom]), latitude, input_side_px, chosen[each])
        for number, each in enumerate(ordered, 1)
    )


def _described(
    number: int, chunks: ChunkLevel, latitude: float, input_side_px: int, wanted_m: float | None = None
) -> ChosenLevel:
    side = side_m(chunks.level, latitude)
    return ChosenLevel(
        number=number,
        chunks=chunks,
        wanted_m=side if wanted_m is None else wanted_m,
        side_m=side,
        asked=side / input_side_px,
        available=metres_per_pixel(chunks.level.zoom, chunks.tile_edge, latitude),
    )


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


def _tile_edge(request: BuildRequest, source: TileMetadataStore, zoom: int) -> int | None:
    """Return the most usual edge of the tiles of a zoom in the area's middle, pixels; None without tiles."""
    for part in (64, 8, 1):
        tiles = source.query_by_bbox(_middle_part(request.bbox_e7, part), (zoom, zoom))
        edges = Counter(filter(None, (_edge(tile.locator) for tile in tiles[:_SAMPLED_TILES])))
        if edges:
            return max(edges, key=lambda edge: (edges[edge], -edge))
    return None


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


def levels_document(levels: Sequence[ChosenLevel]) -> Document | None:
    """Return what the identity of a build names of its levels; None without any."""
    return {"levels": [each.chunks.to_document() for each in levels]} if levels else None


def units_of_table(table: TileTable, inputs: Mapping[str, Any]) -> RetrievalUnits:
    """Return what got a descriptor in a recorded build.

    Args:
        table: Its tile table.
        inputs: The inputs that it recorded.
    """
    tiles, levels = TileColumns.from_table(table), parse_levels(inputs)
    if not levels:
        return RetrievalUnits.of_tiles(tiles)
    west, south, east, north = inputs["bbox_e7"]
    made = (make_chunks(level, (west, south, east, north), tiles).made for level in levels)
    return RetrievalUnits.joined(made)
