"""A request as the journal keeps it, so that a step of its build can be run again without the person who asked.

It is written anew from the checked request, in TOML, whether it came from a file or from Python: complete, without
comments, and with the very integers that the build computed with. It is a fact about a build and enters no identity.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from datetime import date
from pathlib import Path
from typing import Any, assert_never

from pipeline.request.request import BuildRequest
from pipeline.request.validation import Checked
from store.base.canonical_json import Document

MAX_TEXT_BYTES = 1 << 16
"""A longer request is not recorded: the journal is no place for bulk."""

_E7_DIGITS, _MM_DIGITS = 7, 3


def request_facts(request: BuildRequest, precision: str | None) -> Document:
    """Return what the start of a build records of its request; nothing if it is too long, or no text.

    Args:
        request: As asked for.
        precision: What replaced its precision, if anything did.
    """
    text, base = to_toml(request), str(request.base.absolute())
    try:
        if len(text.encode()) + len(base.encode()) > MAX_TEXT_BYTES:
            return {}
    except UnicodeEncodeError:
        return {}
    return {"request": {"text": text, "base": base, "precision": precision}}


def recorded_request(host: Mapping[str, Any]) -> tuple[BuildRequest, str | None] | None:
    """Return the request and precision that the start of a build recorded, if it did.

    Raises:
        RequestError: It is no valid request, or not to this version.
    """
    match host.get("request"):
        case {"text": str(text), "base": str(base), "precision": None | str() as precision}:
            return BuildRequest.parse(text, base=Path(base), name="recorded request"), precision
        case _:
            return None


def to_toml(request: BuildRequest) -> str:
    """Return a request file that means the same request, seen from the same folder."""
    lines = [
        f"flight_id = {_value(request.flight_id)}",
        f"sector = {_value(str(request.sector))}",
        f"bbox = [{', '.join(_scaled(edge, _E7_DIGITS) for edge in request.bbox_e7)}]",
        f"zoom = {_value(request.zoom)}",
        "origin = ["
        + ", ".join(_scaled(degrees, _E7_DIGITS) for degrees in request.origin_e7)
        + f", {_scaled(request.altitude_mm, _MM_DIGITS)}]",
        f"calibration = {_value(request.calibration)}",
    ]
    for name in ("tiles", "engine", "index", "coverage", "checks"):
        lines += [f"[{name}]", *_table(getattr(request, name))]
    for model in request.models:
        lines += ["[[models]]", *_table(model)]
    return "\n".join(lines) + "\n"


def _table(record: Checked) -> Iterator[str]:
    for item in fields(record):  # type: ignore[arg-type]
        value = getattr(record, item.name)
        if value is not None:
            yield f"{item.name} = {_value(value)}"


def _value(value: str | bool | float | date | tuple[Any, ...] | Checked) -> str:  # noqa: FBT001 - a value, not a flag
    match value:
        case bool():
            return str(value).lower()
        case str():
            # The rules of requests leave printable text alone, of which TOML and JSON write the same strings.
            return json.dumps(str(value), ensure_ascii=False)
        case int() | float():
            return repr(value)
        case date():
            return value.isoformat()
        case tuple():
            return f"[{', '.join(map(_value, value))}]"
        case Checked():
            return "{" + ", ".join(_table(value)) + "}"
        case _:
            assert_never(value)


def _scaled(number: int, digits: int) -> str:
    """An integer of a decimal fraction of a unit, as a decimal number of units: no digit is lost."""
    whole, rest = divmod(abs(number), 10**digits)
    return f"{'-' if number < 0 else ''}{whole}.{rest:0{digits}d}"
