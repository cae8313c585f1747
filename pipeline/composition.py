"""The composition root: which parts a provisioner is made of, unless the caller brings others."""

from collections.abc import Mapping

from pipeline.config import C10ProvisionerConfig
from pipeline.descriptors import DescriptorBatcher, LocalDescriptorBatcher
from pipeline.engines.choice import engine_compiler as choose_compiler
from pipeline.engines.onnxruntime import OnnxRuntimeCompiler
from pipeline.engines.port import EngineCompiler
from pipeline.host import host_facts
from pipeline.index import FaissIndexBuilder, IndexBuilder
from pipeline.locking import CacheLock, Lock
from pipeline.preflight import FreeBytes, free_bytes
from pipeline.progress import Progress, Silent
from pipeline.provisioner import CacheProvisioner
from pipeline.request import BuildRequest
from pipeline.tiles.opening import open_source
from pipeline.tiles.tile import TileMetadataStore
from store.facts import Clock, SystemClock
from store.keyfiles import load_signer, read_trusted
from store.layout import Layout
from store.trust import Signer
from store.verdict import ALLOW_UNSIGNED, TrustedKeys


def build_cache_provisioner(
    config: C10ProvisionerConfig,
    *,
    engine_compiler: EngineCompiler | None = None,
    stand_in_compiler: EngineCompiler | None = None,
    descriptor_batcher: DescriptorBatcher | None = None,
    tile_metadata_store: TileMetadataStore | None = None,
    lock: Lock | None = None,
    host: Mapping[str, object] | None = None,
    precision: str | None = None,
    clock: Clock | None = None,
    index_builder: IndexBuilder | None = None,
    progress: Progress | None = None,
    free_bytes: FreeBytes = free_bytes,
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
        free_bytes: Tells how much may still be written to a folder's file system.

    Raises:
        RequestRefusedError: `config.manifest_filename` is no usable template.
    """
    layout = Layout(config.cache_root.absolute(), config.manifest_filename, config.memory_folder)

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

    def batching() -> DescriptorBatcher:
        return descriptor_batcher if descriptor_batcher is not None else _batcher(config)

    return CacheProvisioner(
        config=config,
        layout=layout,
        clock=clock or SystemClock(),
        lock=lock or CacheLock(layout, config.lock_timeout_s),
        host=host if host is not None else host_facts(),
        progress=progress or Silent(),
        batching=batching,
        index_builder=index_builder or FaissIndexBuilder(),
        compiler_for=compiler_for,
        stand_in_compiler=stand_in_compiler or OnnxRuntimeCompiler(),
        source_for=source_for,
        signing=signing,
        trusting=trusting,
        free_bytes=free_bytes,
        precision=precision,
    )


def _batcher(config: C10ProvisionerConfig) -> DescriptorBatcher:
    if config.executor != "ray":
        return LocalDescriptorBatcher(workers=config.worker_count)
    from pipeline.ray_batcher import RayDescriptorBatcher  # noqa: PLC0415 - no other build needs it

    return RayDescriptorBatcher(address=config.ray_address, workers=config.workers)
