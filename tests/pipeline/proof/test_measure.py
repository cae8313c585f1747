"""Answers for photographs: errors, shares, and what a margin is worth."""

import hashlib
import math

import pytest

from pipeline.proof.measure import Found, count_shares, found_for, prior
from store.base.geometry.distances import distance_m


def found(file="a", *errors_m, margin=None, outside=False):
    return Found(
        file=file,
        outside=outside,
        errors_mm=tuple(round(each * 1000) for each in errors_m),
        margin_ppm=margin,
    )


def test_a_guess_is_off_by_what_the_picture_says():
    place, radius = (120.7202949, 24.2619074), 200
    digest = hashlib.sha256(b"a picture").digest()
    words = hashlib.sha256(b"c10/prior/1" + digest).digest()
    u, v = (int.from_bytes(words[start : start + 8], "big") / 2**64 for start in (0, 8))
    off = 0.7 * radius * math.sqrt(u)
    lon, lat = prior(place, digest, radius)
    assert distance_m(place, (lon, lat)) == pytest.approx(off, rel=1e-6)
    east = (lon - place[0]) * 111_320 * math.cos(math.radians(place[1]))
    north = (lat - place[1]) * 110_574
    assert (east, north) == pytest.approx(
        (off * math.sin(2 * math.pi * v), off * math.cos(2 * math.pi * v)), abs=1
    )


def test_guesses_fill_the_circle():
    offs = [
        distance_m((0, 0), prior((0, 0), hashlib.sha256(bytes([each])).digest(), 100)) for each in range(200)
    ]
    assert 60 < max(offs) <= 70.001
    assert sum(off <= 35 for off in offs) == pytest.approx(50, abs=20)


def test_errors_are_millimetres_and_margins_millionths():
    answer = found_for("a", (0, 0), [(0, 0.001), (180, 0)], 0.12345678, outside=False)
    assert answer.errors_mm == (round(distance_m((0, 0), (0, 0.001)) * 1000), round(math.pi * 6_371_008_800))
    assert answer.margin_ppm == 123_457
    assert found_for("a", (0, 0), [], None, outside=True) == found("a", outside=True)


def test_pictures_within_a_distance_among_the_first():
    shares = count_shares(
        [
            found("first", 20, 500),
            found("fifth", 500, 500, 500, 500, 50),
            found("tenth", *[500] * 9, 100),
            found("near", 20.001),
            found("none"),
            found("outside", 1, outside=True),
        ]
    )
    assert shares.pictures == 6
    assert shares.within == {
        **{(20, first): 1 for first in (1, 5, 10)},
        (50, 1): 2,
        (50, 5): 3,
        (50, 10): 3,
        (100, 1): 2,
        (100, 5): 3,
        (100, 10): 4,
    }
    assert shares.median_mm == round((20_001 + 500_000) / 2)
    assert (shares.better_half, shares.thresholds) == ((0, 0), ())


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([], None),
        ([found("a", 3), found("b", 1), found("c", 2)], 2000),
        ([found("a", 3), found("b"), found("c")], None),
        ([found("a", 3), found("b")], None),
    ],
)
def test_the_median_of_all_pictures(answers, expected):
    assert count_shares(answers).median_mm == expected


def test_the_half_with_the_larger_margin_counts_ties_by_name():
    answers = [
        found("d", 500, margin=5),
        found("c", 1, margin=5),
        found("b", 1, margin=5),
        found("a", 50, margin=9),
        found("e", 500, margin=1),
        found("z", 500),
    ]
    assert count_shares(answers).better_half == (3, 3)
    assert count_shares(answers[::-1]).better_half == (3, 3)
    assert count_shares([found("a", 50.001, margin=1)]).better_half == (0, 1)


def test_of_the_pictures_from_a_margin_on_so_many_are_right():
    answers = [
        found("a", 500, margin=-2),
        found("b", 1, margin=7),
        found("c", 500, margin=7),
        found("d", 1, margin=9),
        found("e", 1, margin=10, outside=True),
        found("f", 1),
    ]
    assert count_shares(answers).thresholds == ((-2, 5, 2), (7, 4, 2), (9, 2, 1), (10, 1, 0))


def test_many_pictures_have_few_thresholds():
    answers = [found(f"{each:03}", 1 if each >= 100 else 500, margin=each) for each in range(1000)]
    thresholds = count_shares(answers).thresholds
    assert len(thresholds) == 20
    assert thresholds[0] == (0, 1000, 900)
    assert thresholds[2] == (100, 900, 900)
    assert thresholds[-1] == (950, 50, 50)
