"""Say what this machine runs: which versions of which libraries, and engines for which targets."""

import importlib
from typing import cast

from store.runtime.backends.base import BackendRuntime
from store.runtime.backends.gpu import first_gpu
from store.runtime.backends.registry import BACKENDS


def runtime_of(backend: str) -> BackendRuntime | None:
    """Import and return what runs the engines of a backend; None if the backend is unknown."""
    if backend not in BACKENDS:
        return None
    module, _, name = BACKENDS[backend].runtime.partition(":")
    return cast("BackendRuntime", getattr(importlib.import_module(module), name)())


def library_version(backend: str) -> str | None:
    """Return the version of a backend's library; None if it is not installed, or the backend unknown."""
    runtime = runtime_of(backend)
    return None if runtime is None else runtime.version()


def covered(backend: str, target: str) -> bool:
    """Whether this machine runs engines of a backend that were compiled for a target."""
    runtime = runtime_of(backend)
    return runtime is not None and runtime.runs(target)


def device(backend: str) -> str:
    """Describe the device that engines of a backend would run on here, for messages."""
    runtime = runtime_of(backend)
    return first_gpu() if runtime is None else runtime.device()
