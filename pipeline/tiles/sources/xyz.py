"""Tiles as single files: `dir/{z}/{x}/{y}.ext`.

Only names in plain decimal count as tiles; anything else in the folder (thumbnails, listings) is passed over.
A symbolic link is followed as long as it stays inside the folder.
"""

import hashlib
import os
import re
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISREG

import numpy as np
import numpy.typing as npt

from pipeline.errors import ErrorKind, RequestError, TileError
from pipeline.request.geometry import BoxE7
from pipeline.tiles.digest_cache import DigestMemory, Fingerprint
from pipeline.tiles.grid import TileRange, tile_box_e7, tile_ranges
from pipeline.tiles.sources.archive_errors import bad_archive
from pipeline.tiles.sources.read_tile import read_tile_file
from pipeline.tiles.tile import Extent, Locator, Place, ZoomRange
from pipeline.tiles.tile_columns import Tiles

FORMATS = {"jpg": "jpeg", "jpeg": "jpeg", "png": "png", "webp": "webp"}

_PATTERN = re.compile(r"(?P<root>.*?)/?\{z\}/\{x\}/\{y\}\.(?P<extension>[A-Za-z]+)")
_INT64 = (1 << 63) - 1
_NO_ROW = -1
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,8}")


class _Files:
    """Tile files as columns of equal length: a hundred thousand small objects would keep the garbage collector busy."""

    def __init__(self) -> None:
        self._columns: list[tuple[int, int, int]] = []
        self._ended = 0
        self.rows = array("i")
        """Row of each tile."""
        self.stamps = array("q")
        """Five numbers for each, its fingerprint."""

    def end_column(self, z: int, x: int) -> None:
        """Say that all files since the last call lie in this column."""
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


