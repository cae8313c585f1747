"""Tiles as single files: `dir/{z}/{x}/{y}.ext`.

Only names in plain decimal count as tiles; anything else in the folder (thumbnails, listings) is passed over.
A symbolic link is followed as long as it stays inside the folder.
"""

import hashlib
import os
import re
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

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


@dataclass(frozen=True, slots=True)
class _Files:
    """Tile files as columns of equal length: a hundred thousand small objects would keep the garbage collector busy.

    Attributes:
        z: Zooms.
        x: Columns.
        y: Rows.
        paths: Where they are.
        stamps: Five numbers for each, its fingerprint.
    """

    z: list[int] = field(default_factory=list)
    x: list[int] = field(default_factory=list)
    y: list[int] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    stamps: "array[int]" = field(default_factory=lambda: array("q"))


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
        root = os.path.realpath(base / written)
        try:
            os.scandir(root).close()
        except OSError as error:
            raise RequestError(
                f"tiles.source: expected a readable folder at {base / written}, found {error.strerror or error}",
                "check the path, which starts from the request's folder, and its permissions",
                ErrorKind.SOURCE_UNREADABLE,
                subject=root,
            ) from error
        self.name = pattern
        self.tile_format = FORMATS[parts["extension"].lower()]
        self._root = root
        self._suffix = "." + parts["extension"]
        self._memory_folder = memory_folder
        self._now_ns = now_ns

    def query_by_bbox(self, bbox_e7: BoxE7, zoom: ZoomRange) -> list[Tile]:
        """See `TileMetadataStore.query_by_bbox`."""
        memory = DigestMemory(
            self._memory_folder, subject=f"xyz:{self._root}:{self._suffix}", columns=5, now_ns=self._now_ns
        )
        files = _Files()
        for part in tile_ranges(bbox_e7, zoom):
            self._scan(part, files)
        keys = np.array(files.stamps, dtype=np.int64).reshape(len(files.paths), 5)
        digests, known = memory.recall(keys)
        for row in np.flatnonzero(~known).tolist():
            digest = _digest(files.paths[row], Fingerprint(*keys[row].tolist()))
            digests[row] = np.frombuffer(digest, dtype=np.uint8)
        if not known.all():
            settled = keys[:, 3:].max(axis=1) < memory.racy_from_ns
            if (settled & ~known).any():
                memory.remember(keys[settled], digests[settled])
        return assemble(
            files.z,
            files.x,
            files.y,
            digests=digests,
            sizes=keys[:, 2].tolist(),
            locators=(("file", path) for path in files.paths),
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

    def _scan(self, wanted: TileRange, files: _Files) -> None:
        """Append the files of a rectangle, sorted by column and row."""
        for x in self._numbers(f"{self._root}/{wanted.z}"):
            if wanted.x0 <= x <= wanted.x1:
                rows = self._rows(wanted, x)
                for y in sorted(rows):
                    entry = rows[y]
                    files.stamps.extend(self._fingerprint(entry))
                    files.z.append(wanted.z)
                    files.x.append(x)
                    files.y.append(y)
                    files.paths.append(entry.path)

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

    def _fingerprint(self, entry: "os.DirEntry[str]") -> Fingerprint:
        try:
            if entry.is_symlink():
                self._require_inside(entry.path)
            if not entry.is_file():
                raise bad_archive(entry.path, "a regular file as a tile", "something else", "remove it")
            return Fingerprint.of(entry.stat())
        except OSError as error:
            raise _unreadable(entry.path, error) from error

    def _require_inside(self, path: str) -> None:
        real = os.path.realpath(path)
        if not real.startswith(self._root.rstrip("/") + "/"):
            raise bad_archive(
                path, "a link that stays in the tile folder", f"one to {real}", "copy the file there"
            )


def _digest(path: str, fingerprint: Fingerprint) -> bytes:
    try:
        content = read_tile_file(path)
        unchanged = Fingerprint.of(Path(path).stat()) == fingerprint
    except OSError as error:
        raise _unreadable(path, error) from error
    if not unchanged or len(content) != fingerprint.size:
        raise TileError(
            f"tile {path}: expected it to stay the same while it is used, found it changed",
            "wait until nothing writes to the folder, then build again",
            ErrorKind.SOURCE_CHANGED,
            subject=path,
        )
    return hashlib.sha256(content).digest()


def _unreadable(path: str, error: OSError) -> RequestError:
    return RequestError(
        f"{path}: expected readable tiles, found {error.strerror or error}",
        "check that it is there, and its permissions",
        ErrorKind.SOURCE_UNREADABLE,
        subject=path,
    )
