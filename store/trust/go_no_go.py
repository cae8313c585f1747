"""Decide GO or NO-GO for a manifest, by the same rules on the ground and on the aircraft. Pure.

The rules are checked in this order:

1. A trusted key that may sign the generation signed the manifest, unless the caller allows unsigned caches.
   Not a byte of the manifest is parsed before this holds.
2. The manifest has a known format and does not contradict itself.
3. Its generation is the one in its file name.
4. Its cache is known, and its generation is not below the floor.
5. Its engines are for this device and for the library versions that are installed here.

The reader of the artifacts checks their content.
"""

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Final, Literal

from store.base.valueclass import valueclass
from store.errors import ErrorKind, IncompatibleDeviceError, NoGoError
from store.manifest.manifest import EngineEntry, Manifest, parse
from store.trust.signatures import TrustedKey, parse_trusted_keys, signature_problems

UNCHECKED: Final = "signatures were not checked, since no trusted keys were given"
"""The note to show with a result under `ALLOW_UNSIGNED`."""


class _Unsigned(Enum):
    ALLOWED = "unsigned caches are allowed"


ALLOW_UNSIGNED: Final = _Unsigned.ALLOWED
"""Passed instead of keys to accept a cache that nobody signed."""

TrustedKeys = Sequence[TrustedKey | bytes] | Literal[_Unsigned.ALLOWED]


@valueclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a cache must meet.

    Attributes:
        trusted_keys: Keys, as `TrustedKey` or as 32 raw bytes; or `ALLOW_UNSIGNED`.
        floor: The lowest generation; or the lowest one per known cache id, so that an unknown cache is
            refused.
        installed: Given a backend, returns the version of its library here; None, and it is checked on use.
        runs_here: Given a backend and a target, returns whether this device runs such engines.
        device: Given a backend, describes this device in messages.
        flown: Whether engines for another device or library version are a reason to refuse. False for a look
            from the ground.
    """

    trusted_keys: TrustedKeys
    floor: int | Mapping[str, int] | None = None
    installed: Callable[[str], str | None]
    runs_here: Callable[[str, str], bool] = lambda _backend, _target: False
    device: Callable[[str], str] = lambda _backend: "no GPU"
    flown: bool = True


def check_flightworthy(
    raw: bytes, signatures: Sequence[bytes], *, generation: int, policy: Policy
) -> Manifest:
    """Return the parsed manifest, or refuse it.

    Args:
        raw: The manifest file.
        signatures: All signature files beside it; one valid signature is enough.
        generation: The generation in its file name.
        policy: What it must meet.

    Raises:
        NoGoError: A rule failed; carries every reason of the first rule that failed.
        IncompatibleDeviceError: It is valid, but for another device or library version.
    """
    _check_signature(raw, signatures, generation, policy)
    manifest = parse(raw)
    if manifest.envelope.generation != generation:
        raise NoGoError(
            (
                f"manifest: expected generation {generation} as its name says, found {manifest.envelope.generation}",
            )
        )
    _check_floor(manifest, policy)
    if policy.flown and (reasons := foreign_engines(manifest, policy)):
        raise IncompatibleDeviceError([*reasons.values()], hint="build a cache for this device: c10 build")
    return manifest


def foreign_engines(manifest: Manifest, policy: Policy) -> dict[str, str]:
    """Return the models whose engines are for another device or library version, each with a message."""
    reasons = ((entry.model, _reason_against(entry, policy)) for entry in manifest.engines)
    return {model: reason for model, reason in reasons if reason}


def _check_signature(raw: bytes, signatures: Sequence[bytes], generation: int, policy: Policy) -> None:
    if policy.trusted_keys is ALLOW_UNSIGNED:
        return
    try:
        keys = parse_trusted_keys(policy.trusted_keys)
    except ValueError as error:
        reasons: Sequence[str] = str(error).splitlines()
        hint = "fix the trusted keys"
    else:
        reasons = signature_problems(raw, signatures, generation=generation, keys=keys)
        hint = "bring the cache from its ground station again, signed there with a key that is trusted here: c10 sign"
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
                hint="adopt the cache once, if it is meant to fly here: RollbackProtection.adopt(cache_id, generation)",
            )
    else:
        floor = policy.floor or 0
    if generation < floor:
        raise NoGoError(
            (f"generation: expected {floor} or newer, found {generation}",),
            kind=ErrorKind.FLOOR,
            hint="put the newer cache in place",
        )


def _is_foreign(entry: EngineEntry, policy: Policy) -> bool:
    return not policy.runs_here(entry.backend, entry.target)


def _reason_against(entry: EngineEntry, policy: Policy) -> str | None:
    if _is_foreign(entry, policy):
        made = f"made by {entry.backend} for {entry.target!r}"
        found = policy.device(entry.backend)
        return f"engine {entry.model}: expected a device for an engine {made}, found {found}"
    installed = policy.installed(entry.backend)
    if installed is not None and installed != entry.version:
        return f"engine {entry.model}: made by {entry.backend} {entry.version}, found {installed} here"
    return None
