import hashlib
import signal
import sqlite3
from contextlib import closing

import pytest

from pipeline.errors import ErrorKind, TileError
from pipeline.tiles.sources.archives import mbtiles, mbtiles_view
from pipeline.tiles.sources.read_tile import close_archives, read_tile
from pipeline.tiles.sources.registry import open_source
from tests.tile_archives import WORLD

pytestmark = pytest.mark.usefixtures("closed_archives")


class TestMBTiles:
    @pytest.fixture
    def spec(self, archives, tmp_path):
        return archives.write_mbtiles(tmp_path / "a b?#%.mbtiles", archives.block(3, 0, 0))

    def change(self, spec, *statements):
        with closing(sqlite3.connect(spec)) as database, database:
            for statement in statements:
                database.execute(statement)

    def test_unusual_names(self, spec, tmp_path):
        found = open_source(spec, tmp_path).query_by_bbox(WORLD, (3, 3))
        assert len(found) == 16
        assert read_tile(found[0].locator)

    def test_a_signal_ends_a_search_of_a_view_without_end(self, spec, tmp_path):
        self.change(
            spec,
            "DROP TABLE tiles",
            "CREATE VIEW tiles AS WITH RECURSIVE c(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM c)"
            " SELECT 3 AS zoom_level, i % 7 AS tile_column, i % 5 AS tile_row, x'00' AS tile_data FROM c",
        )
        source = open_source(spec, tmp_path)

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        try:
            with pytest.raises(KeyboardInterrupt):
                source.query_by_bbox(WORLD, (3, 3))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def test_refuses_vector_tiles(self, archives, tmp_path, refused):
        spec = archives.write_mbtiles(tmp_path / "a.mbtiles", {(0, 0, 0): b"\x1f\x8bpbf"}, encoding="pbf")
        error = refused(spec, tmp_path, query=False)
        assert error.kind is ErrorKind.UNSUPPORTED_ARCHIVE
        assert "vector tiles (pbf)" in error.message

    @pytest.mark.parametrize(
        "encoding", [None, "", "image/png", "png8", "jpgpng", "hybrid", "mixed", "JPG70"]
    )
    def test_without_a_usual_format_the_tiles_decide(self, encoding, archives, tmp_path, refused):
        tiles = {(2, 0, 0): b"<html>", (2, 1, 0): archives.image(1, encoding="webp")}
        spec = archives.write_mbtiles(tmp_path / "a.mbtiles", tiles, encoding=encoding)
        assert len(open_source(spec, tmp_path).query_by_bbox(WORLD, (2, 2))) == 2
        spec = archives.write_mbtiles(tmp_path / "b.mbtiles", {(0, 0, 0): b"\x1f\x8bpbf"}, encoding=encoding)
        error = refused(spec, tmp_path, query=False)
        assert error.kind is ErrorKind.UNSUPPORTED_ARCHIVE
        assert "compressed the tiles again" in error.hint

    @pytest.mark.parametrize(
        ("value", "content"), [("NULL", b""), ("x''", b""), ("'text'", b"text"), ("12", b"12")]
    )
    def test_a_row_that_is_no_blob_is_a_tile_of_those_bytes(self, value, content, spec, tmp_path):
        self.change(spec, f"UPDATE tiles SET tile_data = {value} WHERE tile_column = 2")
        found = open_source(spec, tmp_path).query_by_bbox(WORLD, (3, 3))
        assert len(found) == 16
        for tile in found[8:12]:
            assert (tile.size, read_tile(tile.locator)) == (len(content), content)
            assert tile.sha256 == hashlib.sha256(content).hexdigest()

    @pytest.mark.parametrize("value", ["NULL", "x''", "''"])
    def test_an_empty_first_row_does_not_decide(self, value, spec, tmp_path):
        self.change(
            spec,
            "DELETE FROM metadata",
            f"UPDATE tiles SET tile_data = {value} WHERE rowid = (SELECT min(rowid) FROM tiles)",
        )
        assert len(open_source(spec, tmp_path).query_by_bbox(WORLD, (3, 3))) == 16

    def test_portal_pages_at_the_beginning_do_not_decide(self, archives, tmp_path, monkeypatch):
        monkeypatch.setattr(mbtiles, "_SNIFFED_ROWS", 10)
        tiles = {(4, x, y): b"<html>" for x in range(8) for y in range(16)}
        tiles |= {(4, x, y): archives.image(1) for x in range(8, 10) for y in range(16)}
        spec = archives.write_mbtiles(tmp_path / "a.mbtiles", tiles, encoding=None)
        assert len(open_source(spec, tmp_path).query_by_bbox(WORLD, (4, 4))) == 160

    def test_names_in_capitals_and_other_metadata(self, spec, tmp_path):
        self.change(
            spec,
            "ALTER TABLE tiles RENAME TO old",
            "ALTER TABLE old RENAME TO TILES",
            "DROP TABLE metadata",
            "CREATE TABLE metadata (key TEXT, content TEXT)",
        )
        found = open_source(spec, tmp_path).query_by_bbox(WORLD, (3, 3))
        assert len(found) == 16
        assert read_tile(found[3].locator)

    def test_a_column_named_rowid(self, spec, tmp_path):
        self.change(spec, "DELETE FROM metadata", "ALTER TABLE tiles ADD COLUMN rowid TEXT DEFAULT 'a'")
        found = open_source(spec, tmp_path).query_by_bbox(WORLD, (3, 3))
        assert len(found) == 16
        assert read_tile(found[3].locator)

    def test_equal_rows_of_one_place_are_one_tile(self, spec, tmp_path):
        before = open_source(spec, tmp_path).query_by_bbox(WORLD, (3, 3))
        self.change(spec, "INSERT INTO tiles SELECT * FROM tiles")
        after = open_source(spec, tmp_path).query_by_bbox(WORLD, (3, 3))
        assert [tile.sha256 for tile in after] == [tile.sha256 for tile in before]

    @pytest.mark.parametrize(
        ("indexed", "kept", "scans"), [(True, 64 << 20, 4), (False, 64 << 20, 1), (False, 1, 4)]
    )
    def test_a_view_is_read_by_cells(self, indexed, kept, scans, archives, tmp_path, monkeypatch):
        tiles = archives.block(6, 0, 0, columns=20, rows=20)
        spec = archives.write_mbtiles(tmp_path / "v.mbtiles", tiles, view=True)
        if indexed:
            self.change(spec, "CREATE INDEX place ON map (zoom_level, tile_column, tile_row)")
        found = open_source(spec, tmp_path).query_by_bbox(WORLD, (6, 6))
        queries, select = [], mbtiles_view.select_tiles
        monkeypatch.setattr(
            mbtiles_view, "select_tiles", lambda *query: queries.append(query) or select(*query)
        )
        monkeypatch.setattr(mbtiles_view, "KEPT_BYTES", kept)
        for tile in sorted(found, key=lambda tile: (tile.x >> 4, tile.y >> 4)):
            assert read_tile(tile.locator) == tiles[tile.place]
        assert len(queries) == scans

    @pytest.mark.parametrize("kept", [1, 5_000, 64 << 20])
    def test_tiles_of_a_view_may_be_read_in_any_order(self, kept, archives, tmp_path, monkeypatch):
        monkeypatch.setattr(mbtiles_view, "KEPT_BYTES", kept)
        tiles = archives.block(6, 0, 0, columns=20, rows=20) | archives.block(5, 3, 3)
        spec = archives.write_mbtiles(tmp_path / "v.mbtiles", tiles, view=True)
        found = open_source(spec, tmp_path).query_by_bbox(WORLD, (5, 6))
        assert len(found) == len(tiles)
        for tile in sorted(found, key=lambda tile: tile.sha256):
            assert read_tile(tile.locator) == tiles[tile.place]

    @pytest.mark.parametrize(
        "view",
        [
            "SELECT zoom_level, tile_column, tile_row, tile_data FROM map JOIN images USING (tile_id)",
            (
                "SELECT m.zoom_level AS zoom_level, m.tile_column AS tile_column, m.tile_row AS tile_row,"
                ' i.tile_data AS tile_data FROM "map" AS m LEFT JOIN images i ON m.tile_id = i.tile_id'
            ),
            (
                "SELECT map.zoom_level, tile_column, tile_row, tile_data FROM images, map"
                " WHERE map.tile_id = images.tile_id"
            ),
            "SELECT zoom_level, tile_column, tile_row, x'00' AS tile_data FROM map",
        ],
    )
    @pytest.mark.parametrize(
        "known", [(), ("images (tile_id)",), ("map (zoom_level, tile_column, tile_row)",)]
    )
    def test_a_view_without_an_index_is_told_how_to_get_one(self, view, known, spec, tmp_path):
        self.change(
            spec,
            "CREATE TABLE map (zoom_level INTEGER, tile_column INTEGER, tile_row INTEGER, tile_id TEXT)",
            "CREATE TABLE images (tile_id TEXT, tile_data BLOB)",
            "INSERT INTO map SELECT zoom_level, tile_column, tile_row, hex(tile_data) FROM tiles",
            "INSERT INTO images SELECT DISTINCT hex(tile_data), tile_data FROM tiles",
            "DROP TABLE tiles",
            f"CREATE VIEW tiles AS {view}",
            *(f"CREATE INDEX known{number} ON {columns}" for number, columns in enumerate(known)),
        )
        (warning,) = open_source(spec, tmp_path).query_by_bbox(WORLD, (3, 3)).warnings or ("",)
        if "x'00'" in view and "map (zoom_level, tile_column, tile_row)" in known:
            assert warning == ""
            return
        assert "CREATE INDEX" in warning
        self.change(spec, *warning.split('"')[1].split("; "))
        again = open_source(spec, tmp_path).query_by_bbox(WORLD, (3, 3))
        assert (len(again), again.warnings) == (16, ())

    @pytest.mark.parametrize(
        ("statement", "said"),
        [
            ("DROP TABLE tiles", "a table or view named tiles, found metadata"),
            ("DELETE FROM tiles", "at least one tile"),
            ("ALTER TABLE tiles RENAME COLUMN tile_data TO data", "no such column: tile_data"),
            ("UPDATE tiles SET tile_data = zeroblob(33554433)", "that SQLite can read"),
            (
                "INSERT INTO tiles SELECT zoom_level, tile_column, tile_row, x'00' FROM tiles",
                "one tile 3/0/0, found several that differ",
            ),
            (
                "INSERT INTO tiles SELECT zoom_level, tile_column, tile_row, zeroblob(length(tile_data)) FROM tiles",
                "one tile 3/0/0, found several that differ",
            ),
            ("UPDATE tiles SET tile_column = 1.5", "whole numbers as tile coordinates"),
        ],
    )
    def test_refuses_what_is_wrong_inside(self, statement, said, spec, tmp_path, refused):
        self.change(spec, statement)
        assert said in refused(spec, tmp_path).message

    def test_views_cannot_call_dangerous_functions(self, spec, tmp_path, refused):
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

    def test_a_live_write_ahead_log_is_refused(self, spec, tmp_path, refused):
        with closing(sqlite3.connect(spec)) as writer:
            writer.execute("PRAGMA journal_mode = WAL")
            writer.execute("CREATE TABLE more (a)")
            error = refused(spec, tmp_path, query=False)
            assert "unmerged changes" in error.message
            assert "wal_checkpoint" in error.hint
        assert len(open_source(spec, tmp_path).query_by_bbox(WORLD, (3, 3))) == 16
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a b?#%.mbtiles"]

    def test_a_hot_rollback_journal_is_refused(self, spec, tmp_path, refused):
        with closing(sqlite3.connect(spec, isolation_level=None)) as writer:
            writer.execute("PRAGMA cache_size = 1")
            writer.execute("BEGIN")
            writer.execute("CREATE TABLE more (a)")
            writer.execute("INSERT INTO more SELECT randomblob(1000) FROM tiles, tiles AS again")
            error = refused(spec, tmp_path, query=False)
            assert "-journal" in error.message
            assert "wal_checkpoint" not in error.hint
            writer.execute("ROLLBACK")

    def test_rows_are_found_without_an_index_and_after_moving(self, spec, tmp_path):
        found = open_source(spec, tmp_path).query_by_bbox(WORLD, (3, 3))
        assert len({tile.locator[-1] for tile in found}) == 16
        self.change(spec, "UPDATE tiles SET rowid = rowid + 1000")
        assert [hashlib.sha256(read_tile(tile.locator)).hexdigest() for tile in found] == [
            t.sha256 for t in found
        ]

    def test_a_table_without_row_numbers(self, spec, tmp_path):
        before = open_source(spec, tmp_path).query_by_bbox(WORLD, (3, 3))
        content = read_tile(before[0].locator)
        close_archives()
        self.change(
            spec,
            "ALTER TABLE tiles RENAME TO old",
            "CREATE TABLE tiles (zoom_level INTEGER, tile_column INTEGER, tile_row INTEGER, tile_data BLOB,"
            " PRIMARY KEY (zoom_level, tile_column, tile_row)) WITHOUT ROWID",
            "INSERT INTO tiles SELECT * FROM old",
        )
        after = open_source(spec, tmp_path).query_by_bbox(WORLD, (3, 3))
        assert [tile.sha256 for tile in after] == [tile.sha256 for tile in before]
        assert {tile.locator[-1] for tile in after} == {-1}
        assert read_tile(after[0].locator) == content

    def test_notices_a_change_between_opening_and_reading(self, spec, tmp_path):
        source = open_source(spec, tmp_path)
        self.change(spec, "DELETE FROM tiles WHERE tile_column = 1")
        with pytest.raises(TileError) as caught:
            source.query_by_bbox(WORLD, (3, 3))
        assert caught.value.kind is ErrorKind.SOURCE_CHANGED

    def test_damage_anywhere_is_an_error_or_another_tile(self, spec, archives, tmp_path):
        whole = (tmp_path / spec).read_bytes()
        archives.damage(whole, tmp_path / "damaged.mbtiles", tmp_path, rounds=120)
