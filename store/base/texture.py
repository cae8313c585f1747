"""How much texture a picture has: what tells ground from calm water, haze and the inside of a hangar. Pure."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

FEATURELESS_BELOW: Final = 2.0
"""Texture energy, in grey levels, below which a tile looks like many others (calm water, no data)."""
TEXTURED_GROUND: Final = 0.125
"""Least part of a tile that must have texture. Satellite tiles have it on a half and more, placeholders on less."""
MEANS: Final = 64
"""Means along each side of a picture, of which its texture is computed."""
_NORMAL_DEVIATION: Final = 1.53
"""How many standard deviations this part of a normal distribution exceeds."""


def texture_energy(rgb: npt.NDArray[np.uint8]) -> float:
    """Return the local contrast of a tile, a measure of its features, in grey levels; 0 for a uniform tile.

    The picture is divided into 64 x 64 means, of 4 x 4 pixels where it has 256 x 256, and these into cells of
    8 x 8. Returned is how far a mean is from the median of its cell, at the fraction `TEXTURED_GROUND` of the
    ground where this is greatest, as the standard deviation of a normal distribution. Means remove noise and
    compression, cells remove slow gradients; text, seams or a corner of ground cover too little to count.

    Args:
        rgb: uint8 [height, width, 3], not empty.

    Raises:
        ValueError: the picture has another shape.
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or 0 in rgb.shape:
        raise ValueError(f"expected pixels of shape [height, width, 3], found {list(rgb.shape)}")
    height, width = rgb.shape[:2]
    # Rows first, which lie together in memory.
    return float(_energies(grey_sums(_joined_rows(rgb, height, width))[None], height, width)[0])


def textures_of_sums(sums: npt.NDArray[Any], width: int) -> npt.NDArray[np.float64]:
    """Return the `texture_energy` of pictures of one size of which the sums of grey are known, float64 [n].

    Args:
        sums: [n, height, 64], from `grey_sums` of the pictures' rows.
        width: Width of the pictures, pixels.
    """
    height = sums.shape[1]
    rows = _joined_rows(sums.transpose(1, 0, 2), height, width)
    return _energies(rows.transpose(1, 0, 2), height, width)


def grey_sums(rgb: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return 4 times the grey of a picture, summed over 64 parts of each row: [rows, 64], of the picture's type.

    Args:
        rgb: [rows, width, 3], of a type that holds the sums, such as that of `sums_type`.
    """
    rgb = _repeated(rgb, 1)
    across = rgb.shape[1] // MEANS
    grey = rgb[..., 0] + rgb[..., 1] + rgb[..., 1] + rgb[..., 2]
    sums: npt.NDArray[Any] = sum(
        (grey[:, start::across] for start in range(1, across)), start=grey[:, ::across]
    )
    return sums


def sums_type(height: int, width: int) -> type[np.unsignedinteger[Any]]:
    """Return the type for sums of grey in a picture: 16 bits hold those of 64 pixels, and are quicker."""
    return np.uint16 if -(-height // MEANS) * -(-width // MEANS) <= 64 else np.uint32


def _joined_rows(rows: npt.NDArray[Any], height: int, width: int) -> npt.NDArray[Any]:
    """Return the sums of 64 parts of the rows of a picture, [64, ...]."""
    rows = _repeated(rows, 0)
    down = len(rows) // MEANS
    joined: npt.NDArray[Any] = rows[::down].astype(sums_type(height, width))
    for start in range(1, down):
        joined += rows[start::down]
    return joined


def _repeated(pixels: npt.NDArray[Any], axis: int) -> npt.NDArray[Any]:
    """Return pixels of which one side is a multiple of 64, by repeating some, mostly none."""
    side = pixels.shape[axis]
    wanted = -(-side // MEANS) * MEANS
    return pixels if side == wanted else np.take(pixels, np.arange(wanted) * side // wanted, axis=axis)


def _energies(sums: npt.NDArray[Any], height: int, width: int) -> npt.NDArray[np.float64]:
    """Return the texture energies of [n, 64, 64] sums of pictures of some size; see `texture_energy`."""
    cells: npt.NDArray[Any] = sums.reshape(-1, 8, 8, 8, 8).transpose(0, 1, 3, 2, 4).reshape(-1, 64, 64)
    unit = 4 * -(-height // MEANS) * -(-width // MEANS)
    if unit & (unit - 1):
        # Means that 32 bits do not hold exactly are rounded before they are compared.
        cells, unit = cells.astype(np.float32) / np.float32(unit), 1
    medians = np.partition(cells, 32, axis=2)[:, :, 32:33]
    deviations = (np.maximum(cells, medians) - np.minimum(cells, medians)).reshape(-1, MEANS * MEANS)
    at = round(MEANS * MEANS * (1 - TEXTURED_GROUND))
    deviations.partition(at, axis=1)
    greatest: npt.NDArray[np.float64] = deviations[:, at].astype(np.float64)
    return greatest / unit / _NORMAL_DEVIATION
