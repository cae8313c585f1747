"""`schema`: JSON Schema of what C10 reads and says."""

import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from importlib import resources
from typing import Any, Final

import click

from pipeline.config import SCHEMAS, C10ProvisionerConfig
from pipeline.request.json_schema import DRAFT, attribute_texts
from pipeline.request.request import request_schema
from store.base.canonical_json import Document
from store.domain.json_schema import events_schema, manifest_schema
from tools.command import Answer, Call, shared_options

_ANSWERS: Final = "answers.json"


@click.command()
@click.argument("name", metavar="request|settings|manifest|events|COMMAND")
@shared_options(cache=False)
def schema(call: Call, *, name: str) -> Answer:  # noqa: ARG001 - every command gets a call
    """Print the JSON Schema (2020-12) of a request, a settings file, a manifest, an event, or what COMMAND --json prints.

    Dates of TOML count as strings.
    """
    document = _FILES[name]() if name in _FILES else _answer_schema(name)
    # With --json as one line, like any other command.
    return Answer(document=document, lines=json.dumps(document, indent=2, ensure_ascii=False).split("\n"))


def settings_schema() -> dict[str, Any]:
    """Return the JSON Schema of a file of operator settings."""
    texts, properties = attribute_texts(C10ProvisionerConfig), {}
    for item in fields(C10ProvisionerConfig):
        if item.name in SCHEMAS:
            default = {} if item.default is None else {"default": item.default}
            properties[item.name] = {**SCHEMAS[item.name], "description": texts[item.name], **default}
    return {
        "$schema": DRAFT,
        "title": "C10 operator settings",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


_FILES: Final[Mapping[str, Callable[[], Document]]] = {
    "request": request_schema,
    "settings": settings_schema,
    "manifest": manifest_schema,
    "events": events_schema,
}
"""What is printed of files, by name."""


def answer_schemas() -> dict[str, Any]:
    """Return the JSON Schema of what each command prints with --json."""
    found: dict[str, Any] = json.loads(resources.files("tools").joinpath(_ANSWERS).read_text("utf-8"))
    return found


def _answer_schema(name: str) -> Document:
    known = answer_schemas()
    if name not in known:
        raise click.UsageError(
            f"expected {', '.join(_FILES)} or a command with --json, found {name!r}: {', '.join(known)}"
        )
    return {"$schema": DRAFT, "title": f"c10 {name} --json", **known[name]}
