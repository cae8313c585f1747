"""Read a flight cache on board: open it, verify it, hand out engines, index and tiles.

    from store.reader import ALLOW_UNSIGNED, FlightCache, NoGoError, TrustedKey

It imports only the other folders of the aircraft's code, neither the journal nor LMDB, and never writes to a cache.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from store.errors import NoGoError
    from store.reader.flight_cache import FlightCache, Tile, Verification
    from store.trust.go_no_go import ALLOW_UNSIGNED
    from store.trust.signatures import TrustedKey

__all__ = ["ALLOW_UNSIGNED", "FlightCache", "NoGoError", "Tile", "TrustedKey", "Verification"]

_HOMES = {
    "ALLOW_UNSIGNED": "store.trust.go_no_go",
    "FlightCache": "store.reader.flight_cache",
    "NoGoError": "store.errors",
    "Tile": "store.reader.flight_cache",
    "TrustedKey": "store.trust.signatures",
    "Verification": "store.reader.flight_cache",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - the type checker sees the imports above
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
