"""The document of `c10 replay`: everything that the records say of one build. Pure.

`docs/replay.md` describes it, and the page of `c10 report` is drawn from it alone. Nothing recorded is
executed, and every text in it is safe to print.
"""

from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any, Final

from store.domain import events as e
from store.errors import ErrorKind
from tools.analysis.diff import compare_builds
from tools.analysis.readiness import readiness_document
from tools.forensics.build_facts import BuildFacts
from tools.forensics.cost import Rates, cost_of, duration, normal_ms
from tools.forensics.failure import cells_at_fault, denial_document, failure_document
from tools.forensics.findings import findings_of, make_finding
from tools.forensics.ground.area import area_document
from tools.forensics.ground.proof import proof_document
from tools.forensics.history import BuildHistory, DeniedRun, Source
from tools.forensics.records import DecodedRecord
from tools.forensics.root_cause import cause_of_denial
from tools.forensics.step_keys import explain_keys, spaces_of
from tools.forensics.steps import Step
from tools.forensics.timeline import BuildTimeline, timeline_rows
from tools.output import render
from tools.output.sanitize import safe_data, safe_lines, safe_text

FORMAT: Final = 1
MAX_PARTS: Final = 2_000


def replay(
    source: Source, *, word: str | None = None, at: int | None = None, today: date | None = None
) -> dict[str, Any]:
    """Return everything that the records say of one build, as `docs/replay.md` describes it.

    Args: source: The records. word: The number of a build, or `@` and the number of a record; default: the
    newest that was not committed. at: The last record to look at; default: all. today: The day for which a
    committed build is judged and imagery has its age, UTC; without it neither is done.

    Raises:
        RequestRefusedError: There is no such build or record.
    """
    return replay_build(BuildHistory(source=source, at=at), word=word, today=today)


def replay_build(builds: BuildHistory, *, word: str | None, today: date | None) -> dict[str, Any]:
    """Return what `replay` does, from builds that are not folded yet.

    Raises:
        RequestRefusedError: There is no such build or record.
    """
    match builds.choose(word):
        case DeniedRun(record, event):
            return {**_denied_document(builds.fold(), record, event), "readiness": None}
        case number:
            return {
                **_build_document(builds.fold(number), number, today),
                "readiness": readiness_document(builds.build(number), builds.source.artifacts, today),
            }


def diff_document(builds: BuildHistory, a: int, b: int) -> dict[str, Any]:
    """Return the differences between two builds.

    Raises:
        RequestRefusedError: There is no such build, or the records up to it make no sense.
    """
    builds.fold()
    sides = []
    for number in (a, b):
        found, build = builds.timeline(number), builds.build(number)
        if build is None:
            expected = f"build {number} to be told by its records"
            raise builds.unknown(expected, builds.folded.problem, ErrorKind.UNKNOWN_BUILD)
        sides.append((found, build))
    return {
        "source": builds.source.to_document(),
        **compare_builds(sides[0], sides[1], builds.source.artifacts),
    }


