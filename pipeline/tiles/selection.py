"""Chooses the tiles of a build: what the area wants, what the source holds, and what age allows.

Ages are judged against `as_of`, or else the day that the caller passes in; no clock is read here. What enters the
identity of a build is the set of tiles selected, not the day.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import overload

import numpy as np
import numpy.typing as npt

from pipeline.errors import ErrorKind, RequestError, TileError
from pipeline.geometry import box_text
from pipeline.request import BuildRequest, TooOldPolicy, UnknownAgePolicy
from pipeline.request_file import read_request_text
from pipeline.tiles.ages import MAX_CSV_BYTES, parse_capture_dates
from pipeline.tiles.grid import TileRange, tile_ranges
from pipeline.tiles.tile import Place, Tile, TileMetadataStore

MAX_WANTED = 20_000_000
"""A request for more tiles than this is taken for a mistake: about 200,000 km² at zoom 18."""


class Places(Sequence[Place]):
    """An immutable sequence of places, kept as an int32 array [n, 3] of z, x, y; millions of them stay small."""

    __slots__ = ("array",)

    def __init__(self, array: npt.NDArray[np.int32]) -> None:
        self.array = array
        self.array.setflags(write=False)

    def __len__(self) -> int:
        return len(self.array)

    @overload
    def __getitem__(self, index: int) -> Place: ...
    @overload
    def __getitem__(self, index: slice) -> "Places": ...
    def __getitem__(self, index: int | slice) -> "Place | Places":
        if isinstance(index, slice):
            return Places(self.array[index])
        return Place(*self.array[index].tolist())

    def __iter__(self) -> Iterator[Place]:
        return (Place(*row) for row in self.array.tolist())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Places) and np.array_equal(self.array, other.array)

    def __hash__(self) -> int:
        return hash(self.array.tobytes())

    def __repr__(self) -> str:
        return f"Places({len(self)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The tiles of a build.

    Attributes:
        tiles: Selected tiles, sorted by (z, x, y).
        wanted: How many tiles the area wants.
        holes: Wanted tiles that the source does not hold, sorted.
        excluded: Tiles left out because they are too old, sorted.
        warnings: What a person should know, one sentence each.
    """

    tiles: tuple[Tile, ...]
    wanted: int
    holes: Places
    excluded: tuple[Tile, ...]
    warnings: tuple[str, ...]


def select_tiles(request: BuildRequest, source: TileMetadataStore, *, today: date) -> Selection:
    """Select the tiles of a build.

    Args:
        request: What is wanted.
        source: What there is.
        today: The day of the build; `as_of` in the request goes before it.

    Raises:
        RequestError: when the area wants more than `MAX_WANTED` tiles, or the dates cannot be read.
        TileError: when there are no tiles, some are too old or of unknown age and that is to fail, or the source or
            the dates are damaged.
    """
    ranges = tile_ranges(request.bbox_e7, request.zoom)
    wanted = sum(part.count for part in ranges)
    if wanted > MAX_WANTED:
        raise RequestError(
            f"bbox, zoom: expected at most {MAX_WANTED} tiles, found an area that wants {wanted}",
            "shrink the box or lower the highest zoom",
            ErrorKind.TOO_MANY_TILES,
        )
    found = source.query_by_bbox(request.bbox_e7, request.zoom)
    if not found:
        raise _no_tiles(request, source, wanted)
    tiles, excluded, warnings = _by_age(request, _dated(request, found), request.tiles.as_of or today)
    if not tiles:
        raise TileError(
            f"expected tiles of at most {request.max_age_days} days, found {len(excluded)} that are all older",
            'fetch newer imagery, or set tiles.max_age_days or tiles.too_old = "warn"',
            ErrorKind.TILES_TOO_OLD,
        )
    return Selection(
        tiles=tuple(tiles),
        wanted=wanted,
        holes=_holes(ranges, found),
        excluded=tuple(excluded),
        warnings=tuple(warnings),
    )


def _no_tiles(request: BuildRequest, source: TileMetadataStore, wanted: int) -> TileError:
    extent = source.extent()
    zooms = f"zooms {extent.zoom[0]} to {extent.zoom[1]}" if extent.zoom else "nothing"
    bounds = f" in {box_text(extent.box_e7)}" if extent.box_e7 else ""
    return TileError(
        f"expected some of the {wanted} tiles of zooms {request.zoom[0]} to {request.zoom[1]} in "
        f"{box_text(request.bbox_e7)}, found none: {source.name} holds {zooms}{bounds}",
        "change bbox, zoom or tiles.source so that they meet",
        ErrorKind.NO_TILES,
        subject=source.name,
    )


