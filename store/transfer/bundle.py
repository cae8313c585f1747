r"""A bundle: the records of a cache and artifacts by choice, in one file that checks itself.

`docs/bundle.md` describes every byte. Integers are big-endian, nothing is compressed, and the same records and
artifacts give the same bytes on any machine:

    magic    8 bytes   b"C10BNDL\\x01", the last byte being the format version
    header   length (4 bytes), then canonical JSON
    records  per record: length of the value (4 bytes), then the value as it stands in the journal: chain, record bytes
    artifacts by rising digest: digest (32 bytes), size (8 bytes), content
    trailer  SHA-256 of everything before it

Signatures stand in the records, of which manifests and signature files are projections. A bundle is written and read in
one pass. Whoever reads one believes nothing in it: each length is held against what is left of the file before anything
is read, each record against the chain, each artifact against its digest.
"""

import hashlib
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, Final

from journal import Entry, JournalDamagedError, RecordError
from journal.record import CHAIN_BYTES, EMPTY, MAX_RECORD_BYTES, Head, follow, stored
from store.base import canonical_json
from store.base.canonical_json import is_digest
from store.base.values import ArtifactRef
from store.errors import ArtifactError, BundleError, ErrorKind, from_os_error
from store.files.regular_file import NotRegularError, open_regular

FORMAT: Final = 1
MAGIC: Final = b"C10BNDL\x01"
MAX_HEADER: Final = 4096
MAX_ARTIFACTS: Final = 1 << 20
"""How many artifacts one bundle holds; of a larger number nobody knows how to keep a table in memory."""

MAX_READ: Final = 1 << 30
"""Longer artifacts are not read into memory."""

_COPY_AGAIN: Final = "copy it again, or make it again: c10 export"
_FAMILY: Final = MAGIC[:-1]
_LENGTH: Final = struct.Struct(">I")
_ARTIFACT: Final = struct.Struct(">32sQ")
_TRAILER: Final = 32
_CHUNK: Final = 1 << 20
_MAX_COUNT: Final = 1 << 62
_GENESIS: Final = "cache.created"


class Choice(StrEnum):
    """Which artifacts a bundle carries."""

    NONE = "none"
    FAILING = "failing"
    ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleHeader:
    """What a bundle says of itself; everything but the choice and the build is held against its content.

    Attributes:
        cache_id: Of the cache that it comes from.
        records: How many records, from the first on.
        chain: Chain digest of the last of them, hexadecimal.
        choice: Which artifacts it carries.
        artifacts: How many.
        size: Their bytes, all together.
        build: The build that it was made for, whose end is its last record; None for the whole journal.
    """

    cache_id: str
    records: int
    chain: str
    choice: Choice
    artifacts: int
    size: int
    build: int | None = None

    def encode(self) -> bytes:
        """Return its canonical JSON."""
        return canonical_json.encode(
            {
                "format": FORMAT,
                "cache_id": self.cache_id,
                "records": self.records,
                "chain": self.chain,
                "build": self.build,
                "artifacts": {"choice": str(self.choice), "count": self.artifacts, "bytes": self.size},
            }
        )


def write(
    put: Callable[[bytes], object],
    header: BundleHeader,
    entries: Iterable[Entry],
    artifacts: Iterable[tuple[ArtifactRef, Iterable[bytes]]],
) -> ArtifactRef:
    """Write a bundle piece by piece.

    Args:
        put: Takes the bytes, in order.
        header: What it will say; the caller counted.
        entries: The records, from the first on.
        artifacts: Reference and content, by rising digest; the content is what the reference says.

    Returns:
        Digest and size of the whole file.
    """
    state, size = hashlib.sha256(), 0

    def out(data: bytes) -> None:
        nonlocal size
        state.update(data)
        put(data)
        size += len(data)

    told = header.encode()
    out(MAGIC + _LENGTH.pack(len(told)) + told)
    pending = bytearray()
    for entry in entries:
        value = stored(entry)
        pending += _LENGTH.pack(len(value)) + value
        if len(pending) >= _CHUNK:
            out(bytes(pending))
            pending.clear()
    out(bytes(pending))
    for ref, pieces in artifacts:
        out(_ARTIFACT.pack(bytes.fromhex(ref.sha256), ref.size))
        for piece in pieces:
            out(piece)
    out(state.digest())
    return ArtifactRef(sha256=state.hexdigest(), size=size)


