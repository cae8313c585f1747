"""Judge whether a cache that is intact is also fit to fly: warnings, each with what mends it. Pure.

`c10 verify`, `status` and `build`, the report page and `FlightCache` ask the same function, so that the same
cache gets the same sentences everywhere. `store.trust.readiness_facts` collects what is judged.
"""

import math
from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any, Final

from store.base.cache_warning import CacheWarning
from store.base.geometry.level import EARTH_M
from store.base.valueclass import valueclass
from store.trust.go_no_go import UNCHECKED
from store.trust.readiness_facts import FINEST_ASKED_M, AreaCounts, Facts, Reading, Resolution, Signature

MAX_AGE_DAYS: Final[Mapping[str, int]] = {"active_conflict": 180, "stable_rear": 365}
"""Greatest age of a tile by sector, days."""

_E7: Final = 10_000_000
CLOCK: Final = "clock"
"""Kind of the warning that the clock is behind the commit, so that nobody knows an age."""

_BUILD: Final = "then c10 build"
_AGAIN: Final = "c10 build --again"
"""Writes dates that were corrected: they are no part of a build's identity."""


@valueclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """Whether a cache is fit to fly on a day, from a place. None: not known.

    Attributes:
        coverage: Part of the area in which a place can be found, 0 to 1.
        holes: Wanted tiles or steps of ground that are not there.
        featureless: Those that are there and in which no place can be found.
        oldest: When the oldest tile was captured.
        age_days: Its age, days.
        age_limit_days: The greatest age that the sector allows, days.
        undated: Number of tiles without a capture date.
        origin_inside: Whether the take-off lies in the area.
        resolution: Of the level whose imagery is coarsest for what it asks.
        read: How closely the cache was read: "quick", "budget" or "full".
        loaded: Whether engines and index were loaded here.
        proof: What the photographs showed (`store.manifest.proof_figures`).
        signed_by: Id of the key that signed.
        warnings: What is to be said; none of a cache that is fit to fly.
    """

    coverage: float | None
    holes: int | None
    featureless: int | None
    oldest: date | None
    age_days: int | None
    age_limit_days: int | None
    undated: int | None
    origin_inside: bool | None
    resolution: Resolution | None
    read: str | None
    loaded: bool | None
    proof: Mapping[str, Any] | None
    signed_by: str | None
    warnings: tuple[CacheWarning, ...]

    def to_document(self) -> dict[str, Any]:
        """Return the `readiness` of `--json`."""
        found = self.resolution
        return {
            "coverage": None if self.coverage is None else round(self.coverage, 4),
            "holes": self.holes,
            "featureless": self.featureless,
            "oldest": None if self.oldest is None else self.oldest.isoformat(),
            "age_days": self.age_days,
            "age_limit_days": self.age_limit_days,
            "origin_inside": self.origin_inside,
            "metres_per_pixel": None
            if found is None
            else {"asked": round(found.asked, 3), "available": round(found.available, 3)},
            "read": self.read,
            "loaded": self.loaded,
            "proof": None if self.proof is None else dict(self.proof),
            "signed_by": self.signed_by,
        }

    def shortfalls(
        self, *, min_coverage: float | None, max_age_days: int | None, min_proof: float | None
    ) -> tuple[str, ...]:
        """Return why it falls short of what a caller demands; each demand may be None.

        Args:
            min_coverage: Least part of the area in which a place can be found, 0 to 1.
            max_age_days: Greatest age of a tile, days; a tile without a date is too old.
            min_proof: Least part of the photographs of a proof that were found, 0 to 1.
        """
        found = []
        if min_coverage is not None and (self.coverage is None or self.coverage < min_coverage):
            part = "that it is not known" if self.coverage is None else f"{self.coverage:.4g}"
            found.append(
                f"coverage: expected a place to be found in at least {min_coverage:g} of the area, found {part}"
            )
        if max_age_days is not None and self.age_days is not None and self.age_days > max_age_days:
            found.append(
                f"imagery: expected tiles of at most {max_age_days} days, found one of {self.oldest}, "
                f"{self.age_days} days old"
            )
        if max_age_days is not None and (self.undated or self.age_days is None):
            found.append("imagery: expected a capture date for every tile, found tiles without")
        if max_age_days is not None and any(each.kind == CLOCK for each in self.warnings):
            found.append("imagery: expected a clock that tells its age, found one behind the commit")
        if min_proof is None:
            return tuple(found)
        if self.proof is None:
            found.append("proof: expected one by photographs of known places, found none")
        elif self.proof["right"] < min_proof * self.proof["pictures"]:
            found.append(
                f"proof: expected at least {min_proof:g} of its photographs to be found, "
                f"found {self.proof['right']} of {self.proof['pictures']}"
            )
        return tuple(found)


