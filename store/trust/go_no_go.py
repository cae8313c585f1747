"""GO or NO-GO, decided without any input or output: the same rules on ground and aircraft.

The rules, in their order. (1) The manifest is signed by a trusted key, one that may sign its generation, unless
unsigned caches are allowed by name; before that holds, not a byte of it is parsed. (2) It is a manifest of this format that agrees with itself. (3) Its generation is the one its file name
says. (4) Its cache is known and its generation not below the floor. (5) Its engines are for this device and for
the library versions that are here. What its artifacts contain is checked by whoever can read them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal

from store.errors import ErrorKind, IncompatibleDeviceError, NoGoError
from store.manifest.manifest import EngineEntry, Manifest, parse
from store.trust.signatures import TrustedKey, reasons_against, trusted

UNCHECKED: Final = "signatures were not checked, since no trusted keys were given"
"""What is said beside a verdict under `ALLOW_UNSIGNED`."""


class _Unsigned(Enum):
    ALLOWED = "unsigned caches are allowed"


ALLOW_UNSIGNED: Final = _Unsigned.ALLOWED
"""Given instead of keys by a caller who accepts a cache that nobody signed."""

TrustedKeys = Sequence[TrustedKey | bytes] | Literal[_Unsigned.ALLOWED]


def _none(_backend: str, _target: str) -> bool:
    return False


def _no_gpu(_backend: str) -> str:
    return "no GPU"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What is accepted.

    Attributes:
        trusted_keys: Keys, raw public ones of 32 bytes among them, or `ALLOW_UNSIGNED`.
        floor: Least generation; or the least one per known cache id, where an unknown cache is refused.
        libraries: Backend to the version that is installed here; a backend that is missing is judged on use.
        covered: Tells, given a backend and a target, whether this device runs such engines.
        device: What that device is for a backend, for messages.
        flown: Whether engines for another device are a reason to refuse: not for a look from the ground.
    """

    trusted_keys: TrustedKeys
    floor: int | Mapping[str, int] | None = None
    libraries: Mapping[str, str]
    covered: Callable[[str, str], bool] = _none
    device: Callable[[str], str] = _no_gpu
    flown: bool = True


def judge(raw: bytes, signatures: Sequence[bytes], *, generation: int, policy: Policy) -> Manifest:
    """Return the manifest if it may be used.

    Args:
        raw: The manifest file.
        signatures: The signature files beside it, as many as there are; one that holds is enough.
        generation: Which generation its name says.
        policy: What is accepted.

    Raises:
        NoGoError: It may not; carries every reason of the rule that failed first.
        IncompatibleDeviceError: It is sound, but for another device or library version.
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
    entries = [entry for entry in manifest.engines if policy.flown or not _is_elsewhere(entry, policy)]
    reasons = [reason for entry in entries if (reason := _unfit(entry, policy))]
    if reasons:
        raise IncompatibleDeviceError(reasons, hint="build a cache for this device: c10 build")
    return manifest


def elsewhere(manifest: Manifest, policy: Policy) -> dict[str, str]:
    """Return the models whose engines are for another device than this one, and in which words."""
    found = (entry for entry in manifest.engines if _is_elsewhere(entry, policy))
    return {entry.model: _unfit(entry, policy) or "" for entry in found}


def _check_signature(raw: bytes, signatures: Sequence[bytes], generation: int, policy: Policy) -> None:
    if policy.trusted_keys is ALLOW_UNSIGNED:
        return
    try:
        keys = trusted(policy.trusted_keys)
    except ValueError as error:
        reasons: Sequence[str] = str(error).splitlines()
        hint = "mend the trusted keys"
    else:
        reasons = reasons_against(raw, signatures, generation=generation, keys=keys)
        hint = "c10 sign, with a signing_key that is trusted; or allow unsigned caches by name"
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


def _is_elsewhere(entry: EngineEntry, policy: Policy) -> bool:
    return not policy.covered(entry.backend, entry.target)


def _unfit(entry: EngineEntry, policy: Policy) -> str | None:
    if _is_elsewhere(entry, policy):
        made = f"made by {entry.backend} for {entry.target!r}"
        found = policy.device(entry.backend)
        return f"engine {entry.model}: expected a device for an engine {made}, found {found}"
    installed = policy.libraries.get(entry.backend)
    if installed is not None and installed != entry.version:
        return f"engine {entry.model}: made by {entry.backend} {entry.version}, found {installed} here"
    return None
