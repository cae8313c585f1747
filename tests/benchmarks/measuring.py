"""Compare two sides: in pairs, in turns, in one run.

Both sides of a pair do the same work right after each other, and the side that goes first changes from pair
to pair, so that other load affects both. The result is the median of the pairs' ratios, with its quartiles.
"""

import gc
import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter, process_time
from typing import Any, TypeVar

Work = Callable[[], object]
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a ratio should be: at least or at most `value`."""

    value: float
    at_least: bool

    def reached(self, ratio: float) -> bool:
        """Whether a ratio is good enough."""
        return ratio >= self.value if self.at_least else ratio <= self.value

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.value:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table. Times are medians in seconds; `low` and `high` are the quartiles of the ratio.

    `unit` is the unit of what is compared: "s" for time, "B" for bytes of memory. `missing` says why there is
    no figure.
    """

    name: str
    work: str
    peer: str
    target: Target
    ours: float = 0.0
    theirs: float = 0.0
    ratio: float = 0.0
    low: float = 0.0
    high: float = 0.0
    pairs: int = 0
    missing: str = ""
    unit: str = "s"

    @property
    def reached(self) -> bool:
        """Whether the target was reached."""
        return not self.missing and self.target.reached(self.ratio)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How much to measure: pairs for each row, whether at the full sizes, and where to write."""

    pairs: int
    full: bool
    folder: Path

    def size(self, small: int, full: int) -> int:
        """Return the small or the full size of some work."""
        return full if self.full else small

    def place(self, name: str) -> Path:
        """Create and return a folder."""
        path = self.folder / name
        path.mkdir(parents=True, exist_ok=True)
        return path


def wall(work: Work) -> float:
    """Return the seconds that some work took."""
    began = perf_counter()
    work()
    return perf_counter() - began


def processor(work: Work) -> float:
    """Return the seconds of processor time that this process spent on some work."""
    began = process_time()
    work()
    return process_time() - began


def retained(work: Callable[[], Made]) -> tuple[int, Made]:
    """Return the bytes that the result of some work keeps, and the result."""
    tracemalloc.start()
    try:
        made = work()
        return tracemalloc.get_traced_memory()[0], made
    finally:
        tracemalloc.stop()


def in_turns(
    ours: Work, theirs: Work, *, pairs: int, clock: Callable[[Work], float] = wall, tidy: bool = True
) -> list[tuple[float, float]]:
    """Let both sides do their work in turns; the first pair does not count."""
    found = []
    for number in range(pairs + 1):
        if tidy:
            gc.collect()
        if number % 2:
            second = clock(theirs)
            first = clock(ours)
        else:
            first = clock(ours)
            second = clock(theirs)
        found.append((first, second))
    return found[1:]


def row(
    name: str,
    work: str,
    peer: str,
    target: Target,
    found: Sequence[tuple[float, float]],
    *,
    rate: bool,
    unit: str = "s",
) -> Row:
    """Return a line from the figures of both sides.

    Args:
        name: Name of the row.
        work: What was done.
        peer: What it is compared with.
        target: What the ratio should be.
        found: Our figure and the peer's, pair by pair.
        unit: Unit of the figures.
        rate: Whether the ratio is of rates, ours over theirs (more is better), or of times (less is better).
    """
    ratios = [theirs / ours if rate else ours / theirs for ours, theirs in found]
    low, _, high = quantiles(ratios, n=4) if len(ratios) > 1 else [ratios[0]] * 3
    return Row(
        name=name,
        work=work,
        peer=peer,
        target=target,
        ours=median(ours for ours, _ in found),
        theirs=median(theirs for _, theirs in found),
        ratio=median(ratios),
        low=low,
        high=high,
        pairs=len(found),
        unit=unit,
    )


def at_least(value: float) -> Target:
    """Return a target from below."""
    return Target(value=value, at_least=True)


def at_most(value: float) -> Target:
    """Return a target from above."""
    return Target(value=value, at_least=False)


def machine() -> dict[str, Any]:
    """Return what the machine is, and how busy it was."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        "unknown",
    )
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "load": [round(value, 2) for value in os.getloadavg()],
        "niceness": os.nice(0),
    }


def apart(module: str, arguments: Sequence[str], *, what: str) -> Any:
    """Run a module in a process of its own; return the JSON that it prints on its last line."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"expected {what} to be measured, found: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])
