"""Checks before a commit: an engine agrees with its network, and an index finds its own tiles.

Answers are compared, not engine bytes, since compilers do not reproduce their bytes. The reference is ONNX
Runtime on the network as it was given, unoptimised. The result of a check is an event with the measured
values.
"""

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.embed.cells import Window
from pipeline.embed.reusable_rows import ReusableRows
from pipeline.embed.worker import Embedder
from pipeline.embed.worker_messages import worker_request
from pipeline.engines.models.model import Model
from pipeline.engines.models.network import job_with_file
from pipeline.engines.precision.float16 import least_cosine
from pipeline.errors import CheckError, ErrorKind, TileError
from pipeline.planning.area_report import AreaReport
from pipeline.planning.inputs import Inputs
from pipeline.planning.plan import ENGINE_CHECK
from pipeline.request.options import IndexKind
from pipeline.stages.engines.check_network import CHANGING, EVALUATION_HINT, NEIGHBOURS
from pipeline.stages.engines.reference import Reference
from pipeline.stages.extend_index import read_delta
from pipeline.stages.index_sample import recall, take_samples
from pipeline.tiles.images.decode import decode
from pipeline.tiles.sources.read_tile import SOURCE_CHANGED_HINT, read_tile
from pipeline.tiles.tile import SourceTile
from store.base.canonical_json import Document
from store.base.preprocessing import Preprocessing
from store.base.valueclass import valueclass
from store.disk.artifacts import Artifacts
from store.domain.events import CheckFailed, CheckPassed, EngineCompiled, Index
from store.domain.index_files import delta_of, whole_of, whole_rows
from store.domain.step_cache import StepCache
from store.errors import ArtifactError
from store.formats.descriptor_block import Block
from store.formats.index_delta import Delta, DeltaError
from store.formats.tables import BlockRow
from store.runtime.golden_vectors import Vectors, agreement, batch_invariance, golden_samples, parity
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
ON_TILES = "on tiles of this build"
ONE_ANSWER = "that the network gives one answer for all tiles"
_GOLDEN = 3
_SAMPLE = 256
_SAMPLE_OF_APPROXIMATE = 2048
_RECALCULATED = 8
_CANDIDATES = 256
_COMPARED = 8
_MILLION = 1_000_000
_BILLION = 1_000_000_000
_SAME_COSINE = 0.99999
_INVARIANT_WITHIN = 1e-5

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


def check_engine(
    model: Model,
    event: EngineCompiled,
    data: bytes,
    *,
    scratch: Path,
    tiles: Sequence[SourceTile] = (),
) -> CheckResult:
    """Compare an engine with its network on golden images and some tiles, and its rows with each other.

    Some engines pass without being run: those of auxiliary networks, which have no image contract, and those
    for another device, which the reader compares with their stand-in on board.

    Args:
        model: The network.
        event: Its engine.
        data: The engine's bytes.
        scratch: A folder for temporary files.
        tiles: Tiles of the build, some of which are compared too. Golden images are smooth, so that errors of
            a few bright or rough pictures would not show in them.

    Raises:
        RuntimeUnavailableError: What executes such engines is not installed here.
    """
    subject = CheckSubject(ENGINE_CHECK, model.spec.name, model.key, event.artifact.sha256)
    if not model.runs_here:
        return subject.result({"size": event.artifact.size, "executed": False})
    if model.preprocessing is None:
        return subject.result({"size": event.artifact.size})
    try:
        found = _compare_with_network(model, model.preprocessing, load(event, data), scratch, tiles)
    except RuntimeUnavailableError:
        raise
    except ExecutionError as error:
        return subject.result({}, f"it does not run: {error.message}")
    return subject.result(found.document(), found.problem())


