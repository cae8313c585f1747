"""The TensorRT backend with a fake of its library: what it is asked for, and every way in which it can fail."""

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.engines.backends import tensorrt as backend
from pipeline.engines.backends import tensorrt_child
from pipeline.engines.backends.compile_request import CompileRequest
from pipeline.engines.backends.registry import engine_compiler
from pipeline.engines.backends.tensorrt import TENSORRT, TENSORRT_RTX, TensorRtCompiler
from pipeline.engines.port import ShapeRange
from pipeline.errors import CompileError, ErrorKind
from store.base.identity import difference, engine_key
from store.runtime.backends import tensorrt_library
from store.runtime.backends.gpu import Gpu
from tests.engine_jobs import SAMPLE, job_of
from tests.examples_tried import mostly_deep
from tests.toy_networks import DIMENSIONS, toy_network, with_batch_within

ORIN = Gpu(index=0, name="Orin", capability="sm87", memory=1 << 34, driver="12.6")
L4 = Gpu(index=0, name="NVIDIA L4", capability="sm89", memory=1 << 34, driver="13.0")
HERE = ("tensorrt", "sm87:Orin")
FAKE = Path(__file__).resolve().parents[3] / "fake_tensorrt"


def forget():
    tensorrt_library.library.cache_clear()
    tensorrt_library.library_version.cache_clear()


@pytest.fixture(autouse=True)
def fake(monkeypatch, tmp_path):
    """Put the fake library on the path of this process and its children, with an Orin as the GPU."""
    inherited = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(FAKE), *([inherited] if inherited else [])]))
    monkeypatch.syspath_prepend(str(FAKE))
    monkeypatch.setenv("C10_FAKE_TENSORRT_NOTES", str(tmp_path / "notes"))
    monkeypatch.setattr(tensorrt_library, "_DISTRIBUTIONS", {"tensorrt": (), "tensorrt-rtx": ()})
    monkeypatch.setattr(backend, "gpus", lambda: (ORIN,))
    monkeypatch.delitem(os.sys.modules, "tensorrt", raising=False)
    forget()
    yield monkeypatch
    os.sys.modules.pop("tensorrt", None)
    forget()


@pytest.fixture
def compiler():
    return TensorRtCompiler(TENSORRT)


@pytest.fixture
def job(tmp_path):
    return job_of(tmp_path, toy_network(), target="sm87:Orin")


def asked(engine):
    return json.loads(engine.path.read_bytes()[32:])


def failure(compiler, job, scratch, **options):
    with pytest.raises(CompileError) as caught:
        compiler.compile(job, scratch=scratch, **options)
    assert caught.value.subject == "toy"
    assert caught.value.hint
    return caught.value


def test_each_backend_has_its_compiler():
    assert [engine_compiler(each).backend for each in ("tensorrt", "tensorrt-rtx")] == [
        "tensorrt",
        "tensorrt-rtx",
    ]


def test_an_engine_is_compiled_with_the_options_of_its_job(compiler, job, tmp_path):
    assert compiler.version == "10.16.1.11"
    seen = []
    engine = compiler.compile(job, scratch=tmp_path, on_progress=seen.append)
    assert (engine.signature.input_shape, engine.signature.output_shape) == ((8, *SAMPLE), (8, DIMENSIONS))
    options = asked(engine)
    assert (options["tf32"], options["profiles"], options.get("workspace")) == (False, [], None)
    assert "tensorrt 10.16.1.11; " in engine.log
    done = [report["done"] for report in seen]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, 1000)
    profile = ShapeRange(min=(1, *SAMPLE), opt=(8, *SAMPLE), max=(16, *SAMPLE))
    engine = compiler.compile(replace(job, tf32=True, workspace_mb=3, profile=profile), scratch=tmp_path)
    options = asked(engine)
    assert (options["tf32"], options["workspace"]) == (True, 3 << 20)
    assert options["profiles"] == [{"input": [[1, *SAMPLE], [8, *SAMPLE], [16, *SAMPLE]]}]
    assert engine.signature.input_shape == (8, *SAMPLE)


