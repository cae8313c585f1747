"""The clock for the times of records: wall time for people, monotonic time for durations."""

import time
from datetime import date, datetime, timezone
from typing import Protocol


class Clock(Protocol):
    """A source of times."""

    def wall_ns(self) -> int:
        """Nanoseconds since the Unix epoch; may jump."""
        ...

    def mono_ns(self) -> int:
        """Nanoseconds that never run backwards within one boot."""
        ...


def recorded_wall_ns(clock: Clock) -> int:
    """Return the wall time of a clock as records and manifests can hold it: from 1970 to 2262.

    A machine whose clock is wrong by that much must still be able to commit; the time is for people alone.
    """
    return min(max(clock.wall_ns(), 0), (1 << 63) - 1)


def utc_day(clock: Clock) -> date:
    """Return the day of a clock, UTC."""
    return datetime.fromtimestamp(recorded_wall_ns(clock) / 1e9, tz=timezone.utc).date()


class SystemClock:
    """The machine's clocks."""

    def wall_ns(self) -> int:
        """Nanoseconds since the Unix epoch; may jump."""
        return time.time_ns()

    def mono_ns(self) -> int:
        """Nanoseconds that never run backwards within one boot."""
        return time.monotonic_ns()
