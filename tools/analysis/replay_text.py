"""The text of `c10 replay`, `c10 diff` and `c10 why`, from their documents. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from tools.output import page, render
from tools.output.recorded_value import change_text, value_text

_MAX_ROWS: Final = 40
_MAX_TRACEBACK: Final = 60
_MAX_TEXT: Final = 180
"""Characters of a record in the timeline, about."""
_MAX_CHANGES: Final = 30
_MAX_NAME: Final = 31
"""Longest name in the table of inputs: with it the table is as wide as a terminal."""
_MARKS: Final = {"error": "!!", "warning": " !", "note": "  "}


def replay_lines(document: Mapping[str, Any], *, whole: bool = False) -> list[str]:
    """Return the lines of a replay. The middle of a long timeline is left out unless `whole`."""
    found = [*render.wrap(document["summary"]), ""]
    source = document["source"]
    found += render.fields(
        ("identity", document["identity"]),
        ("flight", document["flight_id"]),
        ("started", render.utc(document["started"]["time"])),
        ("took", render.milliseconds(document["ms"])),
        ("read from", f"{source['kind']} {source['path']}, {render.plural(source['records'], 'record')}"),
        ("looked at", f"up to record {document['at']}" if document["at"] else None),
    )
    found += _failure_lines(document["failure"], whole=whole)
    found += render.section("Findings", _finding_lines(document["findings"]))
    found += render.section("Steps", _steps(document["steps"]))
    found += render.section("Area", _area_lines(document["area"]))
    found += render.section("Against the last good build", _comparison_lines(document["compare"]))
    found += render.section("Timeline", _timeline_lines(document, whole=whole))
    state = document["state"]
    if document["at"]:
        found += render.section(f"State after record {state['seq']}", _state_lines(state))
    return found


def diff_lines(document: Mapping[str, Any]) -> list[str]:
    """Return what differs between two builds."""
    a, b = document["a"], document["b"]
    found = render.table(
        ("", "a", "b"),
        [
            ("build", a["build"], b["build"]),
            ("status", a["status"], b["status"]),
            ("started", *(render.utc(each["time"]).removesuffix(" UTC") for each in (a, b))),
            ("took", render.milliseconds(a["ms"]), render.milliseconds(b["ms"])),
            ("identity", (a["identity"] or "-")[:16], (b["identity"] or "-")[:16]),
        ],
    )
    found += render.section("Inputs", _changes(document["inputs"]) or [_no_change(document)])
    found += render.section("Host", _changes(document["host"]))
    rows = [
        (row["role"], (row["a"] or "-")[:12], (row["b"] or "-")[:12], _compare_artifacts(row))
        for row in document["artifacts"]
    ]
    found += render.table_section("Artifacts", ("artifact", "a", "b", ""), rows)
    checks = [
        (f"{row['check']} {row['subject']}", _verdict(row["a"]), _verdict(row["b"]))
        for row in document["checks"]
    ]
    found += render.table_section("Checks", ("check", "a", "b"), checks)
    found += [f"  {line}" for row in document["checks"] for line in _measured_changes(row)]
    steps = [
        (f"{row['kind']} {row['subject']}".strip(), _took(row, "a"), _took(row, "b"))
        for row in document["steps"]
    ]
    found += render.table_section("Steps", ("step", "a", "b"), steps, right=" rr")
    return found + render.section("Tiles", _tile_counts(document["tiles"]))


def why_lines(document: Mapping[str, Any]) -> list[str]:
    """Return the lines of an explanation."""
    return [shown for line in document["text"] for shown in _wrap_hanging(str(line))]


def _wrap_hanging(line: str) -> list[str]:
    """Wrap a line, with a hanging indent."""
    indent = " " * (len(line) - len(line.lstrip()))
    first, *rest = render.wrap(line.lstrip(), page.text_width() - 4 - len(indent))
    return [indent + first, *(f"{indent}    {more}" for more in rest)]


def _failure_lines(failure: Mapping[str, Any] | None, *, whole: bool) -> list[str]:
    if failure is None:
        return []
    lines = render.fields(
        ("step", failure["step"]),
        ("subject", failure["subject"]),
        ("kind", failure["kind"]),
        ("cause", failure["cause"]),
        ("message", None if failure["message"] == failure["cause"] else failure["message"]),
        ("mend", failure["hint"]),
        indent=2,
    )
    inputs = [
        (
            row["role"],
            row["name"] if len(row["name"]) <= _MAX_NAME else f"…{row['name'][1 - _MAX_NAME :]}",
            (row["sha256"] or "-")[:16],
            "-" if row["size"] is None else render.size(row["size"]),
            {True: "here", False: "not here", None: "-"}[row["present"]],
        )
        for row in failure["inputs"]
    ]
    cut = [row for row in failure["inputs"] if len(row["name"]) > _MAX_NAME]
    names = [line for row in cut for line in _wrap_hanging(f"{row['role']}: {row['name']}")]
    header = ("input", "name", "SHA-256", "size", "bytes")
    table = render.table(header, inputs, right="   r", indent=2) if inputs else []
    differing = [
        line
        for row in failure["inputs"]
        if row["found"]
        for line in render.wrap(
            f"{row['role']} {row['name']}: found {value_text('', row['found'])}", page.text_width() - 2
        )
    ]
    return [
        *render.section("Failure", lines),
        *render.section("Its inputs", [*table, *names, *differing]),
        *render.section("Traceback", _traceback(failure, whole=whole)),
    ]


def _traceback(failure: Mapping[str, Any], *, whole: bool) -> list[str]:
    """Return the traceback, or its length if the error was expected: then cause and message say it all."""
    lines: list[str] = failure["traceback"]
    if lines and not whole and failure["kind"] != "unexpected":
        return [f"{render.plural(len(lines), 'line')} (--all shows them)"]
    return lines[-_MAX_TRACEBACK:]


def _finding_lines(findings: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for each in findings:
        mark = _MARKS[each["severity"]]
        first, *rest = render.wrap(each["text"], page.text_width() - 6)
        yield f"{mark} {first}"
        for line in rest:
            yield f"   {line}"
        if each["mend"]:
            yield f"   -> {each['mend']}"


def _steps(steps: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [
        (
            f"{row['kind']} {row['subject']}".strip(),
            row["outcome"],
            f"{row['begin_ms'] / 1000:.3f}",
            "-" if row["ms"] is None else render.milliseconds(row["ms"]),
            "-" if row["normal_ms"] is None else render.milliseconds(row["normal_ms"]),
            render.plural(row["count"], row["unit"].removesuffix("s"), row["unit"]) if row["unit"] else "-",
            render.size(row["bytes"]) if row["bytes"] else "-",
        )
        for row in steps
    ]
    header = ("step", "outcome", "at (s)", "took", "usual", "work", "stored")
    return render.table(header, rows, right="  rrrrr", indent=2) if rows else []


def _area_lines(area: Mapping[str, Any] | None) -> list[str]:
    if area is None:
        return []
    counts: dict[str, int] = {}
    for cell in area["cells"]:
        counts[cell[4]] = counts.get(cell[4], 0) + 1
    lines = [
        ", ".join(
            f"{count:,} {render.plural(count, 'cell').split(' ')[1]} {name}"
            for name, count in sorted(counts.items())
        )
    ]
    if area["wanted"] is not None:
        lines.append(f"{area['present']:,} of {area['wanted']:,} wanted tiles selected")
    for name in ("failing", "holes", "excluded", "skipped", "featureless"):
        runs = area["tiles"].get(name) or []
        if runs:
            shown = ", ".join(render.tile_run(run) for run in runs[:4])
            more = f" and {len(runs) - 4:,} more runs" if len(runs) > 4 else ""
            lines += render.wrap(f"{name}: {shown}{more}", page.text_width() - 2)
    return [line for line in lines if line]


def _comparison_lines(compare: Mapping[str, Any] | None) -> list[str]:
    if compare is None:
        return []
    lines = [f"build {compare['a']['build']}, {render.utc(compare['a']['time'])}"]
    lines += _changes(compare["inputs"]) or [_no_change(compare)]
    lines += [f"host {line}" for line in _changes(compare["host"])]
    return lines + _tile_counts(compare["tiles"])


def _no_change(compare: Mapping[str, Any]) -> str:
    """Say what it means that no input is known to differ."""
    refused = [side["build"] for side in (compare["a"], compare["b"]) if side["status"] == "refused"]
    if refused and not compare["same_identity"]:
        return f"the inputs of build {refused[-1]} were not recorded: it was refused at its start"
    unread = [side["build"] for side in (compare["a"], compare["b"]) if side["identity"] is None]
    if unread:
        return f"the inputs of build {unread[-1]} were not read to their end: what changed is not known"
    return "the inputs are the same"


def _changes(changes: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        line
        for each in changes[:_MAX_CHANGES]
        for line in render.wrap(change_text(each["path"], each["old"], each["new"]), page.text_width() - 2)
    ]
    more = len(changes) - _MAX_CHANGES
    return lines if more <= 0 else [*lines, f"and {more:,} more"]


def _tile_counts(tiles: Mapping[str, Any]) -> list[str]:
    if tiles["added"] is None:
        return []
    names = ("added", "removed", "changed", "same")
    return [", ".join(f"{tiles[name]:,} {name}" for name in names) + " tiles"]


def _timeline_lines(document: Mapping[str, Any], *, whole: bool) -> Iterator[str]:
    rows = document["timeline"]
    shown = rows if whole or len(rows) <= _MAX_ROWS else [*rows[: _MAX_ROWS // 2], *rows[-_MAX_ROWS // 2 :]]
    width = max((len(str(row["seq"])) for row in shown), default=1)
    previous = None
    for row in shown:
        if previous is not None and row["seq"] > previous + 1:
            yield f"{'…':>{width}}  {row['seq'] - previous - 1:,} records (--all shows them)"
        previous = row["seq"]
        mark = "?" if row["unknown"] else " " if row["build"] == document["build"] else "|"
        head = f"{row['seq']:>{width}} {row['ms'] / 1000:>10.3f} s {mark} "
        room = page.text_width() - 2 - len(head)
        first, *rest = render.wrap(f"{row['tag']}: {row['text']}", room)
        yield head + first
        for line in rest[: _MAX_TEXT // room - 1]:
            yield " " * len(head) + line


def _state_lines(state: Mapping[str, Any]) -> list[str]:
    shown = f"{state['generation']}, shows build {state['origin']}" if state["generation"] else "none yet"
    known = ", ".join(
        (
            render.plural(state["engines"], "engine"),
            render.plural(state["blocks"], "block"),
            render.plural(state["indexes"], "index", "indexes"),
        )
    )
    return render.fields(
        ("generation", shown),
        ("body", state["body_sha256"]),
        ("open build", state["open_build"]),
        ("doing", state["doing"]),
        ("known", known),
        ("chain", state["chain"]),
        ("problem", state["problem"]),
        indent=2,
    )


def _verdict(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "-"
    return "passed" if found["passed"] else "FAILED"


def _measured_changes(row: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a check measured differently in the two builds."""
    one, other = (row[side]["measured"] if row[side] else None for side in ("a", "b"))
    if one is None or other is None:
        return
    for name in sorted({*one, *other}):
        if one.get(name) != other.get(name):
            change = change_text(name, one.get(name), other.get(name))
            yield from render.wrap(f"{row['check']} {row['subject']}, {change}", page.text_width() - 2)


def _compare_artifacts(row: Mapping[str, Any]) -> str:
    """Say whether two builds have the same artifact, or which of them has none."""
    if row["a"] is None or row["b"] is None:
        return "only in b" if row["a"] is None else "only in a"
    return "same" if row["same"] else "other"


def _took(row: Mapping[str, Any], side: str) -> str:
    took, outcome = row[f"{side}_ms"], row[f"{side}_outcome"]
    if outcome is None:
        return "-"
    return outcome if took is None or outcome == "reused" else f"{render.milliseconds(took)} {outcome}"
