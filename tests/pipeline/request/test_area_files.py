"""Files of areas: what each kind holds, that a copy in another form is the same area, and what is refused."""

import io
import json
import zipfile
from itertools import pairwise
from pathlib import Path

import pytest

from pipeline.errors import RequestError
from pipeline.request.area import Area
from pipeline.request.area_files.read_area import read_area
from pipeline.request.area_options import AreaOptions
from pipeline.request.geometry import degrees_to_e7
from pipeline.request.request import BuildRequest
from pipeline.request.to_toml import to_toml

SHELL = [[11.0, 48.0], [11.2, 48.0], [11.2, 48.1], [11.0, 48.1], [11.0, 48.0]]
HOLE = [[11.05, 48.02], [11.05, 48.04], [11.1, 48.04], [11.1, 48.02], [11.05, 48.02]]
POLYGON = {"type": "Polygon", "coordinates": [SHELL, HOLE]}
LINE = {"type": "LineString", "coordinates": [[11.0, 48.0], [11.1, 48.05, 120.5], [11.2, 48.1]]}
TEXT = "kml", 'xmlns="http://www.opengis.net/kml/2.2"'


def feature(geometry, name=None):
    return {"type": "Feature", "properties": {"name": name}, "geometry": geometry}


def collection(*features, **more):
    return {"type": "FeatureCollection", "features": list(features), **more}


def ring_text(ring, between=" "):
    return between.join(f"{x},{y},0" for x, y in ring)


def kml_polygon(shell=SHELL, hole=HOLE, between=" "):
    return (
        "<Polygon><tessellate>1</tessellate><altitudeMode>clampToGround</altitudeMode><outerBoundaryIs><LinearRing>"
        f"<coordinates>\n\t{ring_text(shell, between)}\n</coordinates></LinearRing></outerBoundaryIs>"
        f"<innerBoundaryIs><LinearRing><coordinates>{ring_text(hole)}</coordinates></LinearRing></innerBoundaryIs>"
        "</Polygon>"
    )


def kml(
    content,
    *,
    root='kml xmlns="http://www.opengis.net/kml/2.2"',
    start='<?xml version="1.0" encoding="UTF-8"?>',
):
    return f"{start}<{root}><Document><Folder>{content}</Folder></Document></kml>".encode()


def placemark(geometry, name="A &amp; B"):
    return f"<Placemark><name>{name}</name><styleUrl>#x</styleUrl>{geometry}</Placemark>"


def kmz(data, name="doc.kml", *more):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for other in more:
            archive.writestr(other, b"<kml/>")
        archive.writestr(name, data)
    return buffer.getvalue()


def damaged_kmz():
    """A KMZ whose packed bytes are no deflate stream."""
    packed = bytearray(kmz(kml(placemark(kml_polygon()))))
    start = 30 + len("doc.kml")
    packed[start : start + 8] = b"\xff" * 8
    return bytes(packed)


def waypoints(*rows):
    lines = [
        f"{n}\t0\t{frame}\t{command}\t0\t0\t0\t0\t{y}\t{x}\t100\t1"
        for n, (frame, command, x, y) in enumerate(rows)
    ]
    return ("QGC WPL 110\r\n" + "\r\n".join(lines) + "\r\n").encode()


def plan(items=(), home=(48.0, 11.0, 500), **fence):
    return {
        "fileType": "Plan",
        "mission": {"items": list(items), "plannedHomePosition": list(home) if home else None, "version": 2},
        "geoFence": {"circles": [], "polygons": [], "version": 2, **fence},
        "version": 1,
    }


def item(command, x=None, y=None, frame=3):
    return {"type": "SimpleItem", "command": command, "frame": frame, "params": [0, 0, 0, None, y, x, 50]}


@pytest.fixture
def request_of(tmp_path, request_text):
    def make(data, *lines):
        path = tmp_path / "area.any"
        path.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
        bbox = next(line for line in request_text().splitlines() if line.startswith("bbox"))
        table = "\n".join(['[area]\nfile = "area.any"', *lines])
        return BuildRequest.parse(request_text((bbox, ""), ("[tiles]", f"{table}\n[tiles]")), base=tmp_path)

    return make


