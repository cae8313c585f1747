"""The text of `c10 show`, from its document. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from store.base.canonical_json import is_digest
from tools.output import page, render
from tools.output.recorded_value import label_of, value_text

_MAX_RUNS: Final = 6
_MAX_REQUEST: Final = 200
"""How many lines of a request are shown."""
_MAX_TRACEBACK: Final = 200
"""How many lines are shown, from the end of a traceback; a journal may hold anything."""


def show_lines(document: Mapping[str, Any]) -> list[str]:
    """Return the lines of a build."""
    took, tiles = document["seconds"], None
    if document["tiles"] is not None:
        tiles = f"{document['tiles']:,} of {document['wanted']:,} wanted"
    generations = ", ".join(str(number) for number in document["generations"]) or None
    lines = render.fields(
        ("build", f"{document['build']}, {document['status']}"),
        ("generations", generations),
        ("files", "collected: they are gone, the record stays" if document["collected"] else None),
        ("accepted", ", ".join(map(str, document["accepted"]))),
        ("identity", document["identity"] or "unknown: its inputs could not be read"),
        ("started", render.utc(document["started"])),
        ("took", None if took is None else render.seconds(took)),
        ("tiles", tiles),
        (
            "embedded",
            render.number(document["tiles_embedded"] + document["chunks_embedded"]) if tiles else None,
        ),
    )
    lines += render.section("Inputs", render.fields(*_input_fields(document["inputs"]), indent=2))
    request = document["host"].get("request")
    text = request.get("text") if isinstance(request, Mapping) else None
    host = [(name, value) for name, value in document["host"].items() if name != "request" or text is None]
    lines += render.section("Host", render.fields(*host, indent=2))
    if isinstance(text, str):
        lines += render.section("Request", text.splitlines()[:_MAX_REQUEST])
    header = ("step", "subject", "count", "decision", "why")
    plan = [
        (step.get("kind"), step.get("subject") or None, *(step.get(name) for name in header[2:]))
        for step in document["plan"]
    ]
    lines += render.table_section("Plan", header, plan, right="  r")
    steps = [
        (
            step["seq"],
            step["kind"],
            None if step["ms"] is None else render.milliseconds(step["ms"]),
            step["what"],
        )
        for step in document["steps"]
    ]
    lines += render.table_section("Steps", ("record", "kind", "took", "what"), steps, right="r r")
    lines += render.section("Checks", _check_lines(document["checks"]))
    lines += render.section("Area", _area_lines(document.get("area")))
    for warning in document["warnings"]:
        lines += ["", *render.warning_lines([warning])]
    return lines + _failure_lines(document)


def _area_lines(report: Mapping[str, Any] | None) -> list[str]:
    """Return the tiles by which a camera cannot be located, as runs; the first few of each kind."""
    lines: list[str] = []
    for name in ("holes", "excluded", "skipped", "featureless"):
        runs = (report or {}).get(name)
        if not isinstance(runs, list) or not runs:
            continue
        shown = [render.tile_run(run) for run in runs[:_MAX_RUNS]]
        more = f", and {len(runs) - _MAX_RUNS} more" if len(runs) > _MAX_RUNS else ""
        lines += render.wrap(f"{name:<12} {', '.join(shown)}{more}")
    return lines


def _check_lines(checks: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [
        (check["check"], check["subject"] or None, "passed" if check["passed"] else "FAILED")
        for check in checks
    ]
    if not rows:
        return []
    lines, *heads = render.table_rows(("check", "subject", "verdict"), rows, indent=2)
    for head, check in zip(heads, checks, strict=True):
        measured = " ".join(
            f"{label_of(name)}={value_text(name, value)}" for name, value in check["measured"].items()
        )
        lines += [*head, *render.wrap(measured, page.text_width() - 2, "    ")] if measured else head
        lines += render.wrap(check["why"], page.text_width() - 2, "    ") if check["why"] else []
    return lines


def _input_fields(inputs: Mapping[str, Any]) -> list[tuple[str, object]]:
    return [
        (label_of(name), _input_text(name, value))
        for name, value in inputs.items()
        if name != "recipes" and value is not None
    ]


def _input_text(name: str, value: object) -> str:
    """Return the text of an input: maps with the beginning of digests, of which the JSON has all, lists of names."""
    match value:
        case Mapping():
            parts = ((name, inner) for name, inner in sorted(value.items()) if inner is not None)
            return " ".join(f"{label_of(name)}={_member_text(name, inner)}" for name, inner in parts)
        case list() | tuple():
            named = (
                item["name"] if isinstance(item, Mapping) and "name" in item else _member_text(name, item)
                for item in value
            )
            return ", ".join(map(str, named))
        case int():
            return value_text(name, value)
        case _:
            return str(value)


def _member_text(name: str, value: object) -> str:
    text = _input_text(name, value)
    if isinstance(value, Mapping | list | tuple):
        return f"({text})"
    return text[:16] if is_digest(text) else text


def _failure_lines(document: Mapping[str, Any]) -> list[str]:
    failure = document["failure"]
    if failure is None:
        ending = document["ending"]
        doing = f" (it was at: {document['doing']})" if document["doing"] else ""
        return render.section("Ending", render.wrap(ending + doing, page.text_width() - 2)) if ending else []
    lines = render.fields(
        ("step", failure["step"]),
        ("subject", failure["subject"]),
        ("kind", failure["kind"]),
        ("message", failure["message"]),
        ("mend", failure["hint"]),
        indent=2,
    )
    return [
        *render.section("Failure", lines),
        *render.section("Traceback", failure["traceback"].rstrip().splitlines()[-_MAX_TRACEBACK:]),
    ]
