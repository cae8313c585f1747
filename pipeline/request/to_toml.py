"""Write a request as TOML for the journal, so that a step can be run again later, and read it back.

The text is made from the checked request, whether that came from a file or from Python: complete, without
comments, and with exactly the integers that the build computed with. It enters no identity.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from datetime import date
from pathlib import Path
from typing import Any

from pipeline.request.request import BuildRequest
from pipeline.request.validation import CheckedRecord
from store.backports import assert_never
from store.base.canonical_json import Document

MAX_TEXT_BYTES = 1 << 16
"""A longer request is not recorded, to keep the journal small."""

_E7_DIGITS, _MM_DIGITS = 7, 3


def request_record(request: BuildRequest, precision: str | None) -> Document:
    """Return what a build's first event records of the request; nothing if it is too long or no Unicode.

    Args:
        request: The request.
        precision: The precision that replaced the requested one, if one did.
    """
    text, base = to_toml(request), str(request.base.absolute())
    try:
        if len(text.encode()) + len(base.encode()) > MAX_TEXT_BYTES:
            return {}
    except UnicodeEncodeError:
        return {}
    return {"request": {"text": text, "base": base, "precision": precision}}


def parse_recorded_request(host: Mapping[str, Any]) -> tuple[BuildRequest, str | None] | None:
    """Return the request and precision that a build's first event recorded, if it did.

    Raises:
        RequestError: This version does not accept the request.
    """
    match host.get("request"):
        case {"text": str(text), "base": str(base), "precision": None | str() as precision}:
            return BuildRequest.parse(text, base=Path(base), name="recorded request"), precision
        case _:
            return None


def to_toml(request: BuildRequest) -> str:
    """Return the text of a request file that means the same when read with the same base folder."""
    lines = [
        f"flight_id = {_value(request.flight_id)}",
        f"sector = {_value(str(request.sector))}",
        *_boxes(request),
        f"zoom = {_value(request.zoom)}",
        "origin = ["
        + ", ".join(_scaled(degrees, _E7_DIGITS) for degrees in request.origin_e7)
        + f", {_scaled(request.altitude_mm, _MM_DIGITS)}]",
        f"calibration = {_value(request.calibration)}",
    ]
    if request.altitude_m is not None:
        lines.append(f"altitude_m = {_value(request.altitude_m)}")
    for name in ("tiles", "area", "chunks", "carry", "engine", "index", "coverage", "checks", "proof"):
        table = getattr(request, name)
        lines += [] if table is None else [f"[{name}]", *_table(table)]
    for model in request.models:
        lines += ["[[models]]", *_table(model)]
    return "\n".join(lines) + "\n"


def _boxes(request: BuildRequest) -> Iterator[str]:
    if request.bbox_e7 is not None:
        yield f"bbox = {_degrees(request.bbox_e7)}"
    if request.bboxes_e7:
        yield f"bboxes = [{', '.join(map(_degrees, request.bboxes_e7))}]"


def _degrees(box: tuple[int, ...]) -> str:
    return f"[{', '.join(_scaled(edge, _E7_DIGITS) for edge in box)}]"


def _table(record: CheckedRecord) -> Iterator[str]:
    for item in fields(record):  # type: ignore[arg-type]
        value = getattr(record, item.name)
        # What came later is written only where used, so that records of older requests stay as they were.
        if value is not None and not (item.name in {"weight", "normalise"} and value == item.default):
            yield f"{item.name} = {_value(value)}"


def _value(value: str | bool | float | date | tuple[Any, ...] | CheckedRecord) -> str:  # noqa: FBT001 - a value, not a flag
    match value:
        case bool():
            return str(value).lower()
        case str():
            # The rules admit printable text only, which TOML and JSON write alike.
            return json.dumps(str(value), ensure_ascii=False)
        case int() | float():
            return repr(value)
        case date():
            return value.isoformat()
        case tuple():
            return f"[{', '.join(map(_value, value))}]"
        case CheckedRecord():
            return "{" + ", ".join(_table(value)) + "}"
        case _:
            assert_never(value)


def _scaled(number: int, digits: int) -> str:
    """Return an integer count of 10^-digits units as a decimal number of units, with every digit."""
    whole, rest = divmod(abs(number), 10**digits)
    return f"{'-' if number < 0 else ''}{whole}.{rest:0{digits}d}"
