"""The ground of a procedural landscape: relief, woods, fields and water, without buildings.

Smooth fields are power-law noise at a quarter of the resolution; farmland is a cell diagram at half of it.
They are enlarged and painted strip by strip, so that a large mosaic needs little memory beyond its own
pixels.
"""

import math
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from store.base.valueclass import valueclass

Pixels = npt.NDArray[np.uint8]
Plane = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int32]
Points = npt.NDArray[np.float64]

_STRIP_ROWS: Final = 256
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
_CROPS: Final = np.array(
    [[152, 142, 84], [112, 132, 62], [172, 157, 112], [90, 112, 56], [132, 102, 72], [128, 144, 84]],
    dtype=np.float32,
)


@valueclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How a landscape looks on a day; its layout does not depend on it.

    Attributes:
        shadows: Where shadows fall, east and south, as parts of their usual length; the sun is opposite.
        canopy: Colour of woods, RGB.
        crops: Seed of what grows in the fields; None for what grows there at first.
    """

    shadows: tuple[float, float] = (1.0, 1.0)
    canopy: tuple[int, int, int] = (46, 72, 42)
    crops: int | None = None


@valueclass(frozen=True, slots=True, kw_only=True)
class _Farmland:
    """The cell diagram at half resolution, and what grows in each cell."""

    cell: Labels
    edge: npt.NDArray[np.bool_]
    is_field: npt.NDArray[np.bool_]
    colour: Plane
    furrow: Plane
    furrow_depth: Plane


@valueclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """Fields of unit deviation at a quarter of the resolution, textures at half of it; all square."""

    size: int
    look: Look
    height: Image.Image
    moisture: Image.Image
    roughness: Image.Image
    relief: Image.Image
    stream: Image.Image
    canopy: Image.Image
    grain: Image.Image
    farmland: _Farmland


def _power_noise(size: int, exponent: float, rng: np.random.Generator) -> Plane:
    """Return Gaussian noise whose power falls with frequency to this exponent; zero mean, unit deviation."""
    across = np.fft.rfftfreq(size)[None, :] ** 2
    power = across + np.fft.fftfreq(size)[:, None] ** 2
    power[0, 0] = 1.0
    spectrum = np.fft.rfft2(rng.standard_normal((size, size))) * power ** (-exponent / 4)
    spectrum[0, 0] = 0.0
    field = np.fft.irfft2(spectrum, (size, size))
    unit: Plane = (field / field.std()).astype(np.float32)
    return unit


def _grain(size: int, softness: float, rng: np.random.Generator) -> Image.Image:
    """Return softened white noise. 8 bits are enough for a texture, and Pillow filters them fastest."""
    noise = Image.fromarray(rng.integers(0, 256, (size, size), dtype=np.uint8))
    return noise.filter(ImageFilter.GaussianBlur(softness))


def layers_of(size: int, rng: np.random.Generator, look: Look) -> Layers:
    """Draw the random layers that the ground of a mosaic of this size is painted from."""
    quarter, half = -(-size // 4) + 1, -(-size // 2) + 1
    height = _power_noise(quarter, 3.0, rng)
    roughness = _power_noise(quarter, 2.0, rng)
    slope_y, slope_x = np.gradient(height + 0.06 * roughness)
    lit = slope_x * look.shadows[0] + slope_y * look.shadows[1]
    relief = lit / max(1e-6, float(lit.std()))
    return Layers(
        size=size,
        look=look,
        height=Image.fromarray(height),
        moisture=Image.fromarray(_power_noise(quarter, 2.8, rng)),
        roughness=Image.fromarray(roughness),
        relief=Image.fromarray(np.clip(relief, -3, 3).astype(np.float32)),
        stream=Image.fromarray(_power_noise(quarter, 3.2, rng)),
        canopy=_grain(half, 1.1, rng),
        grain=_grain(half, 0.7, rng),
        farmland=_farmland(half, roughness, rng, look),
    )


def _farmland(half: int, roughness: Plane, rng: np.random.Generator, look: Look) -> _Farmland:
    """Return cells around scattered sites. The fields of a district are long in one shared direction."""
    cell_px = _CELL_PX // 2
    count = half // cell_px + 4
    jitter = rng.uniform(0.08, 0.92, (count, count, 2))
    grid = np.arange(count, dtype=np.float64)
    sites = (np.stack(np.meshgrid(grid, grid), -1) - 1 + jitter) * cell_px
    district = np.repeat(np.repeat(rng.uniform(0, math.pi, (count, count)), 4, 0), 4, 1)[:count, :count]
    turn = district + rng.normal(0, 0.04, (count, count))
    stretch = rng.uniform(0.75, 1.35, (count, count))
    warp = np.array(Image.fromarray(roughness).resize((half, half), Image.Resampling.BILINEAR)) * np.float32(
        1.4
    )
    cell = np.concatenate(
        [
            _nearest_site(first, min(half, first + _STRIP_ROWS), warp, (sites, turn, stretch))
            for first in range(0, half, _STRIP_ROWS)
        ]
    )
    total = count * count
    crop = rng.integers(0, len(_CROPS), total)
    if look.crops is not None:
        crop = np.random.default_rng(look.crops).integers(0, len(_CROPS), total)
    period = rng.uniform(6, 22, total)
    along = turn.ravel() + rng.choice([0.0, math.pi / 2], total) + rng.normal(0, 0.05, total)
    edge = np.zeros_like(cell, dtype=np.bool_)
    edge[1:] |= cell[1:] != cell[:-1]
    edge[:, 1:] |= cell[:, 1:] != cell[:, :-1]
    return _Farmland(
        cell=cell,
        edge=edge,
        is_field=rng.random(total) < 0.55,
        colour=(_CROPS[crop] + rng.normal(0, 11, (total, 1)) + rng.normal(0, 5, (total, 3))).astype(
            np.float32
        ),
        furrow=(2 * math.pi * np.stack([np.cos(along), np.sin(along)], 1) / period[:, None]).astype(
            np.float32
        ),
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
    """Return rows first..stop of a layer, enlarged to the mosaic's width; float32 [rows, size]."""
    box = (0, first / factor, size / factor, stop / factor)
    return np.asarray(layer.resize((size, stop - first), Image.Resampling.BICUBIC, box=box), dtype=np.float32)


