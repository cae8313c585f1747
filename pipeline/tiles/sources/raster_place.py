"""Find where a GeoTIFF lies: the ground that it covers, and how large its pixels are there."""

from pathlib import Path
from shlex import quote
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline.errors import ErrorKind, RequestError
from pipeline.request.geometry import E7, MERCATOR_LIMIT_E7, BoxE7, degrees_to_e7

try:
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import CRSError, RasterioError
    from rasterio.warp import transform

    RASTER_ERRORS: tuple[type[Exception], ...] = (RasterioError, CRSError, CPLE_BaseError)
except ImportError:
    RASTER_ERRORS = ()

WEB_MERCATOR: Final = "EPSG:3857"
HALF_WORLD_M: Final = 20_037_508.342789244

_GRID: Final = 21
"""Points on each side of a file that are looked at to find what it covers."""
_DEGREES: Final = "EPSG:4326"
_EDGE_M: Final = 1.0
"""How far the numbers of an edge may be rounded, metres of Web Mercator."""

Floats: TypeAlias = npt.NDArray[np.float64]


def find_on_the_ground(source: Any, path: str) -> tuple[float, BoxE7]:  # noqa: ANN401
    """Return the side of the middle pixel in Web Mercator metres, and the box that a data set of rasterio covers.

    Raises:
        RequestError: It has no place on the ground that can be computed.
    """
    _require_georeference(source, path)
    columns, rows = (
        each.ravel()
        for each in np.meshgrid(np.linspace(0, source.width, _GRID), np.linspace(0, source.height, _GRID))
    )
    places, name = _places(source, columns, rows), quote(Path(path).name)
    try:
        degrees = np.array(transform(source.crs, _DEGREES, *places))
        there = np.isfinite(degrees).all(axis=0)
        there[there] = np.abs(degrees[1, there]) * E7 <= MERCATOR_LIMIT_E7
        why, mend = (
            "places beyond latitude 85",
            "name imagery of other places: Web Mercator ends at latitude 85.05",
        )
        if there.any():
            # The middle, or where that is about a pole what lies furthest from it.
            middle = len(there) // 2
            best = middle if there[middle] else int(np.where(there, np.abs(degrees[1]), np.inf).argmin())
            pixel_m = _pixel_m(source, columns[best], rows[best])
            if pixel_m and _is_found_from_tiles(source, places[:, there]):
                return pixel_m, _box_around(*degrees[:, np.isfinite(degrees).all(axis=0)])
            turn = 360 if source.crs.is_geographic else 2 * HALF_WORLD_M
            why, mend = "longitudes that are all beyond 180 degrees", _moved(places, turn, name)
    except RASTER_ERRORS as error:
        why, mend = str(error), f"warp it: gdalwarp -s_srs EPSG:NUMBER -t_srs EPSG:3857 -of COG {name} X.tif"
    raise unsuitable(
        path, "a projection that can be warped to Web Mercator", f"{str(source.crs)[:80]}: {why}", mend
    )


def _moved(places: Floats, turn: float, name: str) -> str:
    """Return what moves a file by a turn that covers some places; all in the unit of its projection."""
    (west, south), (east, north) = places.min(axis=1), places.max(axis=1)
    by = -turn if west > 0 else turn
    return (
        f"move it by a turn: gdal_translate -a_ullr {west + by:.12g} {north:.12g} {east + by:.12g} {south:.12g}"
        f" -of COG {name} X.tif"
    )


def _require_georeference(source: Any, path: str) -> None:  # noqa: ANN401
    if source.crs is not None and not source.transform.is_identity:
        return
    name = quote(Path(path).name)
    corners = "" if not source.transform.is_identity else " -a_ullr WEST NORTH EAST SOUTH"
    found, mend = (
        "none",
        f"say where it is: gdal_translate -a_srs EPSG:NUMBER{corners} -of COG {name} X.tif",
    )
    if source.gcps[0] or source.rpcs:
        found, mend = (
            "points or a camera alone",
            f"warp it: gdalwarp -t_srs EPSG:3857 -of COG {name} X.tif",
        )
    elif source.crs is not None or not corners:
        found = "no place of its pixels" if corners else "no projection"
    raise unsuitable(path, "a georeference: a projection, and where its pixels are", found, mend)


def _places(source: Any, columns: Floats, rows: Floats) -> Floats:  # noqa: ANN401
    """Return where places among the pixels lie in the file's projection, float64 [2, n]."""
    at = source.transform
    return np.stack([at.a * columns + at.b * rows + at.c, at.d * columns + at.e * rows + at.f])


def _pixel_m(source: Any, column: float, row: float) -> float:  # noqa: ANN401
    """Return the side of a pixel in Web Mercator metres; 0 where it has none that is finite."""
    corners = _places(source, np.array([column, column + 1, column]), np.array([row, row, row + 1]))
    metres = np.array(transform(source.crs, WEB_MERCATOR, *corners))
    if not np.isfinite(metres).all():
        return 0.0
    right, down = metres[:, 1] - metres[:, 0], metres[:, 2] - metres[:, 0]
    # It may lie on the antimeridian.
    right[0], down[0] = (
        (each[0] + HALF_WORLD_M) % (2 * HALF_WORLD_M) - HALF_WORLD_M for each in (right, down)
    )
    return float(np.sqrt(abs(right[0] * down[1] - right[1] * down[0])))


def _is_found_from_tiles(source: Any, places: Floats) -> bool:  # noqa: ANN401
    """Whether the way back from Web Mercator, by which tiles are warped, leads to any of some places [2, n]."""
    metres = np.array(transform(source.crs, WEB_MERCATOR, *places))
    back = np.array(transform(WEB_MERCATOR, source.crs, *metres))
    size = np.hypot(
        *np.ptp(_places(source, *np.array([[0, 0, source.width], [0, source.height, 0]])), axis=1)
    )
    with np.errstate(invalid="ignore"):
        # Metres of Web Mercator itself are not wrapped. The edge of a file that lies beyond may be at 180 degrees.
        within = abs(metres[0]) < HALF_WORLD_M - _EDGE_M
        return bool(((np.hypot(*(back - places)) < size / 100) & within).any())


def _box_around(longitudes: npt.NDArray[np.float64], latitudes: npt.NDArray[np.float64]) -> BoxE7:
    """Return the box of some points, a little widened: what lies between them may bulge; clipped to the grid."""
    around = longitudes % 360
    crosses = np.ptp(around) < 180 < np.ptp(longitudes)
    if crosses:
        longitudes = around
    west, south, east, north = (
        float(edge) for edge in (longitudes.min(), latitudes.min(), longitudes.max(), latitudes.max())
    )
    beside, above = (east - west) / (8 * _GRID), (north - south) / (8 * _GRID)
    return (
        degrees_to_e7(max(west - beside, -180.0)),
        max(degrees_to_e7(max(south - above, -90.0)), -MERCATOR_LIMIT_E7),
        degrees_to_e7(min(east + beside, 180.0) if not crosses else east + beside - 360),
        min(degrees_to_e7(min(north + above, 90.0)), MERCATOR_LIMIT_E7),
    )


def unsuitable(path: str, expected: str, found: str, hint: str) -> RequestError:
    """Return the error that a file is of no use as it is, with what mends it."""
    return RequestError(
        f"{path}: expected {expected}, found {found}",
        hint=hint,
        kind=ErrorKind.UNSUPPORTED_ARCHIVE,
        subject=path,
    )