@pytest.fixture
def area_of(request_of):
    return lambda data, *lines: read_area(request_of(data, *lines))


@pytest.fixture
def refused(area_of):
    def refuse(data, *lines):
        with pytest.raises(RequestError) as caught:
            area_of(data, *lines)
        assert "\n" not in caught.value.message
        assert caught.value.hint
        return str(caught.value)

    return refuse


def e7(*pairs):
    return tuple((degrees_to_e7(x), degrees_to_e7(y)) for x, y in pairs)


WHOLE = (e7(*SHELL[:-1]), e7(*HOLE[:-1]))
SAME = {
    "bare": POLYGON,
    "feature": feature(POLYGON),
    "collection": collection(
        feature(POLYGON), feature(None), feature({"type": "Point", "coordinates": [1, 2]})
    ),
    "multi": {"type": "MultiPolygon", "coordinates": [POLYGON["coordinates"], []]},
    "geometries": {"type": "GeometryCollection", "geometries": [POLYGON, POLYGON]},
    "turned": {"type": "Polygon", "coordinates": [SHELL[2:] + SHELL[1:3], HOLE[::-1]]},
    "not closed": {"type": "Polygon", "coordinates": [SHELL[:-1], HOLE]},
    "bom": b"\xef\xbb\xbf \n" + json.dumps(POLYGON).encode(),
    "utf-16": json.dumps(POLYGON).encode("utf-16"),
    "crs 84": {**POLYGON, "crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:OGC:1.3:CRS84"}}},
    "epsg": {**POLYGON, "crs": {"type": "name", "properties": {"name": "EPSG:4326"}}},
    "epsg urn": {**POLYGON, "crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::4326"}}},
    "no crs": {**POLYGON, "crs": None},
    "kml 2.2": kml(placemark(kml_polygon())),
    "kml 2.0": kml(placemark(kml_polygon()), root='kml xmlns="http://earth.google.com/kml/2.0"'),
    "no namespace": kml(placemark(kml_polygon()), root="kml"),
    "prefix": kml(placemark(kml_polygon())).replace(b"<Placemark", b"<gx:x/><Placemark"),
    "odd space": kml(placemark(kml_polygon(between="\r\n\t\t  "))).replace(b"11.0,48.0,0", b"11.0, 48.0 ,0"),
    "multigeometry": kml(
        placemark(
            f"<MultiGeometry><Point><coordinates>1,2</coordinates></Point>{kml_polygon()}</MultiGeometry>"
        )
    ),
    "latin-1": kml(placemark(kml_polygon(), "Fl\xe4che"), start='<?xml version="1.0" encoding="UTF-8"?>'),
    "utf-16 kml": kml(placemark(kml_polygon()), start="").decode().encode("utf-16"),
    "kmz": kmz(kml(placemark(kml_polygon()))),
    "kmz, other name": kmz(kml(placemark(kml_polygon())), "files/Area.KML"),
    "kmz, doc.kml of two": kmz(kml(placemark(kml_polygon())), "doc.kml", "a.kml"),
}


@pytest.mark.parametrize("name", SAME)
def test_one_area_in_many_forms(name, area_of):
    area = area_of(SAME[name])
    assert area.shape.polygons == (WHOLE,)
    assert area.ref == area_of(POLYGON).ref
    assert area.bbox_e7 == (110_000_000, 480_000_000, 112_000_000, 481_000_000)


