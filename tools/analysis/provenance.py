"""Trace an artifact to its step, or a descriptor to its tile, engine, network and calibration. Pure."""

import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.tiles.chunks import tile_ids_under
from pipeline.tiles.retrieval_units import unit_name
from store.base.geometry.lattice import chunk_of, middle
from store.base.geometry.level import side_m
from store.base.identity import descriptor_id, tile_of
from store.base.valueclass import valueclass
from store.base.values import ArtifactRef
from store.domain import events as e
from store.domain import maintenance_events
from store.domain.attachments import attached, attached_to_failure
from store.domain.index_files import delta_of, whole_of
from store.domain.proof import answers_of, is_proof
from store.domain.state import Build
from store.errors import ArtifactError, StoreError
from store.formats import descriptor_block
from store.formats.descriptor_block import BlockError
from store.formats.tables import BlockRow, decode_blocks, decode_packs
from store.manifest.area import area_of
from store.manifest.roles import AREA, DELTA, PACKS, PROOF
from store.policy.retention import refs_of_build
from tools.forensics.failure import ArtifactReader
from tools.forensics.ground.area import Tiles, known_levels, read_tiles
from tools.forensics.history import BuildHistory
from tools.forensics.records import DecodedRecord
from tools.output.sanitize import is_number, safe_data, safe_text

_CELL = 4
_FAR = 365_000
"""Days from 1970; a date farther away is the mark of an unknown date."""


@valueclass(frozen=True, slots=True, kw_only=True)
class NamedArtifact:
    """An artifact, and the record that names it."""

    role: str
    ref: ArtifactRef
    record: DecodedRecord
    key: str = ""
    components: Any = None


def named_artifacts(records: Sequence[DecodedRecord]) -> Iterator[NamedArtifact]:
    """Yield every artifact that a record names, in the order of the records."""
    for record in records:
        event = record.event
        key, components = "", None
        if isinstance(event, e.EngineCompiled | e.CellEmbedded | e.IndexBuilt | e.IndexExtended):
            key, components = event.key, event.components
        for role, ref in _artifacts_in(event):
            yield NamedArtifact(role=role, ref=ref, record=record, key=key, components=components)


def _area_in(inputs: Mapping[str, Any]) -> Iterator[tuple[str, ArtifactRef]]:
    ref = area_of(inputs)
    if ref is not None:
        yield AREA, ref


def _artifacts_in(event: e.Event | None) -> Iterator[tuple[str, ArtifactRef]]:
    match event:
        case e.EngineCompiled():
            yield f"engine {event.model}", event.artifact
            yield from ((f"{name} of engine {event.model}", ref) for name, ref in attached(event).items())
        case e.CellEmbedded():
            yield f"block {event.zoom}/{event.cell_x}/{event.cell_y}", event.block
        case e.IndexBuilt():
            yield "index", event.artifact
            yield "block table", event.blocks
        case e.IndexExtended():
            yield DELTA, event.artifact
            yield "index", event.base
            yield "block table", event.blocks
        case e.BuildStarted(calibration=ref, inputs=inputs) if ref is not None:
            yield "calibration", ref
            yield from _area_in(inputs)
        case e.TilesSelected(table=ref):
            yield "tile table", ref
        case e.CoverageWalked(geography=ref):
            yield "geographic report", ref
        case e.BuildFailed():
            for name, ref in attached_to_failure(event).items():
                yield f"{name} of a failure", ref
        case _:
            yield from _packs_in(event)


def _packs_in(event: e.Event | None) -> Iterator[tuple[str, ArtifactRef]]:
    match event:
        case e.TilesPacked():
            yield f"pack {event.zoom}/{event.cell_x}/{event.cell_y}", event.pack
        case e.TilesCarried():
            yield PACKS, event.table
        case e.CheckPassed() | e.CheckFailed() if is_proof(event):
            yield PROOF, answers_of(event)
        case _:
            pass