def test_an_engine_takes_one_sample_too_by_a_second_profile(compiler, job, tmp_path):
    one, batch = ([number, *SAMPLE] for number in (1, 8))
    engine = compiler.compile(replace(job, single=True), scratch=tmp_path)
    assert asked(engine)["profiles"] == [{"input": [batch] * 3}, {"input": [one] * 3}]
    assert (engine.signature.input_shape, engine.signature.output_shape) == ((8, *SAMPLE), (8, DIMENSIONS))
    assert "compiled for batches" not in engine.log
    assert difference(compiler.key_components(job), compiler.key_components(replace(job, single=True))) == [
        "options.batch"
    ]


def test_a_network_that_works_at_a_fixed_batch_alone_is_compiled_for_that(compiler, tmp_path):
    job = job_of(tmp_path, with_batch_within(toy_network(), 8), target="sm87:Orin", single=True)
    engine = compiler.compile(job, scratch=tmp_path)
    assert asked(engine)["profiles"] == []
    assert engine.signature.output_shape == (8, DIMENSIONS)
    assert "compiled for batches of 8 alone: expected a descriptor output of [any batch, d]" in engine.log


def test_the_first_cause_is_told_when_the_compile_for_a_fixed_batch_fails_too(fake, compiler, tmp_path):
    fake.setenv("C10_FAKE_TENSORRT", "none")
    job = job_of(tmp_path, with_batch_within(toy_network(), 8), target="sm87:Orin", single=True)
    message = failure(compiler, job, tmp_path).message
    assert message.startswith(failure(compiler, replace(job, single=False), tmp_path).message)
    assert "before that, for any batch: expected a descriptor output of [any batch, d]" in message
    # The same cause is told once.
    job = job_of(tmp_path, toy_network(), target="sm87:Orin", single=True)
    assert "before that" not in failure(compiler, job, tmp_path).message


@pytest.mark.parametrize(
    ("changes", "least"),
    [
        ({}, 0.999999),
        ({"tf32": True}, 0.999),
        ({"quantized": True}, 0.999),
        ({"precision": "bf16"}, 0.99),
        ({"precision": "fp16", "least_cosine": 0.9}, 0.9),
    ],
)
@pytest.mark.parametrize("same", [True, False])
def test_where_the_gpu_is_one_sample_is_compared_with_a_batch(
    fake, compiler, job, tmp_path, changes, least, same
):
    compared = []

    def answers(request, *, least):
        compared.append((request.engine.exists(), least))
        return same

    fake.setattr(tensorrt_child, "covered", lambda backend, target: (backend, target) == HERE)
    fake.setattr(tensorrt_child, "answers_alone_as_in_a_batch", answers)

    def compile_here(job):
        request = CompileRequest(job=job, backend="tensorrt", version=compiler.version, engine=tmp_path / "e")
        return tensorrt_child.compile_network(request.to_message(), lambda _: None)

    job = replace(job, timing_cache=b"", **changes)
    compile_here(job)
    compile_here(replace(job, single=True, target="sm87:Other"))
    assert compared == []
    if same:
        compile_here(replace(job, single=True))
    else:
        with pytest.raises(CompileError, match="one sample alone as in a batch") as caught:
            compile_here(replace(job, single=True))
        assert caught.value.kind is ErrorKind.BAD_MODEL
    assert compared == [(True, least)]


