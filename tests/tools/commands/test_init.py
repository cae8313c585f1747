"""`c10 init`: what it writes for each kind of imagery builds, and what it cannot write is refused in one line."""

import json
import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import mercantile
import pytest
from click.testing import CliRunner
from PIL import Image

from pipeline.planning.draft import draft_tiles
from pipeline.request.request import BuildRequest
from pipeline.tiles.sources.registry import open_source
from store.toml import tomllib
from tests.ground import ALTITUDE_M, CAMERA, TILES, GroundSite
from tests.ground import ZOOM as GROUND_ZOOM
from tests.pipeline.tiles.sources.archives.test_geopackage import write_gpkg
from tests.tile_archives import block, write_mbtiles, write_pmtiles, write_xyz
from tools.cli import cli

ZOOM, LEFT, TOP = 12, 2176, 1408
BLOCK = block(ZOOM, LEFT, TOP, columns=5, rows=4)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The folder that commands run in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*args, code=0):
    result = CliRunner().invoke(
        cli, [*map(str, args), "--json"], env={"HOME": "/nonexistent", "C10_WORKERS": "1"}
    )
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def build(request="request.toml"):
    """Build a request that was written, in a cache of its own."""
    made = run("build", request, "--cache", f"{request}.cache")
    assert made["outcome"] == "built", made
    return made


def plan(request="request.toml"):
    planned = run("plan", request, "--no-measure", "--cache", "none")
    assert planned["decision"] == "build"
    return planned


def asked(request="request.toml"):
    return tomllib.loads(Path(request).read_text())


def polygon(*corners):
    """GeoJSON of columns and rows, counted from the first tile."""
    places = [mercantile.ul(LEFT + x, TOP + y, ZOOM) for x, y in (*corners, corners[0])]
    return json.dumps({"type": "Polygon", "coordinates": [[[each.lng, each.lat] for each in places]]})


KINDS = {
    "tiles": lambda root: write_xyz(root / "tiles", BLOCK),
    "tiles/{z}/{x}/{y}.png": lambda root: write_xyz(root / "tiles", BLOCK),
    "a.mbtiles": lambda root: write_mbtiles(root / "a.mbtiles", BLOCK),
    "a.pmtiles": lambda root: write_pmtiles(root / "a.pmtiles", BLOCK, min_zoom=ZOOM, max_zoom=ZOOM),
    "a.gpkg": lambda root: write_gpkg(root / "a.gpkg", BLOCK, edge=32),
    "a.gpkg:ortho": lambda root: write_gpkg(root / "a.gpkg", BLOCK, edge=32),
}


@pytest.mark.parametrize("source", KINDS)
def test_every_kind_of_tiles_becomes_a_request_that_builds(source, folder):
    KINDS[source](folder)
    (folder / "sub").mkdir()
    told = run("init", source, "-o", "sub/request.toml")
    assert (told["tiles"], told["wanted"], told["zoom"]) == (20, 20, [ZOOM, ZOOM])
    assert told["metres_per_pixel"] == pytest.approx(40_075_016.686 * 0.6 / 2**ZOOM / 32, rel=0.2)
    request = asked("sub/request.toml")
    assert request["tiles"] == {"source": f"../{source}"}
    assert "altitude_m" not in request
    first, last = mercantile.bounds(LEFT, TOP, ZOOM), mercantile.bounds(LEFT + 4, TOP + 3, ZOOM)
    assert request["bbox"] == pytest.approx([first.west, last.south, last.east, first.north], abs=1e-7)
    assert request["origin"][0] == pytest.approx((first.west + last.east) / 2, abs=1e-6)
    assert json.loads((folder / "sub/calibration.json").read_text()) == {}
    planned = plan("sub/request.toml")
    assert (planned["tiles"], planned["wanted"]) == (20, 20)


def test_an_archive_whose_header_is_wrong_tells_what_it_holds(folder):
    write_pmtiles(
        folder / "a.pmtiles",
        BLOCK,
        min_zoom=ZOOM,
        max_zoom=ZOOM,
        min_lon_e7=0,
        max_lon_e7=1,
        min_lat_e7=0,
        max_lat_e7=1,
    )
    assert run("init", "a.pmtiles", "-o", "request.toml")["tiles"] == 20


