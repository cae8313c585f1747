"""Samples and textures of chunks: those of their pictures, whatever is shared between chunks and windows."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from pipeline.embed import worker
from pipeline.embed.samples import KeptTiles, Samples, ShownTile, levels_by_zoom
from pipeline.tiles.images.decode import Picture, decode
from store.base.geometry.lattice import chunk_ids, chunk_of, tile_span
from store.base.geometry.level import Level
from store.base.geometry.mosaic import render_chunks
from store.base.identity import descriptor_id
from store.base.preprocessing import Preprocessing
from store.base.texture import texture_energy
from tests.small_builds import encoded

ZOOM = 4
EDGE = 40
SMALL, LARGE = Level(ZOOM, 1, 4), Level(ZOOM, 2, 11)
SIZE = Preprocessing(size=(64, 64))
SCALED = {"mean": (100.0, 110.5, 120.0), "std": (50.0, 51.0, 52.25)}


def pictures(side=range(16), edge=EDGE):
    """Noise of some contrast for each tile of a few rows, by descriptor id."""
    chance = np.random.default_rng(0)
    return {
        descriptor_id(ZOOM, x, y): chance.integers(0, 40 * (1 + x % 6), (edge, edge, 3), np.uint8)
        for x in side
        for y in range(6)
    }


def chunks_of(level, columns):
    """The ids of all chunks over some first steps and the upper rows."""
    places = [
        (x % level.steps_around, y) for x in columns for y in range(level.steps_per_tile * 6 - level.m + 1)
    ]
    return chunk_ids(level, *(np.array(axis) for axis in zip(*places, strict=True)))


def one_by_one(ids, tiles, preprocessing):
    """Sample and texture of each chunk from its picture alone."""
    for identifier in ids.tolist():
        level, x, y = chunk_of(identifier)
        x0, nx, y0, ny = tile_span(level, x, y)
        around = 1 << ZOOM
        under = {
            ((x0 + i) % around, y0 + j): tiles[descriptor_id(ZOOM, (x0 + i) % around, y0 + j)]
            for i in range(nx)
            for j in range(ny)
        }
        (picture,) = render_chunks(level, [(x, y)], under, preprocessing.size)
        yield preprocessing.apply(picture), texture_energy(picture)


@pytest.mark.parametrize(
    "preprocessing",
    [
        SIZE,
        Preprocessing(size=(64, 64), layout="nhwc", colour="bgr"),
        Preprocessing(size=(70, 70), colour="bgr", **SCALED),
        Preprocessing(size=(48, 80), **SCALED),
        Preprocessing(size=(80, 48), layout="nhwc", **SCALED),
        Preprocessing(size=(200, 200), **SCALED),
    ],
    ids=["planes", "pixels", "no multiple of 64", "wide", "high", "enlarged"],
)
def test_samples_and_textures_are_those_of_the_pictures(preprocessing):
    tiles = pictures()
    # Two levels in disorder, across the antimeridian.
    ids = np.concatenate([chunks_of(SMALL, (29, 30, 3)), chunks_of(LARGE, (60, 61, 2))])
    ids = np.random.default_rng(1).permutation(ids)
    samples, levels = Samples(preprocessing), levels_by_zoom(ids)
    shown = {
        identifier: samples.shown_tile(Picture(pixels, 0.0), levels[ZOOM])
        for identifier, pixels in tiles.items()
    }
    expected, found = list(one_by_one(ids, tiles, preprocessing)), set()
    sample = np.empty(preprocessing.shape, np.float32)
    for number, write, _ in samples.of_chunks(ids, shown):
        sample.fill(np.nan)
        texture = write(sample)
        assert sample.tobytes() == expected[number][0].tobytes()
        assert texture == expected[number][1]
        found.add(number)
    assert found == set(range(len(ids)))
    assert len({texture for _, texture in expected}) > 10


def test_chunks_without_a_tile_are_left_out_and_others_are_as_before():
    ids, tiles, samples = chunks_of(SMALL, range(2, 9)), pictures(), Samples(SIZE)
    missing = descriptor_id(ZOOM, 3, 3)
    shown = {
        identifier: samples.shown_tile(Picture(pixels, 0.0), [SMALL])
        for identifier, pixels in tiles.items()
        if identifier != missing
    }
    expected, found = list(one_by_one(ids, tiles, SIZE)), set()
    for number, write, _ in samples.of_chunks(ids, shown):
        sample = np.empty(SIZE.shape, np.float32)
        write(sample)
        assert (sample == expected[number][0]).all()
        found.add(number)
    beside = set()
    for number, identifier in enumerate(ids.tolist()):
        x0, nx, y0, ny = tile_span(*chunk_of(identifier))
        if not (x0 <= 3 < x0 + nx and y0 <= 3 < y0 + ny):
            beside.add(number)
    assert found == beside
    assert 0 < len(beside) < len(ids)


class Copying:
    """An engine whose descriptors are the first numbers of the samples; it counts the samples."""

    portion, sample_shape, dimensions = 3, (3, 64, 64), 12

    def __init__(self):
        self.count = 0

    def run(self, samples):
        self.count += len(samples)
        return samples.reshape(len(samples), -1)[:, -self.dimensions :].copy()


@pytest.fixture
def folder(tmp_path):
    """A folder of tiles; returns what a request says of each."""
    tiles = []
    for identifier, pixels in pictures(range(2, 9)).items():
        data, path = encoded(pixels), tmp_path / f"{identifier}.png"
        path.write_bytes(data)
        tiles.append([identifier, hashlib.sha256(data).hexdigest(), ["file", str(path)]])
    return tiles


def request(tiles, ids):
    wanted = set()
    for identifier in ids.tolist():
        x0, nx, y0, ny = tile_span(*chunk_of(identifier))
        wanted |= {descriptor_id(ZOOM, x0 + i, y0 + j) for i in range(nx) for j in range(ny)}
    return {
        "tiles": [tile for tile in tiles if tile[0] in wanted],
        "chunks": ids,
        "tile_edges": [[ZOOM, EDGE]],
    }


def describe(tiles, ids, embedder=None):
    embedder = embedder or worker.Embedder(Copying(), SIZE)
    return embedder.describe(request(tiles, ids))


def same(one, other):
    return all(np.array_equal(one[name], other[name]) for name in one)


@pytest.fixture
def decodes(monkeypatch):
    """The encoded bytes that are decoded."""
    found, decode_picture = [], worker.decode_picture

    def counted(data):
        found.append(data)
        return decode_picture(data)

    monkeypatch.setattr(worker, "decode_picture", counted)
    return found


def test_the_answer_is_in_the_order_of_the_request(folder):
    ids = chunks_of(SMALL, range(5, 9))
    shuffled = np.random.default_rng(3).permutation(len(ids))
    found, mixed = describe(folder, ids), describe(folder, ids[shuffled])
    assert found["good"].tolist() == mixed["good"].tolist() == list(range(len(ids)))
    assert (mixed["vectors"] == found["vectors"][shuffled]).all()
    assert (mixed["texture"] == found["texture"][shuffled]).all()
    expected = np.stack([sample.reshape(-1)[-12:] for sample, _ in one_by_one(ids, decoded(folder), SIZE)])
    assert (found["vectors"] == expected).all()


def decoded(tiles):
    found = {}
    for identifier, _, (_, path) in tiles:
        found[identifier] = decode(Path(path).read_bytes())
    return found


def test_the_next_window_decodes_new_tiles_alone_and_gets_the_same_answer(folder, decodes):
    west, east = chunks_of(SMALL, range(5, 9)), chunks_of(SMALL, range(7, 12))
    embedder = worker.Embedder(Copying(), SIZE)
    assert same(describe(folder, west, embedder), describe(folder, west))
    decodes.clear()
    found = describe(folder, east, embedder)
    again = list(decodes)
    decodes.clear()
    assert same(found, describe(folder, east))
    assert 0 < len(again) < len(decodes)
    assert set(again) < set(decodes)


def test_a_tile_of_another_digest_or_level_is_decoded_again(folder, decodes):
    ids = chunks_of(SMALL, range(5, 9))
    embedder = worker.Embedder(Copying(), SIZE)
    before = describe(folder, ids, embedder)
    pixels = np.random.default_rng(9).integers(0, 256, (EDGE, EDGE, 3), np.uint8)
    changed = [list(tile) for tile in folder]
    under = next(tile for tile in changed if tile[0] == descriptor_id(ZOOM, 4, 2))
    data = encoded(pixels)
    Path(under[2][1]).write_bytes(data)
    under[1] = hashlib.sha256(data).hexdigest()
    decodes.clear()
    found = describe(changed, ids, embedder)
    assert decodes == [data]
    assert same(found, describe(changed, ids))
    assert not same(found, before)
    wide = chunks_of(LARGE, range(20, 24))
    assert same(describe(changed, wide, embedder), describe(changed, wide))


def test_a_bad_tile_is_bad_in_every_window(folder):
    ids = chunks_of(SMALL, range(5, 9))
    file = Path(folder[14][2][1])
    file.write_bytes(file.read_bytes() + b"more")
    embedder = worker.Embedder(Copying(), SIZE)
    first, second = describe(folder, ids, embedder), describe(folder, ids, embedder)
    assert [kind for _, kind, _ in first["bad_tiles"]] == ["source-changed"]
    assert same(first, second)
    assert 0 < len(first["good"]) < len(ids)


def test_a_tile_that_becomes_bad_is_bad_although_it_is_kept(folder):
    """It must not depend on which worker showed it before."""
    ids = chunks_of(SMALL, range(5, 9))
    embedder = worker.Embedder(Copying(), SIZE)
    assert describe(folder, ids, embedder)["bad_tiles"] == []
    unread = [list(tile) for tile in folder]
    unread[14][2] = {"kind": "bad-tile", "message": "cannot be read"}
    changed = [list(tile) for tile in folder]
    changed[14][2] = b"other bytes"
    Path(folder[13][2][1]).unlink()
    for tiles, kinds in (
        (folder, ["source-changed"]),
        (unread, ["source-changed", "bad-tile"]),
        (changed, ["source-changed"] * 2),
    ):
        found = describe(tiles, ids, embedder)
        assert [kind for _, kind, _ in found["bad_tiles"]] == kinds
        assert same(found, describe(tiles, ids))


def test_those_are_dropped_that_were_shown_longest_ago():
    def tile(size):
        return ShownTile({SMALL: np.zeros((size, 1, 3), np.uint8)}, 0.0)

    kept = KeptTiles(most_bytes=30)
    kept.keep("one", tile(4))
    kept.keep("two", tile(4))
    kept.keep("two", tile(4))
    assert kept.get("one") is not None
    kept.keep("three", tile(3))
    assert [kept.get(name) is not None for name in ("one", "two", "three")] == [True, False, True]
    kept.keep("huge", tile(11))
    assert [kept.get(name) for name in ("one", "two", "three", "huge")] == [None] * 4
    kept.keep("one", tile(10))
    assert kept.get("one") is not None


def test_chunks_count_in_part_while_the_tiles_under_them_are_read(folder):
    ids, embedder, told = chunks_of(SMALL, range(2, 9)), worker.Embedder(Copying(), SIZE), []
    embedder.describe(request(folder, ids), told.append)
    assert told == sorted(told)
    assert 0 <= told[0] < told[-1] <= len(ids)
    # Nothing was embedded yet when the last tile was read: half of the work, as far as is known of the first window.
    reading = told[: len(request(folder, ids)["tiles"])]
    assert reading[-1] == pytest.approx(len(ids) / 2, rel=0.05)
    assert told[-1] > 0.8 * len(ids)
    # The part that reading was of the first window is what it counts in the next one.
    embedder._reading_share = 0.1
    told.clear()
    embedder.describe(request(folder, ids), told.append)
    assert told[len(reading) - 1] == pytest.approx(len(ids) / 10, rel=0.05)
    assert embedder._reading_share != 0.1
