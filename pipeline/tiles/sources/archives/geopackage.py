"""Raster tiles in a GeoPackage (SQLite, OGC 12-128r18, clause 2.2), which counts rows from the north.

A GeoPackage may cut its tiles from any corner, at any zooms and in any projection. Read are the tiles that are
Web Mercator tiles under other numbers: their matrix is a part of the Web Mercator grid of some zoom.
"""

import math
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from shlex import quote
from typing import Final

import mercantile
import numpy as np

from pipeline.errors import RequestError, TileError
from pipeline.request.geometry import BoxE7
from pipeline.tiles.grid import TileRange, range_box_e7
from pipeline.tiles.sources.archive import TileArchive, bad_archive, unsupported_archive
from pipeline.tiles.sources.archive_cache import TileListing
from pipeline.tiles.sources.archives.hashing import hash_tiles, joined
from pipeline.tiles.sources.archives.sqlite_archive import (
    CONTENT,
    IN_RECTANGLE,
    open_database,
    require_at_rest,
    row_tasks,
    sqlite_errors_as_ours,
)
from pipeline.tiles.sources.read_tile import keep_open, source_changed
from pipeline.tiles.sources.row_order import box_of_degrees
from pipeline.tiles.tile import Extent, Locator
from store.base.identity import MAX_ZOOM, X_SHIFT, ZOOM_SHIFT
from store.base.valueclass import valueclass

HALF_WORLD_M: Final = 20_037_508.342789244
"""From the middle of the Web Mercator square to its edge, in metres of that projection."""

_KIND = "GeoPackage"
_WEB_MERCATOR = frozenset({3857, 3785, 900913, 102100, 102113})
_MOST_SHIFT = 1 / 256
"""Part of a tile by which a matrix may be off the grid: a pixel."""


@valueclass(frozen=True, slots=True, kw_only=True)
class _Matrix:
    """A tile matrix: tiles of one zoom.

    Attributes:
        number: The zoom that the GeoPackage calls it.
        z: Its Web Mercator zoom.
        x0: Column of its column 0.
        y0: Row of its row 0.
    """

    number: int
    z: int
    x0: int
    y0: int


