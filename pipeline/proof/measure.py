"""Count how often a cache finds the place of a photograph, and what its margin is worth. Pure.

Errors are whole millimetres along the ground (`store.base.geometry.distances`: haversine on a sphere) and margins whole
millionths, so that a record of the answers gives the same figures again.
"""

import math
from collections.abc import Iterable, Sequence
from hashlib import sha256
from statistics import median
from typing import Final

from store.base.geometry.distances import distance_m, moved
from store.base.valueclass import valueclass
from store.manifest.proof_figures import RIGHT_WITHIN_M

RADII_M: Final = (20, 50, 100)
FIRST: Final = (1, 5, 10)
MOST_CANDIDATES: Final = max(FIRST)
RIGHT_MM: Final = 1000 * RIGHT_WITHIN_M
"""The first candidate is right where it is no farther from the true place."""

_PRIOR: Final = b"c10/prior/1"
_PRIOR_REACH: Final = 0.7
_MOST_THRESHOLDS: Final = 20
_MILLION: Final = 1_000_000


@valueclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a cache answered for one photograph.

    Attributes:
        file: As the table names it.
        outside: Whether its true place lies outside of the area of the cache; then no answer is right.
        errors_mm: How far each candidate is from the true place, best first, millimetres.
        margin_ppm: Margin of the answer in millionths; None if it had none.
    """

    file: str
    outside: bool
    errors_mm: tuple[int, ...]
    margin_ppm: int | None

    def is_within(self, distance_mm: int, first: int) -> bool:
        """Return whether one of the first candidates is no farther from the true place."""
        return not self.outside and any(error <= distance_mm for error in self.errors_mm[:first])

    @property
    def is_right(self) -> bool:
        """Whether the first candidate is within 50 m."""
        return self.is_within(RIGHT_MM, 1)


@valueclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """What some answers come to.

    Attributes:
        pictures: How many there are.
        within: How many have the true place within so many metres of one of so many first candidates, by both.
        median_mm: Median of the first candidates' errors, millimetres; None if there is none for half of them.
        better_half: How many are right of the half with the larger margin, and how many these are.
        thresholds: Margins in millionths, ascending; the pictures with at least that one; how many are right.
    """

    pictures: int
    within: dict[tuple[int, int], int]
    median_mm: int | None
    better_half: tuple[int, int]
    thresholds: tuple[tuple[int, int, int], ...]


def prior(place: tuple[float, float], picture_sha256: bytes, radius_m: float) -> tuple[float, float]:
    """Return a guess of a place, off by at most 0.7 of the radius, that follows from the picture alone.

    Args:
        place: Longitude and latitude of the true place, degrees.
        picture_sha256: Digest of the picture's file, 32 bytes.
        radius_m: The radius that is searched around the guess, metres.
    """
    drawn = sha256(_PRIOR + picture_sha256).digest()
    u, v = (int.from_bytes(drawn[start : start + 8], "big") / 2**64 for start in (0, 8))
    return moved(place, _PRIOR_REACH * radius_m * math.sqrt(u), 2 * math.pi * v)


def found_for(
    file: str,
    place: tuple[float, float],
    candidates: Iterable[tuple[float, float]],
    margin: float | None,
    *,
    outside: bool,
) -> Found:
    """Return what was found, for the true place and the candidates' in degrees, best first."""
    return Found(
        file=file,
        outside=outside,
        errors_mm=tuple(round(distance_m(place, each) * 1000) for each in candidates),
        margin_ppm=None if margin is None else round(margin * _MILLION),
    )


def count_shares(answers: Sequence[Found]) -> Shares:
    """Return what answers come to."""
    marked = sorted(
        ((each.margin_ppm, each) for each in answers if each.margin_ppm is not None),
        key=lambda pair: (-pair[0], pair[1].file),
    )
    better = [each for _, each in marked[: math.ceil(len(marked) / 2)]]
    middle = (
        median(each.errors_mm[0] if each.errors_mm else math.inf for each in answers) if answers else math.inf
    )
    return Shares(
        pictures=len(answers),
        within={
            (metres, first): sum(each.is_within(metres * 1000, first) for each in answers)
            for metres in RADII_M
            for first in FIRST
        },
        median_mm=round(middle) if middle < math.inf else None,
        better_half=(sum(each.is_right for each in better), len(better)),
        thresholds=_thresholds(marked),
    )


def _thresholds(marked: Sequence[tuple[int, Found]]) -> tuple[tuple[int, int, int], ...]:
    """Return the table of margins, for answers by falling margin; at most 20 thresholds, evenly by rank."""
    steps = min(len(marked), _MOST_THRESHOLDS)
    ranks = (math.ceil(len(marked) * part / steps) for part in range(steps, 0, -1))
    chosen = dict.fromkeys(marked[rank - 1][0] for rank in ranks)
    return tuple(
        (least, len(above), sum(each.is_right for each in above))
        for least in chosen
        for above in [[each for margin, each in marked if margin >= least]]
    )
