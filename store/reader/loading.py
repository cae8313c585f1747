"""Load what a flight uses from verified bytes: engines, and the chunks of all levels with their vectors."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from store.base.preprocessing import Preprocessing
from store.errors import ErrorKind, RequestRefusedError
from store.files.sealed_memory import SealError
from store.formats.descriptor_block import BlockError
from store.formats.joined_blocks import read_block
from store.formats.tables import TileTable
from store.manifest.levels import ChunkLevel
from store.manifest.manifest import EngineEntry, Manifest
from store.manifest.roles import TABLE, WHOLE
from store.reader import table_checks
from store.reader.artifact_files import ArtifactFiles
from store.reader.manifest_files import damaged
from store.reader.places.descriptor_networks import DescriptorNetwork
from store.reader.places.level_table import LevelTable, Rows, id_range
from store.reader.places.locate import Locator
from store.reader.verify_content import delta_of
from store.runtime.backends.base import Vectors
from store.runtime.load import DescriptorIndex, Engine, load_engine, load_index


def load_entry(entry: EngineEntry, files: ArtifactFiles, *, threads: int) -> Engine:
    """Load the engine of an entry.

    Raises:
        NoGoError: The file is damaged, or the entry does not name its tensors.
        store.runtime.ExecutionError: Its library is missing, of another version, or refuses it.
    """
    names = [entry.signature.get(end) for end in ("input", "output")]
    if not all(isinstance(end, str) for end in names):
        raise damaged([f"engine {entry.model}: expected the names of its input and output, found {names}"])
    return load_engine(
        files.view(f"engine {entry.model}", entry.artifact),
        backend=entry.backend,
        version=entry.version,
        input=str(names[0]),
        output=str(names[1]),
        batch=entry.batch,
        threads=threads,
        target=entry.target,
        precision=entry.precision,
        single=True,
    )


def entry_of(manifest: Manifest, name: str) -> EngineEntry:
    """Return the entry of an engine.

    Raises:
        KeyError: No model has this name.
    """
    for entry in manifest.engines:
        if entry.model == name:
            return entry
    raise KeyError(f"no engine {name!r} in this cache, only {[entry.model for entry in manifest.engines]}")


def contract_of(entry: EngineEntry) -> Preprocessing:
    """Return the image contract of a descriptor network.

    Raises:
        NoGoError: It names a rule that this version lacks.
    """
    try:
        return Preprocessing.from_document(entry.preprocessing)
    except ValueError as error:
        raise damaged([f"preprocessing: {error}"]) from error


def networks_of(manifest: Manifest, load: Callable[[str], Engine]) -> tuple[DescriptorNetwork, ...]:
    """Return the descriptor networks, in the order of their names; `load` returns the engine of a model.

    Raises:
        NoGoError: A contract names a rule that this version lacks; or as for `load`.
    """
    return tuple(
        DescriptorNetwork(engine=load(entry.model), preprocessing=contract_of(entry), weight=weight)
        for entry, weight in zip(manifest.descriptor_engines, manifest.weights, strict=True)
    )


def load_descriptor_index(manifest: Manifest, files: ArtifactFiles, *, threads: int) -> DescriptorIndex:
    """Return the index, loaded from sealed memory and checked against the manifest.

    Raises:
        NoGoError: The file is damaged.
        store.runtime.ExecutionError: faiss is missing, or the index is not what the manifest says.
    """
    index = manifest.index
    sealed = files.seal(WHOLE, index.artifact)
    return load_index(
        sealed.path,
        kind=index.kind,
        dimensions=index.dimensions,
        ntotal=index.whole_rows,
        metric=index.metric,
        delta=delta_of(manifest, files),
        threads=threads,
    )


def parse_calibration(data: memoryview) -> dict[str, Any]:
    """Return a camera calibration.

    Raises:
        NoGoError: It is no JSON object.
    """
    try:
        calibration = json.loads(bytes(data))
    except (ValueError, RecursionError) as error:
        raise damaged([f"calibration: expected JSON, found: {error}"]) from error
    if not isinstance(calibration, dict):
        raise damaged([f"calibration: expected a JSON object, found {type(calibration).__name__}"])
    return calibration


def require_chunks(manifest: Manifest) -> None:
    """Refuse to find places in a cache whose descriptors are those of tiles.

    Raises:
        RequestRefusedError: They are.
    """
    if not manifest.levels:
        raise RequestRefusedError(
            "expected a cache whose descriptors are those of chunks of ground, found one of tiles, which have "
            "no scale that a frame could be cut to",
            kind=ErrorKind.ARGUMENT,
            hint="build it again with altitude_m or [chunks] in the request",
        )


def is_chunk(manifest: Manifest, identifier: int) -> bool:
    """Return whether an id belongs to a level of chunks in the manifest."""
    ranges = (id_range(each.level) for each in manifest.levels)
    return any(first <= identifier <= last for first, last in ranges)


def level_tables(
    levels: Sequence[ChunkLevel],
    index: DescriptorIndex,
    tiles: TileTable,
    *,
    rows: int,
    blocks: Callable[[], tuple[Rows, Vectors]],
) -> tuple[LevelTable, ...]:
    """Return the chunks of all levels, with their vectors from the index, or from blocks if it keeps none.

    Args:
        levels: The levels, by rising side.
        index: The index of all chunks.
        tiles: The tile table.
        rows: How many chunks there are.
        blocks: Returns ids and vectors of all of them from the descriptor blocks.

    Raises:
        NoGoError: A block is missing or damaged, or the rows are not those that the manifest tells.
        CacheUnusableError: This process lacks memory.
    """
    tables, stored = list[LevelTable](), None
    for number, each in enumerate(levels, start=1):
        first, last = id_range(each.level)
        found = index.rows(first, last)
        if found is None:
            stored = blocks() if stored is None else stored
            own = (stored[0] >= first) & (stored[0] <= last)
            found = stored[0][own], stored[1][own]
        try:
            tables.append(LevelTable.of(number, each.level, *found, tiles))
        except ValueError as error:
            raise damaged([f"descriptor index: expected chunks of level {number}, found {error}"]) from error
    total = sum(map(len, tables))
    if total != rows:
        raise damaged(
            [f"descriptor index: expected {rows} chunks of the levels in the manifest, found {total}"]
        )
    return tuple(tables)


def load_locator(
    manifest: Manifest,
    files: ArtifactFiles,
    tiles: TileTable,
    *,
    index: DescriptorIndex,
    networks: Sequence[DescriptorNetwork],
    calibration: Mapping[str, Any],
) -> Locator:
    """Return what finds places: the chunks of all levels beside the networks that were loaded.

    Raises:
        StoreError: As for `level_tables`.
    """
    return Locator(
        sector=manifest.inputs.get("sector"),
        built_ns=manifest.envelope.wall_ns,
        networks=networks,
        calibration=calibration,
        tables=level_tables(
            manifest.levels,
            index,
            tiles,
            rows=manifest.index.rows,
            blocks=lambda: rows_of_blocks(manifest, files),
        ),
    )


def rows_of_blocks(manifest: Manifest, files: ArtifactFiles) -> tuple[Rows, Vectors]:
    """Return ids and vectors of all rows, from the descriptor blocks.

    Raises:
        NoGoError: One is missing or damaged.
    """
    index = manifest.index
    ids = [np.zeros(0, np.int64)]
    vectors = [np.zeros((0, index.dimensions), np.float32)]
    for row in table_checks.blocks_of(manifest, files.view(TABLE, index.blocks)):
        try:
            block = read_block(row, files.read_block)
        except (SealError, BlockError) as error:
            raise damaged(
                [
                    f"block {'/'.join(map(str, row.cell))}, which has the vectors that an index of kind {index.kind} does not keep: {error}"
                ]
            ) from error
        ids.append(block.ids.astype(np.int64))
        vectors.append(block.vectors)
    return np.concatenate(ids), np.concatenate(vectors)
