"""Progress on standard error: bars on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TextIO, cast

from pipeline.progress import Progress
from pipeline.stages.compile_progress import PERCENT
from tools.output.page import fit, laid_out_for
from tools.output.render import plain, plural, seconds, size
from tools.output.terminal import columns_of

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import ProgressColumn

_LINE_EVERY_S: Final = 1.0
_LINE_EVERY_PART: Final = 10
_LIFE_EVERY_S: Final = 10.0
_BYTES: Final = "bytes"
_INDENT: Final = "   "
_PHASE_WIDTH: Final = 34
_ROOM_FOR_A_BAR: Final = 70
"""Columns of a terminal on which a bar leaves room for the numbers."""


@contextmanager
def shown_progress(stream: TextIO | None = None, *, bars: bool = True) -> Iterator[Progress]:
    """Show progress on a stream, by default standard error, in the way that fits it.

    Stop drawing however the work ends: a bar that is left alone hides the cursor. Without `bars` a terminal gets lines:
    two ends of a pipe share it.
    """
    stream = sys.stderr if stream is None else stream
    progress = Bars(stream) if bars and stream.isatty() else Lines(stream=stream)
    try:
        yield progress
    finally:
        progress.close()


def byte_progress(progress: Progress, step: str) -> tuple[Callable[[int], None], Callable[[int], None]]:
    """Return the functions that a copy reports to: the number of bytes, and how many more are done."""
    return (lambda total: progress.start(step, total=total, unit=_BYTES)), progress.advance


class _Lasting:
    """A stream whose reader may go away, as a terminal that is closed: work must not fail because of that."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write and flush a text, if that is possible."""
        with suppress(OSError):
            self._stream.write(text)
            self._stream.flush()
        return len(text)

    def flush(self) -> None:
        """Do nothing: `write` has flushed."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - rich asks for more
        return getattr(self._stream, name)


@dataclass(slots=True, kw_only=True)
class _Step:
    """A running step."""

    name: str
    total: int | None
    unit: str
    since: float
    done: int = 0
    phase: str = ""
    printed_at: float = 0.0
    printed_part: int = 0


@dataclass(slots=True, kw_only=True)
class Lines:
    """Print a line when a step starts and ends, and in between one per tenth, at most one a second.

    A step that only reports that it is alive gets a line every ten seconds.

    Attributes:
        stream: Where to write the lines.
        clock: A monotonic clock, seconds.
    """

    stream: TextIO
    clock: Callable[[], float] = time.monotonic
    _step: _Step | None = field(default=None, init=False)

    def start(self, step: str, *, total: int | None, unit: str) -> None:
        """Start a step with `total` units of work, if that is known."""
        now = self.clock()
        self._step = _Step(name=step, total=total, unit=unit, since=now, printed_at=now)
        amount = _amount(total, unit)
        self._write(f"{step}: {amount}" if amount else f"{step} ...")

    def advance(self, amount: int = 1, *, phase: str = "") -> None:
        """Report more units of work as done; `phase` says what is being done now."""
        step = self._step
        if step is None:
            return
        step.done += amount
        step.phase = phase
        now = self.clock()
        part = _LINE_EVERY_PART * step.done // step.total if step.total else 0
        due = part > step.printed_part or now - step.printed_at >= _LIFE_EVERY_S if step.total else True
        if due and now - step.printed_at >= _LINE_EVERY_S and step.done != step.total:
            step.printed_at, step.printed_part = now, part
            self._write(f"{step.name}: {_state(step, now)}")

    def finish(self, note: str = "") -> None:
        """Finish the step."""
        step, self._step = self._step, None
        if step is None:
            return
        elapsed = self.clock() - step.since
        parts = [each for each in (*_totals(step, elapsed), note) if each]
        self._write(f"{step.name}: done in {', '.join([seconds(elapsed), *parts])}")

    def say(self, text: str) -> None:
        """Print a message."""
        self._write(plain(text))

    def close(self) -> None:
        """Stop; an unfinished step gets no last line."""
        self._step = None

    def _write(self, text: str) -> None:
        _Lasting(self.stream).write(text + "\n")


class Bars:
    """Draw a bar per step with rate and time left, with rich on a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._terminal = _Lasting(stream), stream
        self._drawn: RichProgress | None = None
        self._step: _Step | None = None

    def start(self, step: str, *, total: int | None, unit: str) -> None:
        """Start a step with `total` units of work, if that is known."""
        self._end()
        self._step = _Step(name=step, total=total, unit=unit, since=time.monotonic())
        self._drawn = _bar(unit, self._stream, counted=total is not None)
        self._drawn.add_task(step, total=total, phase="")
        self._drawn.start()

    def advance(self, amount: int = 1, *, phase: str = "") -> None:
        """Report more units of work as done; `phase` says what is being done now."""
        if self._drawn is not None and self._step is not None:
            self._step.done += amount
            self._drawn.update(self._drawn.task_ids[0], advance=amount, phase=phase[:_PHASE_WIDTH])

    def finish(self, note: str = "") -> None:
        """Finish the step."""
        step = self._step
        self._end()
        if step is not None:
            elapsed = time.monotonic() - step.since
            parts = "  ".join(each for each in (*_totals(step, elapsed), note) if each)
            self._write(f"{_INDENT}{step.name:<13}{seconds(elapsed):>8}  {parts}".rstrip())

    def say(self, text: str) -> None:
        """Print a message."""
        if self._drawn is not None:
            self._drawn.console.print(plain(text), markup=False, highlight=False)
        else:
            self._write(plain(text))

    def close(self) -> None:
        """Stop drawing; an unfinished step gets no last line."""
        self._end()

    def _write(self, text: str) -> None:
        with laid_out_for(columns_of(self._terminal)):
            self._stream.write("\n".join(fit(text)) + "\n")

    def _end(self) -> None:
        if self._drawn is not None:
            self._drawn.stop()
        self._drawn = self._step = None


def _bar(unit: str, stream: _Lasting, *, counted: bool) -> "RichProgress":
    from rich import progress as drawn  # noqa: PLC0415 - only where something is drawn
    from rich.console import Console  # noqa: PLC0415 - as above

    console = Console(file=cast("TextIO", stream))
    columns: list[ProgressColumn] = [
        drawn.TextColumn(_INDENT + "{task.description:<13}"),
        drawn.BarColumn(24),
    ]
    if console.width < _ROOM_FOR_A_BAR:
        columns = [drawn.TextColumn(_INDENT + "{task.description}")]
    if counted and unit == _BYTES:
        columns += [drawn.DownloadColumn(binary_units=True), drawn.TransferSpeedColumn()]
    elif counted and unit == PERCENT:
        columns += [drawn.TaskProgressColumn(), drawn.TextColumn("{task.fields[phase]}")]
    elif counted:
        columns += [drawn.MofNCompleteColumn(), drawn.TextColumn(unit)]
    # The steps of a compiler are too uneven to estimate the time left.
    can_estimate = counted and unit != PERCENT
    columns += [drawn.TimeRemainingColumn() if can_estimate else drawn.TimeElapsedColumn()]
    # Transient: the last line replaces the bar.
    return drawn.Progress(*columns, console=console, transient=True)


def _totals(step: _Step, elapsed: float) -> tuple[str, str]:
    """Return how much was done and how fast, if there is a total."""
    if not step.total or not step.done or step.unit == PERCENT:
        return "", ""
    rate = _rate(step.done / elapsed, step.unit) if step.done > 1 and elapsed > 0 else ""
    return _amount(step.done, step.unit), rate


def _amount(count: int | None, unit: str) -> str:
    if not count or unit == PERCENT:
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
