"""Tiles rendered from GeoTIFF files, in any projection that GDAL warps; several files are one mosaic.

A rendered tile is a PNG without compression, so that its bytes, whose digest is its identity, follow from its
pixels. It is rendered where it is listed and again where it is embedded: two renderings cost less than keeping
200 kB for each tile. Where files overlap, the later one is on top, as with gdalbuildvrt. A tile without any
pixel is a hole. One that cannot be read is listed as bytes that are no picture: the request says what then.
"""

import glob
import hashlib
import math
import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from shlex import quote

import numpy as np
import numpy.typing as npt

from pipeline.errors import ErrorKind, RequestError
from pipeline.progress import reported
from pipeline.request.area import Area
from pipeline.request.geometry import BoxE7
from pipeline.tiles.digest_cache import Fingerprint, shows_changes
from pipeline.tiles.grid import TileRange, tile_ranges
from pipeline.tiles.sources.archive import TileArchive, foreign_file, unreadable_archive
from pipeline.tiles.sources.archive_cache import TileListing
from pipeline.tiles.sources.raster_file import (
    TILE_PX,
    RasterFacts,
    RasterFile,
    Rgba,
    gdal,
    library_versions,
    require_rasterio,
    tile_pixel_m,
)
from pipeline.tiles.sources.raster_place import RASTER_ERRORS
from pipeline.tiles.sources.read_tile import keep_open, source_changed
from pipeline.tiles.sources.stored_png import stored_png
from pipeline.tiles.tile import Extent, Locator, Place, ZoomRange
from pipeline.tiles.tile_columns import TileColumns
from store.base.identity import descriptor_id, tile_of
from store.files.regular_file import open_regular, read_at

SUFFIXES = (".tif", ".tiff")

_KIND = "GeoTIFF"
_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_KEPT_OPEN = 64
"""Files that each thread keeps open: a process may have a thousand."""
_BATCH = 256
_ZOOMS = (0, 25)
_UPSAMPLED = 2.5
"""From how many times finer than the imagery on a zoom is worth a warning."""
_LEAST_PICTURE = 1000
"""Bytes of what stands for a tile that cannot be read are fewer, those of a picture more."""
_SLOW_REDUCTION, _SLOW_PIXELS = 16, 1 << 26
"""A large file without overviews is refused for tiles that would take hundreds of warps each."""


class Mosaic:
    """GeoTIFF files that one thread renders from; it keeps the last ones open."""

    def __init__(self, _: str = "") -> None:
        self._open: OrderedDict[str, RasterFile] = OrderedDict()

    def close(self) -> None:
        """Close all files."""
        while self._open:
            self._open.popitem()[1].close()

    def tile(self, paths: Sequence[str], z: int, x: int, y: int) -> bytes | None:
        """Return a tile's bytes; None if no file has a pixel of it. The last path is on top."""
        whole: Rgba = np.zeros((TILE_PX, TILE_PX, 4), np.uint8)
        for path in reversed(paths):
            try:
                found = self._file(path).render(z, x, y)
            except RASTER_ERRORS as error:
                return f"unreadable part of {Path(path).name}: {error}"[:200].encode()
            if found is not None:
                missing = whole[:, :, 3] == 0
                whole[missing] = found[missing]
                if whole[:, :, 3].all():
                    return stored_png(whole[:, :, :3])
        return stored_png(whole) if whole[:, :, 3].any() else None

    def _file(self, path: str) -> RasterFile:
        if path not in self._open:
            if len(self._open) >= _KEPT_OPEN:
                self._open.popitem(last=False)[1].close()
            self._open[path] = RasterFile(path)
        self._open.move_to_end(path)
        return self._open[path]


