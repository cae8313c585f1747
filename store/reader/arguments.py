"""Check what a program on board passes to the reader, and the Python packages that it will need in flight."""

import importlib
import importlib.util
from collections.abc import Mapping

from store.base.values import whole_number
from store.errors import TranslateShortages, missing_package

_SCALES = "scales camera frames to the size of the network"


def as_floor(floor: object) -> int | Mapping[str, int] | None:
    """Return a floor as `FlightCache.open` takes it: a whole number, a mapping, or None.

    Raises:
        TypeError: It is something else.
    """
    if floor is None or isinstance(floor, Mapping):
        return floor
    return _as_number("floor", floor, "a generation, or a mapping of cache ids to generations")


def as_generation(generation: object) -> int | None:
    """Return a generation as a whole number, or None.

    Raises:
        TypeError: It is something else.
    """
    return None if generation is None else _as_number("generation", generation, "a whole number")


def require_pillow(*, load: bool = False) -> None:
    """Refuse to fly without Pillow; with `load`, import it now.

    Raises:
        CacheUnusableError: It is not installed, does not load, or this process lacks memory for it.
    """
    if importlib.util.find_spec("PIL") is None:
        raise missing_package("pillow", _SCALES)
    if load:
        try:
            with TranslateShortages(f"pillow, which {_SCALES}"):
                importlib.import_module("PIL.Image")
        except ImportError as error:
            raise missing_package("pillow", _SCALES, error) from error


def _as_number(name: str, value: object, expected: str) -> int:
    number = whole_number(value)
    if number is None:
        raise TypeError(f"expected {name} as {expected}, found {value!r:.60}")
    return number
