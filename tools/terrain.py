"""A procedural landscape seen from above, and the views that a camera over it would take.

The demonstration builds its map from it, the whitening of the embedded descriptor is trained on it and the
recall benchmark is measured on it; none of them needs a download.

1. Smooth fields (height, moisture, roughness) are power-law noise at a quarter of the resolution; farmland is
   a distorted cell diagram at half of it.
2. The ground is painted in strips, so that a large mosaic needs little memory beyond its own pixels: ground
   colour and relief, farmland, woodland, grain, streams and lakes.
3. Roads, houses, towns and single trees are drawn over it.

Everything follows from the seed: one size and seed give the same pixels as long as NumPy and Pillow stay the
same. Lakes are left without any texture on purpose, because a real map has tiles that nobody can tell apart.
This module needs NumPy and Pillow only and imports nothing of the provisioner.
"""

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

__all__ = ["CONDITIONS", "Conditions", "random_view", "terrain", "view"]

Pixels = npt.NDArray[np.uint8]
Plane = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int32]
Points = npt.NDArray[np.float64]

_STRIP_ROWS: Final = 256
_LEAST_SIZE: Final = 64
_LAKE_LEVEL: Final = -1.5
_TREE_LINE: Final = 1.2
_CELL_PX: Final = 240

# Ground colours: rows from the shore up to the summits, columns from dry to moist.
_GROUND: Final = np.array(
    [
        [[150, 138, 108], [122, 114, 86], [92, 100, 70]],
        [[168, 152, 112], [122, 122, 78], [84, 106, 62]],
        [[146, 134, 94], [98, 122, 70], [62, 92, 52]],
        [[130, 118, 88], [84, 98, 62], [58, 80, 50]],
        [[152, 140, 118], [138, 128, 106], [112, 112, 90]],
        [[186, 182, 174], [168, 164, 154], [150, 148, 138]],
    ],
    dtype=np.float32,
)
_WATER: Final = np.array([52, 72, 88], dtype=np.float32)
_CANOPY: Final = np.array([46, 72, 42], dtype=np.float32)
_CROPS: Final = np.array(
    [[152, 142, 84], [112, 132, 62], [172, 157, 112], [90, 112, 56], [132, 102, 72], [128, 144, 84]],
    dtype=np.float32,
)
_ROAD_GREYS: Final = (96, 124, 162, 190)
_ROOFS: Final = ((72, 74, 80), (132, 84, 68), (182, 176, 168), (214, 210, 204), (150, 120, 96))


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Farmland:
    """The cell diagram at half resolution, and what grows in each cell."""

    cell: Labels
    edge: npt.NDArray[np.bool_]
    is_field: npt.NDArray[np.bool_]
    colour: Plane
    furrow: Plane
    furrow_depth: Plane


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layers:
    """Fields of unit deviation at a quarter of the resolution, textures at half of it; all square."""

    size: int
    height: Image.Image
    moisture: Image.Image
    roughness: Image.Image
    relief: Image.Image
    stream: Image.Image
    canopy: Image.Image
    grain: Image.Image
    farmland: _Farmland


