import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.base.geometry.lattice import tile_span
from store.base.geometry.level import Level
from store.base.geometry.mosaic import cut_columns, full_size, only_cut, render_chunks, scaled_tile
from store.base.preprocessing import resample


class Tiles(dict):
    """Tiles of noise, made on demand; counts how often each was asked for."""

    def __init__(self, edge):
        super().__init__()
        self.edge = edge
        self.asked = []

    def __missing__(self, place):
        self.asked.append(place)
        chance = np.random.default_rng(list(place))
        return chance.integers(0, 256, (self.edge, self.edge, 3), dtype=np.uint8)


def whole_mosaic(level, tiles, scaled=None):
    """Return the mosaic of all tiles of a zoom, each scaled to an edge."""
    side = range(1 << level.zoom)
    size = scaled or (tiles.edge, tiles.edge)
    return np.concatenate(
        [np.concatenate([resample(tiles[column, row], size) for column in side], axis=1) for row in side]
    )


def cut(level, mosaic, x, y, step):
    """Return the pixels of a chunk, for the pixels of a step down and across."""
    around = np.concatenate([mosaic, mosaic], axis=1)
    down, across = step
    return around[y * down : (y + level.m) * down, x * across : (x + level.m) * across]


def one(level, place, tiles, size):
    return next(iter(render_chunks(level, [place], tiles, size)))


@pytest.mark.parametrize("level", [Level(2, 1, 3), Level(2, 0, 2), Level(1, 3, 5), Level(3, 2, 31)])
def test_at_full_size_a_picture_is_cut_out_of_the_mosaic(level):
    tiles = Tiles(8)
    mosaic, size = whole_mosaic(level, tiles), full_size(level, 8)
    assert size == (level.m * 8 >> level.k,) * 2
    last = level.steps_around - 1
    for place in ((0, 0), (1, 1), (last, level.steps_around - level.m), (last - 1, 1)):
        expected = cut(level, mosaic, *place, (8 >> level.k,) * 2)
        assert (one(level, place, tiles, size) == expected).all()


@st.composite
def chunks(draw):
    k = draw(st.integers(0, 3))
    level = Level(draw(st.integers(max(0, 2 - k), 3)), k, draw(st.integers(1, 4)))
    around = level.steps_around
    places = st.tuples(st.integers(0, around - 1), st.integers(0, around - level.m))
    sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))
    return level, draw(st.lists(places, min_size=1, max_size=6)), draw(st.integers(8, 20)), draw(sizes)


