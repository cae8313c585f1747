"""Rollback protection: the floor, the lowest generation that may fly, per cache, kept on board and outside of the cache.

A card that is put in place may hold an old cache that was signed in its day. So the aircraft remembers the highest
generation it used of each cache, in storage of its own, and refuses anything older; and it refuses a cache it was
never told of. The file only grows. A line is 64 bytes of text, so that none crosses a sector of the disk: cache id,
generation, check digits. The highest line of a cache counts. What a power cut left of a last line was never
promised, and is written over by the next one; any other line that does not fit is damage, and nothing flies until a
person has looked at it.

Deleting the file forgets all floors: every cache is then unknown, and refused until it is adopted.
"""

import fcntl
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final

from store.errors import ErrorKind, NoGoError, StoreError, from_os_error
from store.files.regular_file import NotRegularError, open_regular

LINE_BYTES: Final = 64
MAX_BYTES: Final = 64 << 20

_LINE: Final = re.compile(rb"([0-9a-f]{32}) ([0-9]{18}) ([0-9a-f]{11})\n")
_CACHE_ID: Final = re.compile(r"[0-9a-f]{32}")
_DOMAIN: Final = b"c10/floor/1\0"
_EXPECTED: Final = "a regular file of at most 64 MiB, found something else"
_EMPTY: Final = bytes(LINE_BYTES)
"""What some file systems show in place of a line whose bytes did not arrive before a power cut."""


@dataclass(slots=True)
class RollbackProtection(Mapping[str, int]):
    """The floors in one file: cache id to the least generation that may fly. Give it to the reader as `floor`."""

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
            floors._read(fd)
        finally:
            os.close(fd)
        return floors

    def __getitem__(self, cache_id: str) -> int:
        """The floor of a cache that was adopted."""
        return self._floors[cache_id]

    def __iter__(self) -> Iterator[str]:
        """The ids of all caches that were adopted."""
        return iter(self._floors)

    def __len__(self) -> int:
        """How many caches were adopted."""
        return len(self._floors)

    def adopt(self, cache_id: str, generation: int) -> None:
        """Let a cache fly here from a generation on; a floor that it has already is never lowered.

        Raises:
            ValueError: That is no cache id or no generation.
            NoGoError, StoreError: As for `load`, or the file cannot be written; nothing is promised then.
        """
        self._raise(cache_id, generation)

    def advance(self, cache_id: str, generation: int) -> None:
        """Say that a generation flew; nothing older of its cache will. Never lowers a floor.

        Raises:
            NoGoError: The cache was never adopted, or as for `load`.
            ValueError: That is no generation.
            StoreError: The file cannot be written; nothing is promised then.
        """
        if cache_id not in self._floors:
            raise NoGoError(
                (f"cache id: expected a known cache, found {cache_id:.64}",),
                kind=ErrorKind.FLOOR,
                hint="adopt the cache once, if it is meant to fly here: RollbackProtection.adopt(cache_id, generation)",
            )
        self._raise(cache_id, generation)

    def _raise(self, cache_id: str, generation: int) -> None:
        line = _line(cache_id, generation)
        if generation <= self._floors.get(cache_id, -1):
            return
        with self._writing() as fd:
            # Another process may have raised it meanwhile.
            end = self._read(fd)
            if generation > self._floors.get(cache_id, -1):
                written = os.pwrite(fd, line, end)
                if written != LINE_BYTES:
                    raise from_os_error(OSError(28, os.strerror(28)), f"floors {self.path}")
                os.fsync(fd)
                self._floors[cache_id] = generation

    @contextmanager
    def _writing(self) -> Iterator[int]:
        """Open the file, made durably if it does not exist, with everybody else kept out."""
        try:
            fd = self._open(os.O_CREAT | os.O_RDWR)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                _sync_folder(self.path.parent)
                yield fd
            finally:
                os.close(fd)
        except OSError as error:
            raise from_os_error(error, f"floors {self.path}") from error

    def _open(self, flags: int) -> int:
        try:
            return open_regular(self.path, flags, follow_symlinks=True)
        except NotRegularError as error:
            raise self._damaged(_EXPECTED) from error

    def _read(self, fd: int) -> int:
        """Take in what the file says; returns where the next line goes."""
        if os.fstat(fd).st_size > MAX_BYTES:
            raise self._damaged(_EXPECTED)
        try:
            data = os.pread(fd, MAX_BYTES, 0)
        except OSError as error:
            raise from_os_error(error, f"floors {self.path}") from error
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
            hint="look at the file; to forget all floors, delete it and adopt each cache again",
        )


def _line(cache_id: str, generation: int) -> bytes:
    if not _CACHE_ID.fullmatch(str(cache_id)):
        raise ValueError(f"expected a cache id of 32 hexadecimal digits, found {cache_id!r:.80}")
    if type(generation) is not int or not 0 <= generation < 10**18:
        raise ValueError(f"expected a generation, found {generation!r:.80}")
    name, number = cache_id.encode("ascii"), b"%018d" % generation
    return b"%s %s %s\n" % (name, number, _check_digits(name, number))


def _check_digits(name: bytes, number: bytes) -> bytes:
    return sha256(_DOMAIN + name + b" " + number).hexdigest()[:11].encode("ascii")


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
