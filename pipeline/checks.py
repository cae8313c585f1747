"""Quality gates before a commit: an engine agrees with its network, an index finds its own tiles.

Engine bytes cannot be compared, since compilers do not reproduce them; answers can. The reference is ONNX
Runtime on the network as it was given, unoptimised. A check's outcome is an event with what was measured.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.decoding import decode
from pipeline.engines.golden import batch_invariance, golden_images, parity
from pipeline.errors import CheckError, ErrorKind
from pipeline.gathering import located
from pipeline.inputs import Model
from pipeline.known import KnownRows
from pipeline.place import FEATURELESS_BELOW
from pipeline.plan import ENGINE_CHECK
from pipeline.reference import reference_run
from pipeline.run import Run
from pipeline.tiles.reading import read_tile
from store import blocks
from store.events import CheckFailed, CheckPassed, EngineCompiled, IndexBuilt
from store.runtime import Engine, ExecutionError, load_engine, load_index
from store.tables import BlockRow

INDEX_CHECK = "index"
VECTORS_CHECK = "vectors"
_GOLDEN = 3
_SAMPLE = 256
_RECALCULATED = 8
_MILLION = 1_000_000
_BILLION = 1_000_000_000
_SAME_COSINE = 0.99999
_INVARIANT_WITHIN = 1e-5

Vectors = NDArray[np.float32]


def check_engine(run: Run, model: Model, event: EngineCompiled) -> CheckPassed | CheckFailed:
    """Compare an engine with its network on golden images, and its rows with each other.

    An auxiliary network has no image contract; of its engine only the bytes are known.
    """
    subject, key = model.spec.name, model.key
    if model.preprocessing is None:
        measured = {"size": event.artifact.size}
        return CheckPassed(check=ENGINE_CHECK, subject=subject, key=key, measured=measured)
    height, width = model.preprocessing.size
    images = golden_images(_GOLDEN, height, width)
    samples = np.stack([model.preprocessing.apply(image) for image in images])
    try:
        engine = open_engine(run, event)
        with tempfile.TemporaryDirectory(dir=run.scratch) as folder:
            job = located(model, Path(folder))
            cosine = parity(engine.run, reference_run(job), samples)
        spread = batch_invariance(engine.run, samples)
    except ExecutionError as error:
        return CheckFailed(
            check=ENGINE_CHECK, subject=subject, key=key, measured={}, why=f"it does not run: {error.message}"
        )
    threshold = run.inputs.request.checks.parity
    measured = {
        "cosine_ppb": round(cosine * _BILLION),
        "least_cosine_ppb": round(threshold * _BILLION),
        "batch_spread_ppb": min(round(spread * _BILLION), 1 << 53) if np.isfinite(spread) else 1 << 53,
        "images": _GOLDEN,
    }
    why = ""
    if not cosine >= threshold:
        why = f"a cosine of {cosine:.6f} to ONNX Runtime, below {threshold}"
    elif not spread <= _INVARIANT_WITHIN:
        why = f"descriptors that depend on their neighbours in a batch (by {spread:.3g})"
    if why:
        return CheckFailed(check=ENGINE_CHECK, subject=subject, key=key, measured=measured, why=why)
    return CheckPassed(check=ENGINE_CHECK, subject=subject, key=key, measured=measured)


def same_vectors(run: Run, event: EngineCompiled) -> CheckPassed | CheckFailed:
    """Tell whether a recompiled engine reproduces a sample of the vectors that exist in its space.

    Where it does not, the failed check makes the journal forget the blocks, and all tiles are embedded again.
    """
    space, preprocessing = run.inputs.space, run.inputs.descriptor.preprocessing
    cells = [cell for name, cell in run.store.state.blocks.items() if name[0] == space]
    known = KnownRows(run.store.artifacts, cells)
    tiles = [tile for tile in run.inputs.selection.tiles if tile.sha256 in known]
    tiles = tiles[:: max(1, len(tiles) // _RECALCULATED)][:_RECALCULATED]
    rows = known.rows(tile.sha256 for tile in tiles)
    tiles = [tile for tile in tiles if tile.sha256 in rows]
    if preprocessing is None or not tiles:
        return CheckPassed(check=VECTORS_CHECK, subject="space", key=space, measured={"tiles": 0})
    images = [decode(read_tile(tile.locator), subject=str(tile.place)) for tile in tiles]
    found = open_engine(run, event).run(np.stack([preprocessing.apply(image) for image in images]))
    cosine = float(min(float(row @ rows[tile.sha256].vector) for row, tile in zip(found, tiles, strict=True)))
    measured = {"tiles": len(tiles), "cosine_ppb": round(cosine * _BILLION)}
    if cosine >= _SAME_COSINE:
        return CheckPassed(check=VECTORS_CHECK, subject="space", key=space, measured=measured)
    why = f"the recompiled engine gives other vectors (cosine {cosine:.6f}); all tiles are embedded again"
    return CheckFailed(check=VECTORS_CHECK, subject="space", key=space, measured=measured, why=why)


def open_engine(run: Run, event: EngineCompiled) -> Engine:
    """Load an engine from its artifact, whose digest is checked on the way."""
    return load_engine(
        run.store.artifacts.read(event.artifact),
        backend=event.components["backend"],
        version=event.components["version"],
        input=event.signature["input"],
        output=event.signature["output"],
        batch=event.components["batch"],
    )


def check_index(run: Run, event: IndexBuilt, rows: Sequence[BlockRow]) -> CheckPassed | CheckFailed:
    """Load the index and look for a sample of its own tiles, leaving out doubles and featureless ones."""
    expected = sum(row.rows for row in rows)
    sample = _sample(run, rows)
    try:
        index = load_index(
            str(run.store.layout.artifact(event.artifact.sha256)),
            kind=event.kind,
            dimensions=event.dimensions,
            ntotal=expected,
            metric=event.metric,
        )
        recall = 1.0
        if len(sample[0]):
            _, found = index.search(sample[1], 1)
            recall = float((found[:, 0] == sample[0].astype(np.int64)).mean())
    except ExecutionError as error:
        return CheckFailed(check=INDEX_CHECK, subject="index", key=event.key, measured={}, why=error.message)
    threshold = run.inputs.request.checks.recall
    measured = {
        "rows": expected,
        "sample": len(sample[0]),
        "recall_ppm": round(recall * _MILLION),
        "least_recall_ppm": round(threshold * _MILLION),
    }
    if recall >= threshold:
        return CheckPassed(check=INDEX_CHECK, subject="index", key=event.key, measured=measured)
    why = f"only {recall:.3f} of {len(sample[0])} sampled tiles find themselves, below {threshold}"
    return CheckFailed(check=INDEX_CHECK, subject="index", key=event.key, measured=measured, why=why)


def require_coverage(localisable: float, least: float) -> None:
    """Hold the fraction of the area by which a place can be found against the request.

    Raises:
        CheckError: It is too small.
    """
    if localisable < least:
        raise CheckError(
            f"expected at least {least:.3f} of the wanted tiles to be present and localisable, found {localisable:.3f}",
            "fetch the missing tiles, shrink the box, or lower coverage.min_fraction",
            ErrorKind.COVERAGE_TOO_LOW,
        )


def _sample(run: Run, rows: Sequence[BlockRow]) -> tuple[NDArray[np.uint64], Vectors]:
    """Choose rows at a fixed stride over all blocks: ids [n] and vectors [n, d]."""
    counts: dict[bytes, int] = {}
    candidates: list[tuple[int, bytes, Vectors]] = []
    stride = max(1, sum(row.rows for row in rows) // _SAMPLE)
    offset = 0
    for row in rows:
        block = blocks.decode(run.store.artifacts.read(row.ref))
        for digest in block.digests:
            counts[bytes(digest)] = counts.get(bytes(digest), 0) + 1
        for place in range(-offset % stride, block.rows, stride):
            if block.texture[place] >= FEATURELESS_BELOW:
                vector = block.vectors[place].copy()
                candidates.append((int(block.ids[place]), bytes(block.digests[place]), vector))
        offset += block.rows
    chosen = [(identifier, vector) for identifier, digest, vector in candidates if counts[digest] == 1]
    ids = np.array([identifier for identifier, _ in chosen], np.uint64)
    return ids, np.array([vector for _, vector in chosen], np.float32)
