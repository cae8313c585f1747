import hashlib
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from store.base.geometry import lattice
from store.base.geometry.lattice import (
    choose_level,
    chunk_digest,
    chunk_digests,
    chunk_id,
    chunk_ids,
    chunk_of,
    digest_lookup,
    footprint,
    middle,
    middles,
    overlap_of,
    tile_span,
    wanted_range,
)
from store.base.geometry.level import Level, side_m, tile_side_m
from store.base.identity import descriptor_id

TOWN = Level(20, 1, 7)
WORLD = (-1_800_000_000, -900_000_000, 1_800_000_000, 900_000_000)


@st.composite
def levels(draw, highest=25):
    k = draw(st.integers(0, min(7, highest)))
    zoom = draw(st.integers(0, highest - k))
    return Level(zoom, k, draw(st.integers(1, min(31, 1 << zoom + k))))


@st.composite
def chunks(draw, highest=25):
    level = draw(levels(highest))
    around = level.steps_around
    return level, draw(st.integers(0, around - 1)), draw(st.integers(0, around - level.m))


def column(*values):
    return np.array(values, np.int64)


@given(chunks())
def test_ids_tell_level_and_place(chunk):
    level, x, y = chunk
    found = chunk_id(level, x, y)
    assert found == level.lattice_zoom << 58 | level.k << 55 | level.m << 50 | x << 25 | y
    assert chunk_of(found) == chunk
    assert Level.from_id_fields(level.lattice_zoom, level.view) == level
    many = chunk_ids(level, column(x, 0), column(y, 0))
    assert many.dtype == np.int64
    assert many.tolist() == [found, chunk_id(level, 0, 0)]


@pytest.mark.parametrize("parts", [(20, 6, 7), (20, 8, 7), (20, -1, 7), (-1, 3, 7), (20, 1, 0), (20, 1, 32)])
def test_other_levels_are_refused(parts):
    with pytest.raises(ValueError, match=r"no level|chunk's side"):
        Level(*parts)


@pytest.mark.parametrize(("x", "y"), [(-1, 0), (16, 0), (0, -1), (0, 14)])
def test_no_chunk_begins_outside_or_reaches_beyond_the_last_row(x, y):
    level = Level(3, 1, 3)
    chunk_id(level, 15, 13)
    with pytest.raises(ValueError, match=f"x {x}, y {y}"):
        chunk_id(level, x, y)
    with pytest.raises(ValueError, match=f"x {x}, y {y}"):
        chunk_ids(level, column(15, x), column(13, y))


def test_ids_of_tiles_and_of_nothing_are_no_chunks():
    for identifier in (
        descriptor_id(20, 5, 6),  # a tile
        descriptor_id(1, 0, 0, Level(5, 2, 3).view),  # finer steps than its zoom has
        descriptor_id(4, 15, 14, Level(3, 1, 3).view),  # beyond the last row
    ):
        with pytest.raises(ValueError, match=r"expected|no level|no chunk"):
            chunk_of(identifier)


@given(chunks())
def test_the_tiles_under_a_chunk_are_those_of_its_steps(chunk):
    level, x, y = chunk
    x0, nx, y0, ny = tile_span(level, x, y)
    assert [x0 + at for at in range(nx)] == sorted({x + step >> level.k for step in range(level.m)})
    assert [y0 + at for at in range(ny)] == sorted({y + step >> level.k for step in range(level.m)})
    assert y0 + ny <= 1 << level.zoom
    assert [part.tolist() for part in tile_span(level, column(x, 0), column(y, 0))] == [
        [one, other] for one, other in zip((x0, nx, y0, ny), tile_span(level, 0, 0), strict=True)
    ]


def tile_digest(identifier):
    return hashlib.sha256(int(identifier).to_bytes(8, "big")).digest()


def every_tile(ids):
    packed = b"".join(map(tile_digest, ids.ravel()))
    return np.frombuffer(packed, np.uint8).reshape(*ids.shape, 32)


def test_bytes_of_a_digest():
    level, x, y = TOWN, 1_751_801, 903_423
    x0, nx, y0, ny = tile_span(level, x, y)
    tiles = [descriptor_id(20, x0 + i, y0 + j) for j in range(ny) for i in range(nx)]
    assert (x0, nx, y0, ny) == (875_900, 4, 451_711, 4)
    head = b"c10/chunk/1\0" + bytes([1, 7, 1, 1, 0, 0, 1, 0])
    expected = hashlib.sha256(head + b"".join(map(tile_digest, tiles))).hexdigest()
    assert chunk_digest(level, x, y, 256, every_tile(np.array(tiles).reshape(ny, nx))) == expected
    with pytest.raises(ValueError, match="4 x 4 tiles"):
        chunk_digest(level, x, y, 256, np.zeros((4, 3, 32), np.uint8))


