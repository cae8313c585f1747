"""Tests that need a GPU: engines build, run, agree and keep pace; indexes are built there.

Runs where one is visible, with the extras `gpu` and, for GPUs that it knows, `rtx` installed:

    python -m pytest -m gpu tests/gpu -s

Measured rates are printed. Every comparison is made in one process, its sides in turn, and judged by medians.
"""

import functools
import hashlib
import importlib
import statistics
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.build.report import BuildOutcome
from pipeline.engines.backends.tensorrt import TENSORRT, TENSORRT_RTX, TensorRtCompiler
from pipeline.engines.precision.float16 import least_cosine
from pipeline.errors import CompileError
from pipeline.index.gpu import GpuIndex
from pipeline.request.options import EngineOptions
from pipeline.stages.engines.reference import Reference
from store.reader import ALLOW_UNSIGNED, FlightCache
from store.runtime.backends.base import RuntimeUnavailableError
from store.runtime.backends.cuda import Cuda
from store.runtime.backends.gpu import gpus
from store.runtime.backends.tensorrt import TensorRtExecutor
from store.runtime.capabilities import covered
from store.runtime.faiss_install import installed_faiss
from store.runtime.golden_vectors import agreement, batch_invariance, golden_inputs, parity
from store.runtime.load import load_index
from store.verify.verify import Depth, verify
from tests.engine_jobs import job_of, load_compiled
from tests.index_blocks import build as build_index
from tests.index_blocks import make_blocks, plan_for
from tests.networks import mobilenet, resnet50, vit_b14
from tests.small_builds import Site, spread

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not gpus(), reason="no NVIDIA GPU that cuda-python shows"),
]

FLAVOURS = {flavour.backend: flavour for flavour in (TENSORRT, TENSORRT_RTX)}
NETWORKS = {"resnet50": resnet50, "vit": vit_b14, "mobilenet": mobilenet}
BATCH, SIDE = 16, 224
LEAST_RATIO = 0.95
ROUNDS = 7


@functools.cache
def compiler_of(backend):
    """Return the compiler if it compiles for this GPU, else skip."""
    compiler = TensorRtCompiler(FLAVOURS[backend])
    try:
        target = compiler.target(None)
    except CompileError as error:
        return None, str(error)
    if not compiler.runs_here(target):
        return None, f"{backend} does not know {gpus()[0]}"
    return compiler, target


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    """Compile each engine once, on demand: (backend, network, precision) to job and bytes."""
    made = {}

    def get(backend, network, precision):
        compiler, target = compiler_of(backend)
        if compiler is None:
            pytest.skip(target)
        if (backend, network, precision) not in made:
            folder = tmp_path_factory.mktemp("engine")
            job = job_of(
                folder,
                NETWORKS[network](batch=BATCH, side=SIDE),
                model=network,
                sample_shape=(3, SIDE, SIDE),
                batch=BATCH,
                precision=precision,
                target=target,
            )
            compiled = compiler.compile(job, scratch=folder)
            print(
                f"\n{backend} {network} {precision}: {compiled.path.stat().st_size / 1e6:.1f} MB, {compiled.seconds:.1f} s"
            )
            made[backend, network, precision] = job, compiled.path.read_bytes()
        return made[backend, network, precision]

    return get


def loaded(backend, job, data):
    return load_compiled(
        compiler_of(backend)[0], data, target=job.target, batch=job.batch, precision=job.precision
    )


CASES = [
    pytest.param(backend, network, precision, id=f"{backend}-{network}-{precision}")
    for backend in FLAVOURS
    for network in NETWORKS
    for precision in ("fp32", "fp16", "bf16")
]


@pytest.mark.parametrize(("backend", "network", "precision"), CASES)
def test_engines_agree_with_their_networks(engines, backend, network, precision):
    job, data = engines(backend, network, precision)
    engine, inputs = loaded(backend, job, data), golden_inputs((8, *job.sample_shape))
    cosine, spread_of = parity(engine.run, Reference(job).run, inputs), batch_invariance(engine.run, inputs)
    print(f"\n{backend} {network} {precision}: cosine {cosine:.6f}, batch spread {spread_of:.2g}")
    assert cosine >= least_cosine(precision)
    assert spread_of == 0


@pytest.mark.parametrize("backend", FLAVOURS)
def test_many_overlapping_batches_give_the_same_rows_as_one_at_a_time(engines, backend):
    job, data = engines(backend, "mobilenet", "fp32")
    engine = loaded(backend, job, data)
    samples = golden_inputs((7 * BATCH + 3, *job.sample_shape))
    alone = np.concatenate(
        [engine.run(samples[start : start + BATCH]) for start in range(0, len(samples), BATCH)]
    )
    for _ in range(20):
        np.testing.assert_array_equal(engine.run(samples), alone)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("backend", FLAVOURS)
