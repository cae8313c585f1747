"""The geographic report."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.planning.area_report import (
    AreaReport,
    GroundCoverage,
    ground_coverage,
    runs,
)
from pipeline.tiles.patches import Patch, Rectangle
from store.base.canonical_json import decode, encode
from store.base.geometry.lattice import chunk_id, chunk_of
from store.base.geometry.level import Level

PLACES = st.sets(st.tuples(st.integers(3, 4), st.integers(0, 7), st.integers(0, 3)), max_size=40)
EMPTY = {"holes": (), "featureless": (), "skipped": (), "excluded": ()}


@given(PLACES)
def test_runs_hold_every_place_once_and_in_order(places):
    found = runs(places)
    back = [(zoom, x, y) for zoom, y, first, last in found for x in range(first, last + 1)]
    assert sorted(back) == sorted(places)
    assert len(back) == len(set(back))
    assert found == sorted(found)
    assert not any(a[:2] == b[:2] and a[3] + 1 >= b[2] for a, b in pairwise(found)), "neighbours are one run"


def test_a_place_that_occurs_twice_counts_once():
    assert runs([(5, 2, 9), (5, 1, 9), (5, 2, 9)]) == [[5, 9, 1, 2]]


def test_a_large_hole_stays_small():
    assert len(runs((18, x, y) for x in range(300) for y in range(20))) == 20


def test_the_same_row_of_two_zooms_is_two_runs():
    assert runs([(5, 1, 0), (6, 2, 0)]) == [[5, 0, 1, 1], [6, 0, 2, 2]]


def test_only_tiles_with_a_row_and_texture_are_localisable():
    some = AreaReport(
        tiles_wanted=10, tiles_present=6, **EMPTY | {"featureless": ((1, 0, 0),), "skipped": ((1, 1, 0),)}
    )
    assert some.localisable == 0.4
    assert AreaReport(tiles_wanted=0, tiles_present=0, **EMPTY).localisable == 0.0
    assert AreaReport(tiles_wanted=4, tiles_present=4, **EMPTY).localisable == 1.0


def test_the_document_is_canonical_and_complete():
    report = AreaReport(
        tiles_wanted=9,
        tiles_present=5,
        holes=((3, 1, 2), (3, 2, 2)),
        featureless=((3, 0, 0),),
        skipped=(),
        excluded=((3, 4, 4),),
    )
    document = report.to_document()
    assert document == {
        "format": 1,
        "wanted": 9,
        "present": 5,
        "holes": [[3, 2, 1, 2]],
        "featureless": [[3, 0, 0, 0]],
        "skipped": [],
        "excluded": [[3, 4, 4, 4]],
    }
    assert decode(encode(document)) == document


LEVELS = st.builds(Level, st.just(4), st.integers(0, 2), st.integers(2, 5))


@given(LEVELS, st.data())
def test_a_step_counts_for_the_chunks_that_show_it(level, data):
    around = level.steps_around
    steps = Rectangle(
        data.draw(st.integers(0, around - 1)),
        data.draw(st.integers(1, 9)),
        data.draw(st.integers(0, around - 12)),
        data.draw(st.integers(1, 9)),
    )
    near = st.tuples(
        st.integers(steps.x0 - level.m, steps.x0 + steps.nx + 1).map(lambda x: x % around),
        st.integers(max(0, steps.y0 - level.m), min(around - level.m, steps.y0 + steps.ny)),
    )
    chunks = data.draw(st.dictionaries(near, st.booleans(), max_size=12))
    ids = np.array(sorted(chunk_id(level, *place) for place in chunks), np.int64)
    plain = np.array([chunks[chunk_of(each)[1:]] for each in ids.tolist()], np.bool_)
    cut = data.draw(st.integers(0, steps.nx))
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=steps.total, max_size=steps.total)), np.bool_)
    mask = mask.reshape(steps.nx, steps.ny) | (not mask.any())
    patches = [Patch(steps, data.draw(st.sampled_from([None, mask])))]
    if 0 < cut < steps.nx:
        halves = (
            Rectangle(steps.x0, cut, *steps[2:]),
            Rectangle((steps.x0 + cut) % around, steps.nx - cut, *steps[2:]),
        )
        patches = [Patch(halves[1], mask[cut:]), Patch(halves[0], mask[:cut])]
    found = ground_coverage(level, patches, ids, plain)

    def shown(*, textured):
        return {
            ((x + i) % around, y + j)
            for (x, y), is_plain in chunks.items()
            if is_plain is not textured
            for i in range(level.m)
            for j in range(level.m)
        }

    area = {
        ((steps.x0 + i) % around, steps.y0 + j)
        for i in range(steps.nx)
        for j in range(steps.ny)
        if mask[i, j] or (len(patches) == 1 and patches[0].mask is None)
    }

    def places(found_runs):
        assert found_runs == sorted(found_runs)
        return {(x, y) for zoom, y, first, last in found_runs for x in range(first, last + 1)}

    assert places(found.holes) == area - shown(textured=True) - shown(textured=False)
    assert places(found.featureless) == area & shown(textured=False) - shown(textured=True)
    assert (found.wanted, found.chunks) == (len(area), len(chunks))
    assert found.present == len(area & (shown(textured=True) | shown(textured=False)))
    assert found.localisable == pytest.approx(len(area & shown(textured=True)) / len(area))
    assert all(run[0] == level.lattice_zoom for run in found.holes)


def test_chunks_over_the_antimeridian_show_both_edges_of_an_area_around_the_globe():
    level, edge = Level(4, 1, 5), 32
    ids = np.array(sorted(chunk_id(level, x, 7) for x in range(edge)), np.int64)
    area = [Patch(Rectangle(x0, edge, 7, 5)) for x0 in (0, 9)]
    for patch in area:
        assert ground_coverage(level, [patch], ids, np.zeros(edge, np.bool_)).holes == []
    last = ids[-1:]
    found = ground_coverage(level, area[:1], last, np.ones(1, np.bool_))
    assert found.featureless == [run for y in range(7, 12) for run in ([5, y, 0, 3], [5, y, 31, 31])]


def test_the_level_that_shows_least_speaks_for_the_area():
    level = Level(4, 1, 3)
    good = GroundCoverage(level=level, chunks=9, wanted=10, holes=[], featureless=[])
    poor = GroundCoverage(level=level, chunks=9, wanted=10, holes=[[5, 0, 0, 1]], featureless=[[5, 1, 0, 0]])
    report = AreaReport(
        **EMPTY | {"skipped": ((4, 0, 0),)}, tiles_wanted=3, tiles_present=3, levels=(good, poor)
    )
    assert (report.wanted, report.present, report.featureless_count) == (10, 8, 1)
    assert report.localisable == pytest.approx(0.7)
    document = report.to_document()
    assert document["format"] == 2
    assert document["levels"][1] == {
        "zoom": 4,
        "k": 1,
        "m": 3,
        "chunks": 9,
        "wanted": 10,
        "present": 8,
        "holes": [[5, 0, 0, 1]],
        "featureless": [[5, 1, 0, 0]],
    }
    assert decode(encode(document)) == document
    assert GroundCoverage(level=level, chunks=0, wanted=0, holes=[], featureless=[]).localisable == 0
