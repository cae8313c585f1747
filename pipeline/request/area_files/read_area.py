"""Read the area that a request names, whatever kind of file holds it."""

import io
import json
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any, Final

from pipeline.errors import ErrorKind, RequestError
from pipeline.request.area import (
    Area,
    Point,
    Polygon,
    Shape,
    ShapeError,
    canonical_shape,
    crosses_evenly,
    unroll,
)
from pipeline.request.area_files.features import AreaFileError, Feature, Rings, chosen
from pipeline.request.area_files.geojson import parse_geojson
from pipeline.request.area_files.mission import parse_plan, parse_waypoints
from pipeline.request.area_options import AreaOptions
from pipeline.request.files import read_named_file
from pipeline.request.geometry import E7, metres_to_mm
from pipeline.request.request import BuildRequest

MAX_AREA_BYTES: Final = 32 << 20
_UTF16: Final = {
    **dict.fromkeys((b"\xff\xfe", b"\xfe\xff"), "utf-16"),
    **dict.fromkeys((b"<\0", b"{\0", b"Q\0"), "utf-16-le"),
    **dict.fromkeys((b"\0<", b"\0{", b"\0Q"), "utf-16-be"),
}
"""How a file in UTF-16 begins: with its mark, or with what begins a file of each kind."""
_WIDEST_CROSSING_E7: Final = 10 * E7
"""A polygon over the antimeridian that is wider is rather one around the rest of the globe."""
_FOREIGN: Final = "convert it to GeoJSON: ogr2ogr -t_srs EPSG:4326 OUT.geojson IN"


def read_area(request: BuildRequest) -> Area:
    """Return the area of a request, from its file if it names one.

    Raises:
        RequestError: The file cannot be read, or holds no area.
    """
    options = request.area
    if options is None:
        return request.area_of_boxes()
    path = request.resolve(options.file)
    data = read_named_file(path, "area.file", MAX_AREA_BYTES)
    try:
        return Area.of_shape(_shape_of(data, options))
    except AreaFileError as error:
        expected, found, hint = error.expected, error.found, error.hint
    except ShapeError as error:
        expected, found, hint = "an area", str(error), "correct or simplify it"
    raise RequestError(
        f"area: expected {expected} in {path}, found {found}",
        hint=hint,
        kind=ErrorKind.BAD_REQUEST,
        subject=str(path),
    )


def _shape_of(data: bytes, options: AreaOptions) -> Shape:
    features = chosen(parse_features(data), options.name)
    polygons = [polygon for feature in features for polygon in _polygons(feature, feature.polygons)]
    lines = [(feature, line) for feature in features for line in feature.lines]
    corridors = [(feature, corridor) for feature in features for corridor in feature.corridors]
    if options.width_m is None and corridors:
        routes = [_route(feature, corridor.line) for feature, corridor in corridors]
        return canonical_shape(polygons, routes, max(metres_to_mm(each.width_m) for _, each in corridors))
    if options.width_m is None and lines and not polygons:
        raise AreaFileError(
            f"a route ({len(lines[0][1])} points in {lines[0][0].label}), which has no width",
            "add area.width_m, the full width in metres",
            "polygons",
        )
    if options.width_m is None and lines and not all(feature.name == "mission" for feature, _ in lines):
        raise AreaFileError(
            f"polygons and a route ({lines[0][0].label}), which has no width",
            f"{_choose(options)}, or add area.width_m, the full width in metres",
            "polygons alone",
        )
    if options.width_m is not None and not lines:
        raise AreaFileError(
            "polygons alone" if polygons else "none",
            "remove area.width_m" if polygons else "draw one",
            "a route",
        )
    if options.width_m is not None:
        routes = [_route(feature, line) for feature, line in lines]
        # A survey of a mission is flown along its route.
        kept = [] if all(feature.name == "mission" for feature, _ in lines) else polygons
        return canonical_shape(kept, routes, metres_to_mm(options.width_m))
    if not polygons:
        polygons = list(_fenced(features))
    if not polygons:
        found = "points alone" if any(feature.points for feature in features) else "none"
        raise AreaFileError(
            found, "draw a polygon around the ground, or a path along the route", "polygons or routes"
        )
    return canonical_shape(polygons)


def _choose(options: AreaOptions) -> str:
    if options.name is None:
        return "choose one with area.name"
    return f"several are named {options.name!r}: give the one that is meant another name"


def parse_features(data: bytes) -> list[Feature]:
    """Return what a file holds; its content says of which kind it is.

    Raises:
        AreaFileError: It is of no known kind, or something in it is wrong.
    """
    if data.startswith(b"PK\x03\x04"):
        return _parse_kml(_kml_in_zip(data))
    utf16 = _UTF16.get(data[:2])
    if utf16 is not None:
        data = data.decode(utf16, "replace").removeprefix("\ufeff").encode("utf-8", "replace")
    start = data[:4096].decode("utf-8-sig", "replace").lstrip()
    if start.startswith("QGC WPL"):
        return parse_waypoints(data.decode("utf-8-sig", "replace"))
    if start.startswith("<"):
        return _parse_kml(data, "utf-8" if utf16 else None)
    if start.startswith("{"):
        document = _json(data)
        return parse_plan(document) if document.get("fileType") == "Plan" else parse_geojson(document)
    if not data.strip():
        raise AreaFileError("an empty file", "export it again")
    raise AreaFileError("another kind of file", _FOREIGN)


