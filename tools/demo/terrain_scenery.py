"""What is drawn on a procedural landscape: roads, single trees, houses and towns."""

import math
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from store.base.valueclass import valueclass

Points = npt.NDArray[np.float64]

_ROAD_GREYS: Final = (96, 124, 162, 190)
_ROOFS: Final = ((72, 74, 80), (132, 84, 68), (182, 176, 168), (214, 210, 204), (150, 120, 96))


@valueclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A stroke with a width, or a filled outline without one."""

    points: tuple[tuple[float, float], ...]
    colour: tuple[int, int, int]
    width: int | None = None


def scenery(size: int, rng: np.random.Generator, shadows: tuple[float, float]) -> list[Shape]:
    """Return everything to draw on a mosaic of this size, in drawing order.

    `shadows` are parts of the usual length, to the east and south.
    """
    cast = np.array(shadows)
    return [
        *_road_strokes(size, rng),
        *_tree_shapes(size, rng, cast),
        *_village_shapes(size, rng, cast),
        *_town_shapes(size, rng, cast),
    ]


def draw_softly(canvas: Image.Image, shapes: list[Shape], *, spared: Image.Image) -> None:
    """Draw on the canvas with softened edges, because Pillow's are jagged; not where the mask is set."""
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


def _road_strokes(size: int, rng: np.random.Generator) -> list[Shape]:
    """Return winding tracks and roads."""
    strokes = []
    for _ in range(max(1, size // 90)):
        turns = rng.normal(0, 0.25, int(rng.integers(6, 40)))
        heading = rng.uniform(0, 2 * math.pi) + np.cumsum(turns)
        step = rng.uniform(60, 220, len(turns))[:, None] * np.stack([np.cos(heading), np.sin(heading)], 1)
        path = _rounded(_rounded(rng.uniform(0, size, 2) + np.cumsum(step, 0)))
        width = int(rng.choice([3, 4, 5, 8, 12]))
        grey = float(rng.choice(_ROAD_GREYS)) + rng.normal(0, 8) + rng.normal(0, 4, 3)
        points = tuple((float(x), float(y)) for x, y in path)
        strokes.append(Shape(points=points, colour=_colour(grey), width=width))
    return strokes


def _rounded(path: Points) -> Points:
    """Cut every corner of a path at a quarter and three quarters of its edges (Chaikin's rule)."""
    early, late = 0.75 * path[:-1] + 0.25 * path[1:], 0.25 * path[:-1] + 0.75 * path[1:]
    return np.concatenate([path[:1], np.stack([early, late], 1).reshape(-1, 2), path[-1:]])


def _tree_shapes(size: int, rng: np.random.Generator, cast: Points) -> list[Shape]:
    """Return single trees and bushes with their shadows."""
    shapes = []
    for _ in range(size * size // 12_000):
        centre, radius = rng.uniform(0, size, 2), rng.uniform(2.5, 7)
        colour = np.array([52, 78, 44]) + rng.normal(0, 8, 3)
        shapes.append(_disc(centre + radius * 0.5 * cast, radius, (38, 44, 36)))
        shapes.append(_disc(centre, radius, _colour(colour)))
    return shapes


def _village_shapes(size: int, rng: np.random.Generator, cast: Points) -> list[Shape]:
    """Return loose clusters of houses that share a direction."""
    shapes = []
    for _ in range(max(1, size // 60)):
        middle, turn = rng.uniform(0, size, 2), rng.uniform(0, math.pi / 2)
        for _ in range(int(rng.integers(3, 45))):
            shapes += _house(middle + rng.normal(0, 110, 2), turn + rng.normal(0, 0.04), rng, cast)
    return shapes


def _town_shapes(size: int, rng: np.random.Generator, cast: Points) -> list[Shape]:
    """Return street grids with houses along them, fewer away from the middle."""
    streets: list[Shape] = []
    houses: list[Shape] = []
    for _ in range(size // 1100):
        middle, turn = rng.uniform(0, size, 2), rng.uniform(0, math.pi / 2)
        radius, block = rng.uniform(260, 620), rng.uniform(70, 120)
        axis = np.array([math.cos(turn), math.sin(turn)])
        for direction in (axis, np.array([-axis[1], axis[0]])):
            normal = np.array([-direction[1], direction[0]])
            for offset in np.arange(-radius, radius, block):
                reach = math.sqrt(radius**2 - offset**2) * rng.uniform(0.7, 1.0)
                ends = [
                    middle + normal * (offset + rng.normal(0, 4)) + direction * end for end in (-reach, reach)
                ]
                streets.append(
                    Shape(
                        points=tuple((float(x), float(y)) for x, y in ends), colour=(124, 122, 120), width=6
                    )
                )
                for along in np.arange(-reach, reach, block / 2.6):
                    if rng.random() > 0.85 - 0.5 * math.hypot(offset, along) / radius:
                        continue
                    place = middle + normal * (offset + block * 0.24) + direction * along
                    houses += _house(place + rng.normal(0, 3, 2), turn + rng.normal(0, 0.03), rng, cast)
    return streets + houses


def _house(centre: Points, turn: float, rng: np.random.Generator, cast: Points) -> list[Shape]:
    roof = np.array(_ROOFS[int(rng.integers(len(_ROOFS)))]) + rng.normal(0, 10) + rng.normal(0, 4, 3)
    extent = rng.uniform(4, 17, 2)
    return [
        Shape(points=_rectangle(centre + 3 * cast, extent, turn), colour=(42, 44, 46)),
        Shape(points=_rectangle(centre, extent, turn), colour=_colour(roof)),
    ]


def _rectangle(centre: Points, extent: Points, turn: float) -> tuple[tuple[float, float], ...]:
    c, s = math.cos(turn), math.sin(turn)
    corners = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    reach = [(extent[0] * i, extent[1] * j) for i, j in corners]
    return tuple((float(centre[0] + u * c - v * s), float(centre[1] + u * s + v * c)) for u, v in reach)


def _disc(centre: Points, radius: float, colour: tuple[int, int, int]) -> Shape:
    angles = np.arange(8) * (math.pi / 4)
    points = tuple(
        (float(centre[0] + radius * math.cos(a)), float(centre[1] + radius * math.sin(a))) for a in angles
    )
    return Shape(points=points, colour=colour)


def _colour(levels: Points) -> tuple[int, int, int]:
    red, green, blue = np.clip(levels, 0, 255).astype(int).tolist()
    return red, green, blue