@dataclass(slots=True)
class BundleReader:
    """A bundle that is read from its beginning to its end, in this order: header, `entries`, `artifacts`, `finish`."""

    path: Path
    _file: BinaryIO
    _left: int
    _hash: "hashlib._Hash | None"
    _read: int = 0
    _header: BundleHeader | None = None

    @property
    def header(self) -> BundleHeader:
        """What it says of itself.

        Raises:
            BundleError: It is no bundle, cut short, or of a newer version.
        """
        if self._header is None:
            self._header = self._take_header()
        return self._header

    def entries(self) -> Iterator[Entry]:
        """Yield the records, each link of the chain checked.

        Raises:
            BundleError: One is missing, damaged, or not what the header says.
        """
        header, last = self.header, EMPTY
        try:
            for entry in follow(EMPTY, self._values(header.records)):
                if entry.seq == 1:
                    self._require_genesis(entry, header)
                last = entry.head
                yield entry
        except JournalDamagedError as error:
            raise self._wrong("an unbroken chain", error.message) from error
        if last.chain.hex() != header.chain:
            raise self._wrong(f"the chain to end with {header.chain[:12]}", last.chain.hex()[:12])

    def artifacts(self) -> Iterator[ArtifactRef]:
        """Yield the reference of each artifact; its content is skipped unless `pieces` was used up meanwhile.

        Raises:
            BundleError: They are not in order, cut short, or not what the header says.
        """
        header, before, total = self.header, b"", 0
        for number in range(1, header.artifacts + 1):
            digest, size = _ARTIFACT.unpack(self._take(_ARTIFACT.size, f"artifact {number}"))
            if digest <= before:
                raise self._wrong("artifacts by rising digest, each once", digest.hex()[:12])
            if size > self._left:
                raise self._wrong(
                    f"the {size} bytes of artifact {digest.hex()[:12]}",
                    f"{self._left} before the end of the file: it was cut short",
                )
            before, total, end = digest, total + size, self._left - size
            yield ArtifactRef(sha256=digest.hex(), size=size)
            self._skip(self._left - end)
        if total != header.size:
            raise self._wrong(f"artifacts of {header.size} bytes", f"{total}")

    @property
    def at(self) -> int:
        """Where in the file the next byte is read."""
        return self._read

    def pieces(self, ref: ArtifactRef) -> Iterator[bytes]:
        """Yield the content of the artifact that `artifacts` has just named; nobody has checked it."""
        left = ref.size
        while left:
            piece = self._take(min(_CHUNK, left), f"artifact {ref.sha256[:12]}")
            left -= len(piece)
            yield piece

    def damaged(self, error: ArtifactError) -> BundleError:
        """Return the error of a bundle in which one of its artifacts is another than it says."""
        return BundleError(f"bundle {self.path}: {error.message}", kind=ErrorKind.BUNDLE, hint=_COPY_AGAIN)

    def finish(self) -> ArtifactRef:
        """Check that nothing is left, and, if it was asked for, the trailer; returns digest and size of the file.

        Raises:
            BundleError: There is more, or other bytes than were written.
        """
        if self._left:
            raise self._wrong("nothing between the last artifact and the trailer", f"{self._left} bytes")
        expected = b"" if self._hash is None else self._hash.digest()
        self._left = _TRAILER
        trailer = self._take(_TRAILER, "the trailer")
        if self._hash is None:
            return ArtifactRef(sha256="", size=self._read)
        if trailer != expected:
            raise self._wrong(f"bytes with SHA-256 {trailer.hex()[:12]}", f"others: {expected.hex()[:12]}")
        if self._file.read(1):
            raise self._wrong("a file that nobody writes", "one that grew while it was read")
        return ArtifactRef(sha256=self._hash.hexdigest(), size=self._read)

    def _take_header(self) -> BundleHeader:
        magic = self._take(len(MAGIC), "its first bytes")
        if magic != MAGIC:
            if magic.startswith(_FAMILY):
                raise BundleError(
                    f"bundle {self.path}: expected format {FORMAT}, found {magic[-1]}",
                    kind=ErrorKind.BUNDLE,
                    hint="use the newer C10 that wrote it",
                )
            raise self._wrong("a bundle", "a file that begins otherwise")
        (length,) = _LENGTH.unpack(self._take(_LENGTH.size, "the header"))
        if not 0 < length <= MAX_HEADER:
            raise self._wrong(f"a header of at most {MAX_HEADER} bytes", f"{length}")
        told = self._take(length, "the header")
        try:
            return _header(told)
        except ValueError as error:
            raise self._wrong(f"a header of format {FORMAT}", str(error)) from error

    def _values(self, count: int) -> Iterator[tuple[int, bytes]]:
        for seq in range(1, count + 1):
            (length,) = _LENGTH.unpack(self._take(_LENGTH.size, f"record {seq}"))
            if not CHAIN_BYTES < length <= CHAIN_BYTES + MAX_RECORD_BYTES:
                raise self._wrong(f"record {seq} whole", f"a length of {length}")
            yield seq, self._take(length, f"record {seq}")

    def _require_genesis(self, entry: Entry, header: BundleHeader) -> None:
        try:
            record = entry.record
        except RecordError as error:
            raise self._wrong("the genesis of a cache as record 1", error.message) from error
        payload = record.payload if isinstance(record.payload, dict) else {}
        if record.tag != _GENESIS or payload.get("cache_id") != header.cache_id:
            raise self._wrong(f"the genesis of cache {header.cache_id} as record 1", record.tag)

    def _take(self, count: int, what: str) -> bytes:
        if count > self._left:
            raise self._wrong(f"{what} whole", "the end of the file: it was cut short")
        try:
            data = self._file.read(count)
        except OSError as error:
            raise from_os_error(error, f"bundle {self.path}") from error
        if len(data) != count:
            raise self._wrong("a file that nobody writes", "one that shrank while it was read")
        self._left -= count
        self._read += count
        if self._hash is not None:
            self._hash.update(data)
        return data

    def _skip(self, count: int) -> None:
        if self._hash is None:
            self._file.seek(count, os.SEEK_CUR)
            self._left -= count
            self._read += count
            return
        while count:
            count -= len(self._take(min(_CHUNK, count), "an artifact"))

    def _wrong(self, expected: str, found: str) -> BundleError:
        return BundleError(
            f"bundle {self.path}: expected {expected}, found {found}",
            kind=ErrorKind.BUNDLE,
            hint=_COPY_AGAIN,
        )


