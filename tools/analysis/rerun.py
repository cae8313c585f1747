"""`replay --rerun`: run the failed step of a build again; its document and its text."""

from collections.abc import Mapping
from typing import Any

from pipeline.composition import default_ports
from pipeline.rerun.report import BuildRecord, Findings, Rerun, RerunVerdict, StepFailure, UnitIdentity
from pipeline.rerun.rerun import rerun
from store.base.canonical_json import is_digest
from store.domain.fold import fold
from store.domain.maintenance_events import Imported
from store.errors import DamagedHistoryError, ErrorKind, RequestRefusedError
from tools.forensics.history import BuildHistory, Source
from tools.output import page, render
from tools.output.sanitize import safe_data, safe_text

_MAX_INPUTS = 1_000
_VERDICT_TEXT: Mapping[str, str] = {
    RerunVerdict.REPRODUCED: "it fails again in the same way",
    RerunVerdict.FAILED_DIFFERENTLY: "it fails again, but otherwise",
    RerunVerdict.PASSED: "it does not fail here",
    RerunVerdict.IMPOSSIBLE: "it cannot be run again",
}


def run_again(source: Source, number: int | None, *, trust_plugins: bool = False) -> dict[str, Any]:
    """Run the failed step of a build again. Return what `docs/replay.md` describes as `rerun`.

    Args:
        source: The records.
        number: The build; None for a run that never became one.
        trust_plugins: Whether libraries that the recorded request names may be loaded.

    Raises:
        pipeline.errors.RequestError: The build was committed.
        RequestRefusedError: The records up to its end make no sense.
    """
    if number is None:
        return _impossible("a run that found the build lock held did no step of a build")
    records = source.history.until(BuildHistory(source=source).timeline(number).own[-1].seq).records
    facts = tuple(record.recorded_event for record in records)
    # An imported cache is as foreign as the bundle that it came from.
    later = source.history.records[len(records) :]
    try:
        state = fold(facts)
    except DamagedHistoryError as error:
        raise RequestRefusedError(error.message, kind=error.kind, hint=error.hint) from error
    if number not in state.builds:
        raise RequestRefusedError(
            f"expected build {number} in the records, found none",
            kind=ErrorKind.UNKNOWN_BUILD,
            hint=source.listing,
        )
    record = BuildRecord(
        build=state.builds[number],
        history=facts,
        state=state,
        artifacts=source.artifacts,
        own=source.kind == "cache" and not any(isinstance(each.event, Imported) for each in later),
        trust_plugins=trust_plugins,
        listing=source.listing,
    )
    return rerun_document(rerun(record, default_ports()))


def rerun_document(found: Rerun) -> dict[str, Any]:
    """Return the document of a rerun."""
    seen = found.findings
    return {
        "verdict": str(found.verdict),
        "text": _text(found),
        "step": safe_text(found.step, 64),
        "subject": safe_text(found.subject, 500),
        "recorded": _ending(found.recorded),
        "found": None if found.found is None else _ending(found.found),
        "why": safe_text(found.why),
        "inputs": [
            {
                "role": each.role,
                "name": safe_text(each.name, 500),
                "sha256": each.sha256,
                "standing": str(each.status),
                "found": safe_text(each.found, 500),
            }
            for each in seen.inputs[:_MAX_INPUTS]
        ],
        "compared": [
            {
                "what": safe_text(each.what, 200),
                "recorded": safe_text(each.recorded, 200),
                "found": safe_text(each.found, 200),
                "same": each.recorded == each.found,
            }
            for each in seen.compared
        ],
        "culprit": None if seen.culprit is None else _unit_place(seen.culprit),
        "suspects": [_unit_place(each) for each in seen.suspects[:_MAX_INPUTS]],
        "tries": [
            {"tiles": each.tiles, "first": each.first, "last": each.last, "ended": safe_text(each.ended, 300)}
            for each in seen.tries
        ],
        "differences": safe_data(seen.differences),
        "notes": safe_data(seen.notes),
    }


def _unit_place(unit: UnitIdentity) -> list[int]:
    """Return zoom, x and y of a tile, or zoom, x, y and view of a chunk."""
    return [int(part) for part in unit.name.split("/")]


def rerun_lines(document: Mapping[str, Any]) -> list[str]:
    """Return the lines of a rerun, from its document."""
    found = render.fields(
        ("step", f"{document['step']} {document['subject']}".strip()),
        ("then", _ending_text(document["recorded"])),
        ("now", _ending_text(document["found"]) if document["found"] else None),
        indent=2,
    )
    inputs = [
        (each["role"], each["name"], (each["sha256"] or "-")[:12], _where_found(each))
        for each in document["inputs"]
    ]
    found += render.table_section("Its inputs", ("input", "", "sha256", ""), inputs[:40])
    compared = [
        (each["what"], each["recorded"][:12], each["found"][:12], "same" if each["same"] else "other")
        for each in document["compared"]
    ]
    found += render.table_section("Compared", ("", "then", "now", ""), compared)
    tries = [
        (each["tiles"], each["first"], each["last"], each["ended"] or "done") for each in document["tries"]
    ]
    found += render.table_section("Halving", ("number", "first", "last", ""), tries, right="r")
    more = [
        line
        for each in (*document["differences"], *document["notes"])
        for line in render.wrap(str(each), page.text_width() - 4)
    ]
    return [*render.wrap(document["text"], page.text_width() - 2), "", *found, *render.section("Notes", more)]


def _text(found: Rerun) -> str:
    """Return the outcome as one sentence."""
    sentence = f"step {found.step} {found.subject}".rstrip() + f" run again: {_VERDICT_TEXT[found.verdict]}"
    if found.findings.culprit is not None:
        runs = render.plural(len(found.findings.tries), "run")
        what = "tile" if len(_unit_place(found.findings.culprit)) == 3 else "chunk"
        sentence += f"; {what} {found.findings.culprit.name} alone ends a worker, found in {runs}"
    return safe_text(f"{sentence}: {found.why}" if found.why else sentence)


def _impossible(why: str) -> dict[str, Any]:
    recorded = StepFailure(kind="build-lock-held", subject="build.lock", message=why)
    return rerun_document(
        Rerun(
            step="lock",
            subject="build.lock",
            verdict=RerunVerdict.IMPOSSIBLE,
            recorded=recorded,
            found=None,
            why=why,
            findings=Findings(),
        )
    )


def _ending(ended: StepFailure) -> dict[str, str]:
    return {
        "kind": safe_text(ended.kind, 64),
        "subject": safe_text(ended.subject, 500),
        "message": safe_text(ended.message),
    }


def _ending_text(ended: Mapping[str, str]) -> str:
    return f"{ended['kind']}: {ended['message']}" if ended["message"] else ended["kind"]


def _where_found(each: Mapping[str, str]) -> str:
    text = {
        "kept": "kept with the records",
        "same": "where it was, the same",
        "differs": "where it was, with other bytes",
        "gone": "gone",
    }[each["standing"]]
    found = each["found"][:12] if is_digest(each["found"]) else each["found"]
    return f"{text}: {found}" if found else text
