"""Read what a proof by photographs measured, as events and manifests record it. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from store.base.valueclass import valueclass

PROOF_CHECK: Final = "proof"
"""Name of the check."""

RIGHT_WITHIN_M: Final = 50
"""In the table of margins an answer is right if its first candidate is no farther from the true place, metres."""

_MILLION: Final = 1_000_000


@valueclass(frozen=True, slots=True, kw_only=True)
class ProvenMargin:
    """What a margin is worth, by the photographs of a proof.

    Attributes:
        margin: The margin.
        photographs: How many photographs of the proof were answered with at least that margin.
        right: How many of these had their first candidate within `within_m` of the true place.
        within_m: That distance, metres.
        near_m: The radius around a guess, off by at most 0.7 of it, within which the proof searched, metres; None
            if it searched everywhere. A margin of a narrower search tells less.
    """

    margin: float
    photographs: int
    right: int
    within_m: float
    near_m: float | None


def parse_figures(measured: object) -> dict[str, Any] | None:
    """Return what a proof found, for programs: metres, and fractions of the photographs; None if it does not say it."""
    near = measured.get("near_mm") if isinstance(measured, Mapping) else None
    match measured:
        case {
            "pictures": int(pictures),
            "right": int(right),
            "within_mm": int(within),
            "at": int(at),
            "min_ppm": int(least),
            "better_half_right_ppm": None | int() as better,
        } if near is None or isinstance(near, int):
            return {
                "pictures": pictures,
                "right": right,
                "within_m": within / 1000,
                "at": at,
                "min": least / _MILLION,
                "near_m": None if near is None else near / 1000,
                "better_half_right": None if better is None else better / _MILLION,
            }
        case _:
            return None


def figures_in(body: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what the proof found that the body of a manifest tells of; None without one."""
    return parse_figures(_measured_in(body))


def least_margin(body: Mapping[str, Any], part: float) -> ProvenMargin | None:
    """Return the least margin from which on at least a part of the answers was right, by the body of a manifest.

    Every larger margin in the table must reach that part too. None if none does, or without a table.

    Args:
        body: The body.
        part: 0 to 1.
    """
    measured = _measured_in(body)
    figures, table = parse_figures(measured), _margins_of(measured)
    found = None
    for margin, photographs, right in sorted(table, reverse=True):
        if figures is None or right < part * photographs:
            break
        found = ProvenMargin(
            margin=margin / _MILLION,
            photographs=photographs,
            right=right,
            within_m=float(RIGHT_WITHIN_M),
            near_m=figures["near_m"],
        )
    return found


def _measured_in(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return next((each["measured"] for each in body["checks"] if each["check"] == PROOF_CHECK), None)


def _margins_of(measured: Mapping[str, Any] | None) -> Iterable[tuple[int, int, int]]:
    """Return the rows of the table of margins; none if one of them is no row of it."""
    rows = () if measured is None else measured.get("margins", ())
    table = list[tuple[int, int, int]]()
    for row in rows if isinstance(rows, Sequence) else ():
        match row:
            case [int(margin), int(photographs), int(right)] if 0 <= right <= photographs > 0:
                table.append((margin, photographs, right))
            case _:
                return ()
    return table
