"""Read manifest and signatures of a generation relative to an open folder, never through a symbolic link."""

import os
from collections.abc import Sequence

from store.errors import ErrorKind, NoGoError, from_os_error, is_shortage
from store.files.permissions import writable_folders
from store.files.regular_file import open_folder
from store.files.sealed_memory import SealError, open_expected
from store.manifest.file_names import MANIFEST_NAME, MAX_MANIFEST_BYTES, parse_signature_name, signature_name

_MAX_SIGNATURE = 4096


def refuse_world_writable(folder: int) -> None:
    """Refuse a cache that anybody may write to.

    Raises:
        NoGoError: With every such file or folder.
    """
    if reasons := writable_folders(folder):
        raise NoGoError(
            reasons, kind=ErrorKind.PERMISSION, hint="chmod -R o-w CACHE, or mount the medium read-only"
        )


def read_manifest(folder: int, wanted: int | None) -> tuple[bytes, tuple[bytes, ...], int]:
    """Return the manifest file of a generation, its signature files in their order, and its number.

    Args:
        folder: Descriptor of the cache's folder.
        wanted: The generation, or nothing for the newest.

    Raises:
        NoGoError: There is no such generation, its manifest is no regular file of a possible size, or this user
            may not read it or a signature.
        CacheUnusableError: This process lacks memory or open files.
    """
    names = _manifest_names(folder)
    found = {int(match[1]): name for name in names if (match := MANIFEST_NAME.fullmatch(name))}
    number = max(found, default=0) if wanted is None else wanted
    if number not in found:
        raise no_cache(
            f"expected generation {wanted or 'of any number'}, found {sorted(found)[-3:] or 'none'}"
        )
    name = f"manifests/{found[number]}"
    raw = _read_file(folder, name, MAX_MANIFEST_BYTES)
    if raw is None:
        raise no_cache(f"expected a regular file of at most {MAX_MANIFEST_BYTES} bytes as {name}")
    places = sorted(
        signed[1] for each in names if (signed := parse_signature_name(each)) and signed[0] == found[number]
    )
    files = (_read_file(folder, signature_name(name, place), _MAX_SIGNATURE) for place in places)
    return raw, tuple(file for file in files if file is not None), number


def _manifest_names(folder: int) -> list[str]:
    try:
        manifests = open_folder("manifests", folder=folder)
        try:
            with os.scandir(manifests) as entries:
                return [entry.name for entry in entries]
        finally:
            os.close(manifests)
    except OSError as error:
        if is_shortage(error):
            raise from_os_error(error, "manifests") from error
        if isinstance(error, PermissionError):
            raise denied([f"manifests: expected a folder to read, found: {error.strerror}"]) from error
        raise no_cache(f"expected the manifests of a cache, found: {error.strerror}") from error


def _read_file(folder: int, name: str, limit: int) -> bytes | None:
    try:
        fd = open_expected(name, folder=folder, limit=limit)
    except SealError as error:
        if error.denied:
            raise denied([f"{name}: {error}"]) from error
        return None
    try:
        with os.fdopen(fd, "rb") as file:
            return file.read(limit + 1)
    except OSError as error:
        if is_shortage(error):
            raise from_os_error(error, name) from error
        return None


def denied(reasons: Sequence[str]) -> NoGoError:
    """Return the error of files that this user may not read."""
    return NoGoError(reasons, kind=ErrorKind.PERMISSION, hint="chmod -R a+rX CACHE, or run as its owner")


def no_cache(reason: str) -> NoGoError:
    """Return the error of a folder that is no cache, or holds no generation."""
    return NoGoError((reason,), kind=ErrorKind.NO_GENERATION, hint="put a committed cache in place")


def damaged(problems: Sequence[str]) -> NoGoError:
    """Return the error of artifacts that are missing or damaged."""
    return NoGoError(
        problems, kind=ErrorKind.ARTIFACT_DAMAGED, hint="c10 verify --full on the ground, then c10 repair"
    )