def judge(facts: Facts, *, today: date, origin: tuple[int, int] | None = None) -> Readiness:
    """Judge whether a cache is fit to fly.

    Args:
        facts: What is known of it.
        today: The day of the flight, UTC. Before the commit, the clock is wrong: ages are those of the commit.
        origin: Longitude and latitude of the take-off in 1e-7 degree; by default that of the request.
    """
    counts, dates, reading = facts.counts, facts.dates, facts.reading
    take_off = facts.origin if origin is None else origin
    oldest = None if dates is None else dates.oldest
    day = today if facts.committed is None else max(today, facts.committed)
    inside = None if facts.area is None or take_off is None else _is_inside(facts.area, take_off)
    if inside and not facts.area_is_box:
        # The area lies somewhere in that box.
        inside = None if facts.shape is None or take_off is None else facts.shape.contains(*take_off)
    age = None if oldest is None else max(0, (day - oldest).days)
    limit = MAX_AGE_DAYS.get(facts.sector or "")
    return Readiness(
        coverage=facts.coverage,
        holes=None if counts is None else counts.wanted - counts.present,
        featureless=None if counts is None else counts.featureless,
        oldest=oldest,
        age_days=age,
        age_limit_days=limit,
        undated=None if dates is None else dates.undated,
        origin_inside=inside,
        resolution=max(facts.resolutions, key=lambda each: each.available / each.asked, default=None),
        read=None if reading is None else reading.depth,
        loaded=None if reading is None else _is_loaded(reading),
        proof=facts.proof,
        signed_by=facts.signed_by,
        warnings=(
            *(() if counts is None else area_warnings(counts, chunks=facts.chunks)),
            *_age_warnings(facts, day, age, limit),
            *(_origin_warning(facts, take_off) if inside is False else ()),
            *_detail_warnings(facts),
            *_margin_warning(facts),
            *(() if reading is None else _reading_warnings(reading)),
            *_signature_warning(facts),
            *_clock_warning(facts.committed, today),
        ),
    )


def area_warnings(counts: AreaCounts, *, chunks: bool) -> Iterator[CacheWarning]:
    """Yield each reason why a part of an area cannot be localised.

    `chunks` says that steps of ground were counted; `skipped` are tiles in any case.
    """
    wanted, present, skipped = counts.wanted, counts.present, counts.skipped
    if present < wanted:
        missing = wanted - present
        yield CacheWarning(
            kind="holes",
            message=f"{_percent(missing, wanted)} of the area is under no chunk: tiles are missing or left out"
            if chunks
            else f"{missing:,} of {wanted:,} wanted tiles are missing from the source or left out",
            hint=f"fetch the missing tiles or shrink the area, {_BUILD}",
        )
    if skipped:
        share = f"{skipped:,} tile{'s' if skipped > 1 else ''}"
        verb, most = "was" if skipped == 1 else "were", ""
        if not chunks:
            share = f"{skipped:,} of {present:,} tiles ({max(1, round(100 * skipped / max(present, 1)))} %)"
            most = ": most of the area is not covered" if 2 * skipped > present else ""
        yield CacheWarning(
            kind="skipped-tiles",
            message=f"{share} could not be used (no image, or no descriptor) and {verb} skipped{most}",
            hint=f"look at the source and fetch these tiles again, {_BUILD}",
        )
    if counts.featureless:
        why = "water, no data, more than a quarter transparent, black or white, or the same as"
        share, other = f"{_percent(counts.featureless, wanted)} of the area is", "elsewhere"
        if not chunks:
            share = f"{counts.featureless:,} {'tiles are' if counts.featureless > 1 else 'tile is'}"
            other = "another tile"
        yield CacheWarning(
            kind="featureless",
            message=f"{share} featureless ({why} {other}): nobody finds a place there",
            hint=f"plan no fix over it; where it should be ground, fetch other imagery, {_BUILD}",
        )


def _age_warnings(facts: Facts, day: date, age: int | None, limit: int | None) -> Iterator[CacheWarning]:
    dates = facts.dates
    if dates is None:
        return
    if age is not None and limit is not None and age > limit:
        yield CacheWarning(
            kind="imagery-old",
            message=f"the oldest imagery is of {dates.oldest}, {age:,} days old on {day}; the sector {facts.sector} "
            f"allows {limit}",
            hint=f"fetch newer imagery, {_BUILD}; if only tiles.captured was wrong, {_AGAIN}",
        )
    if dates.undated:
        yield CacheWarning(
            kind="imagery-undated",
            message=f"{dates.undated:,} tile{' is' if dates.undated == 1 else 's are'} of unknown age",
            hint=f"set tiles.captured to a date or a CSV file, then {_AGAIN}",
        )
    if dates.newest is not None and dates.newest > day:
        yield CacheWarning(
            kind="imagery-from-future",
            message=f"the newest imagery is of {dates.newest}, after {day}",
            hint=f"correct the clock of this machine, or tiles.captured, then {_AGAIN}",
        )


def _origin_warning(facts: Facts, origin: tuple[int, int] | None) -> Iterator[CacheWarning]:
    place, box = ([round(each / _E7, 7) for each in degrees or ()] for degrees in (origin, facts.area))
    mend = f"correct origin or widen {'bbox' if facts.area_is_box else 'the area'}"
    if facts.area is not None and origin is not None and _is_inside(facts.area, (origin[1], origin[0])):
        mend = "exchange the first two numbers of origin, longitude comes first"
    yield CacheWarning(
        kind="origin-outside",
        message=f"the take-off {place} lies outside of the area {'' if facts.area_is_box else 'within '}{box}",
        hint=f"{mend}, {_BUILD}",
    )


