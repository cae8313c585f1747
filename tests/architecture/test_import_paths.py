"""Import paths that scripts of users have: they stay, wherever the code behind them goes."""

import importlib

import pytest

PATHS = {
    "journal": "Journal Record Entry Head JournalError BuildLockHeldError",
    "pipeline": "CacheProvisioner BuildRequest BuildOutcome build_cache_provisioner",
    "pipeline.decoding": "decode MAX_PIXELS PIXEL_CEILING fast_jpeg_version",
    "store.errors": "StoreError NoGoError ArtifactError",
    "store.reader": "FlightCache ALLOW_UNSIGNED NoGoError Tile TrustedKey Verification",
    "store.runtime": "DescriptorIndex Engine EngineLoadError EngineRunError ExecutionError IndexLoadError"
    " IndexSearchError RuntimeUnavailableError load_engine load_index",
    "tools.cli": "main",
}


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module in PATHS for name in PATHS[module].split()]
)
def test_a_name_is_where_scripts_import_it_from(module, name):
    scope = {}
    exec(f"from {module} import {name}", scope)  # as a script does, through `__getattr__` of the package
    assert scope[name] is not None


@pytest.mark.parametrize("module", ["journal", "pipeline", "store.reader", "store.runtime"])
def test_all_that_a_package_offers_is_there(module):
    package = importlib.import_module(module)
    assert [name for name in package.__all__ if not hasattr(package, name)] == []
    with pytest.raises(AttributeError, match="nowhere"):
        package.nowhere  # noqa: B018
