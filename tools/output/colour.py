"""Lines that have a colour where the terminal shows colours. Pure."""

from collections.abc import Mapping
from typing import Final

from store.backports import Self

_CODES: Final = {"green": "\x1b[1;32m", "yellow": "\x1b[33m", "red": "\x1b[1;31m"}
_END: Final = "\x1b[0m"


class Coloured(str):
    """A line with its colour: green, yellow or red."""

    __slots__ = ("colour",)

    def __new__(cls, text: str, colour: str) -> Self:
        """Make the line."""
        line = super().__new__(cls, text)
        line.colour = colour
        return line

    colour: str


def wants_colour(environ: Mapping[str, str], *, terminal: bool) -> bool:
    """Whether to show colours: on a terminal that can, unless NO_COLOR is set."""
    return terminal and not environ.get("NO_COLOR") and environ.get("TERM", "dumb") != "dumb"


def paint(line: str, safe: str) -> str:
    """Return a text that is safe to print in the colour of its line, if it has one."""
    return f"{_CODES[line.colour]}{safe}{_END}" if isinstance(line, Coloured) else safe
