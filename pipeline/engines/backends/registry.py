"""Which compiler a request's backend means; it is imported when it is chosen."""

import importlib
from pathlib import Path
from typing import cast

from pipeline.engines.port import EngineCompiler, EngineJob
from pipeline.errors import CompileError
from pipeline.request.options import EngineOptions
from store.runtime.backends.gpu import gpus
from store.runtime.backends.registry import AUTO, BACKENDS, DEFAULT_BACKEND


def engine_compiler(backend: str) -> EngineCompiler:
    """Return the compiler of a backend; whether its library is installed shows when it is used."""
    module, _, name = BACKENDS[backend].compiler.partition(":")
    return cast("EngineCompiler", getattr(importlib.import_module(module), name)())


def compiler_for(options: EngineOptions, precision: str | None = None) -> EngineCompiler:
    """Return the compiler that a request asks for.

    For "auto" it is the first in the order of preference whose library is here, whose engines run here, and
    which offers the precision, target and plug-ins of the request; ONNX Runtime if there is none, which then
    says what it lacks. Networks decide nothing: their operators show only when they are compiled.

    Args:
        options: The table `engine` of the request.
        precision: Replaces the request's precision, if given.
    """
    if options.backend != AUTO:
        return engine_compiler(options.backend)
    ranked = [(row.preference, row) for row in BACKENDS.values() if row.preference is not None]
    for _, row in sorted(ranked, key=lambda each: each[0]):
        # The library is not loaded in vain: TensorRT for RTX takes a second.
        if not row.on_gpu or gpus():
            compiler = engine_compiler(row.name)
            if _suits(compiler, options, precision or str(options.precision)):
                return compiler
    return engine_compiler(DEFAULT_BACKEND)


def _suits(compiler: EngineCompiler, options: EngineOptions, precision: str) -> bool:
    """Return whether a backend would compile a network here that has nothing unusual, and run it."""
    try:
        target = compiler.target(options.target)
        compiler.key_components(
            EngineJob(
                model=AUTO,
                role="descriptor",
                onnx=Path(),
                onnx_sha256="",
                input="",
                output="",
                sample_shape=(),
                precision=precision,
                target=target,
                plugins=tuple((Path(name), "") for name in options.plugins),
            )
        )
        return compiler.runs_here(target)
    except CompileError:
        return False
