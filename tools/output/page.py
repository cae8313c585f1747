"""How wide the page is: as wide as the terminal, or of a fixed width where a program may read the output.

`tools.cli` sets it once, before a command runs. What is laid out depends on nothing else of the machine.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

WIDTH: Final = 80
"""Columns of text in a pipe or a file."""
_NARROWEST: Final = 30
_WIDEST: Final = 120
"""Longer lines are hard to read."""
_LEAST_LAST: Final = 12
"""Least width of a last column that is wrapped in its place."""
HINT: Final = "-> "
"""What begins a hint."""
_GAP: Final = "  "
_FOLDED: Final = " " * 4
"""What begins the further lines of a row that is folded."""
_WORDS: Final = r"(\s*)(\S+)"
_PLACES_TO_BREAK: Final = r"[0-9a-f]{8}(?=[0-9a-f]{8})|[^/,;:=-]*[/,;:=-]|.+"

_COLUMNS: ContextVar[int | None] = ContextVar("columns", default=None)


@contextmanager
def laid_out_for(columns: int | None) -> Iterator[None]:
    """Lay out for a terminal of so many columns; None: for a program."""
    before = _COLUMNS.set(None if columns is None else min(max(columns, _NARROWEST), _WIDEST))
    try:
        yield
    finally:
        _COLUMNS.reset(before)


def terminal_columns() -> int | None:
    """Return the columns of the terminal, in bounds; None where there is none."""
    return _COLUMNS.get()


def text_width() -> int:
    """Return the columns of text."""
    return _COLUMNS.get() or WIDTH


def wrap_words(text: str, width: int, *, whole: bool = False) -> list[str]:
    """Wrap a text at spaces, and what is longer than a line, unless words stay whole, after its slashes, commas and so on.

    Digits of a digest are broken after each multiple of eight that fits.
    """
    lines = [""]
    for found in re.finditer(_WORDS, text):
        word, gap = found[2], " " * len(found[1]) if lines[-1] else ""
        if len(lines[-1]) + len(gap) + len(word) <= width:
            lines[-1] += gap + word
            continue
        pieces = [word] if whole or len(word) <= width else re.findall(_PLACES_TO_BREAK, word)
        lines += [""] if lines[-1] else []
        for piece in pieces:
            if lines[-1] and len(lines[-1]) + len(piece) > width:
                lines.append("")
            lines[-1] += piece
    return lines


def wrap_hint(text: str, width: int, *, whole: bool = False) -> list[str]:
    """Wrap a hint as `wrap_words` does; its further lines begin below the text of the first."""
    first, *rest = wrap_words(text.removeprefix(HINT), width - len(HINT), whole=whole)
    return [HINT + first, *(" " * len(HINT) + more for more in rest)]


def fit(line: str) -> list[str]:
    """Return a line as lines that fit the terminal, the further ones indented more; as it is for a program."""
    columns = _COLUMNS.get()
    if columns is None or len(line) <= columns:
        return [line]
    indent = line[: len(line) - len(line.lstrip())][: columns // 2]
    text = line.lstrip()
    if text.startswith(HINT):
        return [indent + each for each in wrap_hint(text, columns - len(indent))]
    first, *rest = wrap_words(line, columns - len(indent) - 2)
    return [indent + first, *(f"{indent}  {more}" for more in rest)]


def table_rows(cells: Sequence[Sequence[str]], *, right: str, indent: int) -> list[list[str]]:
    """Return the lines of each row of a table, the columns aligned.

    A row is one line for a program, and on a terminal that is wide enough. On a narrower one the last column is
    wrapped if that suffices, else the row is folded: what does not fit goes below, indented.

    Args:
        cells: The rows, that of the header first.
        right: A letter per column, "r" for those that are aligned to the right.
        indent: By how much the caller will indent the lines.
    """
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    marks = right.ljust(len(widths))
    columns = _COLUMNS.get()
    room = None if columns is None else columns - indent
    whole = range(len(widths))
    if room is None or _width(widths, whole) <= room:
        return [[_joined(row, widths, marks, whole)] for row in cells]
    left = room - _width(widths, whole[:-1]) - len(_GAP)
    if marks[-1] != "r" and left >= _LEAST_LAST:
        widths[-1] = left
        return [_last_wrapped(row, widths, marks) for row in cells]
    groups = _groups(widths, room)
    return [list(_folded(row, widths, marks, groups, room)) for row in cells]


def _width(widths: Sequence[int], columns: Iterable[int]) -> int:
    found = [widths[column] for column in columns]
    return sum(found) + len(_GAP) * (len(found) - 1)


def _joined(row: Sequence[str], widths: Sequence[int], marks: str, columns: Iterable[int]) -> str:
    return _GAP.join(
        f"{row[column]:>{widths[column]}}" if marks[column] == "r" else f"{row[column]:<{widths[column]}}"
        for column in columns
    ).rstrip()


def _last_wrapped(row: Sequence[str], widths: Sequence[int], marks: str) -> list[str]:
    first, *rest = wrap_words(row[-1], widths[-1])
    margin = " " * (_width(widths, range(len(widths) - 1)) + len(_GAP))
    return [_joined([*row[:-1], first], widths, marks, range(len(widths))), *(margin + more for more in rest)]


def _groups(widths: Sequence[int], room: int) -> list[list[int]]:
    """Return the columns of each line of a folded row."""
    groups: list[list[int]] = [[]]
    for column in range(len(widths)):
        allowed = room if len(groups) == 1 else room - len(_FOLDED)
        if groups[-1] and _width(widths, [*groups[-1], column]) > allowed:
            groups.append([])
        groups[-1].append(column)
    return groups


def _folded(
    row: Sequence[str], widths: Sequence[int], marks: str, groups: Sequence[Sequence[int]], room: int
) -> Iterator[str]:
    for place, group in enumerate(groups):
        indent = _FOLDED if place else ""
        if place and all(row[column] in {"", "-"} for column in group):
            continue
        line = _joined(row, widths, marks, group)
        fits = len(indent) + len(line) <= room
        yield from (
            [indent + line] if fits else (indent + more for more in wrap_words(line, room - len(indent)))
        )
