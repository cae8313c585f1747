"""How work reports that it moves on; what becomes of that is decided at the edge."""

from typing import Protocol


class Progress(Protocol):
    """Told of steps as they run: at most one at a time."""

    def start(self, step: str, *, total: int | None, unit: str) -> None:
        """A step began; `total` units of work are ahead, if known."""
        ...

    def advance(self, amount: int = 1, *, phase: str = "") -> None:
        """So many more units are done; `phase` tells what is being done, in steps that have several."""
        ...

    def finish(self, note: str = "") -> None:
        """The step is done."""
        ...

    def say(self, text: str) -> None:
        """A person should know this."""
        ...


class NoProgress:
    """Reports nothing."""

    def start(self, step: str, *, total: int | None, unit: str) -> None:
        """Nothing."""

    def advance(self, amount: int = 1, *, phase: str = "") -> None:
        """Nothing."""

    def finish(self, note: str = "") -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""
