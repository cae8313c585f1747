"""Play a build of a conformance cache through the store: all of its events, with tiny artifacts."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from store.base import identity
from store.base.canonical_json import encode
from store.base.values import ArtifactRef
from store.cache.writer import CacheWriter
from store.domain import events
from store.domain.attachments import GOLDEN, with_attached
from store.domain.index_files import whole_of
from store.domain.proof import SUBJECT
from store.domain.state import Generation
from store.formats import carried_tiles, descriptor_block, index_delta
from store.formats.index_delta import Rows
from store.formats.tables import BlockRow, encode_blocks, encode_packs, encode_tiles
from store.manifest.index_entry import artifact_document
from tests.conformance.sound import DAY, EDGE, ZOOM, Network, Plan, engines_of, sha, vectors_of


def build(store: CacheWriter, plan: Plan) -> Generation:
    """Append a build and commit it."""
    number = store.state.next_build
    calibration = store.artifacts.put(b'{"width":8}')
    inputs = _inputs(store, plan, calibration)
    store.append(
        events.BuildStarted(
            identity=identity.build_identity(inputs),
            inputs=inputs,
            calibration=calibration,
            again=False,
            host={},
        ),
        build=number,
    )
    table = store.artifacts.put(
        encode_tiles((each, digest, DAY if each % 2 else None) for each, digest in plan.tile_rows())
    )
    selected = events.TilesSelected(
        digest=identity.digest_tile_set(plan.tile_rows()),
        table=table,
        count=len(plan.tiles),
        wanted=len(plan.tiles),
        excluded=0,
        warnings=(),
    )
    store.append(selected, build=number)
    for network in plan.networks:
        _engine(store, network, number, stand_in=False)
        if network.stand_in:
            _engine(store, network, number, stand_in=True)
    _index(store, plan, number)
    _proof(store, plan, number)
    _packs(store, plan, number)
    report = store.artifacts.put(encode({"format": 1, "holes": [], "wanted": len(plan.tiles)}))
    walked = events.CoverageWalked(
        files=9,
        size=999,
        unreferenced=0,
        problems=(),
        geography=report,
        wanted=len(plan.tiles),
        present=len(plan.tiles),
        featureless=0,
        skipped=0,
    )
    store.append(walked, build=number)
    return store.commit(number)


def _inputs(store: CacheWriter, plan: Plan, calibration: ArtifactRef) -> Mapping[str, Any]:
    shape = {"format": 1, "polygons": [], "routes": [[[0, 0], [90_000_000, 0]]], "width_mm": 1000}
    area = store.artifacts.put(encode(shape) + b"\n") if plan.area else None
    levels = [{"zoom": ZOOM, "k": k, "m": m, "tile_edge": EDGE} for k, m in plan.levels]
    first = plan.networks[0]
    return identity.build_inputs(
        flight_id=plan.flight,
        sector="stable_rear",
        bbox_e7=[-1_800_000_000, 0, 1_799_999_999, 850_000_000],
        zoom=[ZOOM, ZOOM],
        origin={"lon_e7": 1, "lat_e7": 1, "altitude_mm": 0},
        calibration=calibration.sha256,
        tiles={"digest": identity.digest_tile_set(plan.tile_rows()), "on_bad": "fail"},
        models=[network.document() for network in plan.networks],
        engine={"backend": first.backend, "version": first.version},
        index={"kind": "flat", "library": "none"},
        checks={"parity_ppb": 999_000_000, "recall_ppb": 900_000_000, "min_fraction_ppb": 0},
        area=None if area is None else artifact_document(area),
        chunks={"levels": levels} if levels else None,
        carry={"tiles": True} if plan.carry else None,
        proof={"photographs": sha("photographs"), "count": 2} if plan.proof else None,
    )


def _engine(store: CacheWriter, network: Network, number: int, *, stand_in: bool) -> None:
    components = network.components(stand_in=stand_in)
    key, kind = identity.engine_key(components), "stand-in" if stand_in else "engine"
    if key in store.state.step_cache.engines:
        store.append(events.StepReused(kind=kind, count=1, keys={network.name: key}), build=number)
        return
    flown, *golden = engines_of(network)
    artifact = store.artifacts.put(f"stand-in of {network.name}".encode() if stand_in else flown)
    signature: Mapping[str, Any] = {
        "input": "input",
        "output": "descriptor",
        "dimensions": network.dimensions,
    }
    if stand_in:
        signature = with_attached(signature, {GOLDEN: store.artifacts.put(golden[0])})
    compiled = events.EngineCompiled(
        model=network.name,
        purpose="stand-in" if stand_in else "flight",
        key=key,
        components=components,
        artifact=artifact,
        signature=signature,
        elapsed_ms=1,
        log="",
        host={},
    )
    passed = events.CheckPassed(
        check="engine",
        subject=network.name,
        key=key,
        artifact=artifact.sha256,
        measured={"cosine_ppb": 1_000_000_000, "executed": not network.stand_in or stand_in},
    )
    store.append(compiled, passed, build=number)


def _blocks(
    store: CacheWriter, plan: Plan, number: int
) -> tuple[list[tuple[str, int]], list[BlockRow], Rows]:
    """Store the blocks of all networks; return their spaces and weights, the rows of the table, and the index's rows."""
    units, networks = plan.units(), plan.descriptors
    spaces = [(identity.space_of_model(network.document()), network.weight) for network in networks]
    cells: dict[tuple[int, int, int], list[tuple[int, str]]] = {}
    for unit in units:
        zoom, x, y, _ = identity.tile_of(unit[0])
        cells.setdefault((zoom, x >> 4, y >> 4), []).append(unit)
    rows, kept = [], list[int]()
    for cell, inside in sorted(cells.items()):
        refs, common = [], {each for each, _ in inside}
        for network, (space, _) in zip(networks, spaces, strict=True):
            own = [unit for unit in inside if network.skips is None or unit != units[network.skips]]
            ids = [each for each, _ in own]
            common &= set(ids)
            refs.append(_block(store, network, space, cell, own, number))
        kept += sorted(common)
        several = len(networks) > 1
        weights = tuple(network.weight for network in networks) if several else ()
        rows.append(
            BlockRow(
                zoom=cell[0],
                cell_x=cell[1],
                cell_y=cell[2],
                rows=len(common),
                ref=refs[0],
                further=tuple(refs[1:]),
                weights=weights,
            )
        )
    joined = np.concatenate([vectors_of(network, sorted(kept)) for network in networks], axis=1)
    return spaces, rows, Rows(np.array(sorted(kept), np.uint64), joined)