def test_imagery_on_both_sides_of_the_antimeridian_gets_a_box_across_it(folder):
    around = 1 << ZOOM
    tiles = {(z, (around - 2 + x - LEFT) % around, y): content for (z, x, y), content in BLOCK.items()}
    write_mbtiles(folder / "a.mbtiles", tiles)
    told = run("init", "a.mbtiles", "-o", "request.toml")
    west, _, east, _ = told["bbox"]
    assert (told["tiles"], told["wanted"]) == (20, 20)
    assert east < 0 < west
    assert abs(asked()["origin"][0]) > 179
    assert plan()["tiles"] == 20


def test_holes_are_told_and_allowed_for_and_only_then(folder):
    write_mbtiles(folder / "whole.mbtiles", BLOCK)
    run("init", "whole.mbtiles", "-o", "whole.toml")
    assert "coverage" not in asked("whole.toml")
    corners = [(ZOOM, LEFT, TOP), (ZOOM, LEFT + 4, TOP + 3)]
    ragged = {
        place: BLOCK[place] for place in BLOCK if place[1] + place[2] != LEFT + TOP + 3 or place in corners
    }
    write_mbtiles(folder / "ragged.mbtiles", ragged)
    told = run("init", "ragged.mbtiles", "-o", "ragged.toml")
    assert told["coverage"] == len(ragged) / 20 == 0.8
    assert asked("ragged.toml")["coverage"]["min_fraction"] == 0.75
    build("ragged.toml")


def test_tiles_in_which_the_imagery_ends_are_allowed_for(folder):
    tiles = dict(BLOCK)
    for row in range(4):
        picture = Image.open(BytesIO(BLOCK[ZOOM, LEFT, TOP + row])).convert("RGBA")
        picture.paste((0, 0, 0, 0), (0, 0, 20, 32))
        buffer = BytesIO()
        picture.save(buffer, "png")
        tiles[ZOOM, LEFT, TOP + row] = buffer.getvalue()
    write_mbtiles(folder / "a.mbtiles", tiles)
    assert run("init", "a.mbtiles", "-o", "request.toml")["coverage"] == 1
    assert asked()["coverage"]["min_fraction"] == 0.75
    build()


def plain(shade):
    """A tile of calm water, of its own colour."""
    buffer = BytesIO()
    Image.new("RGB", (32, 32), (20, 60, shade)).save(buffer, "png")
    return buffer.getvalue()


WIDE = block(ZOOM, LEFT, TOP, columns=7, rows=7)
INNER = [(ZOOM, LEFT + x, TOP + y) for x in (2, 3, 4) for y in (2, 3, 4)]


@pytest.mark.parametrize(
    "inside",
    [{place: plain(90 + at) for at, place in enumerate(INNER)}, dict.fromkeys(INNER, BLOCK[ZOOM, LEFT, TOP])],
    ids=["a lake", "equal tiles"],
)
def test_what_is_useless_inside_of_the_imagery_is_allowed_for(inside, folder):
    write_mbtiles(folder / "a.mbtiles", {**WIDE, **inside})
    told = run("init", "a.mbtiles", "-o", "request.toml")
    # The picture that repeats is the first tile's.
    useless = 9 + (BLOCK[ZOOM, LEFT, TOP] in inside.values())
    assert told["localisable"] == pytest.approx(1 - useless / 49, abs=1e-6)
    assert told["looked_at"] == 49
    assert asked()["coverage"]["min_fraction"] == told["min_fraction"] == (0.76 if useless == 9 else 0.74)
    assert "CORRECT THIS: least part" in (folder / "request.toml").read_text()
    build()


@pytest.mark.parametrize("name", ["a.mbtiles", "a.pmtiles", "a.gpkg"])
@pytest.mark.parametrize("data", [b"", b"not an archive"])
def test_an_archive_that_is_damaged_is_refused_as_a_request_that_names_it_is(folder, name, data):
    (folder / name).write_bytes(data)
    error = run("init", name, "-o", "request.toml", code=2)["error"]
    assert "fetch or export the archive again" in error["hint"]
    assert not (folder / "request.toml").exists()


def test_imagery_without_anything_to_recognise_is_refused(folder):
    write_mbtiles(folder / "a.mbtiles", {place: plain(at) for at, place in enumerate(BLOCK)})
    error = run("init", "a.mbtiles", "-o", "request.toml", code=2)["error"]
    assert error["kind"] == "coverage-too-low"
    assert "found 0%" in error["message"]
    assert "name imagery" in error["hint"]
    assert [each.name for each in folder.iterdir()] == ["a.mbtiles"]


