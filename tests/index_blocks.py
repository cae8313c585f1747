"""Blocks of random rows, and an index built of them in an unnamed file."""

import os
from contextlib import contextmanager
from pathlib import Path

import faiss
import numpy as np

from pipeline.index.faiss_builder import FaissIndexBuilder
from pipeline.index.plan import plan_index
from pipeline.request.options import IndexKind, IndexOptions
from store.formats.descriptor_block import Block, descriptor_ids

ZOOM = 12


def make_blocks(count, dimensions, *, per_cell=256, seed=0):
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((count, dimensions)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    out = []
    for number, start in enumerate(range(0, count, per_cell)):
        cell_x, cell_y = divmod(number, 64)
        rows = min(per_cell, count - start)
        offsets = np.arange(rows)
        ids = descriptor_ids(np.full(rows, ZOOM), cell_x * 16 + offsets // 16, cell_y * 16 + offsets % 16)
        out.append(
            Block(
                zoom=ZOOM,
                cell_x=cell_x,
                cell_y=cell_y,
                dimensions=dimensions,
                ids=ids,
                digests=np.zeros((rows, 32), np.uint8),
                vectors=vectors[start : start + rows],
                texture=np.ones(rows, np.float32),
            )
        )
    return out


def plan_for(kind, count, dimensions, **options):
    return plan_index(IndexOptions(kind=IndexKind(kind), **options), count=count, dimensions=dimensions)


@contextmanager
def unnamed_file(folder):
    descriptor = os.open(folder, os.O_TMPFILE | os.O_RDWR)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def build(blocks, plan, folder, *, count=None, threads=1, on_progress=None):
    dimensions = blocks[0].dimensions
    faiss.omp_set_num_threads(threads)
    try:
        with unnamed_file(folder) as path:
            total = sum(block.rows for block in blocks) if count is None else count
            facts = FaissIndexBuilder().build(
                blocks, total, dimensions, plan, fd_path=path, on_progress=on_progress
            )
            return facts, Path(path).read_bytes()
    finally:
        faiss.omp_set_num_threads(1)
