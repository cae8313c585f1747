"""The index builder: equal blocks give equal bytes, whatever the threads and wherever blocks end."""

import hashlib

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import EmbedError, ErrorKind, RequestError
from pipeline.index.faiss_builder import FaissIndexBuilder
from pipeline.index.plan import FLAT_BELOW, IndexPlan, likely_index
from pipeline.index.row_order import chunk_rows
from pipeline.request.options import IndexKind, IndexOptions, Storage
from store.runtime.backends.base import RuntimeUnavailableError
from store.runtime.load import load_index
from tests.examples_tried import mostly_deep
from tests.index_blocks import build, make_blocks, plan_for, unnamed_file


@pytest.mark.parametrize("storage", mostly_deep(Storage, Storage.FP16))
@pytest.mark.parametrize(("kind", "count"), [("flat", 700), ("hnsw", 1200)])
def test_bytes_do_not_depend_on_threads_and_every_row_finds_itself(tmp_path, kind, storage, count):
    blocks = make_blocks(count, 24)
    plan = plan_for(kind, count, 24, storage=storage)
    built = [build(blocks, plan, tmp_path, threads=threads) for threads in (1, 2, 1)]
    assert len({hashlib.sha256(data).hexdigest() for _, data in built}) == 1
    facts, data = built[0]
    assert (facts.ntotal, facts.metric) == (count, "ip")
    index = load_index(data, kind=kind, dimensions=24, ntotal=count)
    vectors = np.concatenate([block.vectors for block in blocks])
    ids = np.concatenate([block.ids for block in blocks]).astype(np.int64)
    scores, found = index.search(vectors, 1)
    assert (found[:, 0] == ids).mean() >= (1.0 if kind == "flat" else 0.99)
    assert np.abs(scores[found[:, 0] == ids] - 1).max() < 2e-3


@pytest.mark.parametrize("storage", mostly_deep(Storage, Storage.FP32))
@pytest.mark.parametrize("share", mostly_deep((0.5, 0.9, 1.0), 0.9, 1.0))
def test_equal_rows_hide_no_row_of_a_graph_and_are_all_found(tmp_path, monkeypatch, share, storage):
    monkeypatch.setattr("pipeline.index.row_order._CHUNK_ROWS", 500)
    monkeypatch.setattr("pipeline.index.added_rows._CHUNK", 700)
    generator, count = np.random.default_rng(1), 4000
    blocks = make_blocks(count, 16)
    vectors = np.abs(generator.standard_normal((count, 8)) @ generator.standard_normal((8, 16)))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    equal = generator.random(count) < share
    vectors[equal] = vectors[equal][0]
    for block, start in zip(blocks, range(0, count, 256), strict=True):
        block.vectors[:] = vectors[start : start + block.rows]
    plan = plan_for("hnsw", count, 16, storage=storage)
    data = build(blocks, plan, tmp_path)[1]
    assert data == build(blocks, plan, tmp_path, threads=2)[1]
    ids = np.concatenate([block.ids for block in blocks]).astype(np.int64)
    index = load_index(data, kind="hnsw", dimensions=16, ntotal=count)
    assert (index.search(vectors[~equal], 1)[1][:, 0] == ids[~equal]).all()
    most = int(equal.sum())
    scores, found = index.search(vectors[equal][:1], most)
    assert set(found[0].tolist()) == set(ids[equal].tolist())
    assert np.abs(scores - 1).max() < 2e-3


def test_a_graph_is_not_the_work_of_its_block_sizes(tmp_path):
    # Two ways to cut the same rows: ids stay in the same order, chunks fall where the builder puts them.
    small, large = make_blocks(600, 8, per_cell=30), make_blocks(600, 8, per_cell=200)
    for blocks in (small, large):
        for block, start in zip(blocks, np.cumsum([0, *(b.rows for b in blocks)]), strict=False):
            object.__setattr__(block, "ids", np.arange(start, start + block.rows, dtype=np.uint64))
    plan = plan_for("hnsw", 600, 8)
    assert build(small, plan, tmp_path)[1] == build(large, plan, tmp_path)[1]


