"""Running engines of TensorRT on a fake GPU: order, overlap, checks before loading, and failures."""

import gc
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import store.runtime.backends.gpu
import store.runtime.backends.tensorrt
from store.errors import CacheUnusableError, ErrorKind
from store.runtime.backends.cuda import Cuda, CudaError
from store.runtime.backends.gpu import Gpu
from store.runtime.backends.tensorrt_library import LibraryMissingError, loaded_version
from store.runtime.load import (
    EngineLoadError,
    EngineRunError,
    RuntimeUnavailableError,
    _portion_batches,
    load_engine,
)
from tests.fake_gpu import (
    CALLS,
    COMPUTE,
    DOWNLOAD,
    UPLOAD,
    VERSION,
    Attribute,
    Code,
    FakeGpu,
    Kind,
    answer,
    engine_bytes,
)

BATCH, SAMPLE, DIMENSIONS = 4, (3, 6, 5), 7
ORIN = Gpu(index=0, name="Orin", capability="sm87", memory=1 << 34, driver="12.6")
EXPECTED = {
    "backend": "tensorrt",
    "version": VERSION,
    "target": "sm87:Orin",
    "input": "input",
    "output": "descriptor",
    "batch": BATCH,
}


FOR_ONE_TOO = engine_bytes(batch=-1, profiles=((BATCH, BATCH), (1, 1)))
"""An engine with a profile for the ground's batch and one for a single sample."""


def samples(count, seed=0):
    return np.random.default_rng(seed).random((count, *SAMPLE), np.float32)


class Bench:
    """A fake GPU, and engines loaded on it."""

    def __init__(self, monkeypatch, *, gpus=(ORIN,), version=VERSION, rtx=False, **options):
        self.gpu = FakeGpu(**options)
        monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", self.gpu.cuda())
        module = self.gpu.tensorrt(version=version, rtx=rtx)
        monkeypatch.setattr(store.runtime.backends.tensorrt, "library", lambda _: module)
        monkeypatch.setattr(store.runtime.backends.tensorrt, "loaded_version", lambda _: version)
        monkeypatch.setattr(store.runtime.backends.tensorrt, "gpus", lambda: gpus)

    def load(self, data=None, **changes):
        return load_engine(engine_bytes() if data is None else data, **(EXPECTED | changes))


@pytest.mark.parametrize("single", [False, True])
@given(seed=st.integers(0, 1 << 32), counts=st.lists(st.integers(0, 23), min_size=1, max_size=4))
def test_rows_are_right_in_every_order_of_the_streams(single, seed, counts):
    with pytest.MonkeyPatch.context() as patch:
        engine = Bench(patch, seed=seed).load(FOR_ONE_TOO, single=single)
        for number, count in enumerate(counts):
            given_samples = samples(count, number)
            found = engine.run(given_samples)
            assert (found.shape, found.dtype) == ((count, DIMENSIONS), np.float32)
            np.testing.assert_array_equal(found, answer(given_samples))


@pytest.mark.parametrize("step", ["stream_wait_event", "synchronize_event", "record"])
def test_the_fake_gpu_notices_missing_synchronisation(step, monkeypatch):
    """Each of the calls that order the streams is needed: without it some seed goes wrong."""
    monkeypatch.setattr(Cuda, step, lambda *_: None)
    wrong = 0
    for seed in range(30):
        with pytest.MonkeyPatch.context() as patch:
            engine = Bench(patch, seed=seed).load()
            try:
                wrong += not np.array_equal(engine.run(samples(19)), answer(samples(19)))
            except AssertionError:
                wrong += 1
    assert wrong > 10


@pytest.mark.parametrize("batches", [1, 2, 3, 30])
@pytest.mark.parametrize("single", [False, True])
def test_copies_overlap_with_computing(monkeypatch, batches, single):
    bench = Bench(monkeypatch)
    bench.load(FOR_ONE_TOO, single=single).run(samples(batches if single else batches * BATCH))
    assert bench.gpu.now == UPLOAD + batches * COMPUTE + DOWNLOAD


