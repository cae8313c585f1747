"""Shorten lists of problems so that they fit into a record: the first lines, and how many more there were. Pure."""

import re
from collections.abc import Sequence
from typing import Final

MAX_LINES: Final = 100
MAX_CHARACTERS: Final = 500
"""Of each line."""

_is_count: Final = re.compile(r"and ([0-9]+) more").fullmatch


def shorten(lines: Sequence[str]) -> tuple[str, ...]:
    """Return the first lines, and a last one that counts the others."""
    kept = tuple(line[:MAX_CHARACTERS] for line in lines[:MAX_LINES])
    return (*kept, f"and {len(lines) - MAX_LINES} more") if len(lines) > MAX_LINES else kept


def count(lines: Sequence[str]) -> int:
    """Return how many lines there were before they were shortened."""
    counted = _is_count(lines[-1]) if lines else None
    return len(lines) if counted is None else len(lines) - 1 + int(counted[1])
