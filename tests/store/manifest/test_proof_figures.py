"""From which margin on the photographs of a proof were right."""

import pytest

from store.manifest.proof_figures import least_margin

COUNTS = {
    "pictures": 24,
    "right": 20,
    "within_mm": 20_000,
    "at": 1,
    "min_ppm": 0,
    "better_half_right_ppm": None,
}
TABLE = [[10_000, 24, 20], [50_000, 22, 20], [80_000, 20, 19], [120_000, 10, 10], [300_000, 4, 4]]


def body(table, **changes):
    other = {"check": "parity", "measured": {"margins": [[1, 1, 1]]}}
    return {"checks": [other, {"check": "proof", "measured": COUNTS | {"margins": table} | changes}]}


@pytest.mark.parametrize(
    ("part", "margin", "photographs"),
    [(1, 0.12, 10), (0.96, 0.12, 10), (0.95, 0.08, 20), (0.9, 0.05, 22), (0.5, 0.01, 24), (0, 0.01, 24)],
)
def test_it_is_the_least_margin_that_reaches_the_part(part, margin, photographs):
    found = least_margin(body(TABLE), part)
    assert (found.margin, found.photographs) == (margin, photographs)
    assert found.right >= part * found.photographs
    assert (found.within_m, found.near_m) == (50, None)


def test_every_larger_margin_reaches_the_part_too():
    assert least_margin(body([[10_000, 24, 24], [90_000, 10, 9]]), 0.95) is None
    assert least_margin(body([[10_000, 40, 39], [90_000, 10, 9], [200_000, 5, 5]]), 0.95).margin == 0.2


def test_it_says_within_which_radius_the_proof_searched():
    assert least_margin(body(TABLE, near_mm=200_000), 0.95).near_m == 200


@pytest.mark.parametrize(
    "table",
    [None, [], "abc", [[10_000, 0, 0]], [[10_000, 2, 3]], [[10_000, 2]], [["a", 2, 2]], [*TABLE, 7]],
)
def test_no_margin_follows_from_what_is_no_table(table):
    assert least_margin(body(table), 0) is None


def test_no_margin_follows_without_a_proof_or_its_counts():
    assert least_margin({"checks": [{"check": "parity", "measured": {"margins": TABLE}}]}, 0) is None
    assert least_margin(body(TABLE, pictures=None), 0) is None
    without = COUNTS.keys() & {"right"}
    assert least_margin(body(TABLE, **dict.fromkeys(without)), 0) is None
