"""Progress reports of running work; the command line decides how to show them."""

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

HASHING = "hash tiles"
"""The step in which a source computes the digests of its tiles."""

_Item = TypeVar("_Item")


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


def reported(
    items: Iterable[_Item], progress: Progress, step: str, *, total: int, unit: str
) -> Iterator[_Item]:
    """Yield items, and report each as done before the next one is asked for."""
    progress.start(step, total=total, unit=unit)
    for item in items:
        yield item
        progress.advance()
    progress.finish()


def file_count(count: int) -> str:
    """Return a number of files, for the last line of a step."""
    return f"{count:,} file{'' if count == 1 else 's'}"


def megabytes(size: int) -> str:
    """Return a number of bytes, for the last line of a step."""
    return f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{size / 1e3:.1f} kB"


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
