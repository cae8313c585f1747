"""Render Web Mercator tiles from one GeoTIFF. A tile's pixels depend on the file, its place and GDAL's version alone.

So each tile is warped on its own, bilinearly and by one thread. It is made from the smallest overview that is
at least as fine as the tile; where none is near, from the four tiles of the next zoom. A pixel is there or
not: half transparent ones would leave seams between files.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from shlex import quote
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pipeline.errors import ErrorKind, RequestError
from pipeline.request.geometry import BoxE7
from pipeline.tiles.grid import TileRange, tile_ranges
from pipeline.tiles.sources.archive import bad_archive
from pipeline.tiles.sources.raster_place import (
    HALF_WORLD_M,
    RASTER_ERRORS,
    WEB_MERCATOR,
    find_on_the_ground,
    unsuitable,
)
from store.backports import parse_day
from store.base.valueclass import valueclass

try:
    import rasterio
    from rasterio.enums import ColorInterp, MaskFlags, Resampling
    from rasterio.transform import Affine
    from rasterio.vrt import WarpedVRT
    from rasterio.warp import transform
    from rasterio.windows import Window

    _COLOURS = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
    _MISSING = ""
except ImportError as error:
    _MISSING = str(error)

TILE_PX: Final = 256

Rgba = npt.NDArray[np.uint8]
"""Pixels, uint8 [256, 256, 4]; alpha is 0 or 255, and a pixel that is not there is 0 throughout."""

_SETTINGS: Final = {
    "GDAL_CACHEMAX": 128,  # megabytes for each process
    "GDAL_NUM_THREADS": "1",
    "GDAL_PAM_ENABLED": "NO",  # an .aux.xml may name any other file
    "GDAL_GEOREF_SOURCES": "INTERNAL,WORLDFILE",
    "GDAL_DISABLE_READDIR_ON_OPEN": "TRUE",
    "PROJ_NETWORK": "OFF",
}
_MOST_REDUCTION = 2.02
"""A tile is warped from pixels that are at most so many times smaller."""
_MARGIN_PX = 4
_SEEN_PX = 64
_SHADES = range(16, 240)
"""Values of alpha that are neither there nor not there; JPEG moves 0 and 255 by a few."""


def require_rasterio(path: str) -> None:
    """Raise `RequestError` if the package that reads GeoTIFF is not installed."""
    if _MISSING:
        raise RequestError(
            f"{path}: expected the package rasterio, which reads GeoTIFF, found none ({_MISSING})",
            hint=f"pip install 'c10[gdal]', or cut it into tiles: gdal_translate -of MBTILES {quote(path)} X.mbtiles",
            kind=ErrorKind.SOURCE_UNREADABLE,
            subject=path,
        )


@contextmanager
def gdal() -> Iterator[None]:
    """Have GDAL's settings for rendering; all that is done with a `RasterFile` is done in it."""
    with rasterio.Env(**_SETTINGS):
        yield


def library_versions() -> str:
    """Return the versions of all that decides a tile's pixels."""
    return (
        f"rasterio {rasterio.__version__}, GDAL {rasterio.__gdal_version__}, PROJ {rasterio.__proj_version__}"
    )


@valueclass(frozen=True, slots=True, kw_only=True)
class RasterFacts:
    """What is known of a GeoTIFF without its pixels.

    Attributes:
        path: Where it is.
        files: It, and those beside it that belong to it (overviews, mask, world file).
        box_e7: What it covers.
        pixel_m: Side of the pixel in its middle, in metres of the Web Mercator projection.
        reductions: How many times smaller its overviews are, ascending.
        pixels: How many it has.
        captured: The day on which it was photographed, if its metadata has that (`ACQUISITIONDATETIME`).
        written: The day on which it was made, if it has that (`TIFFTAG_DATETIME`).
    """

    path: str
    files: tuple[str, ...]
    box_e7: BoxE7
    pixel_m: float
    reductions: tuple[int, ...]
    pixels: int
    captured: date | None = None
    written: date | None = None

    def reduction_at(self, z: int) -> tuple[int, float]:
        """Return which overview tiles of a zoom are made from, and how much coarser than it they are."""
        wanted = tile_pixel_m(z) / self.pixel_m
        chosen = max((each for each in (1, *self.reductions) if each <= wanted * 1.01), default=1)
        return chosen, wanted / chosen


