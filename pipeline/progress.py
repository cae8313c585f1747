"""Progress reports of running work; the command line decides how to show them."""

from typing import Protocol


class Progress(Protocol):
    """Receives the progress of steps; at most one runs at a time."""

    def start(self, step: str, *, total: int | None, unit: str) -> None:
        """Begin a step of `total` units of work, if that is known."""
        ...

    def advance(self, amount: int = 1, *, phase: str = "") -> None:
        """Count more units as done; `phase` names the part of a step that has several."""
        ...

    def finish(self, note: str = "") -> None:
        """End the step."""
        ...

    def say(self, text: str) -> None:
        """Show a line to a person."""
        ...


class NoProgress:
    """Reports nothing."""

    def start(self, step: str, *, total: int | None, unit: str) -> None:
        """Do nothing."""

    def advance(self, amount: int = 1, *, phase: str = "") -> None:
        """Do nothing."""

    def finish(self, note: str = "") -> None:
        """Do nothing."""

    def say(self, text: str) -> None:
        """Do nothing."""
