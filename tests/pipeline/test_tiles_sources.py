"""The three kinds of source: what each finds, and what all of them have in common."""

import gzip
import hashlib
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pmtiles.reader import MemorySource, all_tiles
from pmtiles.tile import Compression, Entry, TileType, serialize_directory, zxy_to_tileid

from pipeline.errors import ErrorKind, RequestError, TileError
from pipeline.tiles import reading
from pipeline.tiles.opening import open_source
from pipeline.tiles.pmtiles_directory import MAX_DIRECTORY_BYTES, DirectoryError, parse, unpack
from pipeline.tiles.reading import close_archives, read_tile

WORLD = (-1_800_000_000, -850_000_000, 1_800_000_000, 850_000_000)
KINDS = ("xyz", "mbtiles", "mbtiles-view", "pmtiles", "pmtiles-leaves", "pmtiles-unpacked")


@pytest.fixture(autouse=True)
def _closed():
    yield
    close_archives()


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


def refused(spec, tmp_path, *, query=True):
    def use():
        source = open_source(spec, tmp_path)
        if query:
            source.query_by_bbox(WORLD, (0, 25))

    with pytest.raises(TileError) as caught:
        use()
    assert str(tmp_path) in caught.value.message or "tile" in caught.value.message
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
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
        assert source.tile_format == "png"

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

    def test_leaves_nothing_beside_it(self, kind, write, archives, tmp_path):
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

    def test_remembers_digests(self, kind, write, archives, tmp_path, monkeypatch):
        tiles = archives.block(3, 0, 0)
        spec, memory = write(kind, tiles), tmp_path / "memory"
        later = lambda: 4 * 10**18  # noqa: E731
        cold = open_source(spec, tmp_path, memory_folder=memory, now_ns=later).query_by_bbox(WORLD, (0, 25))
        stamps = {path: path.stat().st_mtime_ns for path in memory.iterdir()}
        monkeypatch.setattr(hashlib, "sha256", _only_for(memory, hashlib.sha256))
        warm = open_source(spec, tmp_path, memory_folder=memory, now_ns=later).query_by_bbox(WORLD, (0, 25))
        assert warm == cold
        assert {path: path.stat().st_mtime_ns for path in memory.iterdir()} == stamps

    def test_remembers_nothing_that_was_touched_just_now(self, kind, write, archives, tmp_path):
        memory = tmp_path / "memory"
        open_source(write(kind, archives.block(3, 0, 0)), tmp_path, memory_folder=memory).query_by_bbox(
            WORLD, (3, 3)
        )
        assert not memory.exists()


def _only_for(memory, sha256):
    """SHA-256 that refuses to hash tiles: only the memory's own checksum and name may be computed."""

    def digest(data=b""):
        if bytes(data).startswith((b"\x89PNG", b"RIFF")):
            raise AssertionError(f"a tile was hashed again beside {memory}")
        return sha256(data)

    return digest


def test_what_is_no_source(tmp_path):
    for spec in (
        "tiles",
        "tiles.zip",
        "a/{z}/{y}/{x}.png",
        "a/{z}/{x}/{y}.tif",
        "{z}/{x}/{x}.png",
        "a/{z}/{x}/{-y}.png",
    ):
        with pytest.raises(RequestError) as caught:
            open_source(spec, tmp_path)
        assert spec in caught.value.message


@pytest.mark.parametrize("spec", ["no/{z}/{x}/{y}.png", "no.mbtiles", "no.pmtiles"])
def test_what_is_not_there(spec, tmp_path):
    with pytest.raises(RequestError) as caught:
        open_source(spec, tmp_path)
    assert caught.value.kind is ErrorKind.SOURCE_UNREADABLE