class GeoPackageTiles(TileArchive):
    """A table of raster tiles in a GeoPackage, named by "x.gpkg", or by "x.gpkg:TABLE" where it has several."""

    kind = "gpkg"

    def __init__(
        self, spec: str, *, base: Path, digest_cache_folder: Path | None, now_ns: Callable[[], int]
    ) -> None:
        path, table = split_table(spec)
        super().__init__(path, base=base, digest_cache_folder=digest_cache_folder, now_ns=now_ns)
        self.name = spec
        self._fingerprint = require_at_rest(self._path, _KIND)
        with self._open() as database:
            self._table = _choose_table(database, self._path, table)
            self._box = _contents_box(database, self._table)
            self._matrices = _matrices(database, self._path, self._table)

    def extent(self) -> Extent:
        """See `TileMetadataStore.extent`; bounds are those of the highest zoom that has tiles."""
        edges = "min(tile_column), max(tile_column), min(tile_row), max(tile_row)"
        held: list[TileRange] = []
        with self._open() as database:
            for each in self._matrices:
                query = f"SELECT {edges} FROM {_quoted(self._table)} WHERE zoom_level = ?"  # noqa: S608 - quoted
                found = database.execute(query, (each.number,)).fetchone()
                if all(isinstance(edge, int) for edge in found):
                    x0, x1, y0, y1 = found
                    held.append(
                        TileRange(
                            z=each.z, x0=each.x0 + x0, x1=each.x0 + x1, y0=each.y0 + y0, y1=each.y0 + y1
                        )
                    )
        if not held:
            return Extent(zoom=None, box_e7=None)
        return Extent(zoom=(held[0].z, held[-1].z), box_e7=range_box_e7(held[-1]))

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with closing(open_database(self._path, _KIND)) as database, sqlite_errors_as_ours(self._path, _KIND):
            yield database

    def _locator(self, listing: TileListing, row: int) -> Locator:
        return self.kind, str(self._path), self._table, int(listing.keys[row, 2])

    def _list_tiles(self, ranges: Sequence[TileRange]) -> TileListing:
        with self._open() as database:
            tasks = [
                (matrix, task)
                for part, matrix in self._parts(ranges)
                for task in row_tasks(
                    database,
                    _rectangle(part, matrix),
                    path=self._path,
                    kind=_KIND,
                    table=_quoted(self._table),
                    number="id",
                )
            ]
        answers = hash_tiles([task for _, task in tasks], self.progress)
        keys = [np.zeros((0, 3), np.int64)]
        for (matrix, _), (numbers, _) in zip(tasks, answers, strict=True):
            _, x, y, number, size = numbers.T
            ids = (matrix.z << ZOOM_SHIFT) | (matrix.x0 + x << X_SHIFT) | (matrix.y0 + y)
            keys.append(np.stack([ids, size, number], axis=1))
        listing = TileListing(keys=np.concatenate(keys), digests=joined(answers, columns=5)[1])
        listing = listing.take(np.argsort(listing.ids, kind="stable"))
        for at in np.flatnonzero(np.diff(listing.ids) == 0)[:1].tolist():
            place = "{}/{}/{}".format(*listing.places[at].tolist())
            raise bad_archive(self._path, f"one tile {place}", "several", "remove all but the right one")
        return listing

    def _parts(self, ranges: Sequence[TileRange]) -> Iterator[tuple[TileRange, _Matrix]]:
        return ((part, each) for part in ranges for each in self._matrices if each.z == part.z)

    def _announced_box(self) -> BoxE7 | None:
        return self._box

    def _holds_any(self, ranges: Sequence[TileRange]) -> bool:
        with self._open() as database:
            query = f"SELECT 1 FROM {_quoted(self._table)} WHERE {IN_RECTANGLE}"  # noqa: S608 - quoted
            return any(
                database.execute(query, _rectangle(part, each)).fetchone()
                for part, each in self._parts(ranges)
            )


def split_table(spec: str) -> tuple[str, str]:
    """Return the path of a GeoPackage and the table that is named after a colon, if any."""
    head, colon, table = spec.rpartition(":")
    return (head, table) if colon and head.lower().endswith(".gpkg") else (spec, "")


def read_tile_row(path: str, table: str, number: int) -> bytes:
    """Return the encoded bytes of one tile of a GeoPackage, which stays open.

    Args:
        path: The GeoPackage.
        table: The table.
        number: The tile's `id`.

    Raises:
        TileError: when there is no such tile.
    """
    database = keep_open(path, open_database, sqlite3.Connection.close)
    with sqlite_errors_as_ours(path, _KIND):
        content = _content(database, table, number)
    if content is None:
        raise source_changed(path, f"{path}: expected a tile with id {number} in {table}, found none")
    return content


def _content(database: sqlite3.Connection, table: str, number: int) -> bytes | None:
    query = f"SELECT {CONTENT} FROM {_quoted(table)} WHERE id = ?"  # noqa: S608 - quoted
    found = database.execute(query, (number,)).fetchone()
    return None if found is None else bytes(found[0])


def _rectangle(part: TileRange, matrix: _Matrix) -> tuple[int, int, int, int, int]:
    """Return a rectangle of tiles as `IN_RECTANGLE` takes it, in the numbers of a matrix."""
    x0, y0 = matrix.x0, matrix.y0
    return matrix.number, part.x0 - x0, part.x1 - x0, part.y0 - y0, part.y1 - y0


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _choose_table(database: sqlite3.Connection, path: Path, wanted: str) -> str:
    """Return the table of raster tiles.

    Raises:
        RequestError: There are several and none is named, or there is none of that name.
        TileError: It is no GeoPackage, or has no raster tiles.
    """
    found = dict(database.execute("SELECT table_name, data_type FROM gpkg_contents").fetchall())
    tables = sorted(str(name) for name, kind in found.items() if kind == "tiles")
    if not tables:
        kinds = ", ".join(sorted({str(kind) for kind in found.values()})) or "nothing"
        hint = "export the area as raster tiles, such as satellite imagery"
        raise unsupported_archive(path, "a table of raster tiles", kinds, hint)
    if wanted in tables:
        return wanted
    if wanted or len(tables) > 1:
        expected = f"a table {wanted}" if wanted else "the name of one of its tables of tiles"
        raise RequestError(
            f"tiles.source: expected {expected}, found {', '.join(tables)} in {path.name}",
            hint=f"write {path.name}:{tables[0]}",
            subject=str(path),
        )
    return tables[0]


