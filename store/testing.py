"""A clock for tests."""

from dataclasses import dataclass


@dataclass(slots=True)
class FakeClock:
    """A clock that advances by one millisecond per call; tests set `now_ns` to make it jump."""

    now_ns: int = 1_700_000_000_000_000_000
    ticks: int = 0

    def wall_ns(self) -> int:
        """Nanoseconds since the Unix epoch."""
        self.now_ns += 1_000_000
        return self.now_ns

    def mono_ns(self) -> int:
        """Nanoseconds that never run backwards."""
        self.ticks += 1_000_000
        return self.ticks