@contextmanager
def open_bundle(path: Path, *, whole: bool = True) -> Iterator[BundleReader]:
    """Open a bundle to be read in one pass.

    Args:
        path: The file.
        whole: Whether to hash all of it, so that `finish` knows that not a byte is another; without that, content that is
            not asked for is not read.

    Raises:
        BundleError: It cannot be opened, or is no regular file.
    """
    try:
        fd = open_regular(path, follow_symlinks=True)
    except NotRegularError as error:
        raise BundleError(
            f"bundle {path}: expected a regular file, found something else",
            kind=ErrorKind.BUNDLE,
            hint="name another",
        ) from error
    except OSError as error:
        found = error.strerror or str(error)
        raise BundleError(
            f"bundle {path}: expected a file to read, found: {found}",
            kind=ErrorKind.BUNDLE,
            hint="name another",
        ) from error
    with os.fdopen(fd, "rb") as file:
        left = max(0, os.fstat(fd).st_size - _TRAILER)
        yield BundleReader(path, file, left, hashlib.sha256() if whole else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A bundle that can be looked into: its records, their chain checked, and where its artifacts lie.

    Content is hashed when it is read, so that the file may be large, and may change: what is not what its digest says is
    not there.
    """

    path: Path
    header: BundleHeader
    entries: tuple[Entry, ...] = field(repr=False)
    _places: Mapping[str, tuple[int, int]] = field(repr=False)

    @property
    def head(self) -> Head:
        """The last record."""
        return self.entries[-1].head

    def holds(self, ref: ArtifactRef) -> bool:
        """Whether it carries an artifact of this digest and size."""
        found = self._places.get(ref.sha256)
        return found is not None and found[1] == ref.size

    def read(self, ref: ArtifactRef) -> bytes | None:
        """Return the bytes of an artifact after checking them; nothing if it is not carried, damaged, or very long."""
        if not self.holds(ref) or ref.size > MAX_READ:
            return None
        offset, size = self._places[ref.sha256]
        try:
            with self.path.open("rb") as file:
                file.seek(offset)
                data = file.read(size)
        except OSError:
            return None
        return data if hashlib.sha256(data).hexdigest() == ref.sha256 else None


def read(path: Path) -> Bundle:
    """Look into a bundle: read its records, and find its artifacts without reading them.

    Raises:
        BundleError: It is no bundle, or not whole.
        CacheUnusableError: It cannot be read.
    """
    with open_bundle(path, whole=False) as found:
        header, entries = found.header, tuple(found.entries())
        places: dict[str, tuple[int, int]] = {}
        for ref in found.artifacts():
            places[ref.sha256] = (found.at, ref.size)
        found.finish()
    return Bundle(path=path, header=header, entries=entries, _places=places)


def _header(told: bytes) -> BundleHeader:
    """Take a header apart.

    Raises:
        ValueError: With what is wrong.
    """
    match canonical_json.decode(told):
        case {
            "format": 1,
            "cache_id": str(cache_id),
            "records": int(records),
            "chain": str(chain),
            "build": build,
            "artifacts": {"choice": str(choice), "count": int(count), "bytes": int(size), **more},
            **rest,
        } if not rest and not more:
            numbers = {"records": records, "artifacts": count, "bytes": size}
        case _:
            raise ValueError("other fields")
    for name, number in numbers.items():
        if type(number) is not int or not 0 <= number <= _MAX_COUNT:
            raise ValueError(f"{number!r:.40} {name}")
    if not records or count > MAX_ARTIFACTS:
        raise ValueError(f"{records} records and {count} artifacts")
    if not is_digest(chain) or choice not in set(Choice):
        raise ValueError(f"{chain!r:.80} as chain and {choice!r:.40} as choice")
    if build is not None and (type(build) is not int or not 0 < build <= _MAX_COUNT):
        raise ValueError(f"{build!r:.40} as build")
    header = BundleHeader(
        cache_id=cache_id,
        records=records,
        chain=chain,
        choice=Choice(choice),
        artifacts=count,
        size=size,
        build=build,
    )
    # One header has one form: `true` is no number, though it equals 1.
    if header.encode() != told:
        raise ValueError("another form of it")
    return header
