"""Digests of an archive are those of its bytes: after any change, and whatever happens to the workers."""

import errno
import functools
import hashlib
import itertools
import os
import sqlite3
import subprocess
import time
import tracemalloc
from contextlib import closing

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline.errors import ErrorKind, TileError
from pipeline.testing import RecordingProgress
from pipeline.tiles.grid import TileRange
from pipeline.tiles.sources.archives import hashing, pmtiles, sqlite_archive
from pipeline.tiles.sources.archives.mbtiles_view import tms_rectangle
from pipeline.tiles.sources.read_tile import close_archives
from pipeline.tiles.sources.registry import open_source
from pipeline.tiles.tile import Place
from tests import tile_archives
from tests.examples_tried import mostly_deep
from tests.pipeline.tiles.sources.archives.test_geopackage import write_gpkg
from tests.tile_archives import WORLD, block

pytestmark = pytest.mark.usefixtures("closed_archives")

Z = 5
KINDS = ("mbtiles", "view", "gpkg", "pmtiles")
_numbers = itertools.count()


def write(kind, folder, tiles):
    name = f"x.{'mbtiles' if kind == 'view' else kind}"
    (folder / name).unlink(missing_ok=True)
    if kind == "gpkg":
        write_gpkg(folder / name, tiles)
    elif kind == "pmtiles":
        tile_archives.write_pmtiles(folder / name, tiles)
    else:
        tile_archives.write_mbtiles(folder / name, tiles, view=kind == "view")
    return name


def read(name, folder, **options):
    """Digests by place."""
    try:
        found = open_source(name, folder, **options).query_by_bbox(WORLD, (Z, Z))
        return {Place(tile.z, tile.x, tile.y): tile.sha256 for tile in found}
    finally:
        close_archives()


def digests(tiles):
    return {Place(*place): hashlib.sha256(content).hexdigest() for place, content in tiles.items()}


def change_in_place(path, kind, old, place, new):
    """Write other bytes of equal length where a tile's lie, as a program may that keeps the directory."""
    if kind == "pmtiles":
        data = path.read_bytes()
        with path.open("r+b") as file:
            file.seek(data.index(old))
            file.write(new)
        return
    z, x, y = place
    row = y if kind == "gpkg" else (1 << z) - 1 - y
    where = "zoom_level = ? AND tile_column = ? AND tile_row = ?"
    with closing(sqlite3.connect(path)) as database, database:
        if kind == "view":
            database.execute(
                f"UPDATE images SET tile_data = ? WHERE id = (SELECT id FROM map WHERE {where})",
                (new, z, x, row),
            )
        else:
            table = "ortho" if kind == "gpkg" else "tiles"
            database.execute(f"UPDATE {table} SET tile_data = ? WHERE {where}", (new, z, x, row))


changes = st.lists(
    st.tuples(
        st.sampled_from(["equal length", "vacuum", "without one", "copy", "nothing"]),
        st.integers(0, 15),
        st.booleans(),
    ),
    min_size=1,
    max_size=3,
)


@pytest.mark.parametrize("kind", KINDS)
@given(changes=changes)
@example(changes=[("equal length", 3, True)])
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_after_any_change_the_digests_are_those_of_all_bytes_anew(tmp_path, kind, changes):
    folder = tmp_path / f"site-{next(_numbers)}"
    folder.mkdir()
    tiles = {place: content + b"end" for place, content in block(Z, 8, 8).items()}
    name = write(kind, folder, tiles)
    path = folder / name
    options = {"digest_cache_folder": folder / "cache", "now_ns": lambda: 4 * 10**18}
    for what, number, same_time in changes:
        assert read(name, folder, **options) == digests(tiles)
        before = path.stat()
        place = sorted(tiles)[number % len(tiles)]
        # A file system's clock may stand still for some milliseconds.
        time.sleep(0.02)
        if what == "equal length":
            new = tiles[place][:-4] + os.urandom(4)
            change_in_place(path, kind, tiles[place], place, new)
            tiles[place] = new
        elif what == "without one":
            del tiles[place]
            write(kind, folder, tiles)
        elif what == "vacuum" and kind != "pmtiles":
            with closing(sqlite3.connect(path)) as database:
                database.execute("VACUUM")
        elif what == "copy":
            content = path.read_bytes()
            path.unlink()
            path.write_bytes(content)
            os.utime(path, ns=(0, 0))
        if same_time:
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert read(name, folder, **options) == digests(tiles)


