"""Progress on standard error: a line that moves on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TextIO, cast

from pipeline.progress import Progress
from pipeline.stages.engines.compile_progress import PERCENT
from tools.output.pace import Pace, clock_text
from tools.output.page import fit, laid_out_for
from tools.output.render import number, plain, plural, seconds, size
from tools.output.terminal import columns_of

if TYPE_CHECKING:
    from rich.live import Live

_LINE_EVERY_S: Final = 1.0
_LINE_EVERY_PART: Final = 10
_LIFE_EVERY_S: Final = 10.0
_FIRST_ESTIMATE_S: Final = 3.0
"""Before that, most of the time went into the start of processes."""
_DRAWN_PER_S: Final = 8.0
_BYTES: Final = "bytes"
_INDENT: Final = "   "
_NAME_WIDTH: Final = 13
_BAR_WIDTH: Final = (8, 24)
_DROPPED: Final = (1, 2, 4, 0)
"""Which texts right of the bar a narrow terminal does without, first to last; the time so far stays."""


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
class Step:
    """A running step."""

    name: str
    unit: str
    pace: Pace
    phase: str = ""
    printed_at: float = 0.0
    printed_part: int = 0


def _begun(name: str, total: int | None, unit: str, now: float) -> Step | None:
    """Return a step; None if there is nothing to do in it, and nothing to say of it."""
    return None if total == 0 else Step(name=name, unit=unit, pace=Pace(now, total), printed_at=now)


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
    _step: Step | None = field(default=None, init=False)

    def start(self, step: str, *, total: int | None, unit: str) -> None:
        """Start a step with `total` units of work, if that is known."""
        self._step = _begun(step, total, unit, self.clock())
        if self._step is not None:
            amount = _amount(total, unit)
            self._write(f"{step}: {amount}" if amount else f"{step} ...")

    def advance(self, amount: int = 1, *, phase: str = "") -> None:
        """Report more units of work as done; `phase` says what is being done now."""
        step = self._step
        if step is None:
            return
        now = self.clock()
        step.pace.advance(amount, now)
        step.phase = phase
        done, total = step.pace.done, step.pace.total
        part = _LINE_EVERY_PART * done // total if total else 0
        due = part > step.printed_part or now - step.printed_at >= _LIFE_EVERY_S if total else True
        if due and now - step.printed_at >= _LINE_EVERY_S and done != total:
            step.printed_at, step.printed_part = now, part
            self._write(f"{step.name}: {_state(step, now)}")

    def finish(self, note: str = "") -> None:
        """Finish the step."""
        step, self._step = self._step, None
        if step is None:
            return
        elapsed = self.clock() - step.pace.since
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
    """Draw one line for the running step, with rich on a terminal, several times a second.

    Args:
        stream: The terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._terminal = _Lasting(stream), stream
        self._drawn: Live | None = None
        self._step: Step | None = None

    def start(self, step: str, *, total: int | None, unit: str) -> None:
        """Start a step with `total` units of work, if that is known."""
        self.close()
        self._step = begun = _begun(step, total, unit, time.monotonic())
        if begun is not None:
            self._drawn = _live(begun, self._stream)
            self._drawn.start()

    def advance(self, amount: int = 1, *, phase: str = "") -> None:
        """Report more units of work as done; `phase` says what is being done now."""
        if self._step is not None:
            self._step.pace.advance(amount, time.monotonic())
            self._step.phase = phase

    def finish(self, note: str = "") -> None:
        """Finish the step."""
        step = self._step
        self.close()
        if step is not None:
            elapsed = time.monotonic() - step.pace.since
            parts = "  ".join(each for each in (*_totals(step, elapsed), note) if each)
            self._write(f"{_INDENT}{step.name:<{_NAME_WIDTH}}{seconds(elapsed):>8}  {parts}".rstrip())

    def say(self, text: str) -> None:
        """Print a message."""
        if self._drawn is not None:
            self._drawn.console.print(plain(text), markup=False, highlight=False)
        else:
            self._write(plain(text))

    def close(self) -> None:
        """Stop drawing; an unfinished step gets no last line."""
        if self._drawn is not None:
            self._drawn.stop()
        self._drawn = self._step = None

    def _write(self, text: str) -> None:
        with laid_out_for(columns_of(self._terminal)):
            self._stream.write("\n".join(fit(text)) + "\n")


