"""The clock for the times of records: wall time for people, monotonic time for durations."""

import time
from typing import Protocol


class Clock(Protocol):
    """A source of times."""

    def wall_ns(self) -> int:
        """Nanoseconds since the Unix epoch; may jump."""
        ...

    def mono_ns(self) -> int:
        """Nanoseconds that never run backwards within one boot."""
        ...


class SystemClock:
    """The machine's clocks."""

    def wall_ns(self) -> int:
        """Nanoseconds since the Unix epoch; may jump."""
        return time.time_ns()

    def mono_ns(self) -> int:
        """Nanoseconds that never run backwards within one boot."""
        return time.monotonic_ns()
