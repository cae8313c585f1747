"""The pace of a running step: how far it is, how fast, and how long the rest takes. Pure."""

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Final

LEAST_WINDOW_S: Final = 20.0
MOST_WINDOW_S: Final = 300.0
LEAST_REPORTS: Final = 4

_SAMPLE_EVERY_S: Final = 0.25


@dataclass(slots=True)
class Pace:
    """Counts units of work as they are done, with the times of a monotonic clock in seconds.

    The rate is that of the last quarter of the time, of 20 s at least and 5 min at most, and of at least four reports,
    since work may be reported in lumps. Time in which nothing comes counts: the rate falls, and the time left grows.

    Attributes:
        since: When the work began.
        total: Units of work in all; None if that is not known.
        done: Units that are done.
    """

    since: float
    total: int | None
    done: int = 0
    _samples: deque[tuple[float, int]] = field(init=False)

    def __post_init__(self) -> None:
        """Begin with nothing done."""
        self._samples = deque([(self.since, 0)])

    def advance(self, amount: int, now: float) -> None:
        """Count more units as done."""
        self.done += amount
        if amount and now - self._samples[-1][0] >= _SAMPLE_EVERY_S:
            self._samples.append((now, self.done))

    def rate(self, now: float) -> float:
        """Return the units per second; 0 before the first one."""
        samples = self._samples
        window = min(max((now - self.since) / 4, LEAST_WINDOW_S), MOST_WINDOW_S)
        while len(samples) > LEAST_REPORTS and samples[1][0] <= now - window:
            samples.popleft()
        began, before = samples[0]
        return (self.done - before) / (now - began) if now > began else 0.0

    def seconds_left(self, now: float) -> int | None:
        """Return how long the rest takes at this rate, rounded up; None if that is not known."""
        rate = self.rate(now)
        if self.total is None or rate <= 0:
            return None
        return math.ceil(max(0, self.total - self.done) / rate)


def clock_text(seconds: float) -> str:
    """Return a duration as minutes and seconds, and hours if there are any: 0:07, 1:02:03."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
