"""Keep the digests of tiles between builds, so that a build with unchanged tiles hashes nothing. Disposable.

A file's digest is kept under what `stat` says of the file (device, inode, size, modification and change
time), as in git's index. git's problem is here as well: a file that is written twice within one tick of the
file system's clock has the same times after the second write. Hence digests are stored only for files whose
times are at least `RACY_NS` older than the start of the scan: a later write then gives them other times. A
file that is mapped for writing during the scan is not safe: it gets its new times when the system writes the
page back.

All this rests on a change time that no program can set. `shows_changes` tells for which files it can be
relied on; the others are hashed in each build.

The cache is one binary file, written anew when there are new digests. When its checksum does not fit (cut
off, damaged, foreign, of another version), a reader ignores it, and every tile is hashed again.

Layout, little-endian: magic (8), SHA-256 of all that follows (32), columns u32, scope length u32, rows u64,
scope i64[s], keys i64[rows, columns], digests u8[rows, 32].
"""

import hashlib
import os
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from journal.storage.filesystem import keeps_change_times
from pipeline.tiles.tile_columns import Digests
from store.base.valueclass import valueclass
from store.files.regular_file import read_own

Keys = npt.NDArray[np.int64]
"""One row of integers for each tile, which identify its content."""

RACY_NS = 2_000_000_000
MAX_ROWS = 4_000_000

_MAGIC = b"C10DIG\x00\x01"
_COUNTS = struct.Struct("<IIQ")
_MIXERS = np.array(
    [0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93, 0xFF51AFD7ED558CCD],
    dtype=np.uint64,
)


