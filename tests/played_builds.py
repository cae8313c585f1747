"""Builds with tiny artifacts, events and a clock, for tests of the store and the packages above it.

`play` appends all events of a build, as the pipeline does, but with tiny artifacts. It can raise or die at
any step.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, TypeVar, get_origin, get_type_hints

import numpy as np

from store.base import canonical_json, identity
from store.base.values import ArtifactRef, Position
from store.cache.writer import CacheWriter
from store.domain import events
from store.domain.index_files import whole_of, whole_rows
from store.domain.manifest_projection import body_of, render
from store.domain.proof import PROOF, SUBJECT, answers_of
from store.domain.state import FLIGHT, Generation
from store.formats import carried_tiles, index_delta
from store.formats.index_delta import Rows
from store.formats.tables import BlockRow, encode_blocks, encode_packs, encode_tiles
from store.manifest.manifest import Envelope, parse
from store.verify.coverage import named_by, referenced_by, walk

Event = TypeVar("Event")

STEPS = ("start", "tiles", "engine", "check", "cells", "index", "proof", "packs", "coverage", "commit")
"""Where `play` can fail or die."""

PREPROCESSING: Mapping[str, object] = {
    "size": [8, 8],
    "colour": "rgb",
    "layout": "nchw",
    "mean": ["0", "0", "0"],
    "std": ["1", "1", "1"],
    "resampler": "none",
}
PHOTOGRAPHS, LEAST = 4, 3
"""How many photographs a proof asks for, and how many of them must be found."""

_RECIPE = 1
"""The recipe of embedding with which the golden caches were written."""


class StopDeadError(BaseException):
    """Acts as the death of the process: nothing after it runs, not even the recording of a failure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """The inputs of a build to play.

    Attributes:
        flight: Flight id; changes the identity only.
        engine: Content of the network; changes the engine key.
        tiles: Tile position (column, row at zoom 6) to content.
        version: Version of the compiler; the reader requires the installed one.
        target: Device the engine is for.
        extend: Whether its index extends the index of the head.
        chunks: Whether chunks have the descriptors, one at each tile, and not the tiles.
        carry: Whether the tiles are carried.
        proof: With chunks, how many of `PHOTOGRAPHS` are found; with fewer than `LEAST` the build fails. None for no proof.
        fail_at: Step at which it raises; empty for none.
        die_at: Step at which it dies; empty for none.
    """

    flight: str = "f1"
    engine: str = "net"
    tiles: Mapping[tuple[int, int], str] = field(
        default_factory=lambda: {(0, 0): "a", (1, 0): "b", (20, 3): "c"}
    )
    version: str = "1"
    target: str = "cpu"
    extend: bool = False
    chunks: bool = False
    carry: bool = False
    proof: int | None = None
    fail_at: str = ""
    die_at: str = ""

    def inputs(self) -> Mapping[str, object]:
        """Return the inputs that define the build identity."""
        inputs = identity.build_inputs(
            flight_id=self.flight,
            sector="stable_rear",
            bbox_e7=[0, 0, 10, 10],
            zoom=[6, 6],
            origin={"lon_e7": 1, "lat_e7": 1, "altitude_mm": 0},
            calibration=_sha(b"{}"),
            tiles={"digest": identity.digest_tile_set(self.rows())},
            models=[
                {
                    "name": "place",
                    "role": "descriptor",
                    "onnx": _sha(self.engine),
                    "preprocessing": PREPROCESSING,
                }
            ],
            engine={"backend": "onnxruntime", "version": self.version, "target": self.target},
            index={"kind": "flat"},
            checks={},
            chunks={"levels": [{"zoom": 6, "k": 1, "m": 3, "tile_edge": 8}]} if self.chunks else None,
            carry={"tiles": True} if self.carry else None,
            proof={"photographs": _sha(f"{self.proof} are found"), "count": PHOTOGRAPHS}
            if self.proves
            else None,
        )
        return {**inputs, "recipes": {**identity.RECIPES, "cell": _RECIPE}}

    @property
    def proves(self) -> bool:
        """Whether it asks for a proof."""
        return self.chunks and self.proof is not None

    @property
    def fails_its_proof(self) -> bool:
        """Whether too few photographs are found."""
        return self.chunks and self.proof is not None and self.proof < LEAST

    def rows(self) -> list[tuple[int, str]]:
        """Return the tiles as (descriptor id, digest)."""
        return [(identity.descriptor_id(6, x, y), _sha(text)) for (x, y), text in sorted(self.tiles.items())]

    def units(self) -> list[tuple[int, str]]:
        """Return what has a descriptor, as (descriptor id, digest)."""
        if not self.chunks:
            return self.rows()
        return [
            (identity.descriptor_id(7, 2 * x, 2 * y, view=1 << 5 | 3), _sha(f"chunk {text}"))
            for (x, y), text in sorted(self.tiles.items())
        ]


