"""`backend = "auto"`: what suits the machine that builds, recorded and keyed under its own name."""

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.build.report import BuildOutcome
from pipeline.engines.backends import openvino, registry
from pipeline.engines.backends.registry import compiler_for
from pipeline.errors import CompileError, ErrorKind
from pipeline.request.options import EngineOptions
from pipeline.request.request import BuildRequest
from store.base.identity import difference
from store.reader import ALLOW_UNSIGNED, FlightCache
from store.runtime.backends.gpu import Gpu
from store.runtime.backends.registry import AUTO, BACKENDS
from tests import toy_parts
from tests.small_builds import BATCH, Site, spread
from tools.cli import cli

GPU = Gpu(index=0, name="Toy", capability="sm99", memory=1 << 30, driver="12.6")
HERE = EngineOptions(backend=AUTO, batch=BATCH)


class Refusing(toy_parts.ReferenceCompiler):
    """A backend without bf16, and without targets but its own."""

    def target(self, requested):
        if requested not in {None, "here"}:
            raise CompileError("expected the target here", hint="")
        return requested or "cpu"

    def runs_here(self, target):
        return target != "here"

    def key_components(self, job):
        if job.precision == "bf16" or job.plugins:
            raise CompileError("expected fp32 and no plug-ins", hint="")
        return super().key_components(job)


def missing():
    raise CompileError("expected the library, found none", hint="", kind=ErrorKind.BACKEND_UNAVAILABLE)


@pytest.fixture
def ranked(monkeypatch):
    """A machine on which `auto` knows the toy, here and in the workers, and after it ONNX Runtime."""
    for row in list(BACKENDS.values()):
        monkeypatch.setitem(
            BACKENDS, row.name, replace(row, preference=9 if row.name == "onnxruntime" else None)
        )
    monkeypatch.setitem(BACKENDS, toy_parts.BACKEND.name, replace(toy_parts.BACKEND, preference=1))
    monkeypatch.setattr("pipeline.embed.batcher.WORKER", "tests.toy_parts")


@pytest.fixture
def site(quick_path):
    site = Site(quick_path)
    site.write_tiles(spread(3, 2))
    return site


def run(*arguments):
    found = CliRunner().invoke(cli, list(map(str, arguments)))
    assert found.stdout, found.stderr
    return json.loads(found.stdout)


def test_the_order_of_preference():
    rows = [row for row in BACKENDS.values() if row.preference is not None]
    assert [row.name for row in sorted(rows, key=lambda row: row.preference)] == [
        *("tensorrt", "tensorrt-rtx", "openvino", "onnxruntime")
    ]


@pytest.mark.parametrize(
    ("asked", "precision", "found"),
    [
        ({}, None, "reference"),
        ({"precision": "bf16"}, None, "onnxruntime"),
        ({"precision": "bf16"}, "fp32", "reference"),
        ({}, "bf16", "onnxruntime"),
        ({"target": "cpu"}, None, "onnxruntime"),
        ({"target": "here"}, None, "onnxruntime"),
        ({"plugins": ("operators.so",)}, None, "onnxruntime"),
    ],
)
@pytest.mark.usefixtures("ranked")
def test_a_backend_is_chosen_only_if_it_offers_what_the_request_asks_for(
    asked, precision, found, monkeypatch
):
    monkeypatch.setattr(toy_parts, "ReferenceCompiler", Refusing)
    assert compiler_for(EngineOptions(backend=AUTO, **asked), precision).backend == found


@pytest.mark.parametrize("present", [False, True])
@pytest.mark.usefixtures("ranked")
def test_a_backend_for_gpus_is_chosen_only_beside_one(present, monkeypatch):
    monkeypatch.setitem(BACKENDS, "reference", replace(BACKENDS["reference"], on_gpu=True))
    monkeypatch.setattr(registry, "gpus", lambda: (GPU,) if present else ())
    assert compiler_for(HERE).backend == ("reference" if present else "onnxruntime")


