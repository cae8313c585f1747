"""Encode and decode records as canonical MessagePack, and compute the digest chain over them. Pure.

A record has exactly one encoding, and only that one decodes. So two different byte strings never mean the
same record.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sized
from functools import lru_cache, partial
from hashlib import sha256
from typing import Final, NamedTuple, NewType, TypeAlias, cast

import msgpack

from journal.errors import JournalDamagedError, RecordError

Payload: TypeAlias = "bool | int | float | str | bytes | list[Payload] | dict[str, Payload] | None"
"""What a record can hold: integers from -2^63 to 2^64-1, finite floats, no tuples, maps with text keys."""

Chain = NewType("Chain", bytes)
"""32-byte digest of a record and all records before it."""

MAX_RECORD_BYTES: Final = 1 << 20
MAX_DEPTH: Final = 32
MAX_MEMBERS: Final = 1 << 16
CHAIN_BYTES: Final = 32
GENESIS: Final = Chain(bytes(CHAIN_BYTES))

_DOMAIN: Final = b"c10/journal/chain/v1\0"
_PROJECTION_DOMAIN: Final = b"c10/journal/projection/v1\0"
_TAG_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz0123456789._-"
_MAX_TAG: Final = 64
_FIELDS: Final = 6
_FEW_KEYS: Final = 32
_ALWAYS_VALID: Final = frozenset({bool, bytes, type(None)})
_LEAVES: Final = frozenset({str, int, bool, bytes, type(None)})
_INT64_MIN, _INT64_MAX, _UINT64_MAX = -(1 << 63), (1 << 63) - 1, (1 << 64) - 1
_VERSION_MAX: Final = (1 << 31) - 1


class Head(NamedTuple):
    """The place of the newest record, counted from 1, and its chain digest; `EMPTY` if there is none."""

    seq: int
    chain: Chain


EMPTY: Final = Head(0, GENESIS)


class Record(NamedTuple):
    """A payload with its envelope.

    Attributes:
        tag: Kind of the payload, 1 to 64 of `a-z 0-9 . _ -`; never changes once it was written.
        version: Version of the payload under this tag, from 1.
        build: Number of the build it belongs to, from 0; None if it belongs to none.
        wall_ns: Nanoseconds since 1970-01-01 UTC, for people; clocks step, so it says nothing about order.
        mono_ns: Nanoseconds of a clock that never steps back, from 0; comparable within one boot only.
        payload: The content.
    """

    tag: str
    version: int
    build: int | None
    wall_ns: int
    mono_ns: int
    payload: Payload


class Entry(NamedTuple):
    """A record as the journal holds it, its digest checked. A tuple, which is quick to create.

    Attributes:
        seq: Its place, from 1.
        chain: Digest of it and all before it.
        raw: The record bytes.
    """

    seq: int
    chain: Chain
    raw: bytes

    @property
    def record(self) -> Record:
        """The decoded record; decoded at every call.

        Raises:
            RecordError: The bytes are no canonical record.
        """
        return decode(self.raw)

    @property
    def head(self) -> Head:
        """The head when this record was the newest."""
        return Head(self.seq, self.chain)


_make_entry: Final[Callable[[tuple[int, bytes, bytes]], Entry]] = partial(tuple.__new__, Entry)
"""Makes an entry of its fields without a Python call, since there is one for every record read."""


def encode(record: Record) -> bytes:
    """Encode a record.

    Returns:
        Canonical MessagePack of `[tag, version, build, wall_ns, mono_ns, payload]`, at most 1 MiB.

    Raises:
        RecordError: A field is out of range, the payload is no `Payload`, or the record is too big.
    """
    try:
        return _encode(record)
    except RecordError as error:
        error.category = "refused"  # nothing is damaged: the caller gave what no record holds
        raise


def _encode(record: Record) -> bytes:
    _check_envelope(record.tag, record.version, record.build, record.wall_ns, record.mono_ns)
    payload = _to_canonical(record.payload, 1)
    raw = _pack([record.tag, record.version, record.build, record.wall_ns, record.mono_ns, payload])
    if len(raw) > MAX_RECORD_BYTES:
        raise RecordError(
            f"a record has at most {MAX_RECORD_BYTES} bytes, this one of tag {record.tag!r} has {len(raw)}",
            hint="store large content as an artifact and record its digest",
        )
    return raw


def decode(raw: bytes) -> Record:
    """Decode untrusted record bytes; refuse everything that `encode` would not have written.

    Raises:
        RecordError: The bytes are no canonical record. No bytes cause another error.
    """
    tag, version, build, wall_ns, mono_ns, payload = decode_fields(raw)
    return Record(tag=tag, version=version, build=build, wall_ns=wall_ns, mono_ns=mono_ns, payload=payload)


def decode_fields(raw: bytes, *, canonical: bool = True) -> tuple[str, int, int | None, int, int, Payload]:
    """Return the fields of a record in their order, without creating a `Record`; otherwise like `decode`.

    Args:
        raw: The bytes.
        canonical: Whether to refuse another encoding of the same values. Not needed for bytes that this
            program's `encode` wrote and whose chain was checked.
    """
    if len(raw) > MAX_RECORD_BYTES:
        raise RecordError(f"record bytes: at most {MAX_RECORD_BYTES} expected, {len(raw)} found")
    try:
        fields = msgpack.unpackb(
            raw,
            raw=False,
            use_list=True,
            strict_map_key=True,
            max_str_len=MAX_RECORD_BYTES,
            max_bin_len=MAX_RECORD_BYTES,
            max_array_len=MAX_MEMBERS,
            max_map_len=MAX_MEMBERS,
            max_ext_len=0,
        )
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise RecordError(f"record bytes are not MessagePack within the limits: {error!r}") from error
    if type(fields) is not list or len(fields) != _FIELDS:
        raise RecordError(f"record bytes: an array of {_FIELDS} expected, found {_describe(fields)}")
    tag, version, build, wall_ns, mono_ns, payload = fields
    _check_envelope(tag, version, build, wall_ns, mono_ns)
    if canonical and (not _is_surely_canonical(payload, 1) or _pack(fields) != raw):
        # Encoding it from the beginning names what is wrong.
        record = Record(
            tag=tag, version=version, build=build, wall_ns=wall_ns, mono_ns=mono_ns, payload=payload
        )
        if _encode(record) != raw:
            raise RecordError(
                f"record bytes of tag {tag!r} are not canonical: the same record encodes to other bytes"
            )
    return tag, version, build, wall_ns, mono_ns, payload


def link(prev: Chain, record_bytes: bytes) -> Chain:
    """Return the chain digest of a record: SHA-256 of a domain string, the previous digest and its bytes."""
    return Chain(sha256(b"".join((_DOMAIN, prev, record_bytes))).digest())


def extend(head: Head, records: Iterable[bytes]) -> Head:
    """Return the head after appending records, given as their bytes."""
    seq, chain = head
    for raw in records:
        seq, chain = seq + 1, link(chain, raw)
    return Head(seq, chain)


def stored_bytes(entry: Entry) -> bytes:
    """Return the bytes that a journal stores for an entry: chain, then record bytes."""
    return entry.chain + entry.raw


def verify_chain(head: Head, values: Iterable[tuple[int, bytes]]) -> Iterator[Entry]:
    """Check the chain digests of stored values that follow a trusted head, and yield their entries.

    Args:
        head: The head before the first value; `EMPTY` at the beginning of a journal.
        values: Seq and stored bytes, in order.

    Raises:
        JournalDamagedError: A record is missing, cut short or changed; `seq` is the first that cannot be
            trusted.
    """
    last: int = head.seq
    prev: bytes = head.chain
    # Inlined instead of calling `link` and `Head`: this runs for every record whenever a journal is read.
    for seq, value in values:
        if seq != last + 1:
            raise JournalDamagedError(
                f"record {last + 1} expected, the journal continues with {seq}", seq=last + 1
            )
        chain, raw = value[:CHAIN_BYTES], value[CHAIN_BYTES:]
        if not raw or sha256(b"".join((_DOMAIN, prev, raw))).digest() != chain:
            raise JournalDamagedError(
                f"record {seq} does not continue the chain: it, its digest or a record before it was changed",
                seq=seq,
            )
        last, prev = seq, chain
        yield _make_entry((seq, prev, raw))


def pack_projection(name: bytes, value: bytes) -> bytes:
    """Return the bytes that a journal stores for a projection: a digest of name and value, then the value."""
    return _projection_digest(name, value) + value


def unpack_projection(name: bytes, packed: bytes) -> bytes:
    """Return the value of a projection from its stored bytes.

    Raises:
        JournalDamagedError: The bytes were changed, or belong to another name.
    """
    value = packed[CHAIN_BYTES:]
    if packed[:CHAIN_BYTES] != _projection_digest(name, value):
        raise JournalDamagedError(
            f"projection {name!r} does not match its digest",
            hint="delete it and compute it again from the records",
        )
    return value


def _projection_digest(name: bytes, value: bytes) -> bytes:
    return sha256(b"".join((_PROJECTION_DOMAIN, len(name).to_bytes(2, "big"), name, value))).digest()


def _check_envelope(tag: str, version: int, build: int | None, wall_ns: int, mono_ns: int) -> None:
    if type(tag) is not str or not 0 < len(tag) <= _MAX_TAG or tag.strip(_TAG_LETTERS):
        raise RecordError(f"tag: 1 to 64 of a-z 0-9 . _ - expected, found {tag!r:.80}")
    # bool is an int to Python and something else to MessagePack, so the exact type is compared.
    if not (
        type(version) is type(wall_ns) is type(mono_ns) is int
        and (build is None or (type(build) is int and 0 <= build <= _INT64_MAX))
        and 1 <= version <= _VERSION_MAX
        and _INT64_MIN <= wall_ns <= _INT64_MAX
        and 0 <= mono_ns <= _INT64_MAX
    ):
        # Checked one by one, to name what is wrong.
        _check_integer("version", version, 1, _VERSION_MAX)
        if build is not None:
            _check_integer("build", build, 0, _INT64_MAX)
        _check_integer("wall_ns", wall_ns, _INT64_MIN, _INT64_MAX)
        _check_integer("mono_ns", mono_ns, 0, _INT64_MAX)


def _check_integer(name: str, value: object, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise RecordError(f"{name}: an integer from {low} to {high} expected, found {value!r:.80}")


def _is_surely_canonical(value: object, depth: int) -> bool:
    """Return True only if `_to_canonical` would return an unpacked tree as it is; does not copy the tree.

    MessagePack guarantees valid UTF-8 and integers within 64 bits. This checks the types of values, the keys
    and the depth. A float gives False, since it may be NaN.
    """
    kind = type(value)
    if kind is dict:
        members = cast("dict[object, object]", value)
        keys = tuple(members)
        if not (_are_keys_in_order_cached(keys) if len(keys) <= _FEW_KEYS else _are_keys_in_order(keys)):
            return False
        values: Iterable[object] = members.values()
    elif kind is list:
        values = cast("list[object]", value)
    else:
        return kind in _LEAVES
    if depth > MAX_DEPTH:
        return False
    # Leaves are skipped inline: a call for each would take longer than all the rest.
    return all(_is_surely_canonical(member, depth + 1) for member in values if type(member) not in _LEAVES)


def _are_keys_in_order(keys: tuple[object, ...]) -> bool:
    return all(type(key) is str for key in keys) and list(keys) == sorted(cast("tuple[str, ...]", keys))


# A journal has few kinds of maps. The cache is small and takes no long ones, because a hostile journal may
# have a megabyte of keys in each record; so it takes 64 MiB at most.
_are_keys_in_order_cached = lru_cache(maxsize=64)(_are_keys_in_order)


def _to_canonical(value: object, depth: int) -> Payload:
    """Return the tree with its maps in key order; refuse a tree that is no `Payload`.

    Exact types are required: an enumeration member or a NumPy scalar would decode as another type.
    """
    if type(value) is str:
        if not value.isascii():
            _require_utf8(value)
        return value
    if type(value) is int:
        if not _INT64_MIN <= value <= _UINT64_MAX:
            raise RecordError(
                f"payload: integers from -2^63 to 2^64-1 expected, found one of {value.bit_length()} bits"
            )
        return value
    if type(value) in _ALWAYS_VALID:
        return cast("bool | bytes | None", value)
    if type(value) is float:
        if not math.isfinite(value):
            raise RecordError(f"payload: finite floats expected, found {value!r}")
        return value
    if type(value) is list:
        _check_members(value, depth)
        return [
            member if type(member) in _ALWAYS_VALID else _to_canonical(member, depth + 1) for member in value
        ]
    if type(value) is dict:
        _check_members(value, depth)
        return {
            key: member if type(member := value[key]) in _ALWAYS_VALID else _to_canonical(member, depth + 1)
            for key in _sorted_keys(value)
        }
    raise RecordError(
        "payload: null, bool, int, float, str, bytes, list or dict with text keys expected, "
        f"found {type(value).__qualname__}",
        hint="convert it before recording it",
    )


def _sorted_keys(keys: Iterable[str]) -> list[str]:
    for key in keys:
        # Called only for keys that may fail: this runs for every key of every record.
        if type(key) is not str or not key.isascii():
            _require_utf8(key)
    # The order of UTF-8 bytes is the order of code points, which is how Python sorts text.
    return sorted(keys)


def _check_members(value: Sized, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise RecordError(f"payload: at most {MAX_DEPTH} nested lists and dicts expected, found more")
    if len(value) > MAX_MEMBERS:
        raise RecordError(
            f"payload: at most {MAX_MEMBERS} members in a list or dict expected, found {len(value)}"
        )


def _require_utf8(text: object) -> None:
    if type(text) is not str:
        raise RecordError(f"payload: text as the key of a dict expected, found {type(text).__qualname__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RecordError(
            f"payload: text that UTF-8 can hold expected, found a lone surrogate: {error}"
        ) from error


def _pack(tree: Payload) -> bytes:
    packed: bytes = msgpack.Packer(use_bin_type=True, strict_types=True).pack(tree)
    return packed


def _describe(value: object) -> str:
    return f"an array of {len(value)}" if isinstance(value, list) else type(value).__qualname__
