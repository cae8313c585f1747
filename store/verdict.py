"""GO or NO-GO, decided without any input or output: the same rules on ground and aircraft.

The rules, in their order. (1) The manifest is signed by a trusted key, one that may sign its generation, unless
unsigned caches are allowed by name; before that holds, not a byte of it is parsed. (2) It is a manifest of this format that agrees with itself. (3) Its generation is the one its file name
says. (4) Its cache is known and its generation not below the floor. (5) Its engines are for this device and for
the library versions that are here. What its artifacts contain is checked by whoever can read them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal

from store.errors import ErrorKind, IncompatibleDeviceError, NoGoError
from store.manifest import EngineEntry, Manifest, parse
from store.trust import TrustedKey, reasons_against, trusted

UNCHECKED: Final = "signatures were not checked, since no trusted keys were given"
"""What is said beside a verdict under `ALLOW_UNSIGNED`."""


class _Unsigned(Enum):
    ALLOWED = "unsigned caches are allowed"


ALLOW_UNSIGNED: Final = _Unsigned.ALLOWED
"""Given instead of keys by a caller who accepts a cache that nobody signed."""

TrustedKeys = Sequence[TrustedKey | bytes] | Literal[_Unsigned.ALLOWED]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What is accepted.

    Attributes:
        trusted_keys: Keys, raw public ones of 32 bytes among them, or `ALLOW_UNSIGNED`.
        floor: Least generation; or the least one per known cache id, where an unknown cache is refused.
        libraries: Backend to the version that is installed here; a backend that is missing is judged on use.
        targets: Backend to the targets that this device can run.
    """

    trusted_keys: TrustedKeys
    floor: int | Mapping[str, int] | None = None
    libraries: Mapping[str, str]
    targets: Mapping[str, frozenset[str]]


def judge(raw: bytes, signature: bytes | None, *, generation: int, policy: Policy) -> Manifest:
    """Return the manifest if it may be used.

    Raises:
        NoGoError: It may not; carries every reason of the rule that failed first.
        IncompatibleDeviceError: It is sound, but for another device or library version.
    """
    _check_signature(raw, signature, generation, policy)
    manifest = parse(raw)
    if manifest.envelope.generation != generation:
        raise NoGoError(
            (
                f"manifest: expected generation {generation} as its name says, found {manifest.envelope.generation}",
            )
        )
    _check_floor(manifest, policy)
    reasons = [reason for entry in manifest.engines if (reason := _unfit(entry, policy))]
    if reasons:
        raise IncompatibleDeviceError(reasons, hint="build a cache for this device: c10 build")
    return manifest


def _check_signature(raw: bytes, signature: bytes | None, generation: int, policy: Policy) -> None:
    if policy.trusted_keys is ALLOW_UNSIGNED:
        return
    try:
        keys = trusted(policy.trusted_keys)
    except ValueError as error:
        reasons: Sequence[str] = str(error).splitlines()
        hint = "mend the trusted keys"
    else:
        reasons = reasons_against(raw, signature, generation=generation, keys=keys)
        hint = "build or roll back with a signing_key that is trusted; or allow unsigned caches by name"
    if reasons:
        raise NoGoError(reasons, kind=ErrorKind.SIGNATURE, hint=hint)


def _check_floor(manifest: Manifest, policy: Policy) -> None:
    cache_id, generation = manifest.envelope.cache_id, manifest.envelope.generation
    if isinstance(policy.floor, Mapping):
        floor = policy.floor.get(cache_id)
        if floor is None:
            raise NoGoError(
                (f"cache id: expected a known cache, found {cache_id}",),
                kind=ErrorKind.FLOOR,
                hint="adopt the cache once, if it is meant to fly here: Floors.adopt(cache_id, generation)",
            )
    else:
        floor = policy.floor or 0
    if generation < floor:
        raise NoGoError(
            (f"generation: expected {floor} or newer, found {generation}",),
            kind=ErrorKind.FLOOR,
            hint="put the newer cache in place",
        )


def _unfit(entry: EngineEntry, policy: Policy) -> str | None:
    targets = policy.targets.get(entry.backend, frozenset())
    if entry.target not in targets:
        return f"engine {entry.model}: expected a target among {sorted(targets)}, found {entry.target!r}"
    installed = policy.libraries.get(entry.backend)
    if installed is not None and installed != entry.version:
        return f"engine {entry.model}: made by {entry.backend} {entry.version}, found {installed} here"
    return None
