"""Loading and running engines and indexes, and refusing those that are not the expected ones."""

import os
import sys

import faiss
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.errors import CacheUnusableError, ErrorKind
from store.runtime.backends.base import import_library
from store.runtime.golden_vectors import golden_inputs
from store.runtime.load import (
    EngineLoadError,
    EngineRunError,
    IndexLoadError,
    IndexSearchError,
    RuntimeUnavailableError,
    load_engine,
    load_index,
)
from tests.toy_networks import DIMENSIONS, toy_network

BATCH = 4
SAMPLE = (3, 32, 32)
ENGINE = toy_network(batch=BATCH, size=(32, 32)).SerializeToString()
EXPECTED = {
    "backend": "onnxruntime",
    "version": onnxruntime.__version__,
    "input": "input",
    "output": "descriptor",
    "batch": BATCH,
}


def samples(count, seed=0):
    return np.random.default_rng(seed).random((count, *SAMPLE), np.float32) * 255


@pytest.fixture(scope="module")
def engine():
    return load_engine(ENGINE, **EXPECTED)


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 11])
def test_any_number_of_samples_gives_that_many_rows(engine, count):
    rows = engine.run(samples(count))
    assert (rows.shape, rows.dtype) == ((count, DIMENSIONS), np.float32)
    assert engine.dimensions == DIMENSIONS
    assert engine.sample_shape == SAMPLE


@given(st.permutations(range(6)), st.integers(1, 6))
def test_a_row_depends_on_its_own_sample_only(order, count):
    engine = load_engine(ENGINE, **EXPECTED)
    inputs = samples(6)
    alone = np.concatenate([engine.run(inputs[row : row + 1]) for row in range(6)])
    chosen = list(order)[:count]
    np.testing.assert_array_equal(engine.run(inputs[chosen]), alone[chosen])


def test_a_padded_batch_holds_nothing_of_the_batch_before(engine):
    first = engine.run(samples(3, seed=1))
    engine.run(samples(7, seed=2))
    np.testing.assert_array_equal(engine.run(samples(3, seed=1)), first)


def test_threads_do_not_change_a_bit(engine):
    two = load_engine(ENGINE, **EXPECTED, threads=2)
    np.testing.assert_array_equal(two.run(samples(4)), engine.run(samples(4)))


def test_bytes_views_paths_and_memory_files_are_accepted(engine, tmp_path):
    expected = engine.run(samples(2))
    path = tmp_path / "engine.onnx"
    path.write_bytes(ENGINE)
    descriptor = os.memfd_create("engine")
    try:
        os.write(descriptor, ENGINE)
        for source in (memoryview(ENGINE), bytearray(ENGINE), str(path), f"/proc/self/fd/{descriptor}"):
            np.testing.assert_array_equal(load_engine(source, **EXPECTED).run(samples(2)), expected)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    "wrong",
    [
        samples(2).astype(np.float64),
        samples(2)[:, :, :31],
        samples(2)[:, :1],
        samples(2)[0],
        np.zeros((2, 3), np.float32),
        np.float32(1),
    ],
)
def test_samples_of_another_shape_or_type_are_refused(engine, wrong):
    with pytest.raises(EngineRunError, match=r"expected samples as float32 \[n, 3, 32, 32\], found"):
        engine.run(np.asarray(wrong))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"version": "1.0.0"}, rf"expected onnxruntime 1\.0\.0.*found onnxruntime {onnxruntime.__version__}"),
        ({"input": "image"}, r"an input called 'image', found \['input'\]"),
        ({"output": "vector"}, r"an output called 'vector', found \['descriptor'\]"),
        ({"batch": 8}, r"batch of 8.*found \[4, 3, 32, 32\]"),
    ],
)
def test_an_engine_other_than_expected_is_refused(change, complaint):
    with pytest.raises(EngineLoadError, match=complaint):
        load_engine(ENGINE, **(EXPECTED | change))


