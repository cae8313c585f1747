"""The geographic report."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pipeline.planning.area_report import AreaReport, runs
from store.base.canonical_json import decode, encode

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
