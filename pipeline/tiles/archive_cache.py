"""Keep the list of an archive's tiles, so that an up-to-date build neither reads nor hashes it. Disposable.

Kept are the rectangles of tiles that were listed, and of each tile in them its descriptor id, the length of
its image, the number by which the archive finds it, and its digest. They are valid while `stat` says the same
of the archive, with the precaution against racy writes that `pipeline.tiles.digest_cache` explains.
"""

from collections.abc import Callable, Sequence
from dataclasses import astuple
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.tiles.digest_cache import RACY_NS, CacheContent, CacheFile, Fingerprint, Keys
from pipeline.tiles.grid import TileRange
from pipeline.tiles.tile_columns import Digests, Numbers
from store.base.identity import X_SHIFT, ZOOM_SHIFT
from store.base.valueclass import valueclass

MAX_ROWS = 20_000_000
MAX_RECTANGLES = 256

_FINGERPRINT = 5
_RECTANGLE = 5
"""Integers of each in the scope of a cache file."""
_AXIS_MASK = (1 << X_SHIFT) - 1


@valueclass(frozen=True, slots=True, kw_only=True)
class TileListing:
    """Tiles that an archive holds, in rising order of (z, x, y).

    Attributes:
        keys: Descriptor id, length of the encoded image in bytes, and the number by which the archive finds
            the tile, int64 [n, 3].
        digests: SHA-256 of the encoded images, uint8 [n, 32].
    """

    keys: Keys
    digests: Digests

    @property
    def ids(self) -> Numbers:
        """Descriptor ids, int64 [n]."""
        return self.keys[:, 0]

    @property
    def places(self) -> npt.NDArray[np.int32]:
        """Zoom, column and row, int32 [n, 3]."""
        places = np.empty((len(self.keys), 3), np.int32)
        places[:, 0] = self.ids >> ZOOM_SHIFT
        places[:, 1] = self.ids >> X_SHIFT & _AXIS_MASK
        places[:, 2] = self.ids & _AXIS_MASK
        return places

    def take(self, chosen: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> "TileListing":
        """Return some of the tiles."""
        return TileListing(keys=self.keys[chosen], digests=self.digests[chosen])


class ArchiveCache:
    """The cached tile list of one archive.

    Args:
        folder: Holds the cache files; None caches nothing.
        subject: Kind and absolute path of the archive; the file's name is made from it.
        fingerprint: What `stat` says of the archive now.
        now_ns: Wall clock in nanoseconds since 1970, the one that stamps files.
    """

    def __init__(
        self, folder: Path | None, *, subject: str, fingerprint: Fingerprint, now_ns: Callable[[], int]
    ) -> None:
        self._file = CacheFile(folder, subject=f"archive:{subject}", columns=3)
        self._fingerprint = fingerprint
        self._settled = max(fingerprint.mtime_ns, fingerprint.ctime_ns) < now_ns() - RACY_NS
        content = self._file.load()
        if (
            content is None
            or content.scope[:_FINGERPRINT] != tuple(fingerprint)
            or len(content.scope[_FINGERPRINT:]) % _RECTANGLE
        ):
            self._rectangles: tuple[TileRange, ...] = ()
            self._known = TileListing(keys=np.zeros((0, 3), np.int64), digests=np.zeros((0, 32), np.uint8))
        else:
            self._rectangles = _rectangles(content.scope[_FINGERPRINT:])
            self._known = TileListing(keys=content.keys, digests=content.digests)

    def lookup(self, ranges: Sequence[TileRange]) -> TileListing | None:
        """Return all tiles of some rectangles, or None if the cache does not hold every rectangle."""
        if not all(any(_contains(known, part) for known in self._rectangles) for part in ranges):
            return None
        if set(ranges) == set(self._rectangles):
            return self._known
        z, x, y = self._known.places.T
        chosen = np.zeros(len(z), np.bool_)
        for part in ranges:
            chosen |= (z == part.z) & (x >= part.x0) & (x <= part.x1) & (y >= part.y0) & (y <= part.y1)
        return self._known.take(chosen)

    def digests(self, ids: Numbers) -> tuple[Digests, npt.NDArray[np.bool_]]:
        """Return digests of single tiles, uint8 [n, 32] (zeros where unknown); bool [n], which are known."""
        digests, known = np.zeros((len(ids), 32), np.uint8), np.zeros(len(ids), np.bool_)
        if len(self._known.keys):
            at = np.minimum(np.searchsorted(self._known.ids, ids), len(self._known.keys) - 1)
            known = self._known.ids[at] == ids
            digests[known] = self._known.digests[at[known]]
        return digests, known

    def listed(self, ids: Numbers) -> TileListing:
        """Return those of some tiles that are known."""
        return self._known.take(np.isin(self._known.ids, ids))

    def store(self, ranges: Sequence[TileRange], found: TileListing) -> None:
        """Add all tiles of some rectangles to the cache, unless the archive was just written."""
        if not self._settled or len(found.keys) > MAX_ROWS:
            return
        rectangles = [each for each in self._rectangles if not any(_contains(part, each) for part in ranges)]
        if (
            len(rectangles) + len(ranges) > MAX_RECTANGLES
            or len(found.keys) + len(self._known.keys) > MAX_ROWS
        ):
            rectangles, known = [], found
        else:
            known = _union(found, self._known)
        numbers = (number for part in (*rectangles, *ranges) for number in astuple(part))
        scope = (*self._fingerprint, *numbers)
        self._file.store(CacheContent(scope=scope, keys=known.keys, digests=known.digests))


def _union(one: TileListing, other: TileListing) -> TileListing:
    keys = np.concatenate([one.keys, other.keys])
    digests = np.concatenate([one.digests, other.digests])
    return TileListing(keys=keys, digests=digests).take(np.unique(keys[:, 0], return_index=True)[1])


def _rectangles(numbers: Sequence[int]) -> tuple[TileRange, ...]:
    quintuples = (numbers[at : at + 5] for at in range(0, len(numbers), 5))
    return tuple(TileRange(z=z, x0=x0, x1=x1, y0=y0, y1=y1) for z, x0, x1, y0, y1 in quintuples)


def _contains(outer: TileRange, inner: TileRange) -> bool:
    return (
        outer.z == inner.z
        and outer.x0 <= inner.x0
        and inner.x1 <= outer.x1
        and outer.y0 <= inner.y0
        and inner.y1 <= outer.y1
    )
