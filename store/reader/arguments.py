"""Check what a program on board passes to the reader, and the Python packages that it will need in flight."""

import importlib
import importlib.util
import math
import numbers
from collections.abc import Mapping, Sequence
from datetime import date

from store.base.clock import SystemClock, utc_day
from store.base.values import require_whole_number, shown
from store.errors import TranslateShortages, missing_package

_SCALES = "scales camera frames to the size of the network"


def as_floor(floor: object) -> int | Mapping[str, int] | None:
    """Return a floor as `FlightCache.open` takes it: a generation, a mapping of cache ids to generations, or None.

    Raises:
        TypeError: It is something else.
        ValueError: A generation is negative.
    """
    if floor is None:
        return None
    if isinstance(floor, Mapping):
        return {
            name: require_whole_number(f"the floor of {name!r:.40}", each, least=0)
            for name, each in floor.items()
        }
    return require_whole_number("floor", floor, least=0)


def as_generation(generation: object) -> int | None:
    """Return a generation, or None.

    Raises:
        TypeError: It is something else.
        ValueError: It is below 1.
    """
    return None if generation is None else require_whole_number("generation", generation, least=1)


def as_part(name: str, value: object) -> float | None:
    """Return a part from 0 to 1, or None; True is 0: there must be something, however little.

    Raises:
        TypeError: It is no number.
        ValueError: It is not from 0 to 1.
    """
    if value is None or value is False:
        return None
    if value is True:
        return 0.0
    if not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: expected a part from 0 to 1, found {type(value).__name__}")
    try:
        part = float(value)
    except OverflowError:  # a whole number that is too large for it
        part = math.inf
    if not 0 <= part <= 1:
        raise ValueError(f"{name}: expected a part from 0 to 1, found {part:g}")
    return part


def as_days(value: object) -> int | None:
    """Return a number of days, or None.

    Raises:
        TypeError: It is something else.
        ValueError: It is negative.
    """
    return None if value is None else require_whole_number("max_age_days", value, least=0)


def as_day(value: object) -> date:
    """Return a day; that of the clock, UTC, for None.

    Raises:
        TypeError: It is no date.
    """
    if value is None:
        return utc_day(SystemClock())
    if not isinstance(value, date):
        raise TypeError(f"today: expected a date, found {type(value).__name__}")
    return date(value.year, value.month, value.day)


def as_place(value: object) -> tuple[int, int] | None:
    """Return longitude and latitude in 1e-7 degree, from degrees and what may follow them; None for None.

    Raises:
        TypeError: These are no numbers.
        ValueError: These are no degrees.
    """
    if value is None:
        return None
    if (
        not isinstance(value, Sequence)
        or len(value) < 2
        or not all(isinstance(each, numbers.Real) for each in value)
    ):
        raise TypeError(f"origin: expected longitude and latitude in degrees, found {value!r:.60}")
    longitude, latitude = value[:2]
    if not (-180 <= longitude <= 180 and -90 <= latitude <= 90):
        raise ValueError(
            f"origin: expected a longitude from -180 to 180 and a latitude from -90 to 90, found "
            f"{shown(longitude)} and {shown(latitude)}"
        )
    return round(float(longitude) * 1e7), round(float(latitude) * 1e7)


def require_pillow(*, load: bool = False) -> None:
    """Refuse to fly without Pillow; with `load`, import it now.

    Raises:
        CacheUnusableError: It is not installed, does not load, or this process lacks memory for it.
    """
    try:
        spec = importlib.util.find_spec("PIL")
    except ImportError as error:  # from an import hook, as programs in one file have
        raise missing_package("pillow", _SCALES, error) from error
    if spec is None:
        raise missing_package("pillow", _SCALES)
    if load:
        try:
            with TranslateShortages(f"pillow, which {_SCALES}"):
                importlib.import_module("PIL.Image")
        except ImportError as error:
            raise missing_package("pillow", _SCALES, error) from error