@pytest.mark.parametrize(
    ("sample", "batches"), [(SAMPLE, 16), ((3, 2048, 2048), 1), ((3, 512, 512), 16), ((3, 1024, 1024), 5)]
)
def test_a_portion_is_as_many_batches_as_fit(sample, batches):
    assert _portion_batches(BATCH, sample) == batches


@pytest.mark.parametrize("rtx", [False, True])
def test_a_single_sample_costs_a_single_sample(monkeypatch, rtx):
    bench = Bench(monkeypatch, rtx=rtx)
    ground, flight = bench.load(FOR_ONE_TOO), bench.load(FOR_ONE_TOO, single=True)
    assert (ground.batch, flight.batch) == (BATCH, 1)
    for engine, batches in ((flight, [1] * 6), (ground, [BATCH, BATCH])):
        bench.gpu.batches.clear()
        np.testing.assert_array_equal(engine.run(samples(6)), answer(samples(6)))
        assert bench.gpu.batches == batches
    assert bench.gpu.specialises == ("EAGER" if rtx else None)


@pytest.mark.parametrize(
    "data",
    [engine_bytes(), engine_bytes(batch=-1), engine_bytes(batch=-1, profiles=((2, 8), (BATCH, BATCH)))],
    ids=["fixed", "open", "open, two profiles"],
)
def test_an_engine_without_a_profile_for_one_runs_whole_batches_in_flight_too(monkeypatch, data):
    bench = Bench(monkeypatch)
    engine = bench.load(data, single=True)
    assert engine.batch == BATCH
    np.testing.assert_array_equal(engine.run(samples(1)), answer(samples(1)))
    assert bench.gpu.batches == [BATCH]


def test_a_profile_that_the_library_does_not_change_to_is_quoted(monkeypatch):
    bench = Bench(monkeypatch, refuses="profile")
    with pytest.raises(EngineLoadError, match="batches of 1, found: setOptimizationProfileAsync: no memory"):
        bench.load(FOR_ONE_TOO, single=True)
    gc.collect()
    assert not bench.gpu.alive
    assert bench.load(FOR_ONE_TOO).batch == BATCH


def test_an_engine_takes_many_batches_at_once(monkeypatch):
    assert Bench(monkeypatch).load().portion == 16 * BATCH


def test_the_last_batch_is_filled_up_with_zeros(monkeypatch):
    bench = Bench(monkeypatch)
    bench.load().run(samples(3 * BATCH + 1))
    np.testing.assert_array_equal(bench.gpu.seen[:1], samples(3 * BATCH + 1)[-1:])
    assert not bench.gpu.seen[1:].any()


def test_samples_that_are_not_contiguous_are_accepted(monkeypatch):
    engine = Bench(monkeypatch).load()
    wide = np.random.default_rng(0).random((9, 6, 5, 3), np.float32)
    np.testing.assert_array_equal(
        engine.run(wide.transpose(0, 3, 1, 2)), answer(np.ascontiguousarray(wide.transpose(0, 3, 1, 2)))
    )


def test_everything_is_released(monkeypatch):
    bench = Bench(monkeypatch)
    engine = bench.load(engine_bytes(others={"features": [BATCH, 9]}))
    engine.run(samples(6))
    kinds = sorted(kind for kind, _ in bench.gpu.alive)
    assert kinds == ["device"] * 5 + ["event"] * 6 + ["host"] * 4 + ["stream"] * 2
    del engine
    gc.collect()
    assert not bench.gpu.alive
    assert not bench.gpu.ended_busy


@pytest.mark.parametrize(
    "call", ["cudaHostAlloc", "cudaMalloc", "cudaStreamCreateWithFlags", "cudaMemGetInfo"]
)
@pytest.mark.parametrize("after", [0, 1])
def test_a_failed_load_releases_everything(monkeypatch, call, after):
    bench = Bench(monkeypatch, failing={call: (after, Code.cudaErrorMemoryAllocation)})
    with pytest.raises(
        CacheUnusableError, match=rf"{call} failed: cudaErrorMemoryAllocation \(2\), as told"
    ) as caught:
        bench.load()
    assert "end other programs that use the GPU" in caught.value.hint
    assert caught.value.kind is ErrorKind.RESOURCES
    assert not bench.gpu.alive


