"""A plan as text: how long it takes, no more exact than it is known."""

import pytest

from tools.output.plan import about, plan_report, time_text

PLAN = {
    "decision": "build",
    "to_embed": 3008,
    "wanted": 3008,
    "tiles": 3008,
    "identity": "aa",
    "steps": [],
    "chunks": 0,
    "levels": [],
    "bytes": 15_800_000,
    "reserve_bytes": 0,
    "seconds": 234.0,
    "cache": "flight",
    "map": None,
    "warnings": [],
    "time": [
        {"step": "compile", "subject": "place", "seconds": 4.0, "basis": "measured now", "why": None},
        {"step": "embed", "subject": "place", "seconds": 230.0, "basis": "build 3", "why": None},
    ],
}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.1, "less than 10 s"),
        (9.99, "less than 10 s"),
        (12.4, "about 10 s"),
        (44, "about 45 s"),
        (58, "about 1 min"),
        (89, "about 1 min"),
        (234, "about 4 min"),
        (569, "about 9 min"),
        (571, "about 10 min"),
        (1510, "about 25 min"),
        (3450, "about 1 h"),
        (5400, "about 1.5 h"),
        (35_000, "about 9.5 h"),
        (100_000, "about 28 h"),
    ],
)
def test_an_estimate_promises_nothing(seconds, text):
    assert about(seconds) == text


def test_rounding_never_goes_back():
    """A longer time is never told as a shorter one, and none is more than a third off."""
    units = {"s": 1, "min": 60, "h": 3600}
    before = 0.0
    for each in range(11, 100_000, 7):
        _, number, unit = about(each).split()
        told = float(number) * units[unit]
        assert told >= before
        assert told / each == pytest.approx(1, abs=1 / 3)
        before = told


def test_every_step_has_its_time_and_its_basis():
    lines = plan_report(PLAN)
    assert "time         about 4 min" in lines
    assert any(
        line.split() == ["compile", "place", "less", "than", "10", "s", "measured", "now"] for line in lines
    )
    assert any(
        line.split() == ["embed", "place", "about", "4", "min", "build", "3", "here"] for line in lines
    )


def test_what_is_not_known_is_named_with_its_reason():
    carry = {"step": "carry", "subject": "", "seconds": None, "basis": None, "why": "nothing was packed here"}
    lines = plan_report(PLAN | {"time": [*PLAN["time"], carry], "seconds": None})
    assert "time         about 4 min without carry" in lines
    assert any("nothing was packed here" in line for line in lines)
    assert time_text([carry]) == "unknown"


def test_a_plan_without_a_cache_says_so():
    assert any("none yet; planned for an empty one" in line for line in plan_report(PLAN | {"cache": None}))
    assert "cache        flight" in plan_report(PLAN)
