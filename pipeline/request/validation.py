"""Rules for the fields of a request, so that a file and a Python caller meet the same ones.

A record of a request is a frozen dataclass that inherits `Checked`. Each field carries a *rule* in its metadata:
a function from whatever was given to the value that is kept, which raises `RefusedError` saying what it expected.
All fields are tried, so that one pass reports every problem. Pure: no file, clock or environment is read.
"""

import difflib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, fields
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import PurePath
from typing import Any, ClassVar, TypeVar

from pipeline.errors import Problem, RequestError

Rule = Callable[[Any], object]

_SHOWN = 80


class RefusedError(Exception):
    """A rule refuses a value.

    Attributes:
        expected: What the rule wants.
        mend: What mends it, where that is not obvious.
        found: What was found, where showing the value itself would not help.
    """

    def __init__(self, expected: str, mend: str = "", found: str | None = None) -> None:
        super().__init__(expected, mend, found)
        self.expected = expected
        self.mend = mend
        self.found = found


def shown(value: object) -> str:
    """A value as a message shows it: numbers and dates as the file spells them, on one line, not too long."""
    match value:
        case bool():
            text = str(value).lower()
        case Decimal() | date():
            text = str(value)
        case StrEnum():
            text = repr(value.value)
        case PurePath():
            text = repr(str(value))
        case list() | tuple():
            text = "[" + ", ".join(shown(item) for item in value[:12]) + (", …]" if len(value) > 12 else "]")
        case _:
            text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def nearest(word: str, known: Iterable[str]) -> str:
    """Advice for an unknown word: the nearest known one, else all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else "known: " + ", ".join(names)


def checked(rule: Rule) -> Mapping[str, Rule]:
    """Field metadata that carries a rule: `field(metadata=checked(text()))`."""
    return {"rule": rule}


class Checked:
    """A record whose fields are checked and normalised at construction, from a file or from Python alike."""

    __slots__ = ()
    table: ClassVar[str] = ""

    def __post_init__(self) -> None:
        """Apply every rule, then the relations between fields.

        Raises:
            RequestError: with all the problems of this record.
        """
        given = {item.name: getattr(self, item.name) for item in fields(self) if item.init}  # type: ignore[arg-type]
        kept, problems = check_fields(type(self), given)
        if not problems:
            for name, value in kept.items():
                object.__setattr__(self, name, value)
            problems = list(self.relations())
        if problems:
            prefix = f"{self.table}." if self.table else ""
            raise request_error([Problem(prefix + problem.key, problem.text) for problem in problems])

    def relations(self) -> Iterator[Problem]:
        """Problems that need more than one field to see. Called with normalised fields."""
        yield from ()


def check_fields(record: type, given: Mapping[str, object]) -> tuple[dict[str, object], list[Problem]]:
    """Try every field of a record: what is kept, and what is wrong (unknown, missing or refused)."""
    known = {item.name: item for item in fields(record) if item.init}
    problems = [
        Problem(key, f"expected a known key, found {key!r}; {nearest(key, known)}")
        for key in given
        if key not in known
    ]
    kept: dict[str, object] = {}
    for name, item in known.items():
        if name not in given:
            if item.default is MISSING and item.default_factory is MISSING:
                problems.append(Problem(name, "expected a value, found none; add this key"))
            continue
        value = given[name]
        rule = item.metadata.get("rule")
        if rule is None or (value is None and item.default is None):
            kept[name] = value
            continue
        try:
            kept[name] = rule(value)
        except RefusedError as refused:
            problems.append(Problem(name, refusal(refused, value)))
    return kept, problems


def refusal(refused: RefusedError, value: object) -> str:
    """The sentence for a refused value."""
    mend = f"; {refused.mend}" if refused.mend else ""
    found = shown(value) if refused.found is None else refused.found
    return f"expected {refused.expected}, found {found}{mend}"


def request_error(problems: Iterable[Problem], *, subject: str | None = None) -> RequestError:
    """One error for all problems: the sentence itself when there is one, else a summary line and a list."""
    found = tuple(problems)
    where = f"{subject}: " if subject else ""
    if len(found) == 1:
        return RequestError(f"{where}{found[0]}", subject=subject, problems=found)
    lines = "".join(f"\n  {problem}" for problem in found)
    return RequestError(f"{where}{len(found)} problems:{lines}", subject=subject, problems=found)


def text(limit: int = 1024) -> Rule:
    """A non-empty printable string (also a path) of at most `limit` characters."""

    def rule(value: object) -> str:
        said = str(value) if isinstance(value, PurePath) else value
        if not isinstance(said, str) or not said.strip() or len(said) > limit or not said.isprintable():
            raise RefusedError(f"printable text of 1 to {limit} characters")
        return said

    return rule


def matching(pattern: str, described: str) -> Rule:
    """A string that matches a regular expression from end to end."""
    compiled = re.compile(pattern)

    def rule(value: object) -> str:
        if not isinstance(value, str) or compiled.fullmatch(value) is None:
            raise RefusedError(described)
        return value

    return rule


def one_of(choices: type[StrEnum]) -> Rule:
    """A member of an enumeration, given as itself or as its value."""
    known = key_of({member.value: member for member in choices})
    return lambda value: choices(known(value))


def key_of(table: Mapping[str, object]) -> Callable[[object], str]:
    """The name of an entry of a table, as the table is when a value is checked."""

    def rule(value: object) -> str:
        if isinstance(value, str) and value in table:
            return str(value)
        mend = nearest(value, list(table)) if isinstance(value, str) else ""
        raise RefusedError("one of " + ", ".join(f'"{each}"' for each in table), mend)

    return rule


def whole(low: int, high: int) -> Rule:
    """A whole number from low to high inclusive; true and false are not numbers."""

    def rule(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise RefusedError(f"a whole number from {low} to {high}")
        return value

    return rule


def number(low: float, high: float) -> Rule:
    """A finite number from low to high inclusive, kept as a float; true and false are not numbers."""

    def rule(value: object) -> float:
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float, Decimal))
            or not low <= value <= high
        ):
            raise RefusedError(f"a finite number from {low:g} to {high:g}")
        return float(value)

    def guarded(value: object) -> float:
        # A NaN compares false with everything, but a Decimal NaN raises instead.
        if isinstance(value, (float, Decimal)) and not math.isfinite(value):
            raise RefusedError(f"a finite number from {low:g} to {high:g}")
        return rule(value)

    return guarded


def sequence_of(rule: Rule, count: int, described: str) -> Rule:
    """Exactly `count` values that each satisfy a rule, kept as a tuple."""

    def apply(value: object) -> tuple[object, ...]:
        if not isinstance(value, (list, tuple)) or len(value) != count:
            raise RefusedError(described)
        try:
            return tuple(rule(item) for item in value)
        except RefusedError as refused:
            raise RefusedError(f"{described}, each {refused.expected}", refused.mend) from None

    return apply


def flag(value: object) -> bool:
    """True or false, nothing that merely looks like it."""
    if not isinstance(value, bool):
        raise RefusedError("true or false")
    return value


def day(value: object) -> date:
    """A calendar date without a time of day."""
    if isinstance(value, datetime) or not isinstance(value, date):
        raise RefusedError("a date such as 2026-03-01, without quotes and without a time")
    return value


def record(kind: type[Checked]) -> Rule:
    """An instance of another record."""

    def rule(value: object) -> Checked:
        if not isinstance(value, kind):
            raise RefusedError(f"a {kind.__name__}")
        return value

    return rule


_Record = TypeVar("_Record", bound=Checked)


def records_from(
    document: Mapping[str, object], *, tables: Mapping[str, type[Checked]], lists: Mapping[str, type[Checked]]
) -> tuple[dict[str, Any], list[Problem]]:
    """Turn the tables of a document into records.

    Args:
        document: The whole document.
        tables: Record of each key that holds a table.
        lists: Record of each key that holds a list of tables.

    Returns:
        The document with records in place of the tables, less those that cannot be made, and why they cannot.
    """
    given: dict[str, Any] = {}
    problems: list[Problem] = []
    for key, value in document.items():
        try:
            if key in tables:
                given[key] = record_from(tables[key], value, key)
            elif key in lists and isinstance(value, list):
                given[key] = [record_from(lists[key], item, f"{key}[{i}]") for i, item in enumerate(value)]
            else:
                given[key] = value
        except RequestError as error:
            problems += error.problems
    return given, problems


def record_from(kind: type[_Record], value: object, where: str) -> _Record:
    """One record from a table; problems are told with its place in the document.

    Raises:
        RequestError: with every problem.
    """
    if not isinstance(value, dict):
        raise request_error([Problem(where, f"expected a table, found {shown(value)}")])
    problems = check_fields(kind, value)[1]
    if problems:
        raise request_error([Problem(f"{where}.{problem.key}", problem.text) for problem in problems])
    try:
        return kind(**value)
    except RequestError as error:
        found = [
            Problem(where + problem.key.removeprefix(kind.table), problem.text) for problem in error.problems
        ]
        raise request_error(found) from None