def _live(step: Step, stream: _Lasting) -> "Live":
    from rich.console import Console  # noqa: PLC0415 - only where something is drawn
    from rich.live import Live  # noqa: PLC0415 - as above
    from rich.text import Text  # noqa: PLC0415 - as above

    console = Console(file=cast("TextIO", stream))
    full = "-" if console.options.ascii_only else "━"
    # Without colours, full and empty cells look alike.
    empty = " " if console.options.ascii_only or console.no_color or console.color_system is None else full

    def line() -> Text:
        name, filled, rest, right = live_line(step, time.monotonic(), console.width)
        drawn = Text(name, no_wrap=True, overflow="crop")
        drawn.append(full * filled, "bar.complete").append(empty * rest, "bar.back")
        return drawn.append(right)

    # Transient: the last line replaces the drawn one.
    return Live(
        get_renderable=line,
        console=console,
        refresh_per_second=_DRAWN_PER_S,
        transient=True,
        redirect_stdout=False,
    )


def live_line(step: Step, now: float, width: int) -> tuple[str, int, int, str]:
    """Return what is drawn of a step: name, full and empty cells of its bar, and what is right of it.

    The line is shorter than `width`. Where that is little, it loses the bar, then the rate, the phase, the time left
    and the count.
    """
    pace, elapsed = step.pace, now - step.pace.since
    is_percent = step.unit == PERCENT
    rate = _rate(pace.rate(now), step.unit, short=True) if pace.total and pace.done and not is_percent else ""
    # The steps of a compiler are too uneven to estimate the time left.
    left = None if is_percent or elapsed < _FIRST_ESTIMATE_S else pace.seconds_left(now)
    rest = "" if left is None else f"{clock_text(left)} left"
    texts = [_count(step), rate, step.phase, clock_text(elapsed), rest]
    name, right = f"{_INDENT}{step.name:<{_NAME_WIDTH}}", _joined(texts)
    bar = min(width - len(name) - len(right) - 5, _BAR_WIDTH[1]) if pace.total else 0
    if bar >= _BAR_WIDTH[0]:
        filled = min(bar, bar * pace.done // (pace.total or 1))
        return f"{name}  ", filled, bar - filled, right
    for dropped in (None, *_DROPPED):
        if dropped is not None:
            texts[dropped] = ""
        right = _joined(texts)
        if len(name) + len(right) >= width:
            name = f"{_INDENT}{step.name}"
        if len(name) + len(right) < width:
            break
    return name, 0, 0, right


def _joined(texts: Iterable[str]) -> str:
    return "".join(f"  {text}" for text in texts if text)


def _count(step: Step) -> str:
    """Return how much of how much is done."""
    done, total = step.pace.done, step.pace.total
    if not total:
        return ""
    if step.unit == PERCENT:
        return f"{done} %"
    if step.unit == _BYTES:
        return f"{size(done)} of {size(total)}"
    # As wide at the end as at the start, so that nothing else moves.
    return f"{number(done):>{len(number(total))}} of {_amount(total, step.unit)}"


def _totals(step: Step, elapsed: float) -> tuple[str, str]:
    """Return how much was done and how fast, if there is a total."""
    done = step.pace.done
    if not step.pace.total or not done or step.unit == PERCENT:
        return "", ""
    rate = _rate(done / elapsed, step.unit) if done > 1 and elapsed > 0 else ""
    return _amount(done, step.unit), rate


def _amount(count: int | None, unit: str) -> str:
    if not count or unit == PERCENT:
        return ""
    return size(count) if unit == _BYTES else plural(count, unit.removesuffix("s"), unit)


def _rate(per_second: float, unit: str, *, short: bool = False) -> str:
    if unit == _BYTES:
        return f"{size(round(per_second))}/s"
    what = "/s" if short else f" {unit}/s"
    return f"{per_second:,.0f}{what}" if per_second >= 10 else f"{per_second:.1f}{what}"


def _state(step: Step, now: float) -> str:
    pace, elapsed = step.pace, seconds(now - step.pace.since)
    if step.unit == PERCENT:
        return ", ".join(each for each in (f"{pace.done} %", step.phase, elapsed) if each)
    amount = _amount(pace.done, step.unit)
    if pace.total:
        amount = f"{100 * pace.done // pace.total} % ({amount or f'0 {step.unit}'})"
    rate, left = pace.rate(now), pace.seconds_left(now)
    texts = [amount, _rate(rate, step.unit) if rate > 0 else "", step.phase, elapsed]
    return ", ".join(filter(None, [*texts, "" if left is None else f"{clock_text(left)} left"]))
