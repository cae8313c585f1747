"""Make and check Ed25519 signatures over manifest files, and parse trusted keys. Pure.

The signed message is a domain string and the SHA-256 of the manifest file. So one signature covers everything
that a generation names, and a signature for another purpose is never valid here. A regular expression
recognises the only valid form of a signature file: no untrusted bytes are parsed before the signature is
checked. A trusted key may be limited to generations up to a number, because an aircraft has no clock that it
could trust.

`cryptography` is imported only when a signature is made or checked.
"""

import hmac
import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import field
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from store.base.canonical_json import encode
from store.base.valueclass import valueclass
from store.base.values import whole_number
from store.errors import TranslateShortages, missing_package
from store.manifest.file_names import MAX_SIGNATURES

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

DOMAIN: Final = b"c10/manifest/1\0"
_AUTHENTICATION_DOMAIN: Final = b"c10/authentication/1\0"
FORMAT: Final = 1
KEY_BYTES: Final = 32
"""Size of a raw public key."""

_SIGNATURE_FILE: Final = rb'\{"format":1,"key_id":"([0-9a-f]{16})","signature":"([0-9a-f]{128})"\}\n'
_KEY: Final = r"[0-9a-f]{64}"
_NOT_AFTER: Final = r"not_after=([0-9]{1,18})"

_CRYPTOGRAPHY_TAKES: Final = 32 << 20
"""Address space for importing and using the package."""

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
"""The y of all points whose order divides 8 (curve of RFC 8032); with such a public key, anybody can sign."""


@valueclass(frozen=True, slots=True)
class TrustedKey:
    """A trusted public key.

    Attributes:
        public: The raw Ed25519 key, 32 bytes.
        not_after: The last generation that it may sign; None for no limit.
    """

    public: bytes
    not_after: int | None = None

    def __post_init__(self) -> None:
        """Refuse an invalid key, and a key with which anybody can sign.

        Raises:
            ValueError: The key or its limit is not valid.
        """
        _require_bytes(self.public)
        y = int.from_bytes(self.public, "little") & ((1 << 255) - 1)
        if y >= _PRIME or y in _SMALL_ORDER:
            raise ValueError(
                "expected an Ed25519 public key, found one under which anybody can sign, such as zeros"
            )
        if self.not_after is not None and ((last := whole_number(self.not_after)) is None or last < 0):
            raise ValueError(f"expected not_after as a generation, found {self.not_after!r:.40}")

    @property
    def key_id(self) -> str:
        """Its id in signature files: the first 16 hexadecimal digits of its SHA-256."""
        return key_id(self.public)


@valueclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """A signature as events hold it: 128 hexadecimal digits, and the key id; both empty for none."""

    key_id: str = ""
    signature: str = ""


@valueclass(frozen=True, slots=True)
class Signer:
    """Signs manifests with one private key. Its text form does not show the key."""

    public: bytes
    _private: "Ed25519PrivateKey" = field(repr=False)

    @classmethod
    def of(cls, private: "Ed25519PrivateKey") -> "Signer":
        """Return a signer with a private key."""
        return cls(private.public_key().public_bytes_raw(), private)

    @property
    def key_id(self) -> str:
        """The id of the key in signature files."""
        return key_id(self.public)

    def sign(self, raw: bytes) -> Signature:
        """Sign the bytes of a manifest file; the same bytes get the same signature (RFC 8032).

        Raises:
            RuntimeError: The signature is not valid: the memory or processor of this machine is faulty.
        """
        signature = self._private.sign(signed_bytes(raw))
        if not _is_valid(self.public, raw, signature):
            raise RuntimeError(
                "expected a valid signature, found an invalid one: the memory or processor of this machine is faulty"
            )
        return Signature(key_id=self.key_id, signature=signature.hex())

    def authenticate(self, message: bytes) -> bytes:
        """Return a code of 32 bytes that nobody can make or check without this private key (HMAC-SHA-256)."""
        key = hmac.digest(self._private.private_bytes_raw(), _AUTHENTICATION_DOMAIN, "sha256")
        return hmac.digest(key, message, "sha256")


def key_id(public: bytes) -> str:
    """Return the id of a public key in signature files."""
    return sha256(public).hexdigest()[:16]


def signed_bytes(raw: bytes) -> bytes:
    """Return the message that is signed for a manifest file."""
    return DOMAIN + sha256(raw).digest()


def signature_file(signature: Signature) -> bytes:
    """Return the bytes of a signature file."""
    return encode({"format": FORMAT, "key_id": signature.key_id, "signature": signature.signature}) + b"\n"


def parse_signature(data: bytes) -> Signature | None:
    """Return the signature in a signature file, unchecked; None if the form of the file is not valid."""
    match = re.fullmatch(_SIGNATURE_FILE, data)
    return None if match is None else Signature(key_id=match[1].decode(), signature=match[2].decode())


