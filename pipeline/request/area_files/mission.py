"""Parse the missions of ground stations: QGroundControl's plans, and Mission Planner's waypoint files. Pure.

A mission is a route, from its home through every item that the aircraft flies to. Of a plan, surveys are polygons
as well, and corridor scans lines with a width; its fences are an area where it has no survey: what they include, without what they exclude.
"""

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from pipeline.request.area import Point
from pipeline.request.area_files.features import (
    AreaFileError,
    Corridor,
    Feature,
    Rings,
    point_of,
    points_of,
)
from store.base.geometry.corridor import circle_polygon

_FLOWN: Final = frozenset({16, 17, 18, 19, 21, 22, 31, 82, 84, 85, 94})
"""MAVLink's commands that fly to the place that they name: waypoint, loiter, land, take-off, spline, payload."""
_RETURN: Final = 20
_ON_EARTH: Final = frozenset({0, 3, 5, 6, 10, 11})
"""MAVLink's frames whose coordinates are latitude and longitude."""
_MAX_RADIUS_M: Final = 1_000_000
_MAX_WIDTH_M: Final = 50_000
_ORDER: Final = "the order is latitude, longitude"
_EXPECTED: Final = "a QGroundControl plan"


def parse_plan(document: Mapping[str, Any]) -> list[Feature]:
    """Return mission and fences of a QGroundControl plan as one feature.

    Raises:
        AreaFileError: It is none, or a coordinate is wrong.
    """
    feature, mission = Feature(name="mission"), document.get("mission")
    if isinstance(mission, Mapping):
        home = _places([mission.get("plannedHomePosition")])
        route = [*home]
        for item in _list(mission.get("items")):
            _add_item(feature, route, item, home)
        if len(route) > 1:
            feature.lines.append(route)
    fence = document.get("geoFence")
    if isinstance(fence, Mapping):
        for included, rings in (*_fence_polygons(fence), *_fence_circles(fence)):
            (feature.fences if included else feature.forbidden).append(rings)
    return [feature]


def parse_waypoints(text: str) -> list[Feature]:
    """Return the route of a Mission Planner file ("QGC WPL 110" and a row for each item).

    Raises:
        AreaFileError: A row is wrong.
    """
    route: list[Point] = []
    home: list[Point] = []
    for number, line in enumerate(text.splitlines()[1:], 2):
        cells = line.split()
        if not cells:
            continue
        try:
            frame, command, latitude, longitude = int(cells[2]), int(cells[3]), cells[8], cells[9]
        except (IndexError, ValueError):
            raise AreaFileError(
                f"line {number} with other columns", "save it again", "12 columns in each row"
            ) from None
        try:
            _fly(route, home, command, frame, [latitude, longitude])
        except AreaFileError as error:
            raise AreaFileError(f"{error.found} in line {number}", error.hint, error.expected) from None
        home = home or route[:1]
    return [Feature(name="mission", lines=[route] if len(route) > 1 else [])]


def _fly(
    route: list[Point], home: Sequence[Point], command: int, frame: int, place: Sequence[object]
) -> None:
    """Add where an item flies to."""
    if command == _RETURN:
        route.extend(home)
    elif command in _FLOWN and frame in _ON_EARTH:
        route.extend(_places([place]))


def _places(places: Sequence[object]) -> list[Point]:
    """Return some [latitude, longitude, ...]; none for an item that stays where it is, which has no place or 0, 0."""
    there = [
        place
        for place in places
        if isinstance(place, Sequence) and len(place) >= 2 and any(map(_is_given, place[:2]))
    ]
    return points_of(there, _place)


def _is_given(value: object) -> bool:
    if value is None:
        return False
    try:
        return float(value) != 0  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return True


def _place(place: object) -> Point:
    if not isinstance(place, Sequence) or isinstance(place, str) or len(place) < 2:
        raise AreaFileError("something else", "save the plan again", "[latitude, longitude]")
    return point_of(place[1], place[0], order=_ORDER)


def _add_item(feature: Feature, route: list[Point], item: object, home: Sequence[Point]) -> None:
    match item:
        case {"type": "SimpleItem", "command": int(command), "params": list(params), **rest} if (
            len(params) > 5
        ):
            frame = rest.get("frame", 3)
            _fly(route, home, command, frame if isinstance(frame, int) else -1, params[4:6])
        case {"type": "ComplexItem", **rest}:
            _add_complex_item(feature, route, rest)
        case {"type": "SimpleItem"}:
            pass
        case _:
            raise AreaFileError(
                "an unknown item in its mission", "save it again with QGroundControl", _EXPECTED
            )


def _add_complex_item(feature: Feature, route: list[Point], item: Mapping[Any, Any]) -> None:
    """Add a survey: its polygon, or its line with the width of the corridor, and the way that it is flown."""
    style = item.get("TransectStyleComplexItem")
    polygon, line = _list(item.get("polygon")), _list(item.get("polyline"))
    if polygon:
        feature.polygons.append([points_of(polygon, _place)])
    match item.get("CorridorWidth"):
        case (int() | Decimal()) as width if len(line) > 1 and 0 < width <= _MAX_WIDTH_M:
            feature.corridors.append(Corridor(points_of(line, _place), width))
    if isinstance(style, Mapping):
        route.extend(points_of(_list(style.get("VisualTransectPoints")), _place))
    landing = item.get("landCoordinate")
    if landing is not None:
        route.extend(_places([item.get("landingApproachCoordinate"), landing]))


def _fence_polygons(fence: Mapping[str, Any]) -> Iterator[tuple[bool, Rings]]:
    for each in _list(fence.get("polygons")):
        match each:
            case {"polygon": list(points), **rest}:
                yield rest.get("inclusion") is not False, [points_of(points, _place)]
            case _:
                raise AreaFileError("a fence without polygon", "save it again with QGroundControl", _EXPECTED)


def _fence_circles(fence: Mapping[str, Any]) -> Iterator[tuple[bool, Rings]]:
    for each in _list(fence.get("circles")):
        match each:
            case {"circle": {"center": list(center), "radius": int() | Decimal() as radius}, **rest} if (
                0 < radius < _MAX_RADIUS_M
            ):
                yield rest.get("inclusion") is not False, [circle_polygon(_place(center), float(radius))]
            case _:
                raise AreaFileError("a fence without circle", "save it again with QGroundControl", _EXPECTED)


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
