"""A plan as text: what a build would do, and how long that will take, no more exact than it is known. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from tools.output.render import fields, number, plural, table, warning_lines

_STEPS: Final = (
    # Below so many seconds, rounded to a multiple of so many, of which each is so many of a unit.
    (57.5, 5, 1, "s"),
    (9.5 * 60, 60, 60, "min"),
    (57.5 * 60, 300, 60, "min"),
    (9.75 * 3600, 1800, 3600, "h"),
    (float("inf"), 3600, 3600, "h"),
)


def plan_report(document: Mapping[str, Any]) -> list[str]:
    """Return what a build would do, from its JSON document."""
    missing = document["wanted"] - document["tiles"]
    tiles = f"{number(document['tiles'])} of {number(document['wanted'])} that the area wants"
    cache = document["cache"] or "none yet; planned for an empty one (--cache DIR names one)"
    lines = [
        first_sentence(document),
        "",
        *fields(("cache", cache), ("identity", document["identity"]), ("tiles", tiles)),
    ]
    if missing > 0:
        verb = "is" if missing == 1 else "are"
        lines += fields(("", f"{number(missing)} {verb} not in the source, or left out"))
    lines += fields(("chunks", number(document["chunks"]) if document["chunks"] else None))
    lines += fields(("time", time_text(document["time"]) if document["time"] else None))
    lines += fields(("proof", planned_proof(document["proof"]) if document.get("proof") else None))
    if document["levels"]:
        header = ("level", "side", "overlap", "zoom", "chunks", "m/pixel asked", "available")
        levels_found = [
            (
                level["level"],
                f"{level['side_m']:.0f} m",
                f"{level['overlap']:.0%}",
                level["zoom"],
                number(level["chunks"]),
                f"{level['metres_per_pixel']['asked']:.2f}",
                f"{level['metres_per_pixel']['available']:.2f}",
            )
            for level in document["levels"]
        ]
        lines += ["", *table(header, levels_found, right="rrrrrrr")]
    rows = [
        (step["kind"], step["subject"] or None, number(step["count"]), step["decision"], step["why"])
        for step in document["steps"]
    ]
    lines += ["", *table(("step", "subject", "count", "decision", "why"), rows, right="  r")]
    lines += time_lines(document["time"])
    if document["map"]:
        lines += ["", *fields(("map", document["map"]))]
    return lines + warning_lines(document["warnings"])


def first_sentence(document: Mapping[str, Any]) -> str:
    """Return what a build would do, in one sentence."""
    if document["decision"] == "reused":
        return "nothing to do: the head shows this already"
    units = plural(document["to_embed"], "chunk" if document["chunks"] else "tile")
    reserve = document["reserve_bytes"]
    of_it = f", {reserve / 1e6:,.1f} MB of it the reserve of a new cache" if reserve else ""
    return f"a build would embed {units} and write at most {document['bytes'] / 1e6:,.1f} MB{of_it}"


def planned_proof(asked: Mapping[str, Any]) -> str:
    """Return which photographs a build must find, from a plan's JSON document, in a line."""
    near = "" if asked["near_m"] is None else f", searched within {asked['near_m']:g} m of a guess"
    among = "" if asked["at"] == 1 else f" by one of the first {asked['at']} candidates"
    again = "earlier answers hold" if asked["decision"] == "reuse" else "all are asked for"
    return (
        f"{plural(asked['pictures'], 'photograph')} of {asked['table']}, at least {asked['min']:g} of them to be found"
        f" within {asked['within_m']:g} m{among}{near}; {again}"
    )


def about(seconds: float) -> str:
    """Return an estimated duration, rounded so that it promises nothing: "about 4 min"."""
    if seconds < 10:
        return "less than 10 s"
    for limit, multiple, unit, name in _STEPS:
        if seconds < limit:
            return f"about {max(1, round(seconds / multiple)) * multiple / unit:g} {name}"
    raise AssertionError("the last limit has no end")


def time_text(times: Sequence[Mapping[str, Any]]) -> str:
    """Return how long all steps take, with those of which it is not known."""
    known = [each["seconds"] for each in times if each["seconds"] is not None]
    unknown = [f"{each['step']} {each['subject']}".strip() for each in times if each["seconds"] is None]
    if not unknown:
        return about(sum(known))
    return f"{about(sum(known))} without {', '.join(unknown)}" if known else "unknown"


def time_lines(times: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the table of the steps that take time, and why that of some is not known."""
    if not times:
        return
    rows = [
        (
            each["step"],
            each["subject"] or None,
            "-" if each["seconds"] is None else about(each["seconds"]),
            each["why"] or _where(each["basis"]),
        )
        for each in times
    ]
    yield ""
    yield from table(("time for", "subject", "takes", "known from"), rows)


def _where(basis: str) -> str:
    return f"{basis} here" if basis.startswith("build") else basis