def _detail_warnings(facts: Facts) -> Iterator[CacheWarning]:
    """Yield why a cache finds fewer places than it could, or none."""
    for found in facts.resolutions:
        if found.is_too_coarse:
            yield CacheWarning(
                kind="resolution",
                message=f"level {found.level}: the imagery has {found.available:.2f} m per pixel, and chunks of "
                f"{found.side_m:.0f} m ask for {found.asked:.2f} m",
                hint=("name finer imagery" if found.is_upsampled else "add a higher zoom")
                + f", of at most {min(2 * found.asked, max(found.asked, FINEST_ASKED_M)):.2f} m per pixel, {_BUILD}",
            )
    if not facts.chunks:
        yield CacheWarning(
            kind="tile-descriptors",
            message="each tile gets one descriptor: such a cache recognises crops of its own imagery, not the "
            "ground in a photograph",
            hint=f"set altitude_m, with the camera in the calibration, {_BUILD}",
        )
    if not facts.has_proof:
        yield CacheWarning(
            kind="no-proof",
            message="nobody has shown that this cache finds a place in a photograph",
            hint=f"add [proof] with photographs of known places to the request, {_BUILD}",
        )


def _margin_warning(facts: Facts) -> Iterator[CacheWarning]:
    """Yield that no answer will have a margin: it is the score of a chunk more than a side away, and there is none."""
    side = min((each.side_m for each in facts.resolutions), default=0.0)
    across = 0.0 if facts.area is None else _diagonal_m(facts.area)
    if facts.area is not None and across <= side:
        yield CacheWarning(
            kind="no-margin",
            message=f"the area is {across:.0f} m across, and one chunk {side:.0f} m: no answer has a margin, and "
            "nothing tells a right one from a wrong one",
            hint=f"widen the area by some chunks on each side, {_BUILD}",
        )


def _diagonal_m(box: tuple[int, int, int, int]) -> float:
    """Return the length of the diagonal of a box in 1e-7 degree, metres."""
    west, south, east, north = box
    nearest, turn = math.radians(max(south, -north, 0) / _E7), 360 * _E7
    wide = (east - west) % turn or turn
    return math.hypot(wide * math.cos(nearest), north - south) * EARTH_M / turn


def _is_loaded(reading: Reading) -> bool | None:
    if reading.not_loaded or reading.elsewhere:
        return False
    return True if reading.loaded else None


def _reading_warnings(reading: Reading) -> Iterator[CacheWarning]:
    load = "c10 verify --full, on board FlightCache.load_all()"
    if not reading.is_whole:
        what = (
            f"{reading.hashed:,} of {reading.files:,} files was read, of the others"
            if reading.hashed
            else "no file was read,"
        )
        yield CacheWarning(
            kind="content-not-read",
            message=f"the content of {what} type and size alone were checked",
            hint="c10 verify --full, on board FlightCache.verify()",
        )
    elif not (reading.loaded or reading.not_loaded or reading.elsewhere):
        yield CacheWarning(kind="not-loaded", message="engine and index were not loaded here", hint=load)
    for subject, why in reading.not_loaded.items():
        yield CacheWarning(
            kind="not-loaded",
            message=f"{subject} was not loaded here: {why}",
            hint=f"install what is missing, then {load}",
        )
    for subject, why in reading.elsewhere.items():
        yield CacheWarning(
            kind="other-device", message=f"{subject} was not run here: {why}", hint=f"{load}, on that device"
        )


def _signature_warning(facts: Facts) -> Iterator[CacheWarning]:
    if facts.signature is Signature.ABSENT:
        yield CacheWarning(
            kind="unsigned",
            message="nobody signed this generation",
            hint="c10 keygen -o NAME makes a key, c10 sign --key NAME signs with it",
        )
    elif facts.signature is Signature.UNCHECKED:
        yield CacheWarning(
            kind="signature-unchecked",
            message=UNCHECKED,
            hint="c10 verify --trusted-key NAME.pub, on board FlightCache.open(trusted_keys=...)",
        )


def _clock_warning(committed: date | None, today: date) -> Iterator[CacheWarning]:
    if committed is not None and today < committed:
        yield CacheWarning(
            kind=CLOCK,
            message=f"the clock says {today}, and this was committed on {committed}; ages are those of {committed}",
            hint="set the clock of this machine",
        )


def _is_inside(box: tuple[int, int, int, int], point: tuple[int, int]) -> bool:
    """Whether a point lies in a box or on its edge."""
    (west, south, east, north), (longitude, latitude) = box, point
    across = west <= longitude <= east if west < east else longitude >= west or longitude <= east
    return across and south <= latitude <= north


def _percent(part: int, whole: int) -> str:
    share = 100 * part / max(whole, 1)
    return f"{share:.1f} %" if share >= 0.1 else "less than 0.1 %"
