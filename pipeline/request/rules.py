"""Rules for the values of a request. Pure.

A rule takes a value and returns the one to keep, or raises `InvalidValueError`, which says what it expected.
`text`, `number` and others with arguments return a rule.
"""

import math
import re
from collections.abc import Callable, Mapping
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path, PurePath
from typing import Any, TypeVar

from pipeline.errors import RequestError
from pipeline.request.geometry import (
    E7,
    FULL_TURN_E7,
    HALF_TURN_E7,
    MERCATOR_LIMIT,
    MERCATOR_LIMIT_E7,
    degrees_to_e7,
)
from pipeline.request.json_schema import schema_of, table_schema, takes
from pipeline.request.validation import CheckedRecord, InvalidValueError, record_from, suggest_nearest
from store.backports import StrEnum, parse_day
from store.base.cache_warning import CacheWarning
from store.base.canonical_json import Document

MAX_ZOOM = 25
MAX_BOXES = 1000
MAX_SOURCES = 10_000

_Value = TypeVar("_Value")
_Record = TypeVar("_Record", bound=CheckedRecord)

_PRINTABLE = r"^(?![\s\S]*[\x00-\x1f\x7f])[\s\S]*\S"
_LIKE_A_DATE = re.compile(r"\d{1,4}[-./ ]\d{1,2}[-./ ]\d{1,4}")
_NORTHMOST = (MERCATOR_LIMIT_E7 + 0.5) / E7
"""Rounded to 1e-7 degree it is the limit."""

_FILES = "a list of at most 16 different paths"
_SOURCES = "a path, or a list of at most 10000 different paths"
_SHAPE = "a list of 1 to 8 whole numbers from 1 to 2147483647"


def text(limit: int = 1024) -> Callable[[object], str]:
    """A non-empty printable string (also a path) of at most `limit` characters."""

    @takes(lambda: {"type": "string", "minLength": 1, "maxLength": limit, "pattern": _PRINTABLE})
    def rule(value: object) -> str:
        given = str(value) if isinstance(value, PurePath) else value
        if not isinstance(given, str) or not given.strip() or len(given) > limit or not given.isprintable():
            raise InvalidValueError(f"printable text of 1 to {limit} characters")
        return given

    return rule


def path_of(what: str) -> Callable[[object], str]:
    """The path of a file; `what` says of which one."""

    @takes(lambda: schema_of(text()))
    def rule(value: object) -> str:
        if not isinstance(value, (str, PurePath)):
            table = isinstance(value, Mapping)
            raise InvalidValueError(
                f"the path of {what}", hint="write the table to a file and name it" if table else ""
            )
        return text()(value)

    return rule


def matching(pattern: str, described: str) -> Callable[[object], str]:
    """A string that matches a regular expression from end to end."""
    compiled = re.compile(pattern)

    @takes(lambda: {"type": "string", "pattern": f"^(?:{pattern})$"})
    def rule(value: object) -> str:
        if not isinstance(value, str) or compiled.fullmatch(value) is None:
            raise InvalidValueError(described)
        return value

    return rule


def one_of(choices: type[StrEnum]) -> Callable[[object], StrEnum]:
    """A member of an enumeration, given as itself or as its value."""
    known = key_of({member.value: member for member in choices})
    return takes(lambda: schema_of(known))(lambda value: choices(known(value)))


def key_of(table: Mapping[str, object], *others: str) -> Callable[[object], str]:
    """A key of a mapping, which is read when a value is checked, or another word."""

    @takes(lambda: {"enum": [*table, *others]})
    def rule(value: object) -> str:
        known = [*table, *others]
        if isinstance(value, str) and value in known:
            return str(value)
        hint = suggest_nearest(value, known) if isinstance(value, str) else ""
        raise InvalidValueError("one of " + ", ".join(f'"{each}"' for each in known), hint)

    return rule


def whole_number(low: int, high: int) -> Callable[[object], int]:
    """A whole number from low to high inclusive; true and false are not numbers."""

    @takes(lambda: {"type": "integer", "minimum": low, "maximum": high})
    def rule(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise InvalidValueError(f"a whole number from {low} to {high}")
        return value

    return rule


def number(low: float, high: float) -> Callable[[object], float]:
    """A finite number from low to high inclusive, kept as a float; true and false are not numbers."""

    @takes(lambda: {"type": "number", "minimum": low, "maximum": high})
    def rule(value: object) -> float:
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float, Decimal))
            # Comparing a Decimal NaN raises an error. An int is finite, and may be too large for `isfinite`.
            or (not isinstance(value, int) and not math.isfinite(value))
            # A decimal 0.97 is a little more than the float, which is a bound.
            or not low <= (value if isinstance(value, int) else float(value)) <= high
        ):
            raise InvalidValueError(f"a finite number from {low:g} to {high:g}")
        return float(value)

    return rule


