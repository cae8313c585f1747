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
from pipeline.tiles.image_header import read_header
from pipeline.tiles.sources.read_tile import read_tile
from pipeline.tiles.tile import Locator, TileMetadataStore
from store.base.camera import Camera, level_sides_m
from store.base.canonical_json import Document
from store.base.lattice import choose_level, metres_per_pixel, overlap_of, side_m
from store.base.level import Level
from store.base.valueclass import valueclass
from store.manifest.levels import MAX_LEVELS, ChunkLevel, parse_levels

_SAMPLED_TILES: Final = 9
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
    """

    described: DescribedLevel
    wanted_m: float
    asked: float
    available: float
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

    def warnings(self, box: BoxE7, origin_latitude: float) -> Iterator[str]:
        """Yield what is allowed, but makes places harder to find."""
        number, side = self.described.number, self.described.side_m
        if self.also_wanted_m:
            wanted = ", ".join(f"{each:g}" for each in (self.wanted_m, *self.also_wanted_m))
            yield (
                f"level {number}: sides of {wanted} m are the same chunks, of {side:.0f} m; remove one from"
                " [[chunks.level]], or raise its overlap"
            )
        if self.available > 2 * self.asked:
            yield (
                f"level {number}: the imagery has {self.available:.2f} m per pixel, less than half of the detail"
                f" that chunks of {side:.0f} m can show ({self.asked:.2f} m); add a higher zoom"
            )
        sides = [side_m(self.chunks.level, latitude / E7) for latitude in (box[1], box[3])]
        furthest = max(sides, key=lambda each: abs(each - side))
        if abs(furthest / side - 1) > _LARGEST_DIFFERENCE:
            yield (
                f"level {number}: a chunk is {side:.0f} m wide at latitude {origin_latitude:g}, but"
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
                hint="change zoom, bbox, tiles.source, or the side and overlap of chunks, so that they meet",
                kind=ErrorKind.BAD_REQUEST if edges else ErrorKind.NO_TILES,
            ) from error
        chosen.setdefault(level, []).append(side)
    return tuple(_chosen_levels(request, chosen, edges, latitude, input_side_px=input_side_px))


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