@pytest.mark.parametrize("name", ["a.mbtiles", "a.pmtiles"])
def test_paths_that_are_no_archive(name, tmp_path):
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
    def test_passes_over_other_names(self, archives, tmp_path):
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

    def test_follows_links_inside_and_refuses_those_that_leave(self, archives, tmp_path):
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
    def test_refuses_what_is_no_regular_file(self, make, archives, tmp_path):
        spec = archives.write_xyz(tmp_path / "t", {(3, 1, 1): b"one"})
        make(tmp_path / "t/3/1/2.png")
        assert "regular file" in refused(spec, tmp_path).message

    def test_refuses_an_endless_file(self, archives, tmp_path):
        spec = archives.write_xyz(tmp_path / "t", {(3, 1, 1): b"one"})
        os.truncate(tmp_path / "t/3/1/1.png", 1 << 40)
        assert "at most 33554432 bytes" in refused(spec, tmp_path).message

    def test_notices_a_change_while_it_reads(self, archives, tmp_path, monkeypatch):
        spec = archives.write_xyz(tmp_path / "t", {(3, 1, 1): b"one"})
        real = reading.read_tile_file

        def read_and_change(path):
            content = real(path)
            with Path(path).open("ab") as file:
                file.write(b"more")
            return content

        monkeypatch.setattr("pipeline.tiles.xyz.read_tile_file", read_and_change)
        assert refused(spec, tmp_path).kind is ErrorKind.SOURCE_CHANGED

    def test_a_changed_file_is_hashed_again(self, archives, tmp_path):
        spec, memory = (
            archives.write_xyz(tmp_path / "t", {(3, 1, 1): b"one", (3, 1, 2): b"two"}),
            tmp_path / "m",
        )

        def digests():
            source = open_source(spec, tmp_path, memory_folder=memory, now_ns=lambda: 4 * 10**18)
            return [tile.sha256 for tile in source.query_by_bbox(WORLD, (3, 3))]

        first = digests()
        before = (tmp_path / "t/3/1/1.png").stat()
        (tmp_path / "t/3/1/1.png").write_bytes(b"eno")
        os.utime(tmp_path / "t/3/1/1.png", ns=(before.st_atime_ns, before.st_mtime_ns))
        second = digests()
        assert second[0] == hashlib.sha256(b"eno").hexdigest() != first[0]
        assert second[1] == first[1]
        assert digests() == second

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_without_permission(self, archives, tmp_path):
        spec = archives.write_xyz(tmp_path / "t", {(3, 1, 1): b"one"})
        (tmp_path / "t/3/1").chmod(0)
        with pytest.raises(RequestError, match="Permission denied"):
            open_source(spec, tmp_path).query_by_bbox(WORLD, (3, 3))
        (tmp_path / "t/3/1").chmod(0o755)


