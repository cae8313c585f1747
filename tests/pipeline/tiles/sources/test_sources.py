"""The three kinds of source: what each finds, and what all of them have in common."""

import hashlib
import importlib
import json
import os
import sqlite3
import sys
from contextlib import closing, contextmanager
from pathlib import Path

import msgpack
import pytest

import pipeline.tiles.sources as package
from pipeline.errors import ErrorKind, RequestError, TileError
from pipeline.tiles.grid import TileRange, range_box_e7, wanted_tiles
from pipeline.tiles.sources import read_tile as read_tile_module
from pipeline.tiles.sources.read_tile import read_tile
from pipeline.tiles.sources.registry import open_source
from tests.examples_tried import mostly_deep
from tests.tile_archives import WORLD

pytestmark = pytest.mark.usefixtures("closed_archives")
KINDS = ("xyz", "mbtiles", "mbtiles-view", "pmtiles", "pmtiles-leaves", "pmtiles-unpacked")


@pytest.fixture
def write(archives, tmp_path):
    def make(kind, tiles):
        match kind:
            case "xyz":
                return archives.write_xyz(tmp_path / "tiles", tiles)
            case "mbtiles" | "mbtiles-view":
                return archives.write_mbtiles(tmp_path / "a.mbtiles", tiles, view=kind.endswith("view"))
            case "pmtiles-leaves":
                return archives.write_pmtiles(tmp_path / "a.pmtiles", tiles, leaf_entries=3)
            case _:
                return archives.write_pmtiles(tmp_path / "a.pmtiles", tiles, gzipped=kind == "pmtiles")

    return make


@pytest.mark.parametrize("kind", mostly_deep(KINDS, "xyz", "mbtiles", "mbtiles-view", "pmtiles-leaves"))
class TestEverySource:
    def test_finds_exactly_what_is_there(self, kind, write, archives, tmp_path):
        tiles = (
            archives.block(13, 1402, 3199, columns=5, rows=4)
            | archives.block(15, 5614, 12800)
            | {(0, 0, 0): b"any"}
        )
        source = open_source(write(kind, tiles), tmp_path)
        found = source.query_by_bbox(WORLD, (0, 25))
        assert [tile.place for tile in found] == sorted(tiles)
        for tile in found:
            assert tile.sha256 == hashlib.sha256(tiles[tile.place]).hexdigest()
            assert tile.size == len(tiles[tile.place])
            carried = msgpack.unpackb(msgpack.packb(tile.locator))
            assert read_tile(carried) == tiles[tile.place]

    def test_keeps_to_box_and_zoom(self, kind, write, archives, tmp_path):
        tiles = archives.block(13, 1400, 3196, columns=8, rows=8) | archives.block(
            14, 2800, 6396, columns=12, rows=10
        )
        found = open_source(write(kind, tiles), tmp_path).query_by_bbox(archives.WHITNEY_E7, (13, 13))
        assert [tile.place for tile in found] == [(13, x, y) for x in (1403, 1404) for y in (3200, 3201)]

    def test_joins_both_sides_of_the_antimeridian(self, kind, write, archives, tmp_path):
        tiles = archives.block(3, 0, 3, columns=8, rows=2)
        box = (1_790_000_000, -10_000_000, -1_790_000_000, 10_000_000)
        found = open_source(write(kind, tiles), tmp_path).query_by_bbox(box, (3, 3))
        assert [tile.place for tile in found] == [(3, 0, 3), (3, 0, 4), (3, 7, 3), (3, 7, 4)]

    def test_writes_no_file_beside_it(self, kind, write, archives, tmp_path):
        spec = write(kind, archives.block(3, 0, 0))
        before = sorted(tmp_path.rglob("*"))
        for tile in open_source(spec, tmp_path).query_by_bbox(WORLD, (0, 25)):
            read_tile(tile.locator)
        assert sorted(tmp_path.rglob("*")) == before

    def test_works_read_only_and_from_a_relative_path(self, kind, write, archives, tmp_path):
        spec = write(kind, archives.block(3, 0, 0))
        relative = os.path.relpath(spec, tmp_path)
        for path in sorted(tmp_path.rglob("*"), reverse=True):
            path.chmod(0o555 if path.is_dir() else 0o444)
        assert len(open_source(relative, tmp_path).query_by_bbox(WORLD, (0, 25))) == 16
        for path in tmp_path.rglob("*"):
            path.chmod(0o755)

    def test_says_what_it_covers(self, kind, write, archives, tmp_path):
        source = open_source(write(kind, archives.block(3, 0, 3, columns=8, rows=2)), tmp_path)
        assert source.extent().zoom == (3, 3)
        assert source.query_by_bbox(WORLD, (4, 25)) == []

    def test_caches_digests(self, kind, write, archives, tmp_path, monkeypatch):
        tiles = archives.block(3, 0, 0)
        spec, cache = write(kind, tiles), tmp_path / "cache"
        later = lambda: 4 * 10**18  # noqa: E731
        cold = open_source(spec, tmp_path, digest_cache_folder=cache, now_ns=later).query_by_bbox(
            WORLD, (0, 25)
        )
        stamps = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
        monkeypatch.setattr(hashlib, "sha256", _only_for(cache, hashlib.sha256))
        warm = open_source(spec, tmp_path, digest_cache_folder=cache, now_ns=later).query_by_bbox(
            WORLD, (0, 25)
        )
        assert warm == cold
        assert {path: path.stat().st_mtime_ns for path in cache.iterdir()} == stamps

    def test_caches_nothing_that_was_just_changed(self, kind, write, archives, tmp_path):
        cache = tmp_path / "cache"
        open_source(write(kind, archives.block(3, 0, 0)), tmp_path, digest_cache_folder=cache).query_by_bbox(
            WORLD, (3, 3)
        )
        assert not cache.exists()


