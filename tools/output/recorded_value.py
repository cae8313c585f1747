"""The text of recorded values: components of keys, measurements, facts of a machine. Pure.

The records hold integers with their unit in the name (`cosine_ppb`), lists and maps. People read `cosine
1.000000`, how long a list is and how it begins, and the members of a map by name.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from tools.output.render import milliseconds
from tools.output.sanitize import safe_text

_MOST: Final = 4
"""Members of a list that are all shown; of a longer one, the first ones."""
_FIRST: Final = 3
_MEMBERS: Final = 8
"""Members of a map that are shown."""
_LENGTH: Final = 200
"""Characters of a text that are shown, if it has more than `_RUNOUT` beyond them."""
_RUNOUT: Final = 40

_UNITS: Final[Mapping[str, Callable[[int], str]]] = {
    "_ppb": lambda value: _fraction(value, 9, least=6),
    "_ppm": lambda value: _fraction(value, 6, least=4),
    "_mm": lambda value: f"{value / 1000:g} m",
    "_e7": lambda value: f"{value / 1e7:.7f}",
    "_ms": milliseconds,
}
"""How a number is shown whose name ends with its unit."""


def label_of(name: str) -> str:
    """Return the name of a value without the unit in which it is recorded."""
    return next((name.removesuffix(unit) for unit in _UNITS if name.endswith(unit)), name)


def change_text(path: str, old: object, new: object) -> str:
    """Return the line that tells how a value changed."""
    before, after = value_text(path, old), value_text(path, new)
    if before == after and all(isinstance(each, int | float) for each in (old, new)):
        return f"{path}: {old} -> {new}"
    if before == after:
        after = "another that begins alike"
    return f"{label_of(path)}: {before} -> {after}"


def value_text(name: str, value: object) -> str:
    """Return the text of a value; the end of its name tells its unit.

    Args:
        name: Its name, or a dotted path.
        value: What `safe_data` returns.
    """
    match value:
        case bool():
            return str(value).lower()
        case int():
            unit = next((unit for unit in _UNITS if name.endswith(unit)), "")
            return _UNITS[unit](value) if unit else str(value)
        case float():
            return f"{value:.6g}"
        case Mapping():
            return _map_text(value) or "none"
        case Sequence() if not isinstance(value, str):
            return _list_text(name, value)
        case _:
            text = "none" if value is None else str(value)
            # What says how much was left out is no shorter than a few characters.
            return safe_text(text, _LENGTH if len(text) > _LENGTH + _RUNOUT else len(text))


def _fraction(value: int, digits: int, *, least: int) -> str:
    """Return an integer divided by 10 to the `digits`, exactly; zeros behind the first `least` decimals are left out."""
    text = f"{value / 10**digits:.{digits}f}"
    return text[: least - digits] + text[least - digits :].rstrip("0")


def _map_text(value: Mapping[str, object]) -> str:
    """Return the members of a map that are not None."""
    members = [(name, inner) for name, inner in value.items() if inner is not None]
    shown = (f"{label_of(name)} = {_nested(name, inner)}" for name, inner in members[:_MEMBERS])
    more = len(members) - _MEMBERS
    return ", ".join(shown) + (f" and {more:,} more" if more > 0 else "")


def _list_text(name: str, value: Sequence[object]) -> str:
    """Return all of a short list, or the length of a long one and its first members."""
    if not value:
        return "empty"
    if len(value) <= _MOST:
        return ", ".join(_nested(name, each) for each in value)
    return f"{len(value):,} members: {', '.join(_nested(name, each) for each in value[:_FIRST])}, …"


def _nested(name: str, value: object) -> str:
    """Return the text of a member, in parentheses if it has members itself."""
    text = value_text(name, value)
    return f"({text})" if isinstance(value, Mapping | list | tuple) else text
