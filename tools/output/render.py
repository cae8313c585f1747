"""Text for terminals: aligned, as wide as `tools.output.page` says where the content allows it. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, Final

from tools.output import page
from tools.output.colour import Coloured
from tools.output.sanitize import escape

_LABEL: Final = 13
MAX_LINE: Final = 4000
"""Longest line, and longest value of a field, that is shown; a journal may hold anything."""
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")


def when(wall_ns: int) -> str:
    """Return a time as UTC text, from nanoseconds since 1970."""
    return datetime.fromtimestamp(wall_ns / 1e9, tz=timezone.utc).strftime("%Y-%m-%d %H:%M:%S")


def iso(wall_ns: int) -> str:
    """Return a time for programs: ISO 8601, UTC, milliseconds."""
    moment = datetime.fromtimestamp(wall_ns / 1e9, tz=timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def utc(iso_time: str) -> str:
    """Return a time that `iso` wrote as text for people, to the second."""
    return iso_time[:19].replace("T", " ") + " UTC"


def milliseconds(value: int) -> str:
    """Return a duration in milliseconds as text."""
    return seconds(value / 1000)


def seconds(value: float) -> str:
    """Return a duration with at most three significant digits."""
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 120:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def size(count: int) -> str:
    """Return a number of bytes in a suitable unit."""
    power = 0
    while count >= 1024 ** (power + 1) and power < len(_UNITS) - 1:
        power += 1
    return f"{count / 1024**power:.1f} {_UNITS[power]}" if power else f"{count} B"


def number(count: int | None) -> str:
    """Return a count with thousands separators; a dash for None."""
    return "-" if count is None else f"{count:,}"


def share(ppm: int) -> str:
    """Return parts per million as a percentage: 100 % only for all, and 0 % only for none."""
    if 0 < ppm < 1_000:
        return "< 0.1 %"
    if 0 < ppm < 100_000:
        return f"{ppm / 10_000:.1f} %"
    if 990_000 < ppm < 1_000_000:
        return f"{ppm // 1_000 / 10:.1f} %"
    return f"{ppm / 10_000:.0f} %"


def plural(count: int, one: str, many: str = "") -> str:
    """Return a count with its noun."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def fields(*pairs: tuple[str, object], indent: int = 0) -> list[str]:
    """Return a line per label and value; a long value is wrapped. None and empty values are left out.

    Args:
        pairs: Labels and values.
        indent: By how much the caller will indent the lines.
    """
    lines: list[str] = []
    for label, value in pairs:
        if value is None or value == "":
            continue
        wrapped = wrap(str(value), page.text_width() - _LABEL - indent)
        lines.append(f"{label:<{_LABEL}}{wrapped[0]}")
        lines.extend(" " * _LABEL + more for more in wrapped[1:])
    return lines


def plain(line: str) -> str:
    """Return a line that is safe to print and of bounded length: it may come from a foreign cache."""
    return escape(_cut(line))


def _cut(text: str) -> str:
    more = len(text) - MAX_LINE
    return text if more <= 0 else f"{text[:MAX_LINE]}… ({more:,} more characters; --json has them)"


def wrap(text: str, width: int | None = None, indent: str = "") -> list[str]:
    """Wrap a text, by default at the width of the page; the further lines of a hint begin below its text.

    Words longer than a line, such as digests and paths, stay whole for a program; a terminal breaks them itself,
    anywhere, unless they are broken here.
    """
    text, width = _cut(text), page.text_width() if width is None else width
    if text.isprintable() and text[-1:].strip() and len(indent) + len(text) <= width:
        return [indent + text]
    whole = page.terminal_columns() is None
    wrapped = page.wrap_hint if text.startswith(page.HINT) else page.wrap_words
    return [indent + line for line in wrapped(text, width - len(indent), whole=whole)]


def table_rows(
    header: Sequence[str], rows: Iterable[Sequence[object]], *, right: str = "", indent: int = 0
) -> list[list[str]]:
    """Return the lines of the header and of each row of a table with aligned columns.

    Args:
        header: Names of the columns.
        rows: The values of each row; None becomes a dash.
        right: A letter per column, "r" for those that are aligned to the right.
        indent: By how much the caller will indent the lines.
    """
    cells = [[*header], *([("-" if value is None else str(value)) for value in row] for row in rows)]
    return page.table_rows(cells, right=right, indent=indent)


def table(
    header: Sequence[str], rows: Iterable[Sequence[object]], *, right: str = "", indent: int = 0
) -> list[str]:
    """Return the lines of a table with aligned columns: see `table_rows`."""
    return [line for lines in table_rows(header, rows, right=right, indent=indent) for line in lines]


def table_section(
    title: str, header: Sequence[str], rows: Sequence[Sequence[object]], *, right: str = ""
) -> list[str]:
    """Return a title and a table, indented by two; nothing if there are no rows."""
    return section(title, table(header, rows, right=right, indent=2)) if rows else []


def tile_run(run: Sequence[int]) -> str:
    """Return a run of tiles along a row, [zoom, y, first x, last x], as zoom/x/y or zoom/x-x/y."""
    zoom, y, first, last = run
    return f"{zoom}/{first}/{y}" if first == last else f"{zoom}/{first}-{last}/{y}"