@given(chunks())
def test_pictures_follow_the_rule_and_depend_on_no_neighbour(case):
    level, places, edge, size = case
    tiles = Tiles(edge)
    step = tuple(min(-(-side // level.m), edge >> level.k) for side in size)
    mosaic = whole_mosaic(level, tiles, tuple(side << level.k for side in step))
    found = list(render_chunks(level, places, tiles, size))
    assert len(found) == len(places)
    for place, picture in zip(places, found, strict=True):
        expected = cut(level, mosaic, *place, step)
        for axis in (0, 1):
            has, wants = expected.shape[axis], size[axis]
            if has > wants:
                nearest = [int((at + 0.5) * has / wants) for at in range(wants)]
                expected = expected.take(nearest, axis=axis)
        expected = resample(np.ascontiguousarray(expected), size)
        assert picture.shape == (*size, 3)
        assert picture.dtype == np.uint8
        assert picture.flags.c_contiguous
        assert (picture == expected).all()
        assert (one(level, place, Tiles(edge), size) == picture).all()


@given(chunks())
def test_a_tile_that_is_scaled_already_gives_the_same_pictures(case):
    level, places, edge, size = case
    tiles = Tiles(edge)
    scaled = {
        (x, y): scaled_tile(level, tiles[x, y], size)
        for x in range(1 << level.zoom)
        for y in range(1 << level.zoom)
    }
    assert only_cut(level, edge, size) == only_cut(level, len(scaled[0, 0]), size)
    pairs = zip(
        render_chunks(level, places, scaled, size), render_chunks(level, places, tiles, size), strict=True
    )
    assert all((found == expected).all() for found, expected in pairs)


def joined(level, places, tiles, size):
    """Put pictures together from what they are cut out of."""
    for pixels, chunks in cut_columns(level, places, tiles, size):
        for rows in chunks:
            assert rows.shape == (size[0],)
            yield pixels[rows]


@given(chunks())
def test_pictures_can_be_cut_out_of_columns(case):
    level, places, edge, size = case
    tiles = Tiles(edge)
    if not only_cut(level, edge, size):
        size = full_size(level, edge)
    found = list(joined(level, places, tiles, size))
    expected = list(render_chunks(level, places, tiles, size))
    assert len(found) == len(expected)
    assert all((one == other).all() for one, other in zip(found, expected, strict=True))


def test_a_column_is_cut_in_portions_and_may_have_gaps():
    level, size = Level(6, 1, 3), (10, 10)
    places = [(5, y) for y in range(124) if not 40 <= y < 50] + [(6, 0)]
    under = {(column, row) for column in range(2, 5) for row in range(64) if not 22 <= row < 24}
    noise = Tiles(8)
    tiles = {place: noise[place] for place in under}
    columns = [len(chunks) for _, chunks in cut_columns(level, places, tiles, size)]
    assert sum(columns) == len(places)
    assert len(columns) > 2
    pairs = zip(joined(level, places, tiles, size), render_chunks(level, places, tiles, size), strict=True)
    assert all((found == expected).all() for found, expected in pairs)


def test_columns_with_a_missing_tile_are_not_cut():
    level, tiles = Level(3, 1, 3), {(x, y): np.zeros((8, 8, 3), np.uint8) for x in (1, 2) for y in (1, 2)}
    with pytest.raises(KeyError, match=r"3, 1"):
        list(cut_columns(level, [(2, 2), (4, 2)], tiles, (6, 6)))


def test_pictures_depend_on_the_offset_in_the_first_tile_alone():
    class Same(Tiles):
        def __missing__(self, place):
            return super().__missing__((place[0] % 2, place[1] % 2))

    level, tiles = Level(5, 2, 7), Same(20)
    pictures = [one(level, place, tiles, (24, 24)) for place in ((9, 18), (25, 10), (121, 2))]
    assert (pictures[0] == pictures[1]).all()
    assert (pictures[0] == pictures[2]).all()
    assert (pictures[0] != one(level, (10, 18), tiles, (24, 24))).any()


def test_a_picture_is_near_what_one_scaling_of_the_whole_chunk_gives():
    rows, columns = np.mgrid[0:2048, 0:2048]
    waves = 127 + 60 * np.sin(rows / 37) + 60 * np.cos(columns / 23)
    mosaic = np.repeat(waves[:, :, None], 3, axis=2).astype(np.uint8)
    tiles = {
        (x, y): mosaic[y * 256 : y * 256 + 256, x * 256 : x * 256 + 256] for x in range(8) for y in range(8)
    }
    level = Level(3, 1, 7)
    direct = resample(mosaic[3 * 128 : 10 * 128, 128 : 8 * 128], (256, 256)).astype(int)
    found = one(level, (1, 3), tiles, (256, 256)).astype(int)
    # Half a pixel changes these waves by 7 at most; a shift of one pixel changes them by 3 to 6 on average.
    assert np.abs(found - direct).max() <= 8
    assert np.abs(found - direct).mean() <= 2


def test_each_tile_is_looked_up_once():
    level, tiles = Level(4, 2, 5), Tiles(16)
    places = [(x, y) for x in range(61, 64) for y in range(9)] + [(61, 0)]
    for picture in render_chunks(level, places, tiles, (20, 20)):
        assert picture.flags.writeable
    spans = [tile_span(level, x, y) for x, y in places]
    under = {((x0 + i) % 16, y0 + j) for x0, nx, y0, ny in spans for i in range(nx) for j in range(ny)}
    assert sorted(tiles.asked) == sorted(under)


def test_chunks_with_a_missing_tile_are_not_made():
    level, tiles = Level(3, 1, 3), {(x, y): np.zeros((8, 8, 3), np.uint8) for x in (1, 2) for y in (1, 2)}
    rendered = render_chunks(level, [(2, 2), (4, 2)], tiles, (6, 6))
    next(rendered)
    with pytest.raises(KeyError, match=r"3, 1"):
        next(rendered)


@pytest.mark.parametrize("shape", [(9, 9, 3), (8, 9, 3), (8, 8, 4), (8, 8)])
def test_tiles_of_another_shape_are_refused(shape):
    tiles = {(0, 0): np.zeros((8, 8, 3), np.uint8), (1, 0): np.zeros(shape, np.uint8)}
    with pytest.raises(ValueError, match="square tiles of one edge"):
        one(Level(3, 1, 3), (0, 0), tiles | {(0, 1): tiles[0, 0], (1, 1): tiles[0, 0]}, (6, 6))


def test_a_step_has_at_least_a_pixel():
    with pytest.raises(ValueError, match="at least 8 pixels"):
        one(Level(3, 3, 3), (0, 0), Tiles(7), (6, 6))
    assert one(Level(3, 3, 3), (0, 0), Tiles(8), (6, 6)).shape == (6, 6, 3)
