"""Write one self-contained page from the document of `c10 replay --json`.

The page contains its style, scripts and data, and its content security policy allows nothing else: no
network, no other script, no pictures but those in the data. Recorded text is in the page as JSON without any
`<`, and becomes text nodes, so that nothing in a foreign journal can act as markup.
"""

import base64
import hashlib
import html
import json
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any, Final

from tools.report.static import static_steps

MARK: Final = b"<!-- C10 flight recorder -->"
"""Near the beginning of every page; tells a page from any other file."""

_SCRIPTS: Final = (
    "words.js",
    "imagery.js",
    "counts.js",
    "map.js",
    "proof.js",
    "bars.js",
    "replay.js",
    "records.js",
    "panels.js",
    "start.js",
)
_IMAGERY: Final = '<script type="application/json" id="imagery-data">{}</script>\n'
_PLACEHOLDERS: Final = ("CSP", "CSS", "SUMMARY", "STEPS", "DATA", "IMAGERY", "SCRIPT")


def page(document: Mapping[str, Any], imagery: Mapping[str, Any] | None = None) -> str:
    """Return the HTML page of a document as `docs/replay.md` describes it.

    `imagery` are the pictures under its map, as `tools.report.imagery.imagery_document` makes them.
    """
    style = _part("page.css")
    script = "".join(('"use strict";\n(() => {\n', *map(_part, _SCRIPTS), "})();\n"))
    parts = {
        "CSP": _policy(style=style, script=script),
        "CSS": style,
        "SUMMARY": html.escape(str(document.get("summary", ""))),
        "STEPS": static_steps(document),
        "DATA": embedded(document),
        "IMAGERY": "" if imagery is None else _IMAGERY.format(embedded(imagery)),
        "SCRIPT": script,
    }
    return "".join(_filled(_part("page.html"), parts))


def embedded(document: Mapping[str, Any]) -> str:
    """Return JSON that is safe in a page: it can neither end a script nor begin a comment."""
    text = json.dumps(document, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _filled(template: str, parts: Mapping[str, str]) -> Iterator[str]:
    """Fill the template in one pass, so that a placeholder in the data is not replaced."""
    rest = template
    for name in _PLACEHOLDERS:
        before, found, rest = rest.partition(f"@{name}@")
        if not found:
            raise AssertionError(f"expected a placeholder for {name} in the page")
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
