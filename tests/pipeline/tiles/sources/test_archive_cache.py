"""The cached list of an archive has the same tiles as the archive, or is not used."""

import itertools
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline.tiles.digest_cache import RACY_NS, CacheContent, CacheFile, Fingerprint
from pipeline.tiles.grid import TileRange
from pipeline.tiles.sources import archive_cache
from pipeline.tiles.sources.archive_cache import ArchiveCache, TileListing
from pipeline.tiles.sources.archives import mbtiles, pmtiles
from pipeline.tiles.sources.read_tile import close_archives
from pipeline.tiles.sources.registry import open_source
from store.base.identity import descriptor_id
from tests.examples_tried import examples

NOW = 1_800_000_000_000_000_000
ABOUT = Fingerprint(1, 2, 3, NOW - RACY_NS - 1, NOW - RACY_NS - 1)
WIDE = (-1_800_000_000, -850_000_000, 1_800_000_000, 850_000_000)
KINDS = ("mbtiles", "pmtiles")


def later():
    return 4 * 10**18


@pytest.fixture
def written(archives, tmp_path):
    """Specs of two archives of the same tiles, some of whose contents are shared."""
    tiles = archives.block(5, 10, 10, columns=6, rows=6) | archives.block(4, 4, 4, columns=5, rows=5)
    tiles[5, 31, 31] = tiles[5, 10, 10]
    return {
        "mbtiles": archives.write_mbtiles(tmp_path / "a.mbtiles", tiles),
        "pmtiles": archives.write_pmtiles(tmp_path / "a.pmtiles", tiles),
    }


def query(spec, base, box=WIDE, zoom=(0, 25), **options):
    try:
        return open_source(spec, base, **options).query_by_bbox(box, zoom)
    finally:
        close_archives()


edges = st.integers(0, 32)
boxes = st.tuples(edges, edges, edges, edges).map(
    lambda e: (
        min(e[0], e[2]) * 112_500_000 - 1_800_000_000,
        min(e[1], e[3]) * 50_000_000 - 800_000_000,
        min(max(e[0], e[2]) * 112_500_000 + 10_000_000, 3_600_000_000) - 1_800_000_000,
        max(e[1], e[3]) * 50_000_000 - 790_000_000,
    )
)


