"""Which compiler a request's backend means; it is imported when it is chosen."""

import importlib
from typing import cast

from pipeline.engines.port import EngineCompiler
from store.runtime.backends.registry import BACKENDS


def engine_compiler(backend: str) -> EngineCompiler:
    """Return the compiler of a backend; whether its library is installed shows when it is used."""
    module, _, name = BACKENDS[backend].compiler.partition(":")
    return cast("EngineCompiler", getattr(importlib.import_module(module), name)())
