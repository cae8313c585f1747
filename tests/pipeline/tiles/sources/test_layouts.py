"""Folders of tiles as programs write them: every order, rows from the south, sizes and endings, mixed."""

import hashlib

import pytest

from pipeline.errors import ErrorKind, RequestError, TileError
from pipeline.tiles.grid import wanted_tiles
from pipeline.tiles.sources.folder_metadata import read_metadata
from pipeline.tiles.sources.layout import parse_layout
from pipeline.tiles.sources.registry import open_source
from tests.tile_archives import WORLD

EQUATOR = (-111_000_000, -100_000_000, 111_000_000, 320_000_000)
TMS = """<?xml version="1.0" encoding="utf-8"?>
<TileMap version="1.0.0" tilemapservice="http://tms.osgeo.org/1.0.0">
  <SRS>EPSG:3857</SRS>
  <BoundingBox minx="{}" miny="{}" maxx="{}" maxy="{}"/>
  <TileSets profile="{}"><TileSet href="6" units-per-pixel="2445.98" order="6"/></TileSets>
</TileMap>"""


def write(root, name_of, tiles):
    """Write tiles as files; `name_of` takes z, x, y."""
    for place, content in tiles.items():
        file = root / name_of(*place)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def found_in(spec, base, box=WORLD, zoom=(0, 25)):
    """Place and digest of every tile, in their order."""
    return [(tile.place, tile.sha256) for tile in open_source(spec, base).query_by_bbox(box, zoom)]


def as_found(tiles):
    return [(place, hashlib.sha256(content).hexdigest()) for place, content in sorted(tiles.items())]


def south(z, y):
    return (1 << z) - 1 - y


LAYOUTS = [
    ("t/{z}/{x}/{y}.png", lambda z, x, y: f"{z}/{x}/{y}.png"),
    ("t/{z}/{y}/{x}.png", lambda z, x, y: f"{z}/{y}/{x}.png"),
    ("t/{x}/{y}/{z}.png", lambda z, x, y: f"{x}/{y}/{z}.png"),
    ("t/{z}/{x}/{-y}.png", lambda z, x, y: f"{z}/{x}/{south(z, y)}.png"),
    ("t/{z}/{-y}/{x}", lambda z, x, y: f"{z}/{south(z, y)}/{x}.png"),
    ("t/{z}/{x}/{y}@2x.png", lambda z, x, y: f"{z}/{x}/{y}@2x.png"),
    ("t/{z}/{x}/{y}@2x.*", lambda z, x, y: f"{z}/{x}/{y}@2x.webp"),
    ("t/{z}/{x}/{y}.{png,JPG}", lambda z, x, y: f"{z}/{x}/{y}.{'JPG' if y % 2 else 'png'}"),
    ("t/{z}/{x}/{y}.*", lambda z, x, y: f"{z}/{x}/{y}.{('JPG', 'png', 'webp', 'jpeg')[y % 4]}"),
    ("t/{z}/{x}/{y}", lambda z, x, y: f"{z}/{x}/{y}{'' if y % 2 else '.png'}"),
    ("t/{z}/{x}/{y}.{ext}", lambda z, x, y: f"{z}/{x}/{y}.jpg"),
    ("t", lambda z, x, y: f"{z}/{x}/{y}{('', '.png', '@2x.jpg')[y % 3]}"),
    ("t/", lambda z, x, y: f"{z}/{x}/{y}@2x.jpg"),
    ("t/{TileMatrix}/{TileRow}/{TileCol}.jpg", lambda z, x, y: f"{z}/{y}/{x}.jpg"),
    ("t/{level}/{row}/{col}.png", lambda z, x, y: f"{z}/{y}/{x}.png"),
    ("t/${z}/${x}/${y}.png", lambda z, x, y: f"{z}/{x}/{y}.png"),
    ("t/{z}_{x}_{y}.jpg", lambda z, x, y: f"{z}_{x}_{y}.jpg"),
    ("t/{z}/{y}_{x}.jpg", lambda z, x, y: f"{z}/{y}_{x}.jpg"),
    ("t/zoom{z}/tiles/c{x}/r{-y}.png", lambda z, x, y: f"zoom{z}/tiles/c{x}/r{south(z, y)}.png"),
]


