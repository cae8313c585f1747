"""Coordinates as integers: degrees of longitude and latitude in units of 1e-7 degree, metres in millimetres. Pure.

Floating-point degrees never enter an identity or a comparison. They are turned into integers here, once, by rounding
the *decimal* value half to even: a number read from a file is rounded as it was written, and a Python float as its
shortest decimal that reads back the same. 1e-7 degree is 11 mm on the ground at most.
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


def scaled(value: float | Decimal, scale: int) -> int:
    """A finite decimal number times a scale, rounded half to even.

    Args:
        value: An int, a float (taken as its shortest decimal) or a Decimal.
        scale: Units per one.
    """
    exact = value if isinstance(value, Decimal) else Decimal(repr(value))
    return int((exact * scale).to_integral_value(ROUND_HALF_EVEN))


def degrees_to_e7(value: float | Decimal) -> int:
    """Degrees to units of 1e-7 degree, half to even."""
    return scaled(value, E7)


def metres_to_mm(value: float | Decimal) -> int:
    """Metres to millimetres, half to even."""
    return scaled(value, 1000)


def split_at_antimeridian(box: BoxE7) -> tuple[BoxE7, ...]:
    """The same area as one or two boxes whose west is less than their east; parts of no width are left out."""
    west, south, east, north = box
    if west < east:
        return (box,)
    halves = ((west, south, HALF_TURN_E7, north), (-HALF_TURN_E7, south, east, north))
    return tuple(half for half in halves if half[0] < half[2])


def contains(box: BoxE7, longitude_e7: int, latitude_e7: int) -> bool:
    """Whether a point lies in a box or on its edge."""
    return any(
        west <= longitude_e7 <= east and south <= latitude_e7 <= north
        for west, south, east, north in split_at_antimeridian(box)
    )


def box_text(box: BoxE7) -> str:
    """A box for people: west, south, east, north in degrees."""
    return "[" + ", ".join(f"{value / E7:.7f}" for value in box) + "]"
