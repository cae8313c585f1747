"""`replay --rerun`: the failed step of a build run again, and what came of it, as a document and as lines."""

from collections.abc import Mapping
from typing import Any

from pipeline.composition import default_ports
from pipeline.rerun.report import BuildRecord, Findings, Rerun, RerunVerdict, StepFailure
from pipeline.rerun.rerun import rerun
from store.domain.events import Imported
from store.domain.fold import fold
from store.errors import DamagedHistoryError, ErrorKind, RequestRefusedError
from tools.forensics.history import Look, Source
from tools.output import render
from tools.output.sanitize import text, tree

_MAX_INPUTS = 1_000
_SAID: Mapping[str, str] = {
    RerunVerdict.REPRODUCED: "it fails again in the same way",
    RerunVerdict.FAILED_DIFFERENTLY: "it fails again, but otherwise",
    RerunVerdict.PASSED: "it does not fail here",
    RerunVerdict.IMPOSSIBLE: "it cannot be run again",
}


def run_again(source: Source, number: int | None, *, trust_plugins: bool = False) -> dict[str, Any]:
    """Run the failed step of a build again; returns what `docs/replay.md` describes as `rerun`.

    Args:
        source: The records.
        number: The build; None for a run that never became one.
        trust_plugins: Whether libraries that the recorded request names may be loaded.

    Raises:
        pipeline.errors.RequestError: The build was committed.
        RequestRefusedError: The records up to its end make no sense.
    """
    if number is None:
        return _nothing("a run that found the build lock held did no step of a build")
    moments = source.history.until(Look(source=source).track(number).own[-1].seq).moments
    facts = tuple(moment.fact for moment in moments)
    # What was imported into a cache is no more this machine's own than the bundle that it came from.
    later = source.history.moments[len(moments) :]
    try:
        state = fold(facts)
    except DamagedHistoryError as error:
        raise RequestRefusedError(error.message, kind=error.kind, hint=error.hint) from error
    if number not in state.builds:
        raise RequestRefusedError(
            f"expected build {number} in the records, found none",
            kind=ErrorKind.UNKNOWN_GENERATION,
            hint=source.listing,
        )
    record = BuildRecord(
        build=state.builds[number],
        history=facts,
        state=state,
        artifacts=source.holdings,
        own=source.kind == "cache" and not any(isinstance(each.event, Imported) for each in later),
        trust_plugins=trust_plugins,
        listing=source.listing,
    )
    return document_of(rerun(record, default_ports()))


def document_of(found: Rerun) -> dict[str, Any]:
    """Return the document of a step that was run again."""
    seen = found.findings
    return {
        "verdict": str(found.verdict),
        "text": _text(found),
        "step": text(found.step, 64),
        "subject": text(found.subject, 500),
        "recorded": _ended(found.recorded),
        "found": None if found.found is None else _ended(found.found),
        "why": text(found.why),
        "inputs": [
            {
                "role": each.role,
                "name": text(each.name, 500),
                "sha256": each.sha256,
                "standing": str(each.status),
                "found": text(each.found, 500),
            }
            for each in seen.inputs[:_MAX_INPUTS]
        ],
        "compared": [
            {
                "what": text(each.what, 200),
                "recorded": text(each.recorded, 200),
                "found": text(each.found, 200),
                "same": each.recorded == each.found,
            }
            for each in seen.compared
        ],
        "culprit": None if seen.culprit is None else list(seen.culprit.place),
        "suspects": [list(piece.place) for piece in seen.suspects[:_MAX_INPUTS]],
        "tries": [
            {"tiles": each.tiles, "first": each.first, "last": each.last, "ended": text(each.ended, 300)}
            for each in seen.tries
        ],
        "differences": tree(seen.differences),
        "notes": tree(seen.notes),
    }


def rerun_lines(document: Mapping[str, Any]) -> list[str]:
    """Return what came of it, for people."""
    found = render.facts(
        (
            ("step", f"{document['step']} {document['subject']}".strip()),
            ("then", _failure(document["recorded"])),
            ("now", _failure(document["found"]) if document["found"] else None),
        ),
        indent=2,
    )
    inputs = [
        (each["role"], each["name"], (each["sha256"] or "-")[:12], _standing(each))
        for each in document["inputs"]
    ]
    found += render.section(
        "Its inputs", render.table(("input", "", "sha256", ""), inputs[:40]) if inputs else []
    )
    compared = [
        (each["what"], each["recorded"][:12], each["found"][:12], "same" if each["same"] else "other")
        for each in document["compared"]
    ]
    found += render.section("Compared", render.table(("", "then", "now", ""), compared) if compared else [])
    tries = [
        (each["tiles"], each["first"], each["last"], each["ended"] or "done") for each in document["tries"]
    ]
    found += render.section(
        "Halving", render.table(("tiles", "first", "last", ""), tries, right="r") if tries else []
    )
    more = [
        line
        for each in (*document["differences"], *document["notes"])
        for line in render.wrap(str(each), render.WIDTH - 4)
    ]
    return [*render.wrap(document["text"], render.WIDTH - 2), "", *found, *render.section("Notes", more)]


def _text(found: Rerun) -> str:
    """The outcome as one sentence."""
    told = f"step {found.step} {found.subject}".rstrip() + f" run again: {_SAID[found.verdict]}"
    if found.findings.culprit is not None:
        runs = render.plural(len(found.findings.tries), "run")
        told += f"; tile {found.findings.culprit.place} alone ends a worker, found in {runs}"
    return text(f"{told}: {found.why}" if found.why else told)


def _nothing(why: str) -> dict[str, Any]:
    told = StepFailure(kind="build-lock-held", subject="build.lock", message=why)
    return document_of(
        Rerun(
            step="lock",
            subject="build.lock",
            verdict=RerunVerdict.IMPOSSIBLE,
            recorded=told,
            found=None,
            why=why,
            findings=Findings(),
        )
    )


def _ended(ended: StepFailure) -> dict[str, str]:
    return {"kind": text(ended.kind, 64), "subject": text(ended.subject, 500), "message": text(ended.message)}


def _failure(ended: Mapping[str, str]) -> str:
    return f"{ended['kind']}: {ended['message']}" if ended["message"] else ended["kind"]


def _standing(each: Mapping[str, str]) -> str:
    said = {
        "kept": "kept with the records",
        "same": "where it was, the same",
        "differs": "where it was, with other bytes",
        "gone": "gone",
    }[each["standing"]]
    return f"{said}: {each['found']}" if each["found"] else said
