"""Tiles as single files in a folder, named by a pattern such as `dir/{z}/{x}/{y}.png`.

Only names with plain decimals are tiles; anything else in the folder (thumbnails, listings) is ignored.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.errors import ErrorKind, RequestError
from pipeline.progress import HASHING, NoProgress, Progress, reported
from pipeline.request.geometry import BoxE7
from pipeline.tiles.digest_cache import DigestCache, Fingerprint, shows_changes
from pipeline.tiles.grid import TileRange, range_box_e7, tile_ranges
from pipeline.tiles.sources.archive import bad_archive, unsupported_archive
from pipeline.tiles.sources.folder_metadata import FolderMetadata, other_names, read_metadata
from pipeline.tiles.sources.folder_scan import FolderScan, unreadable
from pipeline.tiles.sources.layout import parse_layout
from pipeline.tiles.sources.read_tile import read_tile_file, source_changed
from pipeline.tiles.sources.registry import kind_of
from pipeline.tiles.sources.row_order import bounds_warnings, misplaced_tiles, rows_are_mirrored
from pipeline.tiles.tile import Extent, Locator, Place, ZoomRange
from pipeline.tiles.tile_columns import TileColumns

_MAX_ZOOM = 25


class XYZFolder:
    """A folder of tiles. See `open_source` in the registry for the arguments."""

    progress: Progress = NoProgress()

    def __init__(
        self, pattern: str, *, base: Path, digest_cache_folder: Path | None, now_ns: Callable[[], int]
    ) -> None:
        layout = parse_layout(pattern)
        root = os.path.realpath(base / layout.root)
        try:
            os.scandir(root).close()
        except OSError as error:
            raise RequestError(
                f"tiles.source: expected a readable folder at {base / layout.root}, found {error.strerror or error}",
                hint=f'it is a file: write tiles.source = "{layout.root}"'
                if isinstance(error, NotADirectoryError) and kind_of(layout.root) is not None
                else "check the path, which starts from the request's folder, and its permissions",
                kind=ErrorKind.SOURCE_UNREADABLE,
                subject=root,
            ) from error
        self.name = pattern
        self._root, self._layout = root, layout
        self._scan = FolderScan(root, layout)
        self._digest_cache_folder = digest_cache_folder
        self._now_ns = now_ns

    def query_by_bbox(self, bbox_e7: BoxE7, zoom: ZoomRange) -> TileColumns:
        """See `TileMetadataStore.query_by_bbox`."""
        cache = DigestCache(
            self._digest_cache_folder, subject=f"xyz:{self._root}:{self.name}", now_ns=self._now_ns
        )
        said, wanted = read_metadata(self._root), tile_ranges(bbox_e7, zoom)
        if said.grid:
            raise unsupported_archive(
                self._root,
                "tiles of the Web Mercator grid",
                f"the profile {said.grid} in its {said.file}",
                "cut them again: gdal2tiles --profile mercator",
            )
        from_south = self._rows_from_south(said, wanted)
        files = self._scan.find(wanted, from_south=from_south)
        places, keys, endings = files.places, files.keys, np.array(files.endings, np.int32)
        # A folder lists its files in no order.
        order = np.lexsort(places.T[::-1])
        places, keys, endings = places[order], keys[order], endings[order]
        chosen = self._written(endings)
        warnings = self._other_endings(places, endings, chosen)
        places, keys, endings = places[chosen], keys[chosen], endings[chosen]

        def path_of(row: int) -> str:
            z, x, y = places[row].tolist()
            return self._scan.path_of((z, x, (1 << z) - 1 - y if from_south else y), int(endings[row]))

        _require_one_each(places, path_of)
        if len(places):
            warnings += bounds_warnings(f"{said.file} of {self.name}", said.box_e7, places)
        else:
            mend = "{y} in place of {-y}" if self._layout.from_south else "{-y} in place of {y}"
            warnings = misplaced_tiles(
                wanted, partial(self._holds_any, from_south=from_south), said.box_e7, folder=mend
            )
            warnings = warnings or other_names(self._root, self._layout.suffixes)
        digests = self._digests(cache, keys, path_of)

        def locator_of(row: int) -> Locator:
            return "file", path_of(row)

        return TileColumns.from_columns(
            places, digests=digests, sizes=keys[:, 2], locator_of=locator_of, warnings=warnings
        )

    def _digests(
        self, cache: DigestCache, keys: npt.NDArray[np.int64], path_of: Callable[[int], str]
    ) -> npt.NDArray[np.uint8]:
        """Return the digests of some files, uint8 [n, 32]: from the cache, or of their content."""
        reliable = shows_changes(keys, path_of)
        digests, known = cache.lookup(keys)
        known &= reliable
        unknown = np.flatnonzero(~known).tolist()
        for row in reported(unknown, self.progress, HASHING, total=len(unknown), unit="tiles"):
            digest = _hash_file(path_of(row), Fingerprint(*keys[row].tolist()))
            digests[row] = np.frombuffer(digest, dtype=np.uint8)
        if not known.all():
            settled = reliable & (keys[:, 3:].max(axis=1) < cache.racy_from_ns)
            if (settled & ~known).any():
                cache.store(keys[settled], digests[settled])
        return digests

    def _rows_from_south(self, said: FolderMetadata, wanted: Sequence[TileRange]) -> bool:
        """Whether the rows of the wanted tiles are counted from the south: written, shown by bounds, or said.

        Raises:
            TileError: They are said to be, and nothing shows it; or they are written so, and bounds show the
                opposite.
        """
        written = self._layout.from_south
        for z in sorted({part.z for part in wanted}, reverse=True) if said.box_e7 else ():
            parts = [part for part in wanted if part.z == z]
            if rows_are_mirrored(said.box_e7, parts, partial(self._holds_any, from_south=False)):
                return True
            if not rows_are_mirrored(said.box_e7, parts, partial(self._holds_any, from_south=True)):
                continue
            if written:
                raise bad_archive(
                    self._root,
                    f"tiles inside the bounds of its {said.file}",
                    "them where these are mirrored at the equator: its rows are counted from the north (XYZ)",
                    "write {y} in place of {-y} in tiles.source",
                )
            return False
        if said.from_south and not said.is_sure and not written:
            raise bad_archive(
                self._root,
                "rows that are counted from the north (XYZ)",
                f'"scheme": "tms" in its {said.file}',
                f"write {{-y}} in place of {{y}} in tiles.source; if they are, correct {said.file}",
            )
        return written or said.from_south

    def _holds_any(self, ranges: Sequence[TileRange], *, from_south: bool) -> bool:
        found = self._scan.find(ranges, from_south=from_south, stamped=False)
        return bool(self._written(np.array(found.endings, np.int32)).any())

    def _written(self, endings: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
        """Return which of some endings are among those that the pattern writes, bool [n]; all if it writes none."""
        suffixes = self._layout.suffixes
        good = [number for number, each in enumerate(self._scan.endings) if not suffixes or each in suffixes]
        return np.isin(endings, good)

    def _other_endings(
        self,
        places: npt.NDArray[np.int32],
        endings: npt.NDArray[np.int32],
        chosen: npt.NDArray[np.bool_],
    ) -> tuple[str, ...]:
        """Return a sentence if there are tiles only with other endings than those that the pattern writes."""
        if chosen.all() or not chosen.any():
            return ()
        z, x, y = places.T.astype(np.int64)
        key = z << 50 | x << 25 | y
        lost = ~chosen & ~np.isin(key, key[chosen])
        if not lost.any():
            return ()
        named = " and ".join(
            sorted(self._scan.endings[number] or "nothing" for number in set(endings[lost].tolist()))
        )
        message = (
            f"{int(lost.sum())} more tiles of the area in {self._root} end in {named}: write"
            " .* in place of the ending in tiles.source to take them"
        )
        return (message,)

    def extent(self) -> Extent:
        """See `TileMetadataStore.extent`; bounds are those of the highest zoom."""
        from_south = self._layout.from_south or read_metadata(self._root).from_south
        low = high = None
        for z in range(_MAX_ZOOM + 1):
            last = (1 << z) - 1
            whole = TileRange(z=z, x0=0, x1=last, y0=0, y1=last)
            files = self._scan.find([whole], from_south=from_south, stamped=False)
            places = files.places[self._written(np.array(files.endings, np.int32))]
            if len(places):
                low = z if low is None else low
                high = places
        if low is None or high is None:
            return Extent(zoom=None, box_e7=None)
        (x0, y0), (x1, y1) = high[:, 1:].min(axis=0).tolist(), high[:, 1:].max(axis=0).tolist()
        z = int(high[0, 0])
        return Extent(zoom=(low, z), box_e7=range_box_e7(TileRange(z=z, x0=x0, x1=x1, y0=y0, y1=y1)))


def _require_one_each(places: npt.NDArray[np.int32], path_of: Callable[[int], str]) -> None:
    """Raise `TileError` if a place, in sorted order, has several files."""
    for row in np.flatnonzero((places[1:] == places[:-1]).all(axis=1))[:1].tolist():
        names = " and ".join(sorted(Path(path_of(each)).name for each in (row, row + 1)))
        raise bad_archive(
            path_of(row),
            f"one file for tile {Place(*places[row].tolist())}",
            names,
            "write the ending that is wanted in tiles.source, such as {z}/{x}/{y}.png",
        )


def _hash_file(path: str, fingerprint: Fingerprint) -> bytes:
    try:
        content = read_tile_file(path)
        unchanged = Fingerprint.of(Path(path).stat()) == fingerprint
    except OSError as error:
        raise unreadable(path, error) from error
    if not unchanged or len(content) != fingerprint.size:
        message = f"tile {path}: expected it to stay the same while it is used, found it changed"
        raise source_changed(path, message)
    return hashlib.sha256(content).digest()
