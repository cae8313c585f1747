import errno
import io
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline.stages.engines.compile_progress import CompileProgress
from tools.output.progress import Bars, Lines, shown_progress

ROOT = Path(__file__).resolve().parents[3]


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def lines():
    stream, clock = io.StringIO(), Clock()
    return Lines(stream=stream, clock=clock), stream, clock


def test_a_step_has_a_first_line_and_a_last_one_with_its_rate():
    progress, stream, clock = lines()
    progress.start("embed", total=300, unit="tiles")
    clock.now = 2.0
    progress.advance(300)
    progress.finish("done well")
    assert stream.getvalue().splitlines() == [
        "embed: 300 tiles",
        "embed: done in 2.0 s, 300 tiles, 150 tiles/s, done well",
    ]


def test_in_between_there_is_at_most_one_line_a_second_and_one_a_tenth():
    progress, stream, clock = lines()
    progress.start("embed", total=1000, unit="tiles")
    for _ in range(1000):
        clock.now += 0.01  # ten seconds in all
        progress.advance()
    between = stream.getvalue().splitlines()[1:]
    assert 8 <= len(between) <= 10
    assert between[0].startswith("embed: 10 % (1")
    assert "left" in between[0]
    fast, quiet, clock = lines()
    fast.start("embed", total=1000, unit="tiles")
    for _ in range(1000):
        clock.now += 0.0001
        fast.advance()
    assert len(quiet.getvalue().splitlines()) == 1


def test_a_compile_counts_in_percent_names_its_phase_and_shows_that_it_lives():
    progress, stream, clock = lines()
    told = CompileProgress.started(progress, "place")
    for second, done in ((1, 3), (2, 110), (3, 120), (5, 120), (9, 120), (14, 120)):
        clock.now = float(second)
        told({"phase": "Timing tactics", "done": done, "total": 1000})
    told({"phase": "done"})
    told({"phase": "done", "done": 1000, "total": 1000})
    clock.now = 15.0
    progress.finish("4.3 MB")
    assert stream.getvalue().splitlines() == [
        "compile place ...",
        "compile place: 11 %, Timing tactics, 2.0 s",
        "compile place: 12 %, Timing tactics, 14.0 s",
        "compile place: done in 15.0 s, 4.3 MB",
    ]


def test_without_a_total_time_alone_decides():
    progress, stream, clock = lines()
    progress.start("compile", total=None, unit="steps")
    for _ in range(30):
        clock.now += 0.1
        progress.advance()
    progress.finish()
    told = stream.getvalue().splitlines()
    assert told[0] == "compile ..."
    assert len(told) in {4, 5}
    assert told[-1] == "compile: done in 3.0 s"


def test_bytes_are_told_in_units():
    progress, stream, clock = lines()
    progress.start("verify", total=3 << 20, unit="bytes")
    clock.now = 1.0
    progress.advance(3 << 20)
    progress.finish()
    assert stream.getvalue().splitlines()[1] == "verify: done in 1.0 s, 3.0 MiB, 3.0 MiB/s"


def test_finishing_and_advancing_nothing_is_harmless():
    progress, stream, _ = lines()
    progress.advance()
    progress.finish()
    progress.say("hello")
    assert stream.getvalue() == "hello\n"


def test_bars_leave_one_line_per_step_and_nothing_on_standard_output(capsys):
    bars = Bars(sys.stderr)
    for step, total in (("compile place", None), ("embed", 10), ("verify", 1 << 20)):
        bars.start(step, total=total, unit="bytes" if total == 1 << 20 else "tiles")
        bars.say("a word")
        bars.advance(total or 1)
        bars.finish("fine")
    bars.say("the end")
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("fine\n") == 3
    assert told.err.endswith("the end\n")
    assert told.err.count("a word") == 3


@pytest.mark.parametrize("terminal", [True, False])
def test_work_goes_on_when_its_terminal_is_closed(terminal):
    class Closed(io.StringIO):
        def isatty(self):
            return terminal

        def write(self, _):
            raise OSError(errno.EIO, "Input/output error")

        flush = write

    with shown_progress(Closed()) as progress:
        progress.start("embed", total=5, unit="tiles")
        progress.say("a word")
        progress.advance(5)
        progress.finish()
        progress.say("the end")


def fail_within(stream):
    with shown_progress(stream) as progress:
        progress.start("embed", total=5, unit="tiles")
        raise ValueError(type(progress).__name__)


def test_what_is_no_terminal_gets_lines():
    stream = io.StringIO()
    with pytest.raises(ValueError, match="Lines"):
        fail_within(stream)
    assert stream.getvalue() == "embed: 5 tiles\n"


def test_a_bar_is_taken_down_when_the_work_fails(capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    before = set(threading.enumerate())
    with pytest.raises(ValueError, match="Bars"):
        fail_within(Terminal())
    for drawing in set(threading.enumerate()) - before:
        drawing.join(timeout=10)
        assert not drawing.is_alive()
    capsys.readouterr()


def test_lines_do_not_import_rich():
    code = (
        "import io, sys; from tools.output.progress import Lines; p = Lines(stream=io.StringIO());"
        "p.start('a', total=1, unit='tiles'); p.advance(); p.finish(); sys.exit('rich' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