class RasterFile:
    """An open GeoTIFF.

    Args:
        path: Where it is.

    Raises:
        TileError: It is damaged.
        RequestError: It has no place on the ground that can be computed, or is of a kind that has no one certain look.
    """

    def __init__(self, path: str) -> None:
        try:
            self._whole = rasterio.open(path, driver="GTiff", sharing=False)
        except RASTER_ERRORS as error:
            raise bad_archive(path, "a TIFF file that GDAL can read", str(error)) from error
        self._levels: dict[int, Any] = {1: self._whole}
        try:
            self._bands, self._alpha, self._palette = _bands(self._whole, path)
            if self._alpha:
                _require_mask(self._whole, self._alpha, self._bands, path)
            pixel_m, box_e7 = find_on_the_ground(self._whole, path)
            self.facts = RasterFacts(
                path=path,
                files=tuple(map(str, self._whole.files)),
                box_e7=box_e7,
                pixel_m=pixel_m,
                reductions=tuple(self._whole.overviews(1)),
                pixels=int(self._whole.width) * int(self._whole.height),
                captured=_day(self._whole.tags(ns="IMAGERY").get("ACQUISITIONDATETIME")),
                written=_day(self._whole.tags().get("TIFFTAG_DATETIME")),
            )
            flags = self._whole.mask_flag_enums
        except BaseException:
            self.close()
            raise
        self._masked = any(MaskFlags.all_valid not in flags[band - 1] for band in self._bands)

    def close(self) -> None:
        """Close it."""
        for each in self._levels.values():
            each.close()

    def render(self, z: int, x: int, y: int) -> Rgba | None:
        """Return the pixels of a tile; None if none of them is there.

        Raises:
            RASTER_ERRORS: A part of the file cannot be read.
        """
        if not any(_is_in(part, x, y) for part in tile_ranges(self.facts.box_e7, (z, z))):
            return None
        reduction, coarser = self.facts.reduction_at(z)
        if coarser <= _MOST_REDUCTION:
            found = self._warp(reduction, z, x, y)
        else:
            found = _halved(
                [self.render(z + 1, 2 * x + column, 2 * y + row) for row in (0, 1) for column in (0, 1)]
            )
        return found if found[:, :, 3].any() else None

    def _warp(self, reduction: int, z: int, x: int, y: int) -> Rgba:
        side = tile_pixel_m(z) * TILE_PX
        pixel = side / TILE_PX
        place = Affine(pixel, 0, x * side - HALF_WORLD_M, 0, -pixel, HALF_WORLD_M - y * side)
        source = self._level(reduction)
        add_alpha = not self._alpha and not (self._covers(place) and not self._masked)
        with WarpedVRT(
            source,
            crs=WEB_MERCATOR,
            transform=place,
            width=TILE_PX,
            height=TILE_PX,
            resampling=Resampling.nearest if self._palette is not None else Resampling.bilinear,
            add_alpha=add_alpha,
        ) as warped:
            alpha = self._alpha or (source.count + 1 if add_alpha else 0)
            bands = warped.read([*self._bands, *([alpha] if alpha else [])])
        rgba = np.full((TILE_PX, TILE_PX, 4), 255, np.uint8)
        if alpha:
            rgba[:, :, 3] = np.where(bands[-1] >= 128, 255, 0)
        if self._palette is not None:
            colours = self._palette[bands[0]]
            rgba[:, :, :3] = colours[:, :, :3]
            rgba[:, :, 3] &= colours[:, :, 3]
        else:
            rgba[:, :, :3] = np.moveaxis(bands[: len(self._bands)], 0, 2)
        rgba[rgba[:, :, 3] == 0] = 0
        return rgba

    def _covers(self, place: "Affine") -> bool:
        """Whether all of a tile's pixels are made from pixels that the file has."""
        steps = np.linspace(0, TILE_PX, 9)
        along, across = np.concatenate([steps, steps]), np.repeat([0, TILE_PX], len(steps))
        columns, rows = np.concatenate([along, across]), np.concatenate([across, along])
        xs, ys = transform(
            WEB_MERCATOR, self._whole.crs, place.a * columns + place.c, place.e * rows + place.f
        )
        back = ~self._whole.transform
        columns = back.a * np.array(xs) + back.b * np.array(ys) + back.c
        rows = back.d * np.array(xs) + back.e * np.array(ys) + back.f
        margin = _MARGIN_PX * max(self.facts.reductions, default=1)
        return bool(
            (columns >= margin).all()
            and (columns <= self._whole.width - margin).all()
            and (rows >= margin).all()
            and (rows <= self._whole.height - margin).all()
        )

    def _level(self, reduction: int) -> Any:  # noqa: ANN401 - a data set of rasterio, which has no types
        if reduction not in self._levels:
            level = self.facts.reductions.index(reduction)
            self._levels[reduction] = rasterio.open(
                self.facts.path, driver="GTiff", sharing=False, overview_level=level
            )
        return self._levels[reduction]


def _day(text: str | None) -> date | None:
    """Return the day of a time such as `2026:05:01 12:00:00` or `2026-05-01T12:00:00Z`; None if it is none."""
    try:
        return parse_day((text or "")[:10].replace(":", "-"))
    except ValueError:
        return None


def tile_pixel_m(z: int) -> float:
    """Return the side of a pixel of a tile in metres of the Web Mercator projection."""
    return 2 * HALF_WORLD_M / (TILE_PX << z)


def _is_in(part: TileRange, x: int, y: int) -> bool:
    return part.x0 <= x <= part.x1 and part.y0 <= y <= part.y1


