"""Check the fields of request records, so that a file and a Python caller meet the same rules.

A record of a request is a frozen dataclass that inherits `CheckedRecord`. The annotation of a field has its
*rule* (`pipeline.request.rules`), a function that takes the given value and returns the one to keep, or
raises `InvalidValueError`: `name: Annotated[str, text()]`. All fields are tried, so that one pass reports
every problem. Pure.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, fields
from datetime import date, time
from decimal import Decimal
from functools import cache
from pathlib import PurePath
from typing import Any, ClassVar, TypeVar, get_type_hints

from pipeline.errors import Problem, RequestError
from store.backports import StrEnum

Rule = Callable[[object], object]

_MAX_SHOWN = 80


class InvalidValueError(Exception):
    """A value breaks a rule.

    Attributes:
        expected: What the rule wants.
        hint: How to correct it, where that is not obvious.
        found: What was found, where showing the value itself would not help.
    """

    def __init__(self, expected: str, hint: str = "", found: str | None = None) -> None:
        super().__init__(expected, hint, found)
        self.expected = expected
        self.hint = hint
        self.found = found

    def message(self, value: object) -> str:
        """Return the sentence for the value that breaks the rule."""
        found = format_value(value) if self.found is None else self.found
        return f"expected {self.expected}, found {found}" + (f"; {self.hint}" if self.hint else "")


def format_value(value: object) -> str:
    """Return a value for a message: numbers and dates as in the file, one line, cut at 80 characters."""
    match value:
        case bool():
            text = str(value).lower()
        case Decimal() | date() | time():
            text = str(value)
        case StrEnum():
            text = repr(value.value)
        case PurePath():
            text = repr(str(value))
        case list() | tuple():
            items = ", ".join(format_value(item) for item in value[:12])
            text = f"[{items}" + (", …]" if len(value) > 12 else "]")
        case Mapping():
            items = ", ".join(f"{name} = {format_value(item)}" for name, item in list(value.items())[:12])
            text = f"{{{items}}}"
        case _:
            text = repr(value)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…"


def suggest_known(word: str, known: Iterable[str]) -> str:
    """Return a hint for an unknown word: the nearest known one, else all of them."""
    names = sorted(known)
    return suggest_nearest(word, names) or "known: " + ", ".join(names)


def suggest_nearest(word: str, known: Iterable[str]) -> str:
    """Return a hint for an unknown word; empty if none is near.

    Near is the known word in other letters (FP32), the one that it begins with, or one that differs little.
    """
    names = sorted(known)
    same = [name for name in names if name.casefold() == word.casefold()]
    longer = sorted((name for name in names if len(name) > 2 and word.startswith(name)), key=len)[-1:]
    import difflib  # noqa: PLC0415 - only errors need it

    close = same or longer or difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else ""


class CheckedRecord:
    """A record that checks and normalises its fields when it is made, from a file or from Python alike."""

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
            problems = list(self.check_relations())
        if problems:
            prefix = f"{self.table}." if self.table else ""
            raise request_error([Problem(prefix + problem.key, problem.text) for problem in problems])

    def check_relations(self) -> Iterator[Problem]:
        """Yield the problems that concern several fields. Called with normalised fields."""
        yield from ()


_Record = TypeVar("_Record", bound=CheckedRecord)


def check_fields(record: type, given: Mapping[str, object]) -> tuple[dict[str, object], list[Problem]]:
    """Check every field; return the values to keep, and the unknown, missing and invalid fields."""
    known = {item.name: item for item in fields(record) if item.init}
    rules = rules_of(record)
    problems = [
        Problem(key, f"expected a known key, found {key!r}; {suggest_known(key, known)}")
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
        rule = rules.get(name)
        if rule is None or (value is None and item.default is None):
            kept[name] = value
            continue
        try:
            kept[name] = rule(value)
        except InvalidValueError as error:
            problems.append(Problem(name, error.message(value)))
    return kept, problems


@cache
def rules_of(record: type) -> Mapping[str, Rule]:
    """Return the rule of each field that has one."""
    hints = get_type_hints(record, include_extras=True)
    return {name: hint.__metadata__[0] for name, hint in hints.items() if hasattr(hint, "__metadata__")}


def request_error(problems: Iterable[Problem], *, subject: str | None = None) -> RequestError:
    """Return one error for all problems: the sentence itself for one, else a summary line and a list."""
    found = tuple(problems)
    where = f"{subject}: " if subject else ""
    if len(found) == 1:
        message, key = f"{where}{found[0]}", found[0].key or "it"
    else:
        message, key = (
            f"{where}{len(found)} problems:" + "".join(f"\n  {each}" for each in found),
            "these keys",
        )
    hint = f"correct {key} in the request; docs/configuration.md has every key"
    return RequestError(message, hint=hint, subject=subject, problems=found)


def records_from(
    document: Mapping[str, object],
    *,
    tables: Mapping[str, type[CheckedRecord]],
    lists: Mapping[str, type[CheckedRecord]],
) -> tuple[dict[str, Any], list[Problem]]:
    """Turn the tables of a document into records.

    Args:
        document: The whole document.
        tables: Record of each key that holds a table.
        lists: Record of each key that holds a list of tables.

    Returns:
        The document with records in place of its valid tables and without the invalid ones, and their
        problems.
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
    """Make one record from a table; problems name its place in the document.

    Raises:
        RequestError: with every problem.
    """
    if not isinstance(value, dict):
        raise request_error([Problem(where, f"expected a table, found {format_value(value)}")])
    problems = check_fields(kind, value)[1]
    if problems:
        raise request_error([Problem(f"{where}.{problem.key}", problem.text) for problem in problems])
    try:
        return kind(**value)
    except RequestError as error:
        raise request_error(
            Problem(where + problem.key.removeprefix(kind.table), problem.text) for problem in error.problems
        ) from None