def test_tiles_that_cannot_be_read_are_told_and_skipped_or_refused_if_none_can(folder):
    buffer = BytesIO()
    Image.effect_noise((32, 16), 90).convert("RGB").save(buffer, "png")
    bad = {(ZOOM, LEFT + 2, TOP + 1): b"no imagery", (ZOOM, LEFT + 3, TOP + 1): b""}
    bad[ZOOM, LEFT + 4, TOP + 2] = buffer.getvalue()
    write_xyz(folder / "tiles", {**BLOCK, **bad})
    assert run("init", "tiles", "-o", "request.toml")["unreadable"] == 3
    assert asked()["tiles"]["on_bad"] == "skip"
    text = (folder / "request.toml").read_text()
    assert f"CORRECT THIS: 3 of 20 tiles cannot be read and are left out, such as {ZOOM}/{LEFT + 2}/" in text
    assert build()["skipped"] == 3
    write_xyz(folder / "none", dict.fromkeys(BLOCK, b"no imagery"))
    error = run("init", "none", "-o", "none.toml", code=2)["error"]
    assert error["kind"] == "bad-tile"
    assert "found none: tile" in error["message"]
    assert not (folder / "none.toml").exists()


def test_a_sample_of_many_tiles_tells_what_all_are_like(folder, monkeypatch):
    tiles = block(ZOOM, LEFT, TOP, columns=30, rows=30)
    # Every third column: what takes each n-th tile would see all or none of it.
    tiles |= {place: plain(at % 200) for at, place in enumerate(tiles) if place[1] % 3 == 0}
    write_mbtiles(folder / "a.mbtiles", tiles)
    monkeypatch.setattr(draft_tiles, "_MOST_SEEN", 100)
    first, second = (run("init", "a.mbtiles", "-o", name) for name in ("a.toml", "b.toml"))
    assert first["looked_at"] == 200
    assert 0.55 < first["localisable"] < 0.78
    assert first["localisable"] == second["localisable"]


def test_a_camera_and_heights_give_chunks_inside_of_the_imagery(folder):
    GroundSite(folder)
    (folder / "camera.json").write_bytes(CAMERA)
    heights = f"{ALTITUDE_M * 1.8:.0f},{ALTITUDE_M * 1.9:.0f}"  # the higher, the fewer chunks
    told = run("init", "tiles", "-o", "request.toml", "--camera", "camera.json", "--altitude", heights)
    assert told["coverage"] == 1
    assert asked()["calibration"] == "camera.json"
    made = build()
    assert made["chunks"] > 0
    assert made["missing"] == 0
    assert made["tiles"] <= TILES**2
    assert told["zoom"] == [GROUND_ZOOM, GROUND_ZOOM]


def test_a_chunk_larger_than_the_imagery_is_refused(folder):
    write_xyz(folder / "tiles", {place: BLOCK[place] for place in list(BLOCK)[:1]})
    (folder / "camera.json").write_bytes(CAMERA)
    error = run("init", "tiles", "-o", "r.toml", "--camera", "camera.json", "--altitude", 30_000, code=2)[
        "error"
    ]
    assert "--altitude" in error["message"]
    assert not (folder / "r.toml").exists()


def test_a_chunk_larger_than_its_zoom_allows_is_told_by_the_options_there_are(folder):
    write_xyz(folder / "tiles", block(20, LEFT << 8, TOP << 8, columns=3, rows=3))
    (folder / "camera.json").write_bytes(CAMERA)
    words = ("init", "tiles", "-o", "r.toml", "--camera", "camera.json", "--altitude", 3000)
    error = run(*words, code=2)["error"]
    assert "--altitude: chunks: a side of" in error["message"]
    assert "lower --altitude" in error["hint"]
    assert "chunks" not in error["hint"]


def test_an_area_is_the_ground_of_the_request(folder):
    write_xyz(folder / "tiles", BLOCK)
    (folder / "valley.json").write_text(polygon((0.1, 0.1), (2.9, 0.1), (2.9, 1.9), (0.1, 1.9)))
    told = run("init", "tiles", "-o", "request.toml", "--area", "valley.json")
    assert (told["tiles"], told["wanted"]) == (6, 6)
    assert asked()["area"] == {"file": "valley.json"}
    assert build()["tiles"] == 6


def route(*corners):
    """GeoJSON of a line."""
    places = json.loads(polygon(*corners))["coordinates"][0][:-1]
    return json.dumps({"type": "LineString", "coordinates": places})


