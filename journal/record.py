"""A record and its bytes: canonical MessagePack, and the digest chain over it.

A value has exactly one encoding, and only that one decodes: two different byte strings never mean the same record,
so a digest of the bytes is a digest of the meaning. Nothing in here reads a file, a clock or the environment.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from functools import lru_cache, partial
from hashlib import sha256
from typing import Final, NamedTuple, NewType, TypeAlias, cast

import msgpack

from journal.errors import JournalDamagedError, RecordError

Payload: TypeAlias = "bool | int | float | str | bytes | list[Payload] | dict[str, Payload] | None"
"""A tree that a record can hold. Integers from -2^63 to 2^64-1, finite floats, no tuples, maps with text keys."""

Chain = NewType("Chain", bytes)
"""32-byte digest of a record and all records before it."""

MAX_RECORD_BYTES: Final = 1 << 20
MAX_DEPTH: Final = 32
MAX_MEMBERS: Final = 1 << 16
CHAIN_BYTES: Final = 32
GENESIS: Final = Chain(bytes(CHAIN_BYTES))

_DOMAIN: Final = b"c10/journal/chain/v1\0"
_SEAL_DOMAIN: Final = b"c10/journal/projection/v1\0"
_is_tag: Final = re.compile(r"[a-z0-9._-]{1,64}").fullmatch
_FIELDS: Final = 6
_FEW_KEYS: Final = 32
_PLAIN: Final = frozenset({bool, bytes, type(None)})
_LEAVES: Final = frozenset({str, int, bool, bytes, type(None)})
_INT64_MIN, _INT64_MAX, _UINT64_MAX = -(1 << 63), (1 << 63) - 1, (1 << 64) - 1
_VERSION_MAX: Final = (1 << 31) - 1


class Head(NamedTuple):
    """The newest record of a journal: its place, counted from 1, and its chain digest. Empty: `EMPTY`."""

    seq: int
    chain: Chain


EMPTY: Final = Head(0, GENESIS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A fact with its envelope.

    Attributes:
        tag: What kind of fact, 1 to 64 of `a-z 0-9 . _ -`; never changes once it was written.
        version: Of the payload under this tag, from 1.
        build: Number of the build it belongs to, from 0; None if it belongs to none.
        wall_ns: Nanoseconds since 1970-01-01 UTC, for people; clocks step, so it says nothing about order.
        mono_ns: Nanoseconds of a clock that never steps back, from 0; comparable within one boot only.
        payload: The fact itself.
    """

    tag: str
    version: int
    build: int | None
    wall_ns: int
    mono_ns: int
    payload: Payload


