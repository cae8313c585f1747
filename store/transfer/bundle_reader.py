"""Read a bundle in one pass, from a file or as it arrives, and believe nothing in it.

The reader checks each length against the rest of the file before it reads, each record against the chain, and
the trailer against all bytes. Who takes the content of an artifact checks it against its digest. Of a stream, how
much is left shows only at its end: no read asks for more than `CHUNK`, or one record.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from journal import Entry, JournalDamagedError, RecordError
from journal.record import CHAIN_BYTES, EMPTY, MAX_RECORD_BYTES, verify_chain
from store.base.values import ArtifactRef
from store.errors import (
    BundleError,
    ErrorKind,
    RequestRefusedError,
    TranslateOSErrors,
    from_os_error,
    is_shortage,
)
from store.files.regular_file import NotRegularError, open_regular
from store.transfer.bundle_format import (
    ARTIFACT,
    CHUNK,
    FORMAT,
    LENGTH,
    MAGIC,
    MAX_HEADER,
    TRAILER_BYTES,
    BundleHeader,
    decode_header,
)

_COPY_AGAIN: Final = "copy it again, or make it again: c10 export"
_SEND_AGAIN: Final = "if the sender shows an error, mend that; then run both again"
_FAMILY: Final = MAGIC[:-1]
_FIRST_EVENT: Final = "cache.created"


@dataclass(slots=True)
class BundleReader:
    """A bundle read from beginning to end, in this order: `header`, `entries`, `artifacts`, `finish`.

    Each of them raises `BundleError` if the file is no bundle, cut short, of a newer version, or not what its
    header and digests say. `name` is what errors call it; `offset` is where the next byte is read; `_left` are the
    bytes before the trailer, None of a stream.
    """

    name: str
    _file: BinaryIO
    _left: int | None
    _hash: "hashlib._Hash | None"
    offset: int = 0
    _header: BundleHeader | None = None

    @property
    def header(self) -> BundleHeader:
        """The header, read at the first use."""
        if self._header is None:
            self._header = self._read_header()
        return self._header

    def entries(self) -> Iterator[Entry]:
        """Yield the records, each link of the chain checked."""
        header, last = self.header, EMPTY
        try:
            for entry in verify_chain(EMPTY, self._values(header.records)):
                if entry.seq == 1:
                    self._require_created(entry, header)
                last = entry.head
                yield entry
        except JournalDamagedError as error:
            raise self.error("an unbroken chain", error.message) from error
        if last.chain.hex() != header.chain:
            raise self.error(f"the chain to end with {header.chain[:12]}", last.chain.hex()[:12])

    def artifacts(self) -> Iterator[ArtifactRef]:
        """Yield the reference of each artifact, and skip what its reader leaves of `pieces`."""
        header, before, total = self.header, b"", 0
        for number in range(1, header.artifacts + 1):
            digest, size = ARTIFACT.unpack(self._read(ARTIFACT.size, f"artifact {number}"))
            if digest <= before:
                raise self.error("artifacts by rising digest, each once", digest.hex()[:12])
            if self._left is not None and size > self._left:
                raise self.error(
                    f"the {size:,} bytes of artifact {digest.hex()[:12]}",
                    f"{self._left} before the end of the file: it was cut short",
                )
            before, total, end = digest, total + size, self.offset + size
            yield ArtifactRef(sha256=digest.hex(), size=size)
            self._skip(end - self.offset)
        if total != header.size:
            raise self.error(f"artifacts of {header.size:,} bytes", f"{total:,}")

    def pieces(self, ref: ArtifactRef) -> Iterator[bytes]:
        """Yield the unchecked content of the artifact that `artifacts` has just yielded."""
        left = ref.size
        while left:
            piece = self._read(min(CHUNK, left), f"artifact {ref.sha256[:12]}")
            left -= len(piece)
            yield piece

    def finish(self) -> ArtifactRef:
        """Check that nothing is left, and the trailer if all is hashed; return the file's digest and size."""
        if self._left:
            raise self.error("nothing between the last artifact and the trailer", f"{self._left} bytes")
        expected = b"" if self._hash is None else self._hash.digest()
        if self._left is not None:
            self._left = TRAILER_BYTES
        trailer = self._read(TRAILER_BYTES, "the trailer")
        if self._hash is None:
            return ArtifactRef(sha256="", size=self.offset)
        if trailer != expected:
            raise self.error(f"bytes with SHA-256 {trailer.hex()[:12]}", f"others: {expected.hex()[:12]}")
        with TranslateOSErrors(f"bundle {self.name}"):
            more = self._file.read(1)
        if more:
            raise self.error("nothing behind the trailer", "more bytes")
        return ArtifactRef(sha256=self._hash.hexdigest(), size=self.offset)

    @property
    def mend(self) -> str:
        """What to do if it is damaged."""
        return _SEND_AGAIN if self._left is None else _COPY_AGAIN

    def error(self, expected: str, found: str) -> BundleError:
        """Return the error that says what is wrong with the file."""
        return _bundle_error(self.name, expected, found, self.mend)

    def _read_header(self) -> BundleHeader:
        magic = self._read(len(MAGIC), "its first bytes")
        if magic != MAGIC:
            if magic.startswith(_FAMILY):
                hint = "use the newer C10 that wrote it"
                raise _bundle_error(self.name, f"format {FORMAT}", str(magic[-1]), hint)
            raise self.error("a bundle", "a file that begins otherwise")
        (length,) = LENGTH.unpack(self._read(LENGTH.size, "the header"))
        if not 0 < length <= MAX_HEADER:
            raise self.error(f"a header of at most {MAX_HEADER} bytes", f"{length}")
        data = self._read(length, "the header")
        try:
            return decode_header(data)
        except ValueError as error:
            raise self.error(f"a header of format {FORMAT}", str(error)) from error

    def _values(self, count: int) -> Iterator[tuple[int, bytes]]:
        for seq in range(1, count + 1):
            (length,) = LENGTH.unpack(self._read(LENGTH.size, f"record {seq}"))
            if not CHAIN_BYTES < length <= CHAIN_BYTES + MAX_RECORD_BYTES:
                raise self.error(f"record {seq} whole", f"a length of {length}")
            yield seq, self._read(length, f"record {seq}")

    def _require_created(self, entry: Entry, header: BundleHeader) -> None:
        try:
            record = entry.record
        except RecordError as error:
            raise self.error("the creation of a cache as record 1", error.message) from error
        payload = record.payload if isinstance(record.payload, dict) else {}
        if record.tag != _FIRST_EVENT or payload.get("cache_id") != header.cache_id:
            raise self.error(f"the creation of cache {header.cache_id} as record 1", record.tag)

    def _read(self, count: int, what: str) -> bytes:
        if self._left is not None and count > self._left:
            raise self.error(f"{what} whole", "the end of the file: it was cut short")
        with TranslateOSErrors(f"bundle {self.name}"):
            data = self._file.read(count)
        if len(data) != count:
            raise self._short_error(what, len(data))
        if self._left is not None:
            self._left -= count
        self.offset += count
        if self._hash is not None:
            self._hash.update(data)
        return data

    def _short_error(self, what: str, found: int) -> BundleError:
        if self._left is not None:
            return self.error("a file that nobody writes", "one that shrank while it was read")
        if not self.offset and not found:
            return self.error("a bundle", "nothing: its sender wrote no byte")
        return self.error(f"{what} whole", f"the end of the stream after {self.offset + found} bytes")

    def _skip(self, count: int) -> None:
        if self._hash is None and self._left is not None:
            self._file.seek(count, os.SEEK_CUR)
            self._left -= count
            self.offset += count
            return
        while count:
            count -= len(self._read(min(CHUNK, count), "an artifact"))


