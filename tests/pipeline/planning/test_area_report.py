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
    localisation_warnings,
    runs,
)
from pipeline.tiles.chunks import Rectangle
from store.base.canonical_json import decode, encode
from store.base.lattice import chunk_id, chunk_of
from store.base.level import Level

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
    found = ground_coverage(level, steps, ids, plain)

    def shown(*, textured):
        return {
            ((x + i) % around, y + j)
            for (x, y), is_plain in chunks.items()
            if is_plain is not textured
            for i in range(level.m)
            for j in range(level.m)
        }

    area = {((steps.x0 + i) % around, steps.y0 + j) for i in range(steps.nx) for j in range(steps.ny)}

    def places(found_runs):
        assert found_runs == sorted(found_runs)
        return {(x, y) for zoom, y, first, last in found_runs for x in range(first, last + 1)}

    assert places(found.holes) == area - shown(textured=True) - shown(textured=False)
    assert places(found.featureless) == area & shown(textured=False) - shown(textured=True)
    assert (found.wanted, found.chunks) == (len(area), len(chunks))
    assert found.present == len(area & (shown(textured=True) | shown(textured=False)))
    assert found.localisable == pytest.approx(len(area & shown(textured=True)) / len(area))
    assert all(run[0] == level.lattice_zoom for run in found.holes)


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


def test_warnings_speak_of_ground_where_chunks_are_counted():
    found = localisation_warnings(wanted=200, present=150, featureless=30, skipped=2, chunks=True)
    assert found[0].startswith("25.0 % of the area is under no chunk")
    assert found[1].startswith("2 tiles could not be used")
    assert found[1].endswith("and were skipped")
    (one,) = localisation_warnings(wanted=200, present=200, featureless=0, skipped=1, chunks=True)
    assert one.startswith("1 tile could not be used")
    assert one.endswith("and was skipped")
    assert found[2].startswith("15.0 % of the area is featureless")
    assert localisation_warnings(wanted=2, present=2, featureless=0, skipped=0, chunks=True) == ()
