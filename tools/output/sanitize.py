"""Make recorded text and data safe to show: it prints as it is, and its length is bounded. Pure.

A journal may come from elsewhere, so that nothing in it is trusted: names, messages, whole documents.
Characters that do not print become backslash escapes. What is too long is cut, and says so.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Final

MAX_TEXT: Final = 4_000
MAX_LINES: Final = 1_000
MAX_MEMBERS: Final = 1_000
MAX_DEPTH: Final = 12
_CUT: Final = "…"
_SAFE_INTEGER: Final = 1 << 53


def escape(value: str) -> str:
    """Return a text with every character that does not print as a backslash escape.

    Such are control sequences that move the cursor or change colours, marks that reverse the order of
    letters, and line ends that fake another line.
    """
    if value.isprintable():
        return value
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
        for letter in value
    )


def encodable(value: Any) -> Any:  # noqa: ANN401 - any document
    """Return a document whose texts are all Unicode: bytes of names that are no UTF-8 become backslash escapes."""
    match value:
        case str():
            return value.encode("utf-8", "backslashreplace").decode()
        case Mapping():
            return {encodable(name): encodable(inner) for name, inner in value.items()}
        case list() | tuple():
            return [encodable(member) for member in value]
        case _:
            return value


def safe_text(value: object, limit: int = MAX_TEXT) -> str:
    """Return a text as one line that prints, cut to a length."""
    whole = value if isinstance(value, str) else str(value)
    cut, more = escape(whole[:limit]), len(whole) - limit
    return cut if more <= 0 else f"{cut}{_CUT} ({more:,} more characters)"


def safe_lines(value: str) -> list[str]:
    """Return the last lines of a long text: the end of a traceback says what failed."""
    found = value.split("\n")
    while found and not found[-1]:
        found.pop()
    shown = [safe_text(line) for line in found[-MAX_LINES:]]
    return (
        shown if len(found) <= MAX_LINES else [f"{_CUT} ({len(found) - MAX_LINES:,} earlier lines)", *shown]
    )


def safe_data(value: Any, depth: int = 0) -> Any:  # noqa: ANN401 - any recorded data
    """Return recorded data as JSON can hold it, with safe texts and bounded lists, maps and depth."""
    match value:
        case None | bool():
            return value
        case int():
            # Beyond 2^53 a reader in another language would see another number.
            return value if abs(value) <= _SAFE_INTEGER else str(value)
        case float():
            return value
        case str():
            return safe_text(value)
        case bytes():
            return f"{value[:32].hex()}{_CUT} ({len(value):,} bytes)" if len(value) > 32 else value.hex()
        case Mapping() | Sequence() if depth >= MAX_DEPTH:
            return f"{_CUT} (nested too deep)"
        case Mapping():
            return _map(value, depth)
        case Sequence():
            shown = [safe_data(member, depth + 1) for member in islice(value, MAX_MEMBERS)]
            return shown if len(value) <= MAX_MEMBERS else [*shown, _more(len(value))]
        case _:
            return safe_text(value)


def _map(value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    shown = {
        safe_text(name): safe_data(inner, depth + 1) for name, inner in islice(value.items(), MAX_MEMBERS)
    }
    return shown if len(value) <= MAX_MEMBERS else {**shown, _CUT: _more(len(value))}


def _more(count: int) -> str:
    return f"{_CUT} ({count - MAX_MEMBERS:,} more)"


def join_first(parts: Iterable[str], limit: int = 3, *, total: int | None = None) -> str:
    """Return the first few of some names, and how many more there are, of `total` if not all are given."""
    names = list(parts)
    count = len(names) if total is None else total
    shown = ", ".join(safe_text(name, 100) for name in names[:limit])
    return shown if count <= limit else f"{shown} and {count - limit:,} more"


def is_number(word: str, digits: int = 18) -> bool:
    """Return whether a word is a number of at most so many digits."""
    return word.isascii() and word.isdecimal() and len(word) <= digits
