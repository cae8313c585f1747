"""Tiles in a PMTiles archive, version 3: one file with a header, directories and tile data.

Only the directories that the area needs are decoded, each once. Every offset and length is checked against
the file before it is used.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pmtiles.tile import Compression, HeaderDict, TileType, deserialize_header

from pipeline.errors import ErrorKind, TileError
from pipeline.request.geometry import E7, BoxE7
from pipeline.tiles.digest_cache import Fingerprint
from pipeline.tiles.grid import TileRange
from pipeline.tiles.images.image_header import sniff
from pipeline.tiles.sources.archive import (
    TileArchive,
    bad_archive,
    foreign_file,
    unreadable_archive,
    unsupported_archive,
)
from pipeline.tiles.sources.archive_cache import TileListing
from pipeline.tiles.sources.archives.hashing import TASK_TILES, Answer, HashTask, hash_tiles, joined
from pipeline.tiles.sources.archives.pmtiles_directory import (
    END_OF_IDS,
    Directory,
    DirectoryError,
    parse,
    unpack,
)
from pipeline.tiles.sources.archives.pmtiles_ids import covering_intervals, first_id, tile_places
from pipeline.tiles.sources.read_tile import MAX_TILE_BYTES
from pipeline.tiles.sources.row_order import box_of_degrees
from pipeline.tiles.tile import Extent, Locator
from pipeline.tiles.tile_columns import Numbers
from store.base.identity import X_SHIFT, ZOOM_SHIFT
from store.base.valueclass import valueclass
from store.files.regular_file import open_regular, read_at

HEADER_BYTES = 127
MAX_DEPTH = 4
MAX_FOUND = 40_000_000
MAX_PACKED_DIRECTORY_BYTES = 16 << 20
_SNIFFED = 64
_READ_SHIFT = 20
"""Tiles that begin in the same MiB are read together."""

_MAGIC = b"PMTiles"
_OLD_MAGIC = b"PM"
"""Of versions 1 and 2, which follows as 16 bits."""
_EXPORT_AGAIN = (
    "export the area again as PMTiles version 3 with directories in gzip, or as MBTiles; from MBTiles:"
    " pmtiles convert X.mbtiles X.pmtiles"
)
_MERGED_TILES = "export it with another program: the one that wrote it merged different tiles of equal length"
_RASTER_TYPES = frozenset({TileType.JPEG, TileType.PNG, TileType.WEBP})


@valueclass(frozen=True, slots=True, kw_only=True)
class _StoredTiles:
    """Tiles of the archive as int64 columns: PMTiles id, absolute offset, length."""

    ids: Numbers
    offsets: Numbers
    lengths: Numbers


class PMTilesArchive(TileArchive):
    """A raster PMTiles file."""

    kind = "pmtiles"

    def __init__(
        self, spec: str, *, base: Path, digest_cache_folder: Path | None, now_ns: Callable[[], int]
    ) -> None:
        super().__init__(spec, base=base, digest_cache_folder=digest_cache_folder, now_ns=now_ns)
        self._directories: dict[int, Directory] = {}
        with self._open() as file:
            self._fingerprint = Fingerprint.of(os.fstat(file))
            self._header = self._read_header(file)
            self._root = self._header["root_offset"], self._header["root_length"]
            if not len(self._directory(file, *self._root).ids):
                raise bad_archive(self._path, "at least one tile", "none", "export the archive again")
            self._require_raster_tiles(file)

    def extent(self) -> Extent:
        """See `TileMetadataStore.extent`; the header has it."""
        header = self._header
        box = (header["min_lon_e7"], header["min_lat_e7"], header["max_lon_e7"], header["max_lat_e7"])
        return Extent(zoom=(header["min_zoom"], header["max_zoom"]), box_e7=box)

    @contextmanager
    def _open(self) -> Iterator[int]:
        try:
            file = open_regular(self._path, follow_symlinks=True)
            try:
                yield file
            finally:
                os.close(file)
        except OSError as error:
            raise unreadable_archive(self._path, "PMTiles", error) from error

    def _read_header(self, file: int) -> HeaderDict:
        path, size = self._path, self._fingerprint.size
        start = read_at(file, 0, HEADER_BYTES)
        old = start[:2] == _OLD_MAGIC and start[2:4] in {b"\1\0", b"\2\0"}
        if not (old or start.startswith(_MAGIC)):
            raise foreign_file(path, "a PMTiles archive", start)
        if len(start) < HEADER_BYTES:
            raise bad_archive(path, f"a header of {HEADER_BYTES:,} bytes", f"{len(start)}")
        version = start[2] if old else start[7]
        if version != 3:
            raise unsupported_archive(path, "PMTiles version 3", f"version {version}", _EXPORT_AGAIN)
        try:
            header = deserialize_header(start)
        except ValueError as error:
            raise bad_archive(path, "known compression and tile types", str(error)) from None
        if header["internal_compression"] not in {Compression.NONE, Compression.GZIP}:
            found = header["internal_compression"].name.lower()
            raise unsupported_archive(path, "directories in gzip or unpacked", found, _EXPORT_AGAIN)
        contents, entries = header["tile_contents_count"], header["tile_entries_count"]
        if 0 < entries < contents:
            raise bad_archive(
                path,
                f"at most {entries} contents for {entries} entries",
                f"{contents}, so that places share a picture that is not theirs",
                _MERGED_TILES,
            )
        for section in ("root", "leaf_directory", "tile_data"):
            end = header[f"{section}_offset"] + header[f"{section}_length"]
            if end > size:
                raise bad_archive(path, f"at least {end} bytes (end of {section})", f"{size}")
        return header

    def _require_raster_tiles(self, file: int) -> None:
        header = self._header
        hint = "export the area as raster tiles, such as satellite imagery"
        expected = "raster tiles in jpg, png or webp, not compressed again"
        if header["tile_compression"] not in {Compression.NONE, Compression.UNKNOWN}:
            found = f"tiles in {header['tile_compression'].name.lower()}"
            raise unsupported_archive(
                self._path, expected, found, "export it without compressing the tiles again"
            )
        is_raster = header["tile_type"] in _RASTER_TYPES
        if header["tile_type"] is TileType.UNKNOWN:
            is_raster = any(sniff(start) for start in self._first_tiles(file))
        if not is_raster:
            vector = header["tile_type"] in {TileType.MVT, TileType.MLT}
            found = f"{'vector ' if vector else ''}tiles of type {header['tile_type'].name.lower()}"
            raise unsupported_archive(self._path, expected, found, hint)

    def _first_tiles(self, file: int) -> Iterator[bytes]:
        """Yield the first bytes of some tiles of the first directory that has any."""
        header, directory = self._header, self._directory(file, *self._root)
        for _ in range(MAX_DEPTH):
            if directory.runs[:1].any() or not len(directory.ids):
                break
            at = header["leaf_directory_offset"] + int(directory.offsets[0])
            directory = self._directory(file, at, int(directory.lengths[0]))
        every = len(directory.ids) // _SNIFFED + 1
        for offset, length in zip(directory.offsets[::every], directory.lengths[::every], strict=True):
            yield read_at(file, header["tile_data_offset"] + int(offset), min(16, int(length)))

    def _directory(self, file: int, offset: int, length: int) -> Directory:
        if offset not in self._directories:
            name = f"a directory at offset {offset}"
            if length > MAX_PACKED_DIRECTORY_BYTES:
                limit = MAX_PACKED_DIRECTORY_BYTES
                raise bad_archive(self._path, f"{name} of at most {limit:,} bytes", f"{length:,}")
            packed = read_at(file, offset, length)
            try:
                gzipped = self._header["internal_compression"] is Compression.GZIP
                self._directories[offset] = parse(unpack(packed, gzipped=gzipped))
            except DirectoryError as error:
                raise bad_archive(self._path, name, str(error)) from None
        return self._directories[offset]

    def _locator(self, listing: TileListing, row: int) -> Locator:
        _, length, offset = listing.keys[row].tolist()
        return self.kind, str(self._path), offset, length

    def _list_tiles(self, ranges: Sequence[TileRange]) -> TileListing:
        """See `TileArchive._list_tiles`; a content that tiles share is hashed once."""
        with self._open() as file:
            stored = self._find_tiles(file, ranges)
            ids, rows = _select_in_ranges(stored.ids, ranges)
            offsets, lengths = stored.offsets[rows], stored.lengths[rows]
            order = np.lexsort((lengths, offsets))
            first = np.diff(offsets[order], prepend=-1) != 0
            first[1:] |= np.diff(lengths[order]) != 0
            contents = np.split(order[first], range(TASK_TILES, int(first.sum()), TASK_TILES))
            tasks = [
                HashTask(
                    function=hash_ranges,
                    arguments=(str(self._path), offsets[part], lengths[part]),
                    tiles=len(part),
                )
                for part in contents
                if len(part)
            ]
            _, hashed = joined(hash_tiles(tasks, self.progress), columns=1)
        digests = np.empty((len(ids), 32), np.uint8)
        digests[order] = hashed[np.cumsum(first) - 1]
        return TileListing(keys=np.stack([ids, lengths, offsets], axis=1), digests=digests)

    def _announced_box(self) -> BoxE7 | None:
        header = self._header
        return box_of_degrees(
            *(header[name] / E7 for name in ("min_lon_e7", "min_lat_e7", "max_lon_e7", "max_lat_e7"))
        )

    def _holds_any(self, ranges: Sequence[TileRange]) -> bool:
        with self._open() as file:
            return bool(len(_select_in_ranges(self._find_tiles(file, ranges).ids, ranges)[0]))

    def _find_tiles(self, file: int, ranges: Sequence[TileRange]) -> _StoredTiles:
        """Find the tiles in squares that cover some rectangles."""
        starts, ends = covering_intervals(ranges)
        found: list[_StoredTiles] = []
        header = self._header
        # Of each directory: offset, length, first id and end of its ids, depth.
        waiting = [(header["root_offset"], header["root_length"], 0, END_OF_IDS, 1)]
        while waiting:
            offset, length, low, high, depth = waiting.pop()
            directory = self._directory(file, offset, length)
            self._require_within(directory, low, high)
            self._require_equal_runs(file, directory)
            leaf = directory.runs == 0
            last = np.concatenate([directory.ids[1:], [high]])
            found.append(self._tiles_in_intervals(directory, ~leaf, starts, ends))
            needed = np.searchsorted(ends, directory.ids, "right") < np.searchsorted(starts, last, "left")
            for row in np.flatnonzero(leaf & needed).tolist():
                if depth == MAX_DEPTH:
                    raise bad_archive(self._path, f"at most {MAX_DEPTH} levels of directories", "more")
                at, size = int(directory.offsets[row]), int(directory.lengths[row])
                if at + size > header["leaf_directory_length"]:
                    raise bad_archive(self._path, "directories inside their section", f"one at {at}+{size}")
                at += header["leaf_directory_offset"]
                waiting.append((at, size, int(directory.ids[row]), int(last[row]), depth + 1))
        return _StoredTiles(
            ids=np.concatenate([part.ids for part in found]),
            offsets=np.concatenate([part.offsets for part in found]),
            lengths=np.concatenate([part.lengths for part in found]),
        )

    def _require_within(self, directory: Directory, low: int, high: int) -> None:
        """Require that a leaf has only ids of its parent's entry, or tiles could occur twice."""
        if not len(directory.ids):
            return
        first, last = int(directory.ids[0]), int(directory.ids[-1] + np.maximum(directory.runs[-1], 1))
        if first < low or last > high:
            raise bad_archive(
                self._path, f"a directory for ids {low} to {high}", f"one for {first} to {last}"
            )

    def _require_equal_runs(self, file: int, directory: Directory) -> None:
        """Require that no run stands for different tiles of equal length, one after the other in the data.

        Such a run leaves a gap of just their length before the next content.
        """
        tiles = directory.runs > 0
        offsets, lengths, runs = directory.offsets[tiles], directory.lengths[tiles], directory.runs[tiles]
        limit = self._header["tile_data_length"]
        starts = np.append(np.unique(offsets), limit)
        repeated = np.flatnonzero((runs > 1) & (lengths <= limit // np.maximum(runs, 1)))
        ends = offsets[repeated] + lengths[repeated] * runs[repeated]
        following = np.searchsorted(starts, offsets[repeated], "right")
        merged = repeated[
            (following < len(starts)) & (starts[np.minimum(following, len(starts) - 1)] == ends)
        ]
        for offset, length in zip(offsets[merged].tolist(), lengths[merged].tolist(), strict=True):
            at = self._header["tile_data_offset"] + offset
            if read_at(file, at, min(length, MAX_TILE_BYTES)) != read_at(
                file, at + length, min(length, MAX_TILE_BYTES)
            ):
                raise bad_archive(
                    self._path,
                    "a picture of its own at every place",
                    f"a run of places over different tiles at {offset}+{length}",
                    _MERGED_TILES,
                )

    def _tiles_in_intervals(
        self, directory: Directory, tiles: npt.NDArray[np.bool_], starts: Numbers, ends: Numbers
    ) -> _StoredTiles:
        """Return the single tiles of the entries that are in some intervals of ids."""
        first, past = directory.ids[tiles], directory.ids[tiles] + directory.runs[tiles]
        low, high = np.searchsorted(ends, first, "right"), np.searchsorted(starts, past, "left")
        entry = np.repeat(np.arange(len(first)), np.maximum(high - low, 0))
        interval = _count_up(low[entry], entry)
        start, end = np.maximum(first[entry], starts[interval]), np.minimum(past[entry], ends[interval])
        # One entry may stand for any number of tiles: count them before allocating memory.
        if float((end - start).sum(dtype=np.float64)) > MAX_FOUND:
            raise TileError(
                f"{self._path}: expected at most {MAX_FOUND} tiles in the area, found more",
                hint="shrink the box or lower the highest zoom",
                kind=ErrorKind.TOO_MANY_TILES,
                subject=str(self._path),
            )
        single = np.repeat(np.arange(len(start)), end - start)
        offsets, lengths = directory.offsets[tiles][entry][single], directory.lengths[tiles][entry][single]
        limit = self._header["tile_data_length"]
        if len(offsets) and (int((offsets + lengths).max()) > limit or int(lengths.max()) > MAX_TILE_BYTES):
            raise bad_archive(
                self._path, f"tiles inside {limit:,} bytes of data", "an entry that points outside"
            )
        return _StoredTiles(
            ids=_count_up(start[single], single),
            offsets=offsets + self._header["tile_data_offset"],
            lengths=lengths,
        )


def hash_ranges(path: str, offsets: Numbers, lengths: Numbers) -> Answer:
    """Hash ranges of a file, which begin at rising offsets, int64 [n]; return their lengths, int64 [n, 1], and digests.

    A range that reaches beyond the end of the file, which became shorter meanwhile, is hashed as far as it goes.

    Raises:
        OSError: It cannot be read.
    """
    digests = bytearray()
    heads = np.flatnonzero(np.diff(offsets >> _READ_SHIFT, prepend=-1)).tolist()
    file = open_regular(path, follow_symlinks=True)
    try:
        for first, past in zip(heads, [*heads[1:], len(offsets)], strict=True):
            start = int(offsets[first])
            starts = (offsets[first:past] - start).tolist()
            ends = (offsets[first:past] - start + lengths[first:past]).tolist()
            content = memoryview(read_at(file, start, max(ends)))
            for one, end in zip(starts, ends, strict=True):
                digests += hashlib.sha256(content[one:end]).digest()
    finally:
        os.close(file)
    return lengths[:, None], np.frombuffer(digests, np.uint8).reshape(-1, 32)


def _count_up(starts: Numbers, groups: Numbers) -> Numbers:
    """Return each group's start plus 0, 1, 2, … along the group.

    Args:
        starts: The group's start in each row.
        groups: The group of each row, sorted.
    """
    if not len(groups):
        return starts
    rows = np.arange(len(groups))
    heads = np.maximum.accumulate(np.where(np.concatenate([[True], groups[1:] != groups[:-1]]), rows, 0))
    return starts + rows - heads


def _select_in_ranges(ids: Numbers, ranges: Sequence[TileRange]) -> tuple[Numbers, Numbers]:
    """Return descriptor ids, rising, and rows of the PMTiles ids that are in some rectangles."""
    none = np.zeros(0, np.int64)
    parts: list[tuple[Numbers, Numbers]] = [(none, none)]
    for part in ranges:
        rows = np.flatnonzero((ids >= first_id(part.z)) & (ids < first_id(part.z + 1)))
        x, y = tile_places(part.z, ids[rows])
        inside = (x >= part.x0) & (x <= part.x1) & (y >= part.y0) & (y <= part.y1)
        found = (part.z << ZOOM_SHIFT) | (x[inside] << X_SHIFT) | y[inside]
        parts.append((found, rows[inside]))
    found, rows = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(found, kind="stable")
    return found[order], rows[order]
