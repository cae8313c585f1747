"""Remembers the digests of tiles between builds, so that a warm build hashes nothing. Disposable.

A file's digest is remembered under what `stat` says of it (device, inode, size, modification and change time), as
git's index does. The danger is also git's: a file that is written twice within one tick of the file system's clock
looks the same after the second write. Hence nothing is stored whose times are not at least `RACY_NS` older than
the moment the scan began: a later write then has other times. What is written through a map has them only once the
system writes the page back, so that a file which is mapped for writing while it is scanned is not safe to remember.

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
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from store.files.regular_file import read_own

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What a memory holds.

    Attributes:
        scope: Numbers that must be right for any of it to hold.
        keys: int64 [n, columns].
        digests: uint8 [n, 32].
    """

    scope: tuple[int, ...]
    keys: Keys
    digests: Digests

    @property
    def parts(self) -> tuple[bytes, ...]:
        """The body of the file; see the module."""
        return (
            _COUNTS.pack(self.keys.shape[1], len(self.scope), len(self.keys)),
            np.array(self.scope, dtype="<i8").tobytes(),
            np.ascontiguousarray(self.keys, dtype="<i8").tobytes(),
            self.digests.tobytes(),
        )


class MemoryFile:
    """The file of one memory.

    Args:
        folder: Where memories are kept; None remembers nothing.
        subject: What the memory is about, such as the absolute path of an archive; names the file.
        columns: Numbers in each key, 1 to 5.
    """

    def __init__(self, folder: Path | None, *, subject: str, columns: int) -> None:
        name = hashlib.sha256(os.fsencode(subject)).hexdigest()[:32]
        self._path = None if folder is None else folder / f"tiles-{name}"
        self._columns = columns

    def load(self) -> Kept | None:
        """All that was stored; nothing where any of it is torn, damaged, foreign or of another version."""
        if self._path is None:
            return None
        try:
            return self._parse(read_own(self._path))
        except OSError:
            return None

    def _parse(self, content: bytes) -> Kept | None:
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
        digests = np.frombuffer(body, dtype=np.uint8, offset=_COUNTS.size + 8 * len(numbers))
        keys = numbers[scoped:].astype(np.int64, copy=False).reshape(rows, columns)
        return Kept(scope=tuple(numbers[:scoped].tolist()), keys=keys, digests=digests.reshape(rows, 32))

    def store(self, kept: Kept) -> None:
        """Replace what is stored. Best effort: a full or read-only disk costs only speed."""
        if self._path is None:
            return
        body = b"".join(kept.parts)
        with suppress(OSError):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._path.unlink(missing_ok=True)
            # No temporary name is needed: until the last byte is there the checksum makes readers ignore the file, and
            # a writer that is overtaken goes on writing to an unlinked file.
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(_MAGIC + hashlib.sha256(body).digest())
                file.write(body)


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
        self._file = MemoryFile(folder, subject=subject, columns=columns)
        self._began_ns = now_ns()
        kept = self._file.load()
        if kept is None or kept.scope != scope:
            none = np.zeros((0, columns), dtype=np.int64), np.zeros((0, 32), dtype=np.uint8)
            kept = Kept(scope=scope, keys=none[0], digests=none[1])
        self._kept = kept

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
        kept = self._kept
        if np.array_equal(keys, kept.keys):
            # Nothing changed since: the common case, and a search would take as long as the scan.
            return kept.digests.copy(), np.ones(len(keys), dtype=np.bool_)
        digests = np.zeros((len(keys), 32), dtype=np.uint8)
        known = np.zeros(len(keys), dtype=np.bool_)
        if len(kept.keys) and len(keys):
            hashes = _row_hashes(kept.keys)
            order = np.argsort(hashes, kind="stable")
            at = np.searchsorted(hashes[order], _row_hashes(keys))
            rows = order[np.minimum(at, len(order) - 1)]
            # A hash may collide; only the whole key counts. A collision merely costs one more hash of a file.
            known = (kept.keys[rows] == keys).all(axis=1)
            digests[known] = kept.digests[rows[known]]
        return digests, known

    def remember(self, keys: Keys, digests: Digests) -> None:
        """Store digests beside what is known already. Best effort: a full or read-only disk costs only speed.

        Args:
            keys: int64 [n, columns]; the caller leaves out files touched since `racy_from_ns`.
            digests: uint8 [n, 32].
        """
        if not len(keys):
            return
        kept = np.concatenate([keys, self._kept.keys])
        kept_digests = np.concatenate([digests, self._kept.digests])
        # The newest rows win: an old row of the same file can never match again.
        hashes = _row_hashes(kept[:, :2] if kept.shape[1] == 5 else kept)
        first = np.sort(np.unique(hashes, return_index=True)[1])[:MAX_ROWS]
        self._file.store(Kept(scope=self._kept.scope, keys=kept[first], digests=kept_digests[first]))


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
