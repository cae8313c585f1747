"""Embedding with real worker processes: right rows, bad tiles, and workers that die."""

import hashlib
import io
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pipeline.embed.batcher import ATTEMPTS_ALONE, LocalDescriptorBatcher
from pipeline.engines.backends.onnxruntime import OnnxRuntimeCompiler
from pipeline.errors import EmbedError, ErrorKind
from pipeline.processes.pool import WorkerPool
from pipeline.tiles.images.decode import decode
from store.base.preprocessing import Preprocessing
from store.base.texture import texture_energy
from tests.embedding import PREPROCESSING, picture, rows_by_digest, windows_of, write_engine, write_pictures
from tests.embedding import embed as embed_with
from tests.engine_jobs import load_compiled
from tests.examples_tried import mostly_deep
from tests.processes import child_pids

MORTAL_WORKER = """
import os, signal, time
from pipeline.embed import worker
from pipeline.processes.serve import serve

read = worker.read_tile

def read_or_die(locator):
    if locator[0] != "mortal":
        return read(locator)
    _, path, flag, end = locator
    if flag != "always":
        try:
            os.unlink(flag)
        except FileNotFoundError:
            return read(("file", path))
    if end == "memory":
        raise MemoryError("no room")
    if end == "hang":
        time.sleep(600)
    os.kill(os.getpid(), getattr(signal, end))

worker.read_tile = read_or_die

if __name__ == "__main__":
    serve(worker.start)
"""


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return write_engine(tmp_path_factory.mktemp("engine"))


@pytest.fixture
def mortal(tmp_path, monkeypatch):
    (tmp_path / "mortal_worker.py").write_text(MORTAL_WORKER)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("pipeline.embed.batcher.WORKER", "mortal_worker")


@pytest.fixture
def tiles(tmp_path):
    return write_pictures(tmp_path, 30)


def embed(tiles, engine, *, workers=2, timeout_s=None, **more):
    return embed_with(LocalDescriptorBatcher(workers=workers, timeout_s=timeout_s), tiles, engine, **more)


def expected_rows(tiles, engine):
    loaded = load_compiled(OnnxRuntimeCompiler(), engine.path, batch=engine.batch)
    images = [decode(picture(int(each.locator[1].rpartition("/")[2].split(".")[0]))) for each in tiles]
    return loaded.run(np.stack([PREPROCESSING.apply(image) for image in images])), [
        np.float32(texture_energy(image)) for image in images
    ]


def test_every_tile_gets_the_row_of_its_own_pixels(tiles, engine):
    vectors, textures = expected_rows(tiles, engine)
    for workers, size in ((1, 7), (2, 5)):
        found = rows_by_digest(embed(tiles, engine, workers=workers, size=size))
        assert len(found) == 30
        for tile, vector, texture in zip(tiles, vectors, textures, strict=True):
            assert found[tile.sha256] == (vector.tobytes(), texture.tobytes())


def test_progress_and_dispatch_are_reported(tiles, engine):
    dispatched, done = [], []
    results = embed(tiles, engine, on_dispatch=dispatched.append, on_progress=done.append)
    assert sum(done) == 30
    assert sorted(window.number for window in dispatched) == sorted(
        result.window.number for result in results
    )
    assert len(set(dispatched)) == 6


def test_windows_are_taken_only_when_there_is_room(tiles, engine):
    taken = []

    def lazily():
        for window in windows_of(tiles, 1):
            taken.append(window.number)
            yield window

    batcher = LocalDescriptorBatcher(workers=1)
    results = batcher.embed(lazily(), engine=engine, preprocessing=PREPROCESSING)
    assert taken == []
    for finished, _ in enumerate(results, start=1):
        assert len(taken) <= finished + 2
    assert len(taken) == 6


def test_no_windows_start_no_worker(engine):
    missing = replace(engine, path="/nowhere")
    assert embed([], missing) == []


