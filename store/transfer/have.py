"""What a cache has, as one line of JSON, so that an export for it leaves that out.

`docs/bundle.md` describes every byte. Records say which artifacts a cache should have, so that a copy which follows
its source says how many records it has, and of artifacts only those that are not as its records say: a few hundred
bytes. An import that was killed left artifacts without records; they are listed with their sizes.

Nobody is believed: an export leaves out what the line says is there, and the import makes sure that it is.
"""

from collections.abc import Mapping, Sequence
from typing import BinaryIO, Final

from journal import Entry
from store.base import canonical_json
from store.base.canonical_json import is_digest
from store.base.valueclass import valueclass
from store.base.values import ArtifactRef
from store.cache.view import read_history
from store.disk.artifacts import Artifacts
from store.disk.layout import Layout
from store.domain.state import RecordedEvent
from store.errors import ErrorKind, RequestRefusedError, TranslateOSErrors
from store.transfer.bundle_format import MAX_ARTIFACTS
from store.transfer.selection import artifacts_expected
from store.verify.coverage import intact_artifacts

_FORMAT: Final = 1
_MAX_BYTES: Final = 1 << 27
"""More than MAX_ARTIFACTS digests with their sizes take."""
_MAX_NUMBER: Final = 1 << 62
_OWN_WAY: Final = (
    "it was written to, or imported without --follow: c10 import --follow with a new --cache DIR there;"
    " or, if it is ahead, export from there"
)
_ASK_AGAIN: Final = (
    "ask it again: c10 have --cache DIR, where the bundle goes; if that shows an error, mend it first"
)


@valueclass(frozen=True, slots=True, kw_only=True)
class Have:
    """What a cache has.

    Attributes:
        cache_id: The cache; None if there is none, and then there are no records.
        records: How many records it has.
        chain: Chain digest of the last one, hexadecimal; None if there is none.
        lacks: Digests of artifacts that its records name and it has not.
        extra: Digest to size, bytes, of artifacts that it has beside those.
    """

    cache_id: str | None
    records: int
    chain: str | None
    lacks: frozenset[str]
    extra: Mapping[str, int]

    def encode(self) -> bytes:
        """Return it as one line: canonical JSON and a newline."""
        document = {
            "format": _FORMAT,
            "cache_id": self.cache_id,
            "records": self.records,
            "chain": self.chain,
            "lacks": sorted(self.lacks),
            "extra": dict(self.extra),
        }
        return canonical_json.encode(document) + b"\n"


def find_have(layout: Layout, *, full: bool = False) -> Have:
    """Find out what a cache has; the folder need not exist.

    Args:
        layout: Where it is.
        full: Whether to hash the artifacts, so that damaged ones count as lacking; otherwise their size counts.

    Raises:
        RequestRefusedError: It is a mirror, which takes no bundles, or has too many artifacts for one.
        DamagedHistoryError, journal.JournalError: The journal cannot be trusted.
        StoreError: The folder cannot be read.
    """
    entries: Sequence[Entry] = ()
    expected, cache_id = dict[str, ArtifactRef](), ""
    if layout.exists():
        view = read_history(layout)
        entries, cache_id, expected = view.entries, view.state.cache_id, artifacts_expected(view.facts)
    artifacts = Artifacts(layout)
    with TranslateOSErrors(f"cache {layout.root}"):
        present = {
            digest: entry.stat(follow_symlinks=False).st_size
            for digest, entry in artifacts.names()
            if digest and entry.is_file(follow_symlinks=False)
        }
    if full:
        refs = [ArtifactRef(sha256=digest, size=size) for digest, size in present.items()]
        present = intact_artifacts(artifacts, refs)
    have = Have(
        cache_id=cache_id if entries else None,
        records=len(entries),
        chain=entries[-1].chain.hex() if entries else None,
        lacks=frozenset(digest for digest, ref in expected.items() if present.get(digest) != ref.size),
        extra={digest: size for digest, size in present.items() if digest not in expected},
    )
    if len(have.lacks) + len(have.extra) > MAX_ARTIFACTS:
        raise RequestRefusedError(
            f"expected at most {MAX_ARTIFACTS} artifacts that are not as the records say, found more in {layout.root}",
            kind=ErrorKind.BUNDLE,
            hint="c10 gc --yes there, or c10 export without --have",
        )
    return have


