"""Fewer processes that compile for ONNX Runtime: one for all tests of the same network, or none."""

import contextlib
import importlib
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.engines.backends import onnxruntime
from pipeline.engines.backends.compile_request import CompileRequest
from pipeline.engines.onnx.file import onnx_digest
from pipeline.engines.port import CompiledEngine, EngineSignature
from pipeline.errors import CompileError

KEPT = 64
"""Engines that are kept in memory, each of a few KiB to a MiB: those that were asked for last."""
_kept = OrderedDict()


@contextlib.contextmanager
def shared_engines():
    """Have compiles in this process give the engine, and report the progress, of an earlier one of the same job."""
    compile_in_child = onnxruntime.compile_in_child

    def shared(module, job, compiler, *, engine, on_progress=None, **more):
        key = module, compiler.version, replace(job, onnx=Path(), timing_cache=None)
        if key not in _kept or _digest(job.onnx) != job.onnx_sha256:
            told = []

            def tell(value):
                told.append(value)
                if on_progress is not None:
                    on_progress(value)

            made = compile_in_child(module, job, compiler, engine=engine, on_progress=tell, **more)
            _kept[key] = made, told, engine.read_bytes()
        else:
            made, told, content = _kept[key]
            engine.write_bytes(content)
            for value in told if on_progress is not None else ():
                on_progress(value)
        _kept.move_to_end(key)
        while len(_kept) > KEPT:
            _kept.popitem(last=False)
        return replace(made, path=engine)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxruntime, "compile_in_child", shared)
        yield


@pytest.fixture(autouse=True)
def engines_are_shared():
    """For the `conftest.py` of a folder whose tests build, and are no tests of a compiler."""
    with shared_engines():
        yield


def compile_here(module, job, compiler, *, engine, on_progress=None):
    """Compile as the child does, in this process: for tests of what an engine computes."""
    request = CompileRequest(job=job, backend=compiler.backend, version=compiler.version, engine=engine)
    child = importlib.import_module(module)
    answer = child.compile_network(request.to_message(), on_progress or (lambda _: None))
    shapes = tuple(answer["input_shape"]), tuple(answer["output_shape"])
    signature = EngineSignature(
        input=job.input, input_shape=shapes[0], output=job.output, output_shape=shapes[1]
    )
    return CompiledEngine(path=engine, seconds=answer["seconds"], log="", signature=signature)


def _digest(network):
    try:
        return onnx_digest(network)
    except CompileError:
        return None  # the child says what is wrong with it