CORNERS = e7((11.0, 48.0), (11.1, 48.05), (11.2, 48.1))
ROUTES = {
    "line": LINE,
    "reversed": {**LINE, "coordinates": LINE["coordinates"][::-1]},
    "multi": {"type": "MultiLineString", "coordinates": [LINE["coordinates"], []]},
    "kml": kml(
        placemark(
            f"<LineString><coordinates>{ring_text(SHELL[:1])} 11.1,48.05 11.2,48.1</coordinates></LineString>"
        )
    ),
    "track": kml(
        placemark(
            "<gx:Track><when>2026</when><gx:coord>11.0 48.0 5</gx:coord><gx:coord>11.1 48.05 5</gx:coord>"
            "<gx:coord>11.2 48.1 5</gx:coord></gx:Track>"
        )
    ),
    "waypoints": waypoints(
        (0, 16, 11.0, 48.0), (3, 22, 0, 0), (3, 16, 11.1, 48.05), (3, 206, 5, 6), (3, 21, 11.2, 48.1)
    ),
    "plan": plan(
        [item(22), item(16, 11.1, 48.05), item(178, 5, 6), item(82, 11.2, 48.1), item(16, 7, 7, frame=2)]
    ),
    "plan without home": plan([item(22, 11.0, 48.0), item(16, 11.1, 48.05), item(16, 11.2, 48.1)], home=None),
}


@pytest.mark.parametrize("name", ROUTES)
def test_one_route_in_many_forms(name, area_of):
    area = area_of(ROUTES[name], "width_m = 250.5")
    assert area.shape.routes == (CORNERS,)
    assert (area.shape.width_mm, area.shape.polygons) == (250_500, ())
    assert area.ref == area_of(LINE, "width_m = 250.5").ref != area_of(LINE, "width_m = 250").ref


def test_a_mission_returns_home_and_may_have_a_survey(area_of):
    survey = {
        "type": "ComplexItem",
        "complexItemType": "survey",
        "polygon": [[y, x] for x, y in SHELL[:-1]],
        "TransectStyleComplexItem": {"VisualTransectPoints": [[48.0, 11.1], [48.1, 11.1]]},
    }
    landing = {
        "type": "ComplexItem",
        "landingApproachCoordinate": [48.2, 11.3, 5],
        "landCoordinate": [48.3, 11.3, 5],
    }
    document = plan([survey, item(20), landing])
    assert area_of(document).shape.polygons == (WHOLE[:1],)
    flown = area_of(document, "width_m = 100").shape
    path = e7((11.0, 48.0), (11.1, 48.0), (11.1, 48.1), (11.0, 48.0), (11.3, 48.2), (11.3, 48.3))
    assert flown.routes == (min(path, path[::-1]),)
    assert flown.polygons == ()
    back = area_of(
        waypoints((0, 16, 11.0, 48.0), (3, 16, 11.1, 48.05), (3, 20, 0, 0)), "width_m = 1"
    ).shape.routes[0]
    assert back == e7((11.0, 48.0), (11.1, 48.05), (11.0, 48.0))


def test_the_fences_of_a_plan_are_an_area(area_of):
    def fence(*points, inclusion=True):
        return {"polygon": [[y, x] for x, y in points], "inclusion": inclusion, "version": 1}

    square = [(11.0, 48.0), (11.2, 48.0), (11.2, 48.1), (11.0, 48.1)]
    east = [(11.1, 47.0), (11.3, 47.0), (11.3, 49.0), (11.1, 49.0)]
    found = area_of(plan(polygons=[fence(*square), fence(*east, inclusion=False)]))
    assert found.shape.polygons == ((e7((11.0, 48.0), (11.1, 48.0), (11.1, 48.1), (11.0, 48.1)),),)
    circle = {"circle": {"center": [48.0, 11.0], "radius": 500.5}, "inclusion": True}
    around = area_of(plan(circles=[circle]))
    assert around.contains(*e7((11.0, 48.0045))[0])
    assert not around.contains(*e7((11.0, 48.0047))[0])
    without = area_of(plan(polygons=[fence(*square)], circles=[{**circle, "inclusion": False}]))
    assert not without.contains(*e7((11.001, 48.001))[0])
    assert without.contains(*e7((11.1, 48.05))[0])
    survey = {"type": "ComplexItem", "polygon": [[48.0, 11.0], [48.0, 11.1], [48.1, 11.1]]}
    assert area_of(plan([survey], polygons=[fence(*square)])).shape.polygons == (
        (e7((11.0, 48.0), (11.1, 48.0), (11.1, 48.1)),),
    )