@pytest.mark.parametrize("kind", KINDS)
@given(
    asked=st.lists(
        st.tuples(boxes, st.sampled_from([(4, 4), (5, 5), (4, 5), (0, 3)])), min_size=1, max_size=6
    )
)
@example(
    asked=[
        ((-1_800_000_000, -800_000_000, -1_790_000_000, -790_000_000), (4, 4)),
        ((-1_800_000_000, -800_000_000, -890_000_000, -790_000_000), (4, 4)),
        ((-1_800_000_000, -800_000_000, -665_000_000, -190_000_000), (4, 4)),
    ]
)
@settings(max_examples=examples(40), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_cached_areas_are_what_the_archive_holds(written, tmp_path, kind, asked):
    folder = tmp_path / f"cache-{next(_numbers)}"
    for box, zoom in asked:
        expected = query(written[kind], tmp_path, box, zoom)
        for _ in range(2):
            assert (
                query(written[kind], tmp_path, box, zoom, digest_cache_folder=folder, now_ns=later)
                == expected
            )


_numbers = itertools.count()


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_of_a_cached_area_is_not_read(written, tmp_path, monkeypatch, kind):
    options = {"digest_cache_folder": tmp_path / "cache", "now_ns": later}
    query(written[kind], tmp_path, **options)
    expected = query(written[kind], tmp_path, zoom=(5, 5))

    def refuse(*_args):
        raise AssertionError("the archive's directory was read")

    monkeypatch.setattr(mbtiles.MBTilesArchive, "_list_tiles", refuse)
    monkeypatch.setattr(pmtiles.PMTilesArchive, "_list_tiles", refuse)
    assert query(written[kind], tmp_path, zoom=(5, 5), **options) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_another_archive_under_the_name_is_read(written, tmp_path, archives, kind):
    options = {"digest_cache_folder": tmp_path / "cache", "now_ns": later}
    query(written[kind], tmp_path, **options)
    path = tmp_path / f"a.{kind}"
    path.unlink()
    getattr(archives, f"write_{kind}")(path, archives.block(5, 3, 3))
    assert query(written[kind], tmp_path, **options) == query(written[kind], tmp_path)


def listing(*ids, seed=0):
    numbers = np.array(sorted(ids), np.int64)
    digests = np.random.default_rng(seed).integers(0, 256, (len(numbers), 32), np.uint8)
    return TileListing(keys=np.stack([numbers, numbers + 1, numbers + 2], axis=1), digests=digests)


def square(z, x0=0, x1=0, y0=0, y1=0):
    return TileRange(z=z, x0=x0, x1=x1, y0=y0, y1=y1)


def cache(folder, about=ABOUT):
    return ArchiveCache(folder, subject="test", fingerprint=about, now_ns=lambda: NOW)


def test_every_number_of_the_fingerprint_must_match(tmp_path):
    cache(tmp_path).store([square(0)], listing(0))
    assert cache(tmp_path).known([square(0)]).ids.tolist() == [0]
    assert not cache(tmp_path).missing([square(0)])
    for column in range(5):
        other = Fingerprint(*(number - (place == column) for place, number in enumerate(ABOUT)))
        assert cache(tmp_path, other).missing([square(0)]) == (square(0),)
        assert not len(cache(tmp_path, other).known([square(0)]).ids)


def test_an_archive_that_was_just_written_is_not_cached(tmp_path):
    fresh = ABOUT._replace(mtime_ns=NOW - RACY_NS)
    cache(tmp_path, fresh).store([square(0)], listing(0))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_cache_is_ignored(tmp_path, damage):
    cache(tmp_path).store([square(0)], listing(0))
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    path.unlink()
    if damage == "flip":
        data[-1] ^= 1
    if damage != "gone":
        path.write_bytes(data[: -1 if damage == "cut" else None])
    assert cache(tmp_path).missing([square(0)]) == (square(0),)


def test_nothing_is_known_without_a_folder():
    nowhere = cache(None)
    nowhere.store([square(0)], listing(0))
    assert cache(None).missing([square(0)]) == (square(0),)
    assert not len(cache(None).known([square(0)]).ids)


parts_of_five = st.builds(
    lambda z, x, y: square(z, min(x), max(x), min(y), max(y)),
    st.integers(4, 5),
    st.tuples(st.integers(0, 5), st.integers(0, 5)),
    st.tuples(st.integers(0, 5), st.integers(0, 5)),
)


@given(stored=st.lists(parts_of_five, max_size=5), asked=parts_of_five)
@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_missing_and_what_is_known_are_together_what_was_asked(tmp_path, stored, asked):
    folder = tmp_path / f"cache-{next(_numbers)}"
    for part in stored:
        cache(folder).store([part], listing(*(descriptor_id(*place) for place in part.places())))
    missing = [place for part in cache(folder).missing([asked]) for place in part.places()]
    held = {place for part in stored for place in part.places()}
    assert sorted(missing) == sorted(set(asked.places()) - held)
    known = [tuple(place) for place in cache(folder).known([asked]).places.tolist()]
    assert known == sorted(held & set(asked.places()))


@pytest.mark.parametrize("limit", ["MAX_RECTANGLES", "MAX_ROWS"])
def test_beyond_the_limit_only_the_newest_is_kept(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(archive_cache, limit, 2)
    parts = [square(20, x, x) for x in range(3)]
    for number, part in enumerate(parts):
        cache(tmp_path).store([part], listing(number))
    assert not cache(tmp_path).missing([parts[2]])
    assert cache(tmp_path).missing([parts[0]])


def test_an_area_of_too_many_tiles_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(archive_cache, "MAX_ROWS", 2)
    cache(tmp_path).store([square(0)], listing(1, 2, 3))
    assert not list(tmp_path.iterdir())


def test_another_users_file_is_ignored(tmp_path, monkeypatch):
    file = CacheFile(tmp_path, subject="x", columns=1)
    kept = CacheContent(scope=(), keys=np.zeros((1, 1), np.int64), digests=np.zeros((1, 32), np.uint8))
    file.store(kept)
    assert file.load() is not None
    owner = os.geteuid()
    monkeypatch.setattr("os.geteuid", lambda: owner + 1)
    assert file.load() is None


def test_a_scope_that_is_no_list_of_rectangles_is_ignored(tmp_path):
    fingerprint = Fingerprint(1, 2, 3, 4, 5)
    file = CacheFile(tmp_path, subject="archive:x", columns=3)
    nothing = {"keys": np.zeros((0, 3), np.int64), "digests": np.zeros((0, 32), np.uint8)}
    file.store(CacheContent(scope=(*fingerprint, 1, 2, 3), **nothing))
    cache = ArchiveCache(tmp_path, subject="x", fingerprint=fingerprint, now_ns=lambda: 10**19)
    assert cache.missing([TileRange(z=1, x0=0, x1=1, y0=0, y1=1)])