def read_have(file: BinaryIO, name: str) -> Have:
    """Read what `c10 have` printed, up to the end of a file or stream; errors call it `name`.

    Raises:
        RequestRefusedError: It is something else, or not whole.
        CacheUnusableError: It cannot be read.
    """
    with TranslateOSErrors(name):
        data = file.read(_MAX_BYTES + 1)
    try:
        return _decode(data)
    except ValueError as error:
        raise RequestRefusedError(
            f"{name}: expected the one line that c10 have prints, found {error}",
            kind=ErrorKind.BUNDLE,
            hint=_ASK_AGAIN,
        ) from error


def _decode(data: bytes) -> Have:
    """Return what a line says.

    Raises:
        ValueError: With what was found instead.
    """
    if not data:
        raise ValueError("nothing")
    if len(data) > _MAX_BYTES:
        raise ValueError(f"more than {_MAX_BYTES:,} bytes")
    try:
        found = canonical_json.decode(data.removesuffix(b"\n"))
    except ValueError as error:
        raise ValueError(f"{data[:40]!r}: cut short, or no canonical JSON") from error
    match found:
        case {"format": int(version)} if version != _FORMAT:
            raise ValueError(f"format {version!r:.40}; use the newer C10 that printed it")
        case {
            "format": 1,
            "cache_id": str() | None as cache_id,
            "records": int(records),
            "chain": str() | None as chain,
            "lacks": list(lacks),
            "extra": dict(extra),
            **rest,
        } if not rest and all(isinstance(digest, str) for digest in lacks):
            have = Have(cache_id=cache_id, records=records, chain=chain, lacks=frozenset(lacks), extra=extra)
        case _:
            raise ValueError("other keys")
    _check(have)
    # A format that is written as `true` equals 1; a digest that stands twice is one.
    if have.encode() != data:
        raise ValueError("another form of it")
    return have


def _check(have: Have) -> None:
    if type(have.records) is not int or not 0 <= have.records <= _MAX_NUMBER:
        raise ValueError(f"{have.records!r:.40} records")
    some = have.cache_id is not None and is_digest(have.chain)
    if not (some if have.records else have.cache_id is have.chain is None):
        raise ValueError(
            f"{have.records} records of cache {have.cache_id!r:.40} that end with {have.chain!r:.80}"
        )
    for digest in (*have.lacks, *have.extra):
        if not is_digest(digest):
            raise ValueError(f"{digest!r:.80} as digest")
    for size in have.extra.values():
        if type(size) is not int or not 0 <= size <= _MAX_NUMBER:
            raise ValueError(f"{size!r:.40} as size")


def artifacts_held(
    have: Have, cache_id: str, entries: Sequence[Entry], facts: Sequence[RecordedEvent]
) -> dict[str, int]:
    """Return digest to size of the artifacts that a copy has, as it says.

    Args:
        have: What it says.
        cache_id: The cache that is exported.
        entries: The records that are exported.
        facts: Their events.

    Raises:
        RequestRefusedError: It could not take these records: it is no copy of this cache, or is ahead.
    """
    count = have.records
    if not count:
        return dict(have.extra)
    if have.cache_id != cache_id:
        found, hint = f"cache {have.cache_id!r:.40}", "name another --cache DIR, there or here"
    elif count > len(entries) or entries[count - 1].chain.hex() != have.chain:
        found, hint = f"{count} that go on otherwise", _OWN_WAY
    else:
        expected = artifacts_expected(facts[:count])
        kept = {digest: ref.size for digest, ref in expected.items() if digest not in have.lacks}
        return {**kept, **have.extra}
    raise RequestRefusedError(
        f"expected a copy with the first of the {len(entries)} records of cache {cache_id}, found {found}",
        kind=ErrorKind.OWN_HISTORY,
        hint=hint,
    )
