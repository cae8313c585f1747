"""Read when tiles were captured from the last column of a tile table. Pure, and without NumPy.

`c10 status` asks for it, and must start fast: it reads that column alone.
"""

import struct
from datetime import date
from typing import Final

from store.base.valueclass import valueclass

UNKNOWN_DATE: Final = -(1 << 31)
"""The day of a tile whose capture date is unknown."""

EPOCH: Final = date(1970, 1, 1).toordinal()
"""Day 0 of the column."""

DAY_BYTES: Final = 4
"""Size of a day in the column, which is the last of the table."""


@valueclass(frozen=True, slots=True, kw_only=True)
class CaptureDates:
    """The first and the last day on which tiles were captured, and how many tiles have no date."""

    oldest: date | None
    newest: date | None
    undated: int

    def __str__(self) -> str:
        if self.oldest is None or self.newest is None:
            return "unknown"
        known = " to ".join(dict.fromkeys((str(self.oldest), str(self.newest))))
        return f"{known}, unknown for {self.undated:,}" if self.undated else known


def parse_capture_column(column: bytes | memoryview) -> CaptureDates:
    """Return the dates of a column of days since 1970-01-01, little-endian int32 [n].

    Raises:
        ValueError: It is no whole column, or a day is in no year from 1 to 9999.
    """
    try:
        days = struct.unpack(f"<{len(column) // DAY_BYTES}i", column)
        known = set(days) - {UNKNOWN_DATE}
        oldest, newest = (date.fromordinal(EPOCH + pick(known)) if known else None for pick in (min, max))
    except (struct.error, OverflowError) as error:
        raise ValueError(f"expected days of 4 bytes, found {error}") from error
    return CaptureDates(oldest=oldest, newest=newest, undated=days.count(UNKNOWN_DATE))
