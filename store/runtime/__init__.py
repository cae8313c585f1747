"""Run engines and search indexes with the libraries that are installed here.

    from store.runtime import DescriptorIndex, Engine, ExecutionError, load_engine, load_index

Part of the aircraft's code. It imports `store.base`, `store.formats` and `store.errors`, and each library
only when an engine or an index needs it. Its callers have verified the bytes; it never opens a cache.
"""

from typing import TYPE_CHECKING, Any

from store.errors import TranslateShortages, import_takes

if TYPE_CHECKING:
    from store.runtime.load import (
        DescriptorIndex,
        Engine,
        EngineLoadError,
        EngineRunError,
        ExecutionError,
        IndexLoadError,
        IndexSearchError,
        RuntimeUnavailableError,
        load_engine,
        load_index,
    )

__all__ = [
    "DescriptorIndex",
    "Engine",
    "EngineLoadError",
    "EngineRunError",
    "ExecutionError",
    "IndexLoadError",
    "IndexSearchError",
    "RuntimeUnavailableError",
    "load_engine",
    "load_index",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - the type checker sees the imports above
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with TranslateShortages("NumPy, which this package needs", takes=import_takes("numpy")):
        from store.runtime import load  # noqa: PLC0415 - heavy, and not needed to import a sibling module

    return getattr(load, name)
