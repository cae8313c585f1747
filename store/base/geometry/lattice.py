"""Chunks: squares of ground on a global lattice, their ids, digests, sizes and places. Pure.

A level is (zoom, k, m): cut from imagery of `zoom`, on a lattice whose step is 1/2^k of a tile, with a side
of m steps. Lattice coordinates are those of tiles of zoom + k (XYZ scheme, y grows southwards). A chunk is
named by its west step x and its north step y. It may cross the antimeridian, and never the last row.
"""

import hashlib
import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from store.base.geometry.level import MAX_K, MAX_M, Level, metres_per_pixel, tile_side_m
from store.base.identity import MAX_ZOOM, X_SHIFT, ZOOM_SHIFT, descriptor_id, tile_of

_VIEW_SHIFT: Final = 50
_HALF_TURN_E7: Final = 1_800_000_000
_DOMAIN: Final = b"c10/chunk/1\0"
_ROWS_AT_ONCE: Final = 1024

Integers: TypeAlias = npt.NDArray[np.int64]
Digests: TypeAlias = npt.NDArray[np.uint8]
Lookup: TypeAlias = Callable[[Integers], Digests]
"""Takes tile ids int64 [...], gives the SHA-256 of their encoded bytes, uint8 [..., 32]."""
BoxE7: TypeAlias = tuple[int, int, int, int]
"""West, south, east, north in 1e-7 degree; west > east crosses the antimeridian."""
_Axis = TypeVar("_Axis", int, Integers)


def chunk_id(level: Level, x: int, y: int) -> int:
    """Return the descriptor id of a chunk: lattice zoom << 58 | view << 50 | x << 25 | y.

    Raises:
        ValueError: No chunk begins there.
    """
    _check_places(level, np.array([x]), np.array([y]))
    return descriptor_id(level.lattice_zoom, x, y, level.view)


def chunk_of(identifier: int) -> tuple[Level, int, int]:
    """Unpack the id of a chunk into (level, x, y).

    Raises:
        ValueError: It is the id of a tile, or of nothing.
    """
    zoom, x, y, view = tile_of(identifier)
    level = Level.from_id_fields(zoom, view)
    _check_places(level, np.array([x]), np.array([y]))
    return level, x, y


def chunk_ids(level: Level, xs: Integers, ys: Integers) -> Integers:
    """Return the descriptor ids of chunks, int64 [n], for their first steps, int64 [n] each.

    Raises:
        ValueError: No chunk begins at one of the places.
    """
    _check_places(level, xs, ys)
    high = level.lattice_zoom << ZOOM_SHIFT | level.view << _VIEW_SHIFT
    return np.int64(high) | xs.astype(np.int64) << X_SHIFT | ys.astype(np.int64)


def _check_places(level: Level, xs: Integers, ys: Integers) -> None:
    bad = (xs < 0) | (xs >= level.steps_around) | (ys < 0) | (ys > level.steps_around - level.m)
    if bad.any():
        at = int(np.argmax(bad))
        raise ValueError(
            f"no chunk of {level} at x {xs[at]}, y {ys[at]}: "
            f"x is below {level.steps_around}, and y + m at most that"
        )


def tile_span(level: Level, x: _Axis, y: _Axis) -> tuple[_Axis, _Axis, _Axis, _Axis]:
    """Return (x0, nx, y0, ny): the first column and row of the tiles under a chunk, and how many there are.

    The columns are x0 to x0 + nx - 1, modulo 2^zoom. Takes numbers or int64 arrays of one shape.
    """
    inside, k = level.steps_per_tile - 1, level.k
    nx, ny = ((first & inside) + level.m - 1 >> k for first in (x, y))
    return x >> k, nx + 1, y >> k, ny + 1


def chunk_digest(level: Level, x: int, y: int, tile_edge: int, digests: Digests) -> str:
    """Return the digest of what a chunk is cut from, 64 hexadecimal digits.

    It is the SHA-256 of: the domain `c10/chunk/1` and a zero byte; k, m, x mod 2^k and y mod 2^k, one byte
    each; the tile edge in pixels as 4 big-endian bytes; the digests of the tiles under the chunk, row by row
    from north to south, each from west to east.

    Args:
        level: Level of the chunk.
        x: West step.
        y: North step.
        tile_edge: Edge of the tiles, pixels.
        digests: uint8 [ny, nx, 32], SHA-256 of the encoded bytes of the tiles that `tile_span` names.

    Raises:
        ValueError: The array has another shape.
    """
    _, nx, _, ny = tile_span(level, x, y)
    if digests.shape != (ny, nx, 32):
        raise ValueError(f"expected digests of {ny} x {nx} tiles, found an array {list(digests.shape)}")
    return hashlib.sha256(_digest_head(level, x, y, tile_edge) + digests.tobytes()).hexdigest()