class _Rows(dict[str, int]):
    """File name to the row that it stands for, `_NO_ROW` for any that is no tile's.

    Most columns hold the same names, so that each is read once. Those of no tile are not kept: a folder may hold any
    number of them, while there are only so many rows.
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
    """A folder of tiles. See the module for what counts as one.

    Args:
        pattern: "dir/{z}/{x}/{y}.ext".
        base: Folder that a relative pattern starts from.
        digest_cache_folder: Where digests are remembered; None remembers nothing.
        now_ns: Wall clock, nanoseconds since 1970.

    Raises:
        RequestError: when the pattern has another form, or the folder is not there.
    """

    def __init__(
        self, pattern: str, *, base: Path, digest_cache_folder: Path | None, now_ns: Callable[[], int]
    ) -> None:
        parts = _PATTERN.fullmatch(pattern)
        if parts is None or parts["extension"].lower() not in FORMATS:
            raise RequestError(
                f"tiles.source: expected DIR/{{z}}/{{x}}/{{y}}.EXT with jpg, png or webp, found {pattern!r}",
                hint="write the three in this order, each once",
                subject=pattern,
            )
        written = parts["root"] or ("/" if pattern.startswith("/") else ".")
        root = os.path.realpath(base / written)
        try:
            os.scandir(root).close()
        except OSError as error:
            raise RequestError(
                f"tiles.source: expected a readable folder at {base / written}, found {error.strerror or error}",
                hint="check the path, which starts from the request's folder, and its permissions",
                kind=ErrorKind.SOURCE_UNREADABLE,
                subject=root,
            ) from error
        self.name = pattern
        self.tile_format = FORMATS[parts["extension"].lower()]
        self._root = root
        self._suffix = "." + parts["extension"]
        self._row_of = _Rows(self._suffix)
        self._memory_folder = digest_cache_folder
        self._now_ns = now_ns

    def query_by_bbox(self, bbox_e7: BoxE7, zoom: ZoomRange) -> Tiles:
        """See `TileMetadataStore.query_by_bbox`."""
        memory = DigestMemory(
            self._memory_folder, subject=f"xyz:{self._root}:{self._suffix}", columns=5, now_ns=self._now_ns
        )
        files = _Files()
        for part in tile_ranges(bbox_e7, zoom):
            self._scan(part, files)
        places = files.places
        # A folder gives its files in no order.
        order = np.lexsort(places.T[::-1])
        places, keys = places[order], files.keys[order]
        digests, known = memory.recall(keys)
        for row in np.flatnonzero(~known).tolist():
            digest = _digest(self._path_of(*places[row].tolist()), Fingerprint(*keys[row].tolist()))
            digests[row] = np.frombuffer(digest, dtype=np.uint8)
        if not known.all():
            settled = keys[:, 3:].max(axis=1) < memory.racy_from_ns
            if (settled & ~known).any():
                memory.remember(keys[settled], digests[settled])

        def where(row: int) -> Locator:
            return "file", self._path_of(*places[row].tolist())

        return Tiles.from_columns(places, digests=digests, sizes=keys[:, 2], where=where)

    def _path_of(self, z: int, x: int, y: int) -> str:
        """The path of a tile's file; its names are these numbers in plain decimal, or it would be no tile."""
        return f"{self._root.rstrip('/')}/{z}/{x}/{y}{self._suffix}"

    def extent(self) -> Extent:
        """See `TileMetadataStore.extent`; bounds are those of the highest zoom."""
        zooms = self._numbers(self._root)
        for z in reversed(zooms):
            folder = f"{self._root}/{z}"
            last = (1 << z) - 1
            whole = TileRange(z=z, x0=0, x1=last, y0=0, y1=last)
            places = [
                Place(z, x, y) for x in self._numbers(folder) if x <= last for y, _ in self._rows(whole, x)
            ]
            if places:
                west, _, _, north = tile_box_e7(Place(z, min(p.x for p in places), min(p.y for p in places)))
                _, south, east, _ = tile_box_e7(Place(z, max(p.x for p in places), max(p.y for p in places)))
                return Extent(zoom=(zooms[0], z), box_e7=(west, south, east, north))
        return Extent(zoom=None, box_e7=None)

    def _scan(self, wanted: TileRange, files: _Files) -> None:
        """Append the files of a rectangle."""
        for x in self._numbers(f"{self._root}/{wanted.z}"):
            if wanted.x0 <= x <= wanted.x1:
                self._scan_column(wanted, x, files)
                files.end_column(wanted.z, x)

    def _scan_column(self, wanted: TileRange, x: int, files: _Files) -> None:
        """Append the files of one column; most of a warm run is spent here, and most of that in `stat`."""
        add_row, add_stamp = files.rows.append, files.stamps.extend
        for y, entry in self._rows(wanted, x):
            try:
                about = entry.stat(follow_symlinks=False)
            except OSError as error:
                raise _unreadable(self._path_of(wanted.z, x, y), error) from error
            if not S_ISREG(about.st_mode):
                about = self._led_to(entry, self._path_of(wanted.z, x, y))
            device, inode = about.st_dev, about.st_ino
            if device > _INT64 or inode > _INT64:
                device, inode = Fingerprint.of(about)[:2]
            add_row(y)
            add_stamp((device, inode, about.st_size, about.st_mtime_ns, about.st_ctime_ns))

    def _numbers(self, folder: str) -> list[int]:
        """Names in plain decimal of the folders inside a folder, in rising order; none when it is missing."""
        try:
            with os.scandir(folder) as entries:
                return sorted(int(e.name) for e in entries if _DECIMAL.fullmatch(e.name) and e.is_dir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _unreadable(folder, error) from error

    def _rows(self, wanted: TileRange, x: int) -> Iterator[tuple[int, "os.DirEntry[str]"]]:
        """The tile files of one column, each with its row; they can be asked of while they are yielded."""
        folder = f"{self._root}/{wanted.z}/{x}"
        if os.path.realpath(folder) != folder:
            self._require_inside(folder)
        row_of, first, last = self._row_of, wanted.y0, wanted.y1
        try:
            # Relative to an open folder, the system need not walk down to it again for each file.
            with _opened(folder) as descriptor, os.scandir(descriptor) as entries:
                for entry in entries:
                    y = row_of[entry.name]
                    if first <= y <= last:
                        yield y, entry
        except OSError as error:
            raise _unreadable(folder, error) from error

    def _led_to(self, entry: "os.DirEntry[str]", path: str) -> os.stat_result:
        """What `stat` says of the file that a link in the place of a tile leads to.

        Raises:
            TileError: It is no link to a file, or one that leads out of the folder.
            RequestError: It cannot be looked at.
        """
        try:
            if entry.is_symlink():
                self._require_inside(path)
            about = entry.stat()
        except OSError as error:
            raise _unreadable(path, error) from error
        if not S_ISREG(about.st_mode):
            raise bad_archive(path, "a regular file as a tile", "something else", "remove it")
        return about

    def _require_inside(self, path: str) -> None:
        real = os.path.realpath(path)
        if not real.startswith(self._root.rstrip("/") + "/"):
            raise bad_archive(
                path, "a link that stays in the tile folder", f"one to {real}", "copy the file there"
            )


@contextmanager
def _opened(folder: str) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _digest(path: str, fingerprint: Fingerprint) -> bytes:
    try:
        content = read_tile_file(path)
        unchanged = Fingerprint.of(Path(path).stat()) == fingerprint
    except OSError as error:
        raise _unreadable(path, error) from error
    if not unchanged or len(content) != fingerprint.size:
        raise TileError(
            f"tile {path}: expected it to stay the same while it is used, found it changed",
            hint="wait until nothing writes to the folder, then build again",
            kind=ErrorKind.SOURCE_CHANGED,
            subject=path,
        )
    return hashlib.sha256(content).digest()


def _unreadable(path: str, error: OSError) -> RequestError:
    return RequestError(
        f"{path}: expected readable tiles, found {error.strerror or error}",
        hint="check that it is there, and its permissions",
        kind=ErrorKind.SOURCE_UNREADABLE,
        subject=path,
    )
