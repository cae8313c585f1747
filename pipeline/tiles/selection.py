"""Select the tiles of a build: those that the area wants, the source has, and the age limit allows.

Ages are computed from `as_of`, or else from the day that the caller passes; no clock is read here. The set of
selected tiles enters the identity of a build, not the day.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import numpy.typing as npt

from pipeline.errors import ErrorKind, RequestError, TileError
from pipeline.request.files import read_request_text
from pipeline.request.geometry import box_text, doubt_of_crossing
from pipeline.request.options import TooOldPolicy, UnknownAgePolicy
from pipeline.request.request import BuildRequest
from pipeline.tiles.capture_dates import MAX_CSV_BYTES, parse_capture_dates
from pipeline.tiles.chunks import (
    LevelChunks,
    Rectangle,
    ShownTiles,
    disjoint_ranges,
    make_chunks,
    tiles_of,
    wanted_chunks,
)
from pipeline.tiles.grid import MAX_WANTED, TileRange, range_box_e7, tile_ranges
from pipeline.tiles.retrieval_units import RetrievalUnits
from pipeline.tiles.tile import Extent, Place, TileMetadataStore
from pipeline.tiles.tile_columns import NO_DAY, TileColumns
from store.formats.tables import encode_tile_columns
from store.manifest.levels import ChunkLevel


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Selection:
    """The tiles of a build.

    Attributes:
        tiles: Selected tiles, sorted by (z, x, y).
        levels: The chunks of each level, by rising side; none where the tiles get the descriptors.
        wanted: Number of tiles that the area wants, or its chunks.
        holes: Zoom, column and row of wanted tiles that the source does not have, int32 [n, 3], sorted.
        excluded: Tiles that are too old, sorted.
        warnings: One sentence each.
    """

    tiles: TileColumns
    wanted: int
    holes: npt.NDArray[np.int32]
    excluded: TileColumns
    warnings: tuple[str, ...]
    levels: tuple[LevelChunks, ...] = ()

    @property
    def units(self) -> RetrievalUnits:
        """What gets a descriptor: the tiles, or the chunks of all levels."""
        if not self.levels:
            return RetrievalUnits.of_tiles(self.tiles)
        return RetrievalUnits.joined(level.made for level in self.levels)

    @property
    def unit_count(self) -> int:
        """How many units there are."""
        return sum(len(level.made) for level in self.levels) if self.levels else len(self.tiles)

    @property
    def chunk_count(self) -> int:
        """How many chunks there are; 0 where the tiles are the units."""
        return self.unit_count if self.levels else 0

    def shown_tiles(self) -> ShownTiles:
        """Return what finds the tiles that units show."""
        return ShownTiles(self.tiles, {each.level.zoom: each.tile_edge for each in self.levels})

    def encoded(self) -> bytes:
        """Return the bytes of the tile table."""
        tiles, order = self.tiles, np.argsort(self.tiles.ids, kind="stable")
        return encode_tile_columns(
            tiles.ids[order].astype(np.uint64), tiles.digests[order], tiles.days[order]
        )


def select_tiles(
    request: BuildRequest, source: TileMetadataStore, *, today: date, levels: Sequence[ChunkLevel] = ()
) -> Selection:
    """Select the tiles of a build.

    Args:
        request: What is wanted.
        source: The tiles that exist.
        today: The day of the build; the request's `as_of` takes precedence.
        levels: The levels of chunks, by rising side; none if the tiles get the descriptors.

    Raises:
        RequestError: when the area wants more than `MAX_WANTED` tiles, or the dates cannot be read.
        TileError: when there are no tiles, some are too old or of unknown age and the request forbids it, or
            the source or the dates are damaged.
    """
    ranges = _wanted_ranges(request, levels)
    found = TileColumns.joined(
        [source.query_by_bbox(range_box_e7(part), (part.z, part.z)) for part in ranges]
        if levels
        else [source.query_by_bbox(request.bbox_e7, request.zoom)]
    )
    if not len(found):
        raise no_tiles(request, source, ranges, *found.warnings)
    tiles, excluded, warnings = _split_by_age(
        request, _with_capture_dates(request, found), request.tiles.as_of or today
    )
    if not len(tiles):
        raise TileError(
            f"expected tiles of at most {request.max_age_days} days, found {len(excluded)} that are all older",
            hint='fetch newer imagery, or set tiles.max_age_days or tiles.too_old = "warn"',
            kind=ErrorKind.TILES_TOO_OLD,
        )
    return selection_of(
        request, tiles, levels=levels, excluded=excluded, warnings=(*found.warnings, *warnings)
    )


def selection_of(
    request: BuildRequest,
    tiles: TileColumns,
    *,
    levels: Sequence[ChunkLevel],
    excluded: TileColumns,
    warnings: tuple[str, ...] = (),
) -> Selection:
    """Return the selection of some tiles, by rising (z, x, y): with its chunks, and with what is missing.

    Raises:
        RequestError: The area wants more than `MAX_WANTED` tiles or chunks, or is smaller than a step.
    """
    ranges = _wanted_ranges(request, levels)
    return Selection(
        tiles=tiles,
        levels=tuple(make_chunks(level, request.bbox_e7, tiles) for level in levels),
        wanted=sum(part.count for part in ranges),
        holes=_find_holes(ranges, np.concatenate([tiles.places, excluded.places])),
        excluded=excluded,
        warnings=warnings,
    )


def _wanted_ranges(request: BuildRequest, levels: Sequence[ChunkLevel]) -> tuple[TileRange, ...]:
    """Return the wanted tiles as disjoint rectangles, sorted by zoom and column."""
    by_zoom: dict[int, list[Rectangle]] = {}
    for each in levels:
        under = tiles_of(each.level, _wanted_chunks(request, each))
        by_zoom.setdefault(each.level.zoom, []).append(under)
    ranges = tile_ranges(request.bbox_e7, request.zoom)
    if levels:
        ranges = tuple(
            part for zoom, parts in sorted(by_zoom.items()) for part in disjoint_ranges(zoom, parts)
        )
    wanted = sum(part.count for part in ranges)
    if wanted > MAX_WANTED:
        raise RequestError(
            f"bbox, zoom: expected at most {MAX_WANTED} tiles, found an area that wants {wanted}",
            hint=f"shrink the box or lower the highest zoom{doubt_of_crossing(request.bbox_e7)}",
            kind=ErrorKind.TOO_MANY_TILES,
        )
    return ranges


def _wanted_chunks(request: BuildRequest, level: ChunkLevel) -> Rectangle:
    wanted = wanted_chunks(level.level, request.bbox_e7)
    if not wanted.total:
        raise RequestError(
            f"bbox: expected an area in which a chunk of zoom {level.level.zoom} has its middle, found a smaller one",
            hint="widen the box, or raise chunks.overlap",
            kind=ErrorKind.NO_TILES,
        )
    if wanted.total > MAX_WANTED:
        raise RequestError(
            f"bbox, chunks: expected at most {MAX_WANTED} chunks, found an area that wants {wanted.total}",
            hint=f"shrink the box or lower chunks.overlap{doubt_of_crossing(request.bbox_e7)}",
            kind=ErrorKind.TOO_MANY_TILES,
        )
    return wanted


def no_tiles(
    request: BuildRequest, source: TileMetadataStore, ranges: Sequence[TileRange], *hints: str
) -> TileError:
    """Return the error that a source has none of the wanted tiles: it says what the source has."""
    extent, wanted = source.extent(), sum(part.count for part in ranges)
    zooms = f"zooms {extent.zoom[0]} to {extent.zoom[1]}" if extent.zoom else "nothing"
    bounds = f" in {box_text(extent.box_e7)}" if extent.box_e7 else ""
    return TileError(
        f"expected some of the {wanted} tiles of zooms {request.zoom[0]} to {request.zoom[1]} in "
        f"{box_text(request.bbox_e7)}, found none: {source.name} holds {zooms}{bounds}",
        hint="; ".join(hints) or _hint_to_meet(request, extent),
        kind=ErrorKind.NO_TILES,
        subject=source.name,
    )


def _hint_to_meet(request: BuildRequest, extent: Extent) -> str:
    if extent.zoom is None:
        return "put tiles there, or name another tiles.source"
    least, greatest = extent.zoom
    if request.zoom[0] > greatest or request.zoom[1] < least:
        return f"set zoom = [{least}, {greatest}], or name a tiles.source that has other zooms"
    if request.bbox[0] > request.bbox[2]:
        return "exchange west and east in bbox: a box whose west is greater crosses the antimeridian"
    return "change bbox, zoom or tiles.source so that they meet"


def _with_capture_dates(request: BuildRequest, found: TileColumns) -> TileColumns:
    captured = request.tiles.captured
    if captured is None:
        return found
    if isinstance(captured, date):
        return found.with_days(np.full(len(found), captured.toordinal(), np.int32))
    path = request.resolve(captured)
    text = read_request_text(path, what="a CSV file of capture dates", limit=MAX_CSV_BYTES)
    dates: Mapping[Place, date] = parse_capture_dates(text, name=str(path))
    captured_on = (dates.get(Place(*place)) for place in found.places.tolist())
    days = np.fromiter(
        (NO_DAY if day is None else day.toordinal() for day in captured_on), np.int32, len(found)
    )
    return found.with_days(np.where(days == NO_DAY, found.days, days))


def _split_by_age(
    request: BuildRequest, tiles: TileColumns, day: date
) -> tuple[TileColumns, TileColumns, list[str]]:
    """Return kept tiles, excluded tiles and warnings."""
    warnings = _date_warnings(request, tiles, day)
    limit = request.max_age_days
    old = (tiles.days != NO_DAY) & (day.toordinal() - tiles.days > limit)
    if not old.any():
        return tiles, tiles[:0], warnings
    oldest = date.fromordinal(int(tiles.days[old].min()))
    found = f"{_examples(tiles.take(old))} older than {limit} days on {day}, the oldest of {oldest}"
    match request.tiles.too_old:
        case TooOldPolicy.FAIL:
            raise TileError(
                f"expected tiles of at most {limit} days, found {found}",
                hint="fetch newer imagery, or set tiles.max_age_days",
                kind=ErrorKind.TILES_TOO_OLD,
                subject=_first(tiles, old),
            )
        case TooOldPolicy.EXCLUDE:
            return tiles.take(~old), tiles.take(old), [*warnings, f"left out {found}"]
        case TooOldPolicy.WARN:
            return tiles, tiles[:0], [*warnings, found]


def _date_warnings(request: BuildRequest, tiles: TileColumns, day: date) -> list[str]:
    """Return warnings of tiles of unknown age, unless these are an error, and of tiles from the future."""
    warnings: list[str] = []
    unknown, future = tiles.days == NO_DAY, tiles.days > day.toordinal()
    if unknown.any():
        found = f"{_examples(tiles.take(unknown))} of unknown age"
        if request.tiles.unknown_age is UnknownAgePolicy.FAIL:
            raise TileError(
                f"expected a capture date for every tile, found {found}",
                hint="set tiles.captured to a date or to a CSV file that names them",
                kind=ErrorKind.TILE_AGE_UNKNOWN,
                subject=_first(tiles, unknown),
            )
        warnings.append(f"{found}; set tiles.captured to judge their age")
    if future.any():
        examples = _examples(tiles.take(future))
        warnings.append(f"{examples} captured after {day}; check tiles.captured and tiles.as_of")
    return warnings


def _first(tiles: TileColumns, which: npt.NDArray[np.bool_]) -> str:
    return str(Place(*tiles.places[which][0].tolist()))


def _examples(tiles: TileColumns) -> str:
    """Return the number of tiles and the first few places."""
    named = ", ".join(str(Place(*place)) for place in tiles.places[:3].tolist()) + (
        ", …" if len(tiles) > 3 else ""
    )
    return f"{len(tiles)} tile{'' if len(tiles) == 1 else 's'} ({named})"


def _find_holes(ranges: Iterable[TileRange], places: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    parts = [np.zeros((0, 3), dtype=np.int32)]
    for part in ranges:
        absent = np.ones((part.x1 - part.x0 + 1, part.y1 - part.y0 + 1), dtype=np.bool_)
        inside = (places[:, 0] == part.z) & (places[:, 1] >= part.x0) & (places[:, 1] <= part.x1)
        inside &= (places[:, 2] >= part.y0) & (places[:, 2] <= part.y1)
        absent[places[inside, 1] - part.x0, places[inside, 2] - part.y0] = False
        columns, rows = np.nonzero(absent)
        zooms = np.full(len(rows), part.z)
        parts.append(np.stack([zooms, columns + part.x0, rows + part.y0], axis=1).astype(np.int32))
    return np.concatenate(parts)