def _block(
    store: CacheWriter,
    network: Network,
    space: str,
    cell: tuple[int, int, int],
    own: list[tuple[int, str]],
    number: int,
) -> ArtifactRef:
    ids = [each for each, _ in own]
    block = store.artifacts.put(
        descriptor_block.encode(
            descriptor_block.Block(
                zoom=cell[0],
                cell_x=cell[1],
                cell_y=cell[2],
                dimensions=network.dimensions,
                ids=np.array(ids, np.uint64),
                digests=np.frombuffer(bytes.fromhex("".join(digest for _, digest in own)), np.uint8).reshape(
                    -1, 32
                ),
                vectors=vectors_of(network, ids),
                texture=np.full(len(ids), 3.5, np.float32),
            )
        )
    )
    components = identity.cell_components(space=space, tiles=own)
    embedded = events.CellEmbedded(
        space=space,
        zoom=cell[0],
        cell_x=cell[1],
        cell_y=cell[2],
        key=identity.cell_key(components),
        components=components,
        engine=sha(f"engine of {network.name}"),
        block=block,
        rows=len(ids),
        embedded=len(ids),
        copied=0,
    )
    store.append(embedded, build=number)
    return block


def _index(store: CacheWriter, plan: Plan, number: int) -> None:
    spaces, rows, found = _blocks(store, plan, number)
    table = store.artifacts.put(encode_blocks(rows))
    whole = identity.index_components(
        networks=spaces, blocks=table.sha256, options={"kind": "flat"}, library="none"
    )
    same: dict[str, Any] = {
        "blocks": table,
        "kind": "flat",
        "metric": "ip",
        "dimensions": sum(network.dimensions for network in plan.descriptors),
        "rows": len(found),
        "elapsed_ms": 1,
    }
    head = store.state.head_build
    event: events.Index
    if plan.extend and head is not None and head.index is not None:
        base = whole_of(head.index)
        components = identity.extended_index_components(whole, base=base.sha256)
        delta = index_delta.delta_between(_rows_before(plan), found)
        event = events.IndexExtended(
            key=identity.index_key(components),
            components=components,
            artifact=store.artifacts.put(index_delta.encode(delta)),
            base=base,
            added=len(delta.added),
            dropped=len(delta.dropped),
            **same,
        )
    else:
        artifact = store.artifacts.put(f"index of {table.sha256}".encode())
        event = events.IndexBuilt(key=identity.index_key(whole), components=whole, artifact=artifact, **same)
    passed = events.CheckPassed(
        check="index",
        subject="index",
        key=event.key,
        artifact=event.artifact.sha256,
        measured={"recall_ppm": 1_000_000},
    )
    store.append(event, passed, build=number)


def _rows_before(plan: Plan) -> Rows:
    """The rows of the head's index: a tile of other content had another vector."""
    before = replace(plan, tiles=plan.before).units()
    vectors = vectors_of(plan.descriptors[0], [each for each, _ in before])
    vectors[[unit not in plan.units() for unit in before]] += np.float32(1)
    return Rows(np.array([each for each, _ in before], np.uint64), vectors)


def _proof(store: CacheWriter, plan: Plan, number: int) -> None:
    if not plan.proof:
        return
    answers = store.artifacts.put(encode({"answers": [], "format": 1}) + b"\n")
    measured = {
        "pictures": 2,
        "right": 2,
        "within_mm": 50_000,
        "at": 1,
        "min_ppm": 500_000,
        "near_mm": None,
        "better_half_right_ppm": None,
        "size": answers.size,
    }
    passed = events.CheckPassed(
        check="proof",
        subject=SUBJECT,
        key=sha(f"proof of {number}"),
        artifact=answers.sha256,
        measured=measured,
    )
    store.append(passed, build=number)


def _packs(store: CacheWriter, plan: Plan, number: int) -> None:
    if not plan.carry:
        return
    cells: dict[tuple[int, int], dict[int, bytes]] = {}
    for (x, y), text in plan.tiles.items():
        cells.setdefault((x >> 4, y >> 4), {})[identity.descriptor_id(ZOOM, x, y)] = text.encode()
    rows = []
    for (cell_x, cell_y), images in sorted(cells.items()):
        key = identity.pack_key(
            identity.digest_tile_set([(each, sha(image)) for each, image in images.items()])
        )
        pack = store.artifacts.put(carried_tiles.encode(images))
        packed = events.TilesPacked(
            zoom=ZOOM, cell_x=cell_x, cell_y=cell_y, key=key, pack=pack, tiles=len(images)
        )
        store.append(packed, build=number)
        rows.append(BlockRow(zoom=ZOOM, cell_x=cell_x, cell_y=cell_y, rows=len(images), ref=pack))
    size = sum(len(text.encode()) for text in plan.tiles.values())
    table = store.artifacts.put(encode_packs(rows))
    store.append(events.TilesCarried(table=table, tiles=len(plan.tiles), size=size), build=number)
