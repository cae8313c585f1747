"""Check what a program asks of `FlightCache.locate`. Pure."""

import math
import numbers
from collections.abc import Iterable
from itertools import islice

import numpy as np

from store.base.preprocessing import Pixels
from store.base.valueclass import valueclass
from store.base.values import require_whole_number, shown
from store.errors import ArgumentError

MAX_HEADINGS = 360
MAX_FRAME_SIDE = 16_384
_NEAR = "pass degrees and metres, such as 120.72, 24.26 and 300; longitude comes first"


@valueclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The arguments of `FlightCache.locate`, which says what they mean; exactly one of the first two is None."""

    altitude_m: float | None
    metres_per_pixel: float | None
    heading_deg: float | None
    near: tuple[float, float, float] | None
    headings: int
    pitch_deg: float | None
    roll_deg: float | None
    k: int

    @property
    def headings_deg(self) -> list[float]:
        """The headings to try."""
        if self.heading_deg is not None:
            return [self.heading_deg]
        return [360 * turn / self.headings for turn in range(self.headings)]


def parse_question(
    *,
    altitude_m: object,
    metres_per_pixel: object,
    heading_deg: object,
    near: object,
    headings: object,
    pitch_deg: object,
    roll_deg: object,
    k: object,
) -> Question:
    """Return the arguments as plain numbers.

    Raises:
        ArgumentError: One is no usable value, or not exactly one tells the scale.
    """
    if (altitude_m is None) == (metres_per_pixel is None):
        raise ArgumentError(
            "expected exactly one of altitude_m and metres_per_pixel, found "
            + ("neither" if altitude_m is None else "both"),
            hint="pass the altitude above ground in metres, or how much ground a pixel of the frame shows",
        )
    turned = _optional("heading_deg", heading_deg)
    return Question(
        altitude_m=_optional("altitude_m", altitude_m, above_0=True),
        metres_per_pixel=_optional("metres_per_pixel", metres_per_pixel, above_0=True),
        # Twice: a hair below 0 is rounded up to 360.
        heading_deg=None if turned is None else turned % 360 % 360,
        near=None if near is None else _circle(near),
        headings=require_whole("headings", headings, most=MAX_HEADINGS),
        pitch_deg=_optional("pitch_deg", pitch_deg),
        roll_deg=_optional("roll_deg", roll_deg),
        k=require_whole("k", k),
    )


def require_frame(frame: object) -> Pixels:
    """Return a frame.

    Raises:
        ArgumentError: It is no array uint8 [h, w, 3], or has a side of 0 or more than 16,384 pixels.
    """
    if not isinstance(frame, np.ndarray):
        raise ArgumentError(f"expected a frame as an array uint8 [h, w, 3], found {type(frame).__name__}")
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise ArgumentError(
            f"expected a frame as an array uint8 [h, w, 3], RGB, found {frame.dtype} {list(frame.shape)}"
        )
    if not all(1 <= side <= MAX_FRAME_SIDE for side in frame.shape[:2]):
        raise ArgumentError(
            f"expected a frame with sides of 1 to {MAX_FRAME_SIDE:,} pixels, "
            f"found {frame.shape[1]} x {frame.shape[0]}"
        )
    return np.asarray(frame)


def _circle(near: object) -> tuple[float, float, float]:
    wanted = "near as (longitude, latitude, radius in metres)"
    parts = list(islice(near, 4)) if isinstance(near, Iterable) and not isinstance(near, (str, bytes)) else []
    if len(parts) != 3:
        raise ArgumentError(f"expected {wanted}, found {shown(near)}", hint=_NEAR)
    lon = _number("the longitude of near", parts[0], hint=_NEAR)
    lat = _number("the latitude of near", parts[1], hint=_NEAR)
    if not (-180 <= lon <= 180 and -90 <= lat <= 90):
        raise ArgumentError(
            f"expected a longitude from -180 to 180 and a latitude from -90 to 90 in near, "
            f"found {lon:g} and {lat:g}",
            hint=_NEAR,
        )
    return lon, lat, _number("the radius of near", parts[2], above_0=True, hint=_NEAR)


def _optional(name: str, value: object, *, above_0: bool = False) -> float | None:
    return None if value is None else _number(name, value, above_0=above_0)


def _number(name: str, value: object, *, above_0: bool = False, hint: str = "") -> float:
    """Return a finite number, of numpy too; a truth value is none."""
    wanted = f"expected {name} as a number{' above 0' if above_0 else ''}"
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ArgumentError(f"{wanted}, found {shown(value)}", hint=hint)
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found) or (above_0 and found <= 0):
        raise ArgumentError(f"{wanted}, found {shown(value)}", hint=hint)
    return found


def require_whole(name: str, value: object, *, most: int | None = None) -> int:
    """Return a whole number from 1.

    Raises:
        ArgumentError: It is something else, or above `most`.
    """
    try:
        number = require_whole_number(name, value, least=1)
    except (TypeError, ValueError) as error:
        raise ArgumentError(str(error)) from None
    if most is not None and number > most:
        raise ArgumentError(f"expected {name} of at most {most}, found {shown(number)}")
    return number
