"""The composition root: which parts a provisioner is made of, unless the caller brings others."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.build.host_facts import host_facts
from pipeline.config import C10ProvisionerConfig
from pipeline.engines.backends.onnxruntime import OnnxRuntimeCompiler
from pipeline.engines.backends.registry import engine_compiler as choose_compiler
from pipeline.engines.port import EngineCompiler
from pipeline.index.faiss_builder import FaissIndexBuilder, IndexBuilder
from pipeline.lock import CacheLock, Lock
from pipeline.progress import Progress, Silent
from pipeline.provisioner import CacheProvisioner
from pipeline.request.request import BuildRequest
from pipeline.tiles.sources.open_source import open_source
from pipeline.tiles.tile import TileMetadataStore
from store.base.clock import Clock, SystemClock
from store.disk.layout import Layout
from store.trust.go_no_go import ALLOW_UNSIGNED, TrustedKeys
from store.trust.key_files import load_signer, read_trusted
from store.trust.signatures import Signer

if TYPE_CHECKING:
    from pipeline.embed.batcher import DescriptorBatcher
    from pipeline.planning.disk_space import FreeBytes


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
    index_builder: IndexBuilder | None = None,
    progress: Progress | None = None,
    free_bytes: "FreeBytes | None" = None,
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
    layout = Layout(config.cache_root.absolute(), config.manifest_filename)

    def source_for(request: BuildRequest) -> TileMetadataStore:
        return (
            tile_metadata_store
            if tile_metadata_store is not None
            else open_source(request.tiles.source, request.base, memory_folder=config.memory_folder)
        )

    def compiler_for(request: BuildRequest) -> EngineCompiler:
        return engine_compiler if engine_compiler is not None else choose_compiler(request.engine.backend)

    def signing() -> Signer | None:
        key = config.signing_key
        return None if key is None else load_signer(key, cache=layout.root)

    def trusting() -> TrustedKeys:
        return read_trusted(config.trusted_keys, cache=layout.root) if config.trusted_keys else ALLOW_UNSIGNED

    def executor() -> "Callable[[], DescriptorBatcher]":
        return _executor(config) if descriptor_batcher is None else lambda: descriptor_batcher

    return CacheProvisioner(
        config=config,
        layout=layout,
        clock=clock or SystemClock(),
        lock=lock or CacheLock(layout, config.lock_timeout_s),
        host=host if host is not None else host_facts(),
        progress=progress or Silent(),
        executor=executor,
        index_builder=index_builder or FaissIndexBuilder(),
        compiler_for=compiler_for,
        stand_in_compiler=stand_in_compiler or OnnxRuntimeCompiler(),
        source_for=source_for,
        signing=signing,
        trusting=trusting,
        free_bytes=free_bytes or _free_bytes,
        precision=precision,
    )


def _free_bytes(folder: Path) -> int:
    from pipeline.planning.disk_space import free_bytes  # noqa: PLC0415 - only where something is to be written

    return free_bytes(folder)


def _executor(config: C10ProvisionerConfig) -> "Callable[[], DescriptorBatcher]":
    """Make sure of what embeds tiles, as `config.executor` says, and return what gives it: no warm run asks for it.

    Raises:
        RequestError: It is not installed.
    """
    if config.executor != "ray":
        return _local(config)
    from pipeline.embed.ray.batcher import RayDescriptorBatcher  # noqa: PLC0415 - no other build needs it

    batcher = RayDescriptorBatcher(address=config.ray_address, workers=config.workers)
    return lambda: batcher


def _local(config: C10ProvisionerConfig) -> "Callable[[], DescriptorBatcher]":
    def batcher() -> "DescriptorBatcher":
        from pipeline.embed.batcher import LocalDescriptorBatcher  # noqa: PLC0415 - no warm run needs it

        return LocalDescriptorBatcher(workers=config.worker_count)

    return batcher
