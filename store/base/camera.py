"""The camera, what it sees of the ground, and the square of ground that is cut out of its frame. Pure.

Nadir is assumed: the optical axis points straight down, and the ground is flat. Pixels of a calibration are
OpenCV's: the middle of the upper left one is (0, 0).
"""

import math
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from store.base.preprocessing import Pixels
from store.base.valueclass import valueclass

Floats: TypeAlias = npt.NDArray[np.float32]
Sixteenths: TypeAlias = npt.NDArray[np.int32]
Packed: TypeAlias = npt.NDArray[np.uint64]
"""Red, green and blue as 16 bits each, so that one multiplication is enough for them."""
Unsigned: TypeAlias = npt.NDArray[np.unsignedinteger[Any]]

MAX_SIDE_PX: Final = 65_535
MAX_SHRINK: Final = 256
"""Most rows of bytes of which 16 bits hold the sum."""
WIDEST: Final = 1.35
"""Largest side of the wanted square, in smaller sides of the ground seen: the rest of it is mirrored."""
LEVEL_RATIO: Final = 1.25
"""Largest ratio of the sides of two neighbouring levels."""
LAST_RATIO: Final = 1.12
"""Largest ratio of the side wanted at the highest altitude to that of the last level."""

_AT_ONCE: Final = 16_384
"""Pixels that are interpolated together: intermediate values stay in the processor's cache."""
_SUMS_AT_ONCE: Final = 1 << 16
"""Sums of rows that are held at once: the system takes its time to give larger arrays."""
_HALVES: Final = np.uint64(0x0080_0080_0080)
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
            if value <= 0:
                raise ValueError(f'"{key}": expected a focal length above 0 pixels, found {value:g}')
        for key, value, side in (("cx", cx, width), ("cy", cy, height)):
            if not 0 <= value <= side:
                raise ValueError(f'"{key}": expected a pixel of the frame, 0 to {side}, found {value:g}')
        return cls(width, height, fx, fy, cx, cy, _distortion(document.get("distortion")))

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
        return frame if self.distortion is None else _sample(frame, *camera.undistort_map(), 1)


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
    return _sample(frame, *lens.distort(x, y), shrink)


