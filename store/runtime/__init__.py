"""Run engines and search indexes with the libraries that are installed here.

    from store.runtime import DescriptorIndex, Engine, ExecutionError

Part of the aircraft's code. It imports `store.base`, `store.formats` and `store.errors`, and each library only when
an engine or an index needs it. Its callers have verified the bytes; it never opens a cache.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from store.runtime.backends.base import ExecutionError
    from store.runtime.load import DescriptorIndex, Engine

__all__ = ["DescriptorIndex", "Engine", "ExecutionError"]

_HOMES = {
    "DescriptorIndex": "store.runtime.load",
    "Engine": "store.runtime.load",
    "ExecutionError": "store.runtime.backends.base",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - the type checker sees the imports above
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