def sequence_of(
    rule: Callable[[object], object], count: int, described: str
) -> Callable[[object], tuple[object, ...]]:
    """Exactly `count` values that each satisfy a rule, kept as a tuple."""

    @takes(lambda: _list_of(schema_of(rule), count, count))
    def apply(value: object) -> tuple[object, ...]:
        if not isinstance(value, (list, tuple)) or len(value) != count:
            raise InvalidValueError(described)
        try:
            return tuple(rule(item) for item in value)
        except InvalidValueError as error:
            raise InvalidValueError(f"{described}, each {error.expected}", error.hint) from None

    return apply


@takes(lambda: {"type": "boolean"})
def boolean(value: object) -> bool:
    """True or false, and not a value that only looks like one."""
    if not isinstance(value, bool):
        raise InvalidValueError("true or false")
    return value


@takes(lambda: {"type": "string", "format": "date", "pattern": r"^\d{4}-\d{2}-\d{2}$"})
def calendar_date(value: object) -> date:
    """A calendar date without a time of day."""
    if isinstance(value, datetime) or not isinstance(value, date):
        raise InvalidValueError("a date such as 2026-03-01, without quotes and without a time")
    return value


def record(kind: type[_Record]) -> Callable[[object], _Record]:
    """An instance of another record."""

    @takes(lambda: table_schema(kind))
    def rule(value: object) -> _Record:
        if not isinstance(value, kind):
            raise InvalidValueError(f"a {kind.__name__}")
        return value

    return rule


def table_of(kind: type[_Record], name: str, described: str) -> Callable[[object], _Record]:
    """An instance of a record, or a table with its fields; `name` is its key, for messages."""

    @takes(lambda: table_schema(kind))
    def rule(value: object) -> _Record:
        if isinstance(value, kind):
            return value
        if not isinstance(value, dict):
            raise InvalidValueError(described)
        try:
            return record_from(kind, value, name)
        except RequestError as error:
            raise InvalidValueError(described, found=f"one with {error.problems[0]}") from None

    return rule


@takes(lambda: schema_of(text()))
def capture_source(value: object) -> date | str:
    """A date, or the path of a file; a date in quotes is neither."""
    if isinstance(value, (str, Path)):
        given = text()(value)
        try:
            parse_day(given)
        except ValueError:
            if _LIKE_A_DATE.fullmatch(given) is None:
                return given
            mend = "write year-month-day without quotes, such as 2026-03-01"
        else:
            mend = "remove the quotes"
        raise InvalidValueError("a date without quotes, or the path of a CSV file", mend)
    try:
        return calendar_date(value)
    except InvalidValueError:
        raise InvalidValueError("a date such as 2026-03-01, or the path of a CSV file") from None


@takes(lambda: {**_list_of(schema_of(text()), 0, 16), "uniqueItems": True})
def files(value: object) -> tuple[str, ...]:
    """Paths of files, each once."""
    paths = _items(value, text(), range(17), _FILES)
    if len(set(paths)) != len(paths):
        raise InvalidValueError(_FILES, "name each library once")
    return paths


@takes(
    lambda: {
        "anyOf": [schema_of(text()), {**_list_of(schema_of(text()), 1, MAX_SOURCES), "uniqueItems": True}]
    }
)
def tile_source(value: object) -> str | tuple[str, ...]:
    """A path, or a list of paths, each once."""
    if not isinstance(value, (list, tuple)):
        return text()(value)
    paths = _items(value, text(), range(1, MAX_SOURCES + 1), _SOURCES)
    if len(set(paths)) != len(paths):
        raise InvalidValueError(_SOURCES, "name each file once")
    return paths


@takes(lambda: _list_of(schema_of(whole_number(1, 2**31 - 1)), 1, 8))
def shape(value: object) -> tuple[int, ...]:
    """The shape of a tensor."""
    return _items(value, whole_number(1, 2**31 - 1), range(1, 9), _SHAPE)


