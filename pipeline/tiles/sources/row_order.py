"""Find tiles that stand at wrong places: outside announced bounds, with mirrored rows, with exchanged axes. Pure.

XYZ counts rows from the north, TMS from the south. Far from the equator a mistake leaves the area empty; over
the equator every picture stands at a wrong place.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from pipeline.request.geometry import MERCATOR_LIMIT_E7, BoxE7, box_text, degrees_to_e7
from pipeline.tiles.grid import TileRange, range_box_e7, tile_ranges

_MADE_FROM_NORTH: Final = "make it again with rows from the north (XYZ), for example gdal2tiles --xyz"
_MADE_FROM_SOUTH: Final = (
    "make it again with rows from the south (TMS), as its format demands, for example mb-util --scheme=xyz from"
    " a folder of XYZ"
)


def box_of_degrees(west: float, south: float, east: float, north: float) -> BoxE7 | None:
    """Return a box inside the grid; None if the numbers are not one, as where a writer left them out."""
    if not (-180 <= west < east <= 180 and -90 <= south < north <= 90):
        return None
    box = degrees_to_e7(west), degrees_to_e7(south), degrees_to_e7(east), degrees_to_e7(north)
    return box[0], max(box[1], -MERCATOR_LIMIT_E7), box[2], min(box[3], MERCATOR_LIMIT_E7)


def bounds_warnings(name: str, announced: BoxE7 | None, places: npt.NDArray[np.int32]) -> tuple[str, ...]:
    """Return a sentence if a source has tiles beyond the bounds that it announces.

    Args:
        name: The source's name.
        announced: The bounds that it announces.
        places: Zoom, column and row of its tiles, int32 [n, 3]; those of the highest zoom are looked at.
    """
    if announced is None or not len(places):
        return ()
    z = int(places[:, 0].max())
    x, y = places[places[:, 0] == z, 1:].T
    inside = tile_ranges(announced, (z, z))[0]
    # Bounds are not always of whole tiles.
    beyond = (x < inside.x0 - 1) | (x > inside.x1 + 1) | (y < inside.y0 - 1) | (y > inside.y1 + 1)
    if not beyond.any():
        return ()
    held = TileRange(z=z, x0=int(x.min()), x1=int(x.max()), y0=int(y.min()), y1=int(y.max()))
    message = (
        f"{name} announces the bounds {box_text(announced)}, but {int(beyond.sum())} of its {len(x)} tiles of"
        f" zoom {z} in the area are outside: they reach over {box_text(range_box_e7(held))}; check that they are"
        " at their places"
    )
    return (message,)


def misplaced_tiles(
    wanted: Sequence[TileRange],
    holds: Callable[[Sequence[TileRange]], bool],
    announced: BoxE7 | None,
    *,
    folder: str = "",
    stored_from_south: bool = False,
) -> tuple[str, ...]:
    """Return what mends a source that has none of the wanted tiles, but has them at places of another scheme.

    Args:
        wanted: The wanted tiles.
        holds: Says whether the source has any tile in some rectangles.
        announced: The bounds that the source announces. One that has its tiles there, and announces nothing of what
            is wanted, is sound and of another region: that it has others at mirrored places is chance.
        folder: Of a folder, what to write in its pattern if the rows are counted from the other end.
        stored_from_south: Whether the format of the source demands rows from the south, as MBTiles does.
    """
    if announced is not None and _is_elsewhere(announced, wanted) and holds(_same_zooms(announced, wanted)):
        return ()
    swapped = [replace(part, x0=part.y0, x1=part.y1, y0=part.x0, y1=part.x1) for part in wanted]
    rows = f"write {folder}" if folder else _MADE_FROM_SOUTH if stored_from_south else _MADE_FROM_NORTH
    from_south = stored_from_south or folder.startswith("{y}")
    # Numbers that are read as rows from the south, but are columns, end up mirrored, as do rows read as columns.
    exchanged = mirrored(mirrored(swapped), columns=True) if from_south else swapped
    end = "the north (XYZ)" if from_south else "the south (TMS)"
    axes = "exchange {x} and {y}" if folder else "make it again as z/x/y, the column first"
    for places, found in (
        (mirrored(wanted), f"its rows are counted from {end}: {rows}"),
        (exchanged, f"its columns and rows are exchanged (z/y/x): {axes}"),
        (
            mirrored(swapped, columns=not from_south),
            f"its columns and rows are exchanged (z/y/x) and its rows are counted from {end}: "
            + (f"{axes}, and {rows}" if folder else rows),
        ),
    ):
        if holds(places):
            return (f"tiles of the area are there, but {found}{' in tiles.source' if folder else ''}",)
    return ()


def _same_zooms(box: BoxE7, wanted: Sequence[TileRange]) -> list[TileRange]:
    return [part for z in sorted({each.z for each in wanted}) for part in tile_ranges(box, (z, z))]


def _is_elsewhere(box: BoxE7, wanted: Sequence[TileRange]) -> bool:
    """Whether none of the wanted tiles lies in a box."""
    return not any(
        one.z == other.z
        and one.x0 <= other.x1
        and other.x0 <= one.x1
        and one.y0 <= other.y1
        and other.y0 <= one.y1
        for one in _same_zooms(box, wanted)
        for other in wanted
    )


def mirrored(ranges: Sequence[TileRange], *, columns: bool = False) -> list[TileRange]:
    """Return rectangles that are mirrored at the equator; `columns` if rows stand in the place of columns."""
    lasts = [(part, (1 << part.z) - 1) for part in ranges]
    if columns:
        return [replace(part, x0=last - part.x1, x1=last - part.x0) for part, last in lasts]
    return [replace(part, y0=last - part.y1, y1=last - part.y0) for part, last in lasts]


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
