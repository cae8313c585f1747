"""Shows the progress of a compile in percent, whatever unit the backend reports in."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.progress import Progress

PERCENT = "%"


@dataclass(slots=True)
class CompileProgress:
    """Receives a compiler's reports and advances a step of 100 percent, which never goes back."""

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
        # Advance by 0 as well: the phase may be new, and a log shows that the compiler is alive.
        self.progress.advance(max(0, percent - self.done), phase=str(report["phase"]))
        self.done = max(self.done, percent)
