"""Building an index on a fake GPU: what is copied there and back, what keys say, the way to the CPU."""

import importlib.metadata
from types import SimpleNamespace

import faiss
import numpy as np
import pytest

import pipeline.index.faiss_builder
from pipeline.errors import EmbedError, ErrorKind
from pipeline.index.faiss_builder import FaissIndexBuilder
from pipeline.index.gpu import gpu_can_build
from pipeline.request.options import IndexKind, Storage
from store.runtime.backends.gpu import Gpu
from store.runtime.faiss_install import FaissDistribution
from store.runtime.load import load_index
from tests.index_blocks import build, make_blocks, plan_for

L4 = Gpu(index=0, name="NVIDIA L4", capability="sm89", memory=1 << 34, driver="12.9")


class FakeGpuFaiss:
    """Adds to faiss what its distribution for GPUs has; an index "on the GPU" is a clone."""

    def __init__(self, monkeypatch, *, gpus=(L4,), devices=1, distribution="faiss-gpu"):
        self.moved, self.scratch, self.options, self.fails = [], [], [], ""
        monkeypatch.setattr(pipeline.index.faiss_builder, "gpus", lambda: gpus)
        monkeypatch.setattr(
            pipeline.index.faiss_builder, "installed_faiss", lambda: FaissDistribution(distribution, "1.15.1")
        )
        for name, value in {
            "StandardGpuResources": lambda: SimpleNamespace(setTempMemory=self.scratch.append),
            "GpuClonerOptions": SimpleNamespace,
            "get_num_gpus": lambda: devices,
            "index_cpu_to_gpu": self.to_gpu,
            "index_gpu_to_cpu": faiss.clone_index,
        }.items():
            monkeypatch.setattr(faiss, name, value, raising=False)

    def to_gpu(self, resources, device, index, options):
        if self.fails:
            raise RuntimeError(self.fails)
        assert device == 0
        assert index.ntotal == 0
        self.options.append(options)
        self.moved.append(faiss.clone_index(index))
        return self.moved[-1]


@pytest.fixture
def gpu(monkeypatch):
    return FakeGpuFaiss(monkeypatch)


@pytest.mark.parametrize(("kind", "count", "options"), [("flat", 700, {}), ("ivf-pq", 600, {"m": 4})])
def test_an_index_goes_through_the_gpu_and_comes_back_for_the_cpu(
    tmp_path, monkeypatch, kind, count, options
):
    blocks, plan = make_blocks(count, 16), plan_for(kind, count, 16, **options)
    FakeGpuFaiss(monkeypatch, distribution="faiss-cpu")
    here, expected = build(blocks, plan, tmp_path)
    gpu = FakeGpuFaiss(monkeypatch)
    facts, data = build(blocks, plan, tmp_path)
    assert data == expected
    assert (here.note, facts.note) == ("", "built on NVIDIA L4")
    assert [index.ntotal for index in gpu.moved] == [count]
    assert gpu.scratch == [256 << 20]
    # A flat index in half precision would come back with rounded vectors.
    assert [each.useFloat16 for each in gpu.options] == [kind == "ivf-pq"]
    index = load_index(data, kind=kind, dimensions=16, ntotal=count)
    _, found = index.search(blocks[0].vectors, 10)
    assert (found == blocks[0].ids.astype(np.int64)[:, None]).any(axis=1).mean() > 0.9


@pytest.mark.parametrize(
    ("kind", "storage"),
    [(IndexKind.HNSW, Storage.FP32), (IndexKind.HNSW, Storage.FP16), (IndexKind.FLAT, Storage.FP16)],
)
def test_what_no_gpu_can_build_stays_on_the_cpu_without_a_note(tmp_path, gpu, kind, storage):
    plan = plan_for(str(kind), 300, 8, storage=storage)
    facts, _ = build(make_blocks(300, 8), plan, tmp_path)
    assert not gpu_can_build(plan)
    assert facts.note == ""
    assert gpu.moved == []


def test_without_a_gpu_the_cpu_builds_and_one_line_says_so(tmp_path, monkeypatch):
    gpu = FakeGpuFaiss(monkeypatch, gpus=(), devices=0)
    facts, _ = build(make_blocks(300, 8), plan_for("flat", 300, 8), tmp_path)
    assert facts.note == "built on the CPU: no GPU is visible"
    assert gpu.moved == []


def test_faiss_for_cpus_never_looks_for_a_gpu(tmp_path, monkeypatch):
    gpu = FakeGpuFaiss(monkeypatch, distribution="faiss-cpu")
    facts, _ = build(make_blocks(300, 8), plan_for("flat", 300, 8), tmp_path)
    assert facts.note == ""
    assert gpu.moved == []
    assert FaissIndexBuilder().library(IndexKind.IVF_PQ) == "faiss 1.15.1"


def test_keys_name_the_gpu_only_if_it_changes_the_index(monkeypatch):
    builder = FaissIndexBuilder()
    FakeGpuFaiss(monkeypatch)
    said = {kind: builder.library(kind) for kind in IndexKind}
    assert {kind for kind, text in said.items() if text.endswith(" gpu")} == {IndexKind.IVF_PQ}
    FakeGpuFaiss(monkeypatch, gpus=(), devices=0)
    assert builder.library(IndexKind.IVF_PQ) == "faiss 1.15.1"


def test_a_gpu_that_faiss_cannot_use_is_an_error_with_a_remedy(tmp_path, monkeypatch):
    """Not the CPU instead: the keys were made for the GPU."""
    FakeGpuFaiss(monkeypatch, devices=0)
    with pytest.raises(EmbedError, match="expected faiss to see the GPU") as caught:
        build(make_blocks(600, 16), plan_for("ivf-pq", 600, 16, m=4), tmp_path)
    assert caught.value.kind is ErrorKind.INDEX_FAILED
    assert 'CUDA_VISIBLE_DEVICES=""' in caught.value.hint


def test_a_failure_of_the_gpu_names_a_remedy(tmp_path, gpu):
    gpu.fails = "out of memory on device 0"
    with pytest.raises(EmbedError, match="out of memory on device 0") as caught:
        build(make_blocks(300, 8), plan_for("flat", 300, 8), tmp_path)
    assert "free memory of the GPU" in caught.value.hint


def test_faiss_for_gpus_builds_here(tmp_path):
    """With the real faiss for GPUs, if that is installed: on the GPU if there is one, else on the CPU."""
    names = {each.name for each in importlib.metadata.distributions()}
    if "faiss-gpu" not in names:
        pytest.skip("needs the extra gpu instead of cpu")
    plan = plan_for("flat", 700, 24)
    facts, data = build(make_blocks(700, 24), plan, tmp_path)
    assert facts.note.startswith("built on ")
    assert load_index(data, kind="flat", dimensions=24, ntotal=700).ntotal == 700