@pytest.mark.parametrize("east", [-179.0, 181.0])
def test_a_fence_over_the_antimeridian_is_taken_from_one(area_of, east):
    def fence(west, east, *, inclusion=True):
        corners = ((0.0, west), (0.0, east), (1.0, east), (1.0, west))
        return {"polygon": [list(each) for each in corners], "inclusion": inclusion, "version": 1}

    found = area_of(plan(polygons=[fence(179.0, east), fence(-179.8, -179.2, inclusion=False)]))
    assert found.contains(*e7((179.5, 0.5))[0])
    assert found.contains(*e7((-179.1, 0.5))[0])
    assert not found.contains(*e7((-179.5, 0.5))[0])


def test_features_are_chosen_by_name(area_of, refused):
    data = collection(
        feature(POLYGON, "north"), feature(LINE, "road"), feature({**POLYGON, "coordinates": [HOLE]}, 7)
    )
    assert area_of(data, 'name = "north"').shape.polygons == (WHOLE,)
    assert area_of(data, 'name = "road"', "width_m = 9").shape.routes == (CORNERS,)
    assert len(area_of(data, 'name = "7"').shape.polygons) == 1
    assert "expected a feature named 'south' in" in refused(data, 'name = "south"')
    assert "found '7', 'north', 'road'; correct area.name" in refused(data, 'name = "south"')
    assert "found features without names" in refused(POLYGON, 'name = "x"')
    assert area_of(kml(placemark(kml_polygon())), 'name = "A & B"').shape.polygons == (WHOLE,)
    assert "choose one with area.name" in refused(data)
    both = area_of(data, "width_m = 9").shape
    assert (len(both.polygons), len(both.routes)) == (2, 1)


@pytest.mark.parametrize("name", ["pentagon", "Pentagon", "the Pentagon", "The Pentagone"])
def test_a_name_that_is_nearly_right_is_told_the_right_one(name, refused):
    others = [feature(LINE, f"Building {number}") for number in range(40, 60)]
    said = refused(collection(*others, feature(POLYGON, "The Pentagon")), f'name = "{name}"')
    assert "did you mean 'The Pentagon'?" in said
    assert "did you mean" not in refused(collection(*others), f'name = "{name}"')


def test_of_several_features_of_one_name_the_hint_is_to_rename(refused):
    said = refused(collection(feature(POLYGON, "leg"), feature(LINE, "leg")), 'name = "leg"')
    assert "several are named 'leg': give the one that is meant another name, or add area.width_m" in said


def test_a_polygon_crosses_the_antimeridian_however_it_is_written(area_of):
    short = {
        "type": "Polygon",
        "coordinates": [[[179.5, 0], [-179.5, 0], [-179.5, 1], [179.5, 1], [179.5, 0]]],
    }
    beyond = {
        "type": "Polygon",
        "coordinates": [[[179.5, 0], [180.5, 0], [180.5, 1], [179.5, 1], [179.5, 0]]],
    }
    before = {
        "type": "Polygon",
        "coordinates": [[[-180.5, 0], [-179.5, 0], [-179.5, 1], [-180.5, 1], [-180.5, 0]]],
    }
    cut = {
        "type": "MultiPolygon",
        "coordinates": [
            [[[179.5, 0], [180, 0], [180, 1], [179.5, 1], [179.5, 0]]],
            [[[-180, 0], [-179.5, 0], [-179.5, 1], [-180, 1], [-180, 0]]],
        ],
    }
    areas = [area_of(each) for each in (short, beyond, before, cut)]
    assert areas[0] == areas[1] == areas[2]
    for area in areas:
        assert area.bbox_e7 == (1_795_000_000, 0, -1_795_000_000, 10_000_000)
        assert [area.contains(x * 10**7, 5_000_000) for x in (179, 180, -180, -179, 0)] == [
            False,
            True,
            True,
            False,
            False,
        ]