@dataclass(slots=True)
class Work:
    """The work that a played build did not reuse: engines, embedded tiles, indexes, proofs asked for, packs."""

    compiled: int = 0
    embedded: int = 0
    indexed: int = 0
    asked: int = 0
    packed: int = 0


def play(store: CacheWriter, scenario: Scenario) -> tuple[Generation | None, Work]:
    """Play a build; return its generation, or None if it failed as requested or by its proof, and the work it did.

    Raises:
        StopDeadError: The scenario dies; the build stays open in the journal.
    """
    work, number = Work(), store.state.next_build
    calibration = store.artifacts.put(b"{}")
    inputs = scenario.inputs()
    started = events.BuildStarted(
        identity=identity.build_identity(inputs), inputs=inputs, calibration=calibration, again=False, host={}
    )
    store.append(started, build=number)
    try:
        _fail_or_die_at(scenario, "start")
        _play_steps(store, scenario, number, work)
        _fail_or_die_at(scenario, "commit")
    except RuntimeError as error:
        failed = events.BuildFailed(
            step=scenario.fail_at or "proof",
            kind="test",
            subject="",
            message=str(error),
            hint="",
            traceback="",
            inputs={"step": scenario.fail_at or "proof"},
        )
        store.append(failed, build=number)
        return None, work
    return store.commit(number), work


def _play_steps(store: CacheWriter, scenario: Scenario, number: int, work: Work) -> None:
    table = store.artifacts.put(encode_tiles((tile, sha, None) for tile, sha in scenario.rows()))
    selected = events.TilesSelected(
        digest=identity.digest_tile_set(scenario.rows()),
        table=table,
        count=len(scenario.tiles),
        wanted=len(scenario.tiles),
        excluded=0,
        warnings=(),
    )
    store.append(selected, events.BuildPlanned(steps=({"kind": "engine", "why": "test"},)), build=number)
    _fail_or_die_at(scenario, "tiles")
    key = _play_engine(store, scenario, number, work)
    _fail_or_die_at(scenario, "check")
    space = identity.vector_space(
        engine=key, preprocessing=PREPROCESSING, precision="fp32", batch=1, recipe=_RECIPE
    )
    blocks = _play_cells(store, scenario, number, space, work)
    _fail_or_die_at(scenario, "cells")
    _play_index(store, number, space, blocks, work, rows=len(scenario.tiles), extend=scenario.extend)
    _fail_or_die_at(scenario, "index")
    _play_proof(store, scenario, number, work)
    _fail_or_die_at(scenario, "proof")
    _play_packs(store, scenario, number, work)
    _fail_or_die_at(scenario, "packs")
    _play_coverage(store, number)
    _fail_or_die_at(scenario, "coverage")


def _play_engine(store: CacheWriter, scenario: Scenario, number: int, work: Work) -> str:
    components = identity.engine_components(
        onnx_sha256=_sha(scenario.engine),
        backend="onnxruntime",
        version=scenario.version,
        target=scenario.target,
        precision="fp32",
        batch=1,
        options={},
    )
    key = identity.engine_key(components)
    known = store.state.step_cache.engines.get(key)
    if (
        known is not None
        and store.artifacts.present(known.artifact)
        and ("parity", key) in store.state.step_cache.passed
    ):
        store.append(events.StepReused(kind="engine", count=1, keys={"place": key}), build=number)
        return key
    store.append(events.StepStarted(kind="engine", subjects=("place",), key=key), build=number)
    _fail_or_die_at(scenario, "engine")
    work.compiled += 1
    artifact = store.artifacts.put(f"engine of {scenario.engine}".encode())
    compiled = events.EngineCompiled(
        model="place",
        purpose=FLIGHT,
        key=key,
        components=components,
        artifact=artifact,
        signature={"input": "input", "output": "descriptor", "dimensions": 4},
        elapsed_ms=1,
        log="",
        host={},
    )
    measured = {"cosine_ppm": 1_000_000}
    passed = events.CheckPassed(
        check="parity", subject="place", key=key, artifact=artifact.sha256, measured=measured
    )
    store.append(compiled, passed, build=number)
    return key