def _only_for(cache, sha256):
    """SHA-256 that refuses to hash tiles: only the cache's own checksum and name may be computed."""

    def digest(data=b""):
        if bytes(data).startswith((b"\x89PNG", b"RIFF")):
            raise AssertionError(f"a tile was hashed again beside {cache}")
        return sha256(data)

    return digest


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("tiles", "write its path"),  # a file
        ("tiles.zip", "write its path"),
        ("area.vrt", "gdal_translate -of COG area.vrt X.tif"),
        ("https://tile.example.com/{z}/{x}/{y}.png", "C10 fetches nothing"),
        ("~/area.mbtiles", "only a shell expands ~"),
        ("a/{z}/{x}/{y}.avif", "convert the avif tiles"),
        ("a/{z}/{x}/{y}.{jpg,avif}", "convert the avif tiles"),
        ("{z}/{x}/{x}.png", "each of the three once"),
        ("{z}/{x}/{y}/{-y}.png", "each of the three once"),
        ("{z}/{x}{y}.png", "each of the three once"),
        ("{z}/{x}/{y}/tile.png", "each of the three once"),
        ("a/{q}.png", "each of the three once"),
    ],
)
def test_what_is_no_source(spec, hint, tmp_path):
    if "/" not in spec:
        (tmp_path / spec).touch()
    with pytest.raises(RequestError) as caught:
        open_source(spec, tmp_path)
    assert spec in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("name", "content", "hint"),
    [
        ("a.pmtiles", b"<!DOCTYPE html><html>log in", "in a browser"),
        ("a.mbtiles", b"\n<html>", "in a browser"),
        ("a.pmtiles", b"SQLite format 3\0", "the ending .mbtiles"),
        ("a.mbtiles", b"PMTiles\3" + bytes(200), "the ending .pmtiles"),
        ("a b.mbtiles", b"\x1f\x8b\x08", "gunzip -c 'a b.mbtiles'"),
        ("a.pmtiles", b"PK\3\4", "unzip a.pmtiles"),
        ("a.mbtiles", b"II*\0", "the ending .tif"),
        ("a.mbtiles", b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        ("a.mbtiles", b"", "fetch or export the archive again"),
    ],
)
def test_what_a_file_is_that_is_no_archive(name, content, hint, tmp_path, refused):
    (tmp_path / name).write_bytes(content)
    error = refused(name, tmp_path)
    assert error.kind is ErrorKind.BAD_ARCHIVE
    assert hint in error.hint
    assert content or "found an empty file" in error.message


