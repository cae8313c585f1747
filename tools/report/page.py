"""One self-contained page from the document that `c10 replay --json` prints.

The page holds its own style, scripts and data, and its content security policy allows nothing else: no network, no script
but these very bytes, pictures from the data alone. Recorded text reaches the page as JSON in which no `<` stands, and
becomes text nodes there, so that nothing in a journal from elsewhere can act as markup.
"""

import base64
import hashlib
import html
import json
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any, Final

MARK: Final = b"<!-- C10 flight recorder -->"
"""Stands near the beginning of every page, by which one is told from any other file."""

_SCRIPTS: Final = ("words.js", "map.js", "replay.js", "panels.js", "start.js")
_PLACES: Final = ("CSP", "CSS", "SUMMARY", "DATA", "SCRIPT")


def page(document: Mapping[str, Any]) -> str:
    """Return the page of a document in the form of `docs/replay.md`: HTML, in ASCII but for what the page says itself."""
    style = _part("page.css")
    script = "".join(('"use strict";\n(() => {\n', *map(_part, _SCRIPTS), "})();\n"))
    parts = {
        "CSP": _policy(style=style, script=script),
        "CSS": style,
        "SUMMARY": html.escape(str(document.get("summary", ""))),
        "DATA": embedded(document),
        "SCRIPT": script,
    }
    return "".join(_filled(_part("page.html"), parts))


def embedded(document: Mapping[str, Any]) -> str:
    """Return JSON that can stand in a page: no end of a script and no comment begins in it."""
    text = json.dumps(document, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _filled(template: str, parts: Mapping[str, str]) -> Iterator[str]:
    """Put parts into the template in one pass, so that a place named in the data is no place."""
    rest = template
    for name in _PLACES:
        before, found, rest = rest.partition(f"@{name}@")
        if not found:
            raise AssertionError(f"expected a place for {name} in the page")
        yield before
        yield parts[name]
    yield rest


def _policy(*, style: str, script: str) -> str:
    rules = {
        "default-src": "'none'",
        "style-src": _hash_of(style),
        "script-src": _hash_of(script),
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {allowed}" for name, allowed in rules.items())


def _hash_of(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
    return f"'sha256-{digest}'"


def _part(name: str) -> str:
    return resources.files("tools.report").joinpath("parts", name).read_text(encoding="utf-8")
