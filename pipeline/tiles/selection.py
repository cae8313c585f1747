"""Select the tiles of a build: those that the area wants, the source has, and the age limit allows.

Ages are computed from `as_of`, or else from the day that the caller passes; no clock is read here. The set of
selected tiles enters the identity of a build, not the day.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property

import numpy as np
import numpy.typing as npt

from pipeline.errors import ErrorKind, RequestError, TileError
from pipeline.request.area import Area
from pipeline.request.files import read_request_text
from pipeline.request.geometry import BoxE7, box_text, split_at_antimeridian
from pipeline.request.options import TooOldPolicy, UnknownAgePolicy
from pipeline.request.request import BuildRequest
from pipeline.tiles.capture_dates import MAX_CSV_BYTES, parse_capture_dates
from pipeline.tiles.chunks import LevelChunks, ShownTiles, make_chunks
from pipeline.tiles.grid import range_box_e7
from pipeline.tiles.retrieval_units import RetrievalUnits
from pipeline.tiles.tile import Extent, Place, TileMetadataStore
from pipeline.tiles.tile_columns import NO_DAY, TileColumns
from pipeline.tiles.wanted import WantedTiles, find_holes, wanted_tiles_of
from store.base.cache_warning import CacheWarning
from store.formats.capture_dates import CaptureDates
from store.formats.tables import encode_capture_column, encode_tile_columns
from store.manifest.levels import ChunkLevel


@dataclass(frozen=True, kw_only=True, eq=False)
class Selection:
    """The tiles of a build.

    Attributes:
        tiles: Selected tiles, sorted by (z, x, y).
        levels: The chunks of each level, by rising side; none where the tiles get the descriptors.
        wanted: Number of tiles that the area wants, or its chunks.
        holes: Zoom, column and row of wanted tiles that the source does not have, int32 [n, 3], sorted.
        excluded: Tiles that are too old, sorted.
        warnings: What is to be said of the source and the ages, beside readiness.
    """

    tiles: TileColumns
    wanted: int
    holes: npt.NDArray[np.int32]
    excluded: TileColumns
    warnings: tuple[CacheWarning, ...]
    levels: tuple[LevelChunks, ...] = ()

    @cached_property
    def units(self) -> RetrievalUnits:
        """What gets a descriptor: the tiles, or the chunks of all levels."""
        if not self.levels:
            return RetrievalUnits.of_tiles(self.tiles)
        return RetrievalUnits.joined(level.made for level in self.levels)

    @property
    def dates(self) -> CaptureDates:
        """When the tiles were captured."""
        days = self.tiles.days
        known = days[days != NO_DAY]
        oldest, newest = (
            (date.fromordinal(int(day)) for day in (known.min(), known.max())) if len(known) else (None, None)
        )
        return CaptureDates(oldest=oldest, newest=newest, undated=len(days) - len(known))

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
        tiles, order = self.tiles, self._table_order()
        return encode_tile_columns(
            tiles.ids[order].astype(np.uint64), tiles.digests[order], tiles.days[order]
        )

    def capture_column(self) -> bytes:
        """Return the days of the tile table, as `encode_capture_column` does."""
        days = self.tiles.days
        # One day for all tiles, as is usual, needs no order: a run with nothing to do comes here.
        return encode_capture_column(days if (days == days[:1]).all() else days[self._table_order()])

    def _table_order(self) -> npt.NDArray[np.intp]:
        return np.argsort(self.tiles.ids, kind="stable")


def select_tiles(
    request: BuildRequest,
    source: TileMetadataStore,
    *,
    today: date,
    area: Area | None = None,
    levels: Sequence[ChunkLevel] = (),
) -> Selection:
    """Select the tiles of a build.

    Args:
        request: What is wanted.
        source: The tiles that exist.
        today: The day of the build; the request's `as_of` takes precedence.
        area: The ground that is wanted; by default the request's box or boxes.
        levels: The levels of chunks, by rising side; none if the tiles get the descriptors.

    Raises:
        RequestError: when the area wants more than `MAX_WANTED` tiles, the source has none of them, or the dates
            cannot be read.
        TileError: when some tiles are too old or of unknown age and the request forbids it, or the source or the
            dates are damaged.
    """
    ground = request.area_of_boxes() if area is None else area
    wanted = wanted_tiles_of(ground, request.zoom, levels)
    found = _present(request, source, ground, wanted, by_part=bool(levels) or ground.shape is not None)
    if not len(found):
        raise no_tiles(request, source, ground, wanted, *found.warnings)
    tiles, excluded, warnings = _split_by_age(
        request, _with_capture_dates(request, found), request.tiles.as_of or today
    )
    if not len(tiles):
        raise TileError(
            f"expected tiles of at most {request.max_age_days} days, found {len(excluded)} that are all older",
            hint='fetch newer imagery, or set tiles.max_age_days or tiles.too_old = "warn"',
            kind=ErrorKind.TILES_TOO_OLD,
        )
    odd = (CacheWarning(kind="tile-source", message=text) for text in found.warnings)
    return selection_of(
        tiles,
        area=ground,
        levels=levels,
        wanted=wanted,
        excluded=excluded,
        warnings=(*odd, *warnings),
    )


def _present(
    request: BuildRequest,
    source: TileMetadataStore,
    area: Area,
    wanted: Sequence[WantedTiles],
    *,
    by_part: bool,
) -> TileColumns:
    """Return the wanted tiles that a source holds."""
    if not by_part:
        return TileColumns.of(source.query_by_bbox(area.bbox_e7, request.zoom))
    asked = [
        each.among(TileColumns.of(source.query_by_bbox(range_box_e7(each.part), (each.part.z, each.part.z))))
        for each in wanted
    ]
    # What a source says of a part without tiles explains nothing if other parts have some.
    return TileColumns.joined([each for each in asked if len(each)] or asked)


def selection_of(
    tiles: TileColumns,
    *,
    area: Area,
    levels: Sequence[ChunkLevel],
    wanted: Sequence[WantedTiles],
    excluded: TileColumns,
    warnings: tuple[CacheWarning, ...] = (),
) -> Selection:
    """Return the selection of some tiles, by rising (z, x, y): with its chunks, and with what is missing."""
    return Selection(
        tiles=tiles,
        levels=tuple(make_chunks(level, area, tiles) for level in levels),
        wanted=sum(part.count for part in wanted),
        holes=find_holes(wanted, np.concatenate([tiles.places, excluded.places])),
        excluded=excluded,
        warnings=warnings,
    )


def no_tiles(
    request: BuildRequest,
    source: TileMetadataStore,
    area: Area,
    wanted: Sequence[WantedTiles],
    *hints: str,
) -> RequestError:
    """Return the error that a source has none of the wanted tiles: it says what the source has."""
    extent, count = source.extent(), sum(part.count for part in wanted)
    zooms = f"zooms {extent.zoom[0]} to {extent.zoom[1]}" if extent.zoom else "nothing"
    bounds = f" in {box_text(extent.box_e7)}" if extent.box_e7 else ""
    return RequestError(
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
    held = extent.box_e7
    if held is not None and _meet((south, west, north, east), held) and not _meet(area.bbox_e7, held):
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
) -> tuple[TileColumns, TileColumns, list[CacheWarning]]:
    """Return kept tiles, excluded tiles and warnings.

    What readiness says of the sector's limit and today is no warning here: only what the request sets apart from it.
    """
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
            return (
                tiles.take(~old),
                tiles.take(old),
                [
                    *warnings,
                    CacheWarning(kind="left-out", message=f"left out {found}", hint="fetch newer imagery"),
                ],
            )
        case TooOldPolicy.WARN:
            if request.tiles.max_age_days is not None or request.tiles.as_of is not None:
                warnings.append(
                    CacheWarning(
                        kind="imagery-old",
                        message=f"expected no older tiles, found {found}",
                        hint="fetch newer imagery",
                    )
                )
            return tiles, tiles[:0], warnings


def _date_warnings(request: BuildRequest, tiles: TileColumns, day: date) -> list[CacheWarning]:
    """Refuse tiles of unknown age if the request does; warn of tiles that are newer than its `as_of`."""
    unknown, future = tiles.days == NO_DAY, tiles.days > day.toordinal()
    if unknown.any() and request.tiles.unknown_age is UnknownAgePolicy.FAIL:
        raise TileError(
            f"expected a capture date for every tile, found {_examples(tiles.take(unknown))} of unknown age",
            hint="set tiles.captured to a date or to a CSV file that names them",
            kind=ErrorKind.TILE_AGE_UNKNOWN,
            subject=_first(tiles, unknown),
        )
    if future.any() and request.tiles.as_of is not None:
        return [
            CacheWarning(
                kind="imagery-from-future",
                message=f"{_examples(tiles.take(future))} captured after {day}",
                hint="check tiles.captured and tiles.as_of",
            )
        ]
    return []


def _first(tiles: TileColumns, which: npt.NDArray[np.bool_]) -> str:
    return str(Place(*tiles.places[which][0].tolist()))


def _examples(tiles: TileColumns) -> str:
    """Return the number of tiles and the first few places."""
    named = ", ".join(str(Place(*place)) for place in tiles.places[:3].tolist()) + (
        ", …" if len(tiles) > 3 else ""
    )
    return f"{len(tiles)} tile{'' if len(tiles) == 1 else 's'} ({named})"
