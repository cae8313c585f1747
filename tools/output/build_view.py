"""One build, told from its facts: a document for programs, lines for people. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from store.base.canonical_json import is_digest
from store.domain import events as e
from store.domain.state import FLIGHT, Build, RecordedEvent, State
from tools.output import render

_STEP_EVENTS = (
    e.EngineCompiled,
    e.IndexBuilt,
    e.IndexExtended,
    e.StepReused,
    e.StepRetried,
    e.CoverageWalked,
)
_MAX_RUNS = 6
_MAX_TRACEBACK = 200
"""How many lines are shown, from its end; a journal may hold anything."""


def elapsed(build: Build) -> float | None:
    """Seconds from start to end by the wall clock; nothing for a build that has not ended."""
    if build.ended_ns is None:
        return None
    return max(0.0, round((build.ended_ns - build.started_ns) / 1e9, 3))


def document_of(state: State, build: Build, facts: Sequence[RecordedEvent]) -> dict[str, Any]:
    """Everything the journal says of a build; `facts` are its own."""
    failure = build.failure
    generations = [number for number, found in state.generations.items() if found.origin == build.number]
    return {
        "build": build.number,
        "status": str(build.status),
        "generations": generations,
        "collected": build.number in state.collected,
        "accepted": sorted(state.accepted.intersection(generations)),
        "identity": build.identity,
        "started": render.iso(build.started_ns),
        "seconds": elapsed(build),
        "inputs": build.inputs,
        "host": build.host,
        "plan": list(build.plan),
        "steps": list(_steps(facts)),
        "checks": [
            {
                "check": fact.event.check,
                "subject": fact.event.subject,
                "passed": True,
                "why": "",
                **_measured(fact),
            }
            if isinstance(fact.event, e.CheckPassed)
            else {
                "check": fact.event.check,
                "subject": fact.event.subject,
                "passed": False,
                "why": fact.event.why,
                **_measured(fact),
            }
            for fact in facts
            if isinstance(fact.event, (e.CheckPassed, e.CheckFailed))
        ],
        "tiles": build.tiles.count if build.tiles else None,
        "wanted": build.tiles.wanted if build.tiles else None,
        "tiles_embedded": build.tiles_embedded,
        "warnings": list(build.tiles.warnings) if build.tiles else [],
        "doing": build.doing,
        "ending": build.ending,
        "failure": None
        if failure is None
        else {
            "kind": failure.kind,
            "step": failure.step,
            "subject": failure.subject,
            "message": failure.message,
            "hint": failure.hint,
            "traceback": failure.traceback,
            "inputs": failure.inputs,
        },
    }


def _measured(fact: RecordedEvent) -> dict[str, Any]:
    event = fact.event
    return {"measured": event.measured} if isinstance(event, (e.CheckPassed, e.CheckFailed)) else {}


def _steps(facts: Sequence[RecordedEvent]) -> Iterator[dict[str, Any]]:
    """One line per thing that was done; cells together, since there may be thousands."""
    cells = [fact for fact in facts if isinstance(fact.event, e.CellEmbedded)]
    for fact in facts:
        event = fact.event
        if isinstance(event, e.CellEmbedded) and fact is cells[-1]:
            made = [found.event for found in cells if isinstance(found.event, e.CellEmbedded)]
            rows, embedded = sum(each.rows for each in made), sum(each.embedded for each in made)
            what = f"{render.plural(len(made), 'cell')}: {embedded:,} of {rows:,} rows embedded, the others copied"
            yield _step(fact, "cells", what, _since_first_window(facts, fact), rows=rows, embedded=embedded)
        elif isinstance(event, _STEP_EVENTS):
            yield _other_step(fact, event)


def _since_first_window(facts: Sequence[RecordedEvent], last: RecordedEvent) -> int | None:
    """Milliseconds from the first window of cells that was dispatched to the last cell."""
    for fact in facts:
        if isinstance(fact.event, e.StepStarted) and fact.event.kind == "cells":
            return (last.mono_ns - fact.mono_ns) // 1_000_000
    return None


def _other_step(
    fact: RecordedEvent, event: e.EngineCompiled | e.Index | e.StepReused | e.StepRetried | e.CoverageWalked
) -> dict[str, Any]:
    match event:
        case e.EngineCompiled():
            kind = "engine" if event.purpose == FLIGHT else event.purpose
            return _step(fact, kind, f"{event.model} compiled", event.elapsed_ms, key=event.key)
        case e.IndexBuilt():
            return _step(
                fact, "index", f"{event.kind} built", event.elapsed_ms, rows=event.rows, key=event.key
            )
        case e.IndexExtended():
            what = f"{event.kind} extended, {event.added} added, {event.dropped} left out"
            return _step(fact, "index", what, event.elapsed_ms, rows=event.rows, key=event.key)
        case e.StepReused():
            return _step(fact, event.kind, f"{event.count} reused", None)
        case e.StepRetried():
            return _step(fact, event.kind, f"attempt {event.attempt}: {event.why}", None)
        case e.CoverageWalked():
            what = f"{event.files} files walked, {event.present} of {event.wanted} tiles present"
            return _step(fact, "coverage", what, None, featureless=event.featureless, skipped=event.skipped)


def _step(
    fact: RecordedEvent, kind: str, what: str, elapsed_ms: int | None, **more: object
) -> dict[str, Any]:
    return {
        "seq": fact.seq,
        "time": render.iso(fact.wall_ns),
        "kind": kind,
        "what": what,
        "ms": elapsed_ms,
        **more,
    }


def lines_of(document: Mapping[str, Any]) -> list[str]:
    """The same for people."""
    took = document["seconds"]
    generations = ", ".join(str(number) for number in document["generations"]) or None
    lines = render.facts(
        (
            ("build", f"{document['build']}, {document['status']}"),
            ("generations", generations),
            ("files", "collected: they are gone, the record stays" if document["collected"] else None),
            ("accepted", ", ".join(map(str, document["accepted"]))),
            ("identity", document["identity"] or "unknown: its inputs could not be read"),
            ("started", f"{document['started'][:19].replace('T', ' ')} UTC"),
            ("took", None if took is None else render.seconds(took)),
            (
                "tiles",
                None
                if document["tiles"] is None
                else f"{document['tiles']:,} of {document['wanted']:,} wanted",
            ),
            (
                "embedded",
                render.number(document["tiles_embedded"]) if document["tiles"] is not None else None,
            ),
        )
    )
    lines += render.section("Inputs", render.facts(_input_facts(document["inputs"]), indent=2))
    lines += render.section("Host", render.facts(document["host"].items(), indent=2))
    if document["plan"]:
        rows = [
            (
                step.get("kind"),
                step.get("subject") or None,
                step.get("count"),
                step.get("decision"),
                step.get("why"),
            )
            for step in document["plan"]
        ]
        lines += render.section(
            "Plan", render.table(("step", "subject", "count", "decision", "why"), rows, right="  r")
        )
    if document["steps"]:
        steps = [
            (
                step["seq"],
                step["kind"],
                None if step["ms"] is None else render.seconds(step["ms"] / 1000),
                step["what"],
            )
            for step in document["steps"]
        ]
        lines += render.section("Steps", render.table(("record", "kind", "took", "what"), steps, right="r r"))
    lines += render.section("Checks", _check_lines(document["checks"]))
    lines += render.section("Area", _area_lines(document.get("area")))
    for warning in document["warnings"]:
        lines += ["", *render.wrap(f"warning: {warning}")]
    return lines + _failure_lines(document)


def _area_lines(report: Mapping[str, Any] | None) -> list[str]:
    """What of the area a camera cannot be found by, as runs along a row; the first few of each kind."""
    lines: list[str] = []
    for name in ("holes", "excluded", "skipped", "featureless"):
        runs = (report or {}).get(name)
        if not isinstance(runs, list) or not runs:
            continue
        shown = [
            f"{zoom}/{first}/{y}" if first == last else f"{zoom}/{first}-{last}/{y}"
            for zoom, y, first, last in runs[:_MAX_RUNS]
        ]
        more = f", and {len(runs) - _MAX_RUNS} more" if len(runs) > _MAX_RUNS else ""
        lines += render.wrap(f"{name:<12} {', '.join(shown)}{more}")
    return lines


def _check_lines(checks: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [
        (check["check"], check["subject"] or None, "passed" if check["passed"] else "FAILED")
        for check in checks
    ]
    if not rows:
        return []
    header, *heads = render.table(("check", "subject", "verdict"), rows)
    lines = [header]
    for head, check in zip(heads, checks, strict=True):
        measured = " ".join(f"{name}={value}" for name, value in check["measured"].items())
        lines += [head, *render.wrap(measured, render.WIDTH - 2, "    ")] if measured else [head]
        lines += render.wrap(check["why"], render.WIDTH - 2, "    ") if check["why"] else []
    return lines


def _input_facts(inputs: Mapping[str, Any]) -> list[tuple[str, object]]:
    def shown(value: object) -> object:
        if isinstance(value, Mapping):
            parts = ((name, inner) for name, inner in sorted(value.items()) if inner is not None)
            # A digest inside a map is cut short for people; the JSON has all of it.
            return " ".join(f"{name}={inner[:16] if is_digest(inner) else inner}" for name, inner in parts)
        if isinstance(value, (list, tuple)):
            return ", ".join(
                str(item.get("name", item)) if isinstance(item, Mapping) else str(item) for item in value
            )
        return value

    return [(name, shown(value)) for name, value in inputs.items() if name != "recipes"]


def _failure_lines(document: Mapping[str, Any]) -> list[str]:
    failure = document["failure"]
    if failure is None:
        ending = document["ending"]
        doing = f" (it was at: {document['doing']})" if document["doing"] else ""
        return render.section("Ending", render.wrap(ending + doing, render.WIDTH - 2)) if ending else []
    lines = render.facts(
        (
            ("step", failure["step"]),
            ("subject", failure["subject"]),
            ("kind", failure["kind"]),
            ("message", failure["message"]),
            ("mend", failure["hint"]),
        )
    )
    return [
        *render.section("Failure", lines),
        *render.section("Traceback", failure["traceback"].rstrip().splitlines()[-_MAX_TRACEBACK:]),
    ]
