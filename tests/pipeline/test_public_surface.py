"""What `from pipeline import ...` offers: others script against it."""

import importlib

import pytest

import pipeline
from pipeline.errors import RequestError

SURFACE = {
    "BuildLockHeldError",
    "BuildOutcome",
    "BuildReport",
    "BuildRequest",
    "C10ProvisionerConfig",
    "CacheProvisioner",
    "DescriptorBatcher",
    "EngineCompiler",
    "ManifestCoverageError",
    "SectorClassification",
    "build_cache_provisioner",
}


def test_surface_is_this_and_no_more():
    assert set(pipeline.__all__) == SURFACE
    assert set(pipeline._MODULES) == SURFACE


def test_every_name_is_that_of_its_module():
    for name, module in pipeline._MODULES.items():
        assert getattr(pipeline, name) is getattr(importlib.import_module(module), name)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nothing"):
        pipeline.nothing  # noqa: B018


def test_a_cache_root_that_is_no_path_is_refused_at_once():
    with pytest.raises(RequestError, match=r"cache_root: expected .*Path, found"):
        pipeline.C10ProvisionerConfig(cache_root="cache")