@pytest.mark.parametrize("data", [b"", b"junk" * 50, ENGINE[:-1], ENGINE[: len(ENGINE) // 2]])
def test_damaged_engines_are_refused(data):
    with pytest.raises(EngineLoadError, match="ONNX Runtime can load"):
        load_engine(data, **EXPECTED)


def test_an_engine_with_open_sizes_or_another_rank_is_refused():
    with pytest.raises(EngineLoadError, match="fixed sizes"):
        load_engine(toy_network(batch=BATCH, size=("h", "w")).SerializeToString(), **EXPECTED)
    with pytest.raises(EngineLoadError, match=r"output of \[4, d\]"):
        load_engine(toy_network(batch=BATCH, rank_out=4, size=(32, 32)).SerializeToString(), **EXPECTED)
    integers = onnx.load_from_string(ENGINE)
    integers.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    with pytest.raises(EngineLoadError):
        load_engine(integers.SerializeToString(), **EXPECTED)


def test_an_engine_that_takes_any_batch_runs_with_that_of_the_ground_or_with_one():
    data = toy_network(size=(32, 32)).SerializeToString()
    ground, flight = load_engine(data, **EXPECTED), load_engine(data, **EXPECTED, single=True)
    assert (ground.batch, flight.batch) == (BATCH, 1)
    samples = golden_inputs((BATCH + 1, *ground.sample_shape))
    assert np.abs(ground.run(samples) - flight.run(samples)).max() < 1e-6
    assert load_engine(ENGINE, **EXPECTED, single=True).batch == BATCH


def test_an_unknown_backend_and_a_missing_library_are_reported(monkeypatch):
    with pytest.raises(RuntimeUnavailableError, match=r"onnxruntime.*found one of 'abacus'"):
        load_engine(ENGINE, **(EXPECTED | {"backend": "abacus"}))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(RuntimeUnavailableError, match="'onnxruntime'") as error:
        load_engine(ENGINE, **EXPECTED)
    assert (error.value.kind, error.value.hint) == (
        ErrorKind.RUNTIME_UNAVAILABLE,
        "pip install 'c10[onboard]'",
    )
    with pytest.raises(RuntimeUnavailableError, match="'faiss'"):
        load_index(b"", kind="flat", dimensions=4, ntotal=0)


def index_bytes(kind="flat", count=40, dimensions=8, metric=faiss.METRIC_INNER_PRODUCT):
    rows = np.random.default_rng(3).standard_normal((count, dimensions)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    inner = {
        "flat": lambda: faiss.IndexFlat(dimensions, metric),
        "hnsw": lambda: faiss.IndexHNSWFlat(dimensions, 8, metric),
    }[kind]()
    index = faiss.IndexIDMap2(inner)
    index.add_with_ids(rows, np.arange(count, dtype=np.int64) + (14 << 58))
    return faiss.serialize_index(index).tobytes(), rows


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
@pytest.mark.parametrize("way", ["bytes", "view", "path", "memory file"])
def test_an_index_finds_its_own_rows(tmp_path, kind, way):
    data, rows = index_bytes(kind)
    path = tmp_path / "index"
    path.write_bytes(data)
    descriptor = os.memfd_create("index")
    try:
        os.write(descriptor, data)
        source = {
            "bytes": data,
            "view": memoryview(data),
            "path": str(path),
            "memory file": f"/proc/self/fd/{descriptor}",
        }[way]
        index = load_index(source, kind=kind, dimensions=8, ntotal=40)
    finally:
        os.close(descriptor)
    scores, ids = index.search(rows, 3)
    assert (scores.shape, scores.dtype, ids.shape, ids.dtype) == ((40, 3), np.float32, (40, 3), np.int64)
    assert (ids[:, 0] - (14 << 58)).tolist() == list(range(40))
    assert (np.diff(scores, axis=1) <= 0).all()


def test_more_neighbours_than_rows_are_marked_absent():
    data, rows = index_bytes(count=2)
    _, ids = load_index(data, kind="flat", dimensions=8, ntotal=2).search(rows[:1], 4)
    assert (ids[0, :2] >= 0).all()
    assert (ids[0, 2:] == -1).all()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"kind": "hnsw"}, "kind: expected hnsw, found flat"),
        ({"dimensions": 9}, "dimensions: expected 9, found 8"),
        ({"ntotal": 41}, "rows: expected 41, found 40"),
        ({"metric": "l2"}, "metric: expected l2, found ip"),
    ],
)
def test_an_index_other_than_expected_is_refused(change, complaint):
    data, _ = index_bytes()
    with pytest.raises(IndexLoadError, match=complaint):
        load_index(data, **({"kind": "flat", "dimensions": 8, "ntotal": 40} | change))


def test_another_metric_and_an_index_without_ids_are_refused():
    data, rows = index_bytes(metric=faiss.METRIC_L2)
    with pytest.raises(IndexLoadError, match="metric: expected ip"):
        load_index(data, kind="flat", dimensions=8, ntotal=40)
    bare = faiss.IndexFlatIP(8)
    bare.add(rows)
    with pytest.raises(IndexLoadError, match="kind: expected flat, found IndexFlatIP"):
        load_index(faiss.serialize_index(bare).tobytes(), kind="flat", dimensions=8, ntotal=40)


@pytest.mark.parametrize("length", [0, 3, 20, 100, 1000, -8, -1])
def test_truncated_indexes_are_refused_from_bytes_and_from_files(tmp_path, length):
    data = index_bytes()[0][:length]
    path = tmp_path / "index"
    path.write_bytes(data)
    # The mapped reader does not miss a part of one last element; the digest does, before anything is loaded.
    for source in (data,) if length == -1 else (data, str(path)):
        with pytest.raises(IndexLoadError, match="faiss can read"):
            load_index(source, kind="flat", dimensions=8, ntotal=40)


def test_a_missing_index_file_is_refused(tmp_path):
    with pytest.raises(IndexLoadError, match="faiss can read"):
        load_index(str(tmp_path / "none"), kind="flat", dimensions=8, ntotal=40)


@pytest.mark.parametrize(
    ("queries", "k", "complaint"),
    [
        (np.zeros((1, 9), np.float32), 1, r"float32 \[n, 8\], found float32 \[1, 9\]"),
        (np.zeros((1, 8)), 1, "found float64"),
        (np.zeros(8, np.float32), 1, r"found float32 \[8\]"),
        (np.full((1, 8), np.nan, np.float32), 1, "finite"),
        (np.zeros((1, 8), np.float32), 0, "at least 1"),
    ],
)
def test_bad_queries_are_refused(queries, k, complaint):
    index = load_index(index_bytes()[0], kind="flat", dimensions=8, ntotal=40)
    with pytest.raises(IndexSearchError, match=complaint):
        index.search(queries, k)


@pytest.mark.parametrize("error", ["OSError('libgomp.so.1: cannot open')", "RuntimeError('another NumPy')"])
def test_a_library_that_does_not_load_is_not_there(tmp_path, monkeypatch, error):
    (tmp_path / "a_broken_library.py").write_text(f"raise {error}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RuntimeUnavailableError, match=r"for a test, found none: (libgomp|another NumPy)"):
        import_library("a_broken_library", "a test")
    (tmp_path / "a_broken_library.py").write_text("raise MemoryError\n")
    with pytest.raises(CacheUnusableError):
        import_library("a_broken_library", "a test")