BOW = [[11.0, 48.0], [11.2, 48.1], [11.2, 48.0], [11.08, 48.05], [11.0, 48.0]]
OUTSIDE = [[12.0, 48.0], [12.1, 48.0], [12.1, 48.1], [12.0, 48.0]]
REFUSED = {
    "self-crossing": ({"type": "Polygon", "coordinates": [BOW]}, "it crosses itself at longitude 11."),
    "bow tie": (
        {"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [1, 0], [0, 1], [0, 0]]]},
        "a feature without name: it crosses itself at longitude 0.5000000, latitude 0.5000000",
    ),
    "named": (collection(feature({"type": "Polygon", "coordinates": [BOW]}, "Feld")), "'Feld': it crosses itself"),
    "hole outside": ({"type": "Polygon", "coordinates": [SHELL, OUTSIDE]}, "hole lies outside shell"),
    "spike": (
        {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [5, 0], [1, 0], [1, 1], [0, 0]]]},
        "expected valid polygons",
    ),
    "no area": ({"type": "Polygon", "coordinates": [[[0, 0], [1e-9, 0], [0, 1e-9], [0, 0]]]}, "a ring without area"),
    "empty polygon": ({"type": "Polygon", "coordinates": []}, "expected polygons or routes"),
    "empty collection": (collection(), "expected polygons or routes"),
    "empty kml": (kml(""), "expected polygons or routes"),
    "points": (collection(feature({"type": "MultiPoint", "coordinates": [[1, 2]]})), "found points alone"),
    "points, kml": (kml(placemark("<Point><coordinates>1,2</coordinates></Point>")), "found points alone"),
    "link": (kml("<NetworkLink><Link/></NetworkLink>"), "found a link to another file alone"),
    "route": (LINE, "found a route (3 points in a feature without name), which has no width"),
    "mission": (waypoints((0, 16, 11.0, 48.0), (3, 16, 11.1, 48.0)), "which has no width; add area.width_m"),
    "home alone": (waypoints((0, 16, 11.0, 48.0)), "expected polygons or routes"),
    "mercator": ({**POLYGON, "crs": {"properties": {"name": "urn:ogc:def:crs:EPSG::3857"}}}, "EPSG::3857; write it in deg"),
    "crs by link": ({**POLYGON, "crs": {"type": "link", "properties": {"href": "x"}}}, "that is not named"),
    "metres": ({"type": "LineString", "coordinates": [[5e5, 4e6], [6e5, 4e6]]}, "found the coordinates"),
    "swapped": ({"type": "LineString", "coordinates": [[36.5, -118.2], [36.6, -118.2]]}, "the order is longitude, latitude"),
    "beyond mercator": ({"type": "Polygon", "coordinates": [[[0, 80], [1, 89], [2, 80]]]}, "Web Mercator range"),
    "pole": ({"type": "Polygon", "coordinates": [[[0, 80], [120, 80], [-120, 80], [0, 80]]]}, "a ring around a pole"),
    "nan": (b'{"type": "LineString", "coordinates": [[NaN, 1], [2, 3]]}', "found NaN in place of a number"),
    "infinity": (b'{"type": "LineString", "coordinates": [[-Infinity, 1], [2, 3]]}', "-Infinity in place"),
    "huge": (b'{"type": "LineString", "coordinates": [[1e999, 1], [2, 3]]}', "degrees of WGS 84"),
    "nan, kml": (kml(placemark("<LineString><coordinates>1,2 nan,3</coordinates></LineString>")), "'nan' in place of a coordinate in point 2"),
    "nan, waypoints": (waypoints((0, 16, 11.0, 48.0), (3, 16, "nan", 48.0)), "coordinate in point 1 in line 3"),
    "null": ({"type": "LineString", "coordinates": [[None, 1], [2, 3]]}, "no number in place of a coordinate"),
    "text": ({"type": "LineString", "coordinates": [["x", 1], [2, 3]]}, "'x' in place of a coordinate"),
    "truth": ({"type": "LineString", "coordinates": [[True, 1], [2, 3]]}, "'True' in place of a coordinate"),
    "short position": ({"type": "LineString", "coordinates": [[1], [2, 3]]}, "expected a position"),
    "no ring": ({"type": "Polygon", "coordinates": [[1, 2], [3, 4]]}, "expected a position"),
    "no rings": ({"type": "Polygon", "coordinates": [5]}, "expected rings of positions"),
    "no line": ({"type": "MultiLineString", "coordinates": [5]}, "expected a list of positions"),
    "no feature": (collection({"type": "Polygon"}), "expected GeoJSON features"),
    "other type": ({"type": "Curve", "coordinates": []}, "a geometry of type 'Curve'"),
    "no type": ({"a": 1}, "expected a GeoJSON geometry"),
    "nested": (json.loads('{"type": "GeometryCollection", "geometries": [' * 40 + "{}" + "]}" * 40), "a geometry of type"),
    "topology": ({"type": "Topology"}, "found TopoJSON"),
    "broken json": (b'{"type": "Polygon", ', "found JSON that is broken"),
    "deep json": (b'{"a":' + b"[" * 100_000, "found JSON that is broken"),
    "lines of json": (json.dumps(feature(POLYGON)).encode() * 2, "write one FeatureCollection"),
    "empty": (b" \n", "found an empty file"),
    "shapefile": (b"\x00\x00\x27\x0a" + bytes(96), "found another kind of file; convert it to GeoJSON"),
    "gpx": (b"<gpx><trk/></gpx>", "found XML with the root 'gpx'; convert it"),
    "html": (b"<!DOCTYPE html><html></html>", "found a document type"),
    "entities": (b'<!DOCTYPE k [<!ENTITY a "b">]><kml>&a;</kml>', "found a document type"),
    "entity without type": (b"<kml>&a;</kml>", "found XML that is broken"),
    "broken kml": (b"<kml><Document>", "found XML that is broken"),
    "unknown encoding": (b'<?xml version="1.0" encoding="klingon"?><kml/>', "found XML that"),
    "no shell": (kml(placemark("<Polygon><outerBoundaryIs/></Polygon>")), "found 0 outer boundaries in 'A & B'"),
    "empty ring": (kml(placemark("<Polygon><outerBoundaryIs><LinearRing/></outerBoundaryIs></Polygon>")), "a ring without area"),
    "kml position": (kml(placemark("<LineString><coordinates>1,2,3,4</coordinates></LineString>")), "found '1,2,3,4' in point 1"),
    "track position": (kml(placemark("<gx:Track><gx:coord>1</gx:coord></gx:Track>")), "expected a gx:coord"),
    "zip without kml": (kmz(b"x", "area.shp"), "found a zip file without KML"),
    "broken zip": (kmz(kml(""))[:40], "found a zip file that cannot be unpacked"),
    "damaged zip": (damaged_kmz(), "found a zip file that cannot be unpacked"),
    "huge exponent": (b'{"type": "Polygon", "coordinates": [[[1e1000000, 1], [2, 1], [2, 2], [1, 1]]]}', "found the coordinates 1E+1000000"),
    "no exponent": (b'{"type": "Polygon", "coordinates": [[[1e9999999999999999999, 1]]]}', "found JSON that is broken"),
    "waypoint columns": (b"QGC WPL 110\n0 1 2\n", "found line 2 with other columns"),
    "plan, unknown item": (plan([{"type": "Wizardry"}]), "found an unknown item in its mission"),
    "plan, no place": (plan([{"type": "ComplexItem", "polygon": [1, 2]}]), "expected [latitude, longitude]"),
    "plan, swapped": (plan([item(16, 48.0, 118.0)]), "the order is latitude, longitude"),
    "plan, fence": (plan(polygons=[{"inclusion": True}]), "found a fence without polygon"),
    "plan, circle": (plan(circles=[{"circle": {"center": [1, 2], "radius": -1}}]), "found a fence without circle"),
    "plan, empty": (plan(), "expected polygons or routes"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_holds_no_area_is_refused_with_what_mends_it(name, refused):
    data, message = REFUSED[name]
    assert message in refused(data)


@pytest.mark.parametrize(
    ("data", "lines", "message"),
    [
        (POLYGON, ["width_m = 5"], "expected a route in"),
        (collection(), ["width_m = 5"], "found none; draw one"),
        ({"type": "LineString", "coordinates": [[1, 2], [1, 2]]}, ["width_m = 5"], "a route of one point"),
        (
            {"type": "LineString", "coordinates": [[0, 85], [1, 85]]},
            ["width_m = 50000"],
            "a corridor beyond the Web",
        ),
    ],
)
def test_widths_and_what_they_belong_to(data, lines, message, refused):
    assert message in refused(data, *lines)


@pytest.mark.parametrize("width", ["0", "-1", "nan", "inf", "0.5", "50001", '"5"', "true"])
def test_absurd_widths(width, request_of):
    with pytest.raises(RequestError, match=r"area\.width_m: expected a finite number from 1 to 50000"):
        request_of(LINE, f"width_m = {width}")


def test_a_kmz_that_unpacks_to_too_much(monkeypatch, refused):
    packed = kmz(kml(placemark(kml_polygon())))
    monkeypatch.setattr("pipeline.request.area_files.read_area.MAX_AREA_BYTES", len(packed))
    assert "bytes of KML" in refused(packed)


def test_a_file_that_is_missing_or_too_large(tmp_path, request_of, monkeypatch):
    request = request_of(POLYGON)
    monkeypatch.setattr("pipeline.request.area_files.read_area.MAX_AREA_BYTES", 10)
    with pytest.raises(RequestError, match=r"area\.file: expected at most 10 bytes"):
        read_area(request)
    (tmp_path / "area.any").unlink()
    with pytest.raises(RequestError, match=r"area\.file: expected a readable file"):
        read_area(request)


@pytest.fixture
def parse(request_text):
    bbox = next(line for line in request_text().splitlines() if line.startswith("bbox"))
    return lambda *lines: BuildRequest.parse(request_text((bbox, "\n".join(lines))), base=Path("/x"))


def test_several_boxes(parse):
    boxes = "bboxes = [[11, 48, 11.50000004, 48.1], [179, -1, -179, 1], [11, 48, 11.50000004, 48.1]]"
    request = parse(boxes)
    assert request.bbox is request.bbox_e7 is None
    assert request.bboxes_e7[1] == (1_790_000_000, -10_000_000, -1_790_000_000, 10_000_000)
    area = read_area(request)
    assert len(area.shape.polygons) == 2
    again = parse("bboxes = [[179, -1, -179, 1], [11.0, 48.0, 11.5, 48.1]]")
    assert read_area(again) == area == Area.of_boxes(again.bboxes_e7)
    with pytest.raises(ValueError, match="has no boxes"):
        parse('area = {file = "x"}').area_of_boxes()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["bboxes = []"], "bboxes: expected a list of 1 to 1000 boxes"),
        (["bboxes = [[1, 2, 3]]"], "bboxes: expected [west, south, east, north]"),
        (["bboxes = [[1, 3, 2, 2]]"], "bboxes: expected south less than north"),
        (
            ["bboxes = [[1, 2, 3, 4]]", "bbox = [1, 2, 3, 4]"],
            "bboxes: expected one area, found bbox and bboxes; keep one",
        ),
        (
            ["bbox = [1, 2, 3, 4]", 'area = {file = "x"}'],
            "area: expected one area, found bbox and area; keep one",
        ),
        (["area = {width_m = 5}"], "area.file: expected a value, found none"),
        (['area = {file = "x", widht_m = 5}'], "did you mean 'width_m'?"),
        ([], "bbox: expected a value, found none; add this key, or bboxes, or [area] file"),
    ],
)
def test_exactly_one_area(lines, message, parse):
    with pytest.raises(RequestError) as caught:
        parse(*lines)
    assert message in str(caught.value)