def test_a_timing_cache_is_given_to_the_next_compile(compiler, job, tmp_path):
    first = compiler.compile(job, scratch=tmp_path)
    assert (asked(first)["cache"], first.timing_cache) == ("", b"+learnt")
    second = compiler.compile(replace(job, timing_cache=first.timing_cache), scratch=tmp_path)
    assert (asked(second)["cache"], second.timing_cache) == ("+learnt", b"+learnt+learnt")
    assert compiler.key_components(job) == compiler.key_components(replace(job, timing_cache=b"x"))
    foreign = compiler.compile(replace(job, timing_cache=b"from another GPU"), scratch=tmp_path)
    assert (asked(foreign)["cache"], foreign.timing_cache) == ("", b"+learnt")


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        ("parse", ErrorKind.BAD_MODEL, "operator GlobalAveragePool at node 'pooled': UNSUPPORTED_NODE"),
        ("none", ErrorKind.COMPILE_FAILED, "Could not find any implementation for node conv"),
        ("empty", ErrorKind.COMPILE_FAILED, "gave no reason"),
        ("oom", ErrorKind.COMPILE_OUT_OF_MEMORY, "OutOfMemory"),
        ("segv", ErrorKind.COMPILE_CRASHED, "SIGSEGV"),
        ("no device", ErrorKind.BACKEND_UNAVAILABLE, "CUDA initialization failure"),
        ("stamp", ErrorKind.BACKEND_UNAVAILABLE, "header says 10.13.3.9"),
    ],
)
@pytest.mark.parametrize("single", [False, pytest.param(True, marks=pytest.mark.deep)])
def test_every_failure_has_its_own_kind(fake, compiler, job, tmp_path, fault, kind, words, single):
    fake.setenv("C10_FAKE_TENSORRT", fault)
    error = failure(compiler, replace(job, single=single), tmp_path)
    assert error.kind is kind
    assert words in error.message
    assert not (tmp_path / "engine.plan").exists()


def test_a_profile_that_the_library_refuses_fails_the_compile(fake, compiler, job, tmp_path):
    fake.setenv("C10_FAKE_TENSORRT", "profile")
    profile = ShapeRange(min=(1, *SAMPLE), opt=(8, *SAMPLE), max=(16, *SAMPLE))
    assert "optimisation profile" in failure(compiler, replace(job, profile=profile), tmp_path).message


def test_a_build_that_hangs_is_ended(fake, compiler, job, tmp_path):
    fake.setenv("C10_FAKE_TENSORRT", "stuck")
    assert failure(compiler, replace(job, timeout_s=1.0), tmp_path).kind is ErrorKind.COMPILE_TIMEOUT


@pytest.mark.parametrize("interrupt", mostly_deep((KeyboardInterrupt, RuntimeError), KeyboardInterrupt))
def test_an_interrupt_cancels_the_build_through_the_library(fake, compiler, job, tmp_path, interrupt):
    fake.setenv("C10_FAKE_TENSORRT", "slow")

    def stop(report):
        if report["phase"] == "Building engine":
            raise interrupt

    with pytest.raises(interrupt):
        compiler.compile(job, scratch=tmp_path, on_progress=stop)
    assert (tmp_path / "notes").read_text().startswith("cancelled after step")


def test_a_library_of_another_version_than_its_package_is_refused(fake, compiler, job, tmp_path):
    assert compiler.version == "10.16.1.11"
    fake.setenv("C10_FAKE_TENSORRT_VERSION", "10.13.3.9")
    error = failure(compiler, job, tmp_path)
    assert error.kind is ErrorKind.BACKEND_UNAVAILABLE
    assert (
        "expected tensorrt 10.16.1.11, as its package says, found that the library loaded is 10.13.3.9"
        in str(error)
    )


def test_a_version_of_three_parts_is_refused(fake, compiler):
    fake.setenv("C10_FAKE_TENSORRT_VERSION", "10.3.0")
    with pytest.raises(CompileError, match=r"version in four parts, found '10\.3\.0'"):
        _ = compiler.version


def test_plug_ins_count_by_digest_and_are_loaded_as_hashed(compiler, job, tmp_path):
    library = tmp_path / "mine.so"
    library.write_bytes(b"operators")
    digest = hashlib.sha256(b"operators").hexdigest()
    with_plugin = replace(job, plugins=((library, digest),))
    assert compiler.compile(with_plugin, scratch=tmp_path).path.exists()
    components = compiler.key_components(with_plugin)
    assert components["options"]["plugins"] == [digest]
    assert str(library) not in json.dumps(components)
    library.write_bytes(b"broken")
    assert "SHA-256" in failure(compiler, with_plugin, tmp_path).message
    broken = replace(job, plugins=((library, hashlib.sha256(b"broken").hexdigest()),))
    assert "does not load" in failure(compiler, broken, tmp_path).message
    library.unlink()
    assert "No such file" in failure(compiler, broken, tmp_path).message


