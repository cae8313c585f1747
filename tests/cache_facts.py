"""Facts of a cache that is fit to fly, and what may be wrong with it."""

from datetime import date

from store.formats.capture_dates import CaptureDates
from store.trust.readiness_facts import AreaCounts, Facts, Reading, Resolution, Signature

TODAY = date(2026, 11, 29)
FIGURES = {
    "pictures": 16,
    "right": 14,
    "within_m": 50.0,
    "at": 1,
    "min": 0.8,
    "near_m": None,
    "better_half_right": 1.0,
}


def a_reading(**fields):
    settings = {"depth": "full", "hashed": 9, "files": 9, "loaded": True, "not_loaded": {}, "elsewhere": {}}
    return Reading(**(settings | fields))


def a_level(available, *, asked=0.5, number=1):
    return Resolution(level=number, side_m=120.0, asked=asked, available=available)


def some_dates(oldest=date(2026, 3, 1), newest=date(2026, 5, 1), undated=0):
    return CaptureDates(oldest=oldest, newest=newest, undated=undated)


def some_counts(wanted=200, present=200, featureless=0, skipped=0):
    return AreaCounts(wanted=wanted, present=present, featureless=featureless, skipped=skipped)


def make_facts(**fields):
    settings = {
        "sector": "stable_rear",
        "area": (100_000_000, 200_000_000, 110_000_000, 210_000_000),
        "origin": (105_000_000, 205_000_000),
        "counts": some_counts(),
        "chunks": True,
        "dates": some_dates(),
        "resolutions": (a_level(0.4),),
        "has_proof": True,
        "proof": FIGURES,
        "committed": date(2026, 6, 1),
        "reading": a_reading(),
        "signature": Signature.HOLDS,
        "signed_by": "ab" * 8,
    }
    return Facts(**(settings | fields))


def warnings_of(report, today=TODAY):
    """The warnings of a verification, as (kind, message)."""
    return [(each.kind, each.message) for each in report.readiness(today).warnings]
