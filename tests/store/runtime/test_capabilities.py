"""Which engines this machine runs, and what the verdict says of those that it does not."""

import importlib.metadata
from dataclasses import replace

import pytest

from store.disk.layout import Layout
from store.manifest.manifest import parse
from store.runtime import capabilities
from store.runtime.backends import gpu, openvino, tensorrt
from store.runtime.backends.base import RuntimeUnavailableError
from store.runtime.backends.gpu import Gpu
from store.runtime.backends.registry import BACKENDS
from store.runtime.backends.tensorrt_library import LibraryMissingError
from store.trust.go_no_go import ALLOW_UNSIGNED, Policy, foreign_engines
from tests.played_builds import Scenario
from tests.store_caches import record_builds

ORIN = Gpu(index=0, name="Orin", capability="sm87", memory=1 << 34, driver="12.6")
L4 = Gpu(index=0, name="NVIDIA L4", capability="sm89", memory=1 << 34, driver="12.9")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    layout = Layout(tmp_path_factory.mktemp("machine") / "cache")
    record_builds(layout, Scenario())
    return parse((layout.manifests / layout.manifest_name(1)).read_bytes())


def judged(manifest, monkeypatch, *, gpus, backend, target, version="10.13.3.9"):
    """What the reader would say of a cache whose engine is this one, on a machine with these GPUs."""
    for module in (gpu, tensorrt):
        monkeypatch.setattr(module, "gpus", lambda: gpus)
    entry = replace(manifest.descriptor_engine, backend=backend, target=target, version=version)
    policy = Policy(
        trusted_keys=ALLOW_UNSIGNED,
        installed={}.get,
        runs_here=capabilities.covered,
        device=capabilities.device,
    )
    return foreign_engines(replace(manifest, engines=(entry,)), policy).get("place")


@pytest.mark.parametrize(
    ("gpus", "backend", "target"),
    [
        ((ORIN,), "tensorrt", "sm87:Orin"),
        ((L4,), "tensorrt", "sm89:NVIDIA L4"),
        ((L4,), "tensorrt-rtx", "sm89"),
        ((L4,), "tensorrt-rtx", "sm86+sm89"),
        ((L4,), "tensorrt-rtx", "portable"),
        ((), "onnxruntime", "cpu"),
        ((L4,), "onnxruntime", "cpu"),
    ],
)
def test_an_engine_for_this_machine_may_fly(manifest, monkeypatch, gpus, backend, target):
    assert judged(manifest, monkeypatch, gpus=gpus, backend=backend, target=target) is None


@pytest.mark.parametrize(
    ("gpus", "backend", "target", "found"),
    [
        ((), "tensorrt", "sm87:Orin", "found no GPU"),
        ((), "tensorrt-rtx", "portable", "found no GPU"),
        ((L4,), "tensorrt", "sm87:Orin", "found NVIDIA L4, sm89"),
        # The same capability is not the same GPU: TensorRT chose its kernels on the very model.
        ((L4,), "tensorrt", "sm89:NVIDIA L40S", "found NVIDIA L4, sm89"),
        ((L4,), "tensorrt-rtx", "sm86+sm120", "found NVIDIA L4, sm89"),
        ((ORIN,), "tensorrt-rtx", "portable", "found Orin, sm87"),
        # Engines run on the first GPU, whatever the others are.
        ((ORIN, L4), "tensorrt-rtx", "sm89", "found Orin, sm87"),
        ((L4,), "onnxruntime", "gpu", "found a device for 'cpu'"),
        ((L4,), "abacus", "beads", "found NVIDIA L4, sm89"),
    ],
)
def test_an_engine_for_another_one_is_named_with_what_is_here(
    manifest, monkeypatch, gpus, backend, target, found
):
    reason = judged(manifest, monkeypatch, gpus=gpus, backend=backend, target=target)
    assert reason.startswith(
        f"engine place: expected a device for an engine made by {backend} for {target!r}, "
    )
    assert found in reason


def test_libraries_are_those_that_are_installed(monkeypatch):
    def version(backend):
        if backend == "tensorrt":
            return "10.13.3.9"
        raise LibraryMissingError("expected it, found none")

    def installed(name):
        if name == "onnxruntime-gpu":
            return "1.31.1"
        raise importlib.metadata.PackageNotFoundError(name)

    def missing():
        raise RuntimeUnavailableError("expected it, found none")

    monkeypatch.setattr(tensorrt, "library_version", version)
    monkeypatch.setattr(openvino, "library_version", missing)
    monkeypatch.setattr(importlib.metadata, "version", installed)
    found = {name: capabilities.library_version(name) for name in BACKENDS}
    assert found == {
        "onnxruntime": "1.31.1",
        "tensorrt": "10.13.3.9",
        "tensorrt-rtx": None,
        "openvino": None,
    }