def section(title: str, lines: Iterable[str]) -> list[str]:
    """Return a title and its lines, indented by two; nothing if there are no lines."""
    body = [f"  {line}".rstrip() for line in lines]
    return ["", title, *body] if body else []


def area(document: Mapping[str, Any]) -> str | None:
    """Return how much of an area is there, from a JSON document; None if it is not known."""
    if not document["wanted"]:
        return None
    if document.get("levels") or document.get("chunks"):
        part = document["localisable"]
        skipped = f", {plural(document['skipped'], 'tile')} skipped" if document["skipped"] else ""
        return None if part is None else f"a place can be found in {100 * part:.1f} % of it{skipped}"
    parts = [f"{number(document['tiles'])} of {number(document['wanted'])} wanted tiles"]
    parts += [f"{document[what]:,} {what}" for what in ("featureless", "skipped") if document[what]]
    return ", ".join(parts)


def levels(found: Sequence[Mapping[str, Any]] | None) -> str | None:
    """Return the levels of chunks in a line, from their JSON documents; None without any."""
    if not found:
        return None
    shown = (
        f"{level['side_m']:.0f} m (zoom {level['zoom']}, overlap {level['overlap']:.0%})" for level in found
    )
    return "of " + ", ".join(shown)


def warning_lines(warnings: Iterable[Mapping[str, str]]) -> list[str]:
    """Return each warning in yellow, and what mends it, from their JSON documents."""
    lines: list[str] = []
    for each in warnings:
        lines += [Coloured(line, "yellow") for line in wrap(f"warning: {each['message']}")]
        lines += wrap(f"-> {each['hint']}", indent="  ") if each["hint"] else []
    return lines


def build_report(document: Mapping[str, Any], *, first: bool = False) -> list[str]:
    """Return what a build did, from its JSON document; `first` says that the cache has no generation."""
    outcome, generation = document["outcome"], document["generation"]
    took = seconds(document["seconds"])
    match outcome:
        case "built":
            line = f"built generation {generation} (build {document['build']}) in {took}"
        case "reused":
            line = f"nothing to do: generation {generation} shows this already (build {document['build']}), {took}"
        case _:
            shown = "the cache shows nothing yet" if first else "the cache still shows what it showed"
            line = f"failed after {took}; {shown}"
    if document["warnings"]:
        line += f"; {plural(len(document['warnings']), 'warning')}"
    lines = [line]
    if outcome != "failed":
        lines += [""]
    lines += fields(
        ("identity", document["identity"]),
        ("manifest", document["manifest_sha256"]),
        ("area", area(document)),
        ("embedded", _embedded(document) if outcome == "built" else None),
        ("stored", _stored(document) if outcome == "failed" else None),
        ("compiled", plural(document["engines_compiled"], "engine") if outcome != "reused" else None),
        ("reused", plural(document["steps_reused"], "step") if document["steps_reused"] else None),
        ("checked", plural(document["files_checked"], "file") if document["files_checked"] else None),
        ("writes", number(document["writes"])),
    )
    return lines + warning_lines(document["warnings"])


def _embedded(document: Mapping[str, Any]) -> str:
    if not document["chunks"]:
        return number(document["tiles_embedded"])
    # Chunks over a tile that is skipped get no descriptor.
    described = document["chunks_embedded"] + document["chunks_copied"]
    return f"{document['chunks_embedded']:,} of {plural(described or document['chunks'], 'chunk')}"


def _stored(document: Mapping[str, Any]) -> str | None:
    """Return what a failed build leaves to the next one: a cell with a bad tile is embedded and not stored."""
    if document["build"] is None:
        return None
    if not document["chunks"]:
        return plural(document["tiles_embedded"], "new descriptor") if document["tiles_embedded"] else None
    return (
        f"{plural(document['chunks_embedded'], 'new descriptor')}, beside {document['chunks_copied']:,} of equal"
        " chunks or earlier builds"
    )


def rollback_report(document: Mapping[str, Any]) -> list[str]:
    """Return what a rollback did, from its JSON document."""
    if not document["changed"]:
        return [f"nothing to do: generation {document['generation']} shows build {document['build']} already"]
    number, build, before = document["generation"], document["build"], document["previous_build"]
    return [
        f"generation {number} now shows build {build}, in place of build {before}",
        "",
        *fields(("manifest", document["manifest_sha256"]), *forward(document["forward"])),
    ]


def forward(ways: Sequence[Mapping[str, int]]) -> list[tuple[str, str]]:
    """Return what leads forward again after a rollback, as labels and values, from a JSON document."""
    told = [f"c10 rollback --to {way['generation']} shows build {way['build']} again" for way in ways]
    return [("" if place else "forward", text) for place, text in enumerate(told)]


def hits(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a table of the places found, best first."""
    rows = [
        (
            place + 1,
            f"{hit['z']}/{hit['x']}/{hit['y']}",
            f"{hit['lon']:.6f}",
            f"{hit['lat']:.6f}",
            f"{hit['score']:.4f}",
        )
        for place, hit in enumerate(found)
    ]
    return table(("#", "tile z/x/y", "longitude", "latitude", "score"), rows, right="r rrr")
