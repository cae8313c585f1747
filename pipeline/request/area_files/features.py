"""What a file of an area holds: polygons and lines, with names. Pure."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import NamedTuple, TypeAlias

from pipeline.request.area import Point
from pipeline.request.geometry import degrees_to_e7

Rings: TypeAlias = list[list[Point]]
"""The shell, then the holes; points as they were given, in 1e-7 degree."""

ORDER = "the order is longitude, latitude"
REPROJECT = "write it in degrees of WGS 84: ogr2ogr -t_srs EPSG:4326 OUT.geojson IN"


class AreaFileError(ValueError):
    """A file holds no area; `found` says what it holds instead, `hint` how to mend it, `expected` what it should."""

    def __init__(
        self, found: str, hint: str, expected: str = "a GeoJSON, KML, KMZ, .plan or .waypoints file"
    ) -> None:
        super().__init__(found, hint, expected)
        self.found, self.hint, self.expected = found, hint, expected


class Corridor(NamedTuple):
    """A line, and the full width of the ground around it, metres."""

    line: list[Point]
    width_m: float | Decimal


@dataclass(slots=True, kw_only=True)
class Feature:
    """One thing that a file holds.

    Attributes:
        name: What the file calls it; empty if it has no name.
        polygons: Its polygons.
        lines: Its lines.
        corridors: Lines with a width of their own.
        points: Whether it has points beside them, which are no ground.
        fences: Polygons that are an area only where nothing else is.
        forbidden: Polygons that are taken out of the fences.
    """

    name: str = ""
    polygons: list[Rings] = field(default_factory=list)
    lines: list[list[Point]] = field(default_factory=list)
    corridors: list[Corridor] = field(default_factory=list)
    points: bool = False
    fences: list[Rings] = field(default_factory=list)
    forbidden: list[Rings] = field(default_factory=list)

    @property
    def label(self) -> str:
        """What to call it in messages."""
        return f"{self.name[:60]!r}" if self.name else "a feature without name"


def point_of(longitude: object, latitude: object, *, order: str = ORDER) -> Point:
    """Return a point in 1e-7 degree.

    Args:
        longitude: Degrees: a number, or text of one.
        latitude: The same.
        order: How the file is to be written, for messages.

    Raises:
        AreaFileError: They are no place on Earth.
    """
    x, y = (_number(value) for value in (longitude, latitude))
    if not (-360 <= x <= 360 and -360 <= y <= 360):  # abs() fails where an exponent is too large
        raise AreaFileError(f"the coordinates {x}, {y}", REPROJECT, "degrees of WGS 84")
    if not -90 <= y <= 90:
        raise AreaFileError(f"the latitude {y}", order, "latitudes from -90 to 90")
    return degrees_to_e7(x), degrees_to_e7(y)


def _number(value: object) -> Decimal:
    found = None
    if isinstance(value, (str, int, float, Decimal)) and not isinstance(value, bool):
        try:
            found = (
                Decimal(value.strip())
                if isinstance(value, str)
                else Decimal(repr(value))
                if isinstance(value, float)
                else Decimal(value)
            )
        except InvalidOperation:
            found = None
    if found is None or not found.is_finite():
        shown = "no number" if value is None else f"{str(value)[:40]!r}"
        raise AreaFileError(f"{shown} in place of a coordinate", "write finite degrees", "degrees")
    return found


def points_of(positions: Iterable[object], read: Callable[[object], Point]) -> list[Point]:
    """Return the points of some positions; the message of a wrong one says which it is.

    Raises:
        AreaFileError: One of them is wrong.
    """
    found: list[Point] = []
    for position in positions:
        try:
            found.append(read(position))
        except AreaFileError as error:
            raise AreaFileError(
                f"{error.found} in point {len(found) + 1}", error.hint, error.expected
            ) from None
    return found


def chosen(features: Sequence[Feature], name: str | None) -> list[Feature]:
    """Return the features of a name, or all without one.

    Raises:
        AreaFileError: None has the name.
    """
    if name is None:
        return list(features)
    found = [each for each in features if each.name == name]
    if not found:
        known = sorted({each.name for each in features if each.name})
        shown = ", ".join(map(repr, known[:8])) + (", …" if len(known) > 8 else "")
        longer = sorted((each for each in known if name.casefold() in each.casefold()), key=len)
        from difflib import get_close_matches  # noqa: PLC0415 - only errors need it

        near = longer or get_close_matches(name, known, n=1)
        hint = f"correct area.name: did you mean {near[0]!r}?" if near else "correct area.name"
        raise AreaFileError(shown or "features without names", hint, f"a feature named {name!r}")
    return found
