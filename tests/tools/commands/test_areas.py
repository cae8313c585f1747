"""Requests whose area is in a file, from the command line: planned, built, and refused in one line."""

import json
import re

import mercantile
import pytest

from tests.tools.conftest import ACROSS, DOWN, LEFT, TOP, ZOOM, fingerprint


def corner(column, row):
    place = mercantile.ul(LEFT + int(column), TOP + int(row), ZOOM)
    east = mercantile.ul(LEFT + int(column) + 1, TOP + int(row) + 1, ZOOM)
    return [
        round(place.lng + column % 1 * (east.lng - place.lng), 7),
        round(place.lat + row % 1 * (east.lat - place.lat), 7),
    ]


def polygon(*corners):
    return {"type": "Polygon", "coordinates": [[corner(*each) for each in (*corners, corners[0])]]}


WHOLE = polygon((0, 0), (ACROSS, 0), (ACROSS, DOWN), (0, DOWN))
HALF = polygon((0.1, 0.1), (0.9, 0.1), (4.9, 3.9), (0.1, 3.9))
LINE = {"type": "LineString", "coordinates": [corner(0.5, 0.5), corner(2.5, 0.5)]}


def write(world, data, *lines):
    """Write a file, and a request for the ground in it."""
    (world.folder / "area").write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
    path = world.folder / "request.toml"
    text = re.sub(r"bbox = .*\n", "", path.read_text())
    path.write_text(text.replace("[tiles]", "\n".join(["[area]", 'file = "area"', *lines, "[tiles]"])))


def test_a_polygon_is_planned_built_and_shown(world):
    write(world, HALF)
    assert world.json("plan", world.request, "--no-measure")["wanted"] == 14
    made = world.json("build", world.request)
    assert (made["outcome"], made["tiles"], made["missing"]) == ("built", 14, 0)
    assert world.json("build", world.request)["outcome"] == "reused"
    told = world.json("replay", str(made["build"]))["area"]
    (first,) = told["rings"]
    assert [round(x * 1e7) for x in HALF["coordinates"][0][0]] in first
    assert told["routes"] == []
    assert sum(last - first + 1 for _, _, first, last in told["tiles"]["present"]) == 14
    assert "rings" not in world.json("replay", "1")["area"]
    manifest = json.loads(world.manifest_file(made["generation"]).read_bytes())
    digest = manifest["body"]["inputs"]["area"]["sha256"]
    assert manifest["format"] == 3
    assert "area" in world.run("why", digest).stdout


def test_a_route_has_a_width(world):
    write(world, LINE, "width_m = 400")
    assert world.json("plan", world.request, "--no-measure")["wanted"] == 3


REFUSED = {
    "self-crossing": (polygon((0, 0), (3, 3), (3, 0), (1, 3)), [], "it crosses itself at longitude"),
    "no geometry": (b"<kml><Document/></kml>", [], "expected polygons or routes"),
    "points": ({"type": "Point", "coordinates": corner(1, 1)}, [], "points alone"),
    "elsewhere": (
        {"type": "Polygon", "coordinates": [[[1, 1], [2, 1], [2, 2], [1, 1]]]},
        [],
        "so that they meet",
    ),
    "swapped": (
        {"type": "Polygon", "coordinates": [[[y, x] for x, y in WHOLE["coordinates"][0]]]},
        [],
        "exchange longitude and latitude",
    ),
    "metres": ({**WHOLE, "crs": {"properties": {"name": "EPSG:3857"}}}, [], "ogr2ogr -t_srs EPSG:4326"),
    "nan": (
        b'{"type": "Polygon", "coordinates": [[[NaN, 1], [2, 1], [2, 2], [NaN, 1]]]}',
        [],
        "finite degrees",
    ),
    "no width": (LINE, [], "add area.width_m"),
    "width 0": (LINE, ["width_m = 0"], "from 1 to 50000"),
    "absurd width": (LINE, ["width_m = 1e9"], "from 1 to 50000"),
    "width of nothing": (WHOLE, ["width_m = 5"], "remove area.width_m"),
    "zip": (b"PK\x03\x04 broken", [], "unzip it"),
    "two areas": (WHOLE, ["[[unused]]"], "known"),
}


@pytest.mark.parametrize("command", ["plan", "build"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_area_is_refused_with_its_mend_and_nothing_is_lost(world, name, command):
    data, lines, mend = REFUSED[name]
    write(world, data, *lines)
    heads = fingerprint(world.cache / "manifests")
    result = world.run(command, world.request)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert mend in result.stderr
    assert result.stderr.count("c10: error:") == 1
    assert fingerprint(world.cache / "manifests") == heads


@pytest.mark.parametrize("command", ["plan", "build"])
@pytest.mark.parametrize(
    ("swapped", "mend"), [(True, "exchange longitude and latitude"), (False, "so that they meet")]
)
def test_a_box_without_imagery_is_refused_with_its_mend_and_nothing_is_lost(world, command, swapped, mend):
    path = world.folder / "request.toml"
    west, south, east, north = json.loads(re.search(r"bbox = (.*)\n", path.read_text())[1])
    box = [south, west, north, east] if swapped else [west + 20, south, east + 20, north]
    path.write_text(re.sub(r"bbox = .*\n", f"bbox = {box}\n", path.read_text()))
    heads = fingerprint(world.cache / "manifests")
    result = world.run(command, world.request)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert mend in result.stderr
    assert fingerprint(world.cache / "manifests") == heads


def test_a_box_and_a_file_are_one_too_many(world):
    path = world.folder / "request.toml"
    text = path.read_text()
    write(world, WHOLE)
    path.write_text(re.search(r"bbox = .*\n", text)[0] + path.read_text())
    result = world.run("plan", world.request, "--no-measure")
    assert result.exit_code == 2
    assert "expected one area, found bbox and area; keep one" in result.stderr


def test_a_polygon_smaller_than_a_tile_has_its_tile(world):
    write(world, polygon((1.4, 1.4), (1.5, 1.4), (1.5, 1.5)))
    assert world.json("plan", world.request, "--no-measure")["wanted"] == 1