class TestMBTiles:
    @pytest.fixture
    def spec(self, archives, tmp_path):
        return archives.write_mbtiles(tmp_path / "a b?#%.mbtiles", archives.block(3, 0, 0))

    def change(self, spec, *statements):
        with closing(sqlite3.connect(spec)) as database, database:
            for statement in statements:
                database.execute(statement)

    def test_odd_names_are_no_trouble(self, spec, tmp_path):
        found = open_source(spec, tmp_path).query_by_bbox(WORLD, (3, 3))
        assert len(found) == 16
        assert read_tile(found[0].locator)

    def test_refuses_vector_tiles(self, archives, tmp_path):
        spec = archives.write_mbtiles(tmp_path / "a.mbtiles", {(0, 0, 0): b"\x1f\x8bpbf"}, encoding="pbf")
        error = refused(spec, tmp_path, query=False)
        assert error.kind is ErrorKind.UNSUPPORTED_ARCHIVE
        assert "vector tiles (pbf)" in error.message

    def test_without_a_format_the_first_tile_tells(self, archives, tmp_path):
        image = archives.image(1, encoding="webp")
        spec = archives.write_mbtiles(tmp_path / "a.mbtiles", {(0, 0, 0): image}, encoding=None)
        assert open_source(spec, tmp_path).tile_format == "webp"
        spec = archives.write_mbtiles(tmp_path / "b.mbtiles", {(0, 0, 0): b"\x1f\x8bpbf"}, encoding=None)
        assert refused(spec, tmp_path, query=False).kind is ErrorKind.UNSUPPORTED_ARCHIVE

    @pytest.mark.parametrize(
        ("statement", "said"),
        [
            ("DROP TABLE tiles", "a table or view named tiles, found metadata"),
            ("DELETE FROM tiles", "at least one tile"),
            ("ALTER TABLE tiles RENAME COLUMN tile_data TO data", "no such column: tile_data"),
            ("UPDATE tiles SET tile_data = 'text'", "bytes of type text"),
            ("UPDATE tiles SET tile_data = NULL", "bytes of type null"),
            ("UPDATE tiles SET tile_data = x''", "0 bytes of type blob"),
            ("UPDATE tiles SET tile_data = zeroblob(33554433)", "that SQLite can read"),
            ("INSERT INTO tiles SELECT * FROM tiles", "one tile 3/0/0, found several"),
            ("UPDATE tiles SET tile_column = 1.5", "whole numbers as tile coordinates"),
        ],
    )
    def test_refuses_what_is_wrong_inside(self, statement, said, spec, tmp_path):
        self.change(spec, statement)
        assert said in refused(spec, tmp_path).message

    def test_views_cannot_call_dangerous_functions(self, spec, tmp_path):
        self.change(
            spec,
            "ALTER TABLE tiles RENAME TO real",
            "CREATE VIEW tiles AS SELECT zoom_level, tile_column, tile_row, load_extension('/nowhere') AS tile_data FROM real",
        )
        refused(spec, tmp_path)

    def test_coordinates_outside_the_grid_are_never_wanted(self, spec, tmp_path):
        before = open_source(spec, tmp_path).extent()
        self.change(
            spec,
            "INSERT INTO tiles VALUES (3, 8, 0, x'00'), (3, 0, 8, x'00'), (3, -1, 0, x'00')",
            "INSERT INTO tiles VALUES (99, 0, 0, x'00'), (3, 'x', 1, x'00'), (NULL, NULL, NULL, NULL)",
        )
        source = open_source(spec, tmp_path)
        assert len(source.query_by_bbox(WORLD, (0, 25))) == 16
        assert source.extent() == before

    def test_a_live_write_ahead_log_is_refused(self, spec, tmp_path):
        with closing(sqlite3.connect(spec)) as writer:
            writer.execute("PRAGMA journal_mode = WAL")
            writer.execute("CREATE TABLE more (a)")
            error = refused(spec, tmp_path, query=False)
            assert "unmerged changes" in error.message
            assert "wal_checkpoint" in error.hint
        assert len(open_source(spec, tmp_path).query_by_bbox(WORLD, (3, 3))) == 16
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a b?#%.mbtiles"]

    def test_a_hot_rollback_journal_is_refused(self, spec, tmp_path):
        with closing(sqlite3.connect(spec, isolation_level=None)) as writer:
            writer.execute("PRAGMA cache_size = 1")
            writer.execute("BEGIN")
            writer.execute("CREATE TABLE more (a)")
            writer.execute("INSERT INTO more SELECT randomblob(1000) FROM tiles, tiles AS again")
            assert "-journal" in refused(spec, tmp_path, query=False).message
            writer.execute("ROLLBACK")

    def test_notices_a_change_between_opening_and_reading(self, spec, tmp_path):
        source = open_source(spec, tmp_path)
        self.change(spec, "DELETE FROM tiles WHERE tile_column = 1")
        with pytest.raises(TileError) as caught:
            source.query_by_bbox(WORLD, (3, 3))
        assert caught.value.kind is ErrorKind.SOURCE_CHANGED

    def test_damage_anywhere_is_an_error_or_another_tile(self, spec, tmp_path):
        whole = (tmp_path / spec).read_bytes()
        _damage(whole, tmp_path / "damaged.mbtiles", tmp_path, rounds=120)