def test_one_sample_alone_costs_one_sample_and_gets_the_answer_of_a_batch(tmp_path, backend, precision):
    compiler, target = compiler_of(backend)
    if compiler is None:
        pytest.skip(target)
    job = job_of(
        tmp_path,
        resnet50(side=SIDE),
        sample_shape=(3, SIDE, SIDE),
        batch=BATCH,
        precision=precision,
        target=target,
        single=True,
    )
    compiled = compiler.compile(job, scratch=tmp_path)
    assert "compiled for batches" not in compiled.log
    data = compiled.path.read_bytes()
    ground, flight = (
        load_compiled(compiler, data, target=target, batch=BATCH, precision=precision, single=single)
        for single in (False, True)
    )
    assert (ground.batch, flight.batch) == (BATCH, 1)
    samples = golden_inputs((BATCH + 3, *job.sample_shape))
    least = 0.999999 if precision == "fp32" else least_cosine(precision)
    assert agreement(flight.run(samples), ground.run(samples)) >= least
    ratio = compared(
        f"{backend} {precision}, one frame",
        lambda: flight.run(samples[:1]),
        lambda: ground.run(samples[:1]),
        1,
    )
    assert ratio > 1


@pytest.mark.parametrize("backend", FLAVOURS)
def test_an_engine_releases_its_memory(engines, backend):
    job, data = engines(backend, "mobilenet", "fp32")
    cuda, free = Cuda(0, extra="gpu"), []
    for _ in range(4):
        engine = loaded(backend, job, data)
        engine.run(golden_inputs((BATCH, *job.sample_shape)))
        del engine
        free.append(cuda.free_memory())
    # The first one also loads the library's kernels, which stay.
    assert free[1] - free[-1] < 32 << 20
    cuda.close()


def rate_of(work, count):
    began = time.perf_counter()
    work()
    return count / (time.perf_counter() - began)


def compared(name, ours, raw, count):
    """Print and return how many times as fast as the raw engine ours is."""
    ours(), raw()
    rates = [(rate_of(ours, count), rate_of(raw, count)) for _ in range(ROUNDS)]
    mine, bare = (statistics.median(side) for side in zip(*rates, strict=True))
    print(f"\n{name}: {mine:.0f}/s, raw {bare:.0f}/s, ratio {mine / bare:.3f}")
    return mine / bare