def _halved(parts: Sequence[Rgba | None]) -> Rgba:
    """Return a tile made of the four of the next zoom: the means of the pixels that are there, of each 2 x 2."""
    whole = np.zeros((2, TILE_PX, 2, TILE_PX, 4), np.uint8)
    for number, part in enumerate(parts):
        if part is not None:
            whole[number // 2, :, number % 2] = part
    squares = whole.reshape(TILE_PX, 2, TILE_PX, 2, 4).astype(np.uint16)
    total = squares.sum(axis=(1, 3), dtype=np.uint16)
    there = total[:, :, 3:] // 255
    # A pixel that is not there is 0, so that the sum is that of the others.
    found = np.where(there >= 2, (total + there // 2) // np.maximum(there, 1), 0)
    return found.astype(np.uint8)


def _require_mask(source: Any, alpha: int, colours: Sequence[int], path: str) -> None:  # noqa: ANN401
    """Raise `RequestError` if a band that is called alpha is none: mostly shades, in nine squares of the file.

    GDAL calls the fourth band of four so, also where it is near infrared: as alpha it would tear holes where it is
    dark.
    """
    tops, lefts = (
        np.linspace(0, max(0, size - _SEEN_PX), 3).astype(int) for size in (source.height, source.width)
    )
    seen = []
    for top in tops.tolist():
        for left in lefts.tolist():
            square = Window(left, top, min(_SEEN_PX, source.width), min(_SEEN_PX, source.height))
            try:
                seen.append(source.read(alpha, window=square).ravel())
            except RASTER_ERRORS:
                continue  # a damaged part is found when its tiles are read
    values = np.concatenate(seen) if seen else np.zeros(1, np.uint8)
    shades = int(np.count_nonzero((values >= _SHADES.start) & (values < _SHADES.stop)))
    # The soft edge of an island in a wide sheet is less than an eighth of it.
    if shades * 2 <= np.count_nonzero(values) or shades * 8 <= values.size:
        return
    chosen = " ".join(f"-b {number}" for number in colours)
    raise unsuitable(
        path,
        "an alpha band that says which pixels are there, 0 or 255",
        f"shades in {shades / values.size:.0%} of it, as of near infrared or of a half transparent layer",
        f"leave it out: gdal_translate {chosen} -of COG {quote(Path(path).name)} X.tif",
    )


def _bands(source: Any, path: str) -> tuple[tuple[int, ...], int, npt.NDArray[np.uint8] | None]:  # noqa: ANN401
    """Return the numbers of the bands of colours, or of the one of grey or of a palette; that of alpha, or 0; the palette.

    The palette is uint8 [256, 4]. Numbers count from 1.

    Raises:
        RequestError: It is not sure what they look like.
    """
    kinds = list(source.colorinterp)
    alpha = kinds.index(ColorInterp.alpha) + 1 if ColorInterp.alpha in kinds else 0
    others = [number for number in range(1, len(kinds) + 1) if number != alpha]
    name = quote(Path(path).name)
    colours = [kinds.index(each) + 1 for each in _COLOURS if each in kinds]
    unsure = len(colours) < 3 and len(others) == 3
    if len(colours) < 3:
        colours = others
    deep = sorted(
        {str(source.dtypes[number - 1]) for number in (*colours, *([alpha] if alpha else []))} - {"uint8"}
    )
    if deep:
        raise unsuitable(
            path,
            "8 bits for each band",
            f"{' and '.join(deep)}, whose range is not known",
            f"scale it: gdal_translate -ot Byte -scale LOWEST HIGHEST 0 255 -of COG {name} X.tif",
        )
    structure = source.tags(ns="IMAGE_STRUCTURE")
    bits = {source.tags(number, ns="IMAGE_STRUCTURE").get("NBITS", "8") for number in colours}
    is_palette = kinds[colours[0] - 1] is ColorInterp.palette if colours else False
    if not is_palette and (structure.get("MINISWHITE") == "YES" or bits != {"8"}):
        raise unsuitable(
            path,
            "8 bits for each band, of which 0 is black",
            "0 as white" if structure.get("MINISWHITE") == "YES" else f"{', '.join(sorted(bits))} bits",
            f"scale it: gdal_translate -ot Byte -scale LOWEST HIGHEST 0 255 -co NBITS=8 -of COG {name} X.tif",
        )
    # GDAL shows such a file as red, green and blue.
    is_cmyk = structure.get("SOURCE_COLOR_SPACE") == "CMYK"
    if unsure or len(colours) not in {1, 3} or ColorInterp.cyan in kinds or is_cmyk:
        found = "CMYK" if is_cmyk else ", ".join(each.name for each in kinds)
        raise unsuitable(
            path,
            "bands for red, green and blue, or one of grey, and perhaps alpha",
            f"{len(kinds)} bands ({found})",
            f"choose them: gdal_translate -b 1 -b 2 -b 3 -colorinterp red,green,blue -of COG {name} X.tif",
        )
    if kinds[colours[0] - 1] is not ColorInterp.palette:
        return tuple(colours), alpha, None
    palette = np.zeros((256, 4), np.uint8)
    for number, colour in source.colormap(colours[0]).items():
        palette[number] = colour
    palette[:, 3] = np.where(palette[:, 3] >= 128, 255, 0)
    return tuple(colours), alpha, palette
