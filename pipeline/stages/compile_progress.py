"""Shows how far a compile has come, as percent, whatever a backend counts in."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.progress import Progress

PERCENT = "%"


@dataclass(slots=True)
class CompileProgress:
    """Takes a compiler's reports and moves a step of 100 percent on; the step may not fall.

    Attributes:
        progress: Told how the step moves on, and in which phase the compiler is.
        done: Percent told so far.
    """

    progress: Progress
    done: int = 0

    @classmethod
    def started(cls, progress: Progress, model: str) -> "CompileProgress":
        """Begin the step of one network."""
        progress.start(f"compile {model}", total=100, unit=PERCENT)
        return cls(progress)

    def __call__(self, report: Mapping[str, Any]) -> None:
        """Take a report: `phase`, and `done` of `total` where they are known."""
        total = report.get("total")
        percent = 100 * report.get("done", 0) // total if total else 0
        # Also without news: the phase may be another one, and a sign of life is worth a line in a log.
        self.progress.advance(max(0, percent - self.done), phase=str(report["phase"]))
        self.done = max(self.done, percent)
