"""The tiles that an index must find are distinct ones, however often others occur."""

from threading import Event, Thread

import faiss
import numpy as np
import pytest

from pipeline.stages.index_sample import recall, take_samples
from store.disk.artifacts import ref_of
from store.formats import descriptor_block
from store.formats.index_delta import Rows
from store.formats.tables import BlockRow
from tests.index_blocks import make_blocks


class Stored(dict):
    """Artifacts in memory."""

    read = dict.__getitem__


class Answers:
    """An index that gives chosen ids."""

    def __init__(self, ids):
        self.ids = np.array(ids, np.int64)[:, None]

    def search(self, vectors, k):
        assert (len(vectors), k) == (len(self.ids), 1)
        return np.ones(self.ids.shape, np.float32), self.ids


@pytest.fixture
def stored():
    """Of 3,000 rows, 2,200 have one vector; of these, 1,000 have one picture and the others one each."""
    blocks, generator = make_blocks(3000, 8), np.random.default_rng(1)
    artifacts, rows = Stored(), []
    order = generator.permutation(3000)
    for block, start in zip(blocks, range(0, 3000, 256), strict=True):
        places = order[start : start + block.rows]
        block.digests[:] = generator.integers(0, 256, block.digests.shape, np.uint8)
        block.digests[places < 1000] = 7
        block.vectors[places < 2200] = blocks[0].vectors[np.argmax(order[:256] < 2200)]
        block.texture[:] = np.where(places == 2999, 0, 99)
        data = descriptor_block.encode(block)
        artifacts[ref := ref_of(data)] = data
        rows.append(BlockRow(zoom=12, cell_x=block.cell_x, cell_y=block.cell_y, rows=block.rows, ref=ref))
    return artifacts, rows, blocks


def test_a_sample_is_of_distinct_tiles(stored):
    artifacts, rows, blocks = stored
    ids = np.concatenate([block.ids for block in blocks])
    everything, added = take_samples(artifacts, rows, added=ids[:0], size=5000)
    assert (everything.tiles, added.tiles) == (2000, 0)
    assert len(everything.rows(8)) == 800
    few, _ = take_samples(artifacts, rows, added=ids[:0], size=256)
    assert few.tiles == 256
    assert 80 < len(few.rows(8)) < 125
    base, added = take_samples(artifacts, rows, added=ids[::3], size=5000)
    assert set(added.rows(8).ids.tolist()) <= set(ids[::3].tolist())
    assert not set(base.rows(8).ids.tolist()) & set(ids[::3].tolist())


def test_a_tile_is_found_if_an_equal_one_is(stored):
    artifacts, rows, blocks = stored
    ids, vectors = (np.concatenate([getattr(block, name) for block in blocks]) for name in ("ids", "vectors"))
    common = (vectors == blocks[1].vectors[np.argmax(blocks[1].digests[:, 0] == 7)]).all(axis=1)
    equal, others = ids[common], ids[~common]
    sample = Rows(
        np.array([equal[5], equal[0], others[0], others[1]]),
        np.concatenate([vectors[common][:2], vectors[~common][:2]]),
    )
    assert recall(Answers([equal[900], equal[0], others[0], others[1]]), sample, artifacts, rows) == 1
    assert recall(Answers([others[2], equal[0], others[1], -1]), sample, artifacts, rows) == 0.25
    assert recall(Answers([]), Rows(ids[:0], vectors[:0]), artifacts, rows) == 1


class Watcher:
    """An index that keeps the setting of FAISS while it is searched, and cannot be searched."""

    def search(self, vectors, k):
        self.seen = faiss_setting()
        raise RuntimeError


def faiss_setting():
    return faiss.cvar.distance_compute_blas_threshold


def test_the_setting_of_faiss_is_put_back_even_if_the_search_fails(stored):
    artifacts, rows, blocks = stored
    before, watcher = faiss_setting(), Watcher()
    with pytest.raises(RuntimeError):
        recall(watcher, Rows(blocks[0].ids, blocks[0].vectors), artifacts, rows)
    assert faiss_setting() == before
    assert watcher.seen == 1 != before


class During:
    """An index whose search does something before it answers."""

    def __init__(self, do, ids):
        self.do, self.answers = do, Answers(ids)

    def search(self, vectors, k):
        self.do()
        return self.answers.search(vectors, k)


def test_two_checks_at_once_put_the_setting_of_faiss_back(stored):
    """Builds of two caches may run in two threads of one process."""
    artifacts, rows, blocks = stored
    sample, first_is_over, ids = Rows(blocks[0].ids, blocks[0].vectors), Event(), blocks[0].ids
    second = Thread(
        target=recall, args=(During(lambda: first_is_over.wait(10), ids), sample, artifacts, rows)
    )

    def begin_second():
        second.start()
        second.join(0.1)

    before = faiss_setting()
    recall(During(begin_second, ids), sample, artifacts, rows)
    first_is_over.set()
    second.join()
    assert faiss_setting() == before
