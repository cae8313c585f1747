"""Remember outside of the cache which records this machine appended with its signing key. Disposable.

What a failed or killed build appended stands behind the signed head, like the records of anybody who can write to the
cache. So a builder with a key notes the numbers of the records before it appends them, and the chain digest of the
last one. That digest stands for the bytes of these records and of all before them, so that a note fits no journal but
the one that holds them, and a note whose append failed fits none.

There is one file for each cache and key, beside the digest caches. A line counts only with a code that takes the
signing key to make, and only in a file of this user that nobody else can read or write. A file that is lost or
ignored costs work: the results are made again.

A line is `FIRST LAST CHAIN CODE`: two record numbers, and two times 64 hexadecimal digits.
"""

import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from journal.record import Head
from store.files.regular_file import open_regular, read_own
from store.policy.vouching import Ranges, merged
from store.trust.signatures import Signer

_LINE = re.compile(rb"(([1-9][0-9]{0,17}) ([1-9][0-9]{0,17}) ([0-9a-f]{64})) [0-9a-f]{64}")
_DOMAIN = b"c10/own-records/1\0"
_MAX_BYTES = 4 << 20


class OwnRecords:
    """The notes of one signing key.

    Args:
        folder: Holds the file; None remembers nothing.
        signer: The key; None remembers nothing.
    """

    def __init__(self, folder: Path | None, signer: Signer | None) -> None:
        self._folder = folder
        self._signer = signer
        self._known = set[bytes]()

    def ranges(self, cache_id: str, chain_at: Callable[[int], str | None]) -> Ranges:
        """Return the records of a journal that this machine appended with the key.

        Args:
            cache_id: The cache.
            chain_at: Returns the chain digest of a record of its journal, hexadecimal; None if it has no such record.
        """
        found = []
        for line in self._load(cache_id):
            match = _LINE.fullmatch(line)
            if match is None or line != self._line(cache_id, match[1]):
                continue
            self._known.add(line)
            first, last = int(match[2]), int(match[3])
            if first <= last and chain_at(last) == match[4].decode():
                found.append((first, last))
        return merged(found)

    def ranges_now(self, cache_id: str, chain_at: Callable[[int], str | None]) -> Ranges:
        """Return `ranges` by the notes that there are now; `forget` leaves those that others made meanwhile."""
        return OwnRecords(self._folder, self._signer).ranges(cache_id, chain_at)

    def note(self, cache_id: str) -> Callable[[int, Head], None]:
        """Return what notes an append, given its first record number and the head after it. Best effort."""

        def before_append(first: int, head: Head) -> None:
            claim = b"%d %d %s" % (first, head.seq, head.chain.hex().encode())
            if (path := self._path(cache_id)) is None:
                return
            line = self._line(cache_id, claim)
            self._known.add(line)
            with suppress(OSError):
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                _append(path, line)

        return before_append

    def forget(self, cache_id: str) -> None:
        """Remove the notes that were loaded or made here, since a signed generation vouches for their records now."""
        if (path := self._path(cache_id)) is None:
            return
        with suppress(OSError):
            # An engine run may have noted something meanwhile.
            others = [line for line in self._load(cache_id) if line and line not in self._known]
            path.unlink()
            for line in others:
                _append(path, line)

    def _path(self, cache_id: str) -> Path | None:
        if self._folder is None or self._signer is None:
            return None
        return self._folder / f"records-{cache_id}-{self._signer.key_id}"

    def _line(self, cache_id: str, claim: bytes) -> bytes:
        if self._signer is None:
            return b""
        code = self._signer.authenticate(_DOMAIN + cache_id.encode() + b" " + claim)
        return b"%s %s" % (claim, code.hex().encode())

    def _load(self, cache_id: str) -> list[bytes]:
        path = self._path(cache_id)
        if path is None:
            return []
        try:
            if path.lstat().st_mode & 0o077:
                return []
            return read_own(path, limit=_MAX_BYTES).split(b"\n")
        except OSError:
            return []


def _append(path: Path, line: bytes) -> None:
    """Append a line. One that a killed process left incomplete is ended first, and does not count."""
    fd = open_regular(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, mode=0o600)
    try:
        os.write(fd, b"\n" + line + b"\n")
    finally:
        os.close(fd)