@pytest.mark.parametrize(
    "call",
    ["cudaMemcpyAsync", "cudaEventRecord", "cudaStreamWaitEvent", "cudaEventSynchronize", "cudaSetDevice"],
)
@pytest.mark.parametrize(
    ("code", "error"),
    [(Code.cudaErrorIllegalAddress, EngineRunError), (Code.cudaErrorMemoryAllocation, CacheUnusableError)],
)
def test_a_failed_run_names_the_call_and_the_next_run_is_right(monkeypatch, call, code, error):
    bench = Bench(monkeypatch)
    engine = bench.load()
    made = bench.gpu.calls.get(call, 0)
    bench.gpu.failing[call] = (made + 2 * (call != "cudaSetDevice"), code)
    with pytest.raises(error, match=f"{call} failed: {code.name}"):
        engine.run(samples(19))
    assert not any(stream.queue for stream in bench.gpu.streams.values())
    bench.gpu.failing.clear()
    for memory in bench.gpu.device.values():
        memory.ready = False  # what an abandoned run left is nobody's any more
    np.testing.assert_array_equal(engine.run(samples(5)), answer(samples(5)))


def test_an_interrupted_run_leaves_no_queued_work(monkeypatch):
    bench = Bench(monkeypatch)
    engine = bench.load()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Cuda, "synchronize_event", interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine.run(samples(19))
    assert not any(stream.queue for stream in bench.gpu.streams.values())


def test_an_engine_that_refuses_to_run_says_why(monkeypatch):
    bench = Bench(monkeypatch)
    engine = bench.load()
    bench.gpu.refuses = "run"
    with pytest.raises(EngineRunError, match="found: enqueueV3: Error Code 3"):
        engine.run(samples(1))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"version": "10.13.3.8"}, r"expected tensorrt 10\.13\.3\.8.*found tensorrt 10\.13\.3\.9"),
        (
            {"data": engine_bytes(version="10.13.2.9")},
            r"made by tensorrt 10\.13\.3\.9, found bytes of tensorrt 10\.13\.2\.9",
        ),
        ({"target": "sm89:NVIDIA L4"}, r"target 'sm89:NVIDIA L4', found Orin, sm87"),
        ({"target": "sm87"}, "target 'sm87', found Orin"),
    ],
)
def test_an_engine_for_another_machine_never_reaches_the_library(monkeypatch, changes, complaint):
    bench = Bench(monkeypatch)
    with pytest.raises(EngineLoadError, match=complaint):
        bench.load(**changes)
    assert "deserialize" not in bench.gpu.calls
    assert not bench.gpu.alive


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"input": "image"}, r"an input called 'image', found \['input'\]"),
        ({"output": "vector"}, r"an output called 'vector', found \['descriptor'\]"),
        ({"batch": 8}, r"batch of 8 and fixed sizes, found \[4, 3, 6, 5\]"),
        ({"data": engine_bytes(kind="HALF")}, "as FLOAT, found HALF"),
        ({"data": engine_bytes(sample=(3, -1, 5))}, r"fixed sizes, found \[4, 3, -1, 5\]"),
        ({"data": engine_bytes(others={"more": [4, -1]})}, "output 'more' of fixed sizes"),
        ({"data": engine_bytes()[:70]}, "an engine that tensorrt can load"),
        ({"data": b""}, "an engine that tensorrt can load"),
    ],
)
def test_an_engine_other_than_expected_is_refused(monkeypatch, changes, complaint):
    bench = Bench(monkeypatch)
    with pytest.raises(EngineLoadError, match=complaint):
        bench.load(**changes)
    gc.collect()
    assert not bench.gpu.alive


