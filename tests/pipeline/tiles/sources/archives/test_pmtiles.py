import gzip
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pmtiles.reader import MemorySource, all_tiles
from pmtiles.tile import Compression, Entry, TileType, serialize_directory, zxy_to_tileid

from pipeline.errors import ErrorKind, TileError
from pipeline.tiles.sources.archives.pmtiles_directory import (
    MAX_DIRECTORY_BYTES,
    DirectoryError,
    parse,
    unpack,
)
from pipeline.tiles.sources.read_tile import read_tile
from pipeline.tiles.sources.registry import open_source
from tests.examples_tried import examples
from tests.tile_archives import WORLD

pytestmark = pytest.mark.usefixtures("closed_archives")


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

    @pytest.mark.parametrize("leaf_entries", [0, 3])
    def test_the_tiles_decide_an_unknown_tile_type(self, leaf_entries, archives, tmp_path, refused):
        tiles = {(1, 0, 0): b"<html>", (1, 0, 1): archives.image(1, encoding="jpeg")}
        options = {"tile_type": TileType.UNKNOWN, "leaf_entries": leaf_entries}
        spec = archives.write_pmtiles(tmp_path / "a.pmtiles", tiles, **options)
        assert len(open_source(spec, tmp_path).query_by_bbox(WORLD, (1, 1))) == 2
        spec = archives.write_pmtiles(tmp_path / "b.pmtiles", {(1, 0, 0): b"<html>"}, **options)
        assert refused(spec, tmp_path, query=False).kind is ErrorKind.UNSUPPORTED_ARCHIVE

    def test_a_portal_page_at_the_beginning_does_not_decide(self, archives, tmp_path):
        places = [(4, x, y) for x in range(16) for y in range(16)]
        tiles = {place: b"<html>%d" % number for number, place in enumerate(places)}
        tiles |= dict.fromkeys(places[200:], archives.image(1))
        spec = archives.write_pmtiles(tmp_path / "a.pmtiles", tiles, tile_type=TileType.UNKNOWN)
        assert len(open_source(spec, tmp_path).query_by_bbox(WORLD, (4, 4))) == 256

    @pytest.mark.parametrize(
        ("data", "sound"), [(b"north" + b"south" + b"sea", False), (b"north" * 2 + b"sea", True)]
    )
    def test_a_run_over_different_tiles_is_refused(self, data, sound, archives, tmp_path, refused):
        first = zxy_to_tileid(1, 0, 0)
        entries = [Entry(first, 0, 5, 2), Entry(first + 2, 10, 3, 1)]
        spec = archives.write_pmtiles_entries(tmp_path / "a.pmtiles", entries, data)
        if sound:
            assert len(open_source(spec, tmp_path).query_by_bbox(WORLD, (1, 1))) == 3
        else:
            error = refused(spec, tmp_path)
            assert error.kind is ErrorKind.BAD_ARCHIVE
            assert "different tiles" in error.message

    def test_entries_without_content_are_tiles_that_are_not_there(self, archives, tmp_path):
        first = zxy_to_tileid(3, 0, 0)
        entries = [Entry(first, 0, 4, 1), Entry(first + 1, 4, 0, 1), Entry(first + 2, 4, 4, 2)]
        spec = archives.write_pmtiles_entries(tmp_path / "a.pmtiles", entries, b"one two ")
        found = open_source(spec, tmp_path).query_by_bbox(WORLD, (3, 3))
        assert sorted(read_tile(tile.locator) for tile in found) == [b"one ", b"two ", b"two "]

    @pytest.mark.parametrize(
        ("start", "said"),
        [(b"PM\x02\x00", "version 2"), (b"PM\x01\x00", "version 1"), (b"PMTiles\x04", "version 4")],
    )
    def test_other_versions_are_named(self, start, said, tmp_path, refused):
        (tmp_path / "a.pmtiles").write_bytes(start + bytes(200))
        error = refused("a.pmtiles", tmp_path)
        assert (error.kind, said in error.message) == (ErrorKind.UNSUPPORTED_ARCHIVE, True)
        assert "X.mbtiles" in error.hint

    def test_compressed_tiles_are_to_be_exported_without(self, archives, tmp_path, refused):
        spec = archives.write_pmtiles(
            tmp_path / "a.pmtiles", archives.block(3, 0, 0), tile_compression=Compression.GZIP
        )
        assert refused(spec, tmp_path, query=False).hint == "export it without compressing the tiles again"

    @pytest.mark.parametrize(
        ("header", "kind", "said"),
        [
            ({"tile_type": TileType.MVT}, ErrorKind.UNSUPPORTED_ARCHIVE, "vector tiles of type mvt"),
            ({"tile_type": TileType.AVIF}, ErrorKind.UNSUPPORTED_ARCHIVE, "tiles of type avif"),
            ({"tile_compression": Compression.GZIP}, ErrorKind.UNSUPPORTED_ARCHIVE, "tiles in gzip"),
            ({"internal_compression": Compression.BROTLI}, ErrorKind.UNSUPPORTED_ARCHIVE, "found brotli"),
            (
                {"tile_entries_count": 15, "tile_contents_count": 16},
                ErrorKind.BAD_ARCHIVE,
                "found 16, so that",
            ),
            ({"root_offset": 1 << 60}, ErrorKind.BAD_ARCHIVE, "(end of root)"),
            ({"root_length": 1 << 60}, ErrorKind.BAD_ARCHIVE, "(end of root)"),
            ({"leaf_directory_length": 1 << 60}, ErrorKind.BAD_ARCHIVE, "(end of leaf_directory)"),
            ({"tile_data_offset": (1 << 64) - 1}, ErrorKind.BAD_ARCHIVE, "(end of tile_data)"),
            ({"tile_data_length": 10}, ErrorKind.BAD_ARCHIVE, "an entry that points outside"),
            ({"leaf_directory_length": 10}, ErrorKind.BAD_ARCHIVE, "directories inside their section"),
            ({"root_length": 5}, ErrorKind.BAD_ARCHIVE, "cut off"),
        ],
    )
    def test_refuses_what_the_header_says(self, header, kind, said, archives, tmp_path, refused):
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
            ([Entry(5, 0, 0, 1)], "at least one tile"),
            ([Entry(5, 0, 4, 1), Entry(6, 0, 0, 0)], "a directory without content"),
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
    def test_refuses_wrong_directories(self, entries, said, archives, tmp_path, refused):
        spec = archives.write_pmtiles_entries(tmp_path / "a.pmtiles", entries, b"data")
        assert said in refused(spec, tmp_path).message

    def test_directories_that_contain_themselves_end(self, tmp_path, archives, refused):
        loop = b""
        while loop != (loop := serialize_directory([Entry(0, 0, len(loop), 0)])):
            pass
        spec = archives.write_pmtiles_entries(
            tmp_path / "a.pmtiles", [Entry(0, 0, len(loop), 0)], loop, leaf_directory_length=len(loop)
        )
        assert "levels of directories" in refused(spec, tmp_path).message

    def test_a_leaf_outside_its_range_is_refused(self, archives, tmp_path, refused):
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
        os.truncate(spec, 200)
        with pytest.raises(TileError) as caught:
            source.query_by_bbox(WORLD, (5, 5))
        assert caught.value.kind is ErrorKind.SOURCE_CHANGED

    def test_a_worker_notices_a_truncated_archive(self, spec, tmp_path):
        tile = open_source(spec, tmp_path).query_by_bbox(WORLD, (5, 5))[-1]
        os.truncate(spec, 200)
        with pytest.raises(TileError, match=r"expected .* bytes at offset"):
            read_tile(tile.locator)

    def test_every_truncation_is_an_error(self, archives, tmp_path, refused):
        whole = (
            tmp_path / archives.write_pmtiles(tmp_path / "a.pmtiles", archives.block(5, 3, 7, columns=2))
        ).read_bytes()
        for length in range(0, len(whole), 37):
            (tmp_path / "cut.pmtiles").write_bytes(whole[:length])
            refused("cut.pmtiles", tmp_path)

    def test_damage_anywhere_is_an_error_or_another_tile(self, spec, archives, tmp_path):
        archives.damage(
            (tmp_path / spec).read_bytes(), tmp_path / "damaged.pmtiles", tmp_path, rounds=examples(400)
        )

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

    def test_numbers_beyond_63_bits_are_refused(self):
        with pytest.raises(DirectoryError, match="more than 63 bits"):
            parse(b"\xff" * 9 + b"\x01")
