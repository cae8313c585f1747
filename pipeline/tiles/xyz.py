"""Tiles as single files: `dir/{z}/{x}/{y}.ext`.

Only names in plain decimal count as tiles; anything else in the folder (thumbnails, listings) is passed over.
A symbolic link is followed as long as it stays inside the folder.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.errors import ErrorKind, RequestError, TileError
from pipeline.geometry import BoxE7
from pipeline.tiles.assembly import assemble, bad_archive
from pipeline.tiles.grid import TileRange, tile_box_e7, tile_ranges
from pipeline.tiles.memory import DigestMemory, Fingerprint
from pipeline.tiles.reading import read_tile_file
from pipeline.tiles.tile import Extent, Place, Tile, ZoomRange

FORMATS = {"jpg": "jpeg", "jpeg": "jpeg", "png": "png", "webp": "webp"}

_PATTERN = re.compile(r"(?P<root>.*?)/?\{z\}/\{x\}/\{y\}\.(?P<extension>[A-Za-z]+)")
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,8}")


class _Found(NamedTuple):
    """A tile file: its place, where it is, and what `stat` says of it."""

    place: Place
    path: str
    fingerprint: Fingerprint


class XYZFolder:
    """A folder of tiles. See the module for what counts as one.

    Args:
        pattern: "dir/{z}/{x}/{y}.ext".
        base: Folder that a relative pattern starts from.
        memory_folder: Where digests are remembered; None remembers nothing.
        now_ns: Wall clock, nanoseconds since 1970.

    Raises:
        RequestError: when the pattern has another form, or the folder is not there.
    """

    def __init__(
        self, pattern: str, *, base: Path, memory_folder: Path | None, now_ns: Callable[[], int]
    ) -> None:
        parts = _PATTERN.fullmatch(pattern)
        if parts is None or parts["extension"].lower() not in FORMATS:
            raise RequestError(
                f"tiles.source: expected DIR/{{z}}/{{x}}/{{y}}.EXT with jpg, png or webp, found {pattern!r}",
                "write the three in this order, each once",
                subject=pattern,
            )
        written = parts["root"] or ("/" if pattern.startswith("/") else ".")
        root = Path(os.path.realpath(base / written))
        if not root.is_dir():
            raise RequestError(
                f"tiles.source: expected a folder, found none at {base / written}",
                "check the path; it starts from the request's folder",
                ErrorKind.SOURCE_UNREADABLE,
                subject=str(root),
            )
        self.name = pattern
        self.tile_format = FORMATS[parts["extension"].lower()]
        self._root = str(root)
        self._suffix = "." + parts["extension"]
        self._memory_folder = memory_folder
        self._now_ns = now_ns

    def query_by_bbox(self, bbox_e7: BoxE7, zoom: ZoomRange) -> list[Tile]:
        """See `TileMetadataStore.query_by_bbox`."""
        memory = DigestMemory(
            self._memory_folder, subject=f"xyz:{self._root}:{self._suffix}", columns=5, now_ns=self._now_ns
        )
        found = [tile for part in tile_ranges(bbox_e7, zoom) for tile in self._scan(part)]
        keys = np.array([tile.fingerprint for tile in found], dtype=np.int64).reshape(len(found), 5)
        digests, known = memory.recall(keys)
        for row in np.flatnonzero(~known).tolist():
            digests[row] = np.frombuffer(_digest(found[row]), dtype=np.uint8)
        if not known.all():
            settled = keys[:, 3:].max(axis=1) < memory.racy_from_ns
            if (settled & ~known).any():
                memory.remember(keys[settled], digests[settled])
        return assemble(
            (tile.place.z for tile in found),
            (tile.place.x for tile in found),
            (tile.place.y for tile in found),
            digests=digests,
            sizes=(tile.fingerprint.size for tile in found),
            locators=(("file", tile.path) for tile in found),
        )

    def extent(self) -> Extent:
        """See `TileMetadataStore.extent`; bounds are those of the highest zoom."""
        zooms = self._numbers(self._root)
        for z in reversed(zooms):
            folder = f"{self._root}/{z}"
            last = (1 << z) - 1
            whole = TileRange(z=z, x0=0, x1=last, y0=0, y1=last)
            places = [
                Place(z, x, y) for x in self._numbers(folder) if x <= last for y in self._rows(whole, x)
            ]
            if places:
                west, _, _, north = tile_box_e7(Place(z, min(p.x for p in places), min(p.y for p in places)))
                _, south, east, _ = tile_box_e7(Place(z, max(p.x for p in places), max(p.y for p in places)))
                return Extent(zoom=(zooms[0], z), box_e7=(west, south, east, north))
        return Extent(zoom=None, box_e7=None)

    def _scan(self, wanted: TileRange) -> Iterator[_Found]:
        """The files of a rectangle, sorted by column and row."""
        folder = f"{self._root}/{wanted.z}"
        for x in self._numbers(folder):
            if wanted.x0 <= x <= wanted.x1:
                for y, entry in sorted(self._rows(wanted, x).items()):
                    place = Place(wanted.z, x, y)
                    status = self._status(entry, place)
                    yield _Found(place, entry.path, Fingerprint.of(status))

    def _numbers(self, folder: str) -> list[int]:
        """Names in plain decimal of the folders inside a folder, in rising order; none when it is missing."""
        try:
            with os.scandir(folder) as entries:
                return sorted(int(e.name) for e in entries if _DECIMAL.fullmatch(e.name) and e.is_dir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _unreadable(folder, error) from error

    def _rows(self, wanted: TileRange, x: int) -> dict[int, "os.DirEntry[str]"]:
        """The tile files of one column, by row."""
        folder = f"{self._root}/{wanted.z}/{x}"
        if os.path.realpath(folder) != folder:
            self._require_inside(folder)
        rows: dict[int, os.DirEntry[str]] = {}
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    stem = entry.name.removesuffix(self._suffix)
                    if (
                        stem != entry.name
                        and _DECIMAL.fullmatch(stem)
                        and wanted.y0 <= int(stem) <= wanted.y1
                    ):
                        rows[int(stem)] = entry
        except OSError as error:
            raise _unreadable(folder, error) from error
        return rows

    def _status(self, entry: "os.DirEntry[str]", place: Place) -> os.stat_result:
        try:
            if entry.is_symlink():
                self._require_inside(entry.path)
            if not entry.is_file():
                raise bad_archive(
                    entry.path, f"a regular file for tile {place}", "something else", "remove it"
                )
            return entry.stat()
        except OSError as error:
            raise _unreadable(entry.path, error) from error

    def _require_inside(self, path: str) -> None:
        real = os.path.realpath(path)
        if not real.startswith(self._root.rstrip("/") + "/"):
            raise bad_archive(
                path, "a link that stays in the tile folder", f"one to {real}", "copy the file there"
            )


def _digest(tile: _Found) -> bytes:
    try:
        content = read_tile_file(tile.path)
        unchanged = Fingerprint.of(Path(tile.path).stat()) == tile.fingerprint
    except OSError as error:
        raise _unreadable(tile.path, error) from error
    if not unchanged or len(content) != tile.fingerprint.size:
        raise TileError(
            f"tile {tile.place}: expected {tile.path} to stay the same while it is used, found it changed",
            "wait until nothing writes to the folder, then build again",
            ErrorKind.SOURCE_CHANGED,
            subject=str(tile.place),
        )
    return hashlib.sha256(content).digest()


def _unreadable(path: str, error: OSError) -> RequestError:
    return RequestError(
        f"{path}: expected readable tiles, found {error.strerror or error}",
        "check that it is there, and its permissions",
        ErrorKind.SOURCE_UNREADABLE,
        subject=path,
    )
