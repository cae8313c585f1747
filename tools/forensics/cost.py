"""What a build cost: time, bytes and how much was reused. Pure."""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, Final

from store.base.canonical_json import Document
from store.domain import events as e
from tools.forensics.records import DecodedRecord
from tools.forensics.steps import Step
from tools.forensics.timeline import BuildTimeline, build_timeline, builds_in
from tools.output.sanitize import safe_text

_MILLION = 1_000_000
_WORTH_A_WORD_MS = 1_000
_COMPARABLE: Final = 4
"""How many times as much work a step may have as an earlier one that its usual time follows from."""

_NO_ROWS: Final[Mapping[str, int]] = {}

_COUNTED = frozenset({"cells", "index", "coverage"})

NO_COST: dict[str, int | None] = {"ms": None, "bytes": None, "reuse_ppm": None}
"""What `c10 log` prints for an entry that is no build."""


Rates = Mapping[tuple[str, str], Sequence[tuple[int, int]]]
"""Milliseconds and work of each kind and subject of step in earlier builds."""


def duration(timeline: BuildTimeline, step: Step) -> int | None:
    """Return the milliseconds that a step took; None if its end was not recorded."""
    return None if step.end is None else max(0, timeline.between(step.begin, step.end))


def normal_ms(step: Step, rates: Rates) -> int | None:
    """Return the milliseconds that the same amount of work took in earlier builds."""
    times, work = rates.get((step.kind, step.subject), ()), _work(step)
    # Most of the time of a few tiles is the start: it does not tell how long many take.
    if step.outcome == "reused" or not any(_COMPARABLE * done >= work for _, done in times):
        return None
    if step.outcome != "done" and step.kind in _COUNTED and not step.count:
        return None  # nothing was counted, so that the usual time is not known
    # A little work takes at least as long as the start: starting workers, loading an engine.
    return max(round(_usual_pace(times) * work), min(took for took, _ in times))


def _usual_pace(times: Sequence[tuple[int, int]]) -> float:
    """Return the median milliseconds per unit of all work that was done, so that small builds count little."""
    paces = sorted((took / done, done) for took, done in times)
    reached = list(accumulate(done for _, done in paces))
    return paces[bisect_left(reached, reached[-1] / 2)][0]


def rates_of(tracks: Iterable[BuildTimeline]) -> Rates:
    """Return how long every step of some builds took that was done, and how much work it had."""
    found: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for each in tracks:
        for step in each.steps:
            took = duration(each, step)
            if step.outcome == "done" and took is not None:
                found.setdefault((step.kind, step.subject), []).append((took, _work(step)))
    return found


def is_slow(took_ms: int, usual_ms: int) -> bool:
    """Return whether a step took much longer than usual."""
    return took_ms > 2 * usual_ms and took_ms - usual_ms > _WORTH_A_WORD_MS


def index_rows(records: Iterable[DecodedRecord]) -> dict[str, int]:
    """Return how many rows each index has that was built or extended, by its step key."""
    return {
        record.event.key: record.event.rows
        for record in records
        if isinstance(record.event, (e.IndexBuilt, e.IndexExtended))
    }


def cost_of(timeline: BuildTimeline, rows: Mapping[str, int] = _NO_ROWS) -> dict[str, Any]:
    """Return the cost of a build, whole and by step; `rows` are those of the indexes that it may have reused."""
    inputs = next((m.event.inputs for m in timeline.own if isinstance(m.event, e.BuildStarted)), {})
    chunks, networks = "chunks" in inputs, _networks(inputs)
    selected = next((m.event.count for m in timeline.own if isinstance(m.event, e.TilesSelected)), None)
    made = index_rows(timeline.own)
    reused_keys = (m.event.keys.values() for m in timeline.own if isinstance(m.event, e.StepReused))
    known = (rows[key] for keys in reused_keys for key in keys if key in rows)
    indexed = next(iter(made.values()), None) if made else next(known, None)
    skipped = next((m.event.skipped for m in timeline.own if isinstance(m.event, e.CoverageWalked)), 0)
    # A skipped tile has no descriptor, and is neither embedded nor reused.
    units = indexed if chunks else indexed or (None if selected is None else selected - skipped)
    units = units * networks if units is not None else None
    embedded = sum(m.event.embedded for m in timeline.own if isinstance(m.event, e.CellEmbedded))
    walked = any(isinstance(m.event, (e.IndexBuilt, e.IndexExtended, e.CoverageWalked)) for m in timeline.own)
    # Only when all cells are done is it known that what was not embedded was reused.
    reused = units - embedded if units is not None and walked else None
    # The index that it reused may be of records that are not here.
    whole = walked and units is None and embedded == 0
    return {
        "ms": timeline.took_ms,
        "bytes": sum(step.size for step in timeline.steps),
        "tiles": selected,
        "embedded": embedded,
        "reused_tiles": None if reused is None else max(0, reused),
        "reuse_ppm": _MILLION
        if whole
        else _ppm(max(0, reused), units)
        if units and reused is not None
        else None,
        "unit": "descriptor" if networks > 1 else "chunk" if chunks else "tile",
        "steps": [
            {
                "kind": safe_text(step.kind, 64),
                "subject": safe_text(step.subject, 200),
                "ms": duration(timeline, step),
                "bytes": step.size,
                "count": step.count,
                "reused": step.outcome == "reused",
            }
            for step in timeline.steps
        ],
    }


def _networks(inputs: Document) -> int:
    """Return how many networks describe each tile or chunk."""
    models = inputs.get("models")
    roles = (
        [each.get("role") for each in models if isinstance(each, Mapping)]
        if isinstance(models, Sequence)
        else []
    )
    return max(1, roles.count("descriptor"))


def _ppm(part: int, whole: int) -> int:
    """Return parts per million: a million only for the whole, and 0 only for nothing."""
    found = round(_MILLION * part / whole)
    return found if part in {0, whole} else min(max(found, 1), _MILLION - 1)


def costs_of_builds(records: Sequence[DecodedRecord]) -> dict[int, dict[str, int | None]]:
    """Return milliseconds, bytes and reuse of every build, by its number."""
    found: dict[int, dict[str, int | None]] = {}
    rows = index_rows(records)
    for number, span in builds_in(records).items():
        whole = cost_of(build_timeline(records, number, span), rows)
        found[number] = {name: whole[name] for name in NO_COST}
    return found


def draw_trend(values: Iterable[int | None]) -> str:
    """Return numbers as a row of bars, the greatest as the highest; a gap for None."""
    bars = "▁▂▃▄▅▆▇█"
    numbers = list(values)
    top = max((number for number in numbers if number), default=0)
    return "".join(
        " " if number is None else bars[min(len(bars) - 1, number * len(bars) // (top + 1))]
        for number in numbers
    )


def _work(step: Step) -> int:
    """Return how much work a step had: tiles, rows or files, or one."""
    return max(1, step.count) if step.kind in _COUNTED else 1
