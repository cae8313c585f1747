"""JSON Schema of a record of a request, from its fields, their rules and its docstring. Pure.

Each rule says beside its check what it takes (`takes`), so that there is no second table of keys.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from datetime import date
from inspect import cleandoc
from typing import Any, TypeVar

from pipeline.request.validation import rules_of
from store.base.canonical_json import Document

DRAFT = "https://json-schema.org/draft/2020-12/schema"

_Rule = TypeVar("_Rule", bound=Callable[[Any], Any])


def takes(schema: Callable[[], Document]) -> Callable[[_Rule], _Rule]:
    """Give a rule the JSON Schema of what it takes from a file; dates are strings there."""

    def decorate(rule: _Rule) -> _Rule:
        rule.schema = schema  # type: ignore[attr-defined]
        return rule

    return decorate


def schema_of(rule: object) -> Document:
    """Return what a rule takes."""
    found: Document = rule.schema()  # type: ignore[attr-defined]
    return dict(found)


def table_schema(record: type, *, without: frozenset[str] = frozenset()) -> Document:
    """Return the JSON Schema of the table that a record is made from, but for some fields."""
    texts, rules = attribute_texts(record), rules_of(record)
    given = [item for item in fields(record) if item.init and item.name not in without]
    properties: dict[str, Any] = {}
    for item in given:
        properties[item.name] = {**schema_of(rules[item.name]), "description": texts[item.name]}
        if item.default is not MISSING and item.default is not None:
            properties[item.name]["default"] = _plain(item.default)
    return {
        "type": "object",
        "properties": properties,
        "required": [
            item.name for item in given if item.default is MISSING and item.default_factory is MISSING
        ],
        "additionalProperties": False,
    }


def attribute_texts(record: type) -> Mapping[str, str]:
    """Return what the docstring of a class says of each attribute, in one line."""
    # Python 3.13 stores docstrings without their indentation.
    _, _, text = cleandoc(record.__doc__ or "").partition("Attributes:")
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", text, re.MULTILINE)
    return {name: " ".join(words.split()) for name, words in found}


def _plain(value: object) -> object:
    match value:
        case tuple():
            return [_plain(item) for item in value]
        case date():
            return value.isoformat()
        case str():
            return str(value)
        case _:
            return value