@contextmanager
def open_bundle(path: Path, *, hash_all: bool = True) -> Iterator[BundleReader]:
    """Open a bundle to be read in one pass.

    Args:
        path: The file.
        hash_all: Whether to hash every byte, so that `finish` can check the trailer. Otherwise content that
            nobody asks for is skipped unread.

    Raises:
        RequestRefusedError: It cannot be opened, or is no regular file.
        CacheUnusableError: This process lacks memory or open files.
    """
    try:
        fd = open_regular(path, follow_symlinks=True)
    except NotRegularError as error:
        raise _no_file_error(path, "a regular file", "something else") from error
    except OSError as error:
        if is_shortage(error):
            raise from_os_error(error, f"bundle {path}") from error
        raise _no_file_error(path, "a file to read", error.strerror or str(error)) from error
    with os.fdopen(fd, "rb") as file:
        left = max(0, os.fstat(fd).st_size - TRAILER_BYTES)
        yield BundleReader(str(path), file, left, hashlib.sha256() if hash_all else None)


def read_stream(file: BinaryIO, name: str) -> BundleReader:
    """Return the reader of a bundle that arrives, every byte of it hashed; errors call it `name`."""
    return BundleReader(name, file, None, hashlib.sha256())


def _bundle_error(name: str, expected: str, found: str, hint: str) -> BundleError:
    return BundleError(f"bundle {name}: expected {expected}, found {found}", kind=ErrorKind.BUNDLE, hint=hint)


def _no_file_error(path: Path, expected: str, found: str) -> RequestRefusedError:
    """Return the error of a path that says nothing about any bundle."""
    return RequestRefusedError(
        f"bundle {path}: expected {expected}, found {found}",
        kind=ErrorKind.FILE_SYSTEM,
        hint="name another",
    )