def test_a_folder_where_a_file_is_expected_and_the_other_way_round(tmp_path):
    (tmp_path / "sat.mbtiles").mkdir()
    (tmp_path / "b.pmtiles").write_bytes(b"PMTiles")

    def said(spec):
        with pytest.raises(RequestError) as caught:
            open_source(spec, tmp_path)
        return caught.value

    assert "found a folder" in said("sat.mbtiles").message
    assert "write sat.mbtiles/{z}/{x}/{y}.png" in said("sat.mbtiles").hint
    assert said("b.pmtiles/{z}/{x}/{y}.png").hint == 'it is a file: write tiles.source = "b.pmtiles"'
    (tmp_path / "a.mbtiles.gz").touch()
    assert said("a.mbtiles.gz").hint.startswith("unpack it")


@pytest.mark.parametrize("spec", ["no/{z}/{x}/{y}.png", "no.mbtiles", "no.pmtiles"])
def test_what_is_not_there(spec, tmp_path):
    with pytest.raises(RequestError) as caught:
        open_source(spec, tmp_path)
    assert caught.value.kind is ErrorKind.SOURCE_UNREADABLE


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("tile", "did you mean 'tiles'?"),
        ("sub/zooom", "did you mean 'sub/zoom'?"),
        ("imagery.zip", "correct the path; it starts from "),
        ("sub/nowhere", "correct the path; it starts from "),
        ("no/where/tiles", "correct the path; it starts from "),
    ],
)
def test_a_path_of_nothing_is_said_to_be_one_with_a_close_name(spec, hint, tmp_path):
    (tmp_path / "tiles").mkdir()
    (tmp_path / "sub/zoom").mkdir(parents=True)
    with pytest.raises(RequestError, match="found no such file or folder: ") as caught:
        open_source(spec, tmp_path)
    assert caught.value.message.endswith(spec)
    assert caught.value.hint.startswith(hint)
    with pytest.raises(RequestError) as caught:
        open_source("/nowhere/at/all", tmp_path)
    assert caught.value.hint == "correct the path"


def test_a_folder_without_permission_is_not_said_to_be_missing(tmp_path):
    (tmp_path / "closed/tiles").mkdir(parents=True)
    with (
        _without_permission(tmp_path / "closed"),
        pytest.raises(RequestError, match="that this user may read, found closed/tiles: Permission denied"),
    ):
        open_source("closed/tiles", tmp_path)


@contextmanager
def _without_permission(folder):
    """The folder cannot be read by any user: root, which may read everything, changes its user meanwhile."""
    user = os.geteuid()
    folder.chmod(0)
    if user == 0:
        os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(user)
        folder.chmod(0o755)


@pytest.mark.parametrize("kind", KINDS)
def test_without_permission(kind, write, archives, tmp_path):
    spec = write(kind, archives.block(3, 0, 0))
    source = open_source(spec, tmp_path)
    with _without_permission(tmp_path):
        with pytest.raises(RequestError, match="Permission denied") as opening:
            open_source(spec, tmp_path)
        with pytest.raises((RequestError, TileError)) as querying:
            source.query_by_bbox(WORLD, (3, 3))
    assert opening.value.kind is ErrorKind.SOURCE_UNREADABLE
    assert querying.value.hint


@pytest.mark.parametrize("name", ["a.mbtiles", "a.pmtiles"])
def test_paths_that_are_no_archive(name, tmp_path, refused):
    (tmp_path / name).mkdir()
    with pytest.raises(RequestError):
        open_source(name, tmp_path)
    (tmp_path / name).rmdir()
    os.mkfifo(tmp_path / name)
    with pytest.raises(RequestError):
        open_source(name, tmp_path)
    (tmp_path / name).unlink()
    for content in (
        b"",
        b"PM",
        b"SQLite",
        b"junk" * 1000,
        b"PMTiles\x03",
        b"PMTiles\x02" + bytes(200),
        b"SQLite format 3\x00",
    ):
        (tmp_path / name).write_bytes(content)
        assert refused(name, tmp_path).kind in {ErrorKind.BAD_ARCHIVE, ErrorKind.UNSUPPORTED_ARCHIVE}