def _matrices(database: sqlite3.Connection, path: Path, table: str) -> tuple[_Matrix, ...]:
    """Return the tile matrices that are parts of the Web Mercator grid, by rising zoom.

    Raises:
        TileError: None is.
    """
    row = database.execute(
        "SELECT organization_coordsys_id, min_x, max_y FROM gpkg_tile_matrix_set"
        " LEFT JOIN gpkg_spatial_ref_sys USING (srs_id) WHERE table_name = ?",
        (table,),
    ).fetchone()
    if row is None:
        raise bad_archive(path, f"a tile matrix set of {table}", "none")
    projection, west, north = row
    if projection not in _WEB_MERCATOR:
        raise _another_grid(path, f"EPSG:{projection}")
    levels = database.execute(
        "SELECT zoom_level, pixel_x_size * tile_width, pixel_y_size * tile_height FROM gpkg_tile_matrix"
        " WHERE table_name = ? ORDER BY zoom_level",
        (table,),
    ).fetchall()
    try:
        found = [_matrix(int(number), *map(float, (west, north, *sides))) for number, *sides in levels]
    except (TypeError, ValueError) as error:
        raise bad_archive(path, "numbers in gpkg_tile_matrix", str(error)) from error
    matrices = tuple(sorted((each for each in found if each is not None), key=lambda each: each.z))
    if not matrices:
        sides = ", ".join(f"{side:g} m" for _, side, _ in levels[-3:]) or "no tiles"
        raise _another_grid(path, f"tiles of {sides} from ({west}, {north})")
    return matrices


def _matrix(number: int, west: float, north: float, width: float, height: float) -> _Matrix | None:
    """Return a matrix by its number, corner and the sides of a tile in metres; None if it is off the grid."""
    if not (0 < width < math.inf and 0 < height < math.inf):
        return None
    z = round(math.log2(2 * HALF_WORLD_M / width))
    if not 0 <= z <= MAX_ZOOM:
        return None
    side = 2 * HALF_WORLD_M / (1 << z)
    x0, y0 = (west + HALF_WORLD_M) / side, (HALF_WORLD_M - north) / side
    # A side that is off adds up over the whole width of the grid.
    off = max(abs(width - side), abs(height - side)) / side * (1 << z)
    if max(off, abs(x0 - round(x0)), abs(y0 - round(y0))) > _MOST_SHIFT:
        return None
    return _Matrix(number=number, z=z, x0=round(x0), y0=round(y0))


def _contents_box(database: sqlite3.Connection, table: str) -> BoxE7 | None:
    """Return the bounds that a GeoPackage announces for a table, which are in metres; None if they are not known."""
    row = database.execute(
        "SELECT min_x, min_y, max_x, max_y FROM gpkg_contents WHERE table_name = ?", (table,)
    ).fetchone()
    try:
        west, south, east, north = (min(max(float(edge), -HALF_WORLD_M), HALF_WORLD_M) for edge in row or ())
    except (TypeError, ValueError):
        return None
    return box_of_degrees(*mercantile.lnglat(west, south), *mercantile.lnglat(east, north))


def _another_grid(path: Path, found: str) -> TileError:
    name = quote(path.name)
    return unsupported_archive(
        path,
        "tiles of the Web Mercator grid (EPSG:3857)",
        found,
        f"cut it anew: gdal_translate -of MBTILES {name} X.mbtiles; gdaladdo X.mbtiles",
    )
