"""Tiles as single files: `dir/{z}/{x}/{y}.ext`.

Only names in plain decimal are tiles; anything else in the folder (thumbnails, listings) is ignored. A
symbolic link is followed if its target is inside the folder.
"""

import hashlib
import os
import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISREG

import numpy as np
import numpy.typing as npt

from pipeline.errors import ErrorKind, RequestError
from pipeline.request.geometry import BoxE7
from pipeline.tiles.digest_cache import DigestCache, Fingerprint, shows_changes
from pipeline.tiles.grid import TileRange, range_box_e7, tile_ranges
from pipeline.tiles.image_header import IMAGE_EXTENSIONS
from pipeline.tiles.sources.archive import bad_archive
from pipeline.tiles.sources.folder_metadata import FolderMetadata, other_names, read_metadata
from pipeline.tiles.sources.read_tile import read_tile_file, source_changed
from pipeline.tiles.sources.registry import kind_of
from pipeline.tiles.sources.row_order import bounds_warnings, mirrored, misplaced_tiles, rows_are_mirrored
from pipeline.tiles.tile import Extent, Locator, ZoomRange
from pipeline.tiles.tile_columns import TileColumns

_PATTERN = re.compile(r"(?P<root>.*?)/?\{z\}/\{x\}/\{y\}\.(?P<extension>[A-Za-z]+)")
_INT64 = (1 << 63) - 1
_NO_ROW = -1
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,8}")


class _FileColumns:
    """Tile files as columns: a hundred thousand small objects would slow the garbage collector down."""

    def __init__(self) -> None:
        self._columns: list[tuple[int, int, int]] = []
        self._ended = 0
        self.rows = array("i")
        """Row of each tile."""
        self.stamps = array("q")
        """Five integers for each tile, its fingerprint."""

    def end_column(self, z: int, x: int) -> None:
        """Assign all files since the last call to a column."""
        self._columns.append((z, x, len(self.rows) - self._ended))
        self._ended = len(self.rows)

    @property
    def places(self) -> npt.NDArray[np.int32]:
        """Zoom, column and row of each, int32 [n, 3]."""
        places = np.empty((len(self.rows), 3), np.int32)
        columns = np.array(self._columns, np.int64).reshape(-1, 3)
        places[:, :2] = np.repeat(columns[:, :2], columns[:, 2], axis=0)
        places[:, 2] = self.rows
        return places

    @property
    def keys(self) -> npt.NDArray[np.int64]:
        """The fingerprints, int64 [n, 5]."""
        return np.array(self.stamps, np.int64).reshape(-1, 5)


class _RowOfName(dict[str, int]):
    """File name to row; `_NO_ROW` for a name that is no tile's.

    Most columns have the same names, so each is parsed once. Names of no tile are not kept, since their
    number has no limit.
    """

    def __init__(self, suffix: str) -> None:
        super().__init__()
        self._suffix = suffix

    def __missing__(self, name: str) -> int:
        cut = len(name) - len(self._suffix)
        if not (name.endswith(self._suffix) and _DECIMAL.fullmatch(name, 0, cut)):
            return _NO_ROW
        row = self[name] = int(name[:cut])
        return row


