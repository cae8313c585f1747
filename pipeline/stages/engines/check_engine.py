"""The check of an engine before it is used: it agrees with its network, on golden images and on tiles of the build.

Answers are compared, not engine bytes, since compilers do not reproduce their bytes. The reference is ONNX
Runtime on the network as it was given, unoptimised. The result is an event with the measured values.
"""

import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.engines.models.model import Model
from pipeline.engines.models.network import job_with_file
from pipeline.engines.precision.float16 import least_cosine
from pipeline.errors import CheckError, TileError
from pipeline.planning.plan import ENGINE_CHECK
from pipeline.stages.checks import BILLION, SAME_COSINE, CheckResult, CheckSubject, load, read_unchanged
from pipeline.stages.engines.check_network import CHANGING, EVALUATION_HINT, NEIGHBOURS
from pipeline.stages.engines.reference import Reference
from pipeline.tiles.images.decode import decode
from pipeline.tiles.tile import SourceTile
from store.base.preprocessing import Preprocessing
from store.domain.events import CheckFailed, EngineCompiled
from store.runtime.golden_vectors import Vectors, agreement, batch_invariance, golden_samples, parity
from store.runtime.load import Engine, ExecutionError, RuntimeUnavailableError

ON_TILES = "on tiles of this build"
_GOLDEN = 3
_CANDIDATES = 256
_COMPARED = 8
_INVARIANT_WITHIN = 1e-5


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
        spread = min(round(self.spread * BILLION), 1 << 53) if np.isfinite(self.spread) else 1 << 53
        measured = {
            "cosine_ppb": round(self.cosine * BILLION),
            "least_cosine_ppb": round(self.least * BILLION),
            "batch_spread_ppb": spread,
            "images": _GOLDEN,
        }
        on_tiles = {"tiles": self.tiles, "tiles_cosine_ppb": round(self.on_tiles * BILLION)}
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
    changing = agreement(found, engine.run(samples)) < SAME_COSINE
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
            samples.append(preprocessing.apply(decode(read_unchanged(tile), subject=str(tile.place))))
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