@pytest.mark.usefixtures("ranked")
def test_what_was_chosen_is_recorded_and_keyed_and_another_machine_makes_another_build(site, monkeypatch):
    request = site.request(engine=HERE)
    report = site.provisioner(workers=1).build_cache_artifacts(request)
    assert report.outcome is BuildOutcome.BUILT, report.error
    first = site.state().builds[1]
    assert first.inputs["engine"]["backend"] == "reference"
    assert first.inputs["models"][0]["engine"]["backend"] == "reference"
    named = site.request(engine=EngineOptions(backend="reference", batch=BATCH))
    assert site.provisioner().plan(named).decision == "reused"
    with FlightCache.open(site.cache, trusted_keys=ALLOW_UNSIGNED) as cache:
        assert cache.manifest.descriptor_engine.backend == "reference"

    # The aircraft's maintainer builds again where only ONNX Runtime is installed.
    monkeypatch.setitem(BACKENDS, "reference", replace(BACKENDS["reference"], preference=None))
    plan = site.provisioner().plan(request)
    assert plan.decision == "build"
    assert plan.identity != report.identity
    (engine,) = (step for step in plan.steps if step["kind"] == "engine")
    chosen = f'engine.backend = "auto" chose onnxruntime {compiler_for(HERE).version}'
    assert engine["why"].startswith("changed: backend, ")
    assert engine["why"].endswith(chosen)
    again = site.provisioner(workers=1).build_cache_artifacts(request)
    assert again.outcome is BuildOutcome.BUILT, again.error
    second = site.state().builds[2]
    assert "engine.backend" in difference(first.inputs, second.inputs)
    lines = run("why", "engine", "--cache", site.cache, "--json")["text"]
    assert "  backend: reference -> onnxruntime" in lines
    assert any(line.startswith("planned: run engine place") and line.endswith(chosen) for line in lines)


@pytest.mark.usefixtures("ranked")
def test_a_failed_build_is_run_again_with_the_backend_that_it_had(site, monkeypatch):
    def crash(*_, **__):
        raise CompileError("expected an engine, found none", hint="", kind=ErrorKind.COMPILE_CRASHED)

    with monkeypatch.context() as patch:
        patch.setattr(toy_parts.ReferenceCompiler, "compile", crash)
        failed = site.provisioner(workers=1).build_cache_artifacts(site.request(engine=HERE))
        assert failed.error.step == "engine", failed.error
        found = run("replay", "--rerun", "--cache", site.cache, "--json")["rerun"]
        assert found["verdict"] == "reproduced", found
    monkeypatch.setitem(BACKENDS, "reference", replace(BACKENDS["reference"], preference=None))
    found = run("replay", "--rerun", "--cache", site.cache, "--json")["rerun"]
    assert (found["verdict"], found["differences"]) == ("passed", [])
    monkeypatch.delitem(BACKENDS, "reference")
    found = run("replay", "--rerun", "--cache", site.cache, "--json")["rerun"]
    assert found["verdict"] == "impossible"
    assert "found 'reference'" in found["text"]


def test_a_request_may_say_auto_and_its_default_stays(request_text):
    assert EngineOptions().backend == "onnxruntime"
    assert EngineOptions(backend=AUTO, tf32=True, workspace_mb=10).on_gpu
    assert not list(EngineOptions(backend=AUTO, tf32=True).warnings())
    enum = run("schema", "request")["properties"]["engine"]["properties"]["backend"]
    assert enum["enum"] == [*BACKENDS, AUTO]
    text = request_text().replace('backend = "onnxruntime"', 'backend = "auto"')
    assert BuildRequest.parse(text, base=Path()).engine.backend == AUTO


@pytest.mark.openvino
@pytest.mark.skipif(find_spec("openvino") is None, reason="needs OpenVINO: pip install 'c10[openvino]'")
def test_openvino_is_used_where_it_is_installed(site, monkeypatch):
    monkeypatch.setattr(registry, "gpus", lambda: ())
    site.write("tiles/6/0/0.png", b"no picture")
    failed = site.provisioner(workers=1).build_cache_artifacts(site.request(engine=HERE))
    assert failed.error.step == "cells", failed.error
    assert site.state().builds[1].inputs["engine"]["backend"] == "openvino"
    assert run("replay", "--rerun", "--cache", site.cache, "--json")["rerun"]["verdict"] == "reproduced"
    site.write_tiles(spread(3, 2))
    built = site.provisioner(workers=1).build_cache_artifacts(site.request(engine=HERE))
    assert built.outcome is BuildOutcome.BUILT, built.error
    with FlightCache.open(site.cache, trusted_keys=ALLOW_UNSIGNED) as cache:
        assert cache.manifest.descriptor_engine.backend == "openvino"
        assert cache.manifest.descriptor_engine.target.startswith("cpu:")

    monkeypatch.setattr(openvino, "cpu_target", missing)
    assert compiler_for(HERE).backend == "onnxruntime"
    assert compiler_for(EngineOptions(backend="openvino")).backend == "openvino"
    assert site.provisioner().plan(site.request(engine=HERE)).identity != built.identity
