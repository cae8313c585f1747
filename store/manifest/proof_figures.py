"""Read what a proof by photographs measured, as events and manifests record it. Pure."""

from collections.abc import Mapping
from typing import Any, Final

PROOF_CHECK: Final = "proof"
"""Name of the check."""

_MILLION: Final = 1_000_000


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
    measured = (each["measured"] for each in body["checks"] if each["check"] == PROOF_CHECK)
    return parse_figures(next(measured, None))
