"""Keep the list of an archive's tiles, so that an up-to-date build neither reads nor hashes it. Disposable.

Kept are the rectangles of tiles that were listed, and of each tile in them its descriptor id, the length of
its image, the number by which the archive finds it, and its digest. They are valid while `stat` says the same
of the archive, with the precaution against racy writes that `pipeline.tiles.digest_cache` explains.
"""

from collections.abc import Callable, Sequence
from dataclasses import astuple, replace
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

    def union(self, other: "TileListing") -> "TileListing":
        """Return the tiles of both; of a tile that is in both, what this one says."""
        if not (len(self.keys) and len(other.keys)):
            return self if len(self.keys) else other
        both = TileListing(
            keys=np.concatenate([self.keys, other.keys]),
            digests=np.concatenate([self.digests, other.digests]),
        )
        return both.take(np.unique(both.ids, return_index=True)[1])


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

    def missing(self, ranges: Sequence[TileRange]) -> tuple[TileRange, ...]:
        """Return the parts of some rectangles that the cache does not hold."""
        left = tuple(ranges)
        for known in self._rectangles:
            left = tuple(rest for part in left for rest in _difference(part, known))
        return left

    def known(self, ranges: Sequence[TileRange]) -> TileListing:
        """Return the tiles of some rectangles, as far as the cache holds these."""
        if set(ranges) == set(self._rectangles):
            return self._known
        z, x, y = self._known.places.T
        chosen = np.zeros(len(z), np.bool_)
        for part in ranges:
            chosen |= (z == part.z) & (x >= part.x0) & (x <= part.x1) & (y >= part.y0) & (y <= part.y1)
        return self._known.take(chosen)

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
            known = found.union(self._known)
        numbers = (number for part in (*rectangles, *ranges) for number in astuple(part))
        scope = (*self._fingerprint, *numbers)
        self._file.store(CacheContent(scope=scope, keys=known.keys, digests=known.digests))


def _rectangles(numbers: Sequence[int]) -> tuple[TileRange, ...]:
    quintuples = (numbers[at : at + 5] for at in range(0, len(numbers), 5))
    return tuple(TileRange(z=z, x0=x0, x1=x1, y0=y0, y1=y1) for z, x0, x1, y0, y1 in quintuples)


def _difference(part: TileRange, hole: TileRange) -> tuple[TileRange, ...]:
    """Return a rectangle without what is in another one, as at most four rectangles."""
    x0, x1 = max(part.x0, hole.x0), min(part.x1, hole.x1)
    y0, y1 = max(part.y0, hole.y0), min(part.y1, hole.y1)
    if part.z != hole.z or x0 > x1 or y0 > y1:
        return (part,)
    left = (
        replace(part, x1=x0 - 1),
        replace(part, x0=x1 + 1),
        replace(part, x0=x0, x1=x1, y1=y0 - 1),
        replace(part, x0=x0, x1=x1, y0=y1 + 1),
    )
    return tuple(each for each in left if each.x0 <= each.x1 and each.y0 <= each.y1)


def _contains(outer: TileRange, inner: TileRange) -> bool:
    return (
        outer.z == inner.z
        and outer.x0 <= inner.x0
        and inner.x1 <= outer.x1
        and outer.y0 <= inner.y0
        and inner.y1 <= outer.y1
    )
