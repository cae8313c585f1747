"""The part of `FlightCache` that says whether it is fit to fly, beside being whole."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date

from store.errors import ErrorKind, NoGoError, TranslateShortages
from store.formats.area_shape import AreaShape
from store.formats.capture_dates import CaptureDates, parse_capture_column
from store.manifest.proof_figures import ProvenMargin, least_margin
from store.manifest.roles import AREA
from store.reader.arguments import as_day, as_days, as_part, as_place
from store.reader.carried_tiles import CarriedTiles
from store.reader.manifest_files import damaged
from store.reader.results import LoadedCache, Verification
from store.reader.verify_content import verify_content
from store.trust.readiness import Readiness, judge
from store.trust.readiness_facts import Reading, Signature, facts_of_manifest


@dataclass(slots=True, repr=False)
class JudgedCache(CarriedTiles):
    """The part of `FlightCache` that verifies and judges.

    Attributes:
        elsewhere: Model to the reason why its engine, which is for another device, cannot run here. Always
            empty in a cache that was opened to fly.
    """

    elsewhere: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    _signed_by: str | None = field(default=None, kw_only=True)
    _loaded: LoadedCache | None = field(default=None, kw_only=True)
    _verified: Verification | None = field(default=None, kw_only=True)

    def verify(self) -> Verification:
        """Hash all files that the manifest names, blocks and packs included, and compare its tables with it.

        Raises:
            NoGoError: With every problem found.
        """
        with TranslateShortages("verifying the cache"):
            self._verified = verify_content(self.manifest, self._files)
        return self._verified

    def readiness(self, *, today: date | None = None, origin: tuple[float, ...] | None = None) -> Readiness:
        """Say what speaks against flying with this cache, in the words of `c10 verify`.

        It judges what was done before: after `verify` the content counts as read, after `load_all` engines and
        index as loaded. It refuses nothing; `warnings` is empty if there is nothing to say.

        Args:
            today: Day of the flight, UTC; by default that of the clock. Where the clock is behind the commit, ages
                are those of the commit, and a warning says so.
            origin: Longitude and latitude of the take-off in degrees, and what else the request has there; by
                default the origin of the request.

        Raises:
            TypeError, ValueError: One of them is no date, or no place.
            RequestRefusedError: The cache was closed.
            NoGoError: Tile table or area are damaged, or the manifest does not say what every build records.
        """
        day, place = as_day(today), as_place(origin)
        self._files.require_open()
        done = self._verified
        facts = facts_of_manifest(
            self.manifest,
            dates=self._capture_dates(),
            reading=Reading(
                depth="quick" if done is None else "full",
                hashed=0 if done is None else done.files,
                files=0 if done is None else done.files,
                loaded=self._loaded is not None,
                not_loaded={},
                elsewhere={f"engine {model}": why for model, why in self.elsewhere.items()},
            ),
            signature=Signature.UNCHECKED if self._signed_by is None else Signature.HOLDS,
            signed_by=self._signed_by,
            shape=self._area_shape(),
        )
        return judge(facts, today=day, origin=place)

    def margin_for(self, part: float = 0.95) -> ProvenMargin | None:
        """Return the margin from which on an answer of `locate` can be trusted, by the proof of this cache.

        It is the least one in the proof's table from which on at least a part of the photographs was right: their
        first candidate within 50 m. None: no such margin, or no proof, so that no answer should be trusted.

        Args:
            part: Least part of the answers that must have been right, 0 to 1.

        Raises:
            TypeError, ValueError: The part is no number from 0 to 1.
        """
        least = None if isinstance(part, bool) else as_part("part", part)
        if least is None:
            raise TypeError(f"part: expected a part from 0 to 1, found {part}")
        return least_margin(self.manifest.body, least)

    @property
    def origin(self) -> tuple[float, float, float]:
        """The take-off of the request: longitude and latitude in degrees, altitude in metres.

        Raises:
            NoGoError: The manifest does not say it.
        """
        match self.manifest.inputs.get("origin"):
            case {"lon_e7": int(longitude), "lat_e7": int(latitude), "altitude_mm": int(altitude)}:
                return longitude / 1e7, latitude / 1e7, altitude / 1e3
            case found:
                raise damaged([f"manifest: expected the origin of the request, found {found!r:.60}"])

    def _require_ready(self, *, min_coverage: object, max_age_days: object, proof: object) -> None:
        """Refuse a cache that falls short of what `FlightCache.open` was told to demand, and close it."""
        try:
            demands = as_part("min_coverage", min_coverage), as_days(max_age_days), as_part("proof", proof)
            if demands != (None, None, None):
                self._refuse_shortfalls(*demands)
        except BaseException:
            self._files.close()
            raise

    def _refuse_shortfalls(
        self, min_coverage: float | None, max_age_days: int | None, min_proof: float | None
    ) -> None:
        with TranslateShortages("judging the cache"):
            found = self.readiness()
        short = found.shortfalls(min_coverage=min_coverage, max_age_days=max_age_days, min_proof=min_proof)
        if short:
            raise NoGoError(
                short,
                kind=ErrorKind.READINESS,
                hint="bring a cache that meets this, built anew: c10 build; or demand less of it",
            )

    def _area_shape(self) -> AreaShape | None:
        area = self.manifest.area
        try:
            return None if area is None else AreaShape.parse(bytes(self._files.view(AREA, area)))
        except ValueError as error:
            raise damaged([f"{AREA}: {error}"]) from error

    def _capture_dates(self) -> CaptureDates:
        try:
            return parse_capture_column(self._tile_table().captured.tobytes())
        except ValueError as error:
            raise damaged([f"tile table: {error}"]) from error
