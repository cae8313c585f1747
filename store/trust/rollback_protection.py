"""Rollback protection: keep a floor for each cache, the lowest generation that may fly, on board.

Someone may insert a card with an old cache that was validly signed. So the aircraft records the highest
generation that it used of each cache, in its own storage outside of the cache, and refuses older ones. It
also refuses a cache that it never adopted.

The file only grows. A line is 64 bytes of text, so that none crosses a disk sector: cache id, generation,
check digits. The highest line of a cache counts. A last line that a power cut tore was never acknowledged,
and the next line overwrites it. Any other invalid line is damage, and nothing flies until a person has looked
at the file.

Deleting the file deletes all floors: every cache is then unknown, and refused until it is adopted.
"""

import errno
import fcntl
import os
import re
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final

from store.errors import (
    CacheUnusableError,
    ErrorKind,
    NoGoError,
    StoreError,
    TranslateOSErrors,
    from_os_error,
)
from store.files.regular_file import NotRegularError, open_regular, read_at, sync_folder

LINE_BYTES: Final = 64
MAX_BYTES: Final = 64 << 20

_LINE: Final = re.compile(rb"([0-9a-f]{32}) ([0-9]{18}) ([0-9a-f]{11})\n")
_CACHE_ID: Final = re.compile(r"[0-9a-f]{32}")
_DOMAIN: Final = b"c10/floor/1\0"
_EXPECTED: Final = "a regular file of at most 64 MiB, found something else"
_LOCK_TIMEOUT_S: Final = 10.0
"""Other processes hold the lock while they sync a line; a worn card takes seconds for that."""
_LOCK_PAUSE_S: Final = 0.01
_EMPTY: Final = bytes(LINE_BYTES)
"""A line that a power cut left as zeros on some file systems."""


