"""Checks before a commit: an index finds its own tiles, and earlier vectors are those that the engine gives.

The result of a check is an event with the measured values. An engine is compared with its network in
`pipeline.stages.engines.check_engine`.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np

from pipeline.embed.cells import Window
from pipeline.embed.reusable_rows import ReusableRows
from pipeline.embed.worker import Embedder
from pipeline.embed.worker_messages import worker_request
from pipeline.engines.models.model import Model
from pipeline.errors import CheckError, ErrorKind, TileError
from pipeline.planning.area_report import AreaReport
from pipeline.planning.inputs import Inputs
from pipeline.request.options import IndexKind
from pipeline.stages.extend_index import read_delta
from pipeline.stages.index_sample import recall, take_samples
from pipeline.tiles.sources.read_tile import SOURCE_CHANGED_HINT, read_tile
from pipeline.tiles.tile import SourceTile
from store.base.canonical_json import Document
from store.base.valueclass import valueclass
from store.disk.artifacts import Artifacts
from store.domain.events import CheckFailed, CheckPassed, EngineCompiled, Index
from store.domain.index_files import delta_of, whole_of, whole_rows
from store.domain.step_cache import StepCache
from store.errors import ArtifactError
from store.formats.descriptor_block import Block
from store.formats.index_delta import Delta, DeltaError
from store.formats.tables import BlockRow
from store.runtime.load import (
    DescriptorIndex,
    Engine,
    ExecutionError,
    RuntimeUnavailableError,
    load_engine,
    load_index,
)

INDEX_CHECK = "index"
VECTORS_CHECK = "vectors"
ONE_ANSWER = "that the network gives one answer for all tiles"
_SAMPLE = 256
_SAMPLE_OF_APPROXIMATE = 2048
_RECALCULATED = 8
_MILLION = 1_000_000

BILLION = 1_000_000_000
"""Cosines are recorded in parts of it."""

SAME_COSINE = 0.99999
"""Vectors with at least this cosine are the same answer."""

_FETCH = "fetch the missing tiles"
_LOOK_AT_TILES = (
    "look at some tiles (a provider may have sent a placeholder or an error page in place of imagery)"
)

CheckResult = CheckPassed | CheckFailed


@valueclass(frozen=True, slots=True)
class CheckSubject:
    """What is checked: name of the check, what it concerns, step key, and digest of the bytes."""

    check: str
    name: str
    key: str
    artifact: str

    def result(self, measured: Document, why: str = "") -> CheckResult:
        """Return the result as an event; a reason means that the check failed."""
        passed = CheckPassed(
            check=self.check, subject=self.name, key=self.key, artifact=self.artifact, measured=measured
        )
        return CheckFailed(**asdict(passed), why=why) if why else passed


def check_vectors(
    artifacts: Artifacts, steps: StepCache, inputs: Inputs, model: Model, event: EngineCompiled
) -> CheckResult | None:
    """Compare an engine with the reusable vectors of earlier engines of its key; None if there are none.

    `model` is the network whose descriptors it makes.

    A sample of the build's tiles that have rows already is embedded again. If the vectors differ, the failed
    check makes the journal forget the blocks of the space, so that all tiles are embedded again.
    """
    space, preprocessing = model.space, model.preprocessing
    others = [cell for cell in steps.blocks_in(space) if cell.engine != event.artifact.sha256]
    if not others or steps.has_passed(VECTORS_CHECK, space, event.artifact.sha256):
        return None
    units = inputs.selection.units
    known = ReusableRows(artifacts, others, units.digests)
    units = units.take(np.array([digest in known for digest in units.hex_digests], np.bool_))
    units = units.take(slice(0, None, max(1, len(units) // _RECALCULATED))).take(slice(_RECALCULATED))
    if preprocessing is None or not len(units):
        return None
    shown = inputs.selection.shown_tiles()
    tiles = shown.under(units.ids)
    window = Window(number=0, cells=(), units=units, tiles=tiles, tile_edges=shown.edges)
    request = worker_request(window, [read_unchanged(tile) for tile in tiles])
    found = Embedder(load(event, artifacts.read(event.artifact)), preprocessing).describe(request)
    digests = units.hex_digests
    rows = known.rows(digests)
    cosines = [
        float(vector @ rows[digests[number]].vector)
        for number, vector in zip(found["good"].tolist(), found["vectors"], strict=True)
        if digests[number] in rows
    ]
    cosine = min(cosines, default=0.0)
    subject = CheckSubject(VECTORS_CHECK, "space", space, event.artifact.sha256)
    measured = {"tiles": len(units), "cosine_ppb": round(cosine * BILLION)}
    if cosine >= SAME_COSINE:
        return subject.result(measured)
    why = (
        f"the engine gives other vectors than the ones that exist (cosine {cosine:.6f}); they are made again"
    )
    return subject.result(measured, why)


def read_unchanged(tile: SourceTile) -> bytes:
    """Read a tile; raise `TileError` if its bytes are not the selected ones."""
    data = read_tile(tile.locator)
    found = hashlib.sha256(data).hexdigest()
    if found != tile.sha256:
        raise TileError(
            f"tile {tile.place}: expected SHA-256 {tile.sha256[:12]} as selected, found {found[:12]}",
            hint=SOURCE_CHANGED_HINT,
            kind=ErrorKind.SOURCE_CHANGED,
            subject=str(tile.place),
        )
    return data


def load(event: EngineCompiled, data: bytes, *, single: bool = False) -> Engine:
    """Load an engine from its bytes, which the caller has verified; `single` as for `load_engine`.

    Raises:
        ExecutionError: It cannot run here.
    """
    return load_engine(
        data,
        backend=event.components["backend"],
        version=event.components["version"],
        input=event.signature["input"],
        output=event.signature["output"],
        batch=event.components["batch"],
        target=event.components["target"],
        precision=event.components["precision"],
        single=single,
    )


def check_index(
    artifacts: Artifacts,
    event: Index,
    rows: Sequence[BlockRow],
    *,
    least: float,
    on_block: Callable[[Block], object] = lambda _: None,
) -> CheckResult:
    """Load the index and search it for a sample of its own tiles; see `pipeline.stages.index_sample`.

    If the index has a delta, a sample of the added rows is searched for as well, with the same required
    recall. Tiles whose vectors are all the same fail whatever their recall.

    Args:
        artifacts: Holds index and blocks.
        event: The index.
        rows: The blocks that it was built from.
        least: Fraction of each sample that must find itself.
        on_block: Called with each block that was read.
    """
    subject = CheckSubject(INDEX_CHECK, "index", event.key, event.artifact.sha256)
    expected = sum(row.rows for row in rows)
    try:
        delta = read_delta(artifacts, event)
        index = _load_index(artifacts, event, delta)
        if index.ntotal != expected:
            return subject.result({}, f"{index.ntotal} rows in the index, {expected} in its blocks")
        size = _SAMPLE if event.kind == IndexKind.FLAT else _SAMPLE_OF_APPROXIMATE
        taken = take_samples(artifacts, rows, added=delta.added.ids, size=size, on_block=on_block)
        samples = [sample.rows(event.dimensions) for sample in taken]
        recalls = [recall(index, sample, artifacts, rows) for sample in samples]
    except RuntimeUnavailableError:
        raise
    except (ArtifactError, DeltaError, ExecutionError) as error:
        return subject.result({}, str(getattr(error, "message", error)))
    measured = {
        "rows": expected,
        "sample": sum(len(sample) for sample in samples),
        "recall_ppm": round(min(recalls) * _MILLION),
        "least_recall_ppm": round(least * _MILLION),
    }
    tiles, vectors = sum(sample.tiles for sample in taken), np.concatenate([each.vectors for each in samples])
    if tiles > 1 and (vectors @ vectors[0]).min() >= SAME_COSINE:
        return subject.result(measured, f"{ONE_ANSWER}, as {tiles} sampled tiles show")
    for what, found, sample in zip(("tiles", "tiles that came"), recalls, samples, strict=True):
        if found < least:
            why = f"only {found:.3f} of {len(sample)} sampled {what} find themselves, below {least}"
            return subject.result(measured, why)
    return subject.result(measured)


def load_stored_index(artifacts: Artifacts, event: Index) -> DescriptorIndex:
    """Load an index and its delta.

    Raises:
        ArtifactError, DeltaError: It is missing or damaged.
        ExecutionError: It cannot be loaded here.
    """
    return _load_index(artifacts, event, read_delta(artifacts, event))


def _load_index(artifacts: Artifacts, event: Index, delta: Delta) -> DescriptorIndex:
    with artifacts.opened(whole_of(event)) as path:
        return load_index(
            path,
            kind=event.kind,
            dimensions=event.dimensions,
            ntotal=whole_rows(event),
            metric=event.metric,
            delta=delta if delta_of(event) else None,
        )


def require_coverage(area: AreaReport, least: float) -> None:
    """Raise `CheckError` if too small a part of the area can be localised, or nothing of it."""
    skipped = 0 if area.levels else len(area.skipped)
    missing, blind = area.wanted - area.present, area.featureless_count + skipped
    what = "the ground to be under chunks" if area.levels else "the wanted tiles to be present"
    if area.levels and area.present <= 0:
        raise CheckError(
            "expected chunks of ground, found none: tiles are missing under every one of a level",
            hint="take imagery that reaches half a chunk beyond the area, or smaller chunks (a lower altitude_m or side_m)",
            kind=ErrorKind.COVERAGE_TOO_LOW,
        )
    if area.localisable <= 0:
        raise CheckError(
            "expected at least one tile that can be localised, found that all are featureless, repeated or skipped",
            hint=_LOOK_AT_TILES,
            kind=ErrorKind.COVERAGE_TOO_LOW,
        )
    if area.localisable < least:
        raise CheckError(
            f"expected at least {least:.3f} of {what} and localisable, found"
            f" {area.localisable:.3f}: {'; '.join(each.message for each in area.warnings())}",
            hint=f"{_FETCH if missing > blind else _LOOK_AT_TILES}, shrink the area, or lower coverage.min_fraction",
            kind=ErrorKind.COVERAGE_TOO_LOW,
        )
