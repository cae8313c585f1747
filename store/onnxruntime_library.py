"""Imports ONNX Runtime without what it would tell its maker.

Releases of today (1.32) keep an id of the machine and a queue of events below `$XDG_CACHE_HOME`, and look for a host to
send them to as soon as an engine is loaded, on the ground and on board.
"""

import os
from types import ModuleType
from typing import Final

from store.execution import import_library

SILENCE: Final = "ORT_DISABLE_TELEMETRY"
"""Looked at when the library is loaded; its own function to the same end comes too late by then."""


def onnxruntime(purpose: str) -> ModuleType:
    """Return the library.

    Args:
        purpose: What needs it, for the message.

    Raises:
        RuntimeUnavailableError: It is not installed, or does not load.
    """
    os.environ.setdefault(SILENCE, "1")
    return import_library("onnxruntime", purpose)