class TestFolder:
    def test_ignores_other_names(self, archives, tmp_path):
        spec = archives.write_xyz(tmp_path / "t", {(3, 1, 1): b"one"})
        for name in (
            "3/1/01.png",
            "3/1/-1.png",
            "3/1/2.jpg",
            "3/1/notes.txt",
            "3/x/1.png",
            "3/01/1.png",
            "3/1/¹.png",
        ):
            (tmp_path / "t" / name).parent.mkdir(exist_ok=True)
            (tmp_path / "t" / name).write_bytes(b"no tile")
        (tmp_path / "t" / "3" / "2").write_bytes(b"no folder")
        assert [tile.place for tile in open_source(spec, tmp_path).query_by_bbox(WORLD, (0, 25))] == [
            (3, 1, 1)
        ]

    def test_keeps_the_names_of_tiles_and_no_others(self, archives, tmp_path):
        spec = archives.write_xyz(tmp_path / "t", {(3, 1, 1): b"one", (3, 2, 1): b"two"})
        for number in range(20):
            (tmp_path / "t/3/1" / f"{number}.png.part").write_bytes(b"no tile")
            (tmp_path / "t/3/2" / f"0{number}.png").write_bytes(b"no tile")
        source = open_source(spec, tmp_path)
        assert len(source.query_by_bbox(WORLD, (3, 3))) == 2
        assert source._scan._names == {"1.png": ((1,), 0)}

    def test_follows_links_inside_and_refuses_links_outside(self, archives, tmp_path, refused):
        spec = archives.write_xyz(tmp_path / "t", {(3, 1, 1): b"one"})
        (tmp_path / "t/3/1/2.png").symlink_to("1.png")
        (tmp_path / "t/3/2").symlink_to("1")
        source = open_source(spec, tmp_path)
        assert len(source.query_by_bbox(WORLD, (3, 3))) == 4
        (tmp_path / "secret").write_bytes(b"secret")
        (tmp_path / "t/3/1/3.png").symlink_to(tmp_path / "secret")
        assert "a link that stays in the tile folder" in refused(spec, tmp_path).message
        (tmp_path / "t/3/1/3.png").unlink()
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "t/3/4").symlink_to(tmp_path / "elsewhere")
        assert "a link that stays in the tile folder" in refused(spec, tmp_path).message

    def test_the_folder_itself_may_be_a_link(self, archives, tmp_path):
        archives.write_xyz(tmp_path / "real", {(3, 1, 1): b"one"})
        (tmp_path / "link").symlink_to("real")
        assert len(open_source("link/{z}/{x}/{y}.png", tmp_path).query_by_bbox(WORLD, (3, 3))) == 1

    @pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
    def test_refuses_what_is_no_regular_file(self, make, archives, tmp_path, refused):
        spec = archives.write_xyz(tmp_path / "t", {(3, 1, 1): b"one"})
        make(tmp_path / "t/3/1/2.png")
        assert "regular file" in refused(spec, tmp_path).message

    def test_refuses_an_endless_file(self, archives, tmp_path, refused):
        spec = archives.write_xyz(tmp_path / "t", {(3, 1, 1): b"one"})
        os.truncate(tmp_path / "t/3/1/1.png", 1 << 40)
        error = refused(spec, tmp_path)
        assert "at most 33,554,432 bytes" in error.message
        assert (error.kind, error.subject) == (ErrorKind.BAD_TILE, str(tmp_path / "t/3/1/1.png"))

    def test_notices_a_change_while_it_reads(self, archives, tmp_path, monkeypatch, refused):
        spec = archives.write_xyz(tmp_path / "t", {(3, 1, 1): b"one"})
        real = read_tile_module.read_tile_file

        def read_and_change(path):
            content = real(path)
            with Path(path).open("ab") as file:
                file.write(b"more")
            return content

        monkeypatch.setattr("pipeline.tiles.sources.xyz.read_tile_file", read_and_change)
        assert refused(spec, tmp_path).kind is ErrorKind.SOURCE_CHANGED

    def test_a_changed_file_is_hashed_again(self, archives, tmp_path):
        spec, cache = (
            archives.write_xyz(tmp_path / "t", {(3, 1, 1): b"one", (3, 1, 2): b"two"}),
            tmp_path / "m",
        )

        def digests():
            source = open_source(spec, tmp_path, digest_cache_folder=cache, now_ns=lambda: 4 * 10**18)
            return [tile.sha256 for tile in source.query_by_bbox(WORLD, (3, 3))]

        first = digests()
        before = (tmp_path / "t/3/1/1.png").stat()
        (tmp_path / "t/3/1/1.png").write_bytes(b"eno")
        os.utime(tmp_path / "t/3/1/1.png", ns=(before.st_atime_ns, before.st_mtime_ns))
        second = digests()
        assert second[0] == hashlib.sha256(b"eno").hexdigest() != first[0]
        assert second[1] == first[1]
        assert digests() == second