def test_a_route_gets_a_width_that_is_marked(folder):
    write_xyz(folder / "tiles", BLOCK)
    (folder / "route.json").write_text(route((0.5, 0.5), (3.5, 0.5)))
    run("init", "tiles", "-o", "request.toml", "--area", "route.json")
    assert asked()["area"] == {"file": "route.json", "width_m": 500}
    assert "CORRECT THIS, it was assumed: width" in (folder / "request.toml").read_text()
    assert plan()["tiles"] == 4


def test_the_width_of_a_route_can_be_named_and_needs_a_route(folder):
    write_xyz(folder / "tiles", BLOCK)
    (folder / "route.json").write_text(route((0.5, 0.9), (3.5, 0.9)))
    (folder / "valley.json").write_text(polygon((0.1, 0.1), (2.9, 0.1), (2.9, 1.9), (0.1, 1.9)))
    init = ("init", "tiles", "-o", "request.toml")
    told = run(*init, "--area", "route.json", "--width", "2500.5")
    assert (told["width_m"], told["warnings"]) == (2500.5, [])
    assert asked()["area"] == {"file": "route.json", "width_m": 2500.5}
    assert "CORRECT THIS, it was assumed" not in (folder / "request.toml").read_text()
    assert plan()["tiles"] == 8  # of two rows, in place of one
    (folder / "request.toml").unlink()
    assert "--area FILE with a route" in run(*init, "--width", "90", code=2)["error"]["message"]
    for width in ("0", "nan", "60000", "wide"):
        assert repr(width) in run(*init, "--area", "route.json", "--width", width, code=2)["error"]["message"]
    error = run(*init, "--area", "valley.json", "--width", "90", code=2)["error"]
    assert ("expected a route" in error["message"], error["hint"]) == (True, "remove --width")


@pytest.mark.parametrize("flown", [(), ("--camera", "camera.json", "--altitude", "3000")])
@pytest.mark.parametrize(
    ("width", "told"),
    [((), "500 m along the route, which was assumed (--width"), (("--width", "90"), "90 m along")],
)
def test_of_a_route_beside_the_imagery_the_width_is_told(folder, width, told, flown):
    write_xyz(folder / "tiles", BLOCK)
    (folder / "camera.json").write_bytes(CAMERA)
    (folder / "route.json").write_text(route((100.5, 0.5), (103.5, 0.5)))
    init = ("init", "tiles", "-o", "request.toml", "--area", "route.json")
    error = run(*init, *width, *flown, code=2)["error"]
    assert (error["kind"], told in error["message"]) == ("no-tiles", True), error["message"]
    assert error["hint"].startswith("change the area")


@pytest.mark.parametrize("drawn", ["polygon", "route"])
def test_an_area_of_which_a_part_is_there_is_written_and_no_build_takes_it(drawn, folder):
    write_xyz(folder / "tiles", BLOCK)
    text = {"polygon": polygon((3, 2), (9, 2), (9, 8), (3, 8)), "route": route((3.5, 0.5), (8.5, 0.5))}[drawn]
    (folder / "area.json").write_text(text)
    told = run("init", "tiles", "-o", "request.toml", "--area", "area.json")
    (warning,) = told["warnings"]
    share = f"{told['coverage']:.1%}"
    assert 0 < told["coverage"] < 0.9 == told["min_fraction"] == asked()["coverage"]["min_fraction"]
    assert warning["kind"] == "coverage"
    assert f"has {share} of the area" in warning["message"]
    assert ("500 m along the route, which was assumed (--width" in warning["message"]) == (drawn == "route")
    assert f"CORRECT THIS: {share} of the area" in (folder / "request.toml").read_text()
    for command in ("plan", "build"):
        error = run(command, "request.toml", "--cache", "none", code=3 if command == "build" else 2)["error"]
        assert error["kind"] == "coverage-too-low"


@pytest.mark.parametrize(
    ("area", "hint"),
    [
        (polygon((20, 20), (22, 20), (22, 22)), "change the area"),
        ('{"type": "Point", "coordinates": [11.25, 49.2]}', "draw a polygon"),
        (
            '{"type": "Polygon", "coordinates": [[[48.9, 11.3], [49.1, 11.3], [49.1, 11.6], [48.9, 11.3]]]}',
            "exchange",
        ),
    ],
)
def test_an_area_without_imagery_is_refused(area, hint, folder):
    write_xyz(folder / "tiles", BLOCK)
    (folder / "area.json").write_text(area)
    error = run("init", "tiles", "-o", "request.toml", "--area", "area.json", code=2)["error"]
    assert hint in error["hint"]
    assert sorted(each.name for each in folder.iterdir()) == ["area.json", "tiles"]


