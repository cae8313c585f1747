"""Read manifest and signatures of a generation relative to an open folder, never through a symbolic link."""

import os
from collections.abc import Sequence

from store.errors import ErrorKind, NoGoError, from_os_error, is_shortage
from store.files.permissions import mount_without_permissions, writable_folders
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
        system = mount_without_permissions(f"/proc/self/fd/{folder}")
        hint = (
            f"mount it again read-only, or with umask=022 (chmod changes nothing on {system})"
            if system
            else "chmod -R o-w CACHE, or mount the medium read-only"
        )
        raise NoGoError(reasons, kind=ErrorKind.PERMISSION, hint=hint)


def read_manifest(
    folder: int, wanted: int | None, *, signatures: bool
) -> tuple[bytes, tuple[bytes, ...], int]:
    """Return the manifest file of a generation, its signature files in their order, and its number.

    Args:
        folder: Descriptor of the cache's folder.
        wanted: The generation, or nothing for the newest.
        signatures: Whether to read the signature files.

    Raises:
        NoGoError: There is no such generation, its manifest is no regular file of a possible size, or this user
            may not read it or any of its signatures.
        CacheUnusableError: This process lacks memory or open files.
    """
    names = _manifest_names(folder)
    # Of several files of one generation, which no C10 makes, the first by name counts: any order of the folder gives it.
    found = {
        int(match[1]): name
        for name in sorted(names, reverse=True)
        if (match := MANIFEST_NAME.fullmatch(name)) and int(match[1])
    }
    number = max(found, default=0) if wanted is None else wanted
    if number not in found:
        raise no_cache(
            f"expected generation {wanted or 'of any number'}, found {sorted(found)[-3:] or 'none'}"
        )
    name = f"manifests/{found[number]}"
    raw = _read_file(folder, name, MAX_MANIFEST_BYTES)
    if raw is None:
        raise no_cache(f"expected a regular file of at most {MAX_MANIFEST_BYTES:,} bytes as {name}")
    return raw, _read_signatures(folder, names, found[number]) if signatures else (), number


def _read_signatures(folder: int, names: Sequence[str], manifest: str) -> tuple[bytes, ...]:
    """Return the signature files of a manifest that can be read.

    Raises:
        NoGoError: There are some, and this user may read none of them.
    """
    found, unreadable = list[bytes](), list[NoGoError]()
    signed = (parse_signature_name(name) for name in names)
    for place in sorted(each[1] for each in signed if each and each[0] == manifest):
        try:
            content = _read_file(folder, signature_name(f"manifests/{manifest}", place), _MAX_SIGNATURE)
        except NoGoError as error:
            unreadable.append(error)
        else:
            found += [] if content is None else [content]
    if unreadable and not found:
        raise unreadable[0]
    return tuple(found)


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
