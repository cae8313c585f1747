"""Memory of an index is freed after the build: a process that builds repeatedly must not fill it."""

import gc
from pathlib import Path

import numpy as np
import pytest

from pipeline.index.faiss_builder import FaissIndexBuilder
from pipeline.index.plan import plan_index
from pipeline.request.options import IndexKind, IndexOptions
from store.formats import descriptor_block

ROWS, DIMENSIONS = 2048, 1024


def block():
    vectors = np.random.default_rng(1).standard_normal((256, DIMENSIONS), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def all_blocks(vectors):
    places = np.arange(256)
    for cell in range(ROWS // 256):
        ids = descriptor_block.descriptor_ids(np.full(256, 20), 16 * cell + places // 16, places % 16)
        yield descriptor_block.Block(
            zoom=20,
            cell_x=cell,
            cell_y=0,
            dimensions=DIMENSIONS,
            ids=np.sort(ids),
            digests=np.zeros((256, 32), np.uint8),
            vectors=vectors,
            texture=np.ones(256, np.float32),
        )


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize("kind", [IndexKind.FLAT, IndexKind.HNSW])
def test_an_index_that_was_written_is_freed(tmp_path, kind):
    plan, vectors = plan_index(IndexOptions(kind=kind), count=ROWS, dimensions=DIMENSIONS), block()

    def build():
        FaissIndexBuilder().build(
            list(all_blocks(vectors)), ROWS, DIMENSIONS, plan, fd_path=str(tmp_path / "index")
        )

    build()
    gc.collect()
    before = resident()
    for _ in range(5):
        build()
    gc.collect()
    assert resident() - before < 2 * 4 * ROWS * DIMENSIONS
