"""A worker that prepares batches while its engine runs: the answers and errors of one that does not."""

import hashlib
import time
from dataclasses import replace

import numpy as np
import pytest

from pipeline.embed.batcher import LocalDescriptorBatcher
from pipeline.embed.worker import AheadEmbedder, Embedder
from pipeline.embed.worker_messages import worker_request
from pipeline.errors import EmbedError, ErrorKind
from store.runtime.backends.base import EngineRunError
from tests.embedding import PREPROCESSING, embed, rows_by_digest, windows_of, write_engine, write_pictures

AHEAD_WORKER = """
import os, signal
from dataclasses import replace
from pipeline.embed import worker
from pipeline.processes.serve import serve
from store.runtime.backends.registry import BACKENDS

BACKENDS["onnxruntime"] = replace(BACKENDS["onnxruntime"], on_gpu=True)
read = worker.read_tile

def read_or_die(locator):
    if locator[0] == "SIGSEGV":
        os.kill(os.getpid(), signal.SIGSEGV)
    if locator[0] == "memory":
        raise MemoryError("no room")
    if locator[0] == "broken":
        raise RuntimeError("a decoder with an error of its own")
    return read(locator)

worker.read_tile = read_or_die

if __name__ == "__main__":
    serve(worker.start)
"""
"""The product's worker, as for an engine on a GPU, with tiles that end it."""


@pytest.fixture
def ahead(tmp_path, monkeypatch):
    (tmp_path / "ahead_worker.py").write_text(AHEAD_WORKER)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("pipeline.embed.batcher.WORKER", "ahead_worker")


@pytest.fixture
def tiles(tmp_path):
    return write_pictures(tmp_path, 30)


def embedded(tiles, folder, *, workers=1, **more):
    return embed(LocalDescriptorBatcher(workers=workers), tiles, write_engine(folder), **more)


def test_rows_bad_tiles_and_progress_are_those_of_a_worker_that_waits(tiles, tmp_path, monkeypatch):
    junk = b"no picture"
    (tmp_path / "17.tile").write_bytes(junk)
    tiles[17] = replace(tiles[17], sha256=hashlib.sha256(junk).hexdigest())
    for number in range(5, 10):
        tiles[number] = replace(tiles[number], locator=("file", "/nowhere"))
    expected = embedded(tiles, tmp_path)
    (tmp_path / "ahead_worker.py").write_text(AHEAD_WORKER)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("pipeline.embed.batcher.WORKER", "ahead_worker")
    for workers in (1, 2):
        done = []
        found = embedded(tiles, tmp_path, workers=workers, on_progress=done.append)
        assert rows_by_digest(found) == rows_by_digest(expected)
        assert sum(done) == 30
        by_number = sorted(found, key=lambda each: each.window.number)
        assert [each.bad for each in by_number] == [each.bad for each in expected]
    assert [len(each.units) for each in expected] == [5, 0, 5, 4, 5, 5]


@pytest.mark.usefixtures("ahead")
@pytest.mark.parametrize(
    ("end", "kind", "found"),
    [
        ("SIGSEGV", ErrorKind.WORKER_DIED, "SIGSEGV"),
        ("memory", ErrorKind.WORKER_DIED, "out of memory"),
        ("broken", ErrorKind.EMBED_FAILED, "a decoder with an error of its own"),
    ],
)
def test_the_window_is_named_that_ends_its_worker_while_another_one_runs(tiles, tmp_path, end, kind, found):
    tiles[12] = replace(tiles[12], locator=(end,))
    with pytest.raises(EmbedError, match=rf"window 2 \(cells 12/2/0, 5 tiles\).*{found}") as caught:
        embedded(tiles, tmp_path)
    assert caught.value.kind is kind


class Counting:
    """An engine whose descriptors are the first numbers of the samples; it fails at some of its runs."""

    batch, portion, sample_shape, dimensions = 2, 8, (3, 32, 32), 4

    def __init__(self, fails=()):
        self.runs, self._fails = [], fails

    def run(self, samples):
        self.runs.append(samples)
        if len(self.runs) in self._fails:
            raise EngineRunError("the network failed")
        return samples.reshape(len(samples), -1)[:, : self.dimensions].copy()


def requests_of(tiles, size):
    for window in windows_of(tiles, size):
        yield window.number, worker_request(window, [list(tile.locator) for tile in window.tiles])


def same(found, expected):
    return found.keys() == expected.keys() and all(
        np.array_equal(found[name], expected[name]) for name in found
    )


@pytest.mark.parametrize("size", [5, 30])
def test_a_failed_run_costs_its_window_alone_and_memory_is_used_again(tiles, size):
    alone = Embedder(Counting(), PREPROCESSING)
    expected = [alone.describe(request) for _, request in requests_of(tiles, size)]
    within = Embedder(Counting(), PREPROCESSING, ahead=True)
    assert all(same(within.describe(request), expected[at]) for at, request in requests_of(tiles, size))
    engine = Counting(fails={2})
    handler = AheadEmbedder(Embedder(engine, PREPROCESSING, ahead=True))
    failed = []
    for number, prepared in handler.read_ahead(requests_of(tiles, size)):
        try:
            assert same(handler(prepared, lambda _: None), expected[number])
        except EngineRunError:
            failed.append(number)
    assert failed == [0]
    assert {len(run) for run in engine.runs} <= {1, 2, 3, 4}
    assert len({run.__array_interface__["data"][0] for run in engine.runs}) <= 3


def test_a_window_is_answered_before_the_next_one_comes(tiles):
    handler = AheadEmbedder(Embedder(Counting(), PREPROCESSING, ahead=True))
    answered = []

    def one_at_a_time():
        """As a builder that sends a request when the one before is answered."""
        for number, request in requests_of(tiles, 5):
            until = time.monotonic() + 20
            while len(answered) < number:
                assert time.monotonic() < until, "the answer waits for the next request"
                time.sleep(0.01)
            yield number, request

    for _, prepared in handler.read_ahead(one_at_a_time()):
        answered.append(handler(prepared, lambda _: None))
    assert len(answered) == 6