@pytest.mark.parametrize(("spec", "name_of"), LAYOUTS, ids=[spec for spec, _ in LAYOUTS])
class TestLayouts:
    def test_every_tile_is_found_at_its_place(self, spec, name_of, archives, tmp_path):
        tiles = archives.block(4, 3, 2) | archives.block(5, 20, 9, columns=2, rows=5)
        write(tmp_path / "t", name_of, tiles)
        assert found_in(spec, tmp_path) == as_found(tiles)
        assert found_in(spec, tmp_path, zoom=(5, 5)) == as_found(tiles)[16:]
        source = open_source(spec, tmp_path)
        assert source.query_by_bbox(WORLD, (4, 5)).warnings == ()
        assert source.extent().zoom == (4, 5)
        assert source.extent().box_e7[0] == 450_000_000

    def test_nothing_is_hashed_again(self, spec, name_of, archives, tmp_path, monkeypatch):
        tiles = archives.block(4, 3, 2)
        write(tmp_path / "t", name_of, tiles)

        def found():
            source = open_source(
                spec, tmp_path, digest_cache_folder=tmp_path / "cache", now_ns=lambda: 4 * 10**18
            )
            return [(tile.place, tile.sha256) for tile in source.query_by_bbox(WORLD, (4, 4))]

        assert found() == as_found(tiles)
        monkeypatch.setattr("pipeline.tiles.sources.xyz._hash_file", None)
        assert found() == as_found(tiles)


def test_ordinary_endings_beside_the_written_one_are_a_warning_only_if_they_are_missed(archives, tmp_path):
    tiles = archives.block(4, 3, 2)
    write(tmp_path / "t", lambda z, x, y: f"{z}/{x}/{y}.{'jpg' if x == 3 else 'png'}", tiles)
    found = open_source("t/{z}/{x}/{y}.jpg", tmp_path).query_by_bbox(WORLD, (4, 4))
    assert len(found) == 4
    (warning,) = found.warnings
    assert "12 more tiles of the area" in warning
    assert "end in .png: write .* in place of the ending" in warning
    write(tmp_path / "t", lambda z, x, y: f"{z}/{x}/{y}.jpg", tiles)
    assert open_source("t/{z}/{x}/{y}.jpg", tmp_path).query_by_bbox(WORLD, (4, 4)).warnings == ()


@pytest.mark.parametrize("second", ["2.jpg", "2.PNG", "2@2x.png", "2"])
def test_two_files_for_one_place_are_refused(second, archives, tmp_path):
    write(tmp_path / "t", lambda z, x, y: f"{z}/{x}/{y}.png", archives.block(4, 3, 2))
    (tmp_path / "t/4/3" / second).write_bytes(b"another")
    with pytest.raises(TileError, match="one file for tile 4/3/2") as caught:
        found_in("t", tmp_path)
    assert caught.value.kind is ErrorKind.BAD_ARCHIVE
    assert second in caught.value.message
    assert "write the ending that is wanted" in caught.value.hint
    assert len(found_in("t/{z}/{x}/{y}.png", tmp_path)) == 16


@pytest.mark.parametrize("spec", ["t", "t/{z}/{x}/{y}.png", "t/{z}/{x}/{-y}.png", "t/{z}/{x}/{-y}"])
@pytest.mark.parametrize(
    "bounds",
    [
        ("-11.1", "-10.0", "11.1", "32.0"),
        ("-180", "-85.06", "180", "85.06"),
        ("-10.0", "-91.1", "32.0", "11.1"),
    ],
    ids=["box", "world", "exchanged-by-old-gdal2tiles"],
)
def test_gdal2tiles_as_it_comes(bounds, spec, archives, tmp_path):
    tiles = {(6, x, y): archives.image(99 * x + y) for _, x, y in wanted_tiles(EQUATOR, (6, 6))}
    write(tmp_path / "t", lambda z, x, y: f"{z}/{x}/{south(z, y)}.png", tiles)
    (tmp_path / "t/tilemapresource.xml").write_text(TMS.format(*bounds, "mercator"))
    for name in ("leaflet.html", "6/32/31.kml", "6/32/31.png.aux.xml", "doc.kml"):
        (tmp_path / "t" / name).write_text("beside the tiles")
    assert found_in(spec, tmp_path, EQUATOR, (6, 6)) == as_found(tiles)