class TestRowOrder:
    """An area over the equator, with the rows of its tiles counted from either end."""

    BOX = (-111_000_000, -100_000_000, 111_000_000, 320_000_000)
    EDGES = "-11.1,-10,11.1,32"

    def write(self, kind, archives, tmp_path, tiles, edges):
        match kind:
            case "xyz":
                west, south, east, north = edges.split(",")
                spec = archives.write_xyz(tmp_path / "t", tiles)
                (tmp_path / "t/tilemapresource.xml").write_text(
                    f'<BoundingBox minx="{west}" miny="{south}" maxx="{east}" maxy="{north}"/>'
                )
            case "mbtiles":
                spec = archives.write_mbtiles(tmp_path / "a.mbtiles", tiles)
                with closing(sqlite3.connect(spec)) as database, database:
                    database.execute("INSERT INTO metadata VALUES ('bounds', ?)", (edges,))
            case _:
                numbers = [int(float(edge) * 1e7) for edge in edges.split(",")]
                names = ("min_lon_e7", "min_lat_e7", "max_lon_e7", "max_lat_e7")
                header = dict(zip(names, numbers, strict=True))
                spec = archives.write_pmtiles(tmp_path / "a.pmtiles", tiles, **header)
        return spec

    def tiles(self, archives, *, mirrored, z=6):
        wanted = wanted_tiles(self.BOX, (z, z))
        return {(z, x, (1 << z) - 1 - y if mirrored else y): archives.image(x * 99 + y) for _, x, y in wanted}

    @pytest.mark.parametrize("kind", ["mbtiles", "pmtiles"])
    def test_rows_from_the_other_end_are_refused(self, kind, archives, tmp_path):
        spec = self.write(kind, archives, tmp_path, self.tiles(archives, mirrored=True), self.EDGES)
        with pytest.raises(TileError, match="mirrored at the equator") as caught:
            open_source(spec, tmp_path).query_by_bbox(self.BOX, (5, 6))
        assert caught.value.kind is ErrorKind.BAD_ARCHIVE

    @pytest.mark.parametrize("kind", ["mbtiles", "pmtiles"])
    def test_they_are_refused_if_deeper_zooms_are_wanted_than_there_are(self, kind, archives, tmp_path):
        spec = self.write(kind, archives, tmp_path, self.tiles(archives, mirrored=True), self.EDGES)
        with pytest.raises(TileError, match="mirrored at the equator"):
            open_source(spec, tmp_path).query_by_bbox(self.BOX, (5, 8))

    @pytest.mark.parametrize("kind", ["xyz", "mbtiles", "pmtiles"])
    @pytest.mark.parametrize(
        "edges",
        [
            "-11.1,-10,11.1,32",
            "-180,-85.06,180,85.06",
            "-11.1,-32,11.1,32",
            "-11.1,-40,11.1,30",
            "0,0,0,0",
            "9,1,7,2",
        ],
    )
    def test_other_bounds_are_no_reason(self, kind, edges, archives, tmp_path):
        tiles = self.tiles(archives, mirrored=False)
        spec = self.write(kind, archives, tmp_path, tiles, edges)
        assert len(open_source(spec, tmp_path).query_by_bbox(self.BOX, (6, 6))) == len(tiles)

    def test_bounds_in_metres_and_no_bounds_at_all(self, archives, tmp_path):
        spec = self.write(
            "xyz",
            archives,
            tmp_path,
            self.tiles(archives, mirrored=True),
            "-1.235646e+06,-1118889,1235646,3763310",
        )
        right = [tile.place for tile in open_source(spec, tmp_path).query_by_bbox(self.BOX, (6, 6))]
        assert right == list(wanted_tiles(self.BOX, (6, 6)))
        huge = 'minx="-1e99" miny="-1e99" maxx="1e99" maxy="1e99"'
        for text in ("<xml/>", 'minx="a"', huge):
            (tmp_path / "t/tilemapresource.xml").write_text(text)
            assert open_source(spec, tmp_path).query_by_bbox(self.BOX, (6, 6))
        spec = self.write("mbtiles", archives, tmp_path, self.tiles(archives, mirrored=True), "all")
        assert open_source(spec, tmp_path).query_by_bbox(self.BOX, (6, 6))
        with closing(sqlite3.connect(spec)) as database, database:
            database.execute("DROP TABLE metadata")
        assert open_source(spec, tmp_path).query_by_bbox(self.BOX, (6, 6))

    @pytest.mark.parametrize(
        ("said", "mirrored", "refused"),
        [
            ({"bounds": EDGES}, True, None),
            ({"bounds": [-11.1, -10, 11.1, 32], "scheme": "xyz"}, True, None),
            ({"bounds": EDGES, "scheme": "tms"}, False, None),
            ({"scheme": "tms"}, True, '"scheme": "tms" in its metadata.json'),
            ({"scheme": "tms", "bounds": "-180,-85,180,85"}, True, '"scheme": "tms" in its metadata.json'),
            ({"scheme": "tms", "bounds": [1, 2]}, False, '"scheme": "tms" in its metadata.json'),
            ({"scheme": "xyz"}, True, None),
            ({"bounds": [None, 1, 2, 3]}, True, None),
            ([], True, None),
        ],
    )
    def test_the_metadata_of_a_folder(self, said, mirrored, refused, archives, tmp_path):
        spec = archives.write_xyz(tmp_path / "t", self.tiles(archives, mirrored=mirrored))
        (tmp_path / "t/metadata.json").write_text(json.dumps(said))
        source = open_source(spec, tmp_path)
        if refused is None:
            found = [tile.place for tile in source.query_by_bbox(self.BOX, (6, 6))]
            known = "bounds" in said and None not in list(said["bounds"])
            assert (found == list(wanted_tiles(self.BOX, (6, 6)))) is (known or not mirrored)
            return
        with pytest.raises(TileError, match=refused) as caught:
            source.query_by_bbox(self.BOX, (6, 6))
        assert caught.value.kind is ErrorKind.BAD_ARCHIVE

    @pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"bounds": 1e999, "scheme": {}}'])
    def test_metadata_that_says_nothing(self, text, archives, tmp_path):
        spec = archives.write_xyz(tmp_path / "t", self.tiles(archives, mirrored=False))
        (tmp_path / "t/metadata.json").write_text(text)
        found = open_source(spec, tmp_path).query_by_bbox(self.BOX, (6, 6))
        assert (len(found) > 0, found.warnings) == (True, ())

    @pytest.mark.parametrize("kind", ["xyz", "mbtiles", "pmtiles"])
    def test_tiles_outside_the_bounds_are_a_warning_of_both_boxes(self, kind, archives, tmp_path):
        tiles = self.tiles(archives, mirrored=False)
        spec = self.write(kind, archives, tmp_path, tiles, "-11.1,10,-2,32")
        cache = tmp_path / "cache"
        for _ in range(2):
            found = open_source(
                spec, tmp_path, digest_cache_folder=cache, now_ns=lambda: 4 * 10**18
            ).query_by_bbox(self.BOX, (6, 6))
            assert len(found) == len(tiles)
            (warning,) = found.warnings
            assert "[-11.1000000, 10.0000000, -2.0000000, 32.0000000]" in warning
            assert "[-11.2500000, -11.1784019, 11.2500000, 36.5978891]" in warning
        (tmp_path / "sound").mkdir()
        spec = self.write(kind, archives, tmp_path / "sound", tiles, self.EDGES)
        assert open_source(spec, tmp_path).query_by_bbox(self.BOX, (6, 6)).warnings == ()

    @pytest.mark.parametrize("kind", ["xyz", "mbtiles", "pmtiles"])
    @pytest.mark.parametrize(
        "place", [lambda x, y: (x, 255 - y), lambda x, y: (y, x), lambda x, y: (255 - y, x)]
    )
    def test_a_sound_source_of_another_region_is_not_called_misplaced(self, kind, place, archives, tmp_path):
        """It announces its own region and has its tiles there: that they mirror the wanted ones is chance."""
        tiles = {(8, *place(x, y)): archives.image(x + y) for _, x, y in archives.block(8, 200, 90)}
        columns, rows = [x for _, x, _ in tiles], [y for *_, y in tiles]
        held = TileRange(z=8, x0=min(columns), x1=max(columns), y0=min(rows), y1=max(rows))
        edges = ",".join(f"{edge / 1e7:.7f}" for edge in range_box_e7(held))
        wanted = range_box_e7(TileRange(z=8, x0=200, x1=203, y0=90, y1=93))
        found = open_source(self.write(kind, archives, tmp_path, tiles, edges), tmp_path).query_by_bbox(
            wanted, (8, 8)
        )
        assert len(found) == 0
        assert found.warnings == ()