def test_more_rows_than_one_chunk_equal_the_same_calls_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.index.row_order._CHUNK_ROWS", 100)
    blocks = make_blocks(730, 12)
    plan = plan_for("hnsw", 730, 12)
    _, data = build(blocks, plan, tmp_path)
    inner = faiss.IndexHNSWFlat(12, 32, faiss.METRIC_INNER_PRODUCT)
    inner.hnsw.efConstruction, inner.hnsw.efSearch = 40, 64
    expected = faiss.IndexIDMap2(inner)
    vectors = np.concatenate([block.vectors for block in blocks])
    ids = np.concatenate([block.ids for block in blocks]).astype(np.int64)
    for start in range(0, 730, 100):
        expected.add_with_ids(vectors[start : start + 100], ids[start : start + 100])
    assert data == faiss.serialize_index(expected).tobytes()


def test_ivf_pq_is_trained_the_same_way_each_time(tmp_path):
    blocks = make_blocks(600, 16)
    plan = plan_for("ivf-pq", 600, 16, m=4)
    assert (plan.lists, plan.nprobe, plan.m) == (8, 8, 4)
    first, second = (build(blocks, plan, tmp_path, threads=threads)[1] for threads in (1, 2))
    assert first == second
    index = load_index(first, kind="ivf-pq", dimensions=16, ntotal=600)
    _, found = index.search(blocks[0].vectors, 10)
    ids = blocks[0].ids.astype(np.int64)
    assert (found == ids[:, None]).any(axis=1).mean() > 0.9


