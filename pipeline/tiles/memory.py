"""Remembers the digests of tiles between builds, so that a warm build hashes nothing. Disposable.

A file's digest is remembered under what `stat` says of it (device, inode, size, modification and change time), as
git's index does. The danger is also git's: a file that is written twice within one tick of the file system's clock
looks the same after the second write. Hence nothing is stored whose times are not at least `RACY_NS` older than
the moment the scan began: a later write then has other times for certain.

The memory is one binary file, made anew when something was learned. A reader takes all of it or, when its checksum
does not fit (torn, damaged, foreign, of another version), none of it: then every tile is simply hashed again.

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

from pipeline.regular import open_regular, read_at

Keys = npt.NDArray[np.int64]
"""One row of whole numbers for each tile: what makes it the same tile as before."""
Digests = npt.NDArray[np.uint8]
"""SHA-256 digests, shape [n, 32]."""

RACY_NS = 2_000_000_000
MAX_ROWS = 4_000_000

_MAGIC = b"C10DIG\x00\x01"
_COUNTS = struct.Struct("<IIQ")
_MIXERS = np.array(
    [0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93, 0xFF51AFD7ED558CCD],
    dtype=np.uint64,
)


class Fingerprint(NamedTuple):
    """What `stat` says of a file, as far as it tells one content from another.

    A tuple, since there is one for each of a hundred thousand files, and it is a row of keys as it stands.
    """

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Fingerprint":
        """The fingerprint in a stat result."""
        device, inode = _signed(status.st_dev), _signed(status.st_ino)
        return cls(device, inode, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class DigestMemory:
    """The digests of one source's tiles.

    Args:
        folder: Where memories are kept; None remembers nothing.
        subject: What the memory is about, such as the absolute path of an archive; names the file.
        scope: Numbers that must be the same for any of it to hold, such as an archive's fingerprint.
        columns: Numbers in each key, 1 to 5.
        now_ns: Wall clock in nanoseconds since 1970, as files are stamped with.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        subject: str,
        scope: tuple[int, ...] = (),
        columns: int,
        now_ns: Callable[[], int],
    ) -> None:
        name = hashlib.sha256(os.fsencode(subject)).hexdigest()[:32]
        self._path = None if folder is None else folder / f"tiles-{name}"
        self._scope = scope
        self._columns = columns
        self._began_ns = now_ns()
        self._keys, self._digests = self._load()
        self._hashes = _row_hashes(self._keys)
        self._order = np.argsort(self._hashes, kind="stable")

    @property
    def racy_from_ns(self) -> int:
        """Files touched at this moment or later cannot be remembered."""
        return self._began_ns - RACY_NS

    def recall(self, keys: Keys) -> tuple[Digests, npt.NDArray[np.bool_]]:
        """Look up keys.

        Args:
            keys: int64 [n, columns].

        Returns:
            Digests uint8 [n, 32] (zeros where unknown) and bool [n], which of them are known.
        """
        digests = np.zeros((len(keys), 32), dtype=np.uint8)
        known = np.zeros(len(keys), dtype=np.bool_)
        if len(self._keys) and len(keys):
            at = np.searchsorted(self._hashes[self._order], _row_hashes(keys))
            rows = self._order[np.minimum(at, len(self._order) - 1)]
            # A hash may collide; only the whole key counts. A collision merely costs one more hash of a file.
            known = (self._keys[rows] == keys).all(axis=1)
            digests[known] = self._digests[rows[known]]
        return digests, known

    def remember(self, keys: Keys, digests: Digests) -> None:
        """Store digests beside what is known already. Best effort: a full or read-only disk costs only speed.

        Args:
            keys: int64 [n, columns]; the caller leaves out files touched since `racy_from_ns`.
            digests: uint8 [n, 32].
        """
        if self._path is None or not len(keys):
            return
        kept = np.concatenate([keys, self._keys])
        kept_digests = np.concatenate([digests, self._digests])
        # The newest rows win: an old row of the same file can never match again.
        hashes = _row_hashes(kept[:, :2] if self._columns == 5 else kept)
        first = np.sort(np.unique(hashes, return_index=True)[1])[:MAX_ROWS]
        with suppress(OSError):
            self._store(kept[first], kept_digests[first])

    def _load(self) -> tuple[Keys, Digests]:
        none = np.zeros((0, self._columns), dtype=np.int64), np.zeros((0, 32), dtype=np.uint8)
        if self._path is None:
            return none
        try:
            descriptor = open_regular(self._path, follow_symlinks=False)
        except OSError:
            return none
        try:
            content = read_at(descriptor, 0, os.fstat(descriptor).st_size)
        except OSError:
            return none
        finally:
            os.close(descriptor)
        return self._parse(content) or none

    def _parse(self, content: bytes) -> tuple[Keys, Digests] | None:
        body = memoryview(content)[len(_MAGIC) + 32 :]
        checksum = content[len(_MAGIC) : len(_MAGIC) + 32]
        if (
            not content.startswith(_MAGIC)
            or len(body) < _COUNTS.size
            or hashlib.sha256(body).digest() != checksum
        ):
            return None
        columns, scoped, rows = _COUNTS.unpack_from(body)
        if columns != self._columns or len(body) != _COUNTS.size + 8 * scoped + rows * (8 * columns + 32):
            return None
        numbers = np.frombuffer(body, dtype="<i8", count=scoped + rows * columns, offset=_COUNTS.size)
        if tuple(numbers[:scoped].tolist()) != self._scope:
            return None
        digests = np.frombuffer(body, dtype=np.uint8, offset=_COUNTS.size + 8 * len(numbers))
        return numbers[scoped:].astype(np.int64).reshape(rows, columns), digests.reshape(rows, 32)

    def _store(self, keys: Keys, digests: Digests) -> None:
        if self._path is None:
            return
        body = b"".join(
            [
                _COUNTS.pack(self._columns, len(self._scope), len(keys)),
                np.array(self._scope, dtype="<i8").tobytes(),
                np.ascontiguousarray(keys, dtype="<i8").tobytes(),
                np.ascontiguousarray(digests).tobytes(),
            ]
        )
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path.unlink(missing_ok=True)
        # No temporary name is needed: until the last byte is there the checksum makes readers ignore the file, and
        # a writer that is overtaken goes on writing to an unlinked file.
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(_MAGIC + hashlib.sha256(body).digest() + body)


def _signed(value: int) -> int:
    """A 64-bit unsigned number as the signed one with the same bits; devices and inodes may use the top bit."""
    return value - (1 << 64) if value >= 1 << 63 else value


def _row_hashes(keys: Keys) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of each row, to sort and search by; wraps around on purpose."""
    mixed = (keys.astype(np.int64).view(np.uint64).reshape(keys.shape) * _MIXERS[: keys.shape[1]]).sum(
        axis=1, dtype=np.uint64
    )
    hashes: npt.NDArray[np.uint64] = mixed ^ (mixed >> np.uint64(29))
    return hashes