def _parse_kml(data: bytes, encoding: str | None = None) -> list[Feature]:
    # With XML, which other areas do not need.
    from pipeline.request.area_files.kml import parse_kml  # noqa: PLC0415

    return parse_kml(data, encoding)


def _json(data: bytes) -> dict[str, Any]:
    def refuse(text: str) -> None:
        raise AreaFileError(f"{text} in place of a number", "write finite degrees", "finite numbers")

    try:
        document: dict[str, Any] = json.loads(data, parse_float=Decimal, parse_constant=refuse)
    except AreaFileError:
        raise
    except (ValueError, ArithmeticError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        hint = "write one FeatureCollection" if "Extra data" in reason else "export it again"
        raise AreaFileError(f"JSON that is broken: {reason}", hint) from None
    return document


def _kml_in_zip(data: bytes) -> bytes:
    """Return the KML file of a KMZ: `doc.kml`, or else the first."""
    import lzma  # noqa: PLC0415 - only zip files need these
    import zipfile  # noqa: PLC0415
    import zlib  # noqa: PLC0415

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = [each for each in archive.infolist() if each.filename.lower().endswith(".kml")]
            first = min(names, key=lambda each: each.filename.lower() != "doc.kml", default=None)
            found = b""
            if first is not None:
                with archive.open(first) as file:
                    found = file.read(MAX_AREA_BYTES + 1)
    except (
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        NotImplementedError,
        RuntimeError,
        OSError,
        EOFError,
        ValueError,
    ) as error:
        raise AreaFileError(
            f"a zip file that cannot be unpacked: {error}", "unzip it, and name what is inside"
        ) from None
    if first is None:
        raise AreaFileError("a zip file without KML", _FOREIGN, "a KMZ file with a .kml inside")
    if len(found) > MAX_AREA_BYTES:
        raise AreaFileError(f"more than {MAX_AREA_BYTES:,} bytes of KML", "simplify it", "a smaller KMZ file")
    return found


def _polygons(feature: Feature, given: Sequence[Rings]) -> Iterator[Polygon]:
    """Yield polygons in canonical form.

    Raises:
        AreaFileError: One of them is no valid polygon.
    """
    # Shapely takes as long to load as everything else here.
    from pipeline.request.area_files.validity import why_invalid  # noqa: PLC0415

    for rings in given:
        unrolled = [_unrolled(feature, ring, closed=True) for ring in rings]
        # A ring whose loops are of equal size has no area, and no direction; it is told as any that crosses itself.
        even = next((ring for ring in unrolled if crosses_evenly(ring)), None)
        polygon: Polygon = _canonical(feature, [unrolled]).polygons[0] if even is None else (tuple(even),)
        why = why_invalid(polygon)
        if why:
            raise AreaFileError(
                f"{feature.label}: {why}",
                'mend it, for example with QGIS, "Fix geometries"',
                "valid polygons",
            )
        yield polygon


def _route(feature: Feature, line: Sequence[Point]) -> Sequence[Point]:
    (route,) = _canonical(feature, routes=[_unrolled(feature, line, closed=False)]).routes
    return route


def _unrolled(feature: Feature, points: Sequence[Point], *, closed: bool) -> list[Point]:
    try:
        found = unroll(points, closed=closed)
    except ShapeError as error:
        raise AreaFileError(f"{error} in {feature.label}", "cut it at the pole", "an area") from None
    xs = [x for x, _ in found] or [0]
    if closed and max(xs) - min(xs) > _WIDEST_CROSSING_E7 and found != list(points[: len(found)]):
        raise AreaFileError(
            f"{feature.label}, which is {(max(xs) - min(xs)) / E7:.0f} degrees wide across the antimeridian, or"
            " goes around the rest of the globe",
            "cut it at 180 degrees; or write longitudes beyond 180 where it crosses, points less than 180 degrees"
            " apart where it does not",
            "an area",
        )
    return found


def _canonical(
    feature: Feature,
    polygons: Sequence[Sequence[Sequence[Point]]] = (),
    routes: Sequence[Sequence[Point]] = (),
) -> Shape:
    try:
        return canonical_shape(polygons, routes)
    except ShapeError as error:
        raise AreaFileError(f"{error} in {feature.label}", "correct or remove it", "an area") from None


def _fenced(features: Sequence[Feature]) -> Iterator[Polygon]:
    """Yield what the fences of a plan include, without what they exclude."""
    from pipeline.request.area_files.validity import difference  # noqa: PLC0415 - as above

    for feature in features:
        included = list(_polygons(feature, feature.fences))
        excluded = list(_polygons(feature, feature.forbidden))
        yield from difference(included, excluded) if included and excluded else included
