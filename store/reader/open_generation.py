"""Open a generation of a cache if it may be flown: signature, cache and floor, device; then all its files."""

import os
from collections.abc import Mapping
from typing import NamedTuple

from store.errors import is_shortage
from store.manifest.manifest import Manifest
from store.reader.arguments import require_pillow
from store.reader.artifact_files import ArtifactFiles
from store.reader.manifest_files import denied, no_cache, read_manifest, refuse_world_writable
from store.runtime import capabilities
from store.trust.go_no_go import ALLOW_UNSIGNED, Policy, TrustedKeys, check_flightworthy, foreign_engines
from store.trust.signatures import find_signer, parse_trusted_keys


class OpenGeneration(NamedTuple):
    """A generation that may be flown.

    Attributes:
        manifest: Its manifest.
        files: Its open files.
        elsewhere: The engines that cannot run here, and why.
        signed_by: The trusted key whose signature holds; None if none was wanted.
    """

    manifest: Manifest
    files: ArtifactFiles
    elsewhere: Mapping[str, str]
    signed_by: str | None


def open_generation(
    root: str | os.PathLike[str],
    *,
    trusted_keys: TrustedKeys,
    floor: int | Mapping[str, int] | None,
    generation: int | None,
    flown: bool,
) -> OpenGeneration:
    """Open the newest generation, or the one named; see `store.reader.flight_cache.FlightCache.open`.

    Raises:
        NoGoError: It may not be flown; with every reason.
        IncompatibleDeviceError: The cache is sound but for another device or library version.
        CacheUnusableError: This process lacks a Python package.
        OSError: This process lacks memory or open files.
    """
    if flown:
        require_pillow()
    try:
        folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError as error:
        raise denied([f"cache: expected a folder to read, found: {error.strerror}"]) from error
    except OSError as error:
        if is_shortage(error):
            raise
        raise no_cache(f"expected the folder of a cache, found: {error.strerror}") from error
    files = ArtifactFiles(folder)
    try:
        refuse_world_writable(folder)
        raw, signatures, number = read_manifest(
            folder, generation, signatures=trusted_keys is not ALLOW_UNSIGNED
        )
        policy = Policy(
            trusted_keys=trusted_keys,
            floor=floor,
            installed=capabilities.library_version,
            runs_here=capabilities.covered,
            device=capabilities.device,
            flown=flown,
        )
        manifest = check_flightworthy(raw, signatures, generation=number, policy=policy)
        signed_by = None
        if trusted_keys is not ALLOW_UNSIGNED:
            signed_by = find_signer(raw, signatures, generation=number, keys=parse_trusted_keys(trusted_keys))
        files.open_all(manifest)
    except BaseException:
        files.close()
        raise
    # To fly, a manifest with foreign engines was refused above.
    elsewhere = {} if flown else foreign_engines(manifest, policy)
    return OpenGeneration(manifest, files, elsewhere, signed_by)
