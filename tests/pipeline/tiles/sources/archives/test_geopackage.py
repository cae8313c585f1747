"""GeoPackages of raster tiles: which are read, with which numbers, and what the others are told."""

import hashlib
import sqlite3
import tracemalloc
from contextlib import closing

import pytest

from pipeline.errors import ErrorKind, RequestError, TileError
from pipeline.tiles.sources.archives.geopackage import HALF_WORLD_M
from pipeline.tiles.sources.read_tile import read_tile
from pipeline.tiles.sources.registry import open_source
from tests.tile_archives import WORLD

pytestmark = pytest.mark.usefixtures("closed_archives")

SCHEMA = """
CREATE TABLE gpkg_spatial_ref_sys (srs_name TEXT, srs_id INTEGER PRIMARY KEY, organization TEXT,
  organization_coordsys_id INTEGER, definition TEXT);
CREATE TABLE gpkg_contents (table_name TEXT PRIMARY KEY, data_type TEXT, min_x DOUBLE, min_y DOUBLE,
  max_x DOUBLE, max_y DOUBLE, srs_id INTEGER);
CREATE TABLE gpkg_tile_matrix_set (table_name TEXT PRIMARY KEY, srs_id INTEGER, min_x DOUBLE, min_y DOUBLE,
  max_x DOUBLE, max_y DOUBLE);
CREATE TABLE gpkg_tile_matrix (table_name TEXT, zoom_level INTEGER, matrix_width INTEGER,
  matrix_height INTEGER, tile_width INTEGER, tile_height INTEGER, pixel_x_size DOUBLE, pixel_y_size DOUBLE);
"""


def write_gpkg(path, tiles, *, table="ortho", origin=(0, 0, 0), first_zoom=0, epsg=3857, edge=256, shift=0.0):
    """Write a table of tiles, whose matrices begin at tile `origin` and are numbered from `first_zoom` less."""
    fresh = not path.exists()
    zoom, column, row = origin
    side = 2 * HALF_WORLD_M / (1 << zoom)
    west, north = column * side - HALF_WORLD_M + shift, HALF_WORLD_M - row * side
    with closing(sqlite3.connect(path)) as database, database:
        if fresh:
            database.executescript(SCHEMA)
        database.execute(
            "INSERT OR IGNORE INTO gpkg_spatial_ref_sys VALUES ('x', ?, 'EPSG', ?, '')", (epsg, epsg)
        )
        database.execute(
            "INSERT INTO gpkg_contents VALUES (?, 'tiles', NULL, NULL, NULL, NULL, ?)", (table, epsg)
        )
        database.execute(
            "INSERT INTO gpkg_tile_matrix_set VALUES (?, ?, ?, 0, 0, ?)", (table, epsg, west, north)
        )
        database.execute(
            f'CREATE TABLE "{table}" (id INTEGER PRIMARY KEY AUTOINCREMENT, zoom_level INTEGER,'
            " tile_column INTEGER, tile_row INTEGER, tile_data BLOB, UNIQUE (zoom_level, tile_column, tile_row))"
        )
        for z in sorted({z for z, _, _ in tiles}):
            pixel = 2 * HALF_WORLD_M / (1 << z) / edge
            database.execute(
                "INSERT INTO gpkg_tile_matrix VALUES (?, ?, 1, 1, ?, ?, ?, ?)",
                (table, z - first_zoom, edge, edge, pixel, pixel),
            )
        for (z, x, y), content in tiles.items():
            zoomed = z - zoom
            database.execute(
                f'INSERT INTO "{table}" (zoom_level, tile_column, tile_row, tile_data) VALUES (?, ?, ?, ?)',
                (z - first_zoom, x - (column << zoomed), y - (row << zoomed), content),
            )
    return path.name