class RasterMosaic(TileArchive):
    """GeoTIFF files: a path, a list of paths, a pattern such as "ortho/*.tif", or a folder; later ones are on top."""

    kind = "raster"

    def __init__(
        self,
        spec: str | Sequence[str],
        *,
        base: Path,
        digest_cache_folder: Path | None,
        now_ns: Callable[[], int],
    ) -> None:
        specs = (spec,) if isinstance(spec, str) else tuple(spec)
        super().__init__(specs[0], base=base, digest_cache_folder=digest_cache_folder, now_ns=now_ns)
        self.name = ", ".join(specs)
        require_rasterio(specs[0])
        self._settings = f":{self.name}:{library_versions()}"
        paths = [path for each in specs for path in _expand(each, base)]
        # A file that is named twice is where it is named last, on top.
        self._facts = [_inspect(path) for path in reversed(dict.fromkeys(reversed(paths)))]
        self._fingerprint = self._fingerprint_now()
        self._rectangles: dict[int, npt.NDArray[np.int64]] = {}

    def query_by_bbox(self, bbox_e7: BoxE7, zoom: ZoomRange) -> TileColumns:
        """See `TileMetadataStore.query_by_bbox`.

        Raises:
            RequestError: A tile of the lowest zoom would take too long, for want of overviews.
        """
        for each in self._facts:
            if each.pixels > _SLOW_PIXELS and each.reduction_at(zoom[0])[1] > _SLOW_REDUCTION:
                raise RequestError(
                    f"{each.path}: expected overviews for tiles of zoom {zoom[0]}, found none that are near",
                    hint=f"gdaladdo -r average {quote(each.path)} 2 4 8 16 32 64 128; or raise the lowest zoom",
                    kind=ErrorKind.UNSUPPORTED_ARCHIVE,
                    subject=each.path,
                )
        found = super().query_by_bbox(bbox_e7, zoom)
        if not len(found):
            return found
        return replace(
            found, warnings=(*found.warnings, *self._upsampled(zoom[1]), *self._unreadable(found.sizes))
        )

    def extent(self) -> Extent:
        """See `TileMetadataStore.extent`: a tile of any zoom can be rendered."""
        finest = round(math.log2(tile_pixel_m(0) / min(each.pixel_m for each in self._facts)))
        captured, written = (
            [getattr(each, name) for each in self._facts] for name in ("captured", "written")
        )
        return Extent(
            zoom=_ZOOMS,
            box_e7=Area.of_boxes(each.box_e7 for each in self._facts).bbox_e7,
            finest=min(max(finest, _ZOOMS[0]), _ZOOMS[1]),
            captured=None if None in captured else min(captured),
            written=min(filter(None, written), default=None),
        )

    def pixel_sides(self) -> list[tuple[BoxE7, float]]:
        """See `RendersTiles.pixel_sides`."""
        return [(each.box_e7, each.pixel_m) for each in self._facts]

    def _unreadable(self, sizes: npt.NDArray[np.int64]) -> Iterator[str]:
        """Yield how many tiles cannot be rendered, given the sizes of what stands for each."""
        lost = int((sizes < _LEAST_PICTURE).sum())
        if lost:
            yield f"{lost} of {len(sizes)} tiles cannot be read from {self.name}: what tiles.on_bad says is done"

    def _upsampled(self, z: int) -> tuple[str, ...]:
        finest = min(each.pixel_m for each in self._facts)
        finer = finest / tile_pixel_m(z)
        if finer < _UPSAMPLED:
            return ()
        own = z - math.ceil(math.log2(finer) - 0.1)
        message = (
            f"zoom {z} is {finer:.0f} times finer than {self.name}, so that its tiles are upsampled: the imagery has"
            f" the detail of zoom {own}"
        )
        return (message,)

    def _list_tiles(self, ranges: Sequence[TileRange]) -> TileListing:
        # By rows, since a file may be stored in strips.
        places = sorted(
            {place for part in ranges for place in self._places(part)},
            key=lambda each: (each.z, each.y, each.x),
        )
        rendered = reported(
            self._render(places), self.progress, "render tiles", total=len(places), unit="tiles"
        )
        made = [
            (descriptor_id(*place), *found)
            for place, found in zip(places, rendered, strict=True)
            if found is not None
        ]
        keys = np.array([(identifier, size, 0) for identifier, size, _ in made], np.int64).reshape(-1, 3)
        digests = np.frombuffer(b"".join(digest for *_, digest in made), np.uint8).reshape(-1, 32)
        listing = TileListing(keys=keys, digests=digests)
        return listing.take(np.argsort(listing.ids, kind="stable"))

    def _places(self, part: TileRange) -> Iterator[Place]:
        """Yield the tiles of a rectangle that touch a file's box."""
        for x0, x1, y0, y1 in self._rectangles_at(part.z)[:, :4].tolist():
            columns = range(max(x0, part.x0), min(x1, part.x1) + 1)
            rows = range(max(y0, part.y0), min(y1, part.y1) + 1)
            yield from (Place(part.z, x, y) for x in columns for y in rows)

    def _rectangles_at(self, z: int) -> npt.NDArray[np.int64]:
        """Return first and last column, first and last row, and number of each file, int64 [n, 5]."""
        if z not in self._rectangles:
            self._rectangles[z] = np.array(
                [
                    (part.x0, part.x1, part.y0, part.y1, number)
                    for number, each in enumerate(self._facts)
                    for part in tile_ranges(each.box_e7, (z, z))
                ],
                np.int64,
            )
        return self._rectangles[z]

    def _paths_at(self, place: Place) -> list[str]:
        """Return the files whose box a tile touches, in their order."""
        x0, x1, y0, y1, number = self._rectangles_at(place.z).T
        touched = (x0 <= place.x) & (place.x <= x1) & (y0 <= place.y) & (place.y <= y1)
        return [self._facts[each].path for each in number[touched].tolist()]

    def _render(self, places: Sequence[Place]) -> Iterator[tuple[int, bytes] | None]:
        """Yield length and SHA-256 of each tile, None for a hole."""
        local, opened = threading.local(), list[Mosaic]()

        def render(place: Place) -> tuple[int, bytes] | None:
            if not hasattr(local, "mosaic"):
                local.mosaic = Mosaic()
                opened.append(local.mosaic)
            with gdal():
                content = local.mosaic.tile(self._paths_at(place), *place)
            return None if content is None else (len(content), hashlib.sha256(content).digest())

        try:
            with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
                for start in range(0, len(places), _BATCH):
                    yield from pool.map(render, places[start : start + _BATCH])
        finally:
            for each in opened:
                each.close()

    def _locator(self, listing: TileListing, row: int) -> Locator:
        place = Place(*tile_of(int(listing.ids[row]))[:3])
        return self.kind, "\n".join(self._paths_at(place)), *place

    def _announced_box(self) -> BoxE7 | None:
        return None

    def _holds_any(self, ranges: Sequence[TileRange]) -> bool:
        del ranges
        return False

    def _fingerprints(self) -> list[Fingerprint]:
        return [Fingerprint.of(os.stat(path)) for each in self._facts for path in each.files]  # noqa: PTH116

    def _fingerprint_now(self) -> Fingerprint:
        """Return one that differs if that of any file does, or their order."""
        each = self._fingerprints()
        digest = hashlib.sha256(repr([(facts.path, facts.files) for facts in self._facts]).encode())
        digest.update(repr(each).encode())
        device, inode = (int.from_bytes(digest.digest()[at : at + 8], "little", signed=True) for at in (0, 8))
        _, _, sizes, modified, changed = zip(*each, strict=True)
        return Fingerprint(device, inode, sum(sizes), max(modified), max(changed))

    def _shows_changes(self) -> bool:
        files = [path for each in self._facts for path in each.files]
        return bool(shows_changes(np.array(self._fingerprints()), lambda row: files[row]).all())