class TestPMTiles:
    @pytest.fixture
    def spec(self, archives, tmp_path):
        return archives.write_pmtiles(tmp_path / "a.pmtiles", archives.block(5, 3, 7), leaf_entries=5)

    def test_agrees_with_the_library(self, archives, tmp_path):
        tiles = archives.block(5, 3, 7, columns=6) | {(6, x, y): b"sea" for x in range(9) for y in range(9)}
        spec = archives.write_pmtiles(tmp_path / "a.pmtiles", tiles)
        found = open_source(spec, tmp_path).query_by_bbox(WORLD, (0, 25))
        theirs = sorted(all_tiles(MemorySource((tmp_path / "a.pmtiles").read_bytes())))
        assert [(tile.place, read_tile(tile.locator)) for tile in found] == theirs
        assert len(theirs) == len(tiles)

    def test_a_huge_run_costs_only_what_is_wanted(self, archives, tmp_path):
        first, past = zxy_to_tileid(20, 0, 0), 4**20
        spec = archives.write_pmtiles_entries(tmp_path / "a.pmtiles", [Entry(first, 0, 3, past)], b"sea")
        source = open_source(spec, tmp_path)
        assert len(source.query_by_bbox(archives.WHITNEY_E7, (20, 20))) > 1000
        assert source.query_by_bbox(archives.WHITNEY_E7, (19, 19)) == []

    def test_reads_only_the_directories_it_needs(self, archives, tmp_path):
        spec = archives.write_pmtiles(
            tmp_path / "a.pmtiles", archives.block(5, 0, 0, columns=32, rows=32), leaf_entries=16
        )
        source = open_source(spec, tmp_path)
        assert len(source.query_by_bbox((-100, -100, 100, 100), (5, 5))) == 4
        assert len(source._directories) <= 5
        assert len(source.query_by_bbox(WORLD, (5, 5))) == 32 * 32
        assert len(source._directories) == 65

    def test_unknown_tile_type_is_told_by_the_first_tile(self, archives, tmp_path):
        tiles = {(0, 0, 0): archives.image(1, encoding="jpeg")}
        spec = archives.write_pmtiles(tmp_path / "a.pmtiles", tiles, tile_type=TileType.UNKNOWN)
        assert open_source(spec, tmp_path).tile_format == "jpeg"

    @pytest.mark.parametrize(
        ("header", "kind", "said"),
        [
            ({"tile_type": TileType.MVT}, ErrorKind.UNSUPPORTED_ARCHIVE, "vector tiles of type mvt"),
            ({"tile_type": TileType.AVIF}, ErrorKind.UNSUPPORTED_ARCHIVE, "tiles of type avif"),
            ({"tile_compression": Compression.GZIP}, ErrorKind.UNSUPPORTED_ARCHIVE, "tiles in gzip"),
            ({"internal_compression": Compression.BROTLI}, ErrorKind.UNSUPPORTED_ARCHIVE, "found brotli"),
            ({"root_offset": 1 << 60}, ErrorKind.BAD_ARCHIVE, "(end of root)"),
            ({"root_length": 1 << 60}, ErrorKind.BAD_ARCHIVE, "(end of root)"),
            ({"leaf_directory_length": 1 << 60}, ErrorKind.BAD_ARCHIVE, "(end of leaf_directory)"),
            ({"tile_data_offset": (1 << 64) - 1}, ErrorKind.BAD_ARCHIVE, "(end of tile_data)"),
            ({"tile_data_length": 10}, ErrorKind.BAD_ARCHIVE, "an entry that points outside"),
            ({"leaf_directory_length": 10}, ErrorKind.BAD_ARCHIVE, "directories inside their section"),
            ({"root_length": 5}, ErrorKind.BAD_ARCHIVE, "cut off"),
        ],
    )
    def test_refuses_what_the_header_says(self, header, kind, said, archives, tmp_path):
        spec = archives.write_pmtiles(
            tmp_path / "a.pmtiles", archives.block(5, 3, 7), leaf_entries=5, **header
        )
        error = refused(spec, tmp_path)
        assert error.kind is kind
        assert said in error.message

    @pytest.mark.parametrize(
        ("entries", "said"),
        [
            ([], "at least one tile"),
            ([Entry(5, 0, 4, 1), Entry(5, 0, 4, 1)], "do not rise"),
            ([Entry(5, 0, 4, 3), Entry(6, 0, 4, 1)], "overlap"),
            ([Entry(5, 0, 0, 1)], "without content"),
            ([Entry(5, 5, 4, 1)], "points outside"),
            ([Entry(5, 0, 1 << 50, 1)], "points outside"),
            ([Entry(5, 1 << 61, 1 << 61, 1), Entry(6, 1 << 61, 1 << 62, 1)], "points outside"),
            ([Entry(7 * 10**18, 0, 4, 1)], "beyond the last zoom"),
            ([Entry(5, 0, 4, 7 * 10**18)], "beyond the last zoom"),
            ([Entry(5 * 10**18, 0, 4, 5 * 10**18), Entry(6 * 10**18, 0, 4, 1)], "overlap"),
            ([Entry(5, 0, 4, 1 << 62)], "at most 40000000 tiles"),
            ([Entry(5, 0, 20, 0)], "directories inside their section"),
        ],
    )
    def test_refuses_wrong_directories(self, entries, said, archives, tmp_path):
        spec = archives.write_pmtiles_entries(tmp_path / "a.pmtiles", entries, b"data")
        assert said in refused(spec, tmp_path).message

    def test_directories_that_contain_themselves_end(self, tmp_path, archives):
        loop = b""
        while loop != (loop := serialize_directory([Entry(0, 0, len(loop), 0)])):
            pass
        spec = archives.write_pmtiles_entries(
            tmp_path / "a.pmtiles", [Entry(0, 0, len(loop), 0)], loop, leaf_directory_length=len(loop)
        )
        assert "levels of directories" in refused(spec, tmp_path).message

    def test_a_leaf_outside_its_range_is_refused(self, archives, tmp_path):
        leaf = serialize_directory([Entry(900, 0, 4, 1)])
        root = [Entry(5, 0, len(leaf), 0), Entry(7, 0, len(leaf), 0)]
        spec = archives.write_pmtiles_entries(
            tmp_path / "a.pmtiles", root, leaf, leaf_directory_length=len(leaf)
        )
        assert "a directory for ids" in refused(spec, tmp_path).message

    def test_a_directory_bomb_is_refused(self):
        bomb = gzip.compress(bytes(MAX_DIRECTORY_BYTES + 1))
        with pytest.raises(DirectoryError, match="unpacks to more than"):
            unpack(bomb, gzipped=True)

    def test_notices_a_change_between_opening_and_reading(self, spec, tmp_path):
        source = open_source(spec, tmp_path)
        shutil.copy(spec, tmp_path / "other")
        os.truncate(spec, 200)
        with pytest.raises(TileError) as caught:
            source.query_by_bbox(WORLD, (5, 5))
        assert caught.value.kind is ErrorKind.SOURCE_CHANGED

    def test_a_worker_notices_a_truncated_archive(self, spec, tmp_path):
        tile = open_source(spec, tmp_path).query_by_bbox(WORLD, (5, 5))[-1]
        os.truncate(spec, 200)
        with pytest.raises(TileError, match=r"expected .* bytes at offset"):
            read_tile(tile.locator)

    def test_every_truncation_is_an_error(self, archives, tmp_path):
        whole = (
            tmp_path / archives.write_pmtiles(tmp_path / "a.pmtiles", archives.block(5, 3, 7, columns=2))
        ).read_bytes()
        for length in range(0, len(whole), 37):
            (tmp_path / "cut.pmtiles").write_bytes(whole[:length])
            refused("cut.pmtiles", tmp_path)

    def test_damage_anywhere_is_an_error_or_another_tile(self, spec, tmp_path):
        _damage((tmp_path / spec).read_bytes(), tmp_path / "damaged.pmtiles", tmp_path, rounds=400)

    @given(st.binary(max_size=60))
    def test_a_directory_of_any_bytes_parses_or_is_refused(self, content):
        try:
            directory = parse(content)
        except DirectoryError:
            return
        assert (np.diff(directory.ids) > 0).all()
        assert (directory.lengths > 0).all()
        assert (directory.offsets >= 0).all()

    @given(
        st.lists(
            st.tuples(
                st.integers(1, 1 << 30), st.integers(0, 1), st.integers(1, 1 << 20), st.integers(0, 1 << 40)
            )
        )
    )
    @settings(suppress_health_check=[HealthCheck.too_slow])
    def test_directories_read_as_the_library_writes_them(self, rows):
        entries, tile_id = [], 0
        for step, run, length, offset in rows:
            tile_id += step
            entries.append(Entry(tile_id, offset, length, run))
        directory = parse(unpack(serialize_directory(entries), gzipped=True))
        columns = zip(directory.ids, directory.offsets, directory.lengths, directory.runs, strict=True)
        assert [tuple(map(int, row)) for row in columns] == [
            (entry.tile_id, entry.offset, entry.length, entry.run_length) for entry in entries
        ]


