"""The composition root: which parts a provisioner is made of, unless the caller brings others."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.build.host_facts import host_facts
from pipeline.config import C10ProvisionerConfig
from pipeline.engines.backends import registry
from pipeline.engines.backends.onnxruntime import OnnxRuntimeCompiler
from pipeline.engines.port import EngineCompiler
from pipeline.index.faiss_builder import FaissIndexBuilder
from pipeline.lock import CacheLock, Lock
from pipeline.ports import FreeBytes, Ports
from pipeline.progress import NoProgress, Progress
from pipeline.provisioner import CacheProvisioner
from pipeline.tiles.sources.registry import open_source
from pipeline.tiles.tile import TileMetadataStore
from store.base.clock import Clock, SystemClock
from store.disk.layout import Layout

if TYPE_CHECKING:
    from pipeline.embed.batcher import DescriptorBatcher


def build_cache_provisioner(
    config: C10ProvisionerConfig,
    *,
    engine_compiler: EngineCompiler | None = None,
    stand_in_compiler: EngineCompiler | None = None,
    descriptor_batcher: "DescriptorBatcher | None" = None,
    tile_metadata_store: TileMetadataStore | None = None,
    lock: Lock | None = None,
    host: Mapping[str, object] | None = None,
    precision: str | None = None,
    clock: Clock | None = None,
    index_builder: FaissIndexBuilder | None = None,
    progress: Progress | None = None,
    free_bytes: FreeBytes | None = None,
) -> CacheProvisioner:
    """Put a provisioner together; every port that is not given is the embedded default.

    Args:
        config: Operator settings, the cache's folder among them.
        engine_compiler: Compiles networks; by default the backend that the request names.
        stand_in_compiler: Compiles for this machine the network that embeds tiles, where its engine is for another; by
            default ONNX Runtime.
        descriptor_batcher: Embeds tiles; by default what `config.executor` names, once something may be embedded.
        tile_metadata_store: Where tiles come from; by default the source that the request names.
        lock: Keeps builds apart; by default a lock file in the cache.
        host: Facts about this machine, recorded and never part of an identity.
        precision: Replaces the request's precision.
        clock: Where times come from.
        index_builder: Builds the descriptor index; by default FAISS.
        progress: Told how the work moves on.
        free_bytes: Tells how much may still be written to a folder's file system; by default asks the system.

    Raises:
        RequestRefusedError: `config.manifest_filename` is no usable template.
    """
    layout = Layout(config.cache_root.absolute(), config.manifest_filename, config.allow_unknown_filesystem)
    given = {
        "compiler_for": None if engine_compiler is None else lambda _: engine_compiler,
        "stand_in": stand_in_compiler,
        "source_for": None if tile_metadata_store is None else lambda _: tile_metadata_store,
        "index": index_builder,
        "progress": progress,
        "clock": clock,
        "host": host,
        "free_bytes": free_bytes,
    }
    brought: dict[str, Any] = {name: port for name, port in given.items() if port is not None}
    return CacheProvisioner(
        config=config,
        layout=layout,
        lock=lock or CacheLock(layout, config.lock_timeout_s),
        ports=replace(default_ports(config.digest_cache_folder), **brought),
        executor=partial(_executor, config)
        if descriptor_batcher is None
        else lambda: lambda: descriptor_batcher,
        precision=precision,
    )


def default_ports(digest_cache_folder: Path | None = None) -> Ports:
    """Return the embedded defaults; digests of tiles are remembered in a folder, if there is one."""
    return Ports(
        compiler_for=lambda request: registry.engine_compiler(request.engine.backend),
        stand_in=OnnxRuntimeCompiler(),
        source_for=lambda request: open_source(
            request.tiles.source, request.base, digest_cache_folder=digest_cache_folder
        ),
        index=FaissIndexBuilder(),
        progress=NoProgress(),
        clock=SystemClock(),
        host=host_facts(),
        free_bytes=_free_bytes,
    )


def _free_bytes(folder: Path) -> int:
    from pipeline.planning.disk_space import free_bytes  # noqa: PLC0415 - only where something is to be written

    return free_bytes(folder)


def _executor(config: C10ProvisionerConfig) -> "Callable[[], DescriptorBatcher]":
    """Make sure of what embeds tiles, as `config.executor` says, and return what gives it: no warm run asks for it.

    Raises:
        RequestError: It is not installed.
    """
    if config.executor == "ray":
        from pipeline.embed.ray.batcher import RayDescriptorBatcher  # noqa: PLC0415 - no other build needs it

        batcher = RayDescriptorBatcher(address=config.ray_address, workers=config.workers)
        return lambda: batcher

    def local() -> "DescriptorBatcher":
        from pipeline.embed.batcher import LocalDescriptorBatcher  # noqa: PLC0415 - no warm run needs it

        return LocalDescriptorBatcher(workers=config.worker_count)

    return local
