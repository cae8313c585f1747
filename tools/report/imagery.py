"""Make small copies of encoded tiles, and join them cell by cell to the pictures under the map of a page. Pure.

A page that is sent by mail must stay small, so that tiles, pixels and bytes are bounded. Levels are taken whole, the
coarsest first: it shows all of the ground in the fewest tiles.
"""

import base64
import io
from collections.abc import Callable, Iterable, Mapping
from itertools import groupby
from typing import Any, Final, TypeAlias

import numpy as np
from PIL import Image

from pipeline.errors import TileError
from pipeline.planning.area_report import runs
from pipeline.tiles.images.decode import decode
from store.base.preprocessing import Pixels

MAX_TILES: Final = 4_096
"""Tiles that are decoded for a page at most."""

MAX_BYTES: Final = 1 << 20
"""Bytes of all pictures of a page at most; in the page they are a third longer."""

SIDES: Final = (64, 32, 16, 8, 4)
"""How many pixels wide and high a tile may be in a picture."""

_LEVEL_PIXELS: Final = 1 << 20
_TILE_PIXELS: Final = 1024 * 1024
"""Larger tiles are left out: a few hostile ones could take minutes."""
_CELL: Final = 4
"""Bits of a cell's columns and rows."""
_QUALITY: Final = 75

Place: TypeAlias = tuple[int, int, int]
"""(zoom, x, y)."""


def imagery_document(
    counts: Mapping[int, int], read: Callable[[int], Iterable[tuple[Place, bytes]]], reason: str
) -> dict[str, Any]:
    """Return the pictures of some tiles, as the script of the page takes them.

    Args:
        counts: Zoom level to number of tiles, at most.
        read: Returns place and encoded bytes of the tiles of a level.
        reason: Why there are none; empty if there are some.

    Returns:
        `levels`, from coarse to fine: `zoom`; `tiles`, their number; `side`, the pixels of a tile; `runs` of tiles,
        [zoom, y, first x, last x]; `pictures`, [x, y, across, down, base64 of a JPEG], in tiles. `note` says what is
        not shown.
    """
    levels: list[dict[str, Any]] = []
    left, space, spared = MAX_TILES, MAX_BYTES, list[int]()
    for zoom, count in sorted(counts.items()):
        made = _level(zoom, _decoded(read(zoom)), space) if count <= left else None
        left -= min(count, left) if count <= left else 0
        if made is None:
            spared.append(zoom)
        elif made["tiles"]:
            levels.append(made)
            space -= sum(len(picture[4]) * 3 // 4 for picture in made["pictures"])
    return {"levels": levels, "note": _note(levels, spared, reason)}


def _note(levels: list[dict[str, Any]], spared: list[int], reason: str) -> str:
    if spared:
        names = ", ".join(map(str, spared))
        return f"No imagery of zoom level {names} itself: a page has room for {MAX_TILES:,} tiles and {MAX_BYTES >> 20} MiB of pictures."
    if levels:
        return ""
    return f"No imagery: {reason or 'none of the tiles that are kept can be shown'}."


def _decoded(tiles: Iterable[tuple[Place, bytes]]) -> dict[Place, Image.Image]:
    """Return small copies of the tiles that can be decoded."""
    found: dict[Place, Image.Image] = {}
    for place, image in tiles:
        if place in found:
            continue
        try:
            pixels: Pixels = decode(image, max_pixels=_TILE_PIXELS)
        except TileError:
            continue
        found[place] = Image.fromarray(np.asarray(pixels)).resize((SIDES[0],) * 2, Image.Resampling.BOX)
        if len(found) == MAX_TILES:
            break
    return found


def _level(zoom: int, tiles: Mapping[Place, Image.Image], space: int) -> dict[str, Any] | None:
    """Return the pictures of a level with as many pixels as there is space for; None if there is too little."""
    for side in SIDES:
        if len(tiles) * side * side > _LEVEL_PIXELS:
            continue
        pictures = [_picture(dict(cell), side) for _, cell in groupby(_by_cell(tiles), key=_cell_of)]
        if sum(len(picture[4]) * 3 // 4 for picture in pictures) <= space:
            return {
                "zoom": zoom,
                "tiles": len(tiles),
                "side": side,
                "runs": runs(tiles),
                "pictures": pictures,
            }
    return None


def _cell_of(tile: tuple[Place, Image.Image]) -> tuple[int, int]:
    (_, x, y), _ = tile
    return x >> _CELL, y >> _CELL


def _by_cell(tiles: Mapping[Place, Image.Image]) -> list[tuple[Place, Image.Image]]:
    return sorted(tiles.items(), key=lambda tile: (*_cell_of(tile), tile[0]))


def _picture(tiles: Mapping[Place, Image.Image], side: int) -> list[Any]:
    """Return the picture of the tiles of one cell: x, y, across, down in tiles, and its bytes in base64."""
    columns, rows = [x for _, x, _ in tiles], [y for _, _, y in tiles]
    left, top = min(columns), min(rows)
    across, down = max(columns) - left + 1, max(rows) - top + 1
    whole = Image.new("RGB", (across * side, down * side))
    for (_, x, y), image in tiles.items():
        whole.paste(image.resize((side, side), Image.Resampling.BOX), ((x - left) * side, (y - top) * side))
    data = io.BytesIO()
    whole.save(data, "JPEG", quality=_QUALITY)
    return [left, top, across, down, base64.b64encode(data.getvalue()).decode("ascii")]