def _digest_head(level: Level, x: int, y: int, tile_edge: int) -> bytes:
    inside = level.steps_per_tile - 1
    return _DOMAIN + bytes((level.k, level.m, x & inside, y & inside)) + tile_edge.to_bytes(4, "big")


def chunk_digests(level: Level, xs: Integers, ys: Integers, tile_edge: int, lookup: Lookup) -> Digests:
    """Return the digests of chunks, uint8 [n, 32], each as `chunk_digest` computes it.

    Args:
        level: Level of the chunks.
        xs: West steps, int64 [n].
        ys: North steps, int64 [n].
        tile_edge: Edge of the tiles, pixels.
        lookup: Gives the digests of tiles; it raises what it likes where there is no tile.
    """
    digests = np.empty((len(xs), 32), np.uint8)
    _, nx, _, ny = tile_span(level, xs, ys)
    for rows, columns in {(int(down), int(across)) for down, across in zip(ny, nx, strict=True)}:
        alike = np.flatnonzero((ny == rows) & (nx == columns))
        for first in range(0, len(alike), _ROWS_AT_ONCE):
            which = alike[first : first + _ROWS_AT_ONCE]
            tiles = lookup(_tiles_under(level, xs[which], ys[which], rows, columns))
            made = b"".join(
                hashlib.sha256(_digest_head(level, x, y, tile_edge) + under.tobytes()).digest()
                for x, y, under in zip(xs[which].tolist(), ys[which].tolist(), tiles, strict=True)
            )
            digests[which] = np.frombuffer(made, np.uint8).reshape(-1, 32)
    return digests


def _tiles_under(level: Level, xs: Integers, ys: Integers, rows: int, columns: int) -> Integers:
    """Return the ids of the tiles under chunks that lie over equally many, int64 [n, rows, columns]."""
    across = (xs >> level.k)[:, None] + np.arange(columns) & (1 << level.zoom) - 1
    down = (ys >> level.k)[:, None] + np.arange(rows)
    return np.int64(level.zoom << ZOOM_SHIFT) | across[:, None, :] << X_SHIFT | down[:, :, None]


def digest_lookup(ids: Integers, digests: Digests) -> Lookup:
    """Return a lookup of tile digests in a table.

    Args:
        ids: Tile ids, int64 [n], ascending, at least one.
        digests: uint8 [n, 32].

    The lookup raises KeyError, with a tile's id, for a tile that is not in the table.
    """

    def find(wanted: Integers) -> Digests:
        at = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
        missing = ids[at] != wanted
        if missing.any():
            raise KeyError(int(wanted[missing][0]))
        return digests[at]

    return find


def overlap_of(level: Level) -> float:
    """Return the share of a chunk that the next one covers too."""
    return 1 - 1 / level.m