class RawEngine:
    """Run the library alone: one batch on the device, computed repeatedly, nothing copied."""

    def __init__(self, backend, job, data):
        trt = importlib.import_module({"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}[backend])
        self.runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self.engine = self.runtime.deserialize_cuda_engine(data)
        self.context = self.engine.create_execution_context()
        self.cuda = Cuda(0, extra="gpu")
        for number in range(self.engine.num_io_tensors):
            name = self.engine.get_tensor_name(number)
            size = 4 * int(np.prod(tuple(self.engine.get_tensor_shape(name))))
            self.context.set_tensor_address(name, self.cuda.device_memory(size))
        self.stream = self.cuda.stream()

    def run(self, batches):
        for _ in range(batches):
            self.context.execute_async_v3(int(self.stream))
        self.cuda.drain(self.stream)


@pytest.mark.parametrize(("backend", "network", "precision"), CASES)
def test_engines_keep_pace_with_the_raw_engine(engines, backend, network, precision):
    job, data = engines(backend, network, precision)
    engine, raw, batches = loaded(backend, job, data), RawEngine(backend, job, data), 40
    samples = golden_inputs((batches * BATCH, *job.sample_shape))
    ratio = compared(
        f"{backend} {network} {precision}, images",
        lambda: engine.run(samples),
        lambda: raw.run(batches),
        len(samples),
    )
    raw.cuda.close()
    # The raw engine copies nothing. Where computing takes longer than copying, copies must vanish behind it; where a
    # network is quicker than its samples can be fetched, the figure is printed and says how quick memory is.
    if precision == "fp32" and network != "mobilenet":
        assert ratio >= LEAST_RATIO


@pytest.mark.parametrize("backend", FLAVOURS)
def test_a_whole_build_flies(tmp_path, backend):
    compiler, target = compiler_of(backend)
    if compiler is None:
        pytest.skip(target)
    site, options = Site(tmp_path), EngineOptions(backend=backend)
    site.write_tiles(spread())
    report = site.build(engine=options)
    assert report.outcome is BuildOutcome.BUILT, report.error
    assert site.build(engine=options).outcome is BuildOutcome.REUSED
    assert verify(site.layout, depth=Depth.FULL).problems == ()
    with FlightCache.open(site.cache, trusted_keys=ALLOW_UNSIGNED) as cache:
        entry = cache.manifest.descriptor_engine
        assert (entry.backend, covered(backend, entry.target)) == (backend, True)
        engine = cache.engine("place")
        assert isinstance(engine._executor, TensorRtExecutor)
        index, contract = cache.descriptor_index(), cache.preprocessing
        vectors = engine.run(golden_inputs((5, *contract.shape)))
        assert index.search(vectors, 3)[1].shape == (5, 3)
        assert hashlib.sha256(cache.engine_bytes("place")).hexdigest() == entry.artifact.sha256


# --- faiss


@pytest.fixture(scope="module")
def faiss():
    try:
        flavour = installed_faiss()
    except RuntimeUnavailableError as error:
        pytest.skip(str(error))
    if not flavour.gpu:
        pytest.skip(f"needs faiss-gpu instead of {flavour.name}")
    return importlib.import_module("faiss")


COUNT, DIMENSIONS = 100_000, 256


@pytest.fixture(scope="module")
def blocks():
    return make_blocks(COUNT, DIMENSIONS)


def on_cpu(monkeypatch, *arguments):
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.index.faiss_builder.gpus", tuple)
        return build_index(*arguments)


def test_a_flat_index_is_the_same_to_the_byte(faiss, blocks, tmp_path, monkeypatch):
    plan = plan_for("flat", COUNT, DIMENSIONS)
    facts, data = build_index(blocks, plan, tmp_path)
    assert facts.note == f"built on {gpus()[0].name}"
    assert on_cpu(monkeypatch, blocks, plan, tmp_path)[1] == data


def test_a_product_quantiser_of_the_gpu_is_as_good_as_the_cpu_s(faiss, blocks, tmp_path, monkeypatch):
    plan = plan_for("ivf-pq", COUNT, DIMENSIONS, m=32, nprobe=32)
    rng = np.random.default_rng(1)
    rows, ids = (
        np.concatenate([block.vectors for block in blocks]),
        np.concatenate([block.ids for block in blocks]),
    )
    chosen = rng.choice(COUNT, 1000, replace=False)
    queries = rows[chosen] + 0.02 * rng.standard_normal((1000, DIMENSIONS)).astype(np.float32)
    recall = {}
    for name, (_, data) in {
        "gpu": build_index(blocks, plan, tmp_path),
        "cpu": on_cpu(monkeypatch, blocks, plan, tmp_path),
    }.items():
        index = load_index(data, kind="ivf-pq", dimensions=DIMENSIONS, ntotal=COUNT)
        _, found = index.search(queries, 10)
        recall[name] = float((found == ids[chosen].astype(np.int64)[:, None]).any(axis=1).mean())
    print(f"\nivf-pq, a row among its ten nearest: gpu {recall['gpu']:.3f}, cpu {recall['cpu']:.3f}")
    assert recall["gpu"] >= recall["cpu"] - 0.02


@pytest.mark.parametrize(("kind", "options"), [("flat", {}), ("ivf-pq", {"m": 32})])
def test_building_keeps_pace_with_raw_faiss(faiss, blocks, tmp_path, kind, options):
    plan = plan_for(kind, COUNT, DIMENSIONS, **options)
    path = Path(tmp_path / "raw")

    def raw():
        """Plain calls of the library, from the same blocks to the same kind of file."""
        rows = np.concatenate([block.vectors for block in blocks])
        ids = np.concatenate([block.ids for block in blocks]).astype(np.int64)
        flat = faiss.IndexFlat(DIMENSIONS, faiss.METRIC_INNER_PRODUCT)
        inner = flat
        if kind == "ivf-pq":
            inner = faiss.IndexIVFPQ(flat, DIMENSIONS, plan.lists, plan.m, 8, faiss.METRIC_INNER_PRODUCT)
        moved = GpuIndex(faiss, inner, plan, count=COUNT)
        if not moved.index.is_trained:
            moved.index.train(rows)
        moved.index.add(rows)
        back = moved.to_cpu()
        outer = faiss.IndexIDMap2(faiss.IndexFlatIP(DIMENSIONS))
        outer.index, outer.ntotal = back, back.ntotal
        faiss.copy_array_to_vector(ids, outer.id_map)
        faiss.write_index(outer, str(path))
        return path.read_bytes()

    ratio = compared(f"index {kind}, rows", lambda: build_index(blocks, plan, tmp_path), raw, COUNT)
    assert ratio >= LEAST_RATIO
