"""Find out whether the rows of a source are counted from the other end than its own bounds say. Pure.

XYZ counts rows from the north, TMS from the south. Far from the equator a mistake leaves the area empty; over
the equator every picture stands at a wrong place.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from pipeline.request.geometry import MERCATOR_LIMIT_E7, BoxE7, degrees_to_e7
from pipeline.tiles.grid import TileRange, tile_ranges


def box_of_degrees(west: float, south: float, east: float, north: float) -> BoxE7 | None:
    """Return a box inside the grid; None if the numbers are not one, as where a writer left them out."""
    if not (-180 <= west < east <= 180 and -90 <= south < north <= 90):
        return None
    box = degrees_to_e7(west), degrees_to_e7(south), degrees_to_e7(east), degrees_to_e7(north)
    return box[0], max(box[1], -MERCATOR_LIMIT_E7), box[2], min(box[3], MERCATOR_LIMIT_E7)


def rows_are_mirrored(
    announced: BoxE7 | None,
    wanted: Sequence[TileRange],
    holds: Callable[[Sequence[TileRange]], bool],
) -> bool:
    """Whether tiles lie where the announced bounds are mirrored at the equator, and none where they are not.

    Args:
        announced: The bounds that the source announces.
        wanted: Tiles of one zoom; only their columns are looked at.
        holds: Says whether the source has any tile in some rectangles.
    """
    if announced is None:
        return False
    z = wanted[0].z
    rows, last = tile_ranges(announced, (z, z))[0], (1 << z) - 1
    announced_rows, mirrored_rows = (rows.y0, rows.y1), (last - rows.y1, last - rows.y0)

    def holds_rows_of(these: tuple[int, int], those: tuple[int, int], *, beside: int = 0) -> bool:
        """Whether there are tiles in these rows that are not among those, nor beside them."""
        y0, y1 = these
        y0, y1 = (
            (y0, min(y1, those[0] - 1 - beside)) if these < those else (max(y0, those[1] + 1 + beside), y1)
        )
        return y0 <= y1 and holds([replace(part, y0=y0, y1=y1) for part in wanted])

    shift = abs(announced_rows[0] - mirrored_rows[0])
    # Bounds are not always of whole tiles.
    return (
        shift != 0
        and holds_rows_of(mirrored_rows, announced_rows, beside=int(shift > 1))
        and not holds_rows_of(announced_rows, mirrored_rows)
    )
