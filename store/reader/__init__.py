"""Read a flight cache on board: open it, verify it, hand out engines, index and tiles.

    from store.reader import ALLOW_UNSIGNED, FlightCache, NoGoError, TrustedKey

It imports only the other folders of the aircraft's code, neither the journal nor LMDB, and never writes to a
cache.
"""

from typing import TYPE_CHECKING, Any

from store.errors import TranslateShortages, import_takes

if TYPE_CHECKING:
    from store.reader.flight_cache import (
        ALLOW_UNSIGNED,
        Answer,
        Candidate,
        FlightCache,
        LoadedCache,
        Memory,
        NoGoError,
        Readiness,
        Tile,
        TrustedKey,
        Verification,
    )

__all__ = [
    "ALLOW_UNSIGNED",
    "Answer",
    "Candidate",
    "FlightCache",
    "LoadedCache",
    "Memory",
    "NoGoError",
    "Readiness",
    "Tile",
    "TrustedKey",
    "Verification",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - the type checker sees the imports above
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with TranslateShortages("NumPy, which this package needs", takes=import_takes("numpy")):
        from store.reader import flight_cache  # noqa: PLC0415 - heavy, and not needed to import a sibling module

    return getattr(flight_cache, name)
