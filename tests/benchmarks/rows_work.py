"""Rows about the work itself: rollback, embedding, the index."""

import hashlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np

from pipeline.embed.batcher import LocalDescriptorBatcher
from pipeline.embed.cells import Window
from pipeline.index.faiss_builder import FaissIndexBuilder
from pipeline.index.plan import EF_CONSTRUCTION, IndexPlan, plan_index
from pipeline.request.options import IndexKind, IndexOptions
from pipeline.stages.embed import engine_spec
from pipeline.stages.survey import StoredBlocks
from pipeline.tiles.retrieval_units import RetrievalUnits
from pipeline.tiles.sources.registry import open_source
from pipeline.tiles.tile_columns import TileColumns
from store.base.canonical_json import encode as canonical_encode
from store.base.identity import build_identity, digest_tile_set, vector_space
from store.base.preprocessing import Preprocessing
from store.cache.writer import CacheWriter
from store.disk.artifacts import Artifacts
from store.disk.layout import Layout
from store.domain.events import BuildStarted, CoverageWalked, TilesSelected
from store.domain.manifest_projection import project
from store.formats import descriptor_block
from store.formats.tables import BlockRow, encode_tiles
from store.manifest.manifest import parse
from store.policy import rollback as deciding
from store.testing import FakeClock
from store.verify.coverage import missing_artifacts
from tests.benchmarks.caches import ZOOM, around, places
from tests.benchmarks.measuring import Row, Settings, at_least, at_most, in_turns, row
from tests.benchmarks.measuring import Work as Doing
from tests.played_builds import (
    PREPROCESSING,
    Scenario,
    Work,
    _play_cells,
    _play_engine,
    _play_index,
    make,
    ref_of,
)
from tests.small_builds import Site, encoded
from tests.tile_archives import WORLD as WORLD_E7

_SIDE = 256
_SOURCE = "tiles/{z}/{x}/{y}.jpg"
_SPARSE_FILES = 200
PLACE_REQUEST = {"source": _SOURCE, "network": "builtin:place", "zoom": (ZOOM, ZOOM)}
BARE = Path(__file__).with_name("bare.py")


def rollback(settings: Settings) -> Iterator[Row]:
    """Rollback in a cache of 50 GB against one of 1 GB; both have as many blocks, which are sparse files.

    The command also hashes what it will show; that grows with the size, and is left out here.
    """
    with (
        _sparse_cache(settings.place("great"), 50 << 30) as great,
        _sparse_cache(settings.place("small"), 1 << 30) as small,
    ):
        steps = {id(great): count(), id(small): count()}

        def roll(store: CacheWriter) -> None:
            planned = deciding.plan(store.state, to=1 + next(steps[id(store)]) % 2, why="measured")
            if planned is None:
                raise SystemExit("expected something to roll back, found nothing")
            shown = next(each for each in store.state.generations.values() if each.origin == planned.target)
            if problems := missing_artifacts(parse(project(store.state, shown)), store.artifacts):
                raise SystemExit(f"expected a whole target, found {problems[:3]}")
            store.roll_back(planned)

        pairs = in_turns(lambda: roll(great), lambda: roll(small), pairs=4 * settings.pairs)
    yield row("rollback", "rollback, cache of 50 GB", "cache of 1 GB", at_most(1.2), pairs, rate=False)


def embedding(settings: Settings) -> Iterator[Row]:
    """Processor seconds per tile, workers included, against a bare loop in one process of its own."""
    number = settings.size(2_000, 10_000)
    site = place_site(settings.place("embed"), number)
    report = site.build(**PLACE_REQUEST, bbox=around(number))
    if report.error is not None:
        raise SystemExit(f"expected a build, found {report.error}")
    event = next(iter(site.state().step_cache.engines.values()))
    spec = engine_spec(site.artifact(event.artifact), event)
    rule = Preprocessing(
        size=(_SIDE, _SIDE), colour="rgb", layout="nchw", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
    )

    tiles = TileColumns.of(open_source(_SOURCE, site.root).query_by_bbox(WORLD_E7, (ZOOM, ZOOM)))

    def ours() -> None:
        windows = (
            Window(
                number=place,
                cells=(),
                units=RetrievalUnits.of_tiles(part),
                tiles=part,
                tile_edges={},
            )
            for place, part in enumerate(tiles[first : first + 256] for first in range(0, len(tiles), 256))
        )
        batcher = LocalDescriptorBatcher(workers=1)
        done = sum(len(found.units) for found in batcher.embed(windows, engine=spec, preprocessing=rule))
        if done != number:
            raise SystemExit(f"expected {number} tiles, found {done}")

    def theirs() -> None:
        run_bare(
            "embed",
            {"engine": spec.path, "batch": spec.batch, "files": str(site.root / "tiles"), "workers": 1},
        )

    pairs = in_turns(ours, theirs, pairs=settings.pairs, clock=_processor_with_children)
    work = f"embedding {number:,} tiles, processor seconds"
    yield row("embed", work, "bare decode + resize + engine", at_least(0.9), pairs, rate=True)


