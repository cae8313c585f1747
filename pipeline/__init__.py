"""Build a flight cache from a request.

    from pipeline import BuildRequest, C10ProvisionerConfig, build_cache_provisioner

    provisioner = build_cache_provisioner(C10ProvisionerConfig(cache_root=Path("cache")))
    report = provisioner.build_cache_artifacts(BuildRequest.load("request.toml"))

Names are imported on first use: a worker process needs few of them and must start fast.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from journal.errors import BuildLockHeldError
    from pipeline.build.report import BuildOutcome, BuildReport
    from pipeline.composition import build_cache_provisioner
    from pipeline.config import C10ProvisionerConfig
    from pipeline.embed.batcher import DescriptorBatcher
    from pipeline.engines.port import EngineCompiler
    from pipeline.provisioner import CacheProvisioner
    from pipeline.request.options import SectorClassification
    from pipeline.request.request import BuildRequest
    from store.errors import ManifestCoverageError

__all__ = [
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
]

_MODULES = {
    "BuildLockHeldError": "journal.errors",
    "BuildOutcome": "pipeline.build.report",
    "BuildReport": "pipeline.build.report",
    "BuildRequest": "pipeline.request.request",
    "C10ProvisionerConfig": "pipeline.config",
    "CacheProvisioner": "pipeline.provisioner",
    "DescriptorBatcher": "pipeline.embed.batcher",
    "EngineCompiler": "pipeline.engines.port",
    "ManifestCoverageError": "store.errors",
    "SectorClassification": "pipeline.request.options",
    "build_cache_provisioner": "pipeline.composition",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - the type checker sees the imports above
    if name not in _MODULES:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value