@takes(lambda: _tuple_of((-180, 180), (-_NORTHMOST, _NORTHMOST), (-180, 180), (-_NORTHMOST, _NORTHMOST)))
def box(value: object) -> tuple[float, ...]:
    """West, south, east, north as given: they become integers later, once."""
    edges = _numbers(value, 4, "[west, south, east, north] in finite degrees")
    west, south, east, north = (degrees_to_e7(item) for item in edges)
    hint = "the order is west, south, east, north"
    if max(abs(west), abs(east)) > HALF_TURN_E7:
        raise InvalidValueError("longitudes from -180 to 180", hint)
    if max(abs(south), abs(north)) > MERCATOR_LIMIT_E7:
        raise InvalidValueError(
            f"latitudes in the Web Mercator range, -{MERCATOR_LIMIT} to {MERCATOR_LIMIT}", hint
        )
    if south >= north:
        raise InvalidValueError("south less than north", hint)
    if (west - east) % FULL_TURN_E7 == 0 and west >= east:
        raise InvalidValueError("a box of some width; this one is empty", hint)
    return edges


@takes(lambda: _list_of(schema_of(box), 1, MAX_BOXES))
def boxes(value: object) -> tuple[tuple[float, ...], ...]:
    """A list of boxes, each as `box` wants it."""
    if not isinstance(value, (list, tuple)) or not 1 <= len(value) <= MAX_BOXES:
        raise InvalidValueError(f"a list of 1 to {MAX_BOXES} boxes [west, south, east, north]")
    return tuple(map(box, value))


@takes(lambda: _list_of(schema_of(whole_number(0, MAX_ZOOM)), 2, 2))
def zoom(value: object) -> tuple[int, ...]:
    """Lowest and highest zoom, in order."""
    described = f"[lowest, highest] zoom, whole numbers from 0 to {MAX_ZOOM}"
    lowest, highest = _items(value, whole_number(0, MAX_ZOOM), range(2, 3), described)
    if lowest > highest:
        raise InvalidValueError("the lowest zoom first", f"write [{highest}, {lowest}]")
    return lowest, highest


@takes(lambda: _tuple_of((-180, 180), (-90, 90), (-1000, 30_000)))
def origin(value: object) -> tuple[float, ...]:
    """Longitude, latitude, altitude as given: they become integers later, once."""
    point = _numbers(value, 3, "[longitude, latitude, altitude] in finite degrees and metres")
    longitude, latitude, altitude = point
    if not (-180 <= longitude <= 180 and -90 <= latitude <= 90 and -1000 <= altitude <= 30_000):
        raise InvalidValueError(
            "longitude -180 to 180, latitude -90 to 90, altitude -1000 to 30000 m",
            "the order is longitude, latitude, altitude",
        )
    return point


@takes(lambda: {"anyOf": [schema_of(number(1, 30_000)), _list_of(schema_of(number(1, 30_000)), 2, 2)]})
def altitudes(value: object) -> tuple[float, float]:
    """One height above ground, or the lowest and the highest, metres."""
    described = "a height above ground in metres, 1 to 30000, or [lowest, highest]"
    given = value if isinstance(value, (list, tuple)) else (value, value)
    low, high = _items(given, number(1, 30_000), range(2, 3), described)
    if low > high:
        raise InvalidValueError(described, "put the lowest first")
    return low, high


def folder(value: object) -> Path:
    """A folder, as a path."""
    if not isinstance(value, (str, Path)):
        raise InvalidValueError("a folder")
    return Path(value)


def _list_of(items: Document, least: int, greatest: int) -> Document:
    return {"type": "array", "items": items, "minItems": least, "maxItems": greatest}


def _tuple_of(*ranges: tuple[float, float]) -> Document:
    """Return the JSON Schema of a list of as many numbers as there are ranges."""
    count, numbers = len(ranges), [schema_of(number(low, high)) for low, high in ranges]
    return {"type": "array", "prefixItems": numbers, "minItems": count, "maxItems": count}


def _numbers(value: Any, count: int, described: str) -> tuple[float, ...]:  # noqa: ANN401 - checked here
    """Return the values as given: Decimals stay Decimals until they become integers."""
    _items(value, number(-1e6, 1e6), range(count, count + 1), described)
    return tuple(value)


def _items(
    value: object, rule: Callable[[object], _Value], counts: range, described: str
) -> tuple[_Value, ...]:
    """Return the values of a list that has one of some lengths, as the rule keeps them."""
    if not isinstance(value, (list, tuple)) or len(value) not in counts:
        raise InvalidValueError(described)
    try:
        return tuple(rule(item) for item in value)
    except InvalidValueError:
        raise InvalidValueError(described) from None


def ignored_option(key: str, backend: str) -> CacheWarning:
    """Return the warning of an option that a backend ignores."""
    return CacheWarning(
        kind="ignored-option", message=f"{key}: it means nothing to the backend {backend}", hint="remove it"
    )