def test_progress_reaches_the_count(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.index.row_order._CHUNK_ROWS", 250)
    seen = []
    build(
        make_blocks(600, 4), plan_for("flat", 600, 4), tmp_path, on_progress=lambda *each: seen.append(each)
    )
    assert seen == [(250, 600), (500, 600), (600, 600)]


def refusal(folder, blocks, plan, **options):
    with pytest.raises(EmbedError) as caught:
        build(blocks, plan, folder, **options)
    assert caught.value.kind is ErrorKind.INDEX_FAILED
    return caught.value.message


def test_blocks_that_would_make_a_wrong_index_are_refused(tmp_path):
    blocks = make_blocks(600, 4)
    plan = plan_for("flat", 600, 4)
    assert "ascending order of their cells" in refusal(tmp_path, [blocks[1], blocks[0]], plan)
    assert "ascending order of their cells" in refusal(tmp_path, [blocks[0], blocks[0]], plan)
    assert "expected 601 rows in the blocks, found 600" in refusal(tmp_path, blocks, plan, count=601)
    assert "numbers, found 5" in refusal(tmp_path, [blocks[0], make_blocks(600, 5)[1]], plan)
    twice = make_blocks(4, 4)
    object.__setattr__(twice[0], "ids", twice[0].ids[[0, 1, 1, 2]])
    assert "without repetition" in refusal(tmp_path, twice, plan)


def test_training_needs_blocks_that_can_be_read_twice(tmp_path):
    blocks = make_blocks(600, 16)
    plan = plan_for("ivf-pq", 600, 16)
    with unnamed_file(tmp_path) as path, pytest.raises(EmbedError, match="read twice"):
        FaissIndexBuilder().build(iter(blocks), 600, 16, plan, fd_path=path)


def test_a_place_that_cannot_be_written_is_an_error(tmp_path):
    blocks = make_blocks(10, 4)
    plan = plan_for("flat", 10, 4)
    with pytest.raises(FileNotFoundError):
        FaissIndexBuilder().build(blocks, 10, 4, plan, fd_path=str(tmp_path / "no" / "index"))


@pytest.mark.parametrize("count", [10, 3000])
def test_a_full_disk_is_an_error_however_small_the_index(count):
    with pytest.raises(OSError, match="No space left"):
        FaissIndexBuilder().build(
            make_blocks(count, 64), count, 64, plan_for("flat", count, 64), fd_path="/dev/full"
        )


def test_an_empty_index_has_a_form(tmp_path):
    with unnamed_file(tmp_path) as path:
        facts = FaissIndexBuilder().build([], 0, 4, plan_for("auto", 0, 4), fd_path=path)
        index = load_index(path, kind="flat", dimensions=4, ntotal=0)
        _, ids = index.search(np.ones((1, 4), np.float32), 2)
    assert facts.ntotal == 0
    assert ids.tolist() == [[-1, -1]]


def test_auto_is_flat_for_few_and_a_graph_for_many():
    assert plan_for("auto", FLAT_BELOW - 1, 8) == IndexPlan(kind=IndexKind.FLAT, storage=Storage.FP32)
    assert plan_for("auto", FLAT_BELOW, 8) == IndexPlan(
        kind=IndexKind.HNSW, storage=Storage.FP32, m=32, ef=64
    )
    assert plan_for("hnsw", 5, 8, m=16, ef=99).to_document() == {
        "graph": 2,
        "kind": "hnsw",
        "metric": "ip",
        "storage": "fp32",
        "m": 16,
        "ef": 99,
        "ef_construction": 40,
        "lists": 0,
        "nprobe": 0,
    }


def test_an_estimate_refuses_nothing():
    """The length of a descriptor may not be known yet."""
    for options in (IndexOptions(kind=IndexKind.IVF_PQ, m=48), IndexOptions(kind=IndexKind.IVF_PQ)):
        found = likely_index(options, count=3, dimensions=1024)
        assert (found.m, found.lists, found.nprobe) == (options.m or 64, 1, 1)


def test_ivf_pq_refuses_what_cannot_be_trained():
    with pytest.raises(EmbedError, match=r"at least 256 tiles.*found 255"):
        plan_for("ivf-pq", 255, 16)
    with pytest.raises(EmbedError, match=r"divide the 10 dimensions.*found 4.*\[1, 2, 5, 10\]"):
        plan_for("ivf-pq", 1000, 10, m=4)


@pytest.mark.parametrize(
    ("dimensions", "m"), [(384, 64), (8448, 64), (100, 50), (97, 97), (194, 97), (2 * 3 * 127, 127), (7, 7)]
)
def test_the_default_number_of_subspaces_suits_the_dimensions(dimensions, m):
    assert plan_for("ivf-pq", 1000, dimensions).m == m


@given(st.integers(256, 10**7), st.integers(1, 50_000))
def test_every_ivf_pq_plan_can_be_built(count, dimensions):
    plan = plan_for("ivf-pq", count, dimensions)
    assert dimensions % plan.m == 0
    assert 1 <= plan.nprobe <= plan.lists <= count // 64 + 1


@given(st.integers(1, 65_536))
def test_a_chunk_is_bounded(dimensions):
    rows = chunk_rows(dimensions)
    assert 1 <= rows <= 16_384
    assert rows * dimensions * 4 <= 64 << 20


@pytest.mark.parametrize("kind", list(IndexKind))
def test_keys_name_the_library(kind):
    builder = FaissIndexBuilder()
    assert builder.library(kind) == f"faiss {faiss.__version__}"


def test_two_installed_faiss_stop_a_build_before_it_imports_either(tmp_path, monkeypatch):
    def both():
        raise RuntimeUnavailableError(
            "expected one distribution of faiss, found two", hint="pip uninstall one"
        )

    monkeypatch.setattr("pipeline.index.faiss_builder.installed_faiss", both)
    with pytest.raises(RequestError, match="found two") as caught:
        FaissIndexBuilder().library(IndexKind.FLAT)
    assert caught.value.kind is ErrorKind.BACKEND_UNAVAILABLE
    with pytest.raises(RequestError, match="found two"):
        build(make_blocks(4, 4), plan_for("flat", 4, 4), tmp_path)