def _play_cells(
    store: CacheWriter, scenario: Scenario, number: int, space: str, work: Work
) -> list[BlockRow]:
    cells: dict[tuple[int, int], list[tuple[int, str]]] = {}
    for unit in scenario.units():
        zoom, x, y, _ = identity.tile_of(unit[0])
        cells.setdefault((x >> 4, y >> 4), []).append(unit)
    rows = []
    for (cell_x, cell_y), tiles in cells.items():
        components = identity.cell_components(space=space, tiles=tiles)
        key = identity.cell_key(components)
        fitting = [
            event
            for event in store.state.step_cache.blocks_of((space, zoom, cell_x, cell_y))
            if event.key == key and store.artifacts.present(event.block)
        ]
        known = fitting[-1] if fitting else None
        if known is None:
            store.append(
                events.StepStarted(kind="cells", subjects=(f"{zoom}/{cell_x}/{cell_y}",), key=key),
                build=number,
            )
            work.embedded += len(tiles)
            block = store.artifacts.put(canonical_json.encode([space, [list(tile) for tile in tiles]]))
            known = events.CellEmbedded(
                space=space,
                zoom=zoom,
                cell_x=cell_x,
                cell_y=cell_y,
                key=key,
                components=components,
                engine=_sha(f"engine of {scenario.engine}"),
                block=block,
                rows=len(tiles),
                embedded=len(tiles),
                copied=0,
            )
            store.append(known, build=number)
        rows.append(BlockRow(zoom=zoom, cell_x=cell_x, cell_y=cell_y, rows=known.rows, ref=known.block))
    return rows


def _play_index(
    store: CacheWriter,
    number: int,
    space: str,
    blocks: list[BlockRow],
    work: Work,
    *,
    rows: int,
    extend: bool,
) -> None:
    table = store.artifacts.put(encode_blocks(blocks))
    components = identity.index_components(
        networks=[(space, identity.ONE_PPM)], blocks=table.sha256, options={"kind": "flat"}, library="none"
    )
    head = store.state.head_build.index if extend and store.state.head_build else None
    if head is not None:
        components = identity.extended_index_components(components, base=whole_of(head).sha256)
    key = identity.index_key(components)
    known = store.state.step_cache.indexes.get(key)
    if known is not None and store.artifacts.present(known.artifact):
        store.append(events.StepReused(kind="index", count=1, keys={"index": key}), build=number)
        return
    work.indexed += 1
    if head is not None:
        extended = events.IndexExtended(
            key=key,
            components=components,
            artifact=store.artifacts.put(_encode_delta(table.sha256, added=1 + rows - whole_rows(head))),
            base=whole_of(head),
            blocks=table,
            kind=head.kind,
            metric=head.metric,
            dimensions=head.dimensions,
            rows=rows,
            added=1 + rows - whole_rows(head),
            dropped=1,
            elapsed_ms=1,
        )
        store.append(extended, build=number)
        return
    built = events.IndexBuilt(
        key=key,
        components=components,
        artifact=store.artifacts.put(b"index of " + table.sha256.encode()),
        blocks=table,
        kind="flat",
        metric="ip",
        dimensions=4,
        rows=rows,
        elapsed_ms=1,
    )
    store.append(built, build=number)


