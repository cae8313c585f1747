"""Parse a CSV file of the dates on which tiles were photographed. Pure.

The header has the columns z, x, y and captured (an ISO date such as 2026-03-01), in any order; other columns
are ignored. Tiles that the file does not name are of unknown age.
"""

import csv
from collections.abc import Mapping
from datetime import date

from pipeline.errors import ErrorKind, TileError
from pipeline.tiles.tile import Place
from store.backports import parse_day

MAX_CSV_BYTES = 256 << 20

_COLUMNS = ("z", "x", "y", "captured")
_MAX_LISTED = 10


def parse_capture_dates(text: str, *, name: str) -> Mapping[Place, date]:
    """Return the capture dates by tile.

    Args:
        text: The whole CSV file.
        name: The file's name in messages.

    Raises:
        TileError: with the line numbers of what is wrong.
    """
    rows = csv.reader(text.splitlines(), strict=True)
    dates: dict[Place, date] = {}
    wrong: list[str] = []
    try:
        header = [cell.strip().lower() for cell in next(rows, [])]
        if any(header.count(column) != 1 for column in _COLUMNS):
            raise _bad_dates(
                name,
                [f"line 1: expected the columns {', '.join(_COLUMNS)}, found {', '.join(header)[:80]!r}"],
            )
        columns = [header.index(column) for column in _COLUMNS]
        known_days: dict[str, date] = {}
        for row in rows:
            if not row:
                continue
            try:
                z, x, y, day = (row[index] for index in columns)
                place = Place(int(z), int(x), int(y))
                captured = known_days.get(day) or known_days.setdefault(day, parse_day(day.strip()))
            except (ValueError, IndexError):
                wrong.append(
                    f"line {rows.line_num}: expected z, x, y and an ISO date, found {','.join(row)[:60]!r}"
                )
                continue
            if dates.setdefault(place, captured) != captured:
                wrong.append(f"line {rows.line_num}: expected one date for tile {place}, found another above")
    except csv.Error as error:
        wrong.append(f"line {rows.line_num}: {error}")
    if wrong:
        raise _bad_dates(name, wrong)
    return dates


def _bad_dates(name: str, wrong: list[str]) -> TileError:
    listed = wrong[:_MAX_LISTED] + (
        [f"and {len(wrong) - _MAX_LISTED} more"] if len(wrong) > _MAX_LISTED else []
    )
    message = f"{name}: " + (
        listed[0] if len(listed) == 1 else "\n  ".join([f"{len(wrong)} bad lines", *listed])
    )
    return TileError(message, hint="correct the file", kind=ErrorKind.BAD_CAPTURE_DATES, subject=name)