class _Comparison(NamedTuple):
    """How an engine answers: `changing` from run to run, `spread` between batches, cosines to its network.

    `tiles` are the tiles that the network has an answer for; it may have none to a blank one, and what becomes
    of that is decided when it is embedded.
    """

    changing: bool
    spread: float
    cosine: float
    tiles: int
    on_tiles: float
    least: float

    def document(self) -> dict[str, int]:
        """Return what is recorded."""
        spread = min(round(self.spread * _BILLION), 1 << 53) if np.isfinite(self.spread) else 1 << 53
        measured = {
            "cosine_ppb": round(self.cosine * _BILLION),
            "least_cosine_ppb": round(self.least * _BILLION),
            "batch_spread_ppb": spread,
            "images": _GOLDEN,
        }
        on_tiles = {"tiles": self.tiles, "tiles_cosine_ppb": round(self.on_tiles * _BILLION)}
        return measured | (on_tiles if self.tiles and not self._golden_problem() else {})

    def problem(self) -> str:
        """Return why the engine must not be used; empty if it may be."""
        if (why := self._golden_problem()) or self.on_tiles >= self.least:
            return why
        return f"a cosine of {self.on_tiles:.6f} to ONNX Runtime {ON_TILES}, below {self.least}"

    def _golden_problem(self) -> str:
        if self.changing:
            return CHANGING
        if not self.spread <= _INVARIANT_WITHIN:
            return f"{NEIGHBOURS} (by {self.spread:.3g})"
        if not self.cosine >= self.least:
            return f"a cosine of {self.cosine:.6f} to ONNX Runtime, below {self.least}"
        return ""


def _compare_with_network(
    model: Model, preprocessing: Preprocessing, engine: Engine, scratch: Path, tiles: Sequence[SourceTile]
) -> _Comparison:
    samples, pictures = golden_samples(preprocessing, _GOLDEN), _tile_samples(tiles, preprocessing)
    found = engine.run(samples)
    changing = agreement(found, engine.run(samples)) < _SAME_COSINE
    spread = batch_invariance(lambda batch: preprocessing.finish(engine.run(batch)), samples)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        reference = Reference(job_with_file(model, Path(folder)))
    answers = reference.run(pictures) if len(pictures) else np.zeros((0, engine.dimensions), np.float32)
    answered = np.isfinite(answers).all(axis=1) & answers.any(axis=1)
    return _Comparison(
        changing=changing,
        spread=spread,
        cosine=parity(lambda _: found, reference.run, samples),
        tiles=int(answered.sum()),
        on_tiles=agreement(engine.run(pictures[answered]), answers[answered]),
        least=required_cosine(model),
    )


def _tile_samples(tiles: Sequence[SourceTile], preprocessing: Preprocessing) -> Vectors:
    """Return some tiles as samples, each picture once, without those that cannot be read or decoded."""
    distinct = {tile.sha256: tile for tile in tiles[:: max(1, len(tiles) // _CANDIDATES)]}
    samples = []
    for tile in [distinct[digest] for digest in sorted(distinct)][:_COMPARED]:
        with suppress(TileError):
            samples.append(preprocessing.apply(decode(_read_unchanged(tile), subject=str(tile.place))))
    return np.stack(samples) if samples else np.zeros((0, *preprocessing.shape), np.float32)


def required_cosine(model: Model) -> float:
    """Return the least cosine that an engine's answer must have to its network's, on the same image."""
    return least_cosine(model.job.precision, model.job.least_cosine)


def require_passed(model: Model, verdict: CheckResult, *, what: str = "engine") -> None:
    """Raise `CheckError` if an engine disagrees with its network."""
    if isinstance(verdict, CheckFailed):
        raise CheckError(
            f"expected {what} {model.spec.name} to agree with its network, found {verdict.why}",
            hint=_disagreement_hint(verdict.why),
            subject=model.spec.name,
        )


def _disagreement_hint(why: str) -> str:
    if why == CHANGING:
        return EVALUATION_HINT
    if NEIGHBOURS in why:
        return f"{EVALUATION_HINT}, or set engine.batch = 1"
    return "choose another engine.precision or engine.backend, or lower checks.parity"


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
    known = ReusableRows(artifacts, others, units.hex_digests)
    units = units.take(np.array([digest in known for digest in units.hex_digests], np.bool_))
    units = units.take(slice(0, None, max(1, len(units) // _RECALCULATED))).take(slice(_RECALCULATED))
    if preprocessing is None or not len(units):
        return None
    shown = inputs.selection.shown_tiles()
    tiles = shown.under(units.ids)
    window = Window(number=0, cells=(), units=units, tiles=tiles, tile_edges=shown.edges)
    request = worker_request(window, [_read_unchanged(tile) for tile in tiles])
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
    measured = {"tiles": len(units), "cosine_ppb": round(cosine * _BILLION)}
    if cosine >= _SAME_COSINE:
        return subject.result(measured)
    why = (
        f"the engine gives other vectors than the ones that exist (cosine {cosine:.6f}); they are made again"
    )
    return subject.result(measured, why)


def _read_unchanged(tile: SourceTile) -> bytes:
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
    if tiles > 1 and (vectors @ vectors[0]).min() >= _SAME_COSINE:
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
