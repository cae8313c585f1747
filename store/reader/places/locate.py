"""Find the place that a camera frame shows: cut the ground that it sees, describe it, compare it with chunks.

Nadir is assumed: the camera looks straight down, and the ground is flat.
"""

import datetime as dt
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from store.base.geometry.camera import FAR_FROM_LEVEL, WIDEST, Camera, cut_square
from store.base.geometry.lattice import footprint, middle
from store.base.geometry.level import side_m
from store.base.identity import AXIS_MASK, X_SHIFT
from store.base.preprocessing import Pixels
from store.base.texture import FEATURELESS_BELOW, texture_energy
from store.errors import ArgumentError, TranslateShortages
from store.reader.places.answer import Answer, Candidate, Timings
from store.reader.places.black_bars import MOST_BARS, black_bars
from store.reader.places.descriptor_networks import DescriptorNetwork, query_vectors
from store.reader.places.level_table import LevelTable, Rows, best_first
from store.reader.places.question import Question, require_frame
from store.runtime.backends.base import IndexLoadError, Vectors
from store.trust.readiness import MAX_AGE_DAYS

_NO_TEXTURE: Final = (
    "the frame has hardly any texture, like calm water, cloud or a covered lens: "
    "its candidates are chance, whatever the margin"
)
_TILTED_DEG: Final = 10
_SURFACE_M: Final = 5.0
"""How high what a camera sees stands above ground, metres: roofs and crowns. Measured over a town: `docs/locate.md`."""
_LEAST_OF_ALTITUDE: Final = 0.9
"""Low above ground the camera is taken to see at least this part of its altitude."""
_MOST_FRAMES: Final = 64
"""A square of more frames' widths, or of less than a pixel, shows nothing of a place."""


