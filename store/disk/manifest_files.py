"""Read the manifests of a mirror, which has no journal to project them from."""

from typing import NamedTuple

from store.disk.layout import Layout
from store.disk.repair_commands import mirroring
from store.errors import ErrorKind, NoGoError, TranslateOSErrors
from store.files.regular_file import read_regular
from store.manifest.file_names import MAX_MANIFEST_BYTES, MAX_SIGNATURES, signature_name

_MAX_SIGNATURE_BYTES = 4096


class ManifestFile(NamedTuple):
    """The bytes of a manifest and of its signature files, in their order; nothing of them is checked."""

    name: str
    raw: bytes
    signatures: tuple[bytes, ...]


def shown_generation(layout: Layout) -> int:
    """Return the newest generation that a mirror has.

    Raises:
        NoGoError: It has none yet.
    """
    found = max(layout.manifest_files(), default=None)
    if found is None:
        raise NoGoError(
            (f"expected a manifest in {layout.root}, found none: a mirror that was not finished",),
            kind=ErrorKind.NO_GENERATION,
            hint=mirroring(layout),
        )
    return found


def read_manifest_file(layout: Layout, generation: int) -> ManifestFile:
    """Return the manifest of a generation.

    Raises:
        NoGoError: There is none, or something else has its name.
        CacheUnusableError: It cannot be read.
    """
    name = layout.manifest_files().get(generation) or layout.manifest_name(generation)
    raw = _read(layout, name, MAX_MANIFEST_BYTES)
    if raw is None:
        raise NoGoError(
            (f"expected a regular file of at most {MAX_MANIFEST_BYTES} bytes as manifests/{name}",),
            kind=ErrorKind.NO_GENERATION,
            hint=mirroring(layout),
        )
    places = (signature_name(name, place) for place in range(1, MAX_SIGNATURES + 1))
    signatures = (_read(layout, place, _MAX_SIGNATURE_BYTES) for place in places)
    return ManifestFile(name, raw, tuple(each for each in signatures if each is not None))


def _read(layout: Layout, name: str, limit: int) -> bytes | None:
    with TranslateOSErrors(f"manifests/{name}"):
        try:
            return read_regular(layout.manifests / name, limit=limit)
        except FileNotFoundError:
            return None