def choose_level(
    wanted_m: float,
    overlap: float,
    *,
    zooms: tuple[int, int],
    tile_edges: Mapping[int, int],
    input_side_px: int,
    latitude_deg: float,
) -> Level:
    """Return the level that comes closest to a wanted side and overlap.

    Args:
        wanted_m: Side, metres.
        overlap: Share of a chunk that the next one is to cover too, 0 to below 1.
        zooms: Lowest and highest requested zoom, inclusive.
        tile_edges: Edge of the imagery's tiles in pixels, by zoom; a zoom without is not used.
        input_side_px: Side of the network's input, pixels.
        latitude_deg: Of the take-off point, where metres are reckoned.

    Raises:
        ValueError: A number is out of range, no zoom has an edge, or the side takes more than 31 steps.
    """
    if not (0 < wanted_m < math.inf and 0 <= overlap < 1):
        raise ValueError(
            f"expected a side above 0 m and an overlap of 0 to below 1, found {wanted_m:g} m and {overlap:g}"
        )
    known = [zoom for zoom in range(zooms[0], zooms[1] + 1) if zoom in tile_edges]
    if not known:
        raise ValueError(f"expected imagery of zoom {zooms[0]} to {zooms[1]}, found none")
    pixel_m = wanted_m / input_side_px
    fine = [zoom for zoom in known if metres_per_pixel(zoom, tile_edges[zoom], latitude_deg) <= pixel_m]
    zoom = fine[0] if fine else known[-1]
    step_m = 1.1 * (1 - overlap) * wanted_m
    finest = min(MAX_K, MAX_ZOOM - zoom)
    k = next((k for k in range(finest) if tile_side_m(zoom + k, latitude_deg) <= step_m), finest)
    m = max(2, round(wanted_m / tile_side_m(zoom + k, latitude_deg)))
    if m > MAX_M:
        mend = "less overlap" if k else f"a zoom below {zoom} or a smaller side"
        raise ValueError(
            f"a side of {wanted_m:g} m with overlap {overlap:g} takes {m} steps of "
            f"{tile_side_m(zoom + k, latitude_deg):.1f} m, more than {MAX_M}: ask for {mend}"
        )
    return Level(zoom, k, m)


def middles(level: Level, xs: Integers, ys: Integers) -> npt.NDArray[np.float64]:
    """Return longitude and latitude of the middles of chunks in degrees, float64 [n, 2].

    Longitudes are from -180 to below 180.
    """
    around = level.steps_around
    east = (2 * xs + level.m) % (2 * around) * (180 / around) - 180
    south = np.pi * (1 - (2 * ys + level.m) / around)
    return np.stack([east, np.degrees(np.arctan(np.sinh(south)))], axis=1)


def middle(level: Level, x: int, y: int) -> tuple[float, float]:
    """Return longitude and latitude of a chunk's middle in degrees."""
    return _longitude(level, 2 * x + level.m), _latitude(level, 2 * y + level.m)


def middle_latitude_e7(level: Level, y: int) -> int:
    """Return the latitude of the middle of a chunk in 1e-7 degree, rounded half to even."""
    return round(_latitude(level, 2 * y + level.m) * 1e7)


def footprint(level: Level, x: int, y: int) -> tuple[tuple[float, float], ...]:
    """Return the corners NW, NE, SE, SW of a chunk as (longitude, latitude) in degrees, -180 to 180."""
    west = _longitude(level, 2 * x)
    east = -_longitude(level, -2 * (x + level.m))  # seen from the other side, the antimeridian is 180
    north, south = _latitude(level, 2 * y), _latitude(level, 2 * (y + level.m))
    return (west, north), (east, north), (east, south), (west, south)


def _longitude(level: Level, half_steps: int) -> float:
    """Return the longitude, -180 to below 180, that lies so many half steps east of the antimeridian."""
    return half_steps % (2 * level.steps_around) * (180 / level.steps_around) - 180


def _latitude(level: Level, half_steps: int) -> float:
    return math.degrees(math.atan(math.sinh(math.pi * (1 - half_steps / level.steps_around))))


def wanted_range(level: Level, box: BoxE7) -> tuple[int, int, int, int]:
    """Return (x0, nx, y0, ny): the chunks whose middle, rounded to 1e-7 degree, lies in a box or on its edge.

    They are columns x0 to x0 + nx - 1, modulo 2^(zoom + k), of rows y0 to y0 + ny - 1. Where there are none,
    nx or ny is 0. A chunk that reaches beyond the last row is in no box.
    """
    west, south, east, north = box
    around, m = level.steps_around, level.m
    # Columns of a second turn follow those of the first, for a box that crosses the antimeridian.
    east += 2 * _HALF_TURN_E7 if west > east else 0
    columns = range(-m, 2 * around)

    def longitude_e7(x: int) -> int:
        return round((2 * x + m) * _HALF_TURN_E7 / around) - _HALF_TURN_E7

    def southwards_e7(y: int) -> int:
        return -middle_latitude_e7(level, y)

    first = bisect_left(columns, west, key=longitude_e7)
    nx = bisect_right(columns, east, key=longitude_e7) - first
    rows = range(max(0, around - m + 1))
    y0 = bisect_left(rows, -north, key=southwards_e7)
    ny = bisect_right(rows, -south, key=southwards_e7) - y0
    return columns[first] % around, min(nx, around), y0, max(ny, 0)