def _build_document(builds: BuildHistory, number: int, today: date | None) -> dict[str, Any]:
    timeline, source = builds.timeline(number), builds.source
    facts = BuildFacts(number=number, state=builds.state, records=timeline.own)
    dead = source.lock_held is False and timeline.end is None and builds.at is None
    rates = builds.rates(number)
    spaces = _vector_spaces(facts)
    area = area_document(
        timeline,
        facts.inputs,
        source.artifacts,
        spaces=spaces,
        before=builds.step_cache(number),
        today=today,
    )
    failure = failure_document(timeline, builds.state, source.artifacts, dead=dead)
    if failure is not None and area is not None:
        at_fault = cells_at_fault(timeline)
        failure["cells"] = [place for place, cell in enumerate(area["cells"]) if tuple(cell[:3]) in at_fault]
    rows, cut = timeline_rows(timeline)
    document = {
        **_head(builds, number),
        "identity": facts.identity,
        "flight_id": safe_data(facts.inputs.get("flight_id")) if facts.build else None,
        "sector": safe_data(facts.inputs.get("sector")) if facts.build else None,
        "generations": facts.generations,
        "accepted": facts.accepted,
        "collected": facts.collected,
        "status": "died" if dead else str(facts.status),
        **_dates(timeline),
        "inputs": safe_data(facts.inputs),
        "host": safe_data({name: value for name, value in facts.host.items() if name != "request"}),
        "request": _request_lines(facts),
        "failure": failure,
        "findings": findings_of(timeline, source.history, builds.folded, rates),
        "steps": [_step(timeline, step, rates) for step in timeline.steps],
        "timeline": rows,
        "timeline_cut": cut,
        "checks": list(_checks(facts)),
        "keys": explain_keys(builds.state, number) if facts.build is not None else [],
        "area": area,
        "proof": proof_document(timeline, facts.build, source.artifacts),
        "cost": cost_of(timeline),
        "state": state_document(builds),
        "compare": _compare_with_last_good(builds, number),
        "verified": _commits(builds),
    }
    document["summary"] = _summary(document)
    return document


def _denied_document(builds: BuildHistory, record: DecodedRecord, event: e.BuildDenied) -> dict[str, Any]:
    """Return the document of a run that found the build lock held."""
    cause = cause_of_denial(event)
    inputs = safe_data(event.inputs)
    when = {"seq": record.seq, "time": render.iso(record.wall_ns)}
    row = {"seq": record.seq, "ms": 0, "since_ms": 0, "tag": record.tag, "text": cause, "step": None}
    return {
        **_head(builds, None),
        "identity": event.identity or None,
        "flight_id": inputs.get("flight_id"),
        "status": "denied",
        "started": when,
        "ended": when,
        "ms": event.waited_ms,
        "inputs": inputs,
        "host": safe_data(event.host),
        "request": [],
        "failure": denial_document(event, record.seq, cause),
        "findings": [make_finding("denied", "error", record.seq, cause, "wait for it, or end it")],
        "steps": [],
        "timeline": [{**row, "time": when["time"], "unknown": False, "problem": "", "build": None}],
        "timeline_cut": 0,
        "checks": [],
        "keys": [],
        "area": None,
        "proof": None,
        "cost": {},
        "state": state_document(builds),
        "compare": None,
        "verified": _commits(builds),
        "summary": f"a run never became a build: {cause}",
    }


def state_document(builds: BuildHistory) -> dict[str, Any]:
    """Return what the cache was after the last record that was folded."""
    state, head = builds.state, builds.state.head
    building = state.builds.get(state.open_build) if state.open_build is not None else None
    return {
        "seq": state.position.seq,
        "chain": state.position.chain,
        "generation": head.number if head else None,
        "origin": head.origin if head else None,
        "body_sha256": head.body_sha256 if head else None,
        "open_build": state.open_build,
        "doing": safe_text(building.doing, 300) if building else "",
        "builds": len(state.builds),
        "engines": len(state.step_cache.engines),
        "blocks": len(state.step_cache.blocks),
        "indexes": len(state.step_cache.indexes),
        "accepted": sorted(state.accepted),
        "retired": len(state.collected_generations),
        "unknown": [safe_text(name, 100) for name in state.unknown[:100]],
        "problem": safe_text(builds.folded.problem),
    }


def _head(builds: BuildHistory, number: int | None) -> dict[str, Any]:
    """Return the first members of every replay, in their order; a denied run fills few of them."""
    return {
        "format": FORMAT,
        "source": builds.source.to_document(),
        "build": number,
        "at": builds.at,
        "status": "",
        "summary": "",
        "identity": None,
        "flight_id": None,
        "sector": None,
        "generations": [],
        "accepted": [],
        "collected": False,
    }


def _dates(found: BuildTimeline) -> dict[str, Any]:
    end = found.end
    return {
        "started": {"seq": found.start.seq, "time": render.iso(found.start.wall_ns)},
        "ended": {"seq": end.seq, "time": render.iso(end.wall_ns)} if end else None,
        "ms": found.took_ms,
    }


