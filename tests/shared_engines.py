"""Fewer processes: one that compiles for ONNX Runtime for all tests of the same network or none, and no workers."""

import contextlib
import functools
import importlib
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.embed.batcher import LocalDescriptorBatcher, WindowQueue, embed_error
from pipeline.embed.worker import load_embedder
from pipeline.embed.worker_messages import worker_request, worker_setup
from pipeline.engines.backends import onnxruntime
from pipeline.engines.backends.compile_request import CompileRequest
from pipeline.engines.onnx.file import onnx_digest
from pipeline.engines.port import CompiledEngine, EngineSignature
from pipeline.errors import CompileError
from pipeline.processes.outcome import Failed
from pipeline.processes.serve import describe_error
from pipeline.tiles.sources.read_tile import close_archives
from store.runtime import golden_vectors

KEPT = 64
"""Engines that are kept in memory, each of a few KiB to a MiB: those that were asked for last."""
_kept = OrderedDict()
_IMAGES = golden_vectors.golden_images
_OF_PROCESSES = {name: getattr(LocalDescriptorBatcher, name) for name in ("embed", "started")}


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


@functools.lru_cache(maxsize=16)
def _golden_images(*arguments, **named):
    images = _IMAGES(*arguments, **named)
    images.flags.writeable = False
    return images


@contextlib.contextmanager
def embedded_here():
    """Have local workers embed in this process, where each would load the libraries anew; draw golden images once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(golden_vectors, "golden_images", _golden_images)
        patch.setattr(LocalDescriptorBatcher, "embed", _embed_here)
        patch.setattr(LocalDescriptorBatcher, "started", lambda *_: contextlib.nullcontext())
        yield


def _embed_here(_, windows, *, engine, preprocessing, **callbacks):
    return _results(WindowQueue(windows, engine, callbacks), engine, preprocessing)


def _results(queue, engine, preprocessing):
    embedder = None
    try:
        while (window := queue.take()) is not None:
            done = functools.partial(queue.report, window)
            try:
                embedder = embedder or _load_embedder(engine, preprocessing)
                tiles = [list(tile.locator) for tile in window.tiles]
                answer = embedder.embed(worker_request(window, tiles), done)
            except Exception as error:
                told = describe_error(error)
                failed = Failed(**{name: told[name] for name in ("kind", "message", "traceback")})
                raise embed_error(window if embedder else None, failed) from error
            yield queue.finish(window, answer)
    finally:
        close_archives()  # as the end of a worker does


def _load_embedder(engine, preprocessing):
    return load_embedder(Path(engine.path).read_bytes(), worker_setup(engine, preprocessing))


@contextlib.contextmanager
def few_processes():
    """Share engines, and embed in this process."""
    with shared_engines(), embedded_here():
        yield


@pytest.fixture(scope="module", autouse=True)
def builds_in_few_processes():
    """For the `conftest.py` of a folder whose tests build, and are no tests of a compiler or of workers."""
    with few_processes():
        yield


@pytest.fixture
def real_workers(monkeypatch):
    """For a test of a whole build in a folder with the fixture above: here workers are processes."""
    for name in ("embed", "started"):
        monkeypatch.setattr(LocalDescriptorBatcher, name, _OF_PROCESSES[name])


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