def test_nothing_is_overwritten_unless_it_is_asked_for(folder):
    write_xyz(folder / "tiles", BLOCK)
    (folder / "request.toml").write_text("mine")
    (folder / "calibration.json").write_text('{"fx": 1}')
    error = run("init", "tiles", "-o", "request.toml", code=2)["error"]
    assert "--force" in error["hint"]
    assert (folder / "request.toml").read_text() == "mine"
    run("init", "tiles", "-o", "request.toml", "--force")
    assert asked()["zoom"] == [ZOOM, ZOOM]
    assert (folder / "calibration.json").read_text() == '{"fx": 1}'
    (folder / "link.toml").symlink_to("request.toml")
    run("init", "tiles", "-o", "link.toml", "--force", code=2)


FULL_DISK = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
from tools.cli import cli
cli(sys.argv[1:])
"""


def test_a_request_that_cannot_be_written_leaves_what_was_there(folder):
    write_xyz(folder / "tiles", {place: content[:90] for place, content in BLOCK.items()} | BLOCK)
    (folder / "request.toml").write_text("# MY EDITS")
    before = sorted(folder.rglob("*"))
    for args in (("request.toml", "--force"), ("other.toml",)):
        command = [sys.executable, "-c", FULL_DISK, "init", "tiles", "-o", *args]
        # Bytecode would be cut off, too, and stay so for whoever loads it next.
        env = {**os.environ, "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
        ended = subprocess.run(command, check=False, env=env, capture_output=True, text=True)
        assert ended.returncode in (2, 8), ended.stderr
        assert "c10: error: " in ended.stderr
        assert (folder / "request.toml").read_text() == "# MY EDITS"
        assert sorted(folder.rglob("*")) == before


def test_an_empty_calibration_is_marked_as_long_as_it_is_empty(folder):
    write_xyz(folder / "tiles", BLOCK)
    mark = "CORRECT THIS: an empty file"
    for args in ((), ("--force",), ("--force", "--camera", "calibration.json")):
        run("init", "tiles", "-o", "request.toml", *args)
        assert mark in (folder / "request.toml").read_text()
    for text in ("{ }", " {\n}\n"):
        (folder / "calibration.json").write_text(text)
        run("init", "tiles", "-o", "request.toml", "--force")
        assert mark in (folder / "request.toml").read_text()
    (folder / "calibration.json").write_bytes(CAMERA)
    run("init", "tiles", "-o", "request.toml", "--force")
    assert mark not in (folder / "request.toml").read_text()


@pytest.mark.parametrize("name", [b"new\nline", b"bad\xff", "turned \u202e".encode()])
def test_a_name_that_no_request_can_have_is_told_as_such(name, folder):
    Path(os.fsdecode(name)).mkdir()
    write_xyz(folder / os.fsdecode(name) / "tiles", BLOCK)
    error = run("init", Path(os.fsdecode(name)) / "tiles", "-o", "request.toml", code=2)["error"]
    assert "rename" in error["hint"]
    assert not (folder / "request.toml").exists()
    # Inside of the folder its name is in no path.
    os.chdir(name)
    run("init", "tiles", "-o", "request.toml")


@pytest.mark.parametrize("name", ['a "b" \\ c', "Ödland 🛩", "a.b.c", "x" * 200, "$HOME"])
def test_names_are_written_as_toml_reads_them(name, folder):
    (folder / name).mkdir()
    archive = folder / name / f"{name}.mbtiles"[-100:]
    write_mbtiles(archive, BLOCK)
    run("init", archive.relative_to(folder), "-o", "request.toml")
    read = BuildRequest.parse((folder / "request.toml").read_text(), base=folder)
    assert folder / read.tiles.source == archive
    assert len(open_source(read.tiles.source, folder).query_by_bbox(read.bbox_e7, read.zoom)) == 20


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (["none"], "correct the path; it starts from "),
        (["none.mbtiles"], "check the path"),
        (["empty"], "name a folder of tiles"),
        (["https://example.com/{z}/{x}/{y}.png"], "download"),
        (["tiles", "empty"], "name one archive"),
        (["tiles", "--altitude", "100"], "help"),
        (["tiles", "-o", "-"], "name a file"),
        (["tiles", "--camera", "empty/camera.json"], "correct the path"),
        (["tiles", "--camera", "list.json"], "into an object"),
        (["tiles", "--camera", "bare.json", "--altitude", "100"], "altitude_m needs"),
        (["tiles", "--camera", "bare.json", "--altitude", "150,100"], "help"),
    ],
)
def test_what_is_of_no_use_is_refused_and_leaves_nothing(args, hint, folder):
    write_xyz(folder / "tiles", BLOCK)
    (folder / "empty").mkdir()
    (folder / "list.json").write_text("[]")
    (folder / "bare.json").write_text("{}")
    before = sorted(folder.rglob("*"))
    error = run("init", "-o", "request.toml", *args, code=2)["error"]
    assert hint in error["hint"], error
    assert sorted(folder.rglob("*")) == before


@pytest.mark.gdal
@pytest.mark.parametrize("turn", [0.0, 30.0])
def test_geotiff_gets_its_own_zoom_and_date(turn, folder):
    rasterio = pytest.importorskip("rasterio", reason="needs rasterio: pip install 'c10[gdal]'")
    from tests.geotiffs import PIXEL_M, write_geotiff
    from tests.geotiffs import ZOOM as OWN

    write_geotiff(folder / "ortho.tif", size=1500, pixel=PIXEL_M * 0.9, turn=turn)
    with rasterio.open(folder / "ortho.tif", "r+") as file:
        file.update_tags(TIFFTAG_DATETIME="2024:05:01 12:00:00")
    told = run("init", "ortho.tif", "-o", "request.toml")
    assert told["zoom"] == [OWN, OWN]
    assert told["captured"] is None
    assert "# captured = 2024-05-01" in (folder / "request.toml").read_text()
    build()
    with rasterio.open(folder / "ortho.tif", "r+") as file:
        file.update_tags(ns="IMAGERY", ACQUISITIONDATETIME="2024-04-30T08:00:00Z")
    assert run("init", "ortho.tif", "-o", "dated.toml")["captured"] == "2024-04-30"
    assert str(asked("dated.toml")["tiles"]["captured"]) == "2024-04-30"


@pytest.mark.gdal
@pytest.mark.parametrize("said", ["2999-05-01", "0001-01-01"])
def test_a_day_that_cannot_be_is_not_taken(said, folder):
    rasterio = pytest.importorskip("rasterio", reason="needs rasterio: pip install 'c10[gdal]'")
    from tests.geotiffs import write_geotiff

    write_geotiff(folder / "ortho.tif", size=1100)
    with rasterio.open(folder / "ortho.tif", "r+") as file:
        file.update_tags(ns="IMAGERY", ACQUISITIONDATETIME=f"{said}T08:00:00Z")
    assert run("init", "ortho.tif", "-o", "request.toml")["captured"] is None
    assert "captured" not in asked()["tiles"]
    assert f"The files say {said}, which cannot be. CORRECT THIS" in (folder / "request.toml").read_text()


@pytest.mark.gdal
def test_several_geotiffs_are_one_mosaic_also_across_the_antimeridian(folder):
    pytest.importorskip("rasterio", reason="needs rasterio: pip install 'c10[gdal]'")
    from tests.geotiffs import write_geotiff

    for name, longitude in (("west.tif", 179.97), ("east.tif", -179.97)):
        write_geotiff(folder / name, size=1100, middle=(longitude, 52.0))
    told = run("init", "west.tif", "east.tif", "-o", "request.toml")
    west, _, east, _ = told["bbox"]
    assert west > 179.9
    assert east < -179.9
    assert asked()["tiles"]["source"] == ["west.tif", "east.tif"]
    assert plan()["tiles"] == told["tiles"] > 20


@pytest.mark.gdal
def test_a_geotiff_across_the_antimeridian_has_a_small_box(folder):
    pytest.importorskip("rasterio", reason="needs rasterio: pip install 'c10[gdal]'")
    from tests.geotiffs import write_geotiff

    write_geotiff(folder / "fiji.tif", size=2000, middle=(180.0, -17.0), crs="EPSG:32701", pixel=4.5)
    told = run("init", "fiji.tif", "-o", "request.toml")
    west, _, east, _ = told["bbox"]
    assert west > 179.9
    assert east < -179.9
    assert told["coverage"] == 1
    assert plan()["tiles"] == told["tiles"] > 20
