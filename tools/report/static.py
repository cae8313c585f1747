"""The state of a build as it stands in the page for browsers that run no script: its steps as bars in time. Pure."""

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

MAX_STEPS: Final = 60
MAX_LANES: Final = 16
MAX_BARS: Final = 2000
"""In the whole table, so that a page of a large build stays small."""
_WIDTH: Final = 1000
_LANE: Final = 7


def static_steps(document: Mapping[str, Any]) -> str:
    """Return a table of the steps with a drawing of each; empty if the build has none."""
    steps = document.get("steps") or []
    ends = [_end(step, 0) for step in steps]
    until = max([1, *ends]) if document.get("status") == "died" else max([1, *ends, document.get("ms") or 0])
    shown = steps[:MAX_STEPS]
    most = _fair_share([len(step["parts"]) for step in shown])
    rows = "".join(_row(step, until, most) for step in shown)
    more = f"<p>… {len(steps) - MAX_STEPS} more steps</p>" if len(steps) > MAX_STEPS else ""
    return (
        f"<table><caption>Steps in time, of {_seconds(until)} in all</caption>{rows}</table>{more}"
        if rows
        else ""
    )


def _fair_share(numbers: Sequence[int]) -> int:
    """Return how many bars a step gets at most: those of few parts leave theirs to the others."""
    left, share = MAX_BARS, MAX_BARS
    for done, number in enumerate(sorted(max(1, each) for each in numbers)):
        share = left // (len(numbers) - done)
        if number > share:
            break
        left -= number
    return share


def _row(step: Mapping[str, Any], until: int, most: int) -> str:
    name = html.escape(" ".join(filter(None, (step["kind"], step["subject"]))))
    took = "cut short" if step["outcome"] == "cut" else _seconds(step["ms"] or 0)
    spans = [(part["begin_ms"], _end(part, until)) for part in step["parts"]]
    lanes = list(pack_lanes(_joined(spans, most) or [(step["begin_ms"], _end(step, until))]))
    height = _LANE * max(2, 1 + max(lane for _, _, lane in lanes))
    tall = _LANE - 1 if max(lane for _, _, lane in lanes) else 2 * _LANE
    bars = "".join(
        f'<rect x="{_WIDTH * begin / until:.1f}" y="{_LANE * lane}" width="{max(3.0, _WIDTH * (end - begin) / until):.1f}" height="{tall}"/>'
        for begin, end, lane in lanes
    )
    svg = f'<svg viewBox="0 0 {_WIDTH} {height}" preserveAspectRatio="none" width="100%" height="{height}" aria-hidden="true">{bars}</svg>'
    return f'<tr class="{html.escape(step["outcome"])}"><th scope="row">{name}</th><td>{svg}</td><td class="num">{took}</td></tr>'


def _joined(spans: Sequence[tuple[int, int]], most: int) -> list[tuple[int, int]]:
    """Return spans of time, of too many each with some that begin after it."""
    ordered, each = sorted(spans), -(-len(spans) // most)
    groups = (ordered[at : at + each] for at in range(0, len(ordered), max(1, each)))
    return [(group[0][0], max(end for _, end in group)) for group in groups]


def pack_lanes(spans: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
    """Yield begin, end and lane of spans of time: each takes the first lane that is free, as the script does it.

    What finds none is drawn over the last one.
    """
    free: list[int] = []
    for begin, end in sorted(spans):
        lane = next((lane for lane, busy in enumerate(free) if busy <= begin), len(free))
        if lane < MAX_LANES:
            free[lane : lane + 1] = [end]
        yield begin, end, min(lane, MAX_LANES - 1)


def _end(span: Mapping[str, Any], until: int) -> int:
    ms = span["ms"]
    return max(until, int(span["begin_ms"])) if ms is None else int(span["begin_ms"]) + int(ms)


def _seconds(ms: float) -> str:
    return f"{ms / 1000:.3f} s"
