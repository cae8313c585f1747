"""Parse KML of any version, as Google Earth and others write it. Pure.

Namespaces are not looked at, since many files lack the declaration of one. A document type is refused: it may
define entities that grow without limit, and no KML has one.
"""

import re
from collections.abc import Iterator
from typing import Final
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from pipeline.request.area import Point
from pipeline.request.area_files.features import AreaFileError, Feature, point_of, points_of

_AROUND_COMMA: Final = re.compile(r"\s*,\s*")
_GEOMETRIES: Final = frozenset({"Polygon", "LineString", "LinearRing", "Track"})


def parse_kml(data: bytes, encoding: str | None = None) -> list[Feature]:
    """Return the placemarks of a KML file.

    Args:
        data: The file.
        encoding: Its encoding, where that is known whatever the file says.

    Raises:
        AreaFileError: It is no KML, or a coordinate is wrong.
    """
    root = _parse_xml(data, encoding)
    if root.tag != "kml":
        hint = (
            "convert it: ogr2ogr OUT.geojson IN" if root.tag in {"gpx", "osm", "gml"} else "export it as KML"
        )
        raise AreaFileError(f"XML with the root {root.tag[:40]!r}", hint)
    features = [_placemark(element) for element in root.iter("Placemark")]
    if not features and next(root.iter("NetworkLink"), None) is not None:
        raise AreaFileError(
            "a link to another file alone",
            "open it in Google Earth, and save what it shows as KML",
            "placemarks",
        )
    return features


def _parse_xml(data: bytes, encoding: str | None) -> Element:
    """Return the root element; tags are without namespace or prefix."""
    builder, parser = TreeBuilder(), expat.ParserCreate(encoding)

    def refuse(*_: object) -> None:
        raise AreaFileError("a document type (DOCTYPE)", "remove it, or export it again", "KML without one")

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = lambda tag, _: builder.start(tag.rpartition(":")[2], {})
    parser.EndElementHandler = lambda tag: builder.end(tag.rpartition(":")[2])
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(data, True)  # noqa: FBT003 - the parser's own signature
    except expat.ExpatError as error:
        raise AreaFileError(f"XML that is broken: {error}", "export it again", "KML") from None
    except (LookupError, ValueError, MemoryError) as error:
        if isinstance(error, AreaFileError):
            raise
        raise AreaFileError(f"XML that cannot be read: {error}", "save it as UTF-8", "KML") from None
    root: Element = builder.close()
    return root


def _placemark(placemark: Element) -> Feature:
    name = placemark.find("name")
    feature = Feature(
        name="" if name is None else "".join(name.itertext()).strip(),
        points=next(placemark.iter("Point"), None) is not None,
    )
    for geometry in placemark.iter():
        if geometry.tag not in _GEOMETRIES:
            continue
        if geometry.tag == "Polygon":
            shells = list(_coordinates(geometry, "outerBoundaryIs"))
            if len(shells) != 1:
                raise AreaFileError(
                    f"{len(shells)} outer boundaries in {feature.label}",
                    "export it again",
                    "one for each polygon",
                )
            feature.polygons.append([shells[0], *_coordinates(geometry, "innerBoundaryIs")])
        elif geometry.tag == "Track":
            feature.lines.append(points_of((each.text for each in geometry.iter("coord")), _track_point))
        elif geometry.tag == "LineString":
            feature.lines += [_points(each.text) for each in geometry.iter("coordinates")]
    if not feature.polygons:
        # A ring that bounds no polygon is a closed line.
        feature.lines += [
            _points(each.text) for ring in placemark.iter("LinearRing") for each in ring.iter("coordinates")
        ]
    feature.lines = [line for line in feature.lines if line]
    return feature


def _coordinates(polygon: Element, boundary: str) -> Iterator[list[Point]]:
    for element in polygon.iter(boundary):
        for ring in element.iter("LinearRing"):
            found = ring.find("coordinates")
            yield _points(None if found is None else found.text)


def _points(text: str | None) -> list[Point]:
    return points_of(_AROUND_COMMA.sub(",", text or "").split(), _tuple)


def _tuple(text: object) -> Point:
    parts = str(text).split(",")
    if len(parts) not in {2, 3}:
        raise AreaFileError(
            f"{str(text)[:60]!r}", "write longitude,latitude,altitude with spaces between", "a position"
        )
    return point_of(parts[0], parts[1])


def _track_point(text: object) -> Point:
    parts = str(text or "").split()
    if len(parts) not in {2, 3}:
        raise AreaFileError(f"{str(text)[:60]!r}", "write longitude latitude altitude", "a gx:coord")
    return point_of(parts[0], parts[1])