@dataclass(slots=True)
class RollbackProtection(Mapping[str, int]):
    """The floors in one file: cache id to lowest generation that may fly. The `floor` of a reader."""

    path: Path
    _floors: dict[str, int] = field(default_factory=dict)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "RollbackProtection":
        """Read the floors; a file that does not exist holds none.

        Raises:
            NoGoError: The file is damaged or no regular file.
            StoreError: It cannot be read.
        """
        floors = cls(Path(path))
        try:
            fd = floors._open(os.O_RDONLY)
        except FileNotFoundError:
            return floors
        except OSError as error:
            raise from_os_error(error, f"floors {floors.path}") from error
        try:
            floors._load_floors(fd)
            floors._sync_lines_of_others(fd)
        finally:
            os.close(fd)
        return floors

    def _sync_lines_of_others(self, fd: int) -> None:
        # A process that was killed before it synced its line left one that the next power cut takes away.
        with TranslateOSErrors(f"floors {self.path}"):
            try:
                os.fsync(fd)
            except OSError as error:
                if error.errno not in {errno.EROFS, errno.EINVAL}:  # there, nobody writes lines
                    raise

    def __getitem__(self, cache_id: str) -> int:
        """The floor of a cache that was adopted."""
        return self._floors[cache_id]

    def __iter__(self) -> Iterator[str]:
        """The ids of all caches that were adopted."""
        return iter(self._floors)

    def __len__(self) -> int:
        """The number of caches that were adopted."""
        return len(self._floors)

    def adopt(self, cache_id: str, generation: int) -> None:
        """Allow a cache to fly here from a generation on; never lower its floor.

        Raises:
            ValueError: The cache id or generation is not valid.
            NoGoError, StoreError: As for `load`; the file cannot be written, so that the floor may be lost; or
                another process keeps it locked.
        """
        self._raise_floor(cache_id, generation)

    def advance(self, cache_id: str, generation: int) -> None:
        """Record that a generation flew, so that no older one of its cache will; never lower its floor.

        Raises:
            NoGoError: The cache was never adopted, or as for `load`.
            ValueError: The generation is not valid.
            StoreError: The file cannot be written, so that the floor may be lost; or another process keeps it locked.
        """
        if cache_id not in self._floors:
            raise NoGoError(
                (f"cache id: expected a known cache, found {cache_id:.64}",),
                kind=ErrorKind.FLOOR,
                hint="adopt the cache once, if it is meant to fly here: RollbackProtection.adopt(cache_id, generation)",
            )
        self._raise_floor(cache_id, generation)

    def _raise_floor(self, cache_id: str, generation: int) -> None:
        line = _encode_line(cache_id, generation)
        if generation <= self._floors.get(cache_id, -1):
            return
        with self._open_locked() as fd:
            # Another process may have raised the floor meanwhile.
            end = self._load_floors(fd)
            if generation > self._floors.get(cache_id, -1):
                written = os.pwrite(fd, line, end)
                if written != LINE_BYTES:
                    raise from_os_error(
                        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), f"floors {self.path}"
                    )
                os.fsync(fd)
                self._floors[cache_id] = generation

    @contextmanager
    def _open_locked(self) -> Iterator[int]:
        """Open and lock the file; create it durably if it does not exist."""
        with TranslateOSErrors(f"floors {self.path}"):
            fd = self._open(os.O_CREAT | os.O_RDWR)
            try:
                self._lock(fd)
                sync_folder(self.path.parent)
                yield fd
            finally:
                os.close(fd)

    def _lock(self, fd: int) -> None:
        # Whoever may read the file can lock it, and a suspended process keeps its lock: a flight must not wait for them.
        until = time.monotonic() + _LOCK_TIMEOUT_S
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() >= until:
                    raise CacheUnusableError(
                        f"floors {self.path}: expected a file that no other process keeps locked, found it locked "
                        f"for {_LOCK_TIMEOUT_S:g} s",
                        kind=ErrorKind.BUSY,
                        hint=f"end the process that holds it (fuser {shlex.quote(str(self.path))}), then run this again",
                    ) from error
                time.sleep(_LOCK_PAUSE_S)
            else:
                return

    def _open(self, flags: int) -> int:
        try:
            return open_regular(self.path, flags, follow_symlinks=True)
        except NotRegularError as error:
            raise self._damaged(_EXPECTED) from error

    def _load_floors(self, fd: int) -> int:
        """Load the floors; return where to write the next line."""
        if os.fstat(fd).st_size > MAX_BYTES:
            raise self._damaged(_EXPECTED)
        with TranslateOSErrors(f"floors {self.path}"):
            data = read_at(fd, 0, os.fstat(fd).st_size)
        end = len(data) - len(data) % LINE_BYTES
        while end and data[end - LINE_BYTES : end] == _EMPTY:
            end -= LINE_BYTES
        floors: dict[str, int] = {}
        for start in range(0, end, LINE_BYTES):
            match = _LINE.fullmatch(data, start, start + LINE_BYTES)
            if match is None or match[3] != _check_digits(match[1], match[2]):
                raise self._damaged(
                    f"a line of cache id, generation and check digits at byte {start}, found other bytes"
                )
            cache_id = match[1].decode("ascii")
            floors[cache_id] = max(int(match[2]), floors.get(cache_id, 0))
        self._floors = floors
        return end

    def _damaged(self, expected: str) -> StoreError:
        return NoGoError(
            (f"floors: expected {expected} in {self.path}",),
            kind=ErrorKind.FLOOR,
            hint="inspect the file; to reset all floors, delete it and adopt each cache again",
        )


def _encode_line(cache_id: str, generation: int) -> bytes:
    if not _CACHE_ID.fullmatch(str(cache_id)):
        raise ValueError(f"expected a cache id of 32 hexadecimal digits, found {cache_id!r:.80}")
    if type(generation) is not int or not 0 <= generation < 10**18:
        raise ValueError(f"expected a generation, found {generation!r:.80}")
    name, number = cache_id.encode("ascii"), b"%018d" % generation
    return b"%s %s %s\n" % (name, number, _check_digits(name, number))


def _check_digits(name: bytes, number: bytes) -> bytes:
    return sha256(_DOMAIN + name + b" " + number).hexdigest()[:11].encode("ascii")