def painted_strips(layers: Layers, rng: np.random.Generator) -> Iterator[Pixels]:
    """Paint the ground from north to south; uint8 [rows, size, 3] each."""
    table = _ground_table()
    for first in range(0, layers.size, _STRIP_ROWS):
        yield _painted_strip(layers, table, (first, min(layers.size, first + _STRIP_ROWS)), rng)


def _painted_strip(layers: Layers, table: Plane, rows: tuple[int, int], rng: np.random.Generator) -> Pixels:
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
    canopy_colour = np.array(layers.look.canopy, np.float32)
    paint[wooded] = paint[wooded] * np.float32(0.35) + canopy_colour * np.float32(0.65)
    shade[wooded] = shade[wooded] * np.float32(0.5) + canopy[wooded] * np.float32(11)
    paint += shade[..., None]
    stream = np.abs(_enlarged(layers.stream, 4, size, first, stop))
    _paint_water(paint, height, stream)
    pixels: Pixels = np.clip(paint, 0, 255).astype(np.uint8)
    return pixels


def _ground_table() -> Plane:
    """Return ground colours, interpolated between those listed: 64 heights times 32 moistures, [2048, 3]."""
    steps = _GROUND.shape[0] - 1
    level = np.linspace(0, steps, 64, dtype=np.float32)
    low = np.minimum(level.astype(np.int32), steps - 1)
    part = level - low
    part = (part * part * (3 - 2 * part))[:, None, None]
    heights = _GROUND[low] * (1 - part) + _GROUND[low + 1] * part
    damp = np.linspace(0, 2, 32, dtype=np.float32)
    dry = np.minimum(damp.astype(np.int32), 1)
    part = (damp - dry)[None, :, None]
    table: Plane = (
        (heights[:, dry] * (1 - part) + heights[:, dry + 1] * part).reshape(-1, 3).astype(np.float32)
    )
    return table


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
    """Paint lakes without texture, and streams as thin lines in low ground with darker banks. In place."""
    width = np.clip(np.float32(0.010) - np.float32(0.006) * height, 0, np.float32(0.02))
    low = height < 0.8
    paint[(stream < width * 2) & low] *= np.float32(0.78)
    paint[(stream < width) & low] = _WATER + np.float32(10)
    wet = height < _LAKE_LEVEL + 0.04
    shore = np.clip((height[wet] - np.float32(_LAKE_LEVEL)) * 25, 0, 1)[:, None]
    paint[wet] = _WATER + (paint[wet] - _WATER) * shore


def lakes(layers: Layers) -> Image.Image:
    """Return the lakes as an 8-bit mask of the mosaic's size: nothing is built on water."""
    lake = (np.asarray(layers.height) < _LAKE_LEVEL + 0.03).astype(np.uint8) * np.uint8(255)
    size = layers.size
    return Image.fromarray(lake).resize(
        (size, size), Image.Resampling.NEAREST, box=(0, 0, size / 4, size / 4)
    )
