"""Text for whether a cache is fit to fly, from its JSON document. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from store.domain.proof import described
from tools.output import render
from tools.output.colour import Coloured


def verdict(text: str, *, go: bool, warnings: int) -> Coloured:
    """Return the line that says GO, GO with a number of warnings, or NO-GO; `text` says of what."""
    if not go:
        return Coloured(f"NO-GO  {text}", "red")
    if warnings:
        return Coloured(f"GO, {render.plural(warnings, 'warning')}  {text}", "yellow")
    return Coloured(f"GO  {text}", "green")


def fields(readiness: Mapping[str, Any], *, newest: str | None = None) -> Sequence[tuple[str, str | None]]:
    """Return labels and values of what is known; `newest` is when the newest tile was captured, if that is told."""
    oldest, age, limit = (readiness[name] for name in ("oldest", "age_days", "age_limit_days"))
    pixel, coverage, proof = (readiness[name] for name in ("metres_per_pixel", "coverage", "proof"))
    allowed = "" if limit is None else f", {limit} allowed"
    newest = "" if newest in {None, oldest} else f"; the newest of {newest}"
    return (
        (
            "coverage",
            None if coverage is None else f"a place can be found in {100 * coverage:.1f} % of the area",
        ),
        ("imagery", None if oldest is None else f"the oldest of {oldest}, {age:,} days old{allowed}{newest}"),
        (
            "detail",
            None
            if pixel is None
            else f"{pixel['available']:.2f} m per pixel, {pixel['asked']:.2f} m asked for",
        ),
        ("proof", None if proof is None else described(proof)),
    )