class Entry(NamedTuple):
    """A record as the journal holds it, its chain link checked. A tuple, since there is one for every record read.

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
        """The decoded record; decoded again at every call.

        Raises:
            RecordError: The bytes are no canonical record.
        """
        return decode(self.raw)

    @property
    def head(self) -> Head:
        """What the head was when this record was the newest."""
        return Head(self.seq, self.chain)


_entry: Final[Callable[[tuple[int, bytes, bytes]], Entry]] = partial(tuple.__new__, Entry)
"""An entry of its fields, without a call of Python for each."""


def encode(record: Record) -> bytes:
    """Encode a record.

    Returns:
        Canonical MessagePack of `[tag, version, build, wall_ns, mono_ns, payload]`, at most 1 MiB.

    Raises:
        RecordError: A field is out of its range, the payload holds something else than `Payload`, or it is too big.
    """
    _check_envelope(record.tag, record.version, record.build, record.wall_ns, record.mono_ns)
    payload = _ordered(record.payload, 1)
    raw = _pack([record.tag, record.version, record.build, record.wall_ns, record.mono_ns, payload])
    if len(raw) > MAX_RECORD_BYTES:
        raise RecordError(
            f"a record has at most {MAX_RECORD_BYTES} bytes, this one of tag {record.tag!r} has {len(raw)}",
            hint="store large content as an artifact and record its digest",
        )
    return raw


def decode(raw: bytes) -> Record:
    """Decode record bytes from anywhere; refuses everything that `encode` would not have written.

    Raises:
        RecordError: The only error that bytes can cause, whatever they are.
    """
    tag, version, build, wall_ns, mono_ns, payload = decode_fields(raw)
    return Record(tag=tag, version=version, build=build, wall_ns=wall_ns, mono_ns=mono_ns, payload=payload)


def decode_fields(raw: bytes, *, canonical: bool = True) -> tuple[str, int, int | None, int, int, Payload]:
    """The fields of a record in their order; as `decode`, for who reads a million and keeps none of them.

    Args:
        raw: The bytes.
        canonical: Whether to refuse another form of the same values. Who reads what its own `encode` wrote, and has
            checked the chain over it, may leave that out.
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
        raise RecordError(f"record bytes: an array of {_FIELDS} expected, found {_kind_of(fields)}")
    tag, version, build, wall_ns, mono_ns, payload = fields
    _check_envelope(tag, version, build, wall_ns, mono_ns)
    if canonical and (not _is_in_order(payload, 1) or _pack(fields) != raw):
        # Encode it again from the beginning: that names what is wrong.
        record = Record(
            tag=tag, version=version, build=build, wall_ns=wall_ns, mono_ns=mono_ns, payload=payload
        )
        if encode(record) != raw:
            raise RecordError(
                f"record bytes of tag {tag!r} are not canonical: the same record encodes to other bytes"
            )
    return tag, version, build, wall_ns, mono_ns, payload


def canonical(payload: Payload) -> bytes:
    """The one encoding of a tree: equal trees give equal bytes, whatever the order of their maps.

    Raises:
        RecordError: The tree holds something else than `Payload`, or is nested or branched too far.
    """
    return _pack(_ordered(payload, 1))


def link(prev: Chain, record_bytes: bytes) -> Chain:
    """The chain digest of a record: SHA-256 over a domain string, the digest before it, and its bytes."""
    return Chain(sha256(b"".join((_DOMAIN, prev, record_bytes))).digest())


def extend(head: Head, records: Iterable[bytes]) -> Head:
    """The head after appending records, given as their bytes."""
    seq, chain = head
    for raw in records:
        seq, chain = seq + 1, link(chain, raw)
    return Head(seq, chain)


def stored(entry: Entry) -> bytes:
    """The bytes under which a journal keeps an entry: chain, then record bytes."""
    return entry.chain + entry.raw


def follow(head: Head, values: Iterable[tuple[int, bytes]]) -> Iterator[Entry]:
    """Check stored values link by link, beginning after a head that is trusted.

    Args:
        head: What precedes the first value; `EMPTY` at the beginning of a journal.
        values: Seq and stored bytes, in order.

    Raises:
        JournalDamagedError: A record is missing, cut short or changed; `seq` is the first that cannot be trusted.
    """
    last: int = head.seq
    prev: bytes = head.chain
    # Written out rather than through `link` and `Head`: this runs for every record whenever a journal is read.
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
        yield _entry((seq, prev, raw))


def seal(name: bytes, value: bytes) -> bytes:
    """The bytes under which a journal keeps a projection: a digest over name and value, then the value."""
    return _seal_digest(name, value) + value


def unseal(name: bytes, sealed: bytes) -> bytes:
    """The value of a projection from its stored bytes.

    Raises:
        JournalDamagedError: The bytes were changed, or belong to another name.
    """
    value = sealed[CHAIN_BYTES:]
    if sealed[:CHAIN_BYTES] != _seal_digest(name, value):
        raise JournalDamagedError(
            f"projection {name!r} does not match its digest",
            hint="drop it and project again from the records",
        )
    return value


def _seal_digest(name: bytes, value: bytes) -> bytes:
    return sha256(b"".join((_SEAL_DOMAIN, len(name).to_bytes(2, "big"), name, value))).digest()


