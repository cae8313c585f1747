"""The document of `c10 show`: everything that the records of a build say, as they say it. Pure."""

from collections.abc import Iterator, Sequence
from typing import Any

from store.base.cache_warning import CacheWarning
from store.domain import events as e
from store.domain.state import FLIGHT, Build
from tools.forensics.build_facts import BuildFacts
from tools.forensics.records import DecodedRecord
from tools.output import render


def show_document(facts: BuildFacts, build: Build) -> dict[str, Any]:
    """Return the document of a build; `build` is what its records fold to."""
    tiles, failure = build.tiles, build.failure
    return {
        "build": facts.number,
        "status": str(facts.status),
        "generations": facts.generations,
        "collected": facts.collected,
        "accepted": facts.accepted,
        "identity": facts.identity,
        "started": render.iso(build.started_ns),
        "seconds": facts.seconds,
        "inputs": facts.inputs,
        "host": facts.host,
        "plan": list(build.plan),
        "steps": list(_steps(facts.records)),
        "checks": [
            {
                "check": check.event.check,
                "subject": check.event.subject,
                "passed": check.passed,
                "why": check.why,
                "measured": check.event.measured,
            }
            for check in facts.checks
        ],
        "tiles": tiles.count if tiles else None,
        "wanted": tiles.wanted if tiles else None,
        **build.embedded,
        "warnings": [
            CacheWarning(kind="recorded", message=text).to_document()
            for text in (tiles.warnings if tiles else ())
        ],
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


def _steps(records: Sequence[DecodedRecord]) -> Iterator[dict[str, Any]]:
    """Yield one row per thing that was done; one for all cells, since there may be thousands."""
    cells = [(record, event) for record in records if isinstance(event := record.event, e.CellEmbedded)]
    for record in records:
        match record.event:
            case e.CellEmbedded() if record is cells[-1][0]:
                rows = sum(event.rows for _, event in cells)
                embedded = sum(event.embedded for _, event in cells)
                what = f"{render.plural(len(cells), 'cell')}: {embedded:,} of {rows:,} rows embedded, the others copied"
                took = _since_first_window(records, record)
                yield _step(record, "cells", what, took, rows=rows, embedded=embedded)
            case e.EngineCompiled() as event:
                kind = "engine" if event.purpose == FLIGHT else event.purpose
                yield _step(record, kind, f"{event.model} compiled", event.elapsed_ms, key=event.key)
            case e.IndexBuilt() as event:
                what = f"{event.kind} built"
                yield _step(record, "index", what, event.elapsed_ms, rows=event.rows, key=event.key)
            case e.IndexExtended() as event:
                what = f"{event.kind} extended, {event.added} added, {event.dropped} left out"
                yield _step(record, "index", what, event.elapsed_ms, rows=event.rows, key=event.key)
            case e.TilesCarried() as event:
                what = f"{event.tiles:,} tiles carried, {render.size(event.size)}"
                yield _step(record, "packs", what, None)
            case e.StepReused() as event:
                yield _step(record, event.kind, f"{event.count} reused", None)
            case e.StepRetried() as event:
                yield _step(record, event.kind, f"attempt {event.attempt}: {event.why}", None)
            case e.CoverageWalked() as event:
                what = f"{event.files} files walked, {event.present} of {event.wanted} present"
                yield _step(
                    record, "coverage", what, None, featureless=event.featureless, skipped=event.skipped
                )
            case _:
                continue


def _since_first_window(records: Sequence[DecodedRecord], last: DecodedRecord) -> int | None:
    """Return the milliseconds from the dispatch of the first window of cells to the last cell."""
    for record in records:
        if isinstance(record.event, e.StepStarted) and record.event.kind == "cells":
            return (last.mono_ns - record.mono_ns) // 1_000_000
    return None


def _step(
    record: DecodedRecord, kind: str, what: str, elapsed_ms: int | None, **more: object
) -> dict[str, Any]:
    return {
        "seq": record.seq,
        "time": render.iso(record.wall_ns),
        "kind": kind,
        "what": what,
        "ms": elapsed_ms,
        **more,
    }