def as_found(tiles):
    return [(place, hashlib.sha256(content).hexdigest()) for place, content in sorted(tiles.items())]


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"origin": (4, 3, 2)},
        {"origin": (3, 1, 1), "first_zoom": 3},
        {"epsg": 900913, "edge": 512},
        {"table": "the best, of 2026"},
    ],
)
def test_every_tile_is_found_at_its_place(how, archives, tmp_path):
    tiles = archives.block(4, 3, 2) | archives.block(5, 7, 5, columns=2, rows=5)
    source = open_source(write_gpkg(tmp_path / "a.gpkg", tiles, **how), tmp_path)
    found = source.query_by_bbox(WORLD, (0, 25))
    assert [(tile.place, tile.sha256) for tile in found] == as_found(tiles)
    assert [read_tile(tile.locator) for tile in found] == [content for _, content in sorted(tiles.items())]
    assert [tile.size for tile in found] == [len(content) for _, content in sorted(tiles.items())]
    assert source.extent().zoom == (4, 5)
    assert source.extent().box_e7[0] == -1_012_500_000
    assert [tile.place for tile in source.query_by_bbox(WORLD, (5, 5))] == sorted(tiles)[16:]


def test_digests_are_cached(archives, tmp_path, monkeypatch):
    name = write_gpkg(tmp_path / "a.gpkg", archives.block(4, 3, 2))

    def found():
        later = lambda: 4 * 10**18  # noqa: E731
        source = open_source(name, tmp_path, digest_cache_folder=tmp_path / "cache", now_ns=later)
        return list(source.query_by_bbox(WORLD, (4, 4)))

    cold = found()
    monkeypatch.setattr("pipeline.tiles.sources.archives.geopackage._content", None)
    assert found() == cold


def test_one_of_several_tables_has_to_be_named(archives, tmp_path):
    first, second = archives.block(4, 3, 2), archives.block(4, 9, 9)
    write_gpkg(tmp_path / "a.gpkg", first, table="old")
    write_gpkg(tmp_path / "a.gpkg", second, table="new")
    for spec in ("a.gpkg", "a.gpkg:other"):
        with pytest.raises(RequestError, match=r"found new, old in a\.gpkg") as caught:
            open_source(spec, tmp_path)
        assert caught.value.hint == "write a.gpkg:new"
    found = open_source("a.gpkg:new", tmp_path).query_by_bbox(WORLD, (4, 4))
    assert [tile.place for tile in found] == sorted(second)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"epsg": 4326}, "found EPSG:4326"),
        ({"epsg": 25833}, "found EPSG:25833"),
        ({"shift": 20_000.0}, "found tiles of 2.50469e"),
    ],
)
def test_another_grid_is_refused(how, said, archives, tmp_path):
    name = write_gpkg(tmp_path / "a b.gpkg", archives.block(4, 3, 2), **how)
    with pytest.raises(TileError) as caught:
        open_source(name, tmp_path)
    assert said in caught.value.message
    assert caught.value.kind is ErrorKind.UNSUPPORTED_ARCHIVE
    assert "gdal_translate -of MBTILES 'a b.gpkg' X.mbtiles" in caught.value.hint


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (
            "UPDATE gpkg_contents SET data_type = 'features'",
            ErrorKind.UNSUPPORTED_ARCHIVE,
            "raster tiles, found features",
        ),
        ("DROP TABLE gpkg_contents", ErrorKind.BAD_ARCHIVE, "no such table"),
        ("DELETE FROM gpkg_tile_matrix_set", ErrorKind.BAD_ARCHIVE, "a tile matrix set of ortho"),
        ("UPDATE gpkg_tile_matrix SET pixel_x_size = NULL", ErrorKind.BAD_ARCHIVE, "gpkg_tile_matrix"),
        ("UPDATE gpkg_tile_matrix SET pixel_x_size = 0", ErrorKind.UNSUPPORTED_ARCHIVE, "Web Mercator grid"),
        ("DROP TABLE ortho", ErrorKind.BAD_ARCHIVE, "no such table"),
        ("UPDATE ortho SET tile_row = 2.5 WHERE id = 3", ErrorKind.BAD_ARCHIVE, "whole numbers"),
    ],
)
def test_what_is_wrong_with_others(change, kind, said, archives, tmp_path):
    name = write_gpkg(tmp_path / "a.gpkg", archives.block(4, 3, 2))
    with closing(sqlite3.connect(tmp_path / name)) as database, database:
        database.execute(change)
    with pytest.raises(TileError, match=said) as caught:
        open_source(name, tmp_path).query_by_bbox(WORLD, (4, 4))
    assert caught.value.kind is kind
    assert caught.value.hint


