r"""Write bundles: the records of a cache and chosen artifacts in one file that checks itself.

`docs/bundle.md` describes every byte. Integers are big-endian, nothing is compressed, and the same records
and artifacts give the same bytes on any machine:

    magic    8 bytes   b"C10BNDL\x01", the last byte being the format version
    header   length (4 bytes), then canonical JSON
    records  per record: length of the value (4 bytes), then the value as in the journal: chain, record bytes
    artifacts by rising digest: digest (32 bytes), size (8 bytes), content
    trailer  SHA-256 of everything before it

The records hold the signatures; manifests and signature files are projections of the records.
"""

import hashlib
import struct
from collections.abc import Callable, Iterable
from typing import Final

from journal import Entry
from journal.record import stored_bytes
from store.backports import StrEnum
from store.base import canonical_json
from store.base.canonical_json import is_digest
from store.base.valueclass import valueclass
from store.base.values import ArtifactRef

FORMAT: Final = 1
MAGIC: Final = b"C10BNDL\x01"
MAX_HEADER: Final = 4096
MAX_ARTIFACTS: Final = 1 << 20
"""How many artifacts one bundle holds, so that a reader can keep their table in memory."""

LENGTH: Final = struct.Struct(">I")
ARTIFACT: Final = struct.Struct(">32sQ")
TRAILER_BYTES: Final = 32
CHUNK: Final = 1 << 20
_MAX_COUNT: Final = 1 << 62


class Choice(StrEnum):
    """Which artifacts a bundle carries."""

    NONE = "none"
    FAILING = "failing"
    ALL = "all"


@valueclass(frozen=True, slots=True, kw_only=True)
class BundleHeader:
    """The header of a bundle. A reader checks all of it but choice and build against the content.

    Attributes:
        cache_id: The cache that the records come from.
        records: How many records, from the first on.
        chain: Chain digest of the last record, hexadecimal.
        choice: Which artifacts it carries.
        artifacts: How many.
        size: Their bytes, all together.
        build: The build that it was made for, which ends with the last record; None for the whole journal. A build
            without a record of its end has died: no build lock was held. One that still runs has no bundle of its own.
    """

    cache_id: str
    records: int
    chain: str
    choice: Choice
    artifacts: int
    size: int
    build: int | None = None

    def encode(self) -> bytes:
        """Return the header as canonical JSON."""
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


def decode_header(data: bytes) -> BundleHeader:
    """Return the header in canonical JSON.

    Raises:
        ValueError: With what is wrong.
    """
    match canonical_json.decode(data):
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
    # A header has exactly one form: `true` is no number, though it equals 1.
    if header.encode() != data:
        raise ValueError("another form of it")
    return header


def write_bundle(
    put: Callable[[bytes], object],
    header: BundleHeader,
    entries: Iterable[Entry],
    artifacts: Iterable[tuple[ArtifactRef, Iterable[bytes]]],
) -> ArtifactRef:
    """Write a bundle piece by piece.

    Args:
        put: Takes the bytes, in order.
        header: Its counts must be those of the content.
        entries: The records, from the first on.
        artifacts: Reference and content, by rising digest; the content must match the reference.

    Returns:
        Digest and size of the whole file.
    """
    state, size = hashlib.sha256(), 0

    def write(data: bytes) -> None:
        nonlocal size
        state.update(data)
        put(data)
        size += len(data)

    encoded = header.encode()
    write(MAGIC + LENGTH.pack(len(encoded)) + encoded)
    pending = bytearray()
    for entry in entries:
        value = stored_bytes(entry)
        pending += LENGTH.pack(len(value)) + value
        if len(pending) >= CHUNK:
            write(bytes(pending))
            pending.clear()
    write(bytes(pending))
    for ref, pieces in artifacts:
        write(ARTIFACT.pack(bytes.fromhex(ref.sha256), ref.size))
        for piece in pieces:
            write(piece)
    write(state.digest())
    return ArtifactRef(sha256=state.hexdigest(), size=size)