CHANGES = {
    "onnx": {"onnx_sha256": "1" * 64},
    "target": {"target": "sm89:NVIDIA L4"},
    "precision": {"precision": "fp16"},
    "batch": {"batch": 4},
    "options.tf32": {"tf32": True},
    "options.workspace_mb": {"workspace_mb": 64},
    "options.role": {"role": "auxiliary"},
    "options.profile": {"profile": ShapeRange(min=(1, *SAMPLE), opt=(8, *SAMPLE), max=(9, *SAMPLE))},
    "options.plugins": {"plugins": ((Path("a.so"), "2" * 64),)},
}


@pytest.mark.parametrize("name", CHANGES)
def test_whatever_changes_an_engine_changes_its_key_and_is_named(compiler, job, name):
    before = compiler.key_components(job)
    after = compiler.key_components(replace(job, **CHANGES[name]))
    assert engine_key(before) != engine_key(after)
    named = difference(before, after)
    assert name in named
    assert all(each == name or each.startswith("options.conversion") for each in named)


def test_paths_and_time_limits_are_not_in_the_key(compiler, job, tmp_path):
    other = replace(job, onnx=tmp_path / "elsewhere.onnx", timeout_s=1.0, least_cosine=0.5)
    assert compiler.key_components(other) == compiler.key_components(job)


def test_tensorrt_compiles_for_this_gpu_alone(fake, compiler):
    assert compiler.target(None) == compiler.target("sm87") == compiler.target("sm87:Orin") == "sm87:Orin"
    assert compiler.runs_here("sm87:Orin")
    assert not compiler.runs_here("sm87:Other")
    with pytest.raises(CompileError, match=r"'sm87:Orin', this machine's GPU, found 'sm89'"):
        compiler.target("sm89")
    fake.setattr(backend, "gpus", lambda: ())
    assert not compiler.runs_here("sm87:Orin")
    with pytest.raises(CompileError, match="expected an NVIDIA GPU") as caught:
        compiler.target(None)
    assert caught.value.kind is ErrorKind.BACKEND_UNAVAILABLE
    assert "tensorrt-rtx" in caught.value.hint


def test_a_missing_library_is_reported(fake):
    fake.setattr(tensorrt_library, "MODULES", {"tensorrt-rtx": "no_such_module"})
    compiler = TensorRtCompiler(TENSORRT_RTX)
    for ask in (lambda: compiler.version, lambda: compiler.target("sm89")):
        with pytest.raises(CompileError, match="no_such_module") as caught:
            ask()
        assert caught.value.kind is ErrorKind.BACKEND_UNAVAILABLE
        assert "c10[rtx]" in caught.value.hint


def test_rtx_compiles_for_the_gpu_of_this_machine_if_it_knows_it(fake):
    class Library:
        class ComputeCapability:
            __members__ = dict.fromkeys(("NONE", "CURRENT", "SM75", "SM89", "SM120"))

    fake.setattr(backend, "library", lambda _: Library)
    compiler = TensorRtCompiler(TENSORRT_RTX)
    assert compiler.target(None) == "portable"
    fake.setattr(backend, "gpus", lambda: (L4,))
    assert compiler.target(None) == "sm89"
    assert [compiler.runs_here(each) for each in ("sm89", "sm75+sm89", "portable", "sm120")] == [
        True,
        False,
        False,
        False,
    ]
    assert compiler.target("SM120+sm75+sm120") == "sm75+sm120"
    with pytest.raises(CompileError, match="sm75, sm89, sm120"):
        compiler.target("sm86")
    with pytest.raises(CompileError, match="engines for Orin are built on an Orin"):
        compiler.target("sm87")