@pytest.fixture
def small_tasks(monkeypatch):
    """Workers for the fewest tiles, and several tasks of them."""
    monkeypatch.setattr(hashing, "LEAST_FOR_WORKERS", 1)
    monkeypatch.setattr(pmtiles, "TASK_TILES", 4)
    monkeypatch.setattr(sqlite_archive, "TASK_TILES", 4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})


def forbid_here(monkeypatch):
    """Let the functions that hash fail in this process; workers import them anew."""
    for module, name in ((pmtiles, "hash_ranges"), (sqlite_archive, "hash_rows")):

        @functools.wraps(getattr(module, name))
        def fail(*_):
            raise AssertionError("hashed in this process")

        monkeypatch.setattr(module, name, fail)


@pytest.mark.parametrize("kind", ["gpkg", "pmtiles"])
def test_workers_hash_as_this_process_does(tmp_path, kind, small_tasks, monkeypatch):
    tiles = block(Z, 8, 8)
    name = write(kind, tmp_path, tiles)
    forbid_here(monkeypatch)
    assert read(name, tmp_path) == digests(tiles)


WORKERS = {
    "not started": "raise SystemExit(3)",
    "killed": "serve(lambda _: lambda *_: os.kill(os.getpid(), signal.SIGKILL))",
    "failed": "serve(lambda _: lambda *_: 1 / 0)",
    "stopped": "serve(lambda _: lambda *_: os.kill(os.getpid(), signal.SIGSTOP))",
}