@pytest.mark.parametrize("value", ["NULL", "'seven'", "2.5"])
def test_an_id_that_is_no_number_is_refused(value, archives, tmp_path):
    name = write_gpkg(tmp_path / "a.gpkg", archives.block(4, 3, 2))
    with closing(sqlite3.connect(tmp_path / name)) as database, database:
        database.execute("ALTER TABLE ortho RENAME TO kept")
        database.execute(
            f"CREATE TABLE ortho AS SELECT {value} AS id, zoom_level, tile_column, tile_row, tile_data FROM kept"
        )
    with pytest.raises(TileError, match="whole numbers as the id") as caught:
        open_source(name, tmp_path).query_by_bbox(WORLD, (4, 4))
    assert caught.value.kind is ErrorKind.BAD_ARCHIVE


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("id", "the id of a tile, found 'xxx"),
        ("tile_column", "tile coordinates, found column '"),
        ("tile_row", "tile coordinates, found tile 5/8/'"),
    ],
)
def test_a_long_text_in_place_of_a_number_takes_no_memory(column, said, archives, tmp_path):
    tiles = archives.block(5, 8, 8)
    name = write_gpkg(tmp_path / "a.gpkg", tiles)
    columns = ("id", "zoom_level", "tile_column", "tile_row", "tile_data")
    typed = ", ".join(f"{each} TEXT" if each == column != "id" else each for each in columns)
    text = "x" * 200_000
    with closing(sqlite3.connect(tmp_path / name)) as database, database:
        database.execute("ALTER TABLE ortho RENAME TO kept")
        database.execute(f"CREATE TABLE ortho ({typed})")
        database.execute("INSERT INTO ortho SELECT * FROM kept")
        value = text if column == "id" else "8" + text
        database.execute(f"UPDATE ortho SET {column} = ? WHERE rowid = 1", (value,))
    source = open_source(name, tmp_path)
    tracemalloc.start()
    try:
        with pytest.raises(TileError, match=said) as caught:
            source.query_by_bbox(WORLD, (5, 5))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.kind is ErrorKind.BAD_ARCHIVE
    assert peak < 8 << 20


def test_two_tiles_of_one_place_are_refused(archives, tmp_path):
    name = write_gpkg(tmp_path / "a.gpkg", archives.block(4, 3, 2))
    with closing(sqlite3.connect(tmp_path / name)) as database, database:
        database.execute("ALTER TABLE ortho RENAME TO kept")
        database.execute("CREATE TABLE ortho AS SELECT * FROM kept")
        database.execute(
            "INSERT INTO ortho SELECT 99, zoom_level, tile_column, tile_row, x'00' FROM ortho LIMIT 1"
        )
    with pytest.raises(TileError, match="one tile 4/3/2, found several"):
        open_source(name, tmp_path).query_by_bbox(WORLD, (4, 4))


def test_a_row_without_content_is_a_tile_of_those_bytes(archives, tmp_path):
    name = write_gpkg(tmp_path / "a.gpkg", archives.block(4, 3, 2))
    with closing(sqlite3.connect(tmp_path / name)) as database, database:
        database.execute("UPDATE ortho SET tile_data = NULL WHERE id = 1")
    first, *_ = open_source(name, tmp_path).query_by_bbox(WORLD, (4, 4))
    assert (first.size, first.sha256) == (0, hashlib.sha256(b"").hexdigest())
    assert read_tile(first.locator) == b""


def test_a_file_that_is_none_and_one_that_is_being_written(archives, tmp_path):
    (tmp_path / "a.gpkg").write_bytes(b"PK\3\4")
    with pytest.raises(TileError, match="GeoPackage"):
        open_source("a.gpkg", tmp_path)
    with pytest.raises(RequestError):
        open_source("none.gpkg", tmp_path)
    name = write_gpkg(tmp_path / "b.gpkg", archives.block(4, 3, 2))
    (tmp_path / "b.gpkg-wal").write_bytes(b"changes")
    with pytest.raises(TileError, match="at rest") as caught:
        open_source(name, tmp_path)
    assert caught.value.kind is ErrorKind.SOURCE_CHANGED


def test_a_row_that_is_gone_when_it_is_read(archives, tmp_path):
    path = str(tmp_path / write_gpkg(tmp_path / "a.gpkg", archives.block(4, 3, 2)))
    with pytest.raises(TileError, match="a tile with id 99") as caught:
        read_tile(("gpkg", path, "ortho", 99))
    assert caught.value.kind is ErrorKind.SOURCE_CHANGED