def test_neighbours_under_the_same_tiles_and_other_sizes_have_other_digests():
    same = np.zeros((2, 2, 32), np.uint8)
    places = [
        (level, x, y) for level in (Level(9, 2, 5), Level(9, 2, 6)) for x in (4, 5, 6) for y in (8, 9, 10)
    ]
    assert {tile_span(*place)[1::2] for place in places} == {(2, 2)}
    found = [chunk_digest(*place, edge, same) for place in places for edge in (256, 512)]
    found.append(chunk_digest(Level(10, 1, 3), 5, 8, 256, same))
    assert len(set(found)) == len(found) == 37
    # Only where in its first tile it begins is told apart, not the tile's place.
    assert chunk_digest(Level(9, 2, 5), 8, 12, 256, same) == chunk_digest(Level(9, 2, 5), 4, 8, 256, same)


@given(chunks(highest=9), st.integers(1, 5), st.sampled_from([1, 3, 1024]))
def test_digests_of_many_are_those_of_each(chunk, count, at_once):
    level, x, y = chunk
    xs = (x + np.arange(count)) % level.steps_around
    ys = np.maximum(y - np.arange(count), 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lattice, "_ROWS_AT_ONCE", at_once)
        found = chunk_digests(level, xs, ys, 256, every_tile)
    for row, one, other in zip(found, xs.tolist(), ys.tolist(), strict=True):
        x0, nx, y0, ny = tile_span(level, one, other)
        ids = [
            [descriptor_id(level.zoom, (x0 + i) % (1 << level.zoom), y0 + j) for i in range(nx)]
            for j in range(ny)
        ]
        assert row.tobytes().hex() == chunk_digest(level, one, other, 256, every_tile(np.array(ids)))


def test_a_table_of_tile_digests():
    ids = column(3, 5, 9)
    table = every_tile(ids)
    find = digest_lookup(ids, table)
    assert (find(column(9, 3).reshape(1, 2)) == table[[2, 0]]).all()
    for missing in (1, 4, 10):
        with pytest.raises(KeyError, match=str(missing)):
            find(column(3, missing))


def test_metres_to_steps():
    town = choose_level(
        119,
        0.85,
        zooms=(18, 20),
        tile_edges={18: 256, 19: 256, 20: 256},
        input_side_px=256,
        latitude_deg=24.26,
    )
    assert town == Level(19, 2, 7)
    assert (
        choose_level(120, 0.85, zooms=(20, 20), tile_edges={20: 256}, input_side_px=256, latitude_deg=24.26)
        == TOWN
    )
    assert side_m(TOWN, 24.26) == pytest.approx(121.95, abs=0.01)
    assert overlap_of(TOWN) == pytest.approx(6 / 7)
    assert tile_side_m(0, 0) == 40_075_016.686


@given(
    st.floats(20, 5000),
    st.floats(0, 0.95),
    st.integers(8, 22),
    st.integers(0, 4),
    st.dictionaries(st.integers(8, 26), st.sampled_from([256, 512]), min_size=1),
    st.floats(-80, 80),
)
def test_level_by_the_rule(side, overlap, low, more, edges, latitude):
    zooms = (low, min(low + more, 25))
    known = [zoom for zoom in sorted(edges) if zooms[0] <= zoom <= zooms[1]]
    asked = {"zooms": zooms, "tile_edges": edges, "input_side_px": 256, "latitude_deg": latitude}
    if not known:
        with pytest.raises(ValueError, match="expected imagery of zoom"):
            choose_level(side, overlap, **asked)
        return
    around = 40_075_016.686 * math.cos(math.radians(latitude))
    fine = [zoom for zoom in known if around / 2**zoom / edges[zoom] <= side / 256]
    zoom = min(fine, default=max(known))
    steps = [k for k in range(8) if around / 2**zoom / 2**k <= 1.1 * (1 - overlap) * side]
    k = min([*steps, 7, 25 - zoom])
    m = max(2, round(side * 2**k / (around / 2**zoom)))
    if m > 31:
        with pytest.raises(ValueError, match="ask for less overlap" if k else "ask for a zoom below"):
            choose_level(side, overlap, **asked)
    else:
        assert choose_level(side, overlap, **asked) == Level(zoom, k, m)


