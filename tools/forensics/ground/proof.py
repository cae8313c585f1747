"""The proof of a build by photographs: what it found, and where each answer lies. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from pipeline.proof.measure import Found, count_shares
from store.base import canonical_json
from store.base.canonical_json import CanonicalError
from store.domain import events as e
from store.domain.proof import PROOF, answers_of, figures_of, is_proof
from store.domain.state import Build
from store.errors import DamagedHistoryError
from tools.forensics.failure import ArtifactReader
from tools.forensics.timeline import BuildTimeline
from tools.output.proof import within_shares
from tools.output.sanitize import safe_text

_E7: Final = 10**7
_MILLION: Final = 1_000_000
_MOST_MM: Final = 10**11
_FURTHEST_E7: Final = 180 * _E7


def proof_document(
    timeline: BuildTimeline, build: Build | None, artifacts: ArtifactReader
) -> dict[str, Any] | None:
    """Return what the photographs of a build showed, as `docs/replay.md` describes it; None without a proof."""
    for record in reversed(timeline.own):
        match record.event:
            case e.CheckPassed() | e.CheckFailed() as event if is_proof(event):
                return _document(event, record.seq, artifacts, reused=False)
            case e.StepReused(kind=kind) if kind == PROOF and build is not None and build.proof is not None:
                return _document(build.proof, record.seq, artifacts, reused=True)
            case _:
                continue
    return None


def _document(
    event: e.CheckPassed | e.CheckFailed, seq: int, artifacts: ArtifactReader, *, reused: bool
) -> dict[str, Any] | None:
    try:
        figures, data = figures_of(event), artifacts.read(answers_of(event))
    except DamagedHistoryError:
        return None
    measured, within_mm = event.measured, round(figures["within_m"] * 1000)
    answers = _answers(data) if data is not None else []
    return {
        "seq": seq,
        "reused": reused,
        "passed": isinstance(event, e.CheckPassed),
        **figures,
        "median_m": _thousandths(measured.get("median_mm")),
        "margins": list(_margins(measured.get("margins"))),
        "within": within_shares(count_shares([each for each, _ in answers])) if answers else None,
        "answers": [_answer(found, recorded, within_mm, figures["at"]) for found, recorded in answers],
    }


def _thousandths(value: object) -> float | None:
    return value / 1000 if type(value) is int and abs(value) <= _MOST_MM else None


def _margins(recorded: object) -> Iterator[list[float | int]]:
    """Yield margin, photographs with at least that one, and how many of these are right; leave out what is not that."""
    for row in recorded if isinstance(recorded, list | tuple) else ():
        match row:
            case [int(margin), int(photographs), int(right)] if max(margin, photographs, right) <= _MOST_MM:
                yield [margin / _MILLION, photographs, right]
            case _:
                continue


def _answers(data: bytes) -> list[tuple[Found, Mapping[str, Any]]]:
    """Return the answers of an artifact, beside what it says of them; none if it is not what a build writes."""
    try:
        document: Any = canonical_json.decode(data.removesuffix(b"\n"))
        return [(_found(each), each) for each in document["answers"]] if document["format"] == 1 else []
    except (CanonicalError, LookupError, TypeError, ValueError, AttributeError):
        return []


def _found(answer: Mapping[str, Any]) -> Found:
    margin = answer["margin_ppm"]
    _place(*answer["place_e7"])
    return Found(
        file=safe_text(answer["file"], 300),
        outside=answer["outside"] is True,
        errors_mm=tuple(_error_mm(each) for each in answer["candidates"]),
        margin_ppm=None if margin is None else _whole(margin, _MOST_MM),
    )


def _error_mm(candidate: Mapping[str, Any]) -> int:
    _place(candidate["lon_e7"], candidate["lat_e7"])
    return _whole(candidate["error_mm"], _MOST_MM)


def _answer(found: Found, recorded: Mapping[str, Any], within_mm: int, at: int) -> dict[str, Any]:
    """Return an answer for people: its photograph's true place, and the nearest candidate of those that count."""
    errors = [error / 1000 for error in found.errors_mm]
    best = min(range(len(errors[:at])), key=errors.__getitem__, default=None)
    near = None if best is None else recorded["candidates"][best]
    return {
        "file": found.file,
        "outside": found.outside,
        "right": found.is_within(within_mm, at),
        "margin": None if found.margin_ppm is None else found.margin_ppm / _MILLION,
        "error_m": errors[0] if errors else None,
        "best_m": min(errors, default=None),
        "place": _place(*recorded["place_e7"]),
        "answer": None if near is None else _place(near["lon_e7"], near["lat_e7"]),
    }


def _place(lon_e7: object, lat_e7: object) -> list[float]:
    return [_whole(lon_e7, _FURTHEST_E7) / _E7, _whole(lat_e7, _FURTHEST_E7 // 2) / _E7]


def _whole(value: object, most: int) -> int:
    if type(value) is not int or abs(value) > most:
        raise ValueError(f"expected a whole number of at most {most}, found {value!r:.40}")
    return value
