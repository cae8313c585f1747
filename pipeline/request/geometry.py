"""Convert coordinates to integers: units of 1e-7 degree (at most 11 mm), and millimetres. Pure.

Floating-point degrees never enter an identity or a comparison. They become integers here, once, by rounding
the *decimal* value half to even: a number from a file as it was written, and a Python float as the shortest
decimal that reads back the same.
"""

from decimal import ROUND_HALF_EVEN, Decimal

E7 = 10_000_000
HALF_TURN_E7 = 180 * E7
FULL_TURN_E7 = 2 * HALF_TURN_E7

MERCATOR_LIMIT = 85.0511287798066
"""Greatest latitude of the Web Mercator square, degrees: atan(sinh(pi))."""
MERCATOR_LIMIT_E7 = 850_511_288

BoxE7 = tuple[int, int, int, int]
"""West, south, east, north in 1e-7 degree. West greater than east: the box crosses the antimeridian."""


def scale_to_int(value: float | Decimal, scale: int) -> int:
    """Return a finite decimal number times a scale, rounded half to even.

    Args:
        value: An int, a float (taken as its shortest decimal) or a Decimal.
        scale: Units per one.
    """
    exact = value if isinstance(value, Decimal) else Decimal(repr(value))
    return int((exact * scale).to_integral_value(ROUND_HALF_EVEN))


def degrees_to_e7(value: float | Decimal) -> int:
    """Convert degrees to units of 1e-7 degree, rounded half to even."""
    return scale_to_int(value, E7)


def metres_to_mm(value: float | Decimal) -> int:
    """Convert metres to millimetres, rounded half to even."""
    return scale_to_int(value, 1000)


def split_at_antimeridian(box: BoxE7) -> tuple[BoxE7, ...]:
    """Return the area as one or two boxes whose west is less than their east, without parts of no width."""
    west, south, east, north = box
    if west < east:
        return (box,)
    halves = ((west, south, HALF_TURN_E7, north), (-HALF_TURN_E7, south, east, north))
    return tuple(half for half in halves if half[0] < half[2])


def doubt_of_crossing(box: BoxE7) -> str:
    """Return a question for the end of a hint where west is greater than east, which is mostly a mistake; else ""."""
    return "; west > east crosses the antimeridian: were they exchanged?" if box[0] > box[2] else ""


def contains(box: BoxE7, longitude_e7: int, latitude_e7: int) -> bool:
    """Whether a point lies in a box or on its edge."""
    return any(
        west <= longitude_e7 <= east and south <= latitude_e7 <= north
        for west, south, east, north in split_at_antimeridian(box)
    )


def box_text(box: BoxE7) -> str:
    """Return west, south, east, north in degrees, for messages."""
    return "[" + ", ".join(f"{value / E7:.7f}" for value in box) + "]"
