"""Recover signatures that no record holds, after a journal was lost with its newest records.

A signature that was added after the newest commit is in the journal and in its file, and in no segment. It
covers the manifest, which the other records prove. So a file whose signature of that manifest holds, by a
trusted key, is as good as the lost record. Its name only says which generation to try. Files in quarantine
are tried as well: an earlier rebuild without keys, or a repair, may have moved them there.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from store.base.canonical_json import Document
from store.base.valueclass import valueclass
from store.cache.projections import signers_of
from store.disk.layout import Layout
from store.domain.maintenance_events import GenerationSigned
from store.domain.manifest_projection import project
from store.domain.state import Generation, State
from store.errors import from_os_error, is_shortage
from store.files.regular_file import read_regular
from store.manifest.file_names import MANIFEST_NAME, MAX_SIGNATURES, parse_signature_name
from store.trust.go_no_go import ALLOW_UNSIGNED, TrustedKeys
from store.trust.signatures import (
    Signature,
    TrustedKey,
    parse_signature,
    parse_trusted_keys,
    signature_file,
    signature_problems,
)

_ASIDE: Final = re.compile(r"(.+)\.[0-9]{1,18}")
_MAX_BYTES: Final = 4096


@valueclass(frozen=True, slots=True, kw_only=True)
class RecoveredSignatures:
    """The signatures that no record holds.

    Attributes:
        events: Those that a trusted key made, as events to append in this order.
        left: Files in `manifests/`, relative to the cache, of all others.
    """

    events: tuple[GenerationSigned, ...] = ()
    left: tuple[str, ...] = ()


@valueclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """A signature file, and the generation in its name."""

    path: Path
    generation: int
    signature: Signature


def recover_signatures(
    layout: Layout, state: State, *, trusted_keys: TrustedKeys, host: Document
) -> RecoveredSignatures:
    """Find signatures of kept generations that the journal does not hold.

    Args:
        layout: The cache.
        state: The folded records.
        trusted_keys: Keys whose signatures are recovered; none with `ALLOW_UNSIGNED`.
        host: Facts about this machine, for the events.

    Raises:
        CacheUnusableError: This process lacks memory or open files.
        ValueError: A trusted key is invalid.
    """
    keys = () if trusted_keys is ALLOW_UNSIGNED else parse_trusted_keys(trusted_keys)
    signers = {
        number: list(signers_of(generation))
        for number, generation in state.generations.items()
        if number not in state.collected_generations
    }
    events, doubtful = list[GenerationSigned](), list[_Found]()
    for found in _signature_files(layout):
        known, key_id = signers.get(found.generation), found.signature.key_id
        if known is None or key_id in known:
            continue
        generation = state.generations[found.generation]
        if len(known) == MAX_SIGNATURES or not _holds(state, generation, found.signature, keys):
            doubtful.append(found)
            continue
        known.append(key_id)
        events.append(
            GenerationSigned(
                generation=found.generation, signature=found.signature.signature, key_id=key_id, host=host
            )
        )
    left = (
        str(each.path.relative_to(layout.root))
        for each in doubtful
        if each.path.parent == layout.manifests and each.signature.key_id not in signers[each.generation]
    )
    return RecoveredSignatures(events=tuple(events), left=tuple(left))


def _holds(state: State, generation: Generation, signature: Signature, keys: tuple[TrustedKey, ...]) -> bool:
    raw = project(state, generation)
    return bool(keys) and not signature_problems(
        raw, (signature_file(signature),), generation=generation.number, keys=keys
    )


def _signature_files(layout: Layout) -> Iterator[_Found]:
    """Yield files with name and form of a signature, by generation and number; those in quarantine last."""
    named = list[tuple[bool, int, int, Path]]()
    for aside, folder in enumerate((layout.manifests, layout.quarantine)):
        for path in _entries(folder):
            name = match[1] if aside and (match := _ASIDE.fullmatch(path.name)) else path.name
            found = parse_signature_name(name)
            numbered = found and MANIFEST_NAME.fullmatch(found[0])
            if found and numbered:
                named.append((bool(aside), int(numbered[1]), found[1], path))
    for _, generation, _, path in sorted(named):
        data = _read(path)
        signature = None if data is None else parse_signature(data)
        if signature is not None:
            yield _Found(path=path, generation=generation, signature=signature)


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise from_os_error(error, f"{folder.name}/") from error


def _read(path: Path) -> bytes | None:
    try:
        return read_regular(path, limit=_MAX_BYTES)
    except OSError as error:
        # An unreadable file recovers nothing; the next verification says what is wrong with it.
        if is_shortage(error):
            raise from_os_error(error, f"{path.parent.name}/{path.name}") from error
        return None
