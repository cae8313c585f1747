"""Rate and time left, with a clock that the test moves."""

from itertools import pairwise

import pytest

from tools.output.pace import MOST_WINDOW_S, Pace, clock_text


def run(pace, seconds, per_second, now=0.0, *, every=0.1):
    """Work steadily; return the new time."""
    steps = round(seconds / every)
    for _ in range(steps):
        now += every
        pace.advance(round(per_second * every), now)
    return now


def test_steady_work_has_its_rate_and_the_time_that_the_rest_takes():
    pace = Pace(0.0, 3000)
    now = run(pace, 10, 100)
    assert pace.rate(now) == pytest.approx(100)
    assert pace.seconds_left(now) == 20


def test_nothing_is_said_before_the_first_unit_nor_without_a_total():
    pace = Pace(0.0, 100)
    assert (pace.rate(5.0), pace.seconds_left(5.0)) == (0.0, None)
    endless = Pace(0.0, None)
    assert endless.seconds_left(run(endless, 5, 10)) is None


def test_the_time_left_grows_every_second_in_which_nothing_comes():
    pace = Pace(0.0, 3008)
    now = run(pace, 30, 50)
    told = [pace.seconds_left(now + second) for second in range(60)]
    assert told[0] == pytest.approx((3008 - pace.done) / 50, abs=2)
    assert all(later > earlier for earlier, later in pairwise(told))
    assert told[21] > 2 * told[0]


def test_a_change_of_pace_shows_after_some_seconds():
    pace = Pace(0.0, 100_000)
    now = run(pace, 60, 100)
    now = run(pace, 25, 10, now)
    assert pace.rate(now) == pytest.approx(10, rel=0.1)


def test_after_hours_the_window_is_longer_but_not_the_whole_time():
    pace = Pace(0.0, 10_000_000)
    now = run(pace, 4000, 100, every=1.0)
    now = run(pace, MOST_WINDOW_S, 50, now, every=1.0)
    assert pace.rate(now) == pytest.approx(50, rel=0.02)


def test_work_in_lumps_covers_what_is_left_of_it():
    """A window of 512 every 40 s, as from a cluster: the estimate never says that the last lump takes no time."""
    pace, lumps, each = Pace(0.0, 6 * 512), 6, 40
    for lump in range(1, lumps):
        pace.advance(512, lump * each)
        for later in range(0, each, 5):
            real = (lumps - lump) * each - later
            told = pace.seconds_left(lump * each + later)
            assert told >= 0.9 * real
            assert told <= (lumps - lump) * each * 2


def test_the_end_leaves_nothing():
    pace = Pace(0.0, 100)
    now = run(pace, 10, 10)
    assert pace.seconds_left(now) == 0


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.9, "0:00"), (59.9, "0:59"), (61, "1:01"), (3599, "59:59"), (3723, "1:02:03")]
)
def test_a_clock_has_minutes_and_seconds(seconds, text):
    assert clock_text(seconds) == text