@pytest.mark.parametrize(
    ("refuses", "complaint"), [("engine", "no kernel for this GPU"), ("context", "OutOfMemory")]
)
def test_a_library_that_refuses_is_quoted(monkeypatch, refuses, complaint):
    bench = Bench(monkeypatch, refuses=refuses)
    with pytest.raises(EngineLoadError, match=complaint) as caught:
        bench.load()
    assert "loading" not in str(caught.value)


@pytest.mark.parametrize("old", [False, True])
def test_free_memory_is_checked_before_it_is_allocated(monkeypatch, old):
    bench = Bench(monkeypatch, activations=1 << 30, free=1 << 30)
    with pytest.raises(
        CacheUnusableError, match=r"1088 MiB of free memory on Orin for activations.*found 1024 MiB"
    ):
        bench.load(engine_bytes(old=old))
    assert "cudaMalloc" not in bench.gpu.calls
    bench = Bench(monkeypatch, free=1 << 20)
    with pytest.raises(CacheUnusableError, match="for the weights, found 1 MiB"):
        bench.load()
    assert "deserialize" not in bench.gpu.calls


def test_the_free_memory_of_an_integrated_gpu_is_the_system_s(monkeypatch, tmp_path):
    memory = tmp_path / "meminfo"
    memory.write_text(
        "MemTotal:       32000000 kB\nMemFree:           20000 kB\nMemAvailable:   16000000 kB\n"
    )
    monkeypatch.setattr("store.runtime.backends.cuda._MEMORY", memory)
    Bench(monkeypatch, free=1 << 20, integrated=True).load()
    memory.write_text("MemTotal:       32000000 kB\nMemAvailable:   2000 kB\n")
    for found in (memory, tmp_path / "none"):
        monkeypatch.setattr("store.runtime.backends.cuda._MEMORY", found)
        with pytest.raises(CacheUnusableError, match="for the weights, found 1 MiB"):
            Bench(monkeypatch, free=1 << 20, integrated=True).load()
    with pytest.raises(CacheUnusableError, match="for the weights, found 1 MiB"):
        Bench(monkeypatch, free=1 << 20).load()


def test_the_real_package_has_every_call_and_reports_its_failures():
    runtime = pytest.importorskip(
        "cuda.bindings.runtime", reason="needs cuda-python, of the extra rtx or gpu"
    )
    assert [
        name for name in (*CALLS, "cudaGetErrorName", "cudaGetErrorString") if not hasattr(runtime, name)
    ] == []
    assert runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost == Kind.cudaMemcpyDeviceToHost
    assert runtime.cudaDeviceAttr.cudaDevAttrIntegrated == Attribute.cudaDevAttrIntegrated
    assert runtime.cudaError_t.cudaErrorMemoryAllocation == Code.cudaErrorMemoryAllocation
    if not store.runtime.backends.gpu.gpus():
        with pytest.raises(CudaError, match=r"cudaSetDevice failed: cudaError\w+ \(\d+\), \w+"):
            Cuda(0, extra="rtx")


@pytest.mark.rtx
def test_the_real_library_is_asked_and_quoted(monkeypatch):
    """Without a GPU, TensorRT for RTX says that an engine is damaged, or that it cannot read the GPU."""
    pytest.importorskip("tensorrt_rtx", reason="needs the extra rtx")
    import tensorrt_rtx as trt

    from tests.toy_networks import toy_network

    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    assert parser.parse(toy_network(batch=BATCH, size=(32, 32)).SerializeToString())
    engine = bytes(builder.build_serialized_network(network, builder.create_builder_config()))
    ada = Gpu(index=0, name="NVIDIA L4", capability="sm89", memory=1 << 34, driver="12.9")
    monkeypatch.setattr(store.runtime.backends.tensorrt, "gpus", lambda: (ada,))
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", FakeGpu().cuda())
    rtx = {"backend": "tensorrt-rtx", "version": loaded_version("tensorrt-rtx"), "target": "portable"}
    for data, complaint in (
        (engine[64:], "MALFORMED_ENGINE"),
        (b"", "MALFORMED_ENGINE"),
        (engine, "an engine for this GPU"),
    ):
        if data is engine and store.runtime.backends.gpu.gpus():
            continue
        with pytest.raises(EngineLoadError, match=complaint):
            load_engine(data, **(EXPECTED | rtx))
    with pytest.raises(EngineLoadError, match=r"expected tensorrt-rtx 1\.0\.0\.0"):
        load_engine(engine, **(EXPECTED | rtx | {"version": "1.0.0.0"}))
    other = bytearray(engine)
    other[26] += 1
    with pytest.raises(EngineLoadError, match="found bytes of tensorrt-rtx"):
        load_engine(bytes(other), **(EXPECTED | rtx))