def terrain(size: int, seed: int) -> Pixels:
    """Paint a square landscape.

    At the highest zoom of the demonstration one pixel stands for roughly half a metre, so that houses are 8 to
    34 pixels long and fields 100 to 500.

    Args:
        size: edge length in pixels, at least 64.
        seed: everything random follows from it; not negative.

    Returns:
        uint8 [size, size, 3], RGB, row 0 in the north.

    Raises:
        ValueError: the size is below 64 or the seed negative.
    """
    if size < _LEAST_SIZE:
        raise ValueError(f"a terrain needs an edge of at least {_LEAST_SIZE} pixels, found {size}: ask for a larger one")
    if seed < 0:
        raise ValueError(f"a terrain's seed is a whole number from 0, found {seed}")
    rng = np.random.default_rng(seed)
    layers = _layers(size, rng)
    ground = np.concatenate(list(_painted_strips(layers, rng)))
    canvas = Image.fromarray(ground)
    shapes = [*_road_strokes(size, rng), *_tree_shapes(size, rng), *_village_shapes(size, rng)]
    _draw_softly(canvas, shapes + _town_shapes(size, rng), spared=_lakes(layers))
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
    size: int = 256,
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
        size: edge length of the picture in pixels.
        rng: source of the noise.

    Returns:
        uint8 [size, size, 3], RGB.
    """
    picture = _warp(mosaic, centre_px, heading_deg=heading_deg, scale=scale, size=size)
    if blur_px > 0:
        picture = picture.filter(ImageFilter.GaussianBlur(blur_px))
    light = np.asarray(picture, dtype=np.float32)
    light = (np.float32(128.0 + brightness) + (light - 128) * np.float32(contrast)) * np.array(tint, np.float32)
    light = 255 * (np.clip(light, 0, 255) / 255) ** np.float32(gamma)
    if vignette > 0:
        axis = np.linspace(-1, 1, size, dtype=np.float32) ** 2
        light *= (1 - np.float32(vignette) * (axis[:, None] + axis[None, :]) / 2)[..., None]
    if noise > 0:
        light += rng.standard_normal(light.shape, dtype=np.float32) * np.float32(noise)
    taken = np.clip(np.rint(light), 0, 255).astype(np.uint8)
    return taken if jpeg_quality is None else _compress(taken, jpeg_quality)


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


def _warp(
    mosaic: Pixels, centre_px: tuple[float, float], *, heading_deg: float, scale: float, size: int
) -> Image.Image:
    """Turn and scale around the centre, on a crop just large enough, mirrored beyond the border."""
    reach = math.ceil(size / scale * math.sqrt(0.5)) + 2
    left, top = math.floor(centre_px[0]) - reach, math.floor(centre_px[1]) - reach
    columns = _mirrored(left, left + 2 * reach + 1, mosaic.shape[1])
    rows = _mirrored(top, top + 2 * reach + 1, mosaic.shape[0])
    crop = Image.fromarray(mosaic[rows[:, None], columns[None, :]])
    turn = math.radians(heading_deg)
    along, across = math.cos(turn) / scale, math.sin(turn) / scale
    x0, y0 = centre_px[0] - left, centre_px[1] - top
    half = size / 2
    return crop.transform(
        (size, size),
        Image.Transform.AFFINE,
        (along, -across, x0 - half * (along - across), across, along, y0 - half * (across + along)),
        resample=Image.Resampling.BILINEAR,
    )


def _mirrored(start: int, stop: int, length: int) -> npt.NDArray[np.intp]:
    """Indices start..stop folded back into 0..length, without repeating the border."""
    period = max(1, 2 * (length - 1))
    folded = np.arange(start, stop) % period
    return np.where(folded < length, folded, period - folded).astype(np.intp)


def _compress(pixels: Pixels, quality: int) -> Pixels:
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "JPEG", quality=quality)
    held.seek(0)
    with Image.open(held) as decoded:
        return np.array(decoded.convert("RGB"))


def _power_noise(size: int, exponent: float, rng: np.random.Generator) -> Plane:
    """Gaussian noise whose power falls with frequency to this exponent; zero mean, unit deviation."""
    across = np.fft.rfftfreq(size)[None, :] ** 2
    power = across + np.fft.fftfreq(size)[:, None] ** 2
    power[0, 0] = 1.0
    spectrum = np.fft.rfft2(rng.standard_normal((size, size))) * power ** (-exponent / 4)
    spectrum[0, 0] = 0.0
    field = np.fft.irfft2(spectrum, (size, size))
    return (field / field.std()).astype(np.float32)


def _grain(size: int, softness: float, rng: np.random.Generator) -> Image.Image:
    """White noise, softened; 8 bits are plenty for a texture, and Pillow filters them fastest."""
    noise = Image.fromarray(rng.integers(0, 256, (size, size), dtype=np.uint8))
    return noise.filter(ImageFilter.GaussianBlur(softness))


def _layers(size: int, rng: np.random.Generator) -> _Layers:
    quarter, half = -(-size // 4) + 1, -(-size // 2) + 1
    height = _power_noise(quarter, 3.0, rng)
    roughness = _power_noise(quarter, 2.0, rng)
    slope_y, slope_x = np.gradient(height + 0.06 * roughness)
    relief = (slope_x + slope_y) / max(1e-6, float((slope_x + slope_y).std()))
    return _Layers(
        size=size,
        height=Image.fromarray(height),
        moisture=Image.fromarray(_power_noise(quarter, 2.8, rng)),
        roughness=Image.fromarray(roughness),
        relief=Image.fromarray(np.clip(relief, -3, 3).astype(np.float32)),
        stream=Image.fromarray(_power_noise(quarter, 3.2, rng)),
        canopy=_grain(half, 1.1, rng),
        grain=_grain(half, 0.7, rng),
        farmland=_farmland(half, roughness, rng),
    )


def _farmland(half: int, roughness: Plane, rng: np.random.Generator) -> _Farmland:
    """Cells around scattered sites; a district shares one direction, along which its fields are long."""
    cell_px = _CELL_PX // 2
    count = half // cell_px + 4
    jitter = rng.uniform(0.08, 0.92, (count, count, 2))
    grid = np.arange(count, dtype=np.float64)
    sites = (np.stack(np.meshgrid(grid, grid), -1) - 1 + jitter) * cell_px
    district = np.repeat(np.repeat(rng.uniform(0, math.pi, (count, count)), 4, 0), 4, 1)[:count, :count]
    turn = district + rng.normal(0, 0.04, (count, count))
    stretch = rng.uniform(0.75, 1.35, (count, count))
    warp = np.array(Image.fromarray(roughness).resize((half, half), Image.Resampling.BILINEAR)) * np.float32(1.4)
    cell = np.concatenate(
        [
            _nearest_site(first, min(half, first + _STRIP_ROWS), warp, (sites, turn, stretch))
            for first in range(0, half, _STRIP_ROWS)
        ]
    )
    total = count * count
    crop = rng.integers(0, len(_CROPS), total)
    period = rng.uniform(6, 22, total)
    along = turn.ravel() + rng.choice([0.0, math.pi / 2], total) + rng.normal(0, 0.05, total)
    edge = np.zeros_like(cell, dtype=np.bool_)
    edge[1:] |= cell[1:] != cell[:-1]
    edge[:, 1:] |= cell[:, 1:] != cell[:, :-1]
    return _Farmland(
        cell=cell,
        edge=edge,
        is_field=rng.random(total) < 0.55,
        colour=(_CROPS[crop] + rng.normal(0, 11, (total, 1)) + rng.normal(0, 5, (total, 3))).astype(np.float32),
        furrow=(2 * math.pi * np.stack([np.cos(along), np.sin(along)], 1) / period[:, None]).astype(np.float32),
        furrow_depth=rng.uniform(2, 12, total).astype(np.float32),
    )


def _nearest_site(first: int, stop: int, warp: Plane, field: tuple[Points, Points, Points]) -> Labels:
    """Label rows first..stop with the nearest site, measured with each site's own stretched square."""
    sites, turn, stretch = field
    count = turn.shape[0]
    width = warp.shape[1]
    y, x = np.mgrid[first:stop, 0:width].astype(np.float32)
    x += warp[first:stop]
    y += warp[first:stop, ::-1]
    cell_px = np.float32(_CELL_PX // 2)
    row = np.clip((y / cell_px).astype(np.int32) + 1, 1, count - 2)
    column = np.clip((x / cell_px).astype(np.int32) + 1, 1, count - 2)
    cos_turn, sin_turn = np.cos(turn).ravel().astype(np.float32), np.sin(turn).ravel().astype(np.float32)
    site_x, site_y = sites[..., 0].ravel().astype(np.float32), sites[..., 1].ravel().astype(np.float32)
    widen, narrow = stretch.ravel().astype(np.float32), (1 / stretch).ravel().astype(np.float32)
    best = np.full(x.shape, np.inf, dtype=np.float32)
    label = np.zeros(x.shape, dtype=np.int32)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            site = (row + down) * count + column + right
            dx, dy = x - site_x[site], y - site_y[site]
            c, s = cos_turn[site], sin_turn[site]
            far = np.maximum(np.abs(dx * c + dy * s) * widen[site], np.abs(dy * c - dx * s) * narrow[site])
            nearer = far < best
            best[nearer] = far[nearer]
            label[nearer] = site[nearer]
    return label


def _enlarged(layer: Image.Image, factor: int, size: int, first: int, stop: int) -> Plane:
    """Rows first..stop of a layer, enlarged by the factor to the mosaic's width; float32 [rows, size]."""
    box = (0, first / factor, size / factor, stop / factor)
    return np.asarray(layer.resize((size, stop - first), Image.Resampling.BICUBIC, box=box), dtype=np.float32)


def _painted_strips(layers: _Layers, rng: np.random.Generator) -> Iterator[Pixels]:
    table = _ground_table()
    for first in range(0, layers.size, _STRIP_ROWS):
        yield _painted_strip(layers, table, (first, min(layers.size, first + _STRIP_ROWS)), rng)


def _painted_strip(
    layers: _Layers, table: Plane, rows: tuple[int, int], rng: np.random.Generator
) -> Pixels:
    size, (first, stop) = layers.size, rows
    height = _enlarged(layers.height, 4, size, first, stop)
    moisture = _enlarged(layers.moisture, 4, size, first, stop)
    roughness = _enlarged(layers.roughness, 4, size, first, stop)
    relief = _enlarged(layers.relief, 4, size, first, stop)
    canopy = (_enlarged(layers.canopy, 2, size, first, stop) - 127.5) * np.float32(1 / 19)
    grain = (_enlarged(layers.grain, 2, size, first, stop) - 127.5) * np.float32(1 / 28)
    grain += rng.integers(-90, 91, grain.shape, dtype=np.int8) * np.float32(1 / 90)
    wooded = (moisture + 0.12 * roughness + 0.05 * grain > 0.6) & (height < _TREE_LINE)
    level = np.clip((height + 2) * 16, 0, 63).astype(np.int32)
    damp = np.clip((moisture + 2) * 8, 0, 31).astype(np.int32)
    paint = table[level * 32 + damp]
    shade = relief * np.float32(9) + roughness * np.float32(8) + grain * np.float32(6)
    _paint_fields(paint, shade, layers.farmland, rows, (height < 0.9) & (height > -1.3) & ~wooded)
    paint[wooded] = paint[wooded] * np.float32(0.35) + _CANOPY * np.float32(0.65)
    shade[wooded] = shade[wooded] * np.float32(0.5) + canopy[wooded] * np.float32(11)
    paint += shade[..., None]
    stream = np.abs(_enlarged(layers.stream, 4, size, first, stop))
    _paint_water(paint, height, stream)
    return np.clip(paint, 0, 255).astype(np.uint8)


def _ground_table() -> Plane:
    """Ground colours, smoothly between the listed ones: 64 heights times 32 moistures, [2048, 3]."""
    steps = _GROUND.shape[0] - 1
    level = np.linspace(0, steps, 64, dtype=np.float32)
    low = np.minimum(level.astype(np.int32), steps - 1)
    part = level - low
    part = (part * part * (3 - 2 * part))[:, None, None]
    heights = _GROUND[low] * (1 - part) + _GROUND[low + 1] * part
    damp = np.linspace(0, 2, 32, dtype=np.float32)
    dry = np.minimum(damp.astype(np.int32), 1)
    part = (damp - dry)[None, :, None]
    return (heights[:, dry] * (1 - part) + heights[:, dry + 1] * part).reshape(-1, 3).astype(np.float32)


def _paint_fields(
    paint: Plane, shade: Plane, farmland: _Farmland, rows: tuple[int, int], arable: npt.NDArray[np.bool_]
) -> None:
    """Lay crops, furrows and hedges over the arable part of a strip, in place."""
    first, stop = rows
    y = np.arange(first, stop) // 2
    x = np.arange(paint.shape[1]) // 2
    cell = farmland.cell[y[:, None], x[None, :]]
    sown = arable & farmland.is_field[cell]
    at_y, at_x = np.nonzero(sown)
    crop = cell[sown]
    phase = farmland.furrow[crop, 0] * at_x.astype(np.float32)
    phase += farmland.furrow[crop, 1] * (at_y + first).astype(np.float32)
    paint[sown] = farmland.colour[crop]
    shade[sown] = shade[sown] * np.float32(0.55) + farmland.furrow_depth[crop] * np.sin(phase)
    hedge = farmland.edge[y[:, None], x[None, :]] & arable
    paint[hedge] *= np.float32(0.68)


def _paint_water(paint: Plane, height: Plane, stream: Plane) -> None:
    """Lakes are perfectly calm; streams are thin lines in low ground with darker banks. In place."""
    width = np.clip(np.float32(0.010) - np.float32(0.006) * height, 0, np.float32(0.02))
    low = height < 0.8
    paint[(stream < width * 2) & low] *= np.float32(0.78)
    paint[(stream < width) & low] = _WATER + np.float32(10)
    wet = height < _LAKE_LEVEL + 0.04
    shore = np.clip((height[wet] - np.float32(_LAKE_LEVEL)) * 25, 0, 1)[:, None]
    paint[wet] = _WATER + (paint[wet] - _WATER) * shore


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """One thing drawn over the ground: a stroke with a width, or a filled outline without one."""

    points: tuple[tuple[float, float], ...]
    colour: tuple[int, int, int]
    width: int | None = None


def _lakes(layers: _Layers) -> Image.Image:
    """Where the lakes are, as an 8-bit mask of the mosaic's size: nobody builds on water."""
    lake = (np.asarray(layers.height) < _LAKE_LEVEL + 0.03).astype(np.uint8) * np.uint8(255)
    size = layers.size
    return Image.fromarray(lake).resize((size, size), Image.Resampling.NEAREST, box=(0, 0, size / 4, size / 4))


def _draw_softly(canvas: Image.Image, shapes: list[_Shape], *, spared: Image.Image) -> None:
    """Draw on the canvas with softened edges, since Pillow's own are jagged; not where the mask is set."""
    painted = canvas.copy()
    mask = Image.new("L", canvas.size)
    on_paint, on_mask = ImageDraw.Draw(painted), ImageDraw.Draw(mask)
    for shape in shapes:
        if shape.width is None:
            on_paint.polygon(shape.points, fill=shape.colour)
            on_mask.polygon(shape.points, fill=255)
        else:
            on_paint.line(shape.points, fill=shape.colour, width=shape.width, joint="curve")
            on_mask.line(shape.points, fill=255, width=shape.width, joint="curve")
    mask.paste(0, mask=spared)
    canvas.paste(painted, mask=mask.filter(ImageFilter.BoxBlur(1)))


def _road_strokes(size: int, rng: np.random.Generator) -> list[_Shape]:
    """Wandering tracks and roads."""
    strokes = []
    for _ in range(max(1, size // 90)):
        turns = rng.normal(0, 0.25, int(rng.integers(6, 40)))
        heading = rng.uniform(0, 2 * math.pi) + np.cumsum(turns)
        step = rng.uniform(60, 220, len(turns))[:, None] * np.stack([np.cos(heading), np.sin(heading)], 1)
        path = _rounded(_rounded(rng.uniform(0, size, 2) + np.cumsum(step, 0)))
        width = int(rng.choice([3, 4, 5, 8, 12]))
        grey = float(rng.choice(_ROAD_GREYS)) + rng.normal(0, 8) + rng.normal(0, 4, 3)
        points = tuple((float(x), float(y)) for x, y in path)
        strokes.append(_Shape(points=points, colour=_colour(grey), width=width))
    return strokes


def _rounded(path: Points) -> Points:
    """Cut every corner of a path at a quarter and three quarters of its edges (Chaikin's rule)."""
    early, late = 0.75 * path[:-1] + 0.25 * path[1:], 0.25 * path[:-1] + 0.75 * path[1:]
    return np.concatenate([path[:1], np.stack([early, late], 1).reshape(-1, 2), path[-1:]])


def _tree_shapes(size: int, rng: np.random.Generator) -> list[_Shape]:
    """Single trees and bushes with their shadows."""
    shapes = []
    for _ in range(size * size // 12_000):
        centre, radius = rng.uniform(0, size, 2), rng.uniform(2.5, 7)
        colour = np.array([52, 78, 44]) + rng.normal(0, 8, 3)
        shapes.append(_disc(centre + radius * 0.5, radius, (38, 44, 36)))
        shapes.append(_disc(centre, radius, _colour(colour)))
    return shapes


def _village_shapes(size: int, rng: np.random.Generator) -> list[_Shape]:
    """Loose clusters of houses that share a direction."""
    shapes = []
    for _ in range(max(1, size // 60)):
        middle, turn = rng.uniform(0, size, 2), rng.uniform(0, math.pi / 2)
        for _ in range(int(rng.integers(3, 45))):
            shapes += _house(middle + rng.normal(0, 110, 2), turn + rng.normal(0, 0.04), rng)
    return shapes


def _town_shapes(size: int, rng: np.random.Generator) -> list[_Shape]:
    """Street grids with houses along them, thinning out from the middle."""
    streets: list[_Shape] = []
    houses: list[_Shape] = []
    for _ in range(size // 1100):
        middle, turn = rng.uniform(0, size, 2), rng.uniform(0, math.pi / 2)
        radius, block = rng.uniform(260, 620), rng.uniform(70, 120)
        axis = np.array([math.cos(turn), math.sin(turn)])
        for direction in (axis, np.array([-axis[1], axis[0]])):
            normal = np.array([-direction[1], direction[0]])
            for offset in np.arange(-radius, radius, block):
                reach = math.sqrt(radius**2 - offset**2) * rng.uniform(0.7, 1.0)
                ends = [middle + normal * (offset + rng.normal(0, 4)) + direction * end for end in (-reach, reach)]
                streets.append(
                    _Shape(points=tuple((float(x), float(y)) for x, y in ends), colour=(124, 122, 120), width=6)
                )
                for along in np.arange(-reach, reach, block / 2.6):
                    if rng.random() > 0.85 - 0.5 * math.hypot(offset, along) / radius:
                        continue
                    place = middle + normal * (offset + block * 0.24) + direction * along
                    houses += _house(place + rng.normal(0, 3, 2), turn + rng.normal(0, 0.03), rng)
    return streets + houses


def _house(centre: Points, turn: float, rng: np.random.Generator) -> list[_Shape]:
    roof = np.array(_ROOFS[int(rng.integers(len(_ROOFS)))]) + rng.normal(0, 10) + rng.normal(0, 4, 3)
    extent = rng.uniform(4, 17, 2)
    return [
        _Shape(points=_rectangle(centre + 3, extent, turn), colour=(42, 44, 46)),
        _Shape(points=_rectangle(centre, extent, turn), colour=_colour(roof)),
    ]


def _rectangle(centre: Points, extent: Points, turn: float) -> tuple[tuple[float, float], ...]:
    c, s = math.cos(turn), math.sin(turn)
    corners = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    reach = [(extent[0] * i, extent[1] * j) for i, j in corners]
    return tuple((float(centre[0] + u * c - v * s), float(centre[1] + u * s + v * c)) for u, v in reach)


def _disc(centre: Points, radius: float, colour: tuple[int, int, int]) -> _Shape:
    angles = np.arange(8) * (math.pi / 4)
    points = tuple((float(centre[0] + radius * math.cos(a)), float(centre[1] + radius * math.sin(a))) for a in angles)
    return _Shape(points=points, colour=colour)


def _colour(levels: Points) -> tuple[int, int, int]:
    red, green, blue = np.clip(levels, 0, 255).astype(int).tolist()
    return red, green, blue