def test_bounds_that_show_rows_from_the_north_are_believed(archives, tmp_path):
    tiles = {(6, x, y): archives.image(99 * x + y) for _, x, y in wanted_tiles(EQUATOR, (6, 6))}
    write(tmp_path / "t", lambda z, x, y: f"{z}/{x}/{y}.png", tiles)
    (tmp_path / "t/tilemapresource.xml").write_text(TMS.format(-11.1, -10, 11.1, 32, "mercator"))
    assert found_in("t", tmp_path, EQUATOR, (6, 6)) == as_found(tiles)
    with pytest.raises(TileError, match="counted from the north") as caught:
        found_in("t/{z}/{x}/{-y}.png", tmp_path, EQUATOR, (6, 6))
    assert caught.value.hint.startswith("write {y} in place of {-y}")


@pytest.mark.parametrize("rows", ["south", "north"])
def test_latitudes_that_old_gdal2tiles_wrote_as_x(rows, archives, tmp_path):
    tiles = {(6, x, y): archives.image(99 * x + y) for _, x, y in wanted_tiles(EQUATOR, (6, 6))}
    write(tmp_path / "t", lambda z, x, y: f"{z}/{x}/{south(z, y) if rows == 'south' else y}.png", tiles)
    origin = '<Origin x="-11.10000000000000" y="-10.00000000000000"/>'
    swapped = TMS.format("-10.00000000000000", "-11.10000000000000", "32.0", "11.1", "mercator")
    (tmp_path / "t/tilemapresource.xml").write_text(swapped.replace("<TileSets", f"{origin}<TileSets"))
    assert read_metadata(str(tmp_path / "t")).box_e7 == EQUATOR
    found = open_source("t", tmp_path).query_by_bbox(EQUATOR, (6, 6))
    assert {each.place: each.sha256 for each in found} == dict(as_found(tiles))
    assert found.warnings == ()


@pytest.mark.parametrize("profile", ["geodetic", "global-geodetic", "raster"])
def test_another_grid_is_refused(profile, archives, tmp_path):
    write(tmp_path / "t", lambda z, x, y: f"{z}/{x}/{y}.png", archives.block(4, 3, 2))
    (tmp_path / "t/tilemapresource.xml").write_text(TMS.format(-11.1, -10, 11.1, 32, profile))
    with pytest.raises(TileError, match=f"the profile {profile}") as caught:
        found_in("t", tmp_path)
    assert caught.value.kind is ErrorKind.UNSUPPORTED_ARCHIVE
    assert "gdal2tiles --profile mercator" in caught.value.hint


def test_scheme_tms_without_bounds_has_to_be_written(archives, tmp_path):
    tiles = archives.block(4, 3, 2)
    write(tmp_path / "t", lambda z, x, y: f"{z}/{x}/{south(z, y)}.png", tiles)
    (tmp_path / "t/metadata.json").write_text('{"scheme": "tms"}')
    with pytest.raises(TileError) as caught:
        found_in("t", tmp_path)
    assert "write {-y} in place of {y}" in caught.value.hint
    assert found_in("t/{z}/{x}/{-y}.png", tmp_path) == as_found(tiles)


def test_what_is_written_the_wrong_way_round_has_a_hint_that_mends(archives, tmp_path):
    box = (500_000_000, 400_000_000, 520_000_000, 420_000_000)
    tiles = {(8, x, y): archives.image(x) for _, x, y in wanted_tiles(box, (8, 8))}
    write(tmp_path / "t", lambda z, x, y: f"{z}/{x}/{y}.png", tiles)

    def said(spec):
        return open_source(spec, tmp_path).query_by_bbox(box, (8, 8)).warnings[0]

    assert "write {y} in place of {-y} in tiles.source" in said("t/{z}/{x}/{-y}.png")
    assert "exchange {x} and {y} in tiles.source" in said("t/{z}/{y}/{x}.png")
    assert "exchange {x} and {y}, and write {y} in place of {-y}" in said("t/{z}/{-y}/{x}.png")
    (tmp_path / "u/8/1").mkdir(parents=True)
    (tmp_path / "u/8/1/1.avif").write_bytes(b"")
    assert "end in .avif: convert them" in said("u")


def test_a_name_is_made_again_from_its_place():
    layout = parse_layout("a/b{z}/{y}-{x}@2x.png")
    assert [level.name((4, 5, 6)) for level in (*layout.folders, layout.files)] == ["b4", "6-5"]
    assert (layout.root, layout.suffixes) == ("a", {"@2x.png"})
    assert parse_layout("/{z}/{x}/{y}").root == "/"
    assert parse_layout("{z}/{x}/{y}").root == "."
    with pytest.raises(RequestError, match="something between"):
        parse_layout("{z}/{x}{y}.png")
