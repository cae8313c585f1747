"""How old the imagery of an area is on a day: runs of tiles by age. Pure."""

from datetime import date
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.planning.area_report import TileRun

MAX_RUNS: Final = 200_000

_MOST_DAYS: Final = (30, 90, 180, 365)
"""The greatest age of each class, days; the limits of both sectors are among them."""

_EPOCH: Final = date(1970, 1, 1)
_UNKNOWN: Final = np.iinfo(np.int32).min


def ages_document(places: NDArray[np.int64], captured: NDArray[np.int32], today: date) -> dict[str, Any]:
    """Return the tiles of an area by their age on a day.

    Args:
        places: Zoom, column and row of each tile, int64 [n, 3].
        captured: Days from 1970-01-01 to its capture, int32 [n]; the least int32 if unknown.
        today: The day.

    Returns:
        `as_of`, and `classes`: of each age that occurs `least_days`, `most_days` (both null of unknown ages, the second
        of the oldest), the number of `tiles` and their `runs`. Tiles from after the day are in the youngest one.
    """
    age = (today - _EPOCH).days - captured.astype(np.int64)
    number = np.where(captured == _UNKNOWN, len(_MOST_DAYS) + 1, np.searchsorted(_MOST_DAYS, age))
    limits = (0, *(most + 1 for most in _MOST_DAYS), None)
    return {
        "as_of": today.isoformat(),
        "classes": [
            {
                "least_days": limits[each],
                "most_days": _MOST_DAYS[each] if each < len(_MOST_DAYS) else None,
                "tiles": int((number == each).sum()),
                "runs": runs_of_places(places[number == each])[:MAX_RUNS],
            }
            for each in range(len(limits))
            if (number == each).any()
        ],
    }


def runs_of_places(places: NDArray[np.int64]) -> list[TileRun]:
    """Return the runs of places, zoom, column and row, int64 [n, 3]; each place occurs once."""
    z, x, y = places[np.lexsort((places[:, 1], places[:, 2], places[:, 0]))].T
    if not len(z):
        return []
    starts = np.flatnonzero(
        np.concatenate([[True], (np.diff(z) != 0) | (np.diff(y) != 0) | (np.diff(x) != 1)])
    )
    ends = np.concatenate([starts[1:], [len(z)]]) - 1
    found: list[TileRun] = np.stack([z[starts], y[starts], x[starts], x[ends]], axis=1).tolist()
    return found
