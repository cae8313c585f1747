"""Read what the programs that cut tiles leave beside them: tilemapresource.xml and metadata.json."""

import json
import re
from collections.abc import Collection
from pathlib import Path

import mercantile

from pipeline.request.geometry import BoxE7
from pipeline.tiles.images.image_header import IMAGE_EXTENSIONS
from pipeline.tiles.sources.row_order import box_of_degrees
from store.base.valueclass import valueclass
from store.files.regular_file import read_start

TMS_FILE = "tilemapresource.xml"
JSON_FILE = "metadata.json"
_OTHER_IMAGES = frozenset({"avif", "jxl", "gif", "bmp", "tif", "tiff", "jp2"})
_MAX_BYTES = 1 << 20
_DEPTH = 2
_NUMBER = r"-?[0-9]{1,9}(?:\.[0-9]{1,30})?(?:[eE][+-]?[0-9]{1,2})?"
_TMS_BOUNDS = re.compile(rf"""\b(min[xy]|max[xy])=["']({_NUMBER})["']""")
_TMS_ORIGIN = re.compile(rf"""<Origin\s+x=["']({_NUMBER})["']\s+y=["']({_NUMBER})["']""")
_TMS_PROFILE = re.compile(r"""<TileSets\b[^>]*\bprofile=["'](geodetic|global-geodetic|raster|local)["']""")
_MOST_METRES = 21e6
"""The Web Mercator projection is a little smaller."""


@valueclass(frozen=True, slots=True, kw_only=True)
class FolderMetadata:
    """What the files beside a folder of tiles say of it.

    Attributes:
        box_e7: Bounds in 1e-7 degree, if known.
        file: Name of the file that says so, or that rows are counted from the south; else empty.
        from_south: Whether rows are said to be counted from the south (TMS).
        is_sure: Whether that is what the file is for; programs copy a "scheme" from elsewhere.
        grid: The grid of the tiles, if it is said and not that of Web Mercator; else empty.
    """

    box_e7: BoxE7 | None = None
    file: str = ""
    from_south: bool = False
    is_sure: bool = False
    grid: str = ""


def read_metadata(root: str) -> FolderMetadata:
    """Return what is said of a folder of tiles; a file that cannot be read or understood says nothing."""
    text = _read_text(f"{root}/{TMS_FILE}")
    box, is_map, profile = _tms_box(text), "<TileMap" in text, _TMS_PROFILE.search(text)
    if box is not None or is_map:
        grid = profile[1] if profile else ""
        return FolderMetadata(box_e7=box, file=TMS_FILE, from_south=is_map, is_sure=is_map, grid=grid)
    try:
        said = json.loads(_read_text(f"{root}/{JSON_FILE}"))
    except (ValueError, RecursionError):
        return FolderMetadata()
    if not isinstance(said, dict):
        return FolderMetadata()
    return FolderMetadata(
        box_e7=_json_box(said.get("bounds")),
        file=JSON_FILE,
        from_south=str(said.get("scheme")).lower() == "tms",
    )


def other_names(root: str, suffixes: Collection[str]) -> tuple[str, ...]:
    """Return what to write in a request, if the tiles of a folder have another ending or are in folders below.

    Args:
        root: The folder.
        suffixes: The endings that are written; none where any image will do.
    """
    tile = _first_tile(Path(root), depth=_DEPTH)
    if tile is None:
        return ()
    folder, ending = tile.parents[2], tile.suffix
    if ending[1:].lower() not in IMAGE_EXTENSIONS:
        return (f"the files in {folder} end in {ending}: convert them to jpg, png or webp",)
    if folder != Path(root):
        return (f"there are tiles in {folder}: write that folder in tiles.source",)
    if not suffixes or ending in suffixes:
        return ()
    wanted = " or ".join(sorted(suffixes))
    return (f"its tiles end in {ending}, not in {wanted}: write that in tiles.source",)


def _first_tile(folder: Path, *, depth: int) -> Path | None:
    """Return the first file named like a tile in a folder, or in those below it."""
    try:
        inside = sorted(each for each in folder.iterdir() if each.is_dir())
    except OSError:
        return None
    for zoom in (each for each in inside if each.name.isdecimal()):
        for tile in zoom.glob("[0-9]*/[0-9]*.*"):
            if tile.stem.isdecimal() and tile.suffix[1:].lower() in IMAGE_EXTENSIONS | _OTHER_IMAGES:
                return tile
    below = (each for each in inside if depth and not each.name.isdecimal())
    return next((found for each in below if (found := _first_tile(each, depth=depth - 1))), None)


def _read_text(path: str) -> str:
    try:
        return read_start(path, _MAX_BYTES, follow_symlinks=True).decode("utf-8", "replace")
    except OSError:
        return ""


def _tms_box(text: str) -> BoxE7 | None:
    edges = {name: float(number) for name, number in _TMS_BOUNDS.findall(text)}
    if edges.keys() != {"minx", "miny", "maxx", "maxy"}:
        return None
    origin = _TMS_ORIGIN.search(text)
    if origin and tuple(map(float, origin.groups())) == (edges["miny"], edges["minx"]):
        # gdal2tiles before GDAL 3 wrote latitudes as x, but for the origin.
        edges = {
            f"{end}{axis}": edges[f"{end}{other}"] for end in ("min", "max") for axis, other in ("xy", "yx")
        }
    largest = max(map(abs, edges.values()))
    if largest > _MOST_METRES:
        return None
    if largest > 360:
        # Metres of the Web Mercator projection.
        west_south, east_north = (
            mercantile.lnglat(edges[f"{end}x"], edges[f"{end}y"], truncate=True) for end in ("min", "max")
        )
        return box_of_degrees(*west_south, *east_north)
    return box_of_degrees(edges["minx"], edges["miny"], edges["maxx"], edges["maxy"])


def _json_box(bounds: object) -> BoxE7 | None:
    """Return bounds that are written "west,south,east,north" or as a list of these."""
    parts = bounds.split(",") if isinstance(bounds, str) else bounds
    if not isinstance(parts, list) or len(parts) != 4:
        return None
    try:
        west, south, east, north = (float(part) for part in parts)
    except (TypeError, ValueError, OverflowError):
        return None
    return box_of_degrees(west, south, east, north)
