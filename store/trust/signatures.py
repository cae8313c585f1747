"""Who may have made a cache: Ed25519 signatures over manifest files, and the keys that are trusted. Pure.

What is signed is a domain string and the SHA-256 of the manifest file, so that one signature covers everything a
generation names, and no signature of another purpose can be taken for one. The signature file has exactly one form,
which a pattern recognises: nothing that an attacker wrote is parsed before its signature has held. A trusted key may
be bounded by a generation, a counter, because an aircraft has no clock that it could trust.

`cryptography` is imported where a signature is made or checked, and nowhere else.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from store.base.canonical_json import encode
from store.manifest.file_names import MAX_SIGNATURES

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

DOMAIN: Final = b"c10/manifest/1\0"
FORMAT: Final = 1
KEY_BYTES: Final = 32
"""Size of a raw public key."""

_FORM: Final = re.compile(rb'\{"format":1,"key_id":"([0-9a-f]{16})","signature":"([0-9a-f]{128})"\}\n')
_KEY: Final = re.compile(r"[0-9a-f]{64}")
_BOUND: Final = re.compile(r"not_after=([0-9]{1,18})")

_PRIME: Final = 2**255 - 19
_SMALL_ORDER: Final = frozenset(
    {
        0,
        1,
        _PRIME - 1,
        int.from_bytes(
            bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"
        ),
        int.from_bytes(
            bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), "little"
        ),
    }
)
"""The y of all points whose order divides 8 (curve of RFC 8032). Under such a key, zeros among them, anybody can sign."""


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A public key, and how far it is trusted.

    Attributes:
        public: The raw Ed25519 key, 32 bytes.
        not_after: The last generation it may sign; nothing for no bound.
    """

    public: bytes
    not_after: int | None = None

    def __post_init__(self) -> None:
        """Refuse what is no key, and keys under which anybody can sign.

        Raises:
            ValueError: With what was expected and found.
        """
        _require_bytes(self.public)
        y = int.from_bytes(self.public, "little") & ((1 << 255) - 1)
        if y >= _PRIME or y in _SMALL_ORDER:
            raise ValueError(
                "expected an Ed25519 public key, found one under which anybody can sign, such as zeros"
            )
        if self.not_after is not None and (type(self.not_after) is not int or self.not_after < 0):
            raise ValueError(f"expected not_after as a generation, found {self.not_after!r:.40}")

    @property
    def key_id(self) -> str:
        """What names it in signature files: the first 16 hexadecimal digits of its SHA-256."""
        return key_id(self.public)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """A signature as events hold it: 128 hexadecimal digits, and whose it is; both empty for none."""

    key_id: str = ""
    signature: str = ""


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs manifests with one private key. Its text form does not show the key."""

    public: bytes
    _private: "Ed25519PrivateKey" = field(repr=False)

    @classmethod
    def of(cls, private: "Ed25519PrivateKey") -> "Signer":
        """Make a signer of a private key."""
        return cls(private.public_key().public_bytes_raw(), private)

    @property
    def key_id(self) -> str:
        """Whose signatures these are."""
        return key_id(self.public)

    def sign(self, raw: bytes) -> Signature:
        """Sign the bytes of a manifest file; the same bytes get the same signature (RFC 8032).

        Raises:
            RuntimeError: The signature does not hold: the memory or processor of this machine fails.
        """
        signature = self._private.sign(signed_bytes(raw))
        if not _holds(self.public, raw, signature):
            raise RuntimeError(
                "expected a signature that holds, found one that does not: this machine is not sound"
            )
        return Signature(key_id=self.key_id, signature=signature.hex())


def key_id(public: bytes) -> str:
    """Return what names a public key in signature files."""
    return sha256(public).hexdigest()[:16]


def signed_bytes(raw: bytes) -> bytes:
    """Return what is signed of a manifest file."""
    return DOMAIN + sha256(raw).digest()


def signature_file(signature: Signature) -> bytes:
    """Return the bytes of a signature file."""
    return encode({"format": FORMAT, "key_id": signature.key_id, "signature": signature.signature}) + b"\n"


def parse_signature(data: bytes) -> Signature | None:
    """Return what a signature file holds; nothing if it does not have the one form. Whether it holds is not looked at."""
    match = _FORM.fullmatch(data)
    return None if match is None else Signature(key_id=match[1].decode(), signature=match[2].decode())


def parse_trusted_keys(keys: Sequence[TrustedKey | bytes]) -> tuple[TrustedKey, ...]:
    """Take keys as callers give them, raw ones among them.

    Raises:
        ValueError: With everything that is no key, one line each.
    """
    found, wrong = list[TrustedKey](), list[str]()
    for number, key in enumerate(keys, start=1):
        try:
            found.append(key if isinstance(key, TrustedKey) else TrustedKey(key))
        except ValueError as error:
            wrong.append(f"trusted key {number}: {error}")
    if wrong:
        raise ValueError("\n".join(wrong))
    return tuple(found)


def is_key_line(text: str) -> bool:
    """Tell whether a text begins as a line of a key file does, and is hence no path."""
    first = text.split(maxsplit=1)[:1]
    return bool(first) and _KEY.fullmatch(first[0]) is not None


def parse_keys(text: str) -> tuple[TrustedKey, ...]:
    """Read a file of trusted keys: per line 64 hexadecimal digits, then `not_after=N` if bounded; `#` begins a comment.

    Raises:
        ValueError: With everything that is wrong, one line each.
    """
    found, wrong = list[TrustedKey](), list[str]()
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        bound = _BOUND.fullmatch(words[1]) if len(words) == 2 else None
        if not _KEY.fullmatch(words[0]) or (len(words) > 1 and bound is None):
            wrong.append(
                f"line {number}: expected 64 hexadecimal digits and perhaps not_after=GENERATION, found {line!r:.100}"
            )
            continue
        try:
            found.append(TrustedKey(bytes.fromhex(words[0]), int(bound[1]) if bound else None))
        except ValueError as error:
            wrong.append(f"line {number}: {error}")
    if wrong:
        raise ValueError("\n".join(wrong))
    return tuple(found)


def signature_problems(
    raw: bytes, signatures: Sequence[bytes], *, generation: int, keys: Sequence[TrustedKey]
) -> tuple[str, ...]:
    """Return every reason why these keys do not vouch for a manifest file; none if one signature of one of them holds.

    Args:
        raw: The manifest file, of which not a byte was looked at yet.
        signatures: The signature files, as many as there are.
        generation: Which generation the file is taken for; the caller holds the content to it afterwards.
        keys: Whose signatures count.
    """
    expected = "one by " + (
        " or ".join(key.key_id for key in keys) or "a trusted key, of which there is none"
    )
    if not signatures:
        return (f"signature: expected {expected}, found no regular file beside the manifest",)
    found = dict[str, None]()
    for signature in signatures[:MAX_SIGNATURES]:
        reasons = _problems_of_one(raw, signature, expected, generation=generation, keys=keys)
        if not reasons:
            return ()
        found.update(dict.fromkeys(reasons))
    return tuple(found)


def _problems_of_one(
    raw: bytes, signature: bytes, expected: str, *, generation: int, keys: Sequence[TrustedKey]
) -> tuple[str, ...]:
    match = _FORM.fullmatch(signature)
    if match is None:
        return (
            f"signature: expected a signature file of format {FORMAT}, found {len(signature)} other bytes",
        )
    named = match[1].decode("ascii")
    fitting = [key for key in keys if key.key_id == named]
    if not fitting:
        return (f"signature: expected {expected}, found one by {named}",)
    reasons = []
    last = min((key.not_after for key in fitting if key.not_after is not None), default=generation)
    if generation > last:
        reasons.append(
            f"signature: expected key {named} to sign up to generation {last} (not_after), found generation {generation}"
        )
    try:
        holds = any(_holds(key.public, raw, bytes.fromhex(match[2].decode("ascii"))) for key in fitting)
    except ImportError as error:
        reasons.append(f"signature: expected the package cryptography to check it, found none: {error}")
    else:
        if not holds:
            reasons.append(
                f"signature: expected that of {named} over this manifest, found one over other bytes"
            )
    return tuple(reasons)


def _holds(public: bytes, raw: bytes, signature: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - only where keys are given
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415 - as above

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, signed_bytes(raw))
    except (InvalidSignature, ValueError):
        return False
    return True


def _require_bytes(public: object) -> None:
    if not isinstance(public, bytes) or len(public) != KEY_BYTES:
        found = f"{len(public)} bytes" if isinstance(public, bytes) else type(public).__name__
        raise ValueError(f"expected an Ed25519 public key of {KEY_BYTES} bytes, found {found}")