def artifact(found: NamedArtifact, builds: BuildHistory) -> dict[str, Any]:
    """Return which step made an artifact, and which builds and generations name it."""
    state, digest = builds.state, found.ref.sha256
    naming = sorted(
        number
        for number, build in state.builds.items()
        if any(digest == ref.sha256 for ref in _artifacts_of(build, builds.source.artifacts))
    )
    shown = [each.number for each in state.generations.values() if each.origin in naming]
    collected = any(
        digest in record.event.digests
        for record in builds.source.history.records[found.record.seq :]
        if isinstance(record.event, maintenance_events.Collected | maintenance_events.CollectionPlanned)
    )
    return {
        "sha256": digest,
        "size": found.ref.size,
        "role": safe_text(found.role, 300),
        "seq": found.record.seq,
        "build": found.record.build,
        "key": found.key or None,
        "components": safe_data(found.components),
        "builds": naming,
        "generations": shown,
        "collected": collected,
        "present": builds.source.artifacts.holds(found.ref),
    }


def parse_descriptor_id(word: str) -> int | None:
    """Return the descriptor id that a word names, as zoom/x/y or as a number; None if it names none."""
    parts = word.split("/")
    if len(parts) in {3, 4} and all(is_number(part, 9) for part in parts):
        zoom, x, y = (int(part) for part in parts[:3])
        try:
            return descriptor_id(zoom, x, y, int(parts[3]) if len(parts) > 3 else 0)
        except ValueError:
            return None
    if is_number(word, 19) and int(word) < 1 << 63:
        return int(word)
    return None


def descriptor(identifier: int, build: Build, builds: BuildHistory) -> list[dict[str, Any]]:
    """Return the links from the index row of a descriptor to the calibration; none for no such tile or chunk.

    Where chunks have the descriptors, a tile has no row; its own links alone are returned.
    """
    zoom, x, y, view = tile_of(identifier)
    tiles = read_tiles(build.tiles.table if build.tiles else None, build.inputs, builds.source.artifacts)
    shown = [identifier] if view == 0 else _tiles_under(identifier)
    digests = {each: tiles.table.digest(each) if tiles is not None else None for each in shown}
    if not shown or (tiles is not None and None in digests.values()):
        return []
    if view == 0 and known_levels(build.inputs):
        return [_tile_link(build, identifier, digests[identifier], tiles)]
    links, engines = [_index_link(build, identifier)], list[str]()
    for cell, made in _cell_records(build, builds, (zoom, x >> _CELL, y >> _CELL)):
        engines.append(made.engine)
        links.append(
            _link(
                "block",
                f"{zoom}/{x >> _CELL}/{y >> _CELL}",
                made.block.sha256,
                cell,
                {
                    "rows": made.rows,
                    "space": made.space,
                    "embedded": made.embedded,
                    **_block_row(made, identifier, builds),
                },
            )
        )
    if view:
        links.append(_chunk_link(identifier))
    links.extend(_tile_link(build, each, digest, tiles) for each, digest in digests.items())
    for engine in engines or [""]:
        links.extend(_engine_links(build, builds, engine))
    if build.calibration is not None:
        links.append(
            _link("calibration", "camera", build.calibration.sha256, None, {"size": build.calibration.size})
        )
    return links


def _index_link(build: Build, identifier: int) -> dict[str, Any]:
    if build.index is None:
        return _link("index", "none was built", None, None, {"row_id": str(identifier)})
    made = build.index
    facts = {
        "row_id": str(identifier),
        "kind": made.kind,
        "metric": made.metric,
        "rows": made.rows,
        "dimensions": made.dimensions,
        "key": made.key,
        "library": made.components.get("library"),
    }
    delta = delta_of(made)
    if delta is not None:
        facts["delta"] = delta.sha256
    return _link("index", made.kind, whole_of(made).sha256, None, facts)


def _cell_records(
    build: Build, builds: BuildHistory, place: tuple[int, int, int]
) -> list[tuple[DecodedRecord, e.CellEmbedded]]:
    """Return record and event of each network's block that a build has for a cell."""
    blocks = _block_digests(build, builds.source.artifacts, place)
    found: dict[str, tuple[DecodedRecord, e.CellEmbedded]] = {}
    for record in builds.source.history.records[: build.ended_seq]:
        made = record.event
        if not isinstance(made, e.CellEmbedded) or (made.zoom, made.cell_x, made.cell_y) != place:
            continue
        if not blocks:
            found = {"": (record, made)}
        elif made.block.sha256 in blocks:
            found[made.block.sha256] = record, made
    return [found[digest] for digest in blocks or ("",) if digest in found]


def _block_digests(build: Build, artifacts: ArtifactReader, place: tuple[int, int, int]) -> tuple[str, ...]:
    for row in _block_rows(build, artifacts):
        if (row.zoom, row.cell_x, row.cell_y) == place:
            return tuple(ref.sha256 for ref in row.refs)
    return ()


