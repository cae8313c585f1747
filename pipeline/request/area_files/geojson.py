"""Parse GeoJSON (RFC 7946, and the CRS of its forerunner of 2008). Pure."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pipeline.request.area import Point
from pipeline.request.area_files.features import REPROJECT, AreaFileError, Feature, Rings, point_of, points_of

_WGS84: Final = re.compile(r"(.*[:/])?(CRS84h?|EPSG:[\d.]*:?(4326|4979)|WGS ?84)", re.IGNORECASE)
_NAMES: Final = ("name", "Name", "NAME", "title", "id")
_MAX_DEPTH: Final = 32


def parse_geojson(document: Mapping[str, Any]) -> list[Feature]:
    """Return the features of a GeoJSON document.

    Raises:
        AreaFileError: It is none, is in another coordinate reference system, or a geometry is wrong.
    """
    _require_wgs84(document.get("crs"))
    match document:
        case {"type": "FeatureCollection", "features": list(features)}:
            return [_feature(each) for each in features]
        case {"type": "Feature"}:
            return [_feature(document)]
        case {"type": "Topology"}:
            raise AreaFileError("TopoJSON", "convert it: ogr2ogr OUT.geojson IN.topojson")
        case _:
            feature = Feature()
            _add(feature, document)
            return [feature]


def _require_wgs84(crs: object) -> None:
    if crs is None:
        return
    match crs:
        case {"properties": {"name": str(name)}}:
            if _WGS84.fullmatch(name.strip()):
                return
            found = f"the coordinate reference system {name[:60]}"
        case _:
            found = "a coordinate reference system that is not named"
    raise AreaFileError(found, REPROJECT, "degrees of WGS 84")


def _feature(document: object) -> Feature:
    match document:
        case {"type": "Feature", "geometry": geometry, **rest}:
            properties = rest.get("properties")
            named = {**rest, **(properties if isinstance(properties, Mapping) else {})}
            name = next((named[key] for key in _NAMES if isinstance(named.get(key), (str, int))), "")
            feature = Feature(name=str(name))
            if geometry is not None:
                _add(feature, geometry)
            return feature
        case _:
            raise AreaFileError("something else among the features", "export it again", "GeoJSON features")


def _add(feature: Feature, geometry: object, depth: int = 0) -> None:
    """Add the polygons and lines of a geometry to a feature."""
    match geometry:
        case {"type": "Polygon" | "MultiPolygon" as kind, "coordinates": list(found)}:
            for rings in [found] if kind == "Polygon" else found:
                feature.polygons.extend(_polygon(rings))
        case {"type": "LineString" | "MultiLineString" as kind, "coordinates": list(found)}:
            for line in [found] if kind == "LineString" else found:
                feature.lines.extend(_line(line))
        case {"type": "GeometryCollection", "geometries": list(parts)} if depth < _MAX_DEPTH:
            for part in parts:
                _add(feature, part, depth + 1)
        case {"type": "Point" | "MultiPoint", "coordinates": list()}:
            feature.points = True
        case {"type": str(kind)}:
            raise AreaFileError(f"a geometry of type {kind[:40]!r}", "export it again", "a GeoJSON geometry")
        case _:
            raise AreaFileError("something else", "export it as GeoJSON", "a GeoJSON geometry")


def _polygon(rings: object) -> Iterator[Rings]:
    """Yield a polygon, unless it is empty."""
    if not isinstance(rings, list) or not all(isinstance(ring, list) for ring in rings):
        raise AreaFileError("something else", "export it again", "rings of positions")
    if rings:
        yield [points_of(ring, _position) for ring in rings]


def _line(positions: object) -> Iterator[list[Point]]:
    """Yield a line, unless it is empty."""
    if not isinstance(positions, list):
        raise AreaFileError("something else", "export it again", "a list of positions")
    if positions:
        yield points_of(positions, _position)


def _position(position: object) -> Point:
    if not isinstance(position, list) or len(position) < 2:
        raise AreaFileError("something else", "write [longitude, latitude]", "a position")
    return point_of(position[0], position[1])
