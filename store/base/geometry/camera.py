"""The camera, what it sees of the ground, and the square of ground that is cut out of its frame. Pure.

Nadir is assumed: the optical axis points straight down, and the ground is flat. Pixels of a calibration are
OpenCV's: the middle of the upper left one is (0, 0).
"""

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from store.base.geometry.sampling import FARTHEST_PX, MAX_SHRINK, Floats, sample
from store.base.preprocessing import Pixels
from store.base.valueclass import valueclass
from store.base.values import shown

MAX_SIDE_PX: Final = 65_535
MIN_FOCAL_PX: Final = 1e-3
MAX_FOCAL_PX: Final = 1e9
_TRIED: Final = 33
"""Columns and rows of a frame at which a lens is tried."""
WIDEST: Final = 1.35
"""Largest side of the wanted square, in smaller sides of the ground seen: the rest of it is mirrored."""
FAR_FROM_LEVEL: Final = 1.25
"""A frame that shows so many times more or less ground than all chunks is mostly not found."""
LEVEL_RATIO: Final = 1.25
"""Largest ratio of the sides of two neighbouring levels."""
LAST_RATIO: Final = 1.12
"""Largest ratio of the side wanted at the highest altitude to that of the last level."""

_COEFFICIENTS: Final[Mapping[str, tuple[int, ...]]] = {"opencv": (4, 5, 8), "fisheye": (4,)}


