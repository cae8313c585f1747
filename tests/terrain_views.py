"""Pictures of the procedural landscape under random conditions, to train and measure the built-in network."""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from tools.demo.terrain import Pixels, view


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """How far a view may differ from the tile it shows; every figure is drawn evenly within its range.

    Attributes:
        heading_deg: greatest turn to either side; 180 means any heading.
        scale: greatest natural logarithm of the magnification, to either side.
        shift_px: greatest displacement of the centre along each axis, in map pixels.
        blur_px: greatest standard deviation of the blur, in view pixels.
        noise: standard deviation of the sensor's noise, in grey levels.
        contrast: greatest relative change of contrast and logarithm of gamma; brightness moves by up to
            80 grey levels times this.
    """

    heading_deg: float
    scale: float
    shift_px: float
    blur_px: float
    noise: float
    contrast: float


CONDITIONS: Final[dict[str, Conditions]] = {
    "nominal": Conditions(heading_deg=8, scale=0.08, shift_px=12, blur_px=1.2, noise=4, contrast=0.25),
    "hard": Conditions(heading_deg=20, scale=0.22, shift_px=32, blur_px=2.5, noise=10, contrast=0.4),
    "rot360": Conditions(heading_deg=180, scale=0.08, shift_px=12, blur_px=1.2, noise=4, contrast=0.25),
    "hard360": Conditions(heading_deg=180, scale=0.22, shift_px=32, blur_px=2.5, noise=10, contrast=0.4),
}


def random_view(
    mosaic: Pixels,
    centre_px: tuple[float, float],
    conditions: Conditions,
    *,
    size: int = 256,
    rng: np.random.Generator,
) -> Pixels:
    """Take one picture near a place, under conditions drawn at random.

    Args:
        mosaic: uint8 [height, width, 3], RGB.
        centre_px: x and y of the place in mosaic pixels.
        conditions: how far the picture may differ.
        size: edge length of the picture in pixels.
        rng: source of everything random here.

    Returns:
        uint8 [size, size, 3], RGB.
    """
    c = conditions
    shift = rng.uniform(-c.shift_px, c.shift_px, 2)
    return view(
        mosaic,
        (centre_px[0] + shift[0], centre_px[1] + shift[1]),
        heading_deg=rng.uniform(-c.heading_deg, c.heading_deg),
        scale=math.exp(rng.uniform(-c.scale, c.scale)),
        blur_px=max(0.3, rng.uniform(0, c.blur_px)),
        contrast=rng.uniform(1 - c.contrast, 1 + c.contrast),
        brightness=rng.uniform(-80, 80) * c.contrast,
        gamma=math.exp(rng.uniform(-c.contrast, c.contrast)),
        tint=(1 + rng.normal(0, 0.08), 1 + rng.normal(0, 0.08), 1 + rng.normal(0, 0.08)),
        vignette=rng.uniform(0, 0.25),
        noise=rng.uniform(0, c.noise),
        jpeg_quality=int(rng.integers(50, 90)),
        size=size,
        rng=rng,
    )
