"""Draft a request from a source: its ground, zooms and dates, so that a build of it succeeds."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from pipeline.builtin_model.place import PLACE_SIZE
from pipeline.errors import ErrorKind, RequestError
from pipeline.planning.area_report import ground_coverage
from pipeline.planning.chunk_levels import ChosenLevel, choose_levels
from pipeline.planning.draft.draft_tiles import look_at_tiles
from pipeline.planning.draft.request_draft import RequestDraft
from pipeline.planning.resolve_inputs import read_calibration
from pipeline.request.area import Area
from pipeline.request.area_files.read_area import read_area
from pipeline.request.geometry import E7, FULL_TURN_E7, HALF_TURN_E7, MERCATOR_LIMIT_E7, BoxE7
from pipeline.request.request import BuildRequest
from pipeline.tiles.grid import TileRange, range_box_e7, tile_ranges
from pipeline.tiles.images.image_header import read_header
from pipeline.tiles.selection import Selection, select_tiles
from pipeline.tiles.sources.raster_file import TILE_PX
from pipeline.tiles.sources.read_tile import read_tile
from pipeline.tiles.tile import TileMetadataStore
from pipeline.tiles.tile_columns import TileColumns
from store.base.geometry.level import EARTH_M, metres_per_pixel
from store.manifest.levels import ChunkLevel

_WIDTH_M: Final = 500.0
"""Width of the corridor along a route, as long as nobody says another."""
_WORLD: Final[BoxE7] = (-HALF_TURN_E7, -MERCATOR_LIMIT_E7, HALF_TURN_E7, MERCATOR_LIMIT_E7)
_COARSER: Final = 3
"""From so many zooms coarser than rendered imagery itself may tiles of chunks be taken."""
_HALF: Final = 0.51
"""Of the side of a chunk, with some for sides that differ by latitude."""


def draft_request(
    source: TileMetadataStore,
    *,
    base: Path,
    paths: Sequence[str],
    calibration: str,
    has_camera: bool,
    altitude_m: tuple[float, float] | None = None,
    area: str | None = None,
    width_m: float | None = None,
    today: date,
) -> RequestDraft:
    """Return a request for what a source holds, or for the part of it in an area.

    Every tile of it is read once; its digest is kept for the build, where the source was opened with a folder for
    that. Up to 4,000 are decoded, to see what the build will say of them.

    Args:
        source: The opened source.
        base: Folder of the request.
        paths: The source as the request has it, relative to that folder, like the other paths.
        calibration: The calibration file; need not exist without an altitude.
        has_camera: Whether that describes a camera.
        altitude_m: Lowest and highest height of the flight above ground, metres.
        area: A file that holds the ground.
        width_m: Width of the corridor along its routes, metres; None assumes one where they have none.
        today: The day for the age of tiles.

    Raises:
        RequestError: The source holds nothing, nothing that can be read or recognised, a file cannot be used, or
            nothing of the area is in the imagery.
        TileError: The source is damaged.
    """
    extent = source.extent()
    if extent.zoom is None:
        raise _nothing_in(source)
    if extent.finest is None:
        coarsest, finest = extent.zoom
        # Not within the bounds that an archive announces: they may be wrong.
        held = TileColumns.of(source.query_by_bbox(_WORLD, (finest, finest)))
        if not len(held):
            raise _nothing_in(source)
        box, edge = _box_of(held), _edge(held)
    else:
        coarsest, finest = max(0, extent.finest - _COARSER), extent.finest
        box, edge = _whole_tiles(extent.box_e7 or _WORLD, finest), TILE_PX
    draft = RequestDraft(
        base=base,
        source=tuple(paths),
        calibration=calibration,
        has_camera=has_camera,
        altitude_m=altitude_m,
        area=area,
        width_m=width_m,
        today=today,
        extent=extent,
        box_e7=box,
        zoom=(finest if altitude_m is None else coarsest, finest),
    )
    draft, ground = _with_area(draft)
    if edge is not None:
        draft = replace(draft, pixel_m=metres_per_pixel(finest, edge, draft.middle_e7[1] / E7))
    return _measured(draft, source, ground)


def _nothing_in(source: TileMetadataStore) -> RequestError:
    return RequestError(
        f"expected tiles in {source.name}, found none",
        hint="name a folder of tiles {z}/{x}/{y}, an archive of them, or GeoTIFF files",
        kind=ErrorKind.NO_TILES,
        subject=source.name,
    )


def _with_area(draft: RequestDraft) -> tuple[RequestDraft, Area | None]:
    """Return the draft with what its file of an area needs, and that area; None without a file.

    Raises:
        RequestError: The file cannot be used.
    """
    if draft.area is None:
        return draft, None
    try:
        area = read_area(draft.request())
    except RequestError as error:
        if draft.width_m is not None:
            raise _of_option(error) from None
        # Routes alone have no ground without a width.
        draft = replace(draft, width_m=_WIDTH_M, width_assumed=True)
        try:
            area = read_area(draft.request())
        except RequestError:
            raise error from None
    return replace(draft, box_e7=area.bbox_e7), area


def _of_option(error: RequestError) -> RequestError:
    """Return what is wrong with the area of a given width, for one who has no request yet."""
    hint = error.hint.replace("area.width_m", "--width")
    return RequestError(error.message, hint=hint, kind=error.kind, subject=error.subject)


def _measured(draft: RequestDraft, source: TileMetadataStore, area: Area | None) -> RequestDraft:
    """Return the draft with what is there of its ground.

    Raises:
        RequestError: Nothing of a wanted area is there, or imagery is too small for chunks.
    """
    request, levels = draft.request(), tuple[ChunkLevel, ...]()
    if draft.altitude_m is not None:
        with _telling_corridor(draft):
            chosen = _levels_for(request, source, area)
        levels = tuple(each.chunks for each in chosen)
        if area is None:
            draft = replace(
                draft, box_e7=_inside(draft.box_e7, _HALF * max(each.described.side_m for each in chosen))
            )
            request = draft.request()
    with _telling_corridor(draft):
        selection = select_tiles(request, source, today=draft.today, area=area, levels=levels)
    coverage = _coverage_of(selection)
    if coverage <= 0:
        raise RequestError(
            f"expected imagery of the area{draft.corridor}, found none of it in {source.name}",
            hint="draw an area inside of the imagery (half a chunk inside where there is an altitude), or name"
            " imagery that covers it",
            kind=ErrorKind.NO_TILES,
            subject=source.name,
        )
    draft = replace(
        draft,
        wanted=selection.wanted,
        tiles=len(selection.tiles),
        coverage=coverage,
        looks=look_at_tiles(selection.tiles),
    )
    _require_use(draft, source.name)
    return draft


@contextmanager
def _telling_corridor(draft: RequestDraft) -> Iterator[None]:
    """Say how wide the ground along a route was taken to be where no tile of it is there.

    Raises:
        RequestError: What was raised, with that in its message.
    """
    try:
        yield
    except RequestError as error:
        if error.kind is ErrorKind.NO_TILES and draft.corridor:
            error.message += f"; the ground that is wanted lies{draft.corridor}"
        raise


def _require_use(draft: RequestDraft, name: str) -> None:
    """Refuse imagery of which no build could make a cache."""
    looks = draft.looks
    if looks.first_unreadable is not None and looks.unreadable == looks.seen:
        place, error = looks.first_unreadable
        raise RequestError(
            f"expected tiles that can be read in {name}, found none: tile {place}: {error.message}",
            hint="fetch the imagery again, or name other imagery",
            kind=ErrorKind.BAD_TILE,
            subject=name,
        )
    if draft.min_fraction <= 0:
        raise RequestError(
            f"expected imagery of ground that can be recognised in {name}, found"
            f" {draft.localisable:.0%} of the area: the rest is missing, featureless, blank, unreadable or alike",
            hint="name imagery that shows more of the ground (a finer one, or without holes), or draw an --area in it",
            kind=ErrorKind.COVERAGE_TOO_LOW,
            subject=name,
        )


def _levels_for(
    request: BuildRequest, source: TileMetadataStore, area: Area | None
) -> tuple[ChosenLevel, ...]:
    """Return the levels of chunks that the heights need.

    Raises:
        RequestError: There are none; it names the options of the one who asked, who has no request yet.
    """
    camera = read_calibration(request)
    try:
        return choose_levels(request, camera, source, area=area, input_side_px=min(PLACE_SIZE))
    except RequestError as error:
        if error.kind is ErrorKind.NO_TILES or not error.message.startswith("chunks: "):
            raise
        raise RequestError(
            f"--altitude: {error.message}",
            hint="name a lower --altitude, or coarser imagery of a wider area; fx and fy of the camera are in pixels",
            kind=error.kind,
        ) from error


def _coverage_of(selection: Selection) -> float:
    """Return the part of the area that is there, as a build counts it before it looks at the tiles."""
    if not selection.levels:
        return len(selection.tiles) / selection.wanted
    return min(
        ground_coverage(each.level, each.area, each.made.ids, np.zeros(len(each.made), np.bool_)).localisable
        for each in selection.levels
    )


def _box_of(held: TileColumns) -> BoxE7:
    """Return the box of some tiles of one zoom."""
    z, rows = int(held.places[0, 0]), held.places[:, 2]
    return _box_between(
        z, _columns(held.places[:, 1].astype(np.int64), 1 << z), int(rows.min()), int(rows.max())
    )


def _whole_tiles(box: BoxE7, z: int) -> BoxE7:
    """Return the box of the tiles that lie in another one as a whole; the other one itself if none does."""
    # The first part is that east of the antimeridian, where there are two.
    parts = tile_ranges(box, (z, z))
    x0, x1, y0, y1 = parts[-1].x0 + 1, parts[0].x1 - 1, parts[0].y0 + 1, parts[0].y1 - 1
    if (x0 > x1 and len(parts) == 1) or y0 > y1:
        return box
    around = 1 << z
    return _box_between(z, (x0 % around, x1 % around), y0, y1)


def _box_between(z: int, columns: tuple[int, int], y0: int, y1: int) -> BoxE7:
    west, south, _, north = range_box_e7(TileRange(z=z, x0=columns[0], x1=columns[0], y0=y0, y1=y1))
    return west, south, range_box_e7(TileRange(z=z, x0=columns[1], x1=columns[1], y0=y0, y1=y1))[2], north


def _columns(columns: npt.NDArray[np.int64], around: int) -> tuple[int, int]:
    """Return the first and last of some columns, eastwards from the widest gap: it may lie on either side of 180°."""
    known = np.unique(columns)
    gaps = np.diff(known, append=known[0] + around)
    last = len(known) - 1 if gaps[-1] == gaps.max() else int(gaps.argmax())
    return int(known[(last + 1) % len(known)]), int(known[last])


def _inside(box: BoxE7, metres: float) -> BoxE7:
    """Return what lies so far inside of a box.

    Raises:
        RequestError: Nothing does.
    """
    west, south, east, north = box
    circle = FULL_TURN_E7 / EARTH_M
    across = math.ceil(metres * circle / math.cos(math.radians(max(abs(south), abs(north)) / E7)))
    # Of Web Mercator: a metre is as long along both axes, and a degree of latitude as long as one at the equator.
    down = math.ceil(metres * circle)
    wide = (east - west) % FULL_TURN_E7 or FULL_TURN_E7
    if wide <= 2 * across or north - south <= 2 * down:
        pixel = 1 / circle
        raise RequestError(
            f"--altitude: expected imagery larger than a chunk of {2 * metres:.0f} m, found"
            f" {wide * pixel * math.cos(math.radians(north / E7)):.0f} x {(north - south) * pixel:.0f} m",
            hint="name a lower altitude, or more imagery",
        )
    west, east = west + across, east - across
    return (
        west - FULL_TURN_E7 if west >= HALF_TURN_E7 else west,
        south + down,
        east + FULL_TURN_E7 if east <= -HALF_TURN_E7 else east,
        north - down,
    )


def _edge(held: TileColumns) -> int | None:
    """Return the width of a tile, pixels; None if it cannot be read."""
    header = read_header(read_tile(held[len(held) // 2].locator))
    return None if header is None else header.width
