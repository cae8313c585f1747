"""The photographs of the demonstration: taken on another day, by a camera that knows nothing of tiles.

Place, heading, altitude and light are drawn at random. What is told with a photograph is what instruments say:
a heading within some degrees, an altitude within some per cent.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from store.base.preprocessing import Pixels
from store.base.valueclass import valueclass
from store.reader.flight_cache import FlightCache
from tools.demo.region import ALTITUDE_M, CAMERA
from tools.demo.terrain import view

_SEED: Final = 1
_BORDER_M: Final = 175
"""Least distance of a photograph's middle from the border: none shows ground that was not painted."""


@valueclass(frozen=True, slots=True, kw_only=True)
class Photograph:
    """A photograph, straight down, and what is told with it.

    Attributes:
        pixels: uint8 [450, 800, 3], RGB.
        at_px: Its true place, column and row of the ground's picture.
        altitude_m: Altitude above ground in metres, as told.
        heading_deg: Heading, as told, degrees clockwise from true north.
    """

    pixels: Pixels
    at_px: tuple[float, float]
    altitude_m: float
    heading_deg: float


def take_photographs(ground: Pixels, metres_per_pixel: float, count: int) -> Iterator[Photograph]:
    """Take photographs anywhere over a piece of ground, uint8 [h, w, 3], of which no side is below 400 m."""
    rng, border = np.random.default_rng(_SEED), _BORDER_M / metres_per_pixel
    height, width = ground.shape[:2]
    for _ in range(count):
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
            pixels=pixels,
            at_px=at_px,
            altitude_m=round(altitude * rng.uniform(0.97, 1.03), 1),
            heading_deg=round(heading + rng.uniform(-4, 4), 1) % 360,
        )