def test_one_pass_tells_a_missing_area_beside_other_problems(request_text):
    text = request_text(("bbox", "bbx"), ("zoom = [13, 15]", "zoom = 5"))
    with pytest.raises(RequestError) as caught:
        BuildRequest.parse(text, base=Path("/x"))
    assert {problem.key for problem in caught.value.problems} == {"bbx", "zoom", "bbox"}


def test_a_recorded_request_names_the_same_area(tmp_path, request_of, parse):
    request = request_of(LINE, "width_m = 250.5", 'name = "a b"')
    again = BuildRequest.parse(to_toml(request), base=tmp_path)
    assert again.area == request.area == AreaOptions(file="area.any", width_m=250.5, name="a b")
    boxes = parse("bboxes = [[179, -1, -179, 1], [11.123456789, 48, 11.5, 48.1]]")
    assert BuildRequest.parse(to_toml(boxes), base=tmp_path).bboxes_e7 == boxes.bboxes_e7


def test_forms_are_all_different():
    documents = [json.dumps(each) if isinstance(each, dict) else repr(each) for each in SAME.values()]
    assert all(one != other for one, other in pairwise(sorted(documents)))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_files_in_utf_16_are_read_with_a_mark_and_without(encoding, area_of):
    declared = kml(placemark(kml_polygon(), "Fläche")).decode()
    for text in (json.dumps(POLYGON), declared, declared.replace("UTF-8", "UTF-16")):
        assert area_of(text.encode(encoding)).ref == area_of(POLYGON).ref
    assert area_of(ROUTES["waypoints"].decode().encode(encoding), "width_m = 5").shape.routes == (CORNERS,)


