"""The composition root: choose the parts of a provisioner, except those that the caller brings."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pipeline.build.host_facts import host_facts
from pipeline.config import C10ProvisionerConfig
from pipeline.engines.backends import registry
from pipeline.engines.backends.onnxruntime import OnnxRuntimeCompiler
from pipeline.engines.port import EngineCompiler
from pipeline.index.faiss_builder import FaissIndexBuilder
from pipeline.lock import CacheLock
from pipeline.ports import FreeBytes, Ports
from pipeline.progress import NoProgress, Progress
from pipeline.provisioner import CacheProvisioner
from pipeline.request.request import BuildRequest
from pipeline.tiles.sources.registry import open_source
from pipeline.tiles.tile import TileMetadataStore
from store.base.clock import Clock, SystemClock
from store.disk.layout import Layout

if TYPE_CHECKING:
    from pipeline.embed.batcher import DescriptorBatcher

Port = TypeVar("Port")
_SILENT = NoProgress()


def build_cache_provisioner(
    config: C10ProvisionerConfig,
    *,
    engine_compiler: EngineCompiler | None = None,
    stand_in_compiler: EngineCompiler | None = None,
    descriptor_batcher: "DescriptorBatcher | None" = None,
    tile_metadata_store: TileMetadataStore | None = None,
    lock: CacheLock | None = None,
    host: Mapping[str, object] | None = None,
    precision: str | None = None,
    clock: Clock | None = None,
    index_builder: FaissIndexBuilder | None = None,
    progress: Progress | None = None,
    free_bytes: FreeBytes | None = None,
) -> CacheProvisioner:
    """Assemble a provisioner; every part that is not given is the embedded default.

    `engine_compiler` and `tile_metadata_store` replace what the request names, `stand_in_compiler` replaces ONNX
    Runtime, `descriptor_batcher` what `config.executor` names, `lock` the lock file in the cache, and `precision`
    the request's precision. `Ports` describes the other parts.

    Raises:
        RequestRefusedError: `config.manifest_filename` is no usable template.
    """
    layout = Layout(config.cache_root.absolute(), config.manifest_filename, config.allow_unknown_filesystem)
    default = default_ports(config.digest_cache_folder, progress or _SILENT)
    return CacheProvisioner(
        config=config,
        layout=layout,
        lock=lock or CacheLock(layout, config.lock_timeout_s),
        ports=Ports(
            compiler_for=_always(engine_compiler)
            or (lambda request: registry.compiler_for(request.engine, precision)),
            stand_in=stand_in_compiler or default.stand_in,
            source_for=_always(tile_metadata_store) or default.source_for,
            index=index_builder or default.index,
            progress=default.progress,
            clock=clock or default.clock,
            host=default.host if host is None else host,
            free_bytes=free_bytes or default.free_bytes,
        ),
        executor=partial(_executor, config)
        if descriptor_batcher is None
        else lambda: lambda: descriptor_batcher,
        precision=precision,
    )


def _always(port: Port | None) -> Callable[[BuildRequest], Port] | None:
    return None if port is None else lambda _: port


def default_ports(digest_cache_folder: Path | None = None, progress: Progress = _SILENT) -> Ports:
    """Return the embedded defaults; digests of tiles are cached in a folder, if one is named."""
    return Ports(
        compiler_for=lambda request: registry.compiler_for(request.engine),
        stand_in=OnnxRuntimeCompiler(),
        source_for=lambda request: open_source(
            request.tiles.source, request.base, digest_cache_folder=digest_cache_folder, progress=progress
        ),
        index=FaissIndexBuilder(),
        progress=progress,
        clock=SystemClock(),
        host=host_facts(),
        free_bytes=_free_bytes,
    )


def _free_bytes(folder: Path) -> int:
    from pipeline.planning.disk_space import free_bytes  # noqa: PLC0415 - needed only by a write

    return free_bytes(folder)


def _executor(config: C10ProvisionerConfig) -> "Callable[[], DescriptorBatcher]":
    """Make sure that what `config.executor` names is installed, and return a function that creates it.

    A build with nothing to do never calls that function.

    Raises:
        RequestError: It is not installed.
    """
    if config.executor == "ray":
        from pipeline.embed.ray.batcher import RayDescriptorBatcher  # noqa: PLC0415 - no other build needs it

        batcher = RayDescriptorBatcher(address=config.ray_address, workers=config.workers)
        return lambda: batcher

    def local() -> "DescriptorBatcher":
        from pipeline.embed.batcher import LocalDescriptorBatcher  # noqa: PLC0415 - needed only by work

        return LocalDescriptorBatcher(workers=config.worker_count)

    return local