def parse_trusted_keys(keys: Sequence[TrustedKey | bytes]) -> tuple[TrustedKey, ...]:
    """Return keys as `TrustedKey`, some of which may be given as raw bytes.

    Raises:
        ValueError: Some are no keys; the message has one line for each.
    """
    if isinstance(keys, (str, bytes, bytearray, memoryview)) or not isinstance(keys, (Sequence, AbstractSet)):
        raise ValueError(  # noqa: TRY004 - callers catch one error for all keys that are none
            f"trusted keys: expected a list of keys, found {type(keys).__name__}; parse_keys reads the text of a file"
        )
    found, problems = list[TrustedKey](), list[str]()
    for number, key in enumerate(keys, start=1):
        try:
            found.append(key if isinstance(key, TrustedKey) else TrustedKey(key))
        except ValueError as error:
            problems.append(f"trusted key {number}: {error}")
    if problems:
        raise ValueError("\n".join(problems))
    return tuple(found)


def is_key_line(text: str) -> bool:
    """Return whether a text begins like a line of a key file, and is hence no path."""
    first = text.split(maxsplit=1)[:1]
    return bool(first) and re.fullmatch(_KEY, first[0]) is not None


def parse_keys(text: str) -> tuple[TrustedKey, ...]:
    """Parse a file of trusted keys: 64 hexadecimal digits a line, maybe `not_after=N`; `#` is a comment.

    Raises:
        ValueError: Some lines are not valid; the message has one line for each.
    """
    found, problems = list[TrustedKey](), list[str]()
    # Not `splitlines`, which also splits at letters that few editors show as the end of a line: in a comment, they
    # would hide a key that is trusted.
    for number, line in enumerate(text.split("\n"), start=1):
        words = line.partition("#")[0].rstrip("\r").replace("\t", " ").split(" ")
        words = [word for word in words if word]
        if not words:
            continue
        not_after = re.fullmatch(_NOT_AFTER, words[1]) if len(words) == 2 else None
        if not re.fullmatch(_KEY, words[0]) or (len(words) > 1 and not_after is None):
            # What is no key is not quoted: it may be a private one.
            where = " behind them" if re.fullmatch(_KEY, words[0]) else ""
            problems.append(
                f"line {number}: expected 64 hexadecimal digits and perhaps not_after=GENERATION, found other"
                f" characters{where}"
            )
            continue
        try:
            found.append(TrustedKey(bytes.fromhex(words[0]), int(not_after[1]) if not_after else None))
        except ValueError as error:
            problems.append(f"line {number}: {error}")
    if problems:
        raise ValueError("\n".join(problems))
    return tuple(found)


def signature_problems(
    raw: bytes, signatures: Sequence[bytes], *, generation: int, keys: Sequence[TrustedKey]
) -> tuple[str, ...]:
    """Return why no signature of a manifest file is valid; nothing if one by a trusted key is valid.

    Args:
        raw: The manifest file, not parsed yet.
        signatures: All its signature files.
        generation: The generation that the file claims; the caller compares the content with it afterwards.
        keys: The trusted keys.

    Raises:
        CacheUnusableError: The package `cryptography` is not here, or cannot be loaded for lack of memory.
    """
    expected = "one by " + (
        " or ".join(key.key_id for key in keys) or "a trusted key, of which there is none"
    )
    if not signatures:
        return (f"signature: expected {expected}, found no regular file beside the manifest",)
    found = dict[str, None]()
    for signature in signatures[:MAX_SIGNATURES]:
        reasons = _problems_of_signature(raw, signature, expected, generation=generation, keys=keys)
        if not reasons:
            return ()
        found.update(dict.fromkeys(reasons))
    return tuple(found)


def find_signer(
    raw: bytes, signatures: Sequence[bytes], *, generation: int, keys: Sequence[TrustedKey]
) -> str | None:
    """Return the id of the trusted key whose signature of a manifest file holds, the first one; None without.

    Takes what `signature_problems` takes.
    """
    for data in signatures[:MAX_SIGNATURES]:
        signature = parse_signature(data)
        if signature and not signature_problems(raw, (data,), generation=generation, keys=keys):
            return signature.key_id
    return None


def _problems_of_signature(
    raw: bytes, signature: bytes, expected: str, *, generation: int, keys: Sequence[TrustedKey]
) -> tuple[str, ...]:
    match = re.fullmatch(_SIGNATURE_FILE, signature)
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
    if not any(_is_valid(key.public, raw, bytes.fromhex(match[2].decode("ascii"))) for key in fitting):
        reasons.append(f"signature: expected that of {named} over this manifest, found one over other bytes")
    return tuple(reasons)


def _is_valid(public: bytes, raw: bytes, signature: bytes) -> bool:
    try:
        with TranslateShortages("cryptography, which checks signatures", takes=_CRYPTOGRAPHY_TAKES):
            from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - only where keys are given
            from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415 - as above
                Ed25519PublicKey,
            )
    except ImportError as error:
        raise missing_package("cryptography", "checks signatures", error) from error
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, signed_bytes(raw))
    except (InvalidSignature, ValueError):
        return False
    return True


def _require_bytes(public: object) -> None:
    if not isinstance(public, bytes) or len(public) != KEY_BYTES:
        found = f"{len(public)} bytes" if isinstance(public, bytes) else type(public).__name__
        raise ValueError(f"expected an Ed25519 public key of {KEY_BYTES} bytes, found {found}")
