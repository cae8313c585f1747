"""Read the manifests of a mirror, which has no journal to project them from."""

from typing import NamedTuple

from store.disk.layout import Layout
from store.disk.repair_commands import mirroring, mirroring_without
from store.errors import ErrorKind, NoGoError, TranslateOSErrors
from store.files.regular_file import read_regular
from store.manifest.file_names import MAX_MANIFEST_BYTES, MAX_SIGNATURES, signature_name
from store.manifest.manifest import Manifest, parse

_MAX_SIGNATURE_BYTES = 4096


class ManifestFile(NamedTuple):
    """A manifest, the name of its file, and the bytes of its signature files by place, which nobody checked.

    What is no regular file, or too long for a signature, counts as an empty one.
    """

    name: str
    manifest: Manifest
    signed: dict[int, bytes]

    @property
    def signatures(self) -> tuple[bytes, ...]:
        """The bytes of the signature files, in their order."""
        return tuple(self.signed.values())


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
        NoGoError: There is none, or it is none of this generation.
        CacheUnusableError: It cannot be read.
    """
    name = layout.manifest_files().get(generation) or layout.manifest_name(generation)
    raw = _read(layout, name, MAX_MANIFEST_BYTES)
    if not raw:
        raise NoGoError(
            (f"expected a regular file of at most {MAX_MANIFEST_BYTES:,} bytes as manifests/{name}",),
            kind=ErrorKind.NO_GENERATION,
            hint=mirroring(layout),
        )
    places = range(1, MAX_SIGNATURES + 1)
    found = {place: _read(layout, signature_name(name, place), _MAX_SIGNATURE_BYTES) for place in places}
    signed = {place: data for place, data in found.items() if data is not None}
    return ManifestFile(name, _parse(layout, generation, name, raw), signed)


def _parse(layout: Layout, generation: int, name: str, raw: bytes) -> Manifest:
    """Return a manifest that is of the generation in its name, as on board."""
    try:
        manifest = parse(raw)
        if manifest.envelope.generation == generation:
            return manifest
        reason = f"expected generation {generation}, as its name says, found {manifest.envelope.generation}"
    except NoGoError as error:
        reason = "; ".join(error.reasons)
    raise NoGoError(
        (f"manifests/{name}: {reason}",),
        kind=ErrorKind.MANIFEST_INVALID,
        hint=mirroring_without(layout, f"manifests/{name}"),
    )


def _read(layout: Layout, name: str, limit: int) -> bytes | None:
    """Return the bytes of a file; None if there is none, and no bytes for something else."""
    with TranslateOSErrors(f"manifests/{name}"):
        try:
            return read_regular(layout.manifests / name, limit=limit) or b""
        except FileNotFoundError:
            return None
