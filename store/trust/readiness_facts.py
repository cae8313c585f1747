"""What the readiness of a cache is judged by, from the inputs of a build or from a manifest. Pure."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import date, datetime, timezone
from typing import Any, Final

from store.backports import StrEnum
from store.base.geometry.level import metres_per_pixel, pixel_m, side_m
from store.base.valueclass import valueclass
from store.errors import ErrorKind, NoGoError
from store.formats.area_shape import AreaShape
from store.formats.capture_dates import CaptureDates
from store.manifest.levels import parse_levels
from store.manifest.manifest import Manifest
from store.manifest.proof_figures import figures_in

FINEST_ASKED_M: Final = 0.5
"""Metres per pixel of imagery that is fine enough for any flight, unless a level asks for twice as fine."""

_E7: Final = 10_000_000
_NANOSECONDS: Final = 1_000_000_000


@valueclass(frozen=True, slots=True, kw_only=True)
class AreaCounts:
    """What is known of an area.

    Attributes:
        wanted: Its tiles, or its steps of ground by the level that shows least.
        present: Those of them that are there.
        featureless: Those of `present` in which no place can be found.
        skipped: Tiles that have no descriptor.
    """

    wanted: int
    present: int
    featureless: int
    skipped: int


@valueclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """Metres per pixel that the chunks of a level ask for, and those of the imagery, whatever its tiles have.

    Sides in metres. Of imagery whose tiles are upsampled, a higher zoom has no more detail.
    """

    level: int
    side_m: float
    asked: float
    available: float
    is_upsampled: bool = False

    @property
    def is_too_coarse(self) -> bool:
        """Whether the imagery lacks detail that the network could use."""
        return self.available > 2 * self.asked or self.available > max(self.asked, FINEST_ASKED_M)


class Signature(StrEnum):
    """What is known of the signatures of a generation."""

    HOLDS = "holds"
    UNCHECKED = "unchecked"
    ABSENT = "absent"


@valueclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How closely a cache was looked at, on this machine.

    Attributes:
        depth: "quick", "budget" or "full", as `c10 verify` names them.
        hashed: Number of files whose content was read.
        files: Number of files.
        loaded: Whether engines and index were loaded.
        not_loaded: What could not be loaded, and why.
        elsewhere: Engines for another device, and what that means.
    """

    depth: str
    hashed: int
    files: int
    loaded: bool = False
    not_loaded: Mapping[str, str]
    elsewhere: Mapping[str, str]

    @property
    def is_whole(self) -> bool:
        """Whether the content of all files was read."""
        return self.depth == "full" or self.hashed >= self.files > 0


@valueclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a cache is judged by. None: not known, so that it is not judged.

    Attributes:
        sector: How fast the ground changes.
        area: West, south, east, north of the area, 1e-7 degree; west > east crosses the antimeridian.
        area_is_box: Whether the area is all of that box, and no polygon or corridor in it.
        shape: Its polygons and corridors, where it is no box and they are known.
        origin: Longitude and latitude of the take-off, 1e-7 degree.
        counts: What is there of the area.
        chunks: Whether chunks of ground have the descriptors, and not tiles.
        dates: When the tiles were captured.
        resolutions: Of each level of chunks.
        has_proof: Whether photographs were found before the commit, or will be.
        proof: How many of them (`store.manifest.proof_figures`).
        committed: Day of the commit, UTC.
        reading: How closely the cache was looked at; None where it was not the question.
        signature: What is known of its signatures; None where it was not the question.
        signed_by: Id of the key that signed.
    """

    sector: str | None
    area: tuple[int, int, int, int] | None
    origin: tuple[int, int] | None
    counts: AreaCounts | None
    chunks: bool
    dates: CaptureDates | None
    resolutions: tuple[Resolution, ...]
    has_proof: bool
    proof: Mapping[str, Any] | None = None
    committed: date | None = None
    reading: Reading | None = None
    signature: Signature | None = None
    signed_by: str | None = None
    area_is_box: bool = True
    shape: AreaShape | None = None

    @property
    def coverage(self) -> float | None:
        """Part of the area in which a place can be found, 0 to 1."""
        counts = self.counts
        if counts is None or not counts.wanted:
            return None
        # The skipped tiles of chunks are no steps of ground.
        skipped = 0 if self.chunks else counts.skipped
        return (counts.present - counts.featureless - skipped) / counts.wanted


def facts_of_inputs(
    inputs: Mapping[str, Any],
    *,
    counts: AreaCounts | None,
    dates: CaptureDates | None,
    proof: Mapping[str, Any] | None = None,
    shape: AreaShape | None = None,
) -> Facts:
    """Return the facts of a build with some inputs, committed or not; nobody looked at its files.

    Args:
        inputs: The inputs of the build, which its identity is the digest of.
        counts: What is there of its area.
        dates: When its tiles were captured.
        proof: What its photographs showed.
        shape: The shape of an area that is no box, if it is known.

    Raises:
        KeyError, TypeError, ValueError: These are no inputs of a build.
    """
    origin = inputs["origin"]
    west, south, east, north = map(_whole, inputs["bbox_e7"])
    return Facts(
        sector=str(inputs["sector"]),
        area=(west, south, east, north),
        origin=(_whole(origin["lon_e7"]), _whole(origin["lat_e7"])),
        counts=counts,
        chunks="chunks" in inputs,
        dates=dates,
        resolutions=_resolutions(inputs),
        has_proof="proof" in inputs,
        proof=proof,
        area_is_box="area" not in inputs,
        shape=shape,
    )


def _whole(value: object) -> int:
    if type(value) is not int:
        raise TypeError(f"expected 1e-7 degrees as a whole number, found {value!r:.40}")
    return value


def facts_of_manifest(
    manifest: Manifest,
    *,
    dates: CaptureDates | None,
    reading: Reading | None = None,
    signature: Signature | None = None,
    signed_by: str | None = None,
    shape: AreaShape | None = None,
) -> Facts:
    """Return the facts of a generation.

    Args:
        manifest: Its manifest.
        dates: When its tiles were captured.
        reading: How closely its files were looked at; None where it was not the question.
        signature: What is known of its signatures, likewise.
        signed_by: Id of the key that signed it.
        shape: The shape of an area that is no box, if it could be read.

    Raises:
        NoGoError: The manifest does not say what every build records.
    """
    try:
        area = manifest.body["geography"]
        names = ("wanted", "present", "featureless", "skipped")
        facts = facts_of_inputs(
            manifest.inputs,
            counts=AreaCounts(**{name: int(area[name]) for name in names}),
            dates=dates,
            proof=figures_in(manifest.body),
            shape=shape,
        )
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise NoGoError(
            (
                f"manifest: expected area, origin and sector of the build, found {type(error).__name__}: {error}",
            ),
            kind=ErrorKind.MANIFEST_INVALID,
            hint="c10 verify --full on the ground",
        ) from error
    return replace(
        facts,
        committed=_day_of(manifest.envelope.wall_ns),
        reading=reading,
        signature=signature,
        signed_by=signed_by,
    )


def _day_of(wall_ns: int) -> date | None:
    try:
        return datetime.fromtimestamp(wall_ns // _NANOSECONDS, tz=timezone.utc).date()
    except (ValueError, OverflowError):  # a manifest may hold any number
        return None


def _resolutions(inputs: Mapping[str, Any]) -> tuple[Resolution, ...]:
    """Return what each level asks for and has where the area is nearest to the equator: a pixel shows most there."""
    _, south, _, north = inputs["bbox_e7"]
    latitude = max(south, -north, 0) / _E7
    sides = [min(each["preprocessing"]["size"]) for each in inputs["models"] if each["role"] == "descriptor"]
    levels = parse_levels(inputs)
    sources = inputs["imagery"]["pixel_mm"] if "imagery" in inputs else [0] * len(levels)
    return tuple(
        Resolution(
            level=number,
            side_m=side_m(each.level, latitude),
            asked=side_m(each.level, latitude) / max(sides),
            available=max(
                metres_per_pixel(each.level.zoom, each.tile_edge, latitude), pixel_m(source_mm, latitude)
            ),
            is_upsampled=bool(source_mm),
        )
        for number, (each, source_mm) in enumerate(zip(levels, sources, strict=True), start=1)
    )
