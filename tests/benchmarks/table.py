"""Compare C10 with usual alternatives and with the machine's limits: a table of ratios.

Run from the root of the repository, with the extras `cpu` and `bench` installed:

    python -m tests.benchmarks.table [--rows NAME ...] [--quick] [--full] [--json FILE] [--baseline FILE
    --check]

Both sides of a row do the same work in one run, in turns; a row gives the median of the pairs' ratios.
Figures depend on the machine and on other load, ratios much less. So a baseline contains ratios, with a
tolerance.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from tests.benchmarks import (
    chunk_work,
    cold_stages,
    rows_commands,
    rows_history,
    rows_reading,
    rows_scale,
    rows_work,
)
from tests.benchmarks.measuring import Row, Settings, machine

GROUPS: Final[Mapping[str, Callable[[Settings], Iterator[Row]]]] = {
    "append-lmdb": rows_history.append_lmdb,
    "append-sqlite": rows_history.append_sqlite,
    "append-eventsourcing": rows_history.append_eventsourcing,
    "append-delta": rows_history.append_delta,
    "fold": rows_history.fold,
    "open": rows_reading.opening,
    "warm-folder": rows_reading.warm_folder,
    "warm-archives": rows_reading.warm_archives,
    "warm-command": rows_commands.warm_command,
    "rollback": rows_work.rollback,
    "verify": rows_reading.verification,
    "embed": rows_work.embedding,
    "embed-chunks": chunk_work.embedding_chunks,
    "cold": cold_stages.cold_build,
    "index": rows_work.index,
    "memory": rows_scale.memory,
    "one-changed": rows_scale.one_changed,
    "one-changed-archive": rows_scale.one_changed_archive,
    "openvino": rows_scale.openvino,
    "startup": rows_commands.startup,
}
"""What may be asked for, to what measures it; each gives a row or a few."""

PAIRS: Final = 9
QUICK_PAIRS: Final = 3
TOLERANCE: Final = 0.25
"""How far a ratio may be on the wrong side of the baseline's, as a part of it."""


def lines(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the lines of the table, one for each row."""
    yield f"{'row':24} {'ours':>10} {'theirs':>10} {'ratio':>8}  {'quartiles':17} {'target':>8}  reached  work / peer"
    for found in rows:
        if found.missing:
            yield f"{found.name:24} not measured: {found.missing}"
            continue
        spread = f"({found.low:.3g}, {found.high:.3g})"
        yield (
            f"{found.name:24} {amount(found.ours, found.unit):>10} {amount(found.theirs, found.unit):>10} "
            f"{found.ratio:8.3g}  {spread:17} "
            f"{found.target!s:>8}  {'yes' if found.reached else 'NO':7}  {found.work} / {found.peer}"
        )


def worse(rows: Sequence[Row], baseline: Mapping[str, Any]) -> Iterator[str]:
    """Return the rows whose ratio is worse than the baseline's by more than the tolerance."""
    for found in rows:
        known = baseline.get(found.name)
        if known is None or found.missing:
            continue
        allowed = known.get("tolerance", TOLERANCE)
        limit = known["ratio"] * (1 - allowed if found.target.at_least else 1 + allowed)
        if found.ratio < limit if found.target.at_least else found.ratio > limit:
            side = "at least" if found.target.at_least else "at most"
            yield f"{found.name}: expected {side} {limit:.3g} (baseline {known['ratio']:.3g}), found {found.ratio:.3g}"


def main() -> None:
    """Measure, print, compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows", nargs="*", choices=GROUPS, default=list(GROUPS), metavar="NAME", help=", ".join(GROUPS)
    )
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_PAIRS} pairs instead of {PAIRS}")
    parser.add_argument("--full", action="store_true", help="up to a million tiles and events: takes hours")
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder by default")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    parser.add_argument("--baseline", type=Path, metavar="FILE", help="ratios of an earlier run")
    parser.add_argument("--check", action="store_true", help="fail if a ratio is worse than the baseline's")
    asked = parser.parse_args()
    if asked.check and asked.baseline is None:
        parser.error("expected --baseline FILE with --check, found none")
    before, rows = machine(), list[Row]()
    for name in asked.rows:
        with tempfile.TemporaryDirectory(dir=asked.folder, prefix=f"c10-{name}-") as folder:
            settings = Settings(
                pairs=QUICK_PAIRS if asked.quick else PAIRS, full=asked.full, folder=Path(folder)
            )
            for found in _measured(name, settings):
                rows.append(found)
                print("\n".join(lines([found]) if len(rows) == 1 else list(lines([found]))[1:]), flush=True)
    after = machine()
    print(
        f"{before['processor']}, {before['cores']} cores, niceness {before['niceness']}; "
        f"load {before['load']} before, {after['load']} after"
    )
    if asked.json is not None:
        document = {
            "before": before,
            "after": after,
            "rows": [asdict(found) | {"reached": found.reached} for found in rows],
        }
        asked.json.write_text(json.dumps(document, indent=1) + "\n")
    if asked.check:
        found = list(worse(rows, json.loads(asked.baseline.read_text())["rows"]))
        print("\n".join(found) or "no ratio is worse than the baseline's")
        sys.exit(1 if found else 0)


def _measured(name: str, settings: Settings) -> Iterator[Row]:
    """Yield the rows of a group, or one that says why where a peer is not installed."""
    try:
        yield from GROUPS[name](settings)
    except ModuleNotFoundError as error:
        target = rows_history.at_least(0)
        yield Row(
            name=name, work="", peer="", target=target, missing=f"{error}; pip install -e '.[cpu,bench]'"
        )


def amount(value: float, unit: str) -> str:
    """Return a time or a size as text, to three digits."""
    return f"{value / 1e9:.3g} GB" if unit == "B" else seconds(value)


def seconds(value: float) -> str:
    """Return a time as text with a fitting unit, to three digits."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value / 1e-9:.3g} ns"


if __name__ == "__main__":
    main()
