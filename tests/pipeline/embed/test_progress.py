"""How much of a window is done is told while it is under way, whatever becomes of its worker."""

import time
from dataclasses import replace
from itertools import pairwise

import pytest

from pipeline.embed.batcher import LocalDescriptorBatcher
from tests.embedding import BATCH, embed, write_engine, write_pictures

SLOW_WORKER = """
import os, signal, time
from pipeline.embed import worker
from pipeline.processes.serve import serve

load, read = worker.load_engine, worker.read_tile

class Slow:
    def __init__(self, engine):
        self._engine = engine

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def run(self, samples):
        time.sleep(0.22)
        return self._engine.run(samples)

def read_or_die(locator):
    if locator[0] != "mortal":
        return read(locator)
    _, path, flag = locator
    try:
        os.unlink(flag)
    except FileNotFoundError:
        return read(("file", path))
    os.kill(os.getpid(), signal.SIGKILL)

worker.load_engine = lambda *each, **named: Slow(load(*each, **named))
worker.read_tile = read_or_die

if __name__ == "__main__":
    serve(worker.start)
"""
"""A worker whose network takes a little longer for each batch of four tiles than there is between two reports."""


@pytest.fixture
def slow(tmp_path, monkeypatch):
    (tmp_path / "slow_worker.py").write_text(SLOW_WORKER)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("pipeline.embed.batcher.WORKER", "slow_worker")


def test_a_window_is_reported_batch_by_batch(slow, tmp_path):
    tiles, told = write_pictures(tmp_path, 30), []
    results = embed(
        LocalDescriptorBatcher(workers=1),
        tiles,
        write_engine(tmp_path),
        size=30,
        on_progress=lambda amount: told.append((time.monotonic(), amount)),
    )
    ended = time.monotonic()
    assert len(results) == 1
    assert [amount for _, amount in told[:-1]] == [BATCH] * 7
    assert sum(amount for _, amount in told) == 30
    times = [when for when, _ in told]
    assert max(later - earlier for earlier, later in pairwise(times)) < 1
    # They were told while the window was under way, and not at its end.
    assert ended - times[0] > 5 * 0.22


def test_a_window_that_is_tried_again_counts_once(slow, tmp_path):
    tiles, told, retries = write_pictures(tmp_path, 16), [], []
    flag = tmp_path / "flag"
    flag.touch()
    mortal = replace(tiles[12], locator=("mortal", tiles[12].locator[1], str(flag)))
    results = embed(
        LocalDescriptorBatcher(workers=1),
        [*tiles[:12], mortal, *tiles[13:]],
        write_engine(tmp_path),
        size=16,
        on_progress=told.append,
        on_retry=retries.append,
    )
    assert len(results) == len(retries) == 1
    assert min(told) > 0
    assert sum(told) == 16


def test_several_workers_report_side_by_side(slow, tmp_path):
    tiles, told = write_pictures(tmp_path, 40), []
    embed(LocalDescriptorBatcher(workers=2), tiles, write_engine(tmp_path), size=20, on_progress=told.append)
    assert sum(told) == 40
    assert len(told) >= 8
