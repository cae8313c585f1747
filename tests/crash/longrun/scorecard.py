"""The sums of a long run, and the file that always holds the latest of them."""

import json
import os
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any


@dataclass(slots=True)
class Row:
    """What came of all slices of one rig.

    Attributes:
        unit: What is counted.
        unmountable: Images of a disk that could not be mounted, and were not counted.
        skipped: Why it did not run, or nothing.
    """

    unit: str
    slices: int = 0
    count: int = 0
    failures: int = 0
    seconds: float = 0.0
    unmountable: int = 0
    skipped: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A slice in which something failed.

    Attributes:
        rig: Its rig.
        part: The part of it.
        seed: Its seed.
        command: The command that does the same again.
        examples: What was wrong, at most a few of them.
    """

    rig: str
    part: str
    seed: int
    command: str
    examples: list[str]


@dataclass(slots=True)
class Scorecard:
    """The rows of all rigs, and every failure.

    Attributes:
        seed: The seed that the run began with.
        file: Where the sums are kept; nowhere if None.
    """

    seed: int
    file: Path | None
    began: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))
    rows: dict[str, Row] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)

    def write(self) -> None:
        """Replace the file as one, so that a reader and a crash find a whole one."""
        if self.file is not None:
            replace_json(self.file, self.document())

    def document(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        return {
            "seed": self.seed,
            "began": self.began,
            "rigs": {name: asdict(row) for name, row in self.rows.items()},
            "failures": [asdict(each) for each in self.failures],
        }

    def lines(self) -> list[str]:
        """The sums, a line for each rig."""
        found = []
        for name, row in self.rows.items():
            if row.skipped:
                found.append(f"{name}: skipped, {row.skipped}")
            else:
                what = f"{row.count} {row.unit} in {row.slices} slices, {row.failures} failures"
                unmountable = f", {row.unmountable} unmountable" if row.unmountable else ""
                found.append(f"{name}: {what}, {row.seconds:.0f} s{unmountable}")
        return [*found, *(f"again: {each.command}" for each in self.failures)]


def replace_json(path: Path, document: object) -> None:
    """Write a JSON file; whoever reads it finds the old or the new one."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    fresh.write_text(json.dumps(document, indent=1) + "\n")
    fresh.replace(path)