@dataclass(slots=True, eq=False)
class _Watch:
    """Seconds that each part of an answer took."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def time(self, part: str) -> Iterator[None]:
        """Time the block."""
        began = time.perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - began


@dataclass(slots=True, kw_only=True, eq=False)
class Locator:
    """Everything that finds the place of frames, in memory. Not for two threads at once.

    Attributes:
        sector: How fast the ground changes, which bounds the age of a tile; None if nobody said.
        built_ns: When the cache was committed, nanoseconds since 1970-01-01: a clock that was reset is behind it.
        networks: The descriptor networks, in the order of their names.
        calibration: The camera calibration: one without a camera serves frames whose scale is told.
        tables: The chunks of each level, by rising side.
    """

    sector: str | None
    built_ns: int
    networks: Sequence[DescriptorNetwork]
    calibration: Mapping[str, Any]
    tables: Sequence[LevelTable]
    _camera: Camera | ValueError = field(init=False)

    def __post_init__(self) -> None:
        """Read the camera, once for all frames; a frame that needs one is told what is wrong with it.

        Raises:
            IndexLoadError: The networks give vectors of another length than the chunks have.
        """
        given = sum(network.engine.dimensions for network in self.networks)
        for table in self.tables:
            # The product of vectors reads memory unchecked.
            if table.vectors.shape[1] != given:
                raise IndexLoadError(
                    f"expected vectors of {given} numbers, as the networks give, found {table.vectors.shape[1]}",
                    hint="c10 verify --full",
                )
        try:
            self._camera = Camera.from_document(self.calibration)
        except ValueError as error:
            self._camera = error.with_traceback(None)

    def locate(self, frame: Pixels, question: Question) -> Answer:
        """Return the places that a frame may show; see `store.reader.flight_cache.FlightCache.locate`."""
        frame = require_frame(frame)
        watch, warnings = _Watch(), list[str]()
        with TranslateShortages("finding the place of a frame"):
            lens = self._lens(frame, question, warnings)
            table, side = self._nearest_level(lens, question, warnings)
            queries = self._describe(lens, side, question.headings_deg, watch, warnings)
            with watch.time("search"):
                rows = None if question.near is None else table.near(*question.near)
                turn, candidates, margin = self._search(table, queries, rows, question.k)
        return Answer(
            candidates=candidates,
            margin=margin,
            level=table.number,
            searched=len(table) if rows is None else len(rows),
            heading_deg=question.headings_deg[turn],
            metres_per_pixel=lens.metres_per_pixel,
            timings=Timings(**{"undistortion": 0.0, **watch.seconds}),
            warnings=tuple(warnings),
        )

    def run_once(self) -> None:
        """Answer for a black frame, so that nothing is loaded later."""
        side = self.tables[0].side_m()
        black = np.zeros((2, 2, 3), np.uint8)
        for network in self.networks:
            size = network.preprocessing.size
            picture = cut_square(black, metres_per_pixel=side / 2, side_m=side, heading_deg=0.0, size=size)
            network.run(network.preprocessing.apply(picture)[None])
        for table in self.tables:
            self._search(table, np.zeros((1, table.vectors.shape[1]), np.float32), None, 1)

    def _lens(self, frame: Pixels, question: Question, warnings: list[str]) -> "_Lens":
        """Return how much ground a frame shows, and what it is cut by."""
        for name, angle in (("pitch", question.pitch_deg), ("roll", question.roll_deg)):
            if angle is not None and abs(angle) > _TILTED_DEG:
                warnings.append(
                    f"a {name} of {angle:g} degrees: a camera that looks straight down is assumed, "
                    f"and above {_TILTED_DEG} degrees places are wrong"
                )
        height, width = frame.shape[:2]
        if isinstance(self._camera, ValueError):
            return _without_camera(frame, question, self.calibration, self._camera, warnings)
        try:
            camera = self._camera.scaled_to(width, height)
        except ValueError as error:
            return _without_camera(frame, question, self.calibration, error, warnings)
        if question.metres_per_pixel is not None:
            pixel = _bounded(question.metres_per_pixel)
            return _Lens(frame, pixel, camera, camera.wanted_side_m(pixel * camera.fx))
        altitude = question.altitude_m or 0.0
        pixel = _bounded(altitude / camera.fx)
        enlarged = altitude / max(altitude - _SURFACE_M, _LEAST_OF_ALTITUDE * altitude)
        return _Lens(frame, pixel, camera, camera.wanted_side_m(pixel * camera.fx), enlarged)

    def _nearest_level(
        self, lens: "_Lens", question: Question, warnings: list[str]
    ) -> tuple[LevelTable, float]:
        """Return the level whose side is nearest to what the frame is best compared by, and that side in metres."""
        # An empty level could only give an empty answer.
        tables = [table for table in self.tables if len(table)] or self.tables
        sides = [table.side_m(None if question.near is None else question.near[1]) for table in tables]
        apart = [abs(math.log(side / lens.wanted_m)) for side in sides]
        nearest = apart.index(min(apart))
        side = sides[nearest]
        pixels = side / lens.metres_per_pixel
        if not 1 <= pixels <= _MOST_FRAMES * max(lens.frame.shape):
            raise ArgumentError(
                f"expected a frame that shows ground of about {side:.0f} m, the side of the nearest chunks, "
                f"found one of {lens.metres_per_pixel:.3g} m per pixel",
                hint="altitude_m is in metres above ground; metres_per_pixel is of the frame as given",
            )
        if apart[nearest] > math.log(FAR_FROM_LEVEL):
            warnings.append(
                f"the frame is best compared by squares of {lens.wanted_m:.0f} m, and the nearest chunks have "
                f"{side:.0f} m: the altitude is outside of what the cache was built for"
            )
        return tables[nearest], side

    def _describe(
        self, lens: "_Lens", side: float, headings: Sequence[float], watch: "_Watch", warnings: list[str]
    ) -> Vectors:
        """Return unit descriptors of the ground in a frame by all networks, float32 [headings, d]."""
        undistorts = lens.camera is not None and lens.camera.distortion is not None
        # Networks that take pictures of one size are shown the same cuts.
        cuts = dict[tuple[tuple[int, int], float], Pixels]()
        parts = list[Vectors]()
        for network in self.networks:
            found, batch, contract = list[Vectors](), network.engine.batch, network.preprocessing
            for start in range(0, len(headings), batch):
                turns = [(contract.size, heading) for heading in headings[start:][:batch]]
                with watch.time("undistortion" if undistorts else "cut"):
                    for size, heading in turns:
                        if (size, heading) not in cuts:
                            cuts[size, heading] = lens.cut(side, heading, size)
                with watch.time("cut"):
                    samples = np.empty((len(turns), *contract.shape), np.float32)
                    for sample, turn in zip(samples, turns, strict=True):
                        contract.apply(cuts[turn], out=sample)
                with watch.time("network"):
                    found.append(network.run(samples))
            parts.append(np.concatenate(found))
        with watch.time("cut"):
            if texture_energy(next(iter(cuts.values()))) < FEATURELESS_BELOW:
                warnings.append(_NO_TEXTURE)
            # Around the image of a fisheye lens it is black, and its calibration knows.
            elif not undistorts and (bars := black_bars(lens.frame)) > MOST_BARS:
                warnings.append(
                    f"the frame is black at its edges, along {bars:.0%} of a side, as video that was fitted into "
                    "another size: cut the bars off, and give the calibration or the metres per pixel of the rest"
                )
        return query_vectors(parts, self.networks)

    def _search(
        self, table: LevelTable, queries: Vectors, rows: Rows | None, k: int
    ) -> tuple[int, tuple[Candidate, ...], float | None]:
        """Return the query with the highest score, its candidates and its margin."""
        found = self._rank_few(table, queries, k) if rows is None and len(queries) == 1 else None
        if found is None:
            found = _rank(table, queries, rows, k)
        pairs = zip(found.rows.tolist(), found.scores.tolist(), strict=True)
        return found.turn, tuple(self._candidate(table, *pair) for pair in pairs), found.margin

    def _rank_few(self, table: LevelTable, query: Vectors, k: int) -> "_Ranking | None":
        """Compare a query with the chunks that rounded vectors find; None if others may change the outcome."""
        if table.rounded is None or k > table.few:
            return None
        rows, ceiling = table.rounded.best(query[0], table.few)
        found = _rank(table, query, rows, k)
        return found if found.holds(k, ceiling) else None

    def _candidate(self, table: LevelTable, row: int, score: float) -> Candidate:
        level, identifier = table.level, int(table.ids[row])
        x, y = identifier >> X_SHIFT & AXIS_MASK, identifier & AXIS_MASK
        lon, lat = middle(level, x, y)
        oldest, newest = table.captured[row].tolist()
        known, limit = oldest <= newest, MAX_AGE_DAYS.get(str(self.sector))
        # Where a day is unknown, one that is known may still be too old.
        too_old = limit is not None and self._today() - oldest > limit
        return Candidate(
            longitude=lon,
            latitude=lat,
            score=score,
            footprint=footprint(level, x, y),
            side_m=side_m(level, lat),
            level=table.number,
            captured=(_day(oldest), _day(newest)) if known else None,
            too_old=too_old if too_old or (known and limit is not None) else None,
            descriptor_id=identifier,
        )

    def _today(self) -> int:
        """Return the day since 1970-01-01; a clock that was reset is behind the cache."""
        return max(self.built_ns // _DAY_NS, time.time_ns() // _DAY_NS)


@dataclass(frozen=True, slots=True, eq=False)
class _Ranking:
    """The query with the highest score, the best rows and their scores, and the margin."""

    turn: int
    rows: Rows
    scores: Vectors
    margin: float | None

    def holds(self, k: int, ceiling: float) -> bool:
        """Return whether it stays as it is if rows are added whose scores are at most `ceiling`."""
        if self.margin is None or len(self.scores) < k:
            return False
        return bool(self.scores[-1] > ceiling and self.scores[0] - self.margin > ceiling)


def _rank(table: LevelTable, queries: Vectors, rows: Rows | None, k: int) -> _Ranking:
    """Compare queries with all or some rows of a level."""
    scores = table.scores(queries, rows)
    if not scores.size:
        return _Ranking(0, np.zeros(0, np.int64), np.zeros(0, np.float32), None)
    turn = int(scores.max(axis=1).argmax())
    places = best_first(scores[turn], k)
    margin = table.margin(scores[turn], rows, int(places[0]))
    return _Ranking(turn, places if rows is None else rows[places], scores[turn][places], margin)


_DAY_NS: Final = 86_400_000_000_000


def _day(number: int) -> dt.date:
    return dt.date(1970, 1, 1) + dt.timedelta(days=number)


@dataclass(frozen=True, slots=True, eq=False)
class _Lens:
    """A frame, how much ground it shows, and its camera if there is one; the side of the square to compare.

    `enlarged` is how much more of the frame is cut than that side takes on the ground.
    """

    frame: Pixels
    metres_per_pixel: float
    camera: Camera | None
    wanted_m: float
    enlarged: float = 1.0

    def cut(self, side: float, heading: float, size: tuple[int, int]) -> Pixels:
        """Return the square of ground about the principal point, turned north."""
        return cut_square(
            self.frame,
            metres_per_pixel=self.metres_per_pixel,
            side_m=side * self.enlarged,
            heading_deg=heading,
            size=size,
            camera=self.camera,
        )


def _without_camera(
    frame: Pixels,
    question: Question,
    calibration: Mapping[str, Any],
    error: ValueError,
    warnings: list[str],
) -> _Lens:
    """Return the lens of a frame whose scale is told, if the calibration is that of no camera."""
    whole = {"width", "height", "fx", "fy", "cx", "cy"} <= calibration.keys()
    if whole or question.metres_per_pixel is None:
        raise ArgumentError(
            f"camera of the calibration: {error}"
            if whole
            else f"expected a camera in the calibration for altitude_m, found: {error}",
            hint="give metres_per_pixel (--gsd) instead, or a calibration with width, height, fx, fy, cx, cy of this camera",
        ) from error
    if "distortion" in calibration:
        warnings.append(
            f"the distortion of the lens is not undone, for the calibration is incomplete: {error}"
        )
    pixel, sides = _bounded(question.metres_per_pixel), sorted(frame.shape[:2])
    wanted = min(math.sqrt(sides[0] * sides[1]), WIDEST * sides[0])
    return _Lens(frame, pixel, None, pixel * wanted)


def _bounded(metres_per_pixel: float) -> float:
    """Return a scale that can be reckoned with; what is outside serves no level."""
    return min(max(metres_per_pixel, 1e-9), 1e9)