class Fingerprint(NamedTuple):
    """What `stat` says of a file's content.

    A tuple, since there is one for each of a hundred thousand files, and it is a row of keys.
    """

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Fingerprint":
        """Return the fingerprint in a stat result."""
        device, inode = _signed(status.st_dev), _signed(status.st_ino)
        return cls(device, inode, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def shows_changes(keys: Keys, path_of_row: Callable[[int], str | Path]) -> npt.NDArray[np.bool_]:
    """Tell for which files a later change must show in the fingerprint.

    That takes a file system that keeps change times. On such a one a clock of nanoseconds sets them: a change
    time of whole seconds was written by the program that made an image of a file system.

    Args:
        keys: Fingerprints, int64 [n, 5].
        path_of_row: Where the file of a fingerprint is. Asked once for each device.

    Returns:
        bool [n].
    """
    shown: npt.NDArray[np.bool_] = keys[:, 4] % 1_000_000_000 != 0
    for device, row in zip(*np.unique(keys[:, 0], return_index=True), strict=True):
        if not keeps_change_times(Path(path_of_row(int(row)))):
            shown &= keys[:, 0] != device
    return shown


@valueclass(frozen=True, slots=True, kw_only=True)
class CacheContent:
    """What a cache file holds.

    Attributes:
        scope: Integers that must be right for any of it to be valid.
        keys: int64 [n, columns].
        digests: uint8 [n, 32].
    """

    scope: tuple[int, ...]
    keys: Keys
    digests: Digests

    def encode(self) -> bytes:
        """Return the body of the file; see the module."""
        return b"".join(
            (
                _COUNTS.pack(self.keys.shape[1], len(self.scope), len(self.keys)),
                np.array(self.scope, dtype="<i8").tobytes(),
                np.ascontiguousarray(self.keys, dtype="<i8").tobytes(),
                self.digests.tobytes(),
            )
        )


class CacheFile:
    """The file of one cache.

    Args:
        folder: Holds the cache files; None caches nothing.
        subject: What is cached, such as the absolute path of an archive; the file's name is made from it.
        columns: Integers in each key, 1 to 5.
    """

    def __init__(self, folder: Path | None, *, subject: str, columns: int) -> None:
        name = hashlib.sha256(os.fsencode(subject)).hexdigest()[:32]
        self._path = None if folder is None else folder / f"tiles-{name}"
        self._columns = columns

    def load(self) -> CacheContent | None:
        """Return the content, or nothing if any of it is cut off, damaged, foreign or of another version."""
        if self._path is None:
            return None
        try:
            return self._parse(read_own(self._path))
        except OSError:
            return None

    def _parse(self, content: bytes) -> CacheContent | None:
        body = memoryview(content)[len(_MAGIC) + 32 :]
        checksum = content[len(_MAGIC) : len(_MAGIC) + 32]
        if (
            not content.startswith(_MAGIC)
            or len(body) < _COUNTS.size
            or hashlib.sha256(body).digest() != checksum
        ):
            return None
        columns, scope_length, rows = _COUNTS.unpack_from(body)
        if columns != self._columns or len(body) != _COUNTS.size + 8 * scope_length + rows * (
            8 * columns + 32
        ):
            return None
        numbers = np.frombuffer(body, dtype="<i8", count=scope_length + rows * columns, offset=_COUNTS.size)
        digests = np.frombuffer(body, dtype=np.uint8, offset=_COUNTS.size + 8 * len(numbers))
        keys = numbers[scope_length:].astype(np.int64, copy=False).reshape(rows, columns)
        scope = tuple(numbers[:scope_length].tolist())
        return CacheContent(scope=scope, keys=keys, digests=digests.reshape(rows, 32))

    def store(self, content: CacheContent) -> None:
        """Replace the content. Best effort: a full or read-only disk costs only speed."""
        if self._path is None:
            return
        body = content.encode()
        with suppress(OSError):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._path.unlink(missing_ok=True)
            # No temporary name is needed: readers ignore the file until its last byte is written, since the
            # checksum does not fit before, and a writer that another one overtakes goes on writing to an
            # unlinked file.
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(_MAGIC + hashlib.sha256(body).digest())
                file.write(body)


class DigestCache:
    """The cached digests of one source's tiles.

    Args:
        folder: Holds the cache files; None caches nothing.
        subject: What is cached, such as the absolute path of a folder; the file's name is made from it.
        now_ns: Wall clock in nanoseconds since 1970, the one that stamps files.
    """

    def __init__(self, folder: Path | None, *, subject: str, now_ns: Callable[[], int]) -> None:
        self._file = CacheFile(folder, subject=subject, columns=len(Fingerprint._fields))
        self._began_ns = now_ns()
        self._content = self._file.load() or CacheContent(
            scope=(),
            keys=np.zeros((0, len(Fingerprint._fields)), np.int64),
            digests=np.zeros((0, 32), np.uint8),
        )

    @property
    def racy_from_ns(self) -> int:
        """Digests of files that changed at this moment or later must not be stored."""
        return self._began_ns - RACY_NS

    def lookup(self, keys: Keys) -> tuple[Digests, npt.NDArray[np.bool_]]:
        """Look up keys.

        Args:
            keys: Fingerprints, int64 [n, 5].

        Returns:
            Digests uint8 [n, 32] (zeros where unknown), and which of them are known, bool [n].
        """
        content = self._content
        if np.array_equal(keys, content.keys):
            # Nothing changed: the common case, and a search would take as long as the scan.
            return content.digests.copy(), np.ones(len(keys), dtype=np.bool_)
        digests = np.zeros((len(keys), 32), dtype=np.uint8)
        known = np.zeros(len(keys), dtype=np.bool_)
        if len(content.keys) and len(keys):
            hashes = _hash_rows(content.keys)
            order = np.argsort(hashes, kind="stable")
            at = np.searchsorted(hashes[order], _hash_rows(keys))
            rows = order[np.minimum(at, len(order) - 1)]
            # A hash may collide, so the whole key is compared. A collision only costs one more hash of a
            # file.
            known = (content.keys[rows] == keys).all(axis=1)
            digests[known] = content.digests[rows[known]]
        return digests, known

    def store(self, keys: Keys, digests: Digests) -> None:
        """Add digests to the cache. Best effort: a full or read-only disk costs only speed.

        Args:
            keys: Fingerprints, int64 [n, 5], without files that changed since `racy_from_ns`.
            digests: uint8 [n, 32].
        """
        if not len(keys):
            return
        keys = np.concatenate([keys, self._content.keys])
        digests = np.concatenate([digests, self._content.digests])
        # The newest rows are kept: an old row of the same file can never match again.
        hashes = _hash_rows(keys[:, :2])
        first = np.sort(np.unique(hashes, return_index=True)[1])[:MAX_ROWS]
        self._file.store(CacheContent(scope=self._content.scope, keys=keys[first], digests=digests[first]))


def _signed(value: int) -> int:
    """Return the signed number with the same 64 bits, all of which devices and inodes may use."""
    return value - (1 << 64) if value >= 1 << 63 else value


def _hash_rows(keys: Keys) -> npt.NDArray[np.uint64]:
    """Return a 64-bit hash of each row, for sorting and searching; it overflows on purpose."""
    mixed = (keys.astype(np.int64).view(np.uint64).reshape(keys.shape) * _MIXERS[: keys.shape[1]]).sum(
        axis=1, dtype=np.uint64
    )
    hashes: npt.NDArray[np.uint64] = mixed ^ (mixed >> np.uint64(29))
    return hashes