def test_workers_may_start_before_their_engine_exists(tiles, engine, monkeypatch):
    pids = []

    class Watched(WorkerPool):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            pids.append(set(map(str, self.pids)))

    monkeypatch.setattr("pipeline.embed.batcher.WorkerPool", Watched)
    before, batcher = child_pids(), LocalDescriptorBatcher(workers=2)
    with batcher.started("onnxruntime", "no_such_library"):
        early = child_pids() - before
        for _ in range(2):
            results = batcher.embed(windows_of(tiles), engine=engine, preprocessing=PREPROCESSING)
            assert len(rows_by_digest(results)) == 30
        assert child_pids() == before
    assert pids[0] == early
    assert len(early) == len(pids[1]) == 2
    assert not pids[0] & pids[1]


def test_workers_that_started_for_nothing_are_ended():
    before, batcher = child_pids(), LocalDescriptorBatcher(workers=2)
    with pytest.raises(KeyError), batcher.started("onnxruntime"):  # noqa: PT012 - what happens in between
        assert len(child_pids() - before) == 2
        raise KeyError
    assert child_pids() == before


def test_a_worker_that_dies_before_it_is_needed_costs_no_window(tiles, engine):
    retries, batcher = [], LocalDescriptorBatcher(workers=2)
    before = child_pids()
    with batcher.started():
        os.kill(int(min(child_pids() - before)), signal.SIGKILL)
        results = batcher.embed(
            windows_of(tiles), engine=engine, preprocessing=PREPROCESSING, on_retry=retries.append
        )
        assert len(rows_by_digest(results)) == 30
    assert [(retry.window, retry.workers) for retry in retries] == [(None, 1)]


def test_bad_tiles_do_not_affect_their_window(tiles, engine, tmp_path):
    (tmp_path / "3.tile").write_bytes(picture(99))
    (tmp_path / "11.tile").unlink()
    junk = b"not an image at all"
    (tmp_path / "17.tile").write_bytes(junk)
    tiles[17] = replace(tiles[17], sha256=hashlib.sha256(junk).hexdigest())
    results = embed(tiles, engine)
    bad = {each.name: each for result in results for each in result.bad}
    assert set(bad) == {str(tiles[number].place) for number in (3, 11, 17)}
    changed = bad[str(tiles[3].place)]
    assert changed.kind == ErrorKind.SOURCE_CHANGED
    assert tiles[3].sha256 in changed.message
    assert hashlib.sha256(picture(99)).hexdigest() in changed.message
    assert bad[str(tiles[11].place)].kind == ErrorKind.SOURCE_CHANGED
    assert bad[str(tiles[17].place)].kind == ErrorKind.BAD_TILE
    found = rows_by_digest(results)
    good = [tile for number, tile in enumerate(tiles) if number not in {3, 11, 17}]
    vectors, _ = expected_rows(good, engine)
    assert len(found) == 27
    for tile, vector in zip(good, vectors, strict=True):
        assert found[tile.sha256][0] == vector.tobytes()


def test_a_tile_of_one_pixel_has_a_row_and_no_texture(tiles, engine, tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1), (9, 99, 199)).save(buffer, "PNG")
    (tmp_path / "dot.tile").write_bytes(buffer.getvalue())
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    dot = replace(tiles[0], sha256=digest, locator=("file", str(tmp_path / "dot.tile")))
    (result,) = embed([dot], engine, workers=1)
    assert (len(result.units), result.bad, result.texture.tolist()) == (1, (), [0.0])


def test_a_descriptor_that_is_not_finite_is_a_bad_tile(tiles, engine):
    overflowing = Preprocessing(size=(32, 32), std=(1e-38, 1e-38, 1e-38))
    batcher = LocalDescriptorBatcher(workers=1)
    results = list(batcher.embed(windows_of(tiles[:5]), engine=engine, preprocessing=overflowing))
    assert {each.kind for result in results for each in result.bad} == {ErrorKind.BAD_VECTORS}
    assert sum(len(result.bad) + len(result.units) for result in results) == 5


def removals(tile, flag, end):
    return replace(tile, locator=("mortal", tile.locator[1], str(flag), end))


