"""Progress on standard error: bars where a person watches, plain lines where a log collects them."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TextIO

from pipeline.progress import Progress
from pipeline.stages.compile_progress import PERCENT
from tools.output.render import plain, plural, seconds, size

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import ProgressColumn

_LINE_EVERY_S: Final = 1.0
_LINE_EVERY_PART: Final = 10
_LIFE_EVERY_S: Final = 10.0
_BYTES: Final = "bytes"
_INDENT: Final = "   "
_PHASE_WIDTH: Final = 34


@contextmanager
def shown_progress(stream: TextIO | None = None) -> Iterator[Progress]:
    """Show progress in the way that fits a stream, by default standard error.

    However the work ends, nothing stays behind that draws: a bar that is left alone hides the cursor.
    """
    stream = sys.stderr if stream is None else stream
    progress = Bars() if stream.isatty() else Lines(stream=stream)
    try:
        yield progress
    finally:
        progress.close()


def byte_progress(progress: Progress, step: str) -> tuple[Callable[[int], None], Callable[[int], None]]:
    """Return the two functions that a copy reports to: how many bytes there are, and how many more are done."""
    return (lambda total: progress.start(step, total=total, unit=_BYTES)), progress.advance


@dataclass(slots=True, kw_only=True)
class _Step:
    """A step under way: its name, how much there is to do if that is known, how much is done, since when."""

    name: str
    total: int | None
    unit: str
    since: float
    done: int = 0
    phase: str = ""
    told_at: float = 0.0
    told_part: int = 0


@dataclass(slots=True, kw_only=True)
class Lines:
    """A line when a step starts, one when it is done, and in between one per tenth, at most one a second.

    Where a step only tells that it is alive, a line every ten seconds says so.

    Attributes:
        stream: Where the lines go.
        clock: Seconds that never run backwards.
    """

    stream: TextIO
    clock: Callable[[], float] = time.monotonic
    _step: _Step | None = field(default=None, init=False)

    def start(self, step: str, *, total: int | None, unit: str) -> None:
        """A step began; `total` units of work are ahead, if known."""
        now = self.clock()
        self._step = _Step(name=step, total=total, unit=unit, since=now, told_at=now)
        amount = _amount(total, unit)
        self._write(f"{step}: {amount}" if amount else f"{step} ...")

    def advance(self, amount: int = 1, *, phase: str = "") -> None:
        """So many more units are done; `phase` tells what is being done."""
        step = self._step
        if step is None:
            return
        step.done += amount
        step.phase = phase
        now = self.clock()
        part = _LINE_EVERY_PART * step.done // step.total if step.total else 0
        due = part > step.told_part or now - step.told_at >= _LIFE_EVERY_S if step.total else True
        if due and now - step.told_at >= _LINE_EVERY_S and step.done != step.total:
            step.told_at, step.told_part = now, part
            self._write(f"{step.name}: {_state(step, now)}")

    def finish(self, note: str = "") -> None:
        """The step is done."""
        step, self._step = self._step, None
        if step is None:
            return
        elapsed = self.clock() - step.since
        parts = [each for each in (*_sums(step, elapsed), note) if each]
        self._write(f"{step.name}: done in {', '.join([seconds(elapsed), *parts])}")

    def say(self, text: str) -> None:
        """A person should know this."""
        self._write(plain(text))

    def close(self) -> None:
        """There will be no more; a step that was not finished gets no last line."""
        self._step = None

    def _write(self, text: str) -> None:
        self.stream.write(text + "\n")
        self.stream.flush()


class Bars:
    """A bar per step, with rate and time left, drawn by rich on standard error."""

    def __init__(self) -> None:
        self._drawn: RichProgress | None = None
        self._step: _Step | None = None

    def start(self, step: str, *, total: int | None, unit: str) -> None:
        """A step began; `total` units of work are ahead, if known."""
        self._end()
        self._step = _Step(name=step, total=total, unit=unit, since=time.monotonic())
        self._drawn = _bar(unit, counted=total is not None)
        self._drawn.add_task(step, total=total, phase="")
        self._drawn.start()

    def advance(self, amount: int = 1, *, phase: str = "") -> None:
        """So many more units are done; `phase` tells what is being done."""
        if self._drawn is not None and self._step is not None:
            self._step.done += amount
            self._drawn.update(self._drawn.task_ids[0], advance=amount, phase=phase[:_PHASE_WIDTH])

    def finish(self, note: str = "") -> None:
        """The step is done."""
        step = self._step
        self._end()
        if step is not None:
            elapsed = time.monotonic() - step.since
            parts = "  ".join(each for each in (*_sums(step, elapsed), note) if each)
            sys.stderr.write(f"{_INDENT}{step.name:<13}{seconds(elapsed):>8}  {parts}".rstrip() + "\n")

    def say(self, text: str) -> None:
        """A person should know this."""
        if self._drawn is not None:
            self._drawn.console.print(plain(text), markup=False, highlight=False)
        else:
            sys.stderr.write(plain(text) + "\n")

    def close(self) -> None:
        """Stop drawing; a step that was not finished gets no last line."""
        self._end()

    def _end(self) -> None:
        if self._drawn is not None:
            self._drawn.stop()
        self._drawn = self._step = None


def _bar(unit: str, *, counted: bool) -> "RichProgress":
    from rich import progress as drawn  # noqa: PLC0415 - only where something is drawn
    from rich.console import Console  # noqa: PLC0415 - as above

    columns: list[ProgressColumn] = [
        drawn.TextColumn(_INDENT + "{task.description:<13}"),
        drawn.BarColumn(24),
    ]
    if counted and unit == _BYTES:
        columns += [drawn.DownloadColumn(binary_units=True), drawn.TransferSpeedColumn()]
    elif counted and unit == PERCENT:
        columns += [drawn.TaskProgressColumn(), drawn.TextColumn("{task.fields[phase]}")]
    elif counted:
        columns += [drawn.MofNCompleteColumn(), drawn.TextColumn(unit)]
    # A compiler's steps are too uneven to tell how much time is left.
    foreseen = counted and unit != PERCENT
    columns += [drawn.TimeRemainingColumn() if foreseen else drawn.TimeElapsedColumn()]
    # Transient: the bar gives way to the line that says how it went.
    return drawn.Progress(*columns, console=Console(stderr=True), transient=True)


def _sums(step: _Step, elapsed: float) -> tuple[str, str]:
    """How much was done and how fast, where that was counted against a total."""
    if not step.total or not step.done or step.unit == PERCENT:
        return "", ""
    rate = _rate(step.done / elapsed, step.unit) if step.done > 1 and elapsed > 0 else ""
    return _amount(step.done, step.unit), rate


def _amount(count: int | None, unit: str) -> str:
    if count is None or unit == PERCENT:
        return ""
    return size(count) if unit == _BYTES else plural(count, unit.removesuffix("s"), unit)


def _rate(per_second: float, unit: str) -> str:
    if unit == _BYTES:
        return f"{size(round(per_second))}/s"
    return f"{per_second:,.0f} {unit}/s" if per_second >= 10 else f"{per_second:.1f} {unit}/s"


def _state(step: _Step, now: float) -> str:
    elapsed = now - step.since
    if step.unit == PERCENT:
        return ", ".join(each for each in (f"{step.done} %", step.phase, seconds(elapsed)) if each)
    rate = step.done / elapsed if elapsed > 0 else 0.0
    text = f"{_amount(step.done, step.unit)}"
    if step.total:
        text = f"{100 * step.done // step.total} % ({text})"
    if rate > 0:
        text += f", {_rate(rate, step.unit)}"
        if step.total:
            text += f", {seconds(max(0.0, (step.total - step.done) / rate))} left"
    return text