def _dated(request: BuildRequest, found: Sequence[Tile]) -> Sequence[Tile]:
    """The tiles with their capture dates."""
    captured = request.tiles.captured
    if captured is None:
        return found
    if isinstance(captured, date):
        return [_with_date(tile, captured) for tile in found]
    path = request.resolve(captured)
    text = read_request_text(path, what="a CSV file of capture dates", limit=MAX_CSV_BYTES)
    dates: Mapping[Place, date] = parse_capture_dates(text, name=str(path))
    return [_with_date(tile, day) if (day := dates.get(tile.place)) else tile for tile in found]


def _with_date(tile: Tile, captured: date) -> Tile:
    return Tile(
        z=tile.z,
        x=tile.x,
        y=tile.y,
        sha256=tile.sha256,
        size=tile.size,
        captured=captured,
        locator=tile.locator,
    )


def _by_age(
    request: BuildRequest, tiles: Sequence[Tile], day: date
) -> tuple[Sequence[Tile], Sequence[Tile], list[str]]:
    """Kept tiles, excluded tiles and warnings."""
    warnings: list[str] = []
    unknown = [tile for tile in tiles if tile.captured is None]
    if unknown:
        said = f"{_examples(unknown)} of unknown age"
        if request.tiles.unknown_age is UnknownAgePolicy.FAIL:
            raise TileError(
                f"expected a capture date for every tile, found {said}",
                "set tiles.captured to a date or to a CSV file that names them",
                ErrorKind.TILE_AGE_UNKNOWN,
                subject=str(unknown[0].place),
            )
        warnings.append(f"{said}; set tiles.captured to judge their age")
    future = [tile for tile in tiles if tile.captured is not None and tile.captured > day]
    if future:
        warnings.append(f"{_examples(future)} captured after {day}; check tiles.captured and tiles.as_of")
    limit = request.max_age_days
    # A whole source shares few dates: judge each date once.
    old_days = {day_ for tile in tiles if (day_ := tile.captured) is not None and (day - day_).days > limit}
    old = [tile for tile in tiles if tile.captured in old_days]
    if not old:
        return tiles, (), warnings
    oldest = min(tile.captured for tile in old if tile.captured is not None)
    said = f"{_examples(old)} older than {limit} days on {day}, the oldest of {oldest}"
    match request.tiles.too_old:
        case TooOldPolicy.FAIL:
            raise TileError(
                f"expected tiles of at most {limit} days, found {said}",
                "fetch newer imagery, or set tiles.max_age_days",
                ErrorKind.TILES_TOO_OLD,
                subject=str(old[0].place),
            )
        case TooOldPolicy.EXCLUDE:
            warnings.append(f"left out {said}")
            return [tile for tile in tiles if tile.captured not in old_days], old, warnings
        case TooOldPolicy.WARN:
            warnings.append(said)
            return tiles, (), warnings


def _examples(tiles: Sequence[Tile]) -> str:
    """How many tiles, and the first few."""
    named = ", ".join(str(tile.place) for tile in tiles[:3]) + (", …" if len(tiles) > 3 else "")
    return f"{len(tiles)} tile{'' if len(tiles) == 1 else 's'} ({named})"


def _holes(ranges: Iterable[TileRange], found: Sequence[Tile]) -> Places:
    """Places of some rectangles where nothing was found."""
    places = np.array([(tile.z, tile.x, tile.y) for tile in found], dtype=np.int32).reshape(len(found), 3)
    parts = [np.zeros((0, 3), dtype=np.int32)]
    for part in ranges:
        absent = np.ones((part.x1 - part.x0 + 1, part.y1 - part.y0 + 1), dtype=np.bool_)
        inside = (places[:, 0] == part.z) & (places[:, 1] >= part.x0) & (places[:, 1] <= part.x1)
        absent[places[inside, 1] - part.x0, places[inside, 2] - part.y0] = False
        columns, rows = np.nonzero(absent)
        zooms = np.full(len(rows), part.z)
        parts.append(np.stack([zooms, columns + part.x0, rows + part.y0], axis=1).astype(np.int32))
    return Places(np.concatenate(parts))
