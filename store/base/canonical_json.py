"""Canonical JSON and domain-separated digests.

One value has exactly one byte string: keys sorted by code point, no white space, ASCII escapes, integers
only. Floating-point numbers are refused because two machines may print one number in two ways; callers use
scaled integers or exact decimal strings. Everything that is signed, compared or hashed into an identity goes
through here, on the ground and on board.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NewType, TypeAlias

Digest = NewType("Digest", str)
"""A SHA-256 as 64 lower-case hexadecimal digits."""

Value: TypeAlias = "bool | int | str | Sequence[Value] | Mapping[str, Value] | None"
"""What has a canonical form."""

Document: TypeAlias = Mapping[str, Any]
"""A map of string to `Value`; `encode` holds it to that, since a recursive type would burden every reader."""

_HEX = "0123456789abcdef"


class CanonicalError(ValueError):
    """The value has no canonical form, or the bytes are not one."""


def encode(value: Value) -> bytes:
    """Return the canonical JSON of `value`, without a final newline.

    Raises:
        CanonicalError: The value holds a float, bytes, a key that is no string, or anything else JSON lacks.
    """
    _check(value)
    import json  # noqa: PLC0415 - what only reads events needs no JSON

    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def decode(data: bytes) -> Value:
    """Return the value whose canonical form is `data`.

    Raises:
        CanonicalError: `data` is not JSON, or not in canonical form (duplicate keys, spaces, floats, order).
    """
    import json  # noqa: PLC0415 - as in `encode`

    try:
        value: Value = json.loads(data, parse_float=_refuse_number, parse_constant=_refuse_number)
        again = encode(value)
    except (ValueError, RecursionError) as error:
        raise CanonicalError(f"expected canonical JSON, found: {error}") from error
    if again != data:
        raise CanonicalError("expected canonical JSON, found the same value in another form")
    return value


def sha256(data: bytes | memoryview) -> Digest:
    """Return the SHA-256 of the bytes."""
    return Digest(hashlib.sha256(data).hexdigest())


def digest(domain: str, value: Value) -> Digest:
    """Return SHA-256(domain, zero byte, canonical JSON of `value`); no two domains share a digest."""
    return sha256(domain.encode("ascii") + b"\0" + encode(value))


def is_digest(text: object) -> bool:
    """Tell whether `text` is 64 lower-case hexadecimal digits, hence safe as a file name."""
    return isinstance(text, str) and len(text) == 64 and not text.strip(_HEX)


def _refuse_number(text: str) -> Value:
    raise CanonicalError(f"expected integers only, found the number {text[:40]}")


def _check(value: object) -> None:
    match value:
        case None | bool() | int() | str():
            return
        case dict():
            for key, item in value.items():
                if not isinstance(key, str):
                    raise CanonicalError(f"expected string keys, found {key!r}")
                _check(item)
        case list() | tuple():
            for item in value:
                _check(item)
        case _:
            raise CanonicalError(f"expected JSON without floats, found {type(value).__name__}")
