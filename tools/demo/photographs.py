"""The photographs of the demonstration: taken on another day, by a camera that knows nothing of tiles.

Place, heading, altitude and light are drawn at random. What is told with a photograph is what instruments say:
a heading within some degrees, an altitude within some per cent.
"""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from store.base.geometry.distances import distance_m
from store.base.preprocessing import Pixels
from store.base.valueclass import valueclass
from store.reader.flight_cache import FlightCache
from store.reader.places.answer import Answer
from tools.demo.region import ALTITUDE_M, CAMERA, jpeg
from tools.demo.terrain import view
from tools.output import render

_BORDER_M: Final = 175
"""Least distance of a photograph's middle from the border: none shows ground that was not painted."""


@valueclass(frozen=True, slots=True, kw_only=True)
class Photograph:
    """A photograph, straight down, and what is told with it.

    Attributes:
        name: Name of its file.
        data: JPEG, 640 x 360 pixels.
        at_px: Its true place, column and row of the ground's picture.
        altitude_m: Altitude above ground in metres, as told.
        heading_deg: Heading, as told, degrees clockwise from true north.
    """

    name: str
    data: bytes
    at_px: tuple[float, float]
    altitude_m: float
    heading_deg: float


@valueclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a cache says about a photograph.

    Attributes:
        name: Name of the photograph's file.
        place: Longitude and latitude of the best candidate, degrees.
        error_m: How far that is from the truth, metres.
        margin: The answer's margin; 0 without any.
    """

    name: str
    place: tuple[float, float]
    error_m: float
    margin: float

    @classmethod
    def of(cls, photograph: Photograph, answer: Answer, truth: tuple[float, float]) -> "Finding":
        """Compare an answer with the true longitude and latitude."""
        best = answer.candidates[0]
        place = (best.longitude, best.latitude)
        return cls(
            name=photograph.name, place=place, error_m=distance_m(truth, place), margin=answer.margin or 0.0
        )

    def to_document(self) -> dict[str, Any]:
        """Return what programs get."""
        return {
            "file": self.name,
            "lon": round(self.place[0], 7),
            "lat": round(self.place[1], 7),
            "error_m": round(self.error_m, 1),
            "margin": round(self.margin, 6),
        }


def take_photographs(
    ground: Pixels, metres_per_pixel: float, count: int, *, seed: int = 1
) -> Iterator[Photograph]:
    """Take photographs anywhere over a piece of ground, uint8 [h, w, 3], of which no side is below 400 m."""
    rng, border = np.random.default_rng(seed), _BORDER_M / metres_per_pixel
    height, width = ground.shape[:2]
    for number in range(1, count + 1):
        at_px = (rng.uniform(border, width - border), rng.uniform(border, height - border))
        heading, altitude = rng.uniform(0, 360), ALTITUDE_M * rng.uniform(0.92, 1.08)
        pixels = view(
            ground,
            at_px,
            heading_deg=heading,
            scale=metres_per_pixel * CAMERA["fx"] / altitude,
            blur_px=rng.uniform(0.7, 1.5),
            contrast=rng.uniform(0.7, 0.9),
            brightness=rng.uniform(-45, 0),
            gamma=rng.uniform(0.9, 1.2),
            tint=(1.1, 1.0, rng.uniform(0.75, 0.95)),
            vignette=rng.uniform(0.1, 0.3),
            noise=rng.uniform(3, 8),
            size=(int(CAMERA["width"]), int(CAMERA["height"])),
            rng=rng,
        )
        yield Photograph(
            name=f"{number:02}.jpg",
            data=jpeg(pixels, quality=75),
            at_px=at_px,
            altitude_m=round(altitude * rng.uniform(0.97, 1.03), 1),
            heading_deg=round(heading + rng.uniform(-4, 4), 1) % 360,
        )


def ask(cache: FlightCache, photograph: Photograph) -> Answer:
    """Ask a cache where a photograph was taken."""
    with Image.open(io.BytesIO(photograph.data)) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    return cache.locate(pixels, altitude_m=photograph.altitude_m, heading_deg=photograph.heading_deg)


def table(found: Sequence[Finding]) -> list[str]:
    """Return findings by falling margin as lines, the half with the larger margins on the left."""
    cells = [
        (each.name, f"{each.error_m:.0f} m", f"{each.margin:.3f}")
        for each in sorted(found, key=lambda each: -each.margin)
    ]
    half = len(cells) // 2
    header = ("photo", "away", "margin")
    rows = [(*left, "", *right) for left, right in zip(cells[:half], cells[half:], strict=True)]
    return render.table((*header, "", *header), rows, right=" rr  rr")


def write_truth(
    folder: Path, photographs: Sequence[Photograph], truth: Sequence[tuple[float, float]]
) -> None:
    """Write photographs, and a table of their true longitudes and latitudes and what is told with each."""
    folder.mkdir()
    lines = ["file,lon,lat,altitude_m,heading_deg"]
    for each, (lon, lat) in zip(photographs, truth, strict=True):
        (folder / each.name).write_bytes(each.data)
        lines.append(f"{each.name},{lon:.7f},{lat:.7f},{each.altitude_m},{each.heading_deg}")
    (folder / "truth.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
