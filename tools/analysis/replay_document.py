"""Replay: from the records of a journal to everything that can be told of one build. Pure.

The document is described in `docs/replay.md`; the page that people look at is drawn from it and from nothing else. Nothing
recorded is executed, and every text in it was made harmless.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from store.domain import events as e
from store.domain.state import Build
from tools.analysis.diff import compare
from tools.forensics.area import area
from tools.forensics.cost import Rates, cost, duration, normal_ms
from tools.forensics.failure import cells_at_fault, denial, failure
from tools.forensics.findings import finding, findings
from tools.forensics.history import Denied, Look, Source
from tools.forensics.records import Moment
from tools.forensics.root_cause import cause_of_denial
from tools.forensics.step_keys import explained, space_of
from tools.forensics.steps import Step
from tools.forensics.timeline import Track, rows
from tools.output import render
from tools.output.sanitize import lines, text, tree

FORMAT: Final = 1
MAX_PARTS: Final = 2_000


def replay(source: Source, *, word: str | None = None, at: int | None = None) -> dict[str, Any]:
    """Return everything that can be told of one build; the form is that of `docs/replay.md`.

    Args:
        source: The records.
        word: The number of a build, `@` and that of a record, or nothing for the newest that was not committed.
        at: The last record to look at.

    Raises:
        RequestRefusedError: There is no such build or record.
    """
    look = Look(source=source, at=at)
    match look.choose(word):
        case Denied(moment, event):
            return _denied(look.fold(), moment, event)
        case number:
            return _told(look.fold(number), number)


def compared(look: Look, a: int, b: int) -> dict[str, Any]:
    """Return the differences between two builds.

    Raises:
        RequestRefusedError: There is no such build, or the records up to it make no sense.
    """
    look.fold()
    sides = []
    for number in (a, b):
        found, build = look.track(number), look.build(number)
        if build is None:
            raise look.unknown(f"build {number} to be told by its records", look.folded.problem)
        sides.append((found, build))
    return {"source": look.source.to_document(), **compare(sides[0], sides[1], look.source.holdings)}


def _told(look: Look, number: int) -> dict[str, Any]:
    found, build, source = look.track(number), look.build(number), look.source
    dead = source.held is False and found.end is None and look.at is None
    rates = look.rates(number)
    inputs = build.inputs if build is not None else _inputs_of(found)
    space = _space(found, build)
    told = area(found, inputs, source.holdings, space=space, before=look.step_cache(number))
    failed = failure(found, build, source.holdings, dead=dead)
    if failed is not None and told is not None:
        at_fault = cells_at_fault(found)
        failed["cells"] = [place for place, cell in enumerate(told["cells"]) if tuple(cell[:3]) in at_fault]
    shown, cut = rows(found)
    good = look.last_good(number)
    document = {
        **_head(look, number),
        "status": _status(found, dead=dead),
        **_dates(found),
        "inputs": tree(inputs),
        "host": tree({name: value for name, value in _host(found).items() if name != "request"}),
        "request": _request(found),
        "failure": failed,
        "findings": findings(found, source.history, look.folded, rates),
        "steps": [_step(found, step, rates) for step in found.steps],
        "timeline": shown,
        "timeline_cut": cut,
        "checks": list(_checks(found)),
        "keys": explained(look.state, number) if build is not None else [],
        "area": told,
        "cost": cost(found),
        "state": state_document(look),
        "compare": _against(look, number, good),
        "verified": _verified(look),
    }
    document["summary"] = _summary(document)
    return document


def _denied(look: Look, moment: Moment, event: e.BuildDenied) -> dict[str, Any]:
    """The document of a run that found the build lock held."""
    cause = cause_of_denial(event)
    inputs = tree(event.inputs)
    when = {"seq": moment.seq, "time": render.iso(moment.wall_ns)}
    row = {"seq": moment.seq, "ms": 0, "since_ms": 0, "tag": moment.tag, "text": cause, "step": None}
    return {
        **_head(look, None),
        "identity": event.identity or None,
        "flight_id": inputs.get("flight_id"),
        "status": "denied",
        "started": when,
        "ended": when,
        "ms": event.waited_ms,
        "inputs": inputs,
        "host": tree(event.host),
        "request": [],
        "failure": denial(event, moment.seq, cause),
        "findings": [finding("denied", "error", moment.seq, cause, "wait for it, or end it")],
        "steps": [],
        "timeline": [{**row, "time": when["time"], "unknown": False, "problem": "", "build": None}],
        "timeline_cut": 0,
        "checks": [],
        "keys": [],
        "area": None,
        "cost": {},
        "state": state_document(look),
        "compare": None,
        "verified": _verified(look),
        "summary": f"a run never became a build: {cause}",
    }


def state_document(look: Look) -> dict[str, Any]:
    """Return what the cache was after the last record that was folded."""
    state, head = look.state, look.state.head
    building = state.builds.get(state.open_build) if state.open_build is not None else None
    return {
        "seq": state.position.seq,
        "chain": state.position.chain,
        "generation": head.number if head else None,
        "origin": head.origin if head else None,
        "body_sha256": head.body_sha256 if head else None,
        "open_build": state.open_build,
        "doing": text(building.doing, 300) if building else "",
        "builds": len(state.builds),
        "engines": len(state.step_cache.engines),
        "blocks": len(state.step_cache.blocks),
        "indexes": len(state.step_cache.indexes),
        "accepted": sorted(state.accepted),
        "retired": len(state.collected_generations),
        "unknown": [text(name, 100) for name in state.unknown[:100]],
        "problem": text(look.folded.problem),
    }


def _head(look: Look, number: int | None) -> dict[str, Any]:
    build, state = look.build(number) if number is not None else None, look.state
    shown = [each.number for each in state.generations.values() if each.origin == number]
    return {
        "format": FORMAT,
        "source": look.source.to_document(),
        "build": number,
        "at": look.at,
        "status": "",
        "summary": "",
        "identity": build.identity if build else None,
        "flight_id": tree(build.inputs.get("flight_id")) if build else None,
        "sector": tree(build.inputs.get("sector")) if build else None,
        "generations": shown,
        "accepted": sorted(state.accepted.intersection(shown)),
        "collected": number in state.collected,
    }


def _dates(found: Track) -> dict[str, Any]:
    end = found.end
    return {
        "started": {"seq": found.start.seq, "time": render.iso(found.start.wall_ns)},
        "ended": {"seq": end.seq, "time": render.iso(end.wall_ns)} if end else None,
        "ms": max(0, found.ms(found.own[-1])),
    }


def _status(found: Track, *, dead: bool) -> str:
    match found.own[-1].event:
        case e.BuildCommitted():
            return "committed"
        case e.BuildFailed():
            return "failed"
        case e.BuildAbandoned():
            return "abandoned"
        case e.BuildRefused():
            return "refused"
        case _:
            return "died" if dead else "open"


def _host(found: Track) -> Mapping[str, Any]:
    return found.start.event.host if isinstance(found.start.event, e.BuildStarted) else {}


def _inputs_of(found: Track) -> Mapping[str, Any]:
    return found.start.event.inputs if isinstance(found.start.event, e.BuildStarted) else {}


def _request(found: Track) -> list[str]:
    match _host(found).get("request"):
        case {"text": str(written)}:
            return lines(written)
        case _:
            return []


def _space(found: Track, build: Build | None) -> str:
    """The vector space: as a record names it, or as it follows from the inputs."""
    for moment in found.own:
        match moment.event:
            case e.StepStarted(kind="cells", key=key) | e.CellEmbedded(space=key):
                return key
            case _:
                continue
    return space_of(build) if build is not None else ""


def _step(found: Track, step: Step, rates: Rates) -> dict[str, Any]:
    took = duration(found, step)
    return {
        "kind": text(step.kind, 64),
        "subject": text(step.subject, 200),
        "outcome": step.outcome,
        "from": step.begun.seq,
        "to": step.ended.seq if step.ended else None,
        "begin_ms": found.ms(step.begun),
        "ms": took,
        "count": step.count,
        "unit": step.unit,
        "bytes": step.size,
        "key": text(step.key, 64) or None,
        "why": _why(found, step),
        "normal_ms": normal_ms(step, rates),
        "parts": [
            {
                "from": part.begun.seq,
                "to": part.ended.seq if part.ended else None,
                "begin_ms": found.ms(part.begun),
                "ms": found.between(part.begun, part.ended) if part.ended else None,
                "cells": len(part.cells),
                "first": text(part.cells[0], 64) if part.cells else "",
                "last": text(part.cells[-1], 64) if part.cells else "",
                "attempts": part.attempts,
                "outcome": "done" if part.ended else "cut",
            }
            for part in step.parts[:MAX_PARTS]
        ],
    }


def _why(found: Track, step: Step) -> str:
    """Why the plan said so; of cells the reasons of those that were decided alike."""
    decision = "reuse" if step.outcome == "reused" else "run"
    for moment in found.own:
        if isinstance(moment.event, e.BuildPlanned):
            reasons = [
                str(planned.get("why", ""))
                for planned in moment.event.steps
                if planned.get("kind") == step.kind
                and planned.get("decision") == decision
                and (planned.get("subject") or "") in ("", step.subject)
            ]
            return text("; ".join(reason for reason in reasons if reason), 500)
    return ""


def _checks(found: Track) -> Iterator[dict[str, Any]]:
    for moment in found.own:
        event = moment.event
        if isinstance(event, e.CheckPassed | e.CheckFailed):
            yield {
                "seq": moment.seq,
                "check": text(event.check, 64),
                "subject": text(event.subject, 200),
                "passed": isinstance(event, e.CheckPassed),
                "why": text(event.why) if isinstance(event, e.CheckFailed) else "",
                "artifact": text(event.artifact, 64),
                "measured": tree(event.measured),
            }


def _against(look: Look, number: int, good: int | None) -> dict[str, Any] | None:
    build, known = look.build(number), look.build(good) if good is not None else None
    if build is None or known is None or good is None:
        return None
    return compare((look.track(good), known), (look.track(number), build), look.source.holdings)


def _verified(look: Look) -> list[dict[str, Any]]:
    return [
        {
            "generation": each.generation,
            "seq": each.seq,
            "body_sha256": each.body_sha256,
            "projects": each.projects,
        }
        for each in look.folded.projected
    ]


def _summary(document: Mapping[str, Any]) -> str:
    number, took = document["build"], render.seconds(document["ms"] / 1000)
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