@pytest.mark.parametrize("end", mostly_deep(("SIGKILL", "SIGSEGV", "memory", "hang"), "SIGKILL", "memory"))
@pytest.mark.usefixtures("mortal")
def test_a_worker_that_dies_once_costs_a_retry_with_fewer_workers(tiles, engine, tmp_path, end):
    flag = tmp_path / "dies once"
    flag.touch()
    tiles[12] = removals(tiles[12], flag, end)
    retries, dispatched = [], []
    results = embed(
        tiles,
        engine,
        on_retry=retries.append,
        on_dispatch=dispatched.append,
        timeout_s=2 if end == "hang" else None,
    )
    plain = [replace(tile, locator=("file", tile.locator[1])) for tile in tiles]
    vectors, _ = expected_rows(plain, engine)
    found = rows_by_digest(results)
    assert len(results) == len(dispatched) == 6
    for tile, vector in zip(tiles, vectors, strict=True):
        assert found[tile.sha256][0] == vector.tobytes()
    (retry,) = retries
    assert (retry.window.number, retry.attempt, retry.workers) == (2, 1, 1)
    words = {"SIGKILL": "SIGKILL", "SIGSEGV": "SIGSEGV", "memory": "out of memory", "hang": "within 2 s"}
    assert words[end] in retry.why


@pytest.mark.usefixtures("mortal")
def test_a_window_that_always_kills_its_worker_is_named(tiles, engine):
    tiles[12] = removals(tiles[12], "always", "SIGSEGV")
    retries = []
    with pytest.raises(EmbedError, match=r"window 2 \(cells 12/2/0, 5 tiles\).*SIGSEGV") as caught:
        embed(tiles, engine, on_retry=retries.append)
    assert caught.value.kind is ErrorKind.WORKER_DIED
    assert "Fatal Python error: Segmentation fault" in caught.value.message
    assert [retry.workers for retry in retries] == [1] * ATTEMPTS_ALONE


def test_a_worker_killed_from_outside_costs_a_retry(tiles, engine, monkeypatch):
    pools = []

    class Watched(WorkerPool):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            pools.append(self)

    monkeypatch.setattr("pipeline.embed.batcher.WorkerPool", Watched)
    retries = []
    batcher = LocalDescriptorBatcher(workers=2)
    results = batcher.embed(
        windows_of(tiles, 1), engine=engine, preprocessing=PREPROCESSING, on_retry=retries.append
    )
    collected = [next(results)]
    os.kill(pools[0].pids[0], signal.SIGKILL)
    collected.extend(results)
    assert len(rows_by_digest(collected)) == 30
    assert len(collected) == 6


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"sha256": "00" * 32}, "SHA-256 0000.*found"),
        ({"version": "0.1"}, r"expected onnxruntime 0\.1"),
        pytest.param({"path": "/nowhere"}, "No such file", marks=pytest.mark.deep),
        pytest.param({"batch": 8}, "batch of 8", marks=pytest.mark.deep),
    ],
)
def test_an_engine_that_does_not_load_fails_at_once(tiles, engine, change, complaint):
    retries = []
    with pytest.raises(EmbedError, match=complaint) as caught:
        embed(tiles, replace(engine, **change), on_retry=retries.append)
    assert caught.value.kind is ErrorKind.EMBED_FAILED
    assert retries == []


def test_another_number_of_dimensions_is_refused(tiles, engine):
    with pytest.raises(EmbedError, match=r"\[5, 17\], found \[5, 16\]") as caught:
        embed(tiles, replace(engine, dimensions=17))
    assert caught.value.kind is ErrorKind.BAD_VECTORS


def test_preprocessing_of_another_size_fails_with_the_reason(tiles, engine):
    batcher = LocalDescriptorBatcher(workers=1)
    with pytest.raises(EmbedError, match=r"samples of \[3, 32, 32\].*found \[3, 16, 16\]"):
        list(batcher.embed(windows_of(tiles), engine=engine, preprocessing=Preprocessing(size=(16, 16))))


def test_zero_workers_are_refused():
    with pytest.raises(ValueError, match="at least 1 worker"):
        LocalDescriptorBatcher(workers=0)
