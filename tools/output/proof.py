"""Text for how often a cache finds the places of photographs. Pure."""

from collections.abc import Sequence
from typing import Final

from pipeline.proof.measure import FIRST, RADII_M, Found, Shares
from tools.output import render

_MOST_ROWS: Final = 40


def within_shares(shares: Shares) -> dict[str, dict[str, float]]:
    """Return for programs which fraction of the photographs is found within how many metres, among how many first."""
    return {
        str(metres): {str(first): round(shares.within[metres, first] / shares.pictures, 6) for first in FIRST}
        for metres in RADII_M
    }


def lines(answers: Sequence[Found], shares: Shares) -> list[str]:
    """Return a row for each photograph, worst first, and the shares."""
    worst = sorted(answers, key=lambda each: (-each.errors_mm[0] if each.errors_mm else 1, each.file))
    worst.sort(key=lambda each: each.is_right)
    rows = [
        (
            each.file,
            f"{each.errors_mm[0] / 1000:,.0f}" if each.errors_mm else None,
            f"{min(each.errors_mm) / 1000:,.0f}" if each.errors_mm else None,
            None if each.margin_ppm is None else f"{each.margin_ppm / 1_000_000:.4f}",
            "outside of the area" if each.outside else "" if each.is_right else "wrong",
        )
        for each in worst[:_MOST_ROWS]
    ]
    found = [
        (
            f"within {metres} m",
            *(_share(shares.within[metres, first], shares.pictures) for first in FIRST),
        )
        for metres in RADII_M
    ]
    right, better = shares.better_half
    median = None if shares.median_mm is None else f"{shares.median_mm / 1000:,.0f} m"
    return [
        *render.table(("photograph", "m off", "best of ten", "margin", ""), rows, right="lrrrl"),
        *([f"and {len(worst) - _MOST_ROWS:,} more; --json has them"] if len(worst) > _MOST_ROWS else []),
        "",
        *render.table(
            (render.plural(shares.pictures, "photograph"), "first", "of five", "of ten"), found, right="lrrr"
        ),
        "",
        *render.fields(
            ("median", median),
            (
                "margin",
                f"of the {better} with the larger margin {right} are right ({_share(right, better)})"
                if better
                else "no answer has one",
            ),
        ),
        *_thresholds(shares),
    ]


def _thresholds(shares: Shares) -> list[str]:
    if not shares.thresholds:
        return []
    rows = [
        (f"{least / 1_000_000:.4f}", count, _share(right, count)) for least, count, right in shares.thresholds
    ]
    return ["", *render.table(("margin at least", "photographs", "right"), rows, right="rrr")]


def _share(part: int, whole: int) -> str:
    return render.share(part * 1_000_000 // whole)