def _damage(whole, path, base, *, rounds):
    """Flip single bytes all over a file; only our own errors may come of it."""
    random = np.random.default_rng(7)
    refused_count = 0
    for _ in range(rounds):
        content = bytearray(whole)
        # Half of the damage goes where the structure is.
        at = int(random.integers(0, len(whole) if random.integers(2) else 400))
        content[at] ^= int(random.integers(1, 256))
        path.write_bytes(content)
        try:
            for tile in open_source(path.name, base).query_by_bbox(WORLD, (0, 6)):
                assert hashlib.sha256(read_tile(tile.locator)).hexdigest() == tile.sha256
        except TileError:
            refused_count += 1
        close_archives()
    assert 0 < refused_count < rounds


def test_locators_of_no_known_kind():
    for locator in ((), ("http", "x"), ("file",), ("pmtiles", "x", "0", 1)):
        with pytest.raises(ValueError, match="tile locator"):
            read_tile(locator)


def test_what_a_worker_cannot_find(tmp_path, archives):
    spec = archives.write_mbtiles(tmp_path / "a.mbtiles", {(3, 0, 0): b"x"})
    for locator in (
        ("file", str(tmp_path / "no")),
        ("pmtiles", str(tmp_path / "no"), 0, 1),
        ("mbtiles", spec, 3, 1, 1),
    ):
        with pytest.raises(TileError) as caught:
            read_tile(locator)
        assert caught.value.kind is ErrorKind.SOURCE_CHANGED