def _play_proof(store: CacheWriter, scenario: Scenario, number: int, work: Work) -> None:
    index = store.state.builds[number].index
    if not scenario.proves or index is None:
        return
    key = identity.proof_key({"index": index.artifact.sha256, "proof": scenario.inputs()["proof"]})
    known = store.state.step_cache.passed.get((PROOF, key))
    if known is not None and store.artifacts.present(answers_of(known)):
        store.append(events.StepReused(kind=PROOF, count=1, keys={SUBJECT: key}), build=number)
        return
    work.asked += 1
    answers = store.artifacts.put(f"{scenario.proof} are found in {index.artifact.sha256}".encode())
    measured = {
        "pictures": PHOTOGRAPHS,
        "right": scenario.proof,
        "within_mm": 50_000,
        "at": 1,
        "min_ppm": 1_000_000 * LEAST // PHOTOGRAPHS,
        "better_half_right_ppm": None,
        "size": answers.size,
    }
    told = {"check": PROOF, "subject": SUBJECT, "key": key, "artifact": answers.sha256, "measured": measured}
    if scenario.fails_its_proof:
        store.append(events.CheckFailed(**told, why="too few"), build=number)
        raise RuntimeError("too few photographs are found")
    store.append(events.CheckPassed(**told), build=number)


def _play_packs(store: CacheWriter, scenario: Scenario, number: int, work: Work) -> None:
    if not scenario.carry:
        return
    cells: dict[tuple[int, int], dict[int, bytes]] = {}
    for (x, y), text in scenario.tiles.items():
        cells.setdefault((x >> 4, y >> 4), {})[identity.descriptor_id(6, x, y)] = text.encode()
    rows = []
    for (cell_x, cell_y), images in sorted(cells.items()):
        digests = sorted((each, _sha(image)) for each, image in images.items())
        key = identity.pack_key(identity.digest_tile_set(digests))
        known = store.state.step_cache.packs.get(key)
        if known is None or not store.artifacts.present(known.pack):
            work.packed += 1
            known = events.TilesPacked(
                zoom=6,
                cell_x=cell_x,
                cell_y=cell_y,
                key=key,
                pack=store.artifacts.put(carried_tiles.encode(images)),
                tiles=len(images),
            )
            store.append(known, build=number)
        rows.append(BlockRow(zoom=6, cell_x=cell_x, cell_y=cell_y, rows=len(images), ref=known.pack))
    size = sum(len(text.encode()) for text in scenario.tiles.values())
    table = store.artifacts.put(encode_packs(rows))
    store.append(events.TilesCarried(table=table, tiles=len(scenario.tiles), size=size), build=number)


def _encode_delta(seed: str, *, added: int) -> bytes:
    """Return a delta that drops one row."""
    row = np.array([int(seed[i : i + 2], 16) for i in range(0, 8, 2)], np.float32)
    new = Rows(np.arange(added, dtype=np.uint64), np.tile(row, (added, 1)))
    return index_delta.encode(index_delta.Delta(new, Rows(np.zeros(1, np.uint64), row[None])))


def _play_coverage(store: CacheWriter, number: int) -> None:
    geography = store.artifacts.put(canonical_json.encode({"holes": []}))
    walked = events.CoverageWalked(
        files=0,
        size=0,
        unreferenced=0,
        problems=(),
        geography=geography,
        wanted=1,
        present=1,
        featureless=0,
        skipped=0,
    )
    store.append(walked, build=number)
    envelope = Envelope(cache_id="", generation=1, origin=number, before=Position(), wall_ns=0)
    manifest = parse(render(body_of(store.state, store.state.builds[number]), envelope))
    named = named_by(manifest, store.artifacts)
    referenced = referenced_by(store.state)
    walk(store.artifacts, named, referenced=referenced, full=True).require(strict=True, hint="c10 build")


def _fail_or_die_at(scenario: Scenario, step: str) -> None:
    if scenario.die_at == step:
        raise StopDeadError(step)
    if scenario.fail_at == step:
        raise RuntimeError(f"told to fail at {step}")


def _sha(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def make(kind: type[Event], /, **fields: object) -> Event:
    """Return an event with some fields given and all others empty, zero or None."""
    values = {name: _empty_value(hint) for name, hint in get_type_hints(kind).items()} | fields
    return kind(**values)


def _empty_value(hint: Any) -> object:
    if get_origin(hint) is UnionType:
        return None
    if get_origin(hint) is tuple:
        return ()
    empty: Mapping[object, object] = {ArtifactRef: ref_of(b""), int: 0, str: "", bool: False}
    return empty.get(hint, {})


def ref_of(data: bytes) -> ArtifactRef:
    """Return the reference of `data` as an artifact."""
    return ArtifactRef(sha256=_sha(data), size=len(data))
