"""The line of a running step on a real terminal, and what fits on narrow ones."""

import os
import pty
import re
import select
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest

from tools.output.pace import Pace
from tools.output.progress import Step, live_line

ROOT = Path(__file__).resolve().parents[3]

STALLED = """
import sys, time
from tools.output.progress import shown_progress
with shown_progress() as progress:
    progress.start("embed", total=3008, unit="tiles")
    for _ in range(20):
        time.sleep(0.05)
        progress.advance(32)
    time.sleep(5)
    progress.advance(2368)
    progress.finish()
"""

SILENT = """
import time
from tools.output.progress import shown_progress
with shown_progress() as progress:
    progress.start("check place", total=None, unit="steps")
    time.sleep(3.5)
    progress.finish()
"""


def drawn_by(code, *, columns=100):
    """Run code with a terminal as its standard error; what was on the line, with the second at which it came."""
    ours, theirs = pty.openpty()
    environ = os.environ | {"TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": "30"}
    child = subprocess.Popen([sys.executable, "-c", code], stderr=theirs, cwd=ROOT, env=environ)
    os.close(theirs)
    found, began = [], time.monotonic()
    try:
        while True:
            if select.select([ours], [], [], 0.1)[0]:
                try:
                    data = os.read(ours, 1 << 16)
                except OSError:
                    break
                if not data:
                    break
                text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", data.decode(errors="replace"))
                found += [
                    (time.monotonic() - began, line) for line in re.split(r"[\r\n]+", text) if line.strip()
                ]
    finally:
        os.close(ours)
        assert child.wait(timeout=60) == 0
    return found


@pytest.fixture(scope="module")
def drawn():
    """What both of them drew, at once: they wait for seconds."""
    with ThreadPoolExecutor() as both:
        return dict(zip(("stalled", "silent"), both.map(drawn_by, (STALLED, SILENT)), strict=True))


def seconds_of(text):
    return sum(60**power * int(part) for power, part in enumerate(reversed(text.split(":"))))


def test_the_line_changes_every_second_while_nothing_comes_and_the_time_left_grows(drawn):
    told = drawn["stalled"]
    stalled = [(when, line) for when, line in told if "  640 of 3,008 tiles" in line]
    changes = [
        when for (when, line), (_, before) in zip(stalled[1:], stalled, strict=False) if line != before
    ]
    assert len(changes) >= 3
    # Most of them: a busy machine may delay one.
    assert statistics.median(later - earlier for earlier, later in pairwise(changes)) < 1.5
    left = [seconds_of(found[1]) for _, line in stalled if (found := re.search(r"([\d:]+) left", line))]
    assert left == sorted(left)
    assert left[-1] >= left[0] + 3
    assert re.search(r"embed +\d\.\d s +3,008 tiles", told[-1][1])


def test_a_step_without_a_total_shows_how_long_it_has_taken(drawn):
    told = [line for _, line in drawn["silent"]]
    shown = {found[1] for line in told if (found := re.search(r" (\d:\d\d)$", line))}
    # A busy machine may miss one.
    assert len(shown & {"0:00", "0:01", "0:02", "0:03"}) >= 3


def halfway(name="embed", total=3008, unit="tiles", phase=""):
    pace = Pace(0.0, total)
    for second in range(1, 11):
        pace.advance(total // 20 if total else 1, float(second))
    return Step(name=name, unit=unit, pace=pace, phase=phase)


@pytest.mark.parametrize("columns", range(20, 130, 3))
@pytest.mark.parametrize(
    "step",
    [
        halfway(),
        halfway("check reused", 123_456_789, "bytes"),
        halfway("compile a-network-with-a-long-name", 100, "%", "Timing tactics of all layers"),
        halfway("check place", None, "steps"),
    ],
)
def test_the_line_fits_the_terminal_and_always_has_the_time_so_far(columns, step):
    name, filled, empty, right = live_line(step, 10.0, columns)
    assert "0:10" in right
    if columns >= 50:
        assert len(name) + filled + empty + len(right) < columns
    if filled + empty:
        assert filled == pytest.approx((filled + empty) / 2, abs=1)


def test_a_wide_line_has_everything_and_a_narrow_one_less_and_less():
    _, filled, empty, right = live_line(halfway(), 10.0, 100)
    assert right == "  1,500 of 3,008 tiles  150/s  0:10  0:11 left"
    assert (filled, empty) == (11, 13)
    name, filled, empty, right = live_line(halfway(), 10.0, 60)
    assert (name, filled, empty) == ("   embed", 0, 0)
    assert right == "  1,500 of 3,008 tiles  150/s  0:10  0:11 left"
    assert live_line(halfway(), 10.0, 45)[3] == "  1,500 of 3,008 tiles  0:10"
    assert live_line(halfway(), 10.0, 30)[3] == "  0:10"


def test_the_time_left_is_not_told_in_the_first_seconds():
    pace = Pace(0.0, 100)
    pace.advance(1, 1.5)
    assert "left" not in live_line(Step(name="embed", unit="tiles", pace=pace), 1.6, 100)[3]
