"""Sign a committed generation: one of a cache that was built without a key, or with one more key.

The signature covers the manifest as the journal projects it. The event is durable before its file is written:
after a kill in between, the next writer writes the file from the journal, without the private key.
"""

import os
from collections.abc import Sequence

from store.base.valueclass import valueclass
from store.cache.projections import require_may_sign, signers_of
from store.cache.writer import CacheWriter
from store.disk.layout import Layout
from store.disk.repair_commands import cache_option, listing, repairing
from store.domain.maintenance_events import GenerationSigned
from store.domain.manifest_projection import project
from store.domain.state import Generation, State
from store.errors import ErrorKind, RequestRefusedError, from_os_error
from store.files.regular_file import read_regular
from store.manifest.file_names import MAX_MANIFEST_BYTES, MAX_SIGNATURES, signature_name
from store.trust.signatures import Signer, TrustedKey, signature_file


@valueclass(frozen=True, slots=True, kw_only=True)
class SignResult:
    """A signed generation, the build that it shows, and whether the signature is new (`changed`).

    `signed_by` lists all keys that signed it, the first one first.
    """

    generation: int
    origin: int
    key_id: str
    changed: bool
    signed_by: tuple[str, ...]
    manifest_sha256: str


def sign(
    store: CacheWriter, number: int | None, signer: Signer, *, keys: Sequence[TrustedKey] = ()
) -> SignResult:
    """Add a signature to a generation and write its file, unless the key has signed it before.

    Args:
        store: The cache, opened under the build lock.
        number: The generation; the newest if None.
        signer: The signing key.
        keys: The trusted keys, whose limits hold for it.

    Raises:
        RequestRefusedError: There is no such generation, it was collected, the key may not sign it, its
            manifest on disk is not what the journal projects, another file has the signature's name, or it has
            as many signatures as it can.
        journal.JournalError: The signature could not be made durable; nothing was changed.
        UnprojectedError: The signature is in the journal, but its file could not be written.
    """
    generation = _require_generation(store.layout, store.state, number)
    changed = signer.key_id not in signers_of(generation)
    if changed:
        require_may_sign(generation.number, signer, keys)
        raw = _manifest(store, generation)
        signature = signer.sign(raw)
        _require_room(store, generation, signature_file(signature))
        event = GenerationSigned(
            generation=generation.number,
            signature=signature.signature,
            key_id=signature.key_id,
            host=store.host,
        )
        generation = store.add_signature(event)
    return SignResult(
        generation=generation.number,
        origin=generation.origin,
        key_id=signer.key_id,
        changed=changed,
        signed_by=signers_of(generation),
        manifest_sha256=generation.manifest_sha256,
    )


def _require_generation(layout: Layout, state: State, number: int | None) -> Generation:
    head = state.head
    if head is None:
        raise RequestRefusedError(
            "expected a committed generation to sign, found none",
            kind=ErrorKind.NO_GENERATION,
            hint=listing(layout),
        )
    generation = head if number is None else state.generations.get(number)
    if generation is None:
        raise RequestRefusedError(
            f"expected a generation from 1 to {head.number}, found {number}",
            kind=ErrorKind.UNKNOWN_GENERATION,
            hint=listing(layout),
        )
    if generation.number in state.collected_generations:
        raise RequestRefusedError(
            f"expected generation {generation.number} to be kept, found it collected: its files are gone",
            kind=ErrorKind.COLLECTED,
            hint=f"{listing(layout)} (lists the generations that are left)",
        )
    return generation


def _manifest(store: CacheWriter, generation: Generation) -> bytes:
    """Return the manifest that the journal projects; the file on disk must be the same."""
    raw, name = project(store.state, generation), _name(store, generation)
    if _read(store, name) != raw:
        raise RequestRefusedError(
            f"expected manifests/{name} to be what the journal projects, found something else; nothing was signed",
            kind=ErrorKind.TARGET_DAMAGED,
            hint=repairing(store.layout),
        )
    return raw


def _require_room(store: CacheWriter, generation: Generation, signature: bytes) -> None:
    place = len(generation.signatures) + 1
    if place > MAX_SIGNATURES:
        raise RequestRefusedError(
            f"expected fewer than {MAX_SIGNATURES} signatures of generation {generation.number}, found as many",
            kind=ErrorKind.SIGNATURE,
            hint=f"c10 rollback{cache_option(store.layout)} makes a generation of its own, which takes signatures anew",
        )
    name = signature_name(_name(store, generation), place)
    if os.path.lexists(store.layout.manifests / name) and _read(store, name) != signature:
        raise RequestRefusedError(
            f"expected manifests/{name} to be free, found a file that the journal does not know; nothing was signed",
            kind=ErrorKind.TARGET_DAMAGED,
            hint=repairing(store.layout),
        )


def _name(store: CacheWriter, generation: Generation) -> str:
    layout = store.layout
    return layout.manifest_files().get(generation.number) or layout.manifest_name(generation.number)


def _read(store: CacheWriter, name: str) -> bytes | None:
    try:
        return read_regular(store.layout.manifests / name, limit=MAX_MANIFEST_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise from_os_error(error, f"manifests/{name}") from error