class XYZFolder:
    """A folder of tiles, named by the pattern "dir/{z}/{x}/{y}.ext". See `open_source` in the registry."""

    def __init__(
        self, pattern: str, *, base: Path, digest_cache_folder: Path | None, now_ns: Callable[[], int]
    ) -> None:
        parts = _PATTERN.fullmatch(pattern)
        if parts is None or parts["extension"].lower() not in IMAGE_EXTENSIONS:
            raise RequestError(
                f"tiles.source: expected DIR/{{z}}/{{x}}/{{y}}.EXT with jpg, png or webp, found {pattern!r}",
                hint=(
                    "write the three in this order, each once"
                    if parts is None
                    else f"convert the {parts['extension']} tiles to one of these"
                ),
                subject=pattern,
            )
        written = parts["root"] or ("/" if pattern.startswith("/") else ".")
        root = os.path.realpath(base / written)
        try:
            os.scandir(root).close()
        except OSError as error:
            raise RequestError(
                f"tiles.source: expected a readable folder at {base / written}, found {error.strerror or error}",
                hint=f'it is a file: write tiles.source = "{written}"'
                if isinstance(error, NotADirectoryError) and kind_of(written) is not None
                else "check the path, which starts from the request's folder, and its permissions",
                kind=ErrorKind.SOURCE_UNREADABLE,
                subject=root,
            ) from error
        self.name = pattern
        self._root = root
        self._suffix = "." + parts["extension"]
        self._row_of = _RowOfName(self._suffix)
        self._digest_cache_folder = digest_cache_folder
        self._now_ns = now_ns

    def query_by_bbox(self, bbox_e7: BoxE7, zoom: ZoomRange) -> TileColumns:
        """See `TileMetadataStore.query_by_bbox`."""
        cache = DigestCache(
            self._digest_cache_folder,
            subject=f"xyz:{self._root}:{self._suffix}",
            now_ns=self._now_ns,
        )
        files = _FileColumns()
        for part in tile_ranges(bbox_e7, zoom):
            self._scan(part, files)
        places = files.places
        said = read_metadata(self._root)
        if len(places):
            self._require_row_order(said, tile_ranges(bbox_e7, (int(places[:, 0].max()),) * 2))
            warnings = bounds_warnings(f"{said.file} of {self.name}", said.box_e7, places)
        else:
            warnings = misplaced_tiles(tile_ranges(bbox_e7, zoom), self._holds_any)
            warnings = warnings or other_names(self._root, self._suffix)
        # A folder lists its files in no order.
        order = np.lexsort(places.T[::-1])
        places, keys = places[order], files.keys[order]
        reliable = shows_changes(keys, lambda row: self._path_of(*places[row].tolist()))
        digests, known = cache.lookup(keys)
        known &= reliable
        for row in np.flatnonzero(~known).tolist():
            digest = _hash_file(self._path_of(*places[row].tolist()), Fingerprint(*keys[row].tolist()))
            digests[row] = np.frombuffer(digest, dtype=np.uint8)
        if not known.all():
            settled = reliable & (keys[:, 3:].max(axis=1) < cache.racy_from_ns)
            if (settled & ~known).any():
                cache.store(keys[settled], digests[settled])

        def locator_of(row: int) -> Locator:
            return "file", self._path_of(*places[row].tolist())

        return TileColumns.from_columns(
            places, digests=digests, sizes=keys[:, 2], locator_of=locator_of, warnings=warnings
        )

    def _require_row_order(self, said: FolderMetadata, wanted: Sequence[TileRange]) -> None:
        """Raise `TileError` if rows are counted from the south, as bounds show or else the metadata says."""
        hint = "cut the tiles again with rows from the north, for example gdal2tiles --xyz"
        if rows_are_mirrored(said.box_e7, wanted, self._holds_any):
            raise bad_archive(
                self._root,
                f"tiles inside the bounds of its {said.file}",
                "them where these are mirrored at the equator: its rows are counted from the south (TMS)",
                hint,
            )
        # Programs copy what an archive says of its rows into folders that count them from the other end.
        shown = said.box_e7 is not None and rows_are_mirrored(
            said.box_e7, wanted, lambda ranges: self._holds_any(mirrored(ranges))
        )
        if said.from_south and not shown:
            raise bad_archive(
                self._root,
                "rows that are counted from the north (XYZ)",
                f'"scheme": "tms" in its {said.file}',
                f"{hint}; if they are, correct {said.file}",
            )

    def _holds_any(self, ranges: Sequence[TileRange]) -> bool:
        files = _FileColumns()
        for part in ranges:
            self._scan(part, files)
        return bool(len(files.rows))

    def _path_of(self, z: int, x: int, y: int) -> str:
        return f"{self._root.rstrip('/')}/{z}/{x}/{y}{self._suffix}"

    def extent(self) -> Extent:
        """See `TileMetadataStore.extent`; bounds are those of the highest zoom."""
        zooms = self._numbered_folders(self._root)
        for z in reversed(zooms):
            folder = f"{self._root}/{z}"
            last = (1 << z) - 1
            whole = TileRange(z=z, x0=0, x1=last, y0=0, y1=last)
            places = [
                (x, y)
                for x in self._numbered_folders(folder)
                if x <= last
                for y, _ in self._tile_files(whole, x)
            ]
            if places:
                columns, rows = zip(*places, strict=True)
                held = TileRange(z=z, x0=min(columns), x1=max(columns), y0=min(rows), y1=max(rows))
                return Extent(zoom=(zooms[0], z), box_e7=range_box_e7(held))
        return Extent(zoom=None, box_e7=None)

    def _scan(self, wanted: TileRange, files: _FileColumns) -> None:
        for x in self._numbered_folders(f"{self._root}/{wanted.z}"):
            if wanted.x0 <= x <= wanted.x1:
                self._scan_column(wanted, x, files)
                files.end_column(wanted.z, x)

    def _scan_column(self, wanted: TileRange, x: int, files: _FileColumns) -> None:
        """Append the files of one column. An up-to-date build spends most of its time here, in `stat`."""
        add_row, add_stamp = files.rows.append, files.stamps.extend
        for y, entry in self._tile_files(wanted, x):
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError as error:
                raise _unreadable(self._path_of(wanted.z, x, y), error) from error
            if not S_ISREG(status.st_mode):
                status = self._stat_link_target(entry, self._path_of(wanted.z, x, y))
            device, inode = status.st_dev, status.st_ino
            if device > _INT64 or inode > _INT64:
                device, inode = Fingerprint.of(status)[:2]
            add_row(y)
            add_stamp((device, inode, status.st_size, status.st_mtime_ns, status.st_ctime_ns))

    def _numbered_folders(self, folder: str) -> list[int]:
        """Return the folders in a folder whose names are plain decimals, sorted; none if it is missing."""
        try:
            with os.scandir(folder) as entries:
                return sorted(int(e.name) for e in entries if _DECIMAL.fullmatch(e.name) and e.is_dir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _unreadable(folder, error) from error

    def _tile_files(self, wanted: TileRange, x: int) -> Iterator[tuple[int, "os.DirEntry[str]"]]:
        """Yield row and directory entry of the tile files of one column; use each before the next."""
        folder = f"{self._root}/{wanted.z}/{x}"
        if os.path.realpath(folder) != folder:
            self._require_inside(folder)
        row_of, first, last = self._row_of, wanted.y0, wanted.y1
        try:
            # Relative to an open folder, the system does not resolve the whole path for each file.
            with _open_folder(folder) as descriptor, os.scandir(descriptor) as entries:
                for entry in entries:
                    y = row_of[entry.name]
                    if first <= y <= last:
                        yield y, entry
        except OSError as error:
            raise _unreadable(folder, error) from error

    def _stat_link_target(self, entry: "os.DirEntry[str]", path: str) -> os.stat_result:
        """Return the status of the file that a link in place of a tile points to.

        Raises:
            TileError: It is no link to a file, or its target is outside the folder.
            RequestError: It cannot be examined.
        """
        try:
            if entry.is_symlink():
                self._require_inside(path)
            status = entry.stat()
        except OSError as error:
            raise _unreadable(path, error) from error
        if not S_ISREG(status.st_mode):
            raise bad_archive(path, "a regular file as a tile", "something else", "remove it")
        return status

    def _require_inside(self, path: str) -> None:
        real = os.path.realpath(path)
        if not real.startswith(self._root.rstrip("/") + "/"):
            raise bad_archive(
                path, "a link that stays in the tile folder", f"one to {real}", "copy the file there"
            )


@contextmanager
def _open_folder(folder: str) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _hash_file(path: str, fingerprint: Fingerprint) -> bytes:
    try:
        content = read_tile_file(path)
        unchanged = Fingerprint.of(Path(path).stat()) == fingerprint
    except OSError as error:
        raise _unreadable(path, error) from error
    if not unchanged or len(content) != fingerprint.size:
        message = f"tile {path}: expected it to stay the same while it is used, found it changed"
        raise source_changed(path, message)
    return hashlib.sha256(content).digest()


def _unreadable(path: str, error: OSError) -> RequestError:
    return RequestError(
        f"{path}: expected readable tiles, found {error.strerror or error}",
        hint="check that it is there, and its permissions",
        kind=ErrorKind.SOURCE_UNREADABLE,
        subject=path,
    )
