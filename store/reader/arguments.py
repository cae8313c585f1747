"""Check what a program on board passes to the reader, and the Python packages that it will need in flight."""

import importlib
import importlib.util
from collections.abc import Mapping

from store.base.values import require_whole_number
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