def _sample(frame: Pixels, x: Floats, y: Floats, shrink: int) -> Pixels:
    """Return the colours of a frame at columns x and rows y, float32 [h or 1, w] and [h, w or 1]: uint8 [h, w, 3].

    The frame is mirrored at its edges. Squares of `shrink` pixels are averaged, and the averages interpolated
    bilinearly, in sixteenths of their distance.
    """
    height, width = frame.shape[:2]
    x, y = _mirror(x, width), _mirror(y, height)
    left, top = (
        max(0, min(int(axis.min()) // shrink, count // shrink) - 1) * shrink
        for axis, count in ((x, width), (y, height))
    )
    right, bottom = (int(axis.max()) + 2 * shrink for axis in (x, y))
    averages = _shrink(frame[top:bottom, left:right], shrink)
    last_column, last_row = (16 * (count - 2) for count in (averages.shape[1], averages.shape[0]))
    colours = np.empty((3, len(y), x.shape[1]), np.uint8)
    if len(x) == y.shape[1] == 1:
        columns = _sixteenths(x[0], left, shrink, last_column)
        rows = _sixteenths(y[:, 0], top, shrink, last_row)
        _interpolate_grid(averages, columns, rows, colours)
    else:
        lines = max(1, _AT_ONCE // x.shape[1])
        for first in range(0, len(y), lines):
            part = slice(first, first + lines)
            columns = _sixteenths(x[part], left, shrink, last_column)
            rows = _sixteenths(y[part], top, shrink, last_row)
            _interpolate(averages, columns, rows, colours[:, part])
    return colours.transpose(1, 2, 0)


def _mirror(axis: Floats, count: int) -> Floats:
    """Fold coordinates, of which 0 is the middle of the first pixel, to 0 and `count`: the frame's edges."""
    folded: Floats = axis + np.float32(0.5)
    np.abs(folded, out=folded)
    farthest = folded.max()
    if farthest > count:
        if farthest > 1.5 * count:
            folded -= np.floor(folded * np.float32(0.5 / count)) * np.float32(2 * count)
        np.minimum(folded, np.float32(2 * count) - folded, out=folded)
        np.maximum(folded, np.float32(0), out=folded)  # the rounding of the subtractions may be downwards
    return folded


def _sixteenths(axis: Floats, start: int, shrink: int, last: int) -> Sixteenths:
    """Return folded coordinates in sixteenths of the distance of averages, from the middle of the first."""
    scaled = axis - np.float32(start)
    scaled *= np.float32(16 / shrink)
    scaled -= np.float32(7.5)
    whole = scaled.astype(np.int32)
    np.maximum(whole, 0, out=whole)
    np.minimum(whole, last, out=whole)
    return whole


def _shrink(frame: Pixels, by: int) -> Packed:
    """Return the averages of squares of pixels; a rest at the end is left out.

    One row and one column more repeat the last ones: what lies beside those has a weight of 0.
    """
    rows, columns = (side // by for side in frame.shape[:2])
    frame = frame[: rows * by, : columns * by]
    averages = np.zeros((rows + 1, columns + 1, 4), np.uint16)
    lines = max(1, _SUMS_AT_ONCE // (3 * columns * by))
    for first in range(0, rows, lines):
        some = frame[first * by : (first + lines) * by].reshape(-1, by, 3 * columns * by)
        means = np.add.reduce(some, axis=1, dtype=np.uint16, initial=by // 2)
        means //= np.uint16(by)
        sums = _sums_of_neighbours(means, by)
        for colour in range(3):
            averages[first : first + len(sums), :columns, colour] = sums[:, colour :: 3 * by]
    # A mean of columns is rounded as Pillow's `reduce` rounds it, whose reciprocals are a little too small.
    averages += np.uint16(by // 2 - (by & by - 1 > 0))
    averages //= np.uint16(by)
    averages[rows] = averages[rows - 1]
    averages[:, columns] = averages[:, columns - 1]
    return averages.view(np.uint64)[:, :, 0]


def _sums_of_neighbours(rows: npt.NDArray[np.uint16], count: int) -> npt.NDArray[np.uint16]:
    """Return the sum of each value and of those `3 * n` places to the right of it, for n below `count`.

    Sums of 2, 4, 8 neighbours are added up: whole rows, in order, are the fastest to add.
    """
    total, done, power, span = None, 0, rows, 1
    while True:
        if count & span:
            part = power[:, 3 * done :]
            total = part if total is None else total[:, : part.shape[1]] + part
            done += span
        span *= 2
        if span > count:
            return total
        power = power[:, : -3 * (span // 2)] + power[:, 3 * (span // 2) :]


def _interpolate_grid(averages: Packed, columns: Sixteenths, rows: Sixteenths, out: Pixels) -> None:
    """Interpolate bilinearly where columns, [w], and rows, [h], cross; `out` is uint8 [3, h, w]."""
    at = columns >> 4
    across = _between(averages.take(at, axis=1), averages.take(at + 1, axis=1), (columns & 15).astype(np.uint64))
    colours = across.view(np.uint16).reshape(*across.shape, 4)[:, :, :3].transpose(2, 0, 1).copy()
    at = rows >> 4
    mixed = _between(
        colours.take(at, axis=1), colours.take(at + 1, axis=1), (rows & 15).astype(np.uint16)[:, None]
    )
    mixed += np.uint16(128)
    mixed >>= np.uint16(8)
    out[:] = mixed


def _interpolate(averages: Packed, columns: Sixteenths, rows: Sixteenths, out: Pixels) -> None:
    """Interpolate bilinearly at pairs of columns and rows, [h, w] each; `out` is uint8 [3, h, w]."""
    count, flat = averages.shape[1], averages.ravel()
    at = ((rows >> 4) * count + (columns >> 4)).astype(np.intp)
    right, down = (columns & 15).astype(np.uint64), (rows & 15).astype(np.uint64)
    upper = _between(flat.take(at), flat[1:].take(at), right)
    lower = _between(flat[count:].take(at), flat[count + 1 :].take(at), right)
    mixed = _between(upper, lower, down)
    mixed += _HALVES
    out[:] = mixed.astype("<u8", copy=False).view(np.uint8).reshape(*at.shape, 8)[..., 1:6:2].transpose(2, 0, 1)


def _between(first: Unsigned, second: Unsigned, sixteenths: Unsigned) -> Unsigned:
    """Return 16 times what lies so many sixteenths of the way from `first` to `second`, which are used up.

    Colours side by side in one number do not disturb each other: what a difference below 0 borrows comes back.
    """
    second -= first
    second *= sixteenths
    first <<= first.dtype.type(4)
    first += second
    return first


def _pixels(document: Mapping[str, Any], key: str) -> int:
    value = document.get(key)
    if type(value) is not int or not 1 <= value <= MAX_SIDE_PX:
        raise ValueError(f'"{key}": expected whole pixels, 1 to {MAX_SIDE_PX}, found {value!r:.80}')
    return value


def _number(document: Mapping[str, Any], key: str) -> float:
    value = _finite(document.get(key))
    if value is None:
        raise ValueError(f'"{key}": expected a number of pixels, found {document.get(key)!r:.80}')
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
            f"found {document!r:.80}"
        )
    model, values = document["model"], document.get("coefficients")
    found = [_finite(value) for value in values] if isinstance(values, (list, tuple)) else []
    numbers = tuple(value for value in found if value is not None)
    counts = _COEFFICIENTS[model]
    if len(found) not in counts or len(numbers) != len(found):
        raise ValueError(
            f'"distortion.coefficients": expected {" or ".join(map(str, counts))} finite numbers '
            f"for {model}, found {values!r:.80}"
        )
    return Distortion(model, numbers)
