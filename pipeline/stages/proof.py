"""Ask a cache for the places of photographs whose true place is known: for people, and as a check before a commit."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

import numpy as np

from pipeline.errors import CheckError, RequestError
from pipeline.planning.proof import TruthTable, is_outside, key_of_proof, require_camera, some_of
from pipeline.progress import Progress
from pipeline.proof.measure import MOST_CANDIDATES, Found, count_shares, found_for, prior
from pipeline.proof.truth_table import Photograph
from pipeline.request.area import Area
from pipeline.request.geometry import degrees_to_e7
from pipeline.stages.checks import CheckSubject, load, load_stored_index
from pipeline.stages.context import BuildContext
from pipeline.tiles.images.photograph import decode_photograph, read_photograph
from store.base.canonical_json import Document, encode
from store.base.preprocessing import Preprocessing
from store.base.values import ArtifactRef
from store.disk.artifacts import Artifacts
from store.domain.events import CheckFailed, EngineCompiled, Index
from store.domain.proof import PROOF, SUBJECT, answers_of, described, figures_of
from store.errors import ArgumentError
from store.formats.joined_blocks import read_block
from store.formats.tables import decode_blocks, decode_tiles
from store.manifest.levels import parse_levels
from store.manifest.networks import descriptors_of, weight_of
from store.reader.loading import level_tables
from store.reader.places.answer import Answer
from store.reader.places.descriptor_networks import DescriptorNetwork
from store.reader.places.level_table import Rows
from store.reader.places.locate import Locator
from store.reader.places.question import parse_question
from store.runtime.backends.base import Vectors
from store.runtime.load import EngineRunError

_MILLION: Final = 1_000_000
_FORMAT: Final = 1
_MOST_TOLD: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Asked:
    """A photograph, the whole answer for it, and how far that is off."""

    photograph: Photograph
    answer: Answer
    found: Found


def ask_all(
    table: TruthTable,
    locator: Locator,
    *,
    area: Area,
    near_m: float | None,
    progress: Progress,
) -> list[Asked]:
    """Ask for the place of every photograph, in the order of the rows.

    Args:
        table: The photographs.
        locator: What finds their places.
        area: The area of the cache; a photograph outside of it counts as wrong.
        near_m: If given, chunks within so many metres of a guess alone are searched (`pipeline.proof.measure.prior`).
        progress: Shows how far it is.

    Raises:
        RequestError: A photograph was changed, cannot be decoded or is not of the cache's camera.
        store.runtime.ExecutionError: The network did not run.
    """
    require_camera(table, locator.calibration)
    progress.start("prove", total=len(table.photographs), unit="photographs")
    asked = []
    for row, digest in zip(table.photographs, table.digests, strict=True):
        asked.append(_ask(row, table.folder / row.file, digest, locator, area=area, near_m=near_m))
        progress.advance()
    progress.finish()
    return asked


def _ask(
    row: Photograph, path: Path, digest: bytes, locator: Locator, *, area: Area, near_m: float | None
) -> Asked:
    data = read_photograph(path)
    if sha256(data).digest() != digest:
        raise RequestError(f"expected {path} to stay as it is, found that it changed", hint="run it again")
    question = parse_question(
        altitude_m=row.altitude_m,
        metres_per_pixel=row.metres_per_pixel,
        heading_deg=row.heading_deg,
        near=None if near_m is None else (*prior(row.place, digest, near_m), near_m),
        headings=1,
        pitch_deg=None,
        roll_deg=None,
        k=MOST_CANDIDATES,
    )
    frame = decode_photograph(data, path)
    try:
        answer = locator.locate(frame, question)
    except ArgumentError as error:
        raise RequestError(f"{path}: {error.message}", hint=error.hint) from error
    except EngineRunError as error:
        raise EngineRunError(f"{path}: {error.message}", hint=error.hint) from error
    candidates = ((each.longitude, each.latitude) for each in answer.candidates)
    found = found_for(row.file, row.place, candidates, answer.margin, outside=is_outside(row, area))
    return Asked(photograph=row, answer=answer, found=found)


def doubt_warning(asked: Sequence[Asked]) -> str | None:
    """Return what makes answers doubtful, in one line; None if nothing does."""
    doubtful = [each for each in asked if each.answer.warnings]
    if not doubtful:
        return None
    return f"{some_of([each.photograph.file for each in doubtful])}: {doubtful[0].answer.warnings[0]}"


def locator_of(
    artifacts: Artifacts,
    inputs: Document,
    *,
    engines: Mapping[str, EngineCompiled],
    index: Index,
    tiles: ArtifactRef,
    calibration: bytes,
) -> Locator:
    """Return what finds places with the artifacts of a build, committed or not, as `FlightCache.locator` does.

    Args:
        artifacts: Holds them.
        inputs: The inputs of the build.
        engines: The engines that embedded the chunks, by descriptor network.
        index: The index of all of them.
        tiles: The tile table.
        calibration: Bytes of the calibration file.

    Raises:
        ArtifactError: One of them is missing or damaged.
        NoGoError: They contradict each other.
        store.runtime.ExecutionError: Engine or index do not run here.
    """

    def blocks() -> tuple[Rows, Vectors]:
        found = [read_block(row, artifacts.read) for row in decode_blocks(artifacts.read(index.blocks))]
        ids = np.concatenate([np.zeros(0, np.int64), *(block.ids.astype(np.int64) for block in found)])
        return ids, np.concatenate([block.vectors for block in found])

    return Locator(
        sector=str(inputs["sector"]),
        built_ns=0,
        networks=[
            DescriptorNetwork(
                engine=load(engine, artifacts.read(engine.artifact), single=True),
                preprocessing=Preprocessing.from_document(model["preprocessing"]),
                weight=weight_of(model),
            )
            for model in descriptors_of(inputs)
            for engine in (engines[model["name"]],)
        ],
        calibration=json.loads(calibration),
        tables=level_tables(
            parse_levels(inputs),
            load_stored_index(artifacts, index),
            decode_tiles(artifacts.read(tiles)),
            rows=index.rows,
            blocks=blocks,
        ),
    )


def encode_answers(asked: Sequence[Asked]) -> bytes:
    """Return the artifact that holds every answer: canonical JSON, integers alone."""
    answers = [
        {
            "file": each.photograph.file,
            "place_e7": [degrees_to_e7(degrees) for degrees in each.photograph.place],
            "outside": each.found.outside,
            "margin_ppm": each.found.margin_ppm,
            "candidates": [
                {
                    "lon_e7": degrees_to_e7(round(candidate.longitude, 7)),
                    "lat_e7": degrees_to_e7(round(candidate.latitude, 7)),
                    "error_mm": error,
                    "score_ppm": round(candidate.score * _MILLION),
                    "level": candidate.level,
                }
                for candidate, error in zip(each.answer.candidates, each.found.errors_mm, strict=True)
            ],
        }
        for each in asked
    ]
    return encode({"format": _FORMAT, "answers": answers}) + b"\n"


def measured_of(found: Sequence[Found], size: int, wanted: Document) -> Document:
    """Return what a proof records, in integers: the counts that were asked for, and what the margin is worth."""
    shares = count_shares(found)
    right, better = shares.better_half
    return {
        "pictures": shares.pictures,
        "right": sum(each.is_within(wanted["within_mm"], wanted["at"]) for each in found),
        **{name: wanted[name] for name in ("within_mm", "at", "min_ppm", "near_mm") if name in wanted},
        "better_half_right_ppm": right * _MILLION // better if better else None,
        "median_mm": shares.median_mm,
        "margins": [list(each) for each in shares.thresholds],
        "size": size,
    }


def prove_build(run: BuildContext, index: Index) -> None:
    """Check that a build finds the photographs that its request names, and record every answer.

    Raises:
        RequestError: A photograph cannot be used.
        CheckError: Too few of them are found.
    """
    table, build = run.inputs.proof, run.store.state.builds[run.number]
    if table is None or build.tiles is None:
        return
    run.enter("check", SUBJECT)
    engines = {model.spec.name: run.embedder(model) for model in run.inputs.descriptors}
    key = key_of_proof(run.inputs.document, run.inputs.networks, engines.values(), index)
    artifacts = run.store.artifacts
    known = run.store.state.step_cache.passed.get((PROOF, key))
    if known is not None and artifacts.damage(answers_of(known)) is None:
        run.hashed.add(known.artifact)
        run.reuse(PROOF, {SUBJECT: key})
        return
    _record_proof(run, key, _ask_build(run, table, engines, index, build.tiles.table))


def _ask_build(
    run: BuildContext,
    table: TruthTable,
    engines: Mapping[str, EngineCompiled],
    index: Index,
    tiles: ArtifactRef,
) -> list[Asked]:
    locator = locator_of(
        run.store.artifacts,
        run.inputs.document,
        engines=engines,
        index=index,
        tiles=tiles,
        calibration=run.inputs.calibration,
    )
    return ask_all(
        table,
        locator,
        area=run.inputs.area,
        near_m=None if run.inputs.request.proof is None else run.inputs.request.proof.near_m,
        progress=run.ports.progress,
    )


def _record_proof(run: BuildContext, key: str, asked: Sequence[Asked]) -> None:
    """Record the answers for all photographs; raise `CheckError` if too few of these are found."""
    found = [each.found for each in asked]
    run.proof = encode_answers(asked)
    ref = run.put(run.proof)
    measured = measured_of(found, ref.size, run.inputs.document["proof"])
    verdict = CheckSubject(PROOF, SUBJECT, key, ref.sha256).result(measured, _shortfall(found, measured))
    run.append(verdict)
    failed = isinstance(verdict, CheckFailed)
    told = _told(found, measured, all_of_them=failed)
    for line in (f"proof: {described(figures_of(verdict))}", *told, doubt_warning(asked)):
        if line is not None:
            run.ports.progress.say(line)
    if isinstance(verdict, CheckFailed):
        raise CheckError(
            f"expected the cache to find its photographs, found {verdict.why}",
            hint="look at place, altitude and heading of the worst in the table; raise chunks.overlap, take newer"
            " imagery, or lower proof.min",
            subject=SUBJECT,
        )


def _shortfall(found: Sequence[Found], measured: Document) -> str:
    """Return why a proof fails, with the worst answer; empty if it passes."""
    pictures, right = measured["pictures"], measured["right"]
    if right * _MILLION >= measured["min_ppm"] * pictures:
        return ""
    worst = _wrong(found, measured)[0]
    among = "" if measured["at"] == 1 else f" among the first {measured['at']}"
    return (
        f"only {right} of {pictures} within {measured['within_mm'] / 1000:g} m{among}, below "
        f"{measured['min_ppm'] / _MILLION:g}; the worst is {worst.file}, {_off(worst)}"
    )


def _told(found: Sequence[Found], measured: Document, *, all_of_them: bool) -> Iterator[str]:
    """Yield a line for each photograph, worst first; else for those that are not found, of very many the first."""
    wrong = _wrong(found, measured)
    files = {each.file for each in wrong}
    told = (
        [*wrong, *(each for each in found if each.file not in files)] if all_of_them else wrong[:_MOST_TOLD]
    )
    for each in told:
        yield f"{each.file}: {_off(each)}"
    if len(told) < len(wrong):
        yield f"and {len(wrong) - len(told)} more"


def _off(found: Found) -> str:
    where = " (outside of the area)" if found.outside else ""
    return (f"{found.errors_mm[0] / 1000:,.0f} m off" if found.errors_mm else "no answer") + where


def _wrong(found: Sequence[Found], measured: Document) -> list[Found]:
    """Return the photographs that are not found, worst first."""
    wrong = [each for each in found if not each.is_within(measured["within_mm"], measured["at"])]
    return sorted(wrong, key=lambda each: (-each.errors_mm[0] if each.errors_mm else -math.inf, each.file))