def _check_envelope(tag: str, version: int, build: int | None, wall_ns: int, mono_ns: int) -> None:
    if type(tag) is not str or not _is_tag(tag):
        raise RecordError(f"tag: 1 to 64 of a-z 0-9 . _ - expected, found {tag!r:.80}")
    # bool is an int to Python and something else to MessagePack, so the exact type is compared.
    if not (
        type(version) is type(wall_ns) is type(mono_ns) is int
        and (build is None or (type(build) is int and 0 <= build <= _INT64_MAX))
        and 1 <= version <= _VERSION_MAX
        and _INT64_MIN <= wall_ns <= _INT64_MAX
        and 0 <= mono_ns <= _INT64_MAX
    ):
        # Asked again one by one, which says what is wrong.
        _check_integer("version", version, 1, _VERSION_MAX)
        if build is not None:
            _check_integer("build", build, 0, _INT64_MAX)
        _check_integer("wall_ns", wall_ns, _INT64_MIN, _INT64_MAX)
        _check_integer("mono_ns", mono_ns, 0, _INT64_MAX)


def _check_integer(name: str, value: object, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise RecordError(f"{name}: an integer from {low} to {high} expected, found {value!r:.80}")


def _is_in_order(value: object, depth: int) -> bool:
    """Whether an unpacked tree is for certain the one that `_ordered` would make of it; looks, and builds nothing.

    What MessagePack gives is text that UTF-8 holds and integers within 64 bits; what is left to look at are the kinds
    of values, the keys and the depth. A float counts as doubtful, as it may be no number.
    """
    kind = type(value)
    if kind is dict:
        members = cast("dict[object, object]", value)
        keys = tuple(members)
        if not (_is_known_order(keys) if len(keys) <= _FEW_KEYS else _are_keys_in_order(keys)):
            return False
        values: Iterable[object] = members.values()
    elif kind is list:
        values = cast("list[object]", value)
    else:
        return kind in _LEAVES
    if depth > MAX_DEPTH:
        return False
    # Leaves are distinguished inline: a call for each would take longer than all the rest.
    return all(_is_in_order(member, depth + 1) for member in values if type(member) not in _LEAVES)


def _are_keys_in_order(keys: tuple[object, ...]) -> bool:
    """Whether these are the keys of a map in their order."""
    return all(type(key) is str for key in keys) and list(keys) == sorted(cast("tuple[str, ...]", keys))


# A journal has few kinds of maps. Long ones are not kept, and no more than these: of a hostile journal, whose records may
# have a megabyte of keys each, that is no more than 64 MiB.
_is_known_order = lru_cache(maxsize=64)(_are_keys_in_order)


def _ordered(value: object, depth: int) -> Payload:
    """The same tree with its maps in key order; the check that it is a `Payload` at all.

    Exact types are required: an enumeration member or a NumPy scalar would come back as something else.
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
    if type(value) in _PLAIN:
        return cast("bool | bytes | None", value)
    if type(value) is float:
        if not math.isfinite(value):
            raise RecordError(f"payload: finite floats expected, found {value!r}")
        return value
    if type(value) is list:
        _check_members(value, depth)
        return [member if type(member) in _PLAIN else _ordered(member, depth + 1) for member in value]
    if type(value) is dict:
        _check_members(value, depth)
        return {
            key: member if type(member := value[key]) in _PLAIN else _ordered(member, depth + 1)
            for key in _in_order(value)
        }
    raise RecordError(
        "payload: null, bool, int, float, str, bytes, list or dict with text keys expected, "
        f"found {type(value).__qualname__}",
        hint="turn it into one of these before it is recorded",
    )


def _in_order(keys: Iterable[str]) -> list[str]:
    for key in keys:
        # Checking alone, and only what may fail: keys are looked at for each of a million records.
        if type(key) is not str or not key.isascii():
            _require_utf8(key)
    # The order of UTF-8 bytes is the order of code points, which is how Python sorts text.
    return sorted(keys)


def _check_members(value: Sized, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise RecordError(
            f"payload: at most {MAX_DEPTH} lists and dicts inside each other expected, found more"
        )
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


def _kind_of(value: object) -> str:
    return f"an array of {len(value)}" if isinstance(value, list) else type(value).__qualname__