@valueclass(frozen=True, slots=True)
class Distortion:
    """The distortion of a lens, by one of OpenCV's models.

    Attributes:
        model: "opencv" (k1, k2, p1, p2, then k3, then k4, k5, k6) or "fisheye" (k1, k2, k3, k4).
        coefficients: The coefficients in OpenCV's order.
    """

    model: str
    coefficients: tuple[float, ...]

    def distort(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Return where the lens shows points that a pinhole shows at x and y; focal lengths from the axis."""
        squared = x * x + y * y
        if self.model == "fisheye":
            k1, k2, k3, k4 = self.coefficients
            radius = np.sqrt(squared)
            angle = np.arctan(radius)
            a2 = angle * angle
            bent = angle * (1 + a2 * (k1 + a2 * (k2 + a2 * (k3 + a2 * k4))))
            ratio = np.divide(bent, radius, out=np.ones_like(radius), where=radius > 0)
            return x * ratio, y * ratio
        k1, k2, p1, p2, k3, k4, k5, k6 = (*self.coefficients, *[0.0] * (8 - len(self.coefficients)))
        ratio = 1 + squared * (k1 + squared * (k2 + squared * k3))
        ratio /= 1 + squared * (k4 + squared * (k5 + squared * k6))
        across = 2 * x * y
        return (
            x * ratio + p1 * across + p2 * (squared + 2 * x * x),
            y * ratio + p2 * across + p1 * (squared + 2 * y * y),
        )


@valueclass(frozen=True, slots=True)
class Camera:
    """The calibration of a camera.

    Attributes:
        width: Width of its frames, pixels.
        height: Height of its frames, pixels.
        fx: Focal length in widths of a pixel.
        fy: Focal length in heights of a pixel.
        cx: Column of the principal point.
        cy: Row of the principal point.
        distortion: Distortion of the lens; None for a pinhole.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion: Distortion | None = None

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Camera":
        """Return the camera that a calibration describes; other keys are ignored.

        Raises:
            ValueError: A key is missing or its value is not usable; the message names the key.
        """
        width, height = (_pixels(document, key) for key in ("width", "height"))
        fx, fy, cx, cy = (_number(document, key) for key in ("fx", "fy", "cx", "cy"))
        for key, value in (("fx", fx), ("fy", fy)):
            if not MIN_FOCAL_PX <= value <= MAX_FOCAL_PX:
                raise ValueError(
                    f'"{key}": expected a focal length above 0 pixels, of {MIN_FOCAL_PX:g} to '
                    f"{MAX_FOCAL_PX:g}, found {value:g}"
                )
        for key, value, side in (("cx", cx, width), ("cy", cy, height)):
            if not 0 <= value <= side:
                raise ValueError(f'"{key}": expected a pixel of the frame, 0 to {side}, found {value:g}')
        camera = cls(width, height, fx, fy, cx, cy, _distortion(document.get("distortion")))
        across, down = np.linspace(0, width - 1, _TRIED), np.linspace(0, height - 1, _TRIED)
        bent = camera.distort(*np.meshgrid(across.astype(np.float32), down.astype(np.float32)))
        if not all((np.abs(axis) <= FARTHEST_PX).all() for axis in bent):
            raise ValueError(
                f'"distortion.coefficients": expected a lens that shows the pixels of its frame at most '
                f"{FARTHEST_PX:,} pixels away, found {shown(document.get('distortion'), 80)}"
            )
        return camera

    def ground_seen(self, altitude_m: float) -> tuple[float, float]:
        """Return the smaller and the larger side, in metres, of the ground that a frame shows."""
        across, down = altitude_m * self.width / self.fx, altitude_m * self.height / self.fy
        return min(across, down), max(across, down)

    def wanted_side_m(self, altitude_m: float) -> float:
        """Return the side of the square, in metres, that frames from an altitude are best compared by."""
        small, large = self.ground_seen(altitude_m)
        return min(math.sqrt(small * large), WIDEST * small)

    def scaled_to(self, width: int, height: int) -> "Camera":
        """Return the camera for frames that were scaled to another size.

        Raises:
            ValueError: The size has another aspect, by more than a pixel that was rounded off.
        """
        if (width, height) == (self.width, self.height):
            return self
        across, down = width / self.width, height / self.height
        if abs(across / down - 1) > 1 / min(height, width, self.height, self.width):
            raise ValueError(
                f"expected a frame of the camera's aspect, {self.width} x {self.height} pixels, "
                f"found {width} x {height}: a cut frame needs its own calibration"
            )
        cx, cy = (self.cx + 0.5) * across - 0.5, (self.cy + 0.5) * down - 0.5
        return Camera(width, height, self.fx * across, self.fy * down, cx, cy, self.distortion)

    def distort(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Return the pixels of a frame that show what a pinhole would show at columns x and rows y."""
        if self.distortion is None:
            return x, y
        fx, fy, cx, cy = (np.float32(value) for value in (self.fx, self.fy, self.cx, self.cy))
        # Far outside of its frame a lens may have no finite place; `sample` takes some pixel for it.
        with np.errstate(all="ignore"):
            bent_x, bent_y = self.distortion.distort((x - cx) / fx, (y - cy) / fy)
            return bent_x * fx + cx, bent_y * fy + cy

    def undistort_map(self) -> tuple[Floats, Floats]:
        """Return the column and row to take for each undistorted pixel, float32 [height, width] each."""
        x, y = np.meshgrid(np.arange(self.width, dtype=np.float32), np.arange(self.height, dtype=np.float32))
        return self.distort(x, y)

    def undistort(self, frame: Pixels) -> Pixels:
        """Return a frame, uint8 [height, width, 3], as a pinhole of the same focal lengths would show it.

        What the frame does not show is mirrored. `cut_square` undistorts what it cuts, which takes less time.

        Raises:
            ValueError: The frame has another aspect than the camera's.
        """
        camera = self.scaled_to(frame.shape[1], frame.shape[0])
        return frame if self.distortion is None else sample(frame, *camera.undistort_map(), 1)


def level_sides_m(lowest_altitude_m: float, highest_altitude_m: float, camera: Camera) -> list[float]:
    """Return the sides of the levels, in metres, that serve a range of altitudes above ground.

    The first is wanted at the lowest altitude. They are as few as can be: each is at most 1.25 times the one
    before, and the last at least what is wanted at the highest altitude, divided by 1.12.

    Raises:
        ValueError: An altitude is not above 0, or they are in the wrong order.
    """
    if not 0 < lowest_altitude_m <= highest_altitude_m < math.inf:
        raise ValueError(
            f"expected altitudes above 0 m, the lowest first, "
            f"found {lowest_altitude_m:g} m and {highest_altitude_m:g} m"
        )
    first, span = camera.wanted_side_m(lowest_altitude_m), highest_altitude_m / lowest_altitude_m
    steps = max(0, math.ceil(math.log(span / LAST_RATIO) / math.log(LEVEL_RATIO) - 1e-9))
    # The highest altitude is as far from the last level as altitudes between two levels are from both.
    ratio = min(LEVEL_RATIO, span ** (1 / (steps + 0.5)))
    return [first * ratio**step for step in range(steps + 1)]


def cut_square(
    frame: Pixels,
    *,
    metres_per_pixel: float,
    side_m: float,
    heading_deg: float,
    size: tuple[int, int],
    camera: Camera | None = None,
    away_m: tuple[float, float] = (0.0, 0.0),
) -> Pixels:
    """Return a square of ground from a frame, turned north.

    What the frame does not show is mirrored at its edge. Where the frame is finer than the picture, its
    pixels are averaged first.

    Args:
        frame: uint8 [height, width, 3], RGB, as the camera gave it.
        metres_per_pixel: Ground covered by the width of a pixel of the frame.
        side_m: Side of the square.
        heading_deg: Degrees clockwise from true north of the frame's upper edge.
        size: Height and width of the picture, pixels.
        camera: Gives the principal point and the distortion, for a frame of any size of its aspect; without,
            they are the frame's middle and none.
        away_m: Middle of the square, in metres from the principal point along the frame's rows, to the right,
            and along its columns, downwards.

    Returns:
        uint8 [*size, 3], RGB.

    Raises:
        ValueError: The frame has another aspect than the camera's.
    """
    height, width = frame.shape[:2]
    lens = Camera(width, height, 1, 1, (width - 1) / 2, (height - 1) / 2)
    if camera is not None:
        lens = camera.scaled_to(width, height)
    turn = math.radians(heading_deg)
    across, down = 1 / metres_per_pixel, lens.fy / lens.fx / metres_per_pixel
    # Pixels of the frame: what a row and what a column of the picture add to them.
    south, east = (((np.arange(side) + 0.5) / side - 0.5) * side_m for side in size)
    x_row, x_column = south * (math.sin(turn) * across), east * (math.cos(turn) * across)
    y_row, y_column = south * (math.cos(turn) * down), east * (-math.sin(turn) * down)
    x_column += away_m[0] * across + lens.cx
    y_column += away_m[1] * down + lens.cy
    if turn == 0 and lens.distortion is None:
        # Columns and rows of the picture are columns and rows of the frame, and are reckoned once each.
        x, y = x_column.astype(np.float32)[None], y_row.astype(np.float32)[:, None] + np.float32(y_column[0])
    else:
        x, y = (
            np.add.outer(row.astype(np.float32), column.astype(np.float32))
            for row, column in ((x_row, x_column), (y_row, y_column))
        )
    shrink = max(1, min(round(side_m * across / max(size)), MAX_SHRINK, height, width))
    return sample(frame, *lens.distort(x, y), shrink)


def _pixels(document: Mapping[str, Any], key: str) -> int:
    value = document.get(key)
    if type(value) is not int or not 1 <= value <= MAX_SIDE_PX:
        raise ValueError(f'"{key}": expected whole pixels, 1 to {MAX_SIDE_PX}, found {shown(value, 80)}')
    return value


def _number(document: Mapping[str, Any], key: str) -> float:
    value = _finite(document.get(key))
    if value is None:
        raise ValueError(f'"{key}": expected a number of pixels, found {shown(document.get(key), 80)}')
    return value


def _finite(value: object) -> float | None:
    """Return a finite number, and None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e300:
        return None
    return float(value)


def _distortion(document: object) -> Distortion | None:
    if document is None:
        return None
    if not isinstance(document, Mapping) or document.get("model") not in list(_COEFFICIENTS):
        raise ValueError(
            f'"distortion": expected {{"model": "opencv" or "fisheye", "coefficients": [...]}}, '
            f"found {shown(document, 80)}"
        )
    model, values = document["model"], document.get("coefficients")
    found = [_finite(value) for value in values] if isinstance(values, (list, tuple)) else []
    numbers = tuple(value for value in found if value is not None)
    counts = _COEFFICIENTS[model]
    if len(found) not in counts or len(numbers) != len(found):
        raise ValueError(
            f'"distortion.coefficients": expected {" or ".join(map(str, counts))} finite numbers '
            f"for {model}, found {shown(values, 80)}"
        )
    return Distortion(model, numbers)
