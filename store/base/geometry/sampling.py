"""Take the colours of a frame at any places: mirrored at its edges, averaged, interpolated. Pure.

All of it is NumPy on whole numbers, the same on every machine. It is made for the time that it takes: an
aircraft does it for every frame.
"""

from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from store.base.preprocessing import Pixels

Floats: TypeAlias = npt.NDArray[np.float32]
Sixteenths: TypeAlias = npt.NDArray[np.int32]
Sums: TypeAlias = npt.NDArray[np.uint16]
Packed: TypeAlias = npt.NDArray[np.uint64]
"""Red, green and blue in 16 bits each, so that one multiplication is enough for all of them."""
Unsigned: TypeAlias = npt.NDArray[np.unsignedinteger[Any]]

MAX_SHRINK: Final = 256
"""Most bytes of which 16 bits hold the sum."""

FARTHEST_PX: Final = 1 << 20
"""Coordinates beyond it, and those that are no number, are taken for it: they can no longer be folded exactly."""

_AT_ONCE: Final = 16_384
"""Pixels that are interpolated together: intermediate values stay in the processor's cache."""
_SUMS_AT_ONCE: Final = 1 << 16
"""Sums that are held at once, likewise."""
_HALVES: Final = np.uint64(0x0080_0080_0080)
"""A half for each colour, where 256 is one."""


def sample(frame: Pixels, x: Floats, y: Floats, shrink: int) -> Pixels:
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
    # One colour after the other, as most networks take them: `preprocessing` reads them in half the time.
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
    if not farthest <= FARTHEST_PX:
        farthest = np.float32(FARTHEST_PX)
        np.fmin(folded, farthest, out=folded)
    if farthest > 1.5 * count:
        folded -= np.floor(folded * np.float32(0.5 / count)) * np.float32(2 * count)
        np.maximum(folded, np.float32(0), out=folded)  # the rounding of the line before may be downwards
    if farthest > count:
        np.minimum(folded, np.float32(2 * count) - folded, out=folded)
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


def _sums_of_neighbours(rows: Sums, count: int) -> Sums:
    """Return the sum of each value and of those `3 * n` places to the right of it, for n below `count`.

    Sums of 2, 4, 8 neighbours are added up: whole rows, in order, are the fastest to add.
    """
    if count == 1:
        return rows
    half, distance = _sums_of_neighbours(rows, count // 2), 3 * (count // 2)
    sums = half[:, :-distance] + half[:, distance:]
    return sums[:, :-3] + rows[:, 3 * (count - 1) :] if count % 2 else sums


def _interpolate_grid(averages: Packed, columns: Sixteenths, rows: Sixteenths, out: Pixels) -> None:
    """Interpolate bilinearly where columns, [w], and rows, [h], cross; `out` is uint8 [3, h, w]."""
    at = columns >> 4
    across = _between(
        averages.take(at, axis=1), averages.take(at + 1, axis=1), (columns & 15).astype(np.uint64)
    )
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
    out[:] = (
        mixed.astype("<u8", copy=False).view(np.uint8).reshape(*at.shape, 8)[..., 1:6:2].transpose(2, 0, 1)
    )


def _between(first: Unsigned, second: Unsigned, sixteenths: Unsigned) -> Unsigned:
    """Return 16 times what lies so many sixteenths of the way from `first` to `second`, which are used up.

    Colours side by side in one number do not disturb each other: what a difference below 0 borrows comes back.
    """
    second -= first
    second *= sixteenths
    first <<= first.dtype.type(4)
    first += second
    return first