def _request_lines(facts: BuildFacts) -> list[str]:
    match facts.host.get("request"):
        case {"text": str(written)}:
            return safe_lines(written)
        case _:
            return []


def _vector_spaces(facts: BuildFacts) -> tuple[str, ...]:
    """Return the vector spaces that follow from the inputs; of one network, the one that a record names."""
    known = spaces_of(facts.build) if facts.build is not None else ()
    if len(known) > 1:
        return known
    for record in facts.records:
        match record.event:
            case e.StepStarted(kind="cells", key=key) | e.CellEmbedded(space=key):
                return (key,)
            case _:
                continue
    return known


def _step(found: BuildTimeline, step: Step, rates: Rates) -> dict[str, Any]:
    took = duration(found, step)
    return {
        "kind": safe_text(step.kind, 64),
        "subject": safe_text(step.subject, 200),
        "outcome": step.outcome,
        "from": step.begin.seq,
        "to": step.end.seq if step.end else None,
        "begin_ms": found.ms(step.begin),
        "ms": took,
        "count": step.count,
        "unit": step.unit,
        "bytes": step.size,
        "key": safe_text(step.key, 64) or None,
        "why": _planned_reasons(found, step),
        "normal_ms": normal_ms(step, rates),
        "parts": [
            {
                "from": part.begin.seq,
                "to": part.end.seq if part.end else None,
                "begin_ms": found.ms(part.begin),
                "ms": found.between(part.begin, part.end) if part.end else None,
                "cells": len(part.cells),
                "first": safe_text(part.cells[0], 64) if part.cells else "",
                "last": safe_text(part.cells[-1], 64) if part.cells else "",
                "attempts": part.attempts,
                "outcome": "done" if part.end else "cut",
            }
            for part in step.parts[:MAX_PARTS]
        ],
    }


def _planned_reasons(found: BuildTimeline, step: Step) -> str:
    """Return the reasons of the plan for a step; for cells, those of all cells with the same decision."""
    decision = "reuse" if step.outcome == "reused" else "run"
    for record in found.own:
        if isinstance(record.event, e.BuildPlanned):
            reasons = [
                str(planned.get("why", ""))
                for planned in record.event.steps
                if planned.get("kind") == step.kind
                and planned.get("decision") == decision
                and (planned.get("subject") or "") in ("", step.subject)
            ]
            return safe_text("; ".join(reason for reason in reasons if reason), 500)
    return ""


def _checks(facts: BuildFacts) -> Iterator[dict[str, Any]]:
    for check in facts.checks:
        yield {
            "seq": check.seq,
            "check": safe_text(check.event.check, 64),
            "subject": safe_text(check.event.subject, 200),
            "passed": check.passed,
            "why": safe_text(check.why),
            "artifact": safe_text(check.event.artifact, 64),
            "measured": safe_data(check.event.measured),
        }


def _compare_with_last_good(builds: BuildHistory, number: int) -> dict[str, Any] | None:
    good = builds.last_good(number)
    build, known = builds.build(number), builds.build(good) if good is not None else None
    if build is None or known is None or good is None:
        return None
    return compare_builds(
        (builds.timeline(good), known), (builds.timeline(number), build), builds.source.artifacts
    )


def _commits(builds: BuildHistory) -> list[dict[str, Any]]:
    return [
        {
            "generation": each.generation,
            "seq": each.seq,
            "body_sha256": each.body_sha256,
            "projects": each.matches,
        }
        for each in builds.folded.commits
    ]


def _summary(document: Mapping[str, Any]) -> str:
    number, took = document["build"], render.milliseconds(document["ms"])
    failed = document["failure"]
    match document["status"]:
        case "committed":
            shown = ", ".join(map(str, document["generations"]))
            return f"build {number} was committed after {took}, as generation {shown}"
        case "open":
            return f"build {number} has no end yet; its last record came after {took}"
        case status:
            where = f"{failed['step']} {failed['subject']}".strip()
            return f"build {number} {status} after {took} at {where}: {failed['cause']}"