def index(settings: Settings) -> Iterator[Row]:
    """The index of stored blocks against the same calls on one array in memory, and on the same files.

    A flat index is little more than a copy. With an array in memory there is no reading, hashing and
    checking, which is nearly all of the work. So the second peer reads each block's file, hashes it and takes
    its vectors, without any checks.
    """
    import faiss

    number, dimensions = settings.size(10_000, 100_000), 384
    layout = Layout(settings.place("index") / "cache", allow_unknown_filesystem=True)
    with CacheWriter.open(layout, clock=FakeClock(), create=True, reserve_bytes=0, host={}):
        pass
    artifacts, rows, vectors = Artifacts(layout), [], []
    for cell in range(-(-number // 256)):
        block = _block(cell, min(256, number - 256 * cell), dimensions)
        rows.append(
            BlockRow(
                zoom=20,
                cell_x=cell,
                cell_y=0,
                rows=len(block.ids),
                ref=artifacts.put(descriptor_block.encode(block)),
            )
        )
        vectors.append(block.vectors)
    array = np.concatenate(vectors)
    for kind in (IndexKind.FLAT, IndexKind.HNSW):
        plan = plan_index(IndexOptions(kind=kind), count=number, dimensions=dimensions)
        path = layout.root.parent / f"bare-{kind}.index"

        def ours(plan: IndexPlan = plan) -> None:
            with artifacts.draft() as new:
                FaissIndexBuilder().build(
                    StoredBlocks(artifacts, rows), number, dimensions, plan, fd_path=new.path
                )

        def theirs(plan: IndexPlan = plan, path: Path = path) -> None:
            if plan.kind is IndexKind.FLAT:
                bare = faiss.IndexFlat(dimensions, faiss.METRIC_INNER_PRODUCT)
            else:
                bare = faiss.IndexHNSWFlat(dimensions, plan.m, faiss.METRIC_INNER_PRODUCT)
                bare.hnsw.efConstruction = EF_CONSTRUCTION
            bare.add(array)
            faiss.write_index(bare, str(path))

        pairs = in_turns(ours, theirs, pairs=settings.pairs)
        work = f"{kind} index of {number:,} rows of {dimensions}"
        yield row(f"index-{kind}", work, "the same FAISS call on an array", at_least(0.95), pairs, rate=True)
        if plan.kind is IndexKind.FLAT:
            pairs = in_turns(
                ours, lambda: _flat_of(artifacts, rows, dimensions, layout.root.parent), pairs=settings.pairs
            )
            peer = "FAISS on files read and hashed"
            yield row(f"index-{kind}-files", work, peer, at_least(0.95), pairs, rate=True)


def _flat_of(artifacts: Artifacts, rows: Sequence[BlockRow], dimensions: int, folder: Path) -> None:
    """Read and hash the files of blocks, and write a flat index of their vectors with their ids."""
    import faiss

    vectors, ids = [], []
    for each in rows:
        data = artifacts.layout.artifact(each.ref.sha256).read_bytes()
        hashlib.sha256(data).digest()
        vectors.append(np.frombuffer(data[-4 * each.rows * dimensions :], "<f4").reshape(each.rows, -1))
        ids.append(np.frombuffer(data, "<u8", each.rows, descriptor_block.HEADER_SIZE))
    index = faiss.IndexIDMap2(faiss.IndexFlat(dimensions, faiss.METRIC_INNER_PRODUCT))
    index.add_with_ids(np.concatenate(vectors), np.concatenate(ids).astype(np.int64))
    faiss.write_index(index, str(folder / "bare-files.index"))


def place_site(folder: Path, number: int) -> Site:
    """A site with JPEG tiles of 256 x 256 pixels, all different, of a landscape of smooth noise."""
    site = Site(folder)
    for place, (z, x, y) in enumerate(places(number)):
        site.write(f"tiles/{z}/{x}/{y}.jpg", encoded(_landscape(place), "jpeg"))
    return site


def _landscape(seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    pixels = np.zeros((_SIDE, _SIDE, 3), np.float32)
    for size in (8, 32, 128):
        noise = draw.random((size, size, 3), np.float32)
        pixels += np.repeat(np.repeat(noise, _SIDE // size, 0), _SIDE // size, 1)
    return (pixels * 85).astype(np.uint8)


def run_bare(phase: str, request: dict[str, object]) -> None:
    """Run phases in a process of their own."""
    done = subprocess.run(
        [sys.executable, str(BARE)],
        input=json.dumps(request | {"phase": phase}).encode() + b"\n",
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"expected the bare phases to succeed, found {done.stderr.decode()[-2000:]}")


def _processor_with_children(work: Doing) -> float:
    """Return the processor seconds of this process and of the children that ended meanwhile."""

    def spent() -> float:
        usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(each.ru_utime + each.ru_stime for each in usage)

    began = spent()
    work()
    return spent() - began


def _block(cell: int, rows: int, dimensions: int) -> descriptor_block.Block:
    """A block of unit vectors in the first row of cells of zoom 20."""
    draw = np.random.default_rng(cell)
    vectors = draw.standard_normal((rows, dimensions), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    places = np.arange(rows)
    ids = descriptor_block.descriptor_ids(np.full(rows, 20), 16 * cell + places // 16, places % 16)
    return descriptor_block.Block(
        zoom=20,
        cell_x=cell,
        cell_y=0,
        dimensions=dimensions,
        ids=np.sort(ids),
        digests=draw.integers(0, 256, (rows, 32), np.uint8),
        vectors=vectors,
        texture=np.ones(rows, np.float32),
    )


@contextmanager
def _sparse_cache(folder: Path, size: int) -> Iterator[CacheWriter]:
    """Create a cache of two builds whose blocks are empty files of `size` bytes in all; return it open for
    writing.
    """
    layout = Layout(folder / "cache", allow_unknown_filesystem=True)
    with CacheWriter.open(layout, clock=FakeClock(), create=True, reserve_bytes=0, host={}) as store:
        for flight in ("f1", "f2"):
            _sparse_build(store, Scenario(flight=flight), size // _SPARSE_FILES)
        yield store


def _sparse_build(store: CacheWriter, scenario: Scenario, size: int) -> None:
    number, inputs, work = store.state.next_build, scenario.inputs(), Work()
    started = make(
        BuildStarted, identity=build_identity(inputs), inputs=inputs, calibration=store.artifacts.put(b"{}")
    )
    table = store.artifacts.put(encode_tiles((tile, sha, None) for tile, sha in scenario.rows()))
    selected = make(TilesSelected, digest=digest_tile_set(scenario.rows()), table=table, count=3, wanted=3)
    store.append(started, build=number)
    store.append(selected, build=number)
    space = vector_space(
        engine=_play_engine(store, scenario, number, work),
        preprocessing=PREPROCESSING,
        precision="fp32",
        batch=1,
    )
    rows = _play_cells(store, scenario, number, space, work)
    for place in range(_SPARSE_FILES):
        ref = replace(ref_of(f"{scenario.flight} {place}".encode()), size=size)
        path = store.layout.artifact(ref.sha256)
        path.touch()
        os.truncate(path, size)
        rows.append(BlockRow(zoom=20, cell_x=place, cell_y=0, rows=1, ref=ref))
    _play_index(store, number, space, rows, work, rows=3, extend=False)
    geography = store.artifacts.put(canonical_encode({"holes": []}))
    store.append(make(CoverageWalked, geography=geography, wanted=3, present=3), build=number)
    store.commit(number)
