"""Encode and decode canonical JSON, and compute domain-separated digests of it. Pure.

A value has exactly one byte string: keys sorted by code point, no white space, ASCII escapes, integers only.
Floats are refused, because two machines may print one number in two ways; callers use scaled integers or
decimal strings. Integers have 64 bits, as in records, and depth is bounded, so that any language can read it. Everything that is signed, compared or hashed into an identity is encoded here, on the ground
and on board.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NewType, TypeAlias

Digest = NewType("Digest", str)
"""A SHA-256 digest as 64 lower-case hexadecimal digits."""

Value: TypeAlias = "bool | int | str | Sequence[Value] | Mapping[str, Value] | None"
"""A value that has a canonical form."""

Document: TypeAlias = Mapping[str, Any]
"""A map of string to `Value`; `encode` checks the values, as a recursive type is awkward for callers."""

_HEX = "0123456789abcdef"
_MAX_DEPTH = 64
_LEAST, _MOST = -(1 << 63), (1 << 64) - 1


class CanonicalError(ValueError):
    """The value has no canonical form, or the bytes are not one."""


def encode(value: Value) -> bytes:
    """Return the canonical JSON of `value`, without a final newline.

    Raises:
        CanonicalError: The value holds a float, bytes, a key that is no string, or anything else JSON lacks; an
            integer of more than 64 bits; or more than 64 lists and maps inside each other.
    """
    _check(value, _MAX_DEPTH)
    import json  # noqa: PLC0415 - reading events needs no JSON

    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def decode(data: bytes) -> Value:
    """Return the value whose canonical form is `data`.

    Raises:
        CanonicalError: `data` is not JSON, or not in canonical form (duplicate keys, spaces, floats, order), or has
            text that is no Unicode.
    """
    import json  # noqa: PLC0415 - as in `encode`

    try:
        value: Value = json.loads(data, parse_float=_refuse_number, parse_constant=_refuse_number)
        encoded = encode(value)
        if b"\\ud" in data:  # half of a pair of surrogates alone is no text, and UTF-8 has no form of it
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise CanonicalError(f"expected canonical JSON, found: {error}") from error
    if encoded != data:
        raise CanonicalError("expected canonical JSON, found the same value in another form")
    return value


def sha256(data: bytes | memoryview) -> Digest:
    """Return the SHA-256 of the bytes."""
    return Digest(hashlib.sha256(data).hexdigest())


def digest(domain: str, value: Value) -> Digest:
    """Return SHA-256(domain, zero byte, canonical JSON of `value`); two domains never share a digest."""
    return sha256(domain.encode("ascii") + b"\0" + encode(value))


def is_digest(text: object) -> bool:
    """Return whether `text` is 64 lower-case hexadecimal digits, hence safe as a file name."""
    return isinstance(text, str) and len(text) == 64 and not text.strip(_HEX)


def _refuse_number(text: str) -> Value:
    raise CanonicalError(f"expected integers only, found the number {text[:40]}")


def _check(value: object, depth: int) -> None:
    match value:
        case None | bool() | str():
            return
        case int():
            if not _LEAST <= value <= _MOST:
                raise CanonicalError(f"expected integers of 64 bits, found one of {value.bit_length()}")
        case dict():
            _require_depth(depth)
            for key, item in value.items():
                if not isinstance(key, str):
                    raise CanonicalError(f"expected string keys, found {key!r}")
                _check(item, depth - 1)
        case list() | tuple():
            _require_depth(depth)
            for item in value:
                _check(item, depth - 1)
        case _:
            raise CanonicalError(f"expected JSON without floats, found {type(value).__name__}")


def _require_depth(depth: int) -> None:
    if not depth:
        raise CanonicalError(f"expected at most {_MAX_DEPTH} lists and maps inside each other, found more")