_FROM_THE_NORTH = [
    (lambda x, y: (x, 255 - y), "its rows are counted from the south"),
    (lambda x, y: (y, x), "its columns and rows are exchanged"),
    (lambda x, y: (255 - y, x), "exchanged (z/y/x) and its rows are counted from the south"),
]


@pytest.mark.parametrize(
    ("kind", "place", "hint"),
    [
        *((kind, *case) for kind in ("xyz", "pmtiles") for case in _FROM_THE_NORTH),
        # In an MBTiles file rows are counted from the south; one that counts them from the north is wrong.
        (
            "mbtiles",
            lambda x, y: (x, 255 - y),
            "from the north (XYZ): make it again with rows from the south",
        ),
        ("mbtiles", lambda x, y: (255 - y, 255 - x), "its columns and rows are exchanged (z/y/x): make it"),
        ("mbtiles", lambda x, y: (y, 255 - x), "exchanged (z/y/x) and its rows are counted from the north"),
    ],
)
def test_a_source_of_another_scheme_has_none_of_the_tiles_and_a_hint(
    kind, place, hint, write, archives, tmp_path
):
    tiles = {(8, *place(x, y)): archives.image(x + y) for _, x, y in archives.block(8, 200, 90)}
    ranges = TileRange(z=8, x0=200, x1=203, y0=90, y1=93)
    found = open_source(write(kind, tiles), tmp_path).query_by_bbox(range_box_e7(ranges), (8, 8))
    assert len(found) == 0
    assert hint in found.warnings[0]


