"""What differs between versions of Python means the same under all."""

from datetime import date

import pytest

from store.backports import StrEnum, assert_never, parse_day


class Kind(StrEnum):
    ONE = "one"


def test_a_member_is_its_value():
    assert (str(Kind.ONE), f"{Kind.ONE:>4}", Kind.ONE == "one", Kind("one")) == (
        "one",
        " one",
        True,
        Kind.ONE,
    )


def test_a_day_is_written_in_one_way():
    assert parse_day("2026-03-01") == date(2026, 3, 1)


@pytest.mark.parametrize(
    "text", ["20260301", "2026-W09-7", "2026-060", "2026-3-1", "2026-02-30", "٢٠٢٦-03-01", "2026-03-01\n", ""]
)
def test_other_ways_are_none(text):
    with pytest.raises(ValueError, match=r"day|date"):
        parse_day(text)


def test_what_never_comes_is_an_error():
    with pytest.raises(AssertionError, match="found 7"):
        assert_never(7)
