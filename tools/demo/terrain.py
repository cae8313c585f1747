"""A procedural landscape seen from above, and pictures that a camera over it would take.

The demonstration builds its map from it. The whitening of the built-in network was trained on it, and the
recall benchmark measures on it, so that none of them needs a download.

1. Smooth fields (height, moisture, roughness) are power-law noise at a quarter of the resolution; farmland is
a
   distorted cell diagram at half of it.
2. The ground is painted in strips, so that a large mosaic needs little memory beyond its own pixels: ground
colour and
   relief, farmland, woodland, grain, streams and lakes.
3. Roads, houses, towns and single trees are drawn over it.

The same size and seed give the same pixels as long as NumPy and Pillow stay the same. Lakes have no texture
on purpose, because a real map has tiles that nobody can tell apart. This module needs NumPy and Pillow only.
"""

import io
import math
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from tools.demo.terrain_ground import Look, lakes, layers_of, painted_strips
from tools.demo.terrain_scenery import draw_softly, scenery

Pixels = npt.NDArray[np.uint8]

_LEAST_SIZE: Final = 64
_FIRST_LOOK: Final = Look()


def terrain(size: int, seed: int, look: Look = _FIRST_LOOK) -> Pixels:
    """Paint a square landscape.

    At the highest zoom of the demonstration one pixel stands for roughly half a metre, so that houses are 8
    to 34 pixels long and fields 100 to 500.

    Args:
        size: edge length in pixels, at least 64.
        seed: everything random follows from it; not negative.
        look: the day; the same size and seed are the same place on any day.

    Returns:
        uint8 [size, size, 3], RGB, row 0 in the north.

    Raises:
        ValueError: the size is below 64 or the seed negative.
    """
    if size < _LEAST_SIZE:
        raise ValueError(
            f"a terrain needs an edge of at least {_LEAST_SIZE} pixels, found {size}: ask for a larger one"
        )
    if seed < 0:
        raise ValueError(f"a terrain's seed is a whole number from 0, found {seed}")
    rng = np.random.default_rng(seed)
    layers = layers_of(size, rng, look)
    canvas = Image.fromarray(np.concatenate(list(painted_strips(layers, rng))))
    draw_softly(canvas, scenery(size, rng, look.shadows), spared=lakes(layers))
    return np.array(canvas)


def view(
    mosaic: Pixels,
    centre_px: tuple[float, float],
    *,
    heading_deg: float = 0.0,
    scale: float = 1.0,
    blur_px: float = 0.0,
    contrast: float = 1.0,
    brightness: float = 0.0,
    gamma: float = 1.0,
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0),
    vignette: float = 0.0,
    noise: float = 0.0,
    jpeg_quality: int | None = None,
    size: int | tuple[int, int] = 256,
    rng: np.random.Generator,
) -> Pixels:
    """Take one picture of the landscape, straight down.

    Args:
        mosaic: uint8 [height, width, 3], RGB.
        centre_px: x and y of the picture's centre in mosaic pixels; y points down. Beyond the border the
            landscape is mirrored.
        heading_deg: the camera's turn, clockwise seen from above.
        scale: view pixels per mosaic pixel; 1.2 is a lower flight.
        blur_px: standard deviation of the blur, in view pixels.
        contrast: factor around mid grey.
        brightness: grey levels added; negative darkens.
        gamma: exponent on 0..1 intensities.
        tint: factor per channel.
        vignette: loss of light in the corners, 0..1.
        noise: standard deviation of additive noise, in grey levels.
        jpeg_quality: compress and decode at this quality; None leaves the pixels alone.
        size: width and height of the picture in pixels, or its edge length if it is square.
        rng: source of the noise.

    Returns:
        uint8 [height, width, 3], RGB.
    """
    width, height = (size, size) if isinstance(size, int) else size
    picture = _warp(mosaic, centre_px, heading_deg=heading_deg, scale=scale, size=(width, height))
    if blur_px > 0:
        picture = picture.filter(ImageFilter.GaussianBlur(blur_px))
    light: npt.NDArray[np.floating] = np.asarray(picture, dtype=np.float32)
    light = (np.float32(128.0 + brightness) + (light - 128) * np.float32(contrast)) * np.array(
        tint, np.float32
    )
    light = 255 * (np.clip(light, 0, 255) / 255) ** np.float32(gamma)
    if vignette > 0:
        down, across = (np.linspace(-1, 1, side, dtype=np.float32) ** 2 for side in (height, width))
        light *= (1 - np.float32(vignette) * (down[:, None] + across[None, :]) / 2)[..., None]
    if noise > 0:
        light += rng.standard_normal(light.shape, dtype=np.float32) * np.float32(noise)
    taken = np.clip(np.rint(light), 0, 255).astype(np.uint8)
    return taken if jpeg_quality is None else _compress(taken, jpeg_quality)


def _warp(
    mosaic: Pixels, centre_px: tuple[float, float], *, heading_deg: float, scale: float, size: tuple[int, int]
) -> Image.Image:
    """Turn and scale around the centre, on a crop just large enough, mirrored beyond the border."""
    width, height = size
    reach = math.ceil(math.hypot(width, height) / 2 / scale) + 2
    left, top = math.floor(centre_px[0]) - reach, math.floor(centre_px[1]) - reach
    columns = _mirrored(left, left + 2 * reach + 1, mosaic.shape[1])
    rows = _mirrored(top, top + 2 * reach + 1, mosaic.shape[0])
    crop = Image.fromarray(mosaic[rows[:, None], columns[None, :]])
    turn = math.radians(heading_deg)
    along, across = math.cos(turn) / scale, math.sin(turn) / scale
    x0, y0 = centre_px[0] - left, centre_px[1] - top
    right, below = width / 2, height / 2
    return crop.transform(
        size,
        Image.Transform.AFFINE,
        (
            along,
            -across,
            x0 - right * along + below * across,
            across,
            along,
            y0 - right * across - below * along,
        ),
        resample=Image.Resampling.BILINEAR,
    )


def _mirrored(start: int, stop: int, length: int) -> npt.NDArray[np.intp]:
    """Return the indices start..stop folded back into 0..length, without repeating the border."""
    period = max(1, 2 * (length - 1))
    folded = np.arange(start, stop) % period
    return np.where(folded < length, folded, period - folded).astype(np.intp)


def _compress(pixels: Pixels, quality: int) -> Pixels:
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "JPEG", quality=quality)
    held.seek(0)
    with Image.open(held) as decoded:
        return np.array(decoded.convert("RGB"))