def _block_rows(build: Build, artifacts: ArtifactReader) -> tuple[BlockRow, ...]:
    return _rows(build.index.blocks, decode_blocks, artifacts) if build.index is not None else ()


def _pack_rows(build: Build, artifacts: ArtifactReader) -> tuple[BlockRow, ...]:
    return _rows(build.carried.table, decode_packs, artifacts) if build.carried is not None else ()


def _rows(
    table: ArtifactRef, decode: Callable[[bytes], tuple[BlockRow, ...]], artifacts: ArtifactReader
) -> tuple[BlockRow, ...]:
    data = artifacts.read(table)
    try:
        return decode(data) if data is not None else ()
    except ArtifactError:
        return ()


def _block_row(made: e.CellEmbedded, identifier: int, builds: BuildHistory) -> dict[str, Any]:
    """Return what a block says of a row."""
    data = builds.source.artifacts.read(made.block)
    if data is None:
        return {}
    try:
        block = descriptor_block.decode(data)
    except (BlockError, StoreError):
        return {}
    ids = block.ids.tolist()
    if identifier not in ids:
        return {"row": None, "why": "it was skipped: no image that can be decoded, or no descriptor"}
    row = ids.index(identifier)
    return {
        "row": row,
        "texture": float(block.texture[row]),
        "tile": bytes(block.digests[row]).hex(),
        "vector": [round(float(number), 6) for number in block.vectors[row][:8]],
    }


def _tiles_under(identifier: int) -> list[int]:
    """Return the ids of the tiles that a chunk shows, by column and row; none if there is no such chunk."""
    try:
        chunk_of(identifier)
    except ValueError:
        return []
    found: list[int] = tile_ids_under(np.array([identifier])).tolist()
    return found


def _chunk_link(identifier: int) -> dict[str, Any]:
    level, x, y = chunk_of(identifier)
    longitude, latitude = middle(level, x, y)
    facts = {
        "level": f"zoom {level.zoom}, k {level.k}, m {level.m}",
        "side_m": round(side_m(level, latitude), 1),
        "middle": f"{longitude:.6f}, {latitude:.6f}",
    }
    return _link("chunk", unit_name(identifier), None, None, facts)


def _tile_link(build: Build, identifier: int, digest: str | None, tiles: Tiles | None) -> dict[str, Any]:
    zoom, x, y, _ = tile_of(identifier)
    facts: dict[str, Any] = {"view": 0, "source": build.host.get("source")}
    if tiles is not None and digest is not None:
        place = int((tiles.ids == identifier).argmax())
        days = int(tiles.table.captured[place])
        facts["captured"] = None if abs(days) > _FAR else str(dt.date(1970, 1, 1) + dt.timedelta(days=days))
    return _link("tile", f"{zoom}/{x}/{y}", digest, None, facts)


def _engine_links(build: Build, builds: BuildHistory, digest: str) -> Iterator[dict[str, Any]]:
    made = next(
        (
            record
            for record in builds.source.history.records
            if isinstance(record.event, e.EngineCompiled) and record.event.artifact.sha256 == digest
        ),
        None,
    )
    event = made.event if made is not None else None
    if not isinstance(event, e.EngineCompiled):
        event = next((engine for _, engine in (*build.stand_ins, *build.engines)), None)
    if event is None:
        return
    names = ("backend", "version", "target", "precision", "batch")
    facts = {name: event.components.get(name) for name in names}
    purpose = {"key": event.key, "purpose": event.purpose}
    yield _link("engine", event.model, event.artifact.sha256, made, {**facts, **purpose})
    onnx = event.components.get("onnx")
    yield _link("network", event.model, onnx if isinstance(onnx, str) else None, made, {})


def _artifacts_of(build: Build, artifacts: ArtifactReader) -> Iterator[ArtifactRef]:
    yield from refs_of_build(build)
    for rows in (_block_rows, _pack_rows):
        yield from (ref for row in rows(build, artifacts) for ref in row.refs)


def _link(
    what: str, name: str, sha256: str | None, record: DecodedRecord | None, facts: dict[str, Any]
) -> dict[str, Any]:
    return {
        "what": what,
        "name": safe_text(name, 300),
        "sha256": safe_text(sha256, 64) if sha256 else None,
        "seq": record.seq if record else None,
        "build": record.build if record else None,
        "facts": safe_data(facts),
    }
