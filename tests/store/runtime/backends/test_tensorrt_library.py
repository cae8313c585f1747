"""The version of the installed TensorRT, and the version in an engine."""

import importlib.metadata
from types import SimpleNamespace

import pytest

from store.runtime.backends import tensorrt_library
from store.runtime.backends.tensorrt_library import (
    LibraryMissingError,
    cuda_major,
    engine_version,
    library_version,
    loaded_version,
    same_version,
)


@pytest.fixture
def installed(monkeypatch):
    """Distributions by name, and the module."""
    library_version.cache_clear()
    versions, modules = {}, {}

    def version(name):
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    def module(backend):
        if backend not in modules:
            raise LibraryMissingError(f"no {backend}")
        return SimpleNamespace(__version__=modules[backend])

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(tensorrt_library, "library", module)
    yield versions, modules
    library_version.cache_clear()


def test_a_package_with_a_version_of_four_parts_is_not_imported(installed):
    versions, _ = installed
    versions["tensorrt-cu12-bindings"] = "10.16.1.11"
    assert library_version("tensorrt") == "10.16.1.11"
    assert cuda_major("tensorrt") == 12


def test_a_version_of_three_parts_is_completed_by_the_library(installed, monkeypatch):
    versions, modules = installed
    versions["tensorrt"] = modules["tensorrt"] = "10.13.3"
    with pytest.raises(LibraryMissingError, match=r"four parts, found '10\.13\.3'"):
        library_version("tensorrt")
    monkeypatch.setattr(tensorrt_library, "_asked", lambda _: "10.13.3.9")
    assert library_version("tensorrt") == loaded_version("tensorrt") == "10.13.3.9"
    assert cuda_major("tensorrt") is None


def test_a_missing_installation_is_reported(installed):
    with pytest.raises(LibraryMissingError, match="no tensorrt-rtx"):
        library_version("tensorrt-rtx")


def test_the_version_in_an_engine():
    header = b"ftrt" + bytes(20) + bytes([10, 16, 1, 11]) + bytes(36)
    assert engine_version(header) == engine_version(memoryview(header)) == "10.16.1.11"
    for other in (b"", header[:27], b"ONNX" + header[4:], b"\0" * 64):
        assert engine_version(other) is None
    assert same_version("10.16.1.11", "10.16.1.11")
    assert same_version("11.4.0.44", "11.4.0.300")
    assert not same_version("10.16.1.11", "10.16.1.12")