@pytest.mark.parametrize("what", mostly_deep(WORKERS, "killed", "not started"))
def test_what_happens_to_workers_costs_only_time(tmp_path, what, small_tasks, monkeypatch):
    (tmp_path / "lost_worker.py").write_text(
        f"import os, signal\nfrom pipeline.processes.serve import serve\n{WORKERS[what]}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(hashing, "WORKER", "lost_worker")
    monkeypatch.setattr(hashing, "TASK_LIMIT_S", 0.1 if what == "stopped" else 60.0)
    tiles = block(Z, 8, 8)
    name = write("pmtiles", tmp_path, tiles)
    progress = RecordingProgress()
    assert read(name, tmp_path, progress=progress) == digests(tiles)
    assert progress.steps == [("hash tiles", 16, 16, "")]


@pytest.mark.parametrize("started", [0, 1])
@pytest.mark.parametrize("kind", ["gpkg", "pmtiles"])
def test_where_no_process_can_be_started_the_tiles_are_hashed_here(
    tmp_path, kind, started, small_tasks, monkeypatch
):
    real, calls = subprocess.Popen, []

    def refuse(*arguments, **options):
        calls.append(arguments)
        if len(calls) <= started:
            return real(*arguments, **options)
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(subprocess, "Popen", refuse)
    tiles = block(Z, 8, 8)
    name = write(kind, tmp_path, tiles)
    assert read(name, tmp_path) == digests(tiles)
    assert len(calls) == started + 1


def test_an_error_that_a_worker_meets_is_told_as_here(tmp_path, small_tasks):
    name = write("gpkg", tmp_path, block(Z, 8, 8))
    with closing(sqlite3.connect(tmp_path / name)) as database, database:
        database.execute("UPDATE ortho SET tile_row = 9.5 WHERE id = 7")
    with pytest.raises(
        TileError, match=r"expected whole numbers as tile coordinates, found tile 5/9/9\.5"
    ) as caught:
        read(name, tmp_path)
    assert caught.value.kind is ErrorKind.BAD_ARCHIVE


INDEXES = {
    "": False,
    "(zoom_level)": False,
    "(zoom_level, tile_column, tile_row)": True,
    "(tile_column)": True,
}


def tasks_of(path, rectangle, index=""):
    with closing(sqlite3.connect(path)) as database:
        if index:
            database.execute(f"CREATE INDEX places ON tiles {index}")
        names = {"path": path, "kind": "MBTiles", "table": "tiles", "number": "rowid"}
        return list(sqlite_archive.row_tasks(database, rectangle, **names))


def hashed(tasks):
    numbers, found = hashing.joined([task.function(*task.arguments) for task in tasks], columns=5)
    return sorted(zip(numbers.tolist(), map(bytes, found), strict=True))


@pytest.mark.parametrize("index", INDEXES)
@pytest.mark.parametrize("others", ["none", "as many", "many"])
def test_a_rectangle_is_cut_into_parts_that_can_be_found(tmp_path, small_tasks, index, others):
    """By the rows as they lie in the file unless most are others; then by columns, where an index finds those."""
    path = tmp_path / write("mbtiles", tmp_path, block(Z, 8, 8))
    with closing(sqlite3.connect(path)) as database, database:
        rows = database.execute("SELECT * FROM tiles").fetchall()
        database.execute("DELETE FROM tiles")
        each = {"none": 0, "as many": 1, "many": 2}[others]
        for z, x, y, content in [*rows[3:], *rows[:3]]:
            database.execute("INSERT INTO tiles VALUES (?, ?, ?, ?)", (z, x, y, content))
            database.executemany("INSERT INTO tiles VALUES (?, ?, ?, ?)", each * [(z + 1, x, y, b"other")])
        database.execute("UPDATE tiles SET rowid = rowid - 20")
    rectangle = tms_rectangle(TileRange(z=Z, x0=0, x1=31, y0=0, y1=31))
    tasks = tasks_of(path, rectangle, index)
    by_number = others != "many"
    assert (len(tasks) > 1, sum(task.tiles for task in tasks)) == (by_number or INDEXES[index], 16)
    assert ("NOT INDEXED" in tasks[0].arguments[2]) == by_number
    found = hashed(tasks)
    assert [digest for _, digest in found] == [
        hashlib.sha256(content).digest() for *_, content in sorted(rows)
    ]
    assert [numbers[:3] for numbers, _ in found] == [list(row[:3]) for row in sorted(rows)]


@pytest.mark.parametrize("ids", [["a", "b", "c"], [None, 1, 2], [1, 2.5, 3], [1, "b", 3]])
def test_ids_that_are_no_whole_numbers_are_refused_where_another_column_is_the_rowid(tmp_path, ids):
    name = write("gpkg", tmp_path, block(Z, 8, 8))
    with closing(sqlite3.connect(tmp_path / name)) as database, database:
        rows = database.execute("SELECT zoom_level, tile_row, tile_data FROM ortho").fetchall()
        database.execute("DROP TABLE ortho")
        database.execute(
            "CREATE TABLE ortho (id, zoom_level, tile_column INTEGER PRIMARY KEY, tile_row, tile_data)"
        )
        for x, (number, (z, row, content)) in enumerate(zip(ids, rows, strict=False), 8):
            database.execute("INSERT INTO ortho VALUES (?, ?, ?, ?, ?)", (number, z, x, row, content))
    with pytest.raises(TileError, match="expected whole numbers as the id of a tile, found"):
        read(name, tmp_path)


def test_the_ids_of_a_view_may_be_anything(tmp_path):
    name = write("gpkg", tmp_path, block(Z, 8, 8))
    with closing(sqlite3.connect(tmp_path / name)) as database, database:
        database.execute("ALTER TABLE ortho RENAME TO stored")
        database.execute(
            "CREATE VIEW ortho AS SELECT 'a' AS id, zoom_level, tile_column, tile_row, tile_data FROM stored NOT INDEXED"
            " WHERE rowid BETWEEN 1 AND 99"
        )
    with pytest.raises(TileError, match="expected whole numbers as the id of a tile, found 'a'"):
        read(name, tmp_path)


def test_one_tile_is_in_memory_at_a_time(tmp_path):
    """A hostile archive has tiles of 32 MiB, and every worker may be at one."""
    path = tmp_path / write("mbtiles", tmp_path, {(Z, x, 8): bytes(1 << 20) for x in range(40)})
    query = f"SELECT 5, 8, 8, rowid, {sqlite_archive.CONTENT} FROM tiles"
    tracemalloc.start()
    try:
        numbers, _ = sqlite_archive.hash_rows(str(path), "MBTiles", query, ())
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The next one is read before the last one is let go, and Python 3.10 copies what it reads.
    assert (len(numbers), most >> 20 <= 3) == (40, True)


def test_a_rectangle_without_rows_has_no_tasks(tmp_path):
    path = tmp_path / write("mbtiles", tmp_path, block(Z, 8, 8))
    assert tasks_of(path, tms_rectangle(TileRange(z=Z + 1, x0=0, x1=31, y0=0, y1=31))) == []


def test_tiles_that_share_bytes_or_overlap_are_hashed_each_as_it_is(tmp_path):
    path = tmp_path / "data"
    data = os.urandom(3 << 20)
    path.write_bytes(data)
    ranges = [
        (0, 5),
        (0, 9),
        (3, 1 << 20),
        ((1 << 20) - 2, 4),
        (1 << 20, 1),
        (2 << 20, 0),
        ((3 << 20) - 1, 9),
    ]
    offsets, lengths = (np.array(each) for each in zip(*ranges, strict=True))
    _, found = pmtiles.hash_ranges(str(path), offsets, lengths)
    assert [each.tobytes() for each in found] == [
        hashlib.sha256(data[offset : offset + length]).digest() for offset, length in ranges
    ]
