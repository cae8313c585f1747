"""Print the table of docs/benchmarks.md from files that `tests.benchmarks.table --json` wrote.

    python -m tests.benchmarks.rendered FILE.json [FILE.json ...]

Where several files have a row, the last file counts.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.benchmarks.table import amount


def rendered(rows: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Return lines of Markdown, one for each row, in the order of measurement."""
    yield "| row | work / peer | ours | theirs | ratio | target | reached |"
    yield "|---|---|---|---|---|---|---|"
    for name, each in rows.items():
        if each["missing"]:
            yield f"| {name} | not measured: {each['missing']} | | | | | |"
            continue
        side = ">=" if each["target"]["at_least"] else "<="
        spread = f"{each['ratio']:.3g} ({each['low']:.3g} to {each['high']:.3g})"
        ours, theirs = (amount(each[side], each.get("unit", "s")) for side in ("ours", "theirs"))
        yield (
            f"| {name} | {each['work']} / {each['peer']} | {ours} | {theirs} "
            f"| {spread} | {side} {each['target']['value']:g} | {'yes' if each['reached'] else 'no'} |"
        )


def main() -> None:
    """Print the table of all files given."""
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    rows: dict[str, Mapping[str, Any]] = {}
    for path in sys.argv[1:]:
        for each in json.loads(Path(path).read_text())["rows"]:
            rows[each["name"]] = each
    print("\n".join(rendered(rows)))


if __name__ == "__main__":
    main()