def test_how_the_tiles_of_a_folder_are_named_instead(archives, tmp_path):
    archives.write_xyz(tmp_path / "maps/sat", archives.block(3, 0, 0))

    def said(spec):
        return open_source(spec, tmp_path).query_by_bbox(WORLD, (3, 3)).warnings

    assert f"there are tiles in {tmp_path}/maps/sat" in said("{z}/{x}/{y}.png")[0]
    assert f"there are tiles in {tmp_path}/maps/sat" in said("maps/{z}/{x}/{y}.jpg")[0]
    assert "its tiles end in .png, not in .jpg" in said("maps/sat/{z}/{x}/{y}.jpg")[0]
    assert said("maps/sat/{z}/{x}/{y}.png") == ()
    (tmp_path / "empty").mkdir()
    assert said("empty/{z}/{x}/{y}.png") == ()


def test_without_rasterio_one_line_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "a.tif").write_bytes(b"II*\0")
    for name in ("raster", "raster_file", "raster_place"):
        module = importlib.import_module(f"pipeline.tiles.sources.{name}")
        # All are what they were after the test.
        monkeypatch.setattr(package, name, module)
        monkeypatch.delitem(sys.modules, module.__name__)
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(RequestError) as caught:
        open_source("a.tif", tmp_path)
    assert "expected the package rasterio" in caught.value.message
    assert "pip install 'c10[gdal]'" in caught.value.hint
    assert "\n" not in str(caught.value)


def test_locators_of_no_known_kind():
    for locator in ((), ("http", "x"), ("file",), ("pmtiles", "x", "0", 1)):
        with pytest.raises(ValueError, match="tile locator"):
            read_tile(locator)


def test_what_a_worker_cannot_find(tmp_path, archives):
    spec = archives.write_mbtiles(tmp_path / "a.mbtiles", {(3, 0, 0): b"x"})
    for locator in (
        ("file", str(tmp_path / "no")),
        ("pmtiles", str(tmp_path / "no"), 0, 1),
        ("mbtiles", spec, 3, 1, 1, -1),
    ):
        with pytest.raises(TileError) as caught:
            read_tile(locator)
        assert caught.value.kind is ErrorKind.SOURCE_CHANGED