def read_rendered(paths: str, z: int, x: int, y: int) -> bytes:
    """Return the bytes of a tile, rendered anew; its files stay open.

    Args:
        paths: The files, one a line; the last one is on top.
        z: Zoom.
        x: Column.
        y: Row from the north.

    Raises:
        TileError: when no file has any of it.
    """
    mosaic = keep_open("", Mosaic, Mosaic.close)
    with gdal():
        content = mosaic.tile(paths.split("\n"), z, x, y)
    if content is None:
        raise source_changed(f"{z}/{x}/{y}", f"tile {z}/{x}/{y}: expected it in {paths}, found none")
    return content


def _expand(spec: str, base: Path) -> list[str]:
    """Return the absolute paths that a path, pattern or folder names; those of one pattern or folder by name."""
    whole = base / spec
    if os.path.isdir(whole):  # noqa: PTH112 - a path that may not be examined is no error here
        found = sorted(str(each) for each in whole.iterdir() if each.suffix.lower() in SUFFIXES)
    elif glob.has_magic(spec) and not os.path.exists(whole):  # noqa: PTH110 - as above
        inside = spec if os.path.isabs(spec) else os.path.join(glob.escape(str(base)), spec)  # noqa: PTH117, PTH118 - a pattern is no path
        found = sorted(glob.glob(inside, recursive=True))  # noqa: PTH207 - an absolute pattern
    else:
        return [str(whole.resolve())]
    if not found:
        raise RequestError(
            f"tiles.source: expected GeoTIFF files at {whole}, found none",
            hint="check the path, which starts from the request's folder",
            kind=ErrorKind.SOURCE_UNREADABLE,
            subject=spec,
        )
    return [str(Path(each).resolve()) for each in found]


def _inspect(path: str) -> RasterFacts:
    """Return what is known of a file.

    Raises:
        RequestError: It cannot be read, or is of no use.
        TileError: It is damaged, or no TIFF.
    """
    try:
        descriptor = open_regular(path, follow_symlinks=True)
        try:
            start = read_at(descriptor, 0, 64)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise unreadable_archive(Path(path), _KIND, error) from error
    if not start.startswith(_MAGIC):
        raise foreign_file(path, "a TIFF file", start)
    with gdal(), warnings.catch_warnings():
        # A file without georeference is refused with what mends it.
        warnings.simplefilter("ignore")
        file = RasterFile(path)
        file.close()
    return file.facts
