"""Recorded values as people read them: no raw lists, no numbers in units of a computer."""

import pytest

from tools.output.recorded_value import change_text, label_of, value_text


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("a", None, "none"),
        ("a", True, "true"),
        ("row_id", 3458764586969204096, "3458764586969204096"),
        ("texture", 14.215685844421387, "14.2157"),
        ("a", "text", "text"),
        ("checks.cosine_ppb", 1_000_000_000, "1.000000"),
        ("cosine_ppb", 999_999_998, "0.999999998"),
        ("recall_ppm", 987_650, "0.98765"),
        ("recall_ppm", 900_000, "0.9000"),
        ("within_mm", 25_500, "25.5 m"),
        ("took_ms", 641, "641 ms"),
        ("bbox_e7", [112510000, 486919604], "11.2510000, 48.6919604"),
        ("cosine_ppb", "odd", "odd"),
        ("size", [8, 8], "8, 8"),
        ("a", [], "empty"),
        ("a", {}, "none"),
        ("a", [[15062, 14, 11]] * 2, "(15062, 14, 11), (15062, 14, 11)"),
        ("a", [[15062, 14, 11]] * 900, "900 members: (15062, 14, 11), (15062, 14, 11), (15062, 14, 11), …"),
        ("a", {"kind": "flat", "m": None, "least_ppb": 500_000_000}, "kind = flat, least = 0.500000"),
        ("a", {"b": {"c": [1, 2]}}, "b = (c = (1, 2))"),
        (
            "a",
            {str(each): each for each in range(10)},
            "0 = 0, 1 = 1, 2 = 2, 3 = 3, 4 = 4, 5 = 5, 6 = 6, 7 = 7 and 2 more",
        ),
        ("a", "x" * 240, "x" * 240),
        ("a", "x" * 241, f"{'x' * 200}… (41 more characters)"),
    ],
)
def test_a_value(name, value, shown):
    assert value_text(name, value) == shown


def test_a_change_names_the_value_without_its_unit():
    assert label_of("kind") == "kind"
    assert change_text("checks.recall_ppb", 900_000_000, None) == "checks.recall: 0.900000 -> none"


def test_a_change_that_a_short_text_would_hide_is_not_told_as_none():
    old, new = list(range(9)), [*range(8), 9]
    assert change_text("a", old, new) == "a: 9 members: 0, 1, 2, … -> another that begins alike"
    assert change_text("a", 0.5, 0.5000000001) == "a: 0.5 -> 0.5000000001"
    assert change_text("altitude_mm", 4_421_000, 4_421_004) == "altitude_mm: 4421000 -> 4421004"
