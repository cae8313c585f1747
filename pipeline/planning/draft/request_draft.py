"""The text of a request for what a source holds. Pure.

Nothing is guessed without a comment that says so. What the source does not tell, such as the day on which the
ground was photographed, stays out, as a line to be filled in.
"""

import json
import math
import re
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Final

from pipeline.planning.draft.draft_tiles import SeenTiles
from pipeline.request.geometry import E7, FULL_TURN_E7, HALF_TURN_E7, BoxE7
from pipeline.request.options import CoverageOptions
from pipeline.request.request import BuildRequest
from pipeline.tiles.tile import Extent, ZoomRange
from store.base.valueclass import valueclass

USUAL_COVERAGE: Final = CoverageOptions().min_fraction

_MARGIN: Final = 0.05
"""Part of an area with holes that may turn out to be featureless."""
_FIRST_DAY: Final = date(1900, 1, 1)
"""Before it nothing was photographed that tiles are made of; cameras without a clock say the year 1 or 0."""
_NO_NAME: Final = re.compile(r"[{*?\[]")


@valueclass(frozen=True, slots=True, kw_only=True)
class RequestDraft:
    """A request in the making. Paths are as the request has them: relative to its folder.

    Attributes:
        base: Folder of the request.
        source: The imagery.
        calibration: The calibration file.
        has_camera: Whether that describes a camera.
        altitude_m: Lowest and highest height of the flight, metres; None for a descriptor of each tile.
        area: A file that holds the ground; None for the box.
        width_m: Width of the corridor along its routes, metres; None where it has polygons.
        width_assumed: Whether nobody said that width.
        today: The day on which it is made.
        extent: What the source holds.
        box_e7: The ground to build.
        zoom: Its zooms.
        pixel_m: Side of a pixel of the finest tiles at its middle, metres; None if no tile can be read.
        wanted: How many tiles the area wants.
        tiles: How many of them are there.
        looks: What those tiles look like.
        coverage: Part of the area that is there, 0 to 1: of its tiles, or of its ground where there are chunks.
    """

    base: Path
    source: tuple[str, ...]
    calibration: str
    has_camera: bool
    altitude_m: tuple[float, float] | None
    area: str | None
    width_m: float | None = None
    width_assumed: bool = False
    today: date
    extent: Extent
    box_e7: BoxE7
    zoom: ZoomRange
    pixel_m: float | None = None
    wanted: int = 0
    tiles: int = 0
    coverage: float = 1.0
    looks: SeenTiles = SeenTiles()

    @property
    def middle_e7(self) -> tuple[int, int]:
        """Longitude and latitude of the middle of the box in 1e-7 degree."""
        west, south, east, north = self.box_e7
        longitude = (west + (east + FULL_TURN_E7 if west > east else east)) // 2
        return (longitude - FULL_TURN_E7 if longitude > HALF_TURN_E7 else longitude), (south + north) // 2

    @property
    def localisable(self) -> float:
        """Part of the area that a build will find to be localisable, 0 to 1."""
        return self.coverage * (1 - self.looks.useless)

    @property
    def min_fraction(self) -> float:
        """The least part that the request demands: what is usual, or a little less than there is."""
        if self.falls_short:
            return USUAL_COVERAGE
        there = self.localisable
        least = max(0.0, math.floor((there - _MARGIN) * 100) / 100)
        return USUAL_COVERAGE if there >= 1 else min(USUAL_COVERAGE, least)

    @property
    def falls_short(self) -> bool:
        """Whether so little of an area that was drawn is there that no build would take the request as it is."""
        return self.area is not None and self.coverage < USUAL_COVERAGE

    @property
    def corridor(self) -> str:
        """What to say of the width of an area of routes, in front of a comma; nothing of other areas."""
        if self.width_m is None:
            return ""
        assumed = ", which was assumed (--width says another)" if self.width_assumed else ""
        return f" within a corridor of {_number(self.width_m)} m along the route{assumed}"

    def request(self) -> BuildRequest:
        """Return the request that the text is.

        Raises:
            RequestError: A path cannot be written in a request.
        """
        return BuildRequest.parse(self.text(), base=self.base, name="the new request")

    def text(self) -> str:
        """Return the request as TOML with comments."""
        return "\n".join(
            [
                f"flight_id = {_text(self._label())}",
                'sector = "active_conflict"   # imagery up to 180 days old; "stable_rear": up to 365',
                *self._ground(),
                f"zoom = [{self.zoom[0]}, {self.zoom[1]}]   # {self._zooms()}",
                (
                    f"origin = [{_degrees(self.middle_e7)}, 0.0]   # CORRECT THIS: take-off as longitude, latitude,"
                    " metres; this is the middle of the area"
                ),
                *self._camera(),
                "",
                "[tiles]",
                f"source = {self._source()}",
                *self._dates(),
                *self._unreadable(),
                "",
                "[[models]]",
                'name = "place"',
                'role = "descriptor"',
                'onnx = "builtin:place"',
                *self._holes(),
                "",
            ]
        )

    def _label(self) -> str:
        """Return the name of the file or folder of the imagery."""
        parts = Path(self.source[0]).parts
        named = [part for part in parts if not _NO_NAME.search(part) and part.strip("./")]
        label = (named[-1].partition(".")[0] if named else "")[:128].strip()
        return label if label.isprintable() and label else "flight"

    def _ground(self) -> list[str]:
        if self.area is None:
            return [f"bbox = [{_degrees(self.box_e7)}]   # west, south, east, north: {self._box_is()}"]
        corridor = [] if self.width_m is None else [f", width_m = {_number(self.width_m)}"]
        mark = "CORRECT THIS, it was assumed: " if self.width_assumed else ""
        said = "" if self.width_m is None else f"   # {mark}width of the corridor along the route, metres"
        return [f"area = {{file = {_text(self.area)}{''.join(corridor)}}}{said}"]

    def _box_is(self) -> str:
        return "what the imagery covers" + (
            "" if self.altitude_m is None else ", less half a chunk on each side"
        )

    def _zooms(self) -> str:
        low, high = self.extent.zoom or self.zoom
        pixel = "" if self.pixel_m is None else f"; a pixel of zoom {self.zoom[1]} shows {self.pixel_m:.2f} m"
        has = f"the source has {low} to {high}" if low < high else f"the source has {high} alone"
        return (
            has if self.extent.finest is None else f"of the imagery itself is {self.extent.finest}"
        ) + pixel

    def _camera(self) -> list[str]:
        empty = (
            ""
            if self.has_camera
            else "   # CORRECT THIS: an empty file; it needs width, height, fx, fy, cx, cy"
        )
        given = f"calibration = {_text(self.calibration)}{empty}"
        if self.altitude_m is not None:
            low, high = self.altitude_m
            return [given, f"altitude_m = [{low:g}, {high:g}]   # heights of the flight above ground, metres"]
        return [
            given,
            "# Without altitude_m each tile gets a descriptor: that recognises tiles, not the ground in a photograph.",
            "# Heights of the flight above ground, metres; needs the camera above:",
            "# altitude_m = [100, 150]",
        ]

    def _source(self) -> str:
        if len(self.source) == 1:
            return _text(self.source[0])
        return "[" + ", ".join(map(_text, self.source)) + "]"

    @property
    def captured(self) -> date | None:
        """The day on which the ground was photographed, if the files name one that can be true."""
        said = self.extent.captured
        return said if said is not None and _FIRST_DAY <= said <= self.today else None

    def _dates(self) -> list[str]:
        said = self.extent.captured
        if said is not None and self.captured is None:
            return [
                f"# The files say {said}, which cannot be. CORRECT THIS: when the ground was photographed.",
                f"# captured = {self.today}",
            ]
        if said is not None:
            return [f"captured = {said}   # the day of the oldest photographs, as the files say"]
        told = "# When the ground was photographed; the source does not say."
        if self.extent.written is not None:
            told += f" Its oldest file was written on {self.extent.written}."
        return [told, f"# captured = {self.extent.written or '2026-09-01'}"]

    def _unreadable(self) -> list[str]:
        if self.looks.first_unreadable is None:
            return []
        place, _ = self.looks.first_unreadable
        return [
            (
                f'on_bad = "skip"   # CORRECT THIS: {self.looks.unreadable} of {self.looks.seen} tiles cannot be read and'
                f' are left out, such as {place}; "fail" demands all of them'
            )
        ]

    def _holes(self) -> list[str]:
        if self.falls_short:
            return [
                "",
                "[coverage]",
                f"# CORRECT THIS: {self.coverage:.1%} of the area is in the imagery; no build takes less than min_fraction.",
                "# Draw a smaller area, name more imagery, or lower this:",
                f"min_fraction = {USUAL_COVERAGE:g}",
            ]
        if self.min_fraction >= USUAL_COVERAGE:
            return []
        return [
            "",
            "[coverage]",
            (
                f"min_fraction = {self.min_fraction:.2f}   # CORRECT THIS: least part that must be localisable, usually"
                f" {USUAL_COVERAGE:g}; about {self.localisable:.0%} is, the rest is missing, featureless or alike"
            ),
        ]


def _number(value: float) -> str:
    return json.dumps(int(value) if value == int(value) else value)


def _degrees(values: Sequence[int]) -> str:
    return ", ".join(f"{value / E7:.7f}" for value in values)


def _text(value: str) -> str:
    # The rules of a request admit printable text only, which TOML and JSON write alike.
    return json.dumps(value, ensure_ascii=False)
