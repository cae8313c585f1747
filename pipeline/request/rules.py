"""Rules for the fields of a request that mean more than a type: areas, zooms, shapes, capture dates. Pure."""

from datetime import date
from pathlib import Path
from typing import cast

from pipeline.request.geometry import (
    FULL_TURN_E7,
    HALF_TURN_E7,
    MERCATOR_LIMIT,
    MERCATOR_LIMIT_E7,
    degrees_to_e7,
)
from pipeline.request.validation import RefusedError, day, number, text, whole

MAX_ZOOM = 25


def capture_source(value: object) -> date | str:
    """A date, or the path of a file; a date in quotes is neither."""
    if isinstance(value, (str, Path)):
        said = cast("str", text()(value))
        try:
            date.fromisoformat(said)
        except ValueError:
            return said
        raise RefusedError("a date without quotes, or the path of a CSV file", "remove the quotes")
    try:
        return day(value)
    except RefusedError:
        raise RefusedError("a date such as 2026-03-01, or the path of a CSV file") from None


_FILES = "a list of at most 16 different paths"


def files(value: object) -> tuple[str, ...]:
    """Paths of files, each once."""
    if not isinstance(value, (list, tuple)) or len(value) > 16:
        raise RefusedError(_FILES)
    try:
        paths = tuple(cast("str", text()(item)) for item in value)
    except RefusedError:
        raise RefusedError(_FILES) from None
    if len(set(paths)) != len(paths):
        raise RefusedError(_FILES, "name each library once")
    return paths


_SHAPE = "a list of 1 to 8 whole numbers from 1 to 2147483647"


def shape(value: object) -> tuple[int, ...]:
    """The shape of a tensor."""
    if not isinstance(value, (list, tuple)) or not 1 <= len(value) <= 8:
        raise RefusedError(_SHAPE)
    try:
        return tuple(cast("int", whole(1, 2**31 - 1)(item)) for item in value)
    except RefusedError:
        raise RefusedError(_SHAPE) from None


def _numbers(value: object, count: int, described: str) -> tuple[float, ...]:
    """The values as given (Decimals stay Decimals until they become integers)."""
    if not isinstance(value, (list, tuple)) or len(value) != count:
        raise RefusedError(described)
    try:
        for item in value:
            number(-1e6, 1e6)(item)
    except RefusedError:
        raise RefusedError(described) from None
    return tuple(value)


def box(value: object) -> tuple[float, ...]:
    """West, south, east, north as given: they become integers later, once."""
    described = "[west, south, east, north] in finite degrees"
    edges = _numbers(value, 4, described)
    west, south, east, north = (degrees_to_e7(item) for item in edges)
    mend = "the order is west, south, east, north"
    if max(abs(west), abs(east)) > HALF_TURN_E7:
        raise RefusedError("longitudes from -180 to 180", mend)
    if max(abs(south), abs(north)) > MERCATOR_LIMIT_E7:
        raise RefusedError(
            f"latitudes in the Web Mercator range, -{MERCATOR_LIMIT} to {MERCATOR_LIMIT}", mend
        )
    if south >= north:
        raise RefusedError("south less than north", mend)
    if (west - east) % FULL_TURN_E7 == 0 and west >= east:
        raise RefusedError("a box of some width; this one is empty", mend)
    return edges


def zoom(value: object) -> tuple[int, ...]:
    """Lowest and highest zoom, in order."""
    described = f"[lowest, highest] zoom, whole numbers from 0 to {MAX_ZOOM}"
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise RefusedError(described)
    try:
        lowest, highest = (cast("int", whole(0, MAX_ZOOM)(item)) for item in value)
    except RefusedError:
        raise RefusedError(described) from None
    if lowest > highest:
        raise RefusedError("the lowest zoom first", f"write [{highest}, {lowest}]")
    return lowest, highest


def origin(value: object) -> tuple[float, ...]:
    """Longitude, latitude, altitude as given: they become integers later, once."""
    described = "[longitude, latitude, altitude] in finite degrees and metres"
    point = _numbers(value, 3, described)
    longitude, latitude, altitude = point
    if not (-180 <= longitude <= 180 and -90 <= latitude <= 90 and -1000 <= altitude <= 30_000):
        raise RefusedError(
            "longitude -180 to 180, latitude -90 to 90, altitude -1000 to 30000 m",
            "the order is longitude, latitude, altitude",
        )
    return point


def folder(value: object) -> Path:
    """A folder, as a path."""
    if not isinstance(value, (str, Path)):
        raise RefusedError("a folder")
    return Path(value)