def test_tensorrt_for_rtx_is_asked_whether_an_engine_is_valid(monkeypatch):
    ada = Gpu(index=0, name="NVIDIA L4", capability="sm89", memory=1 << 34, driver="12.9")
    rtx = {"backend": "tensorrt-rtx", "target": "sm86+sm89"}
    bench = Bench(monkeypatch, gpus=(ada,), rtx=True)
    np.testing.assert_array_equal(bench.load(**rtx).run(samples(5)), answer(samples(5)))
    bench.gpu.refuses = "validity"
    with pytest.raises(EngineLoadError, match=r"for this GPU, found UNSUPPORTED_CC: capability 8\.7"):
        bench.load(**rtx)
    with pytest.raises(EngineLoadError, match="'sm120', found NVIDIA L4"):
        bench.load(backend="tensorrt-rtx", target="sm120")


def test_a_missing_gpu_or_package_is_reported(monkeypatch):
    with pytest.raises(RuntimeUnavailableError, match=r"expected an NVIDIA GPU.*found none"):
        Bench(monkeypatch, gpus=()).load()
    bench = Bench(monkeypatch)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(RuntimeUnavailableError, match=r"'cuda\.bindings\.runtime'"):
        bench.load()

    def missing(backend):
        raise LibraryMissingError(f"expected {backend}, found none")

    monkeypatch.setattr(store.runtime.backends.tensorrt, "library", missing)
    for backend, extra in (("tensorrt", "gpu"), ("tensorrt-rtx", "rtx")):
        with pytest.raises(RuntimeUnavailableError, match=f"expected {backend}, found none") as error:
            bench.load(backend=backend)
        assert f"c10[{extra}]" in error.value.hint


def test_bytes_views_and_paths_are_accepted(monkeypatch, tmp_path):
    bench, data = Bench(monkeypatch), engine_bytes()
    path = tmp_path / "engine.plan"
    path.write_bytes(data)
    for source in (data, bytearray(data), memoryview(data), str(path)):
        np.testing.assert_array_equal(bench.load(source).run(samples(3)), answer(samples(3)))
    path.write_bytes(b"")
    for source in (str(path), str(tmp_path / "none")):
        with pytest.raises(EngineLoadError, match="expected an engine"):
            bench.load(source)


def test_an_engine_with_an_open_batch_is_run_with_the_batch_of_the_manifest(monkeypatch):
    bench = Bench(monkeypatch)
    engine = bench.load(engine_bytes(batch=-1))
    np.testing.assert_array_equal(engine.run(samples(6)), answer(samples(6)))
    with pytest.raises(EngineLoadError, match="batches of 9, found: setInputShape: outside of the profile"):
        bench.load(engine_bytes(batch=-1), batch=9)


@pytest.mark.parametrize(("batch", "strategy"), [(-1, "EAGER"), (BATCH, None)])
def test_kernels_do_not_change_while_an_engine_with_an_open_batch_runs(monkeypatch, batch, strategy):
    ada = Gpu(index=0, name="NVIDIA L4", capability="sm89", memory=1 << 34, driver="12.6")
    bench = Bench(monkeypatch, rtx=True, gpus=(ada,))
    engine = bench.load(engine_bytes(batch=batch), backend="tensorrt-rtx", target="portable")
    np.testing.assert_array_equal(engine.run(samples(6)), answer(samples(6)))
    assert bench.gpu.specialises == strategy