def corridor_scan(width, *points):
    return {
        "type": "ComplexItem",
        "complexItemType": "CorridorScan",
        "CorridorWidth": width,
        "polyline": [[y, x] for x, y in points],
        "TransectStyleComplexItem": {"VisualTransectPoints": [[47.9, 11.0], [48.2, 11.2]]},
    }


def test_a_corridor_scan_has_a_width_of_its_own(area_of):
    line, other = ((11.0, 48.0), (11.1, 48.05)), ((11.3, 48.0), (11.4, 48.0))
    survey = {"type": "ComplexItem", "polygon": [[y, x] for x, y in SHELL[:-1]]}
    shape = area_of(plan([survey, corridor_scan(50.5, *line), corridor_scan(40, *other)])).shape
    assert shape.routes == (e7(*line), e7(*other))
    assert (shape.width_mm, shape.polygons) == (50_500, (WHOLE[:1],))
    flown = area_of(plan([corridor_scan(50, *line)]), "width_m = 20").shape
    path = e7((11.0, 48.0), (11.0, 47.9), (11.2, 48.2))
    assert (flown.routes, flown.width_mm) == ((min(path, path[::-1]),), 20_000)


@pytest.mark.parametrize("width", [0, -5, 60_000, "50", None])
def test_a_corridor_scan_without_a_usable_width_asks_for_one(width, refused):
    document = plan([corridor_scan(width, (11.0, 48.0), (11.1, 48.05))])
    assert "which has no width; add area.width_m" in refused(document)


@pytest.mark.parametrize("west", [-100.0, -170.0, -174.9])
def test_a_polygon_that_may_mean_the_rest_of_the_globe_is_refused(west, area_of, refused):
    ring = [[west, 0], [-west, 0], [-west, 1], [west, 1], [west, 0]]
    assert "or goes around the rest of the globe; cut it at 180" in refused(
        {"type": "Polygon", "coordinates": [ring]}
    )
    between = [[x, y] for y, xs in ((0, (west, 0, -west)), (1, (-west, 0, west))) for x in xs]
    assert area_of({"type": "Polygon", "coordinates": [between]}).contains(0, 5_000_000)
    beyond = [[-west, 0], [360 + west, 0], [360 + west, 1], [-west, 1]]
    assert not area_of({"type": "Polygon", "coordinates": [beyond]}).contains(0, 5_000_000)