@pytest.mark.parametrize(
    ("side", "overlap"), [(0, 0.5), (-1, 0.5), (math.inf, 0), (math.nan, 0), (9, 1), (9, -0.1), (9, math.nan)]
)
def test_sides_and_overlaps_that_cannot_be(side, overlap):
    with pytest.raises(ValueError, match="expected a side above 0 m"):
        choose_level(side, overlap, zooms=(20, 20), tile_edges={20: 256}, input_side_px=256, latitude_deg=0)


@pytest.mark.parametrize(
    ("side", "overlap", "mend"), [(1300, 0.5, "a zoom below 20"), (119, 0.97, "less overlap")]
)
def test_too_many_steps_tell_what_mends(side, overlap, mend):
    asked = {"tile_edges": {17: 256, 20: 256}, "input_side_px": 256, "latitude_deg": 24.26}
    with pytest.raises(ValueError, match=f"more than 31: ask for {mend}"):
        choose_level(side, overlap, zooms=(20, 20), **asked)
    choose_level(side, min(overlap, 0.85), zooms=(17, 20), **asked)


def test_steps_are_never_finer_than_ids_can_tell():
    level = choose_level(2, 0.85, zooms=(24, 24), tile_edges={24: 256}, input_side_px=256, latitude_deg=0)
    assert level == Level(24, 1, 2)


def test_places_of_a_chunk():
    level = Level(1, 1, 2)
    assert middle(level, 1, 1) == (0.0, 0.0)
    assert middle(level, 3, 1) == (-180.0, 0.0)
    north = 66.51326044311186
    assert footprint(level, 1, 1) == ((-90.0, north), (90.0, north), (90.0, -north), (-90.0, -north))
    assert footprint(level, 3, 1)[:2] == ((90.0, north), (-90.0, north))
    assert footprint(level, 2, 1)[:2] == ((0.0, north), (180.0, north))
    assert footprint(level, 0, 1)[:2] == ((-180.0, north), (0.0, north))
    assert footprint(level, 0, 0)[0][1] == pytest.approx(85.0511287798066)


@given(chunks())
def test_middles_lie_within_footprints(chunk):
    level, x, y = chunk
    lon, lat = middle(level, x, y)
    (west, north), (east, _), (_, south), _ = footprint(level, x, y)
    assert -180 <= lon < 180
    assert -180 <= west < 180
    assert -180 < east <= 180
    assert south < lat < north
    assert west < lon < east or (east <= west and (lon > west or lon < east))
    assert middles(level, column(x, 0), column(y, 0)) == pytest.approx(
        np.array([(lon, lat), middle(level, 0, 0)])
    )


def wanted(level, box):
    x0, nx, y0, ny = wanted_range(level, box)
    columns = [(x0 + at) % level.steps_around for at in range(nx)]
    assert len(set(columns)) == nx
    return {(x, y) for x in columns for y in range(y0, y0 + ny)}


@given(
    levels(highest=5),
    st.tuples(st.integers(-1800, 1800), st.integers(-90, 90), st.integers(-1800, 1800), st.integers(-90, 90)),
    st.booleans(),
)
def test_wanted_are_the_chunks_whose_middle_lies_in_the_box(level, box, whole):
    west, south, east, north = (
        edge * 1_000_000 if at % 2 == 0 else edge * 10_000_000 for at, edge in enumerate(box)
    )
    assume(south <= north)
    if whole:
        west, east = WORLD[::2]
    around = level.steps_around
    expected = set()
    for x in range(around):
        for y in range(around - level.m + 1):
            lon, lat = (round(degrees * 1e7) for degrees in middle(level, x, y))
            turns = [lon, lon + 3_600_000_000] if lon == -1_800_000_000 else [lon]
            across = any(west <= at <= east if west <= east else at >= west or at <= east for at in turns)
            if across and south <= lat <= north:
                expected.add((x, y))
    assert wanted(level, (west, south, east, north)) == expected


@given(chunks())
def test_a_middle_on_the_edge_counts(chunk):
    level, x, y = chunk
    lon, lat = (round(degrees * 1e7) for degrees in middle(level, x, y))
    assert (x, y) in wanted(level, (lon, lat, lon, lat))
    for moved in ((lon + 1, lat), (lon, lat + 1), (lon, lat - 1)):
        assert (x, y) not in wanted(level, (*moved, *moved))


def test_boxes_that_want_nothing():
    assert wanted(Level(3, 1, 3), (0, 880_000_000, 1, 890_000_000)) == set()
    assert wanted(Level(0, 1, 3), WORLD) == set()
    assert len(wanted(Level(3, 1, 4), WORLD)) == 16 * 13
