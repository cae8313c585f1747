"""A wall clock that stands still, so that tests across midnight see one day."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, timezone

import pytest

from store.base.clock import SystemClock

TODAY = date(2026, 11, 30)
"""The day of the clock."""


@contextmanager
def fixed_day() -> Iterator[None]:
    """Stop the wall clock of this process at noon of `TODAY`; its monotonic clock goes on."""
    noon = datetime(TODAY.year, TODAY.month, TODAY.day, 12, tzinfo=timezone.utc)
    noon_ns = int(noon.timestamp()) * 10**9
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SystemClock, "wall_ns", lambda _: noon_ns)
        yield
