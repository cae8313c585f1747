"""The artifacts of a cache while it is verified: what is needed again after its check is not read again.

The bytes that are used are the bytes that were hashed, whatever happens to the file in between: tables of the head
stay in memory, and what the reader loads was hashed while it was copied into the sealed memory that it loads.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from store.base.values import ArtifactRef
from store.disk.artifacts import Artifacts
from store.errors import ArtifactError, CacheUnusableError, NoGoError
from store.manifest.manifest import Manifest
from store.reader.artifact_files import ArtifactFiles


@dataclass(slots=True)
class ReadOnce(Artifacts):
    """The artifacts of one cache, in one verification.

    Attributes:
        files: The files that the reader opened, if it did.
        loaded: Digest to role of those that it will load.
    """

    files: ArtifactFiles | None = None
    loaded: Mapping[str, str] = field(default_factory=dict)
    _kept: dict[str, bytes | None] = field(default_factory=dict)
    _intact: set[str] = field(default_factory=set)

    def keep_tables(self, manifest: Manifest) -> None:
        """Keep the bytes of the tables of a manifest, once they are read."""
        tables = [manifest.tiles, manifest.index.blocks]
        if manifest.carried is not None:
            tables.append(manifest.carried.packs)
        self._kept.update((ref.sha256, None) for ref in tables)

    def damage(self, ref: ArtifactRef) -> str | None:
        """Hash an artifact unless that is done, and return what is wrong with it; see `Artifacts.damage`."""
        if ref.sha256 in self._intact:
            return None
        if self.files is not None and ref.sha256 in self.loaded:
            # What cannot be sealed is hashed to say what is wrong; the reader then tries again.
            with suppress(NoGoError):
                self.files.seal(self.loaded[ref.sha256], ref)
                self._intact.add(ref.sha256)
                return None
        elif ref.sha256 in self._kept and self.present(ref):
            with suppress(ArtifactError, CacheUnusableError):
                self.read(ref)
                return None
        return Artifacts.damage(self, ref)

    def read(self, ref: ArtifactRef) -> bytes:
        """Return the bytes of an artifact after checking them; see `Artifacts.read`."""
        data = self._kept.get(ref.sha256)
        if data is None:
            if self.files is not None and ref.sha256 in self._intact and ref.sha256 in self.loaded:
                return bytes(self.files.view(self.loaded[ref.sha256], ref))
            data = Artifacts.read(self, ref)
            self._intact.add(ref.sha256)
            if ref.sha256 in self._kept:
                self._kept[ref.sha256] = data
        return data
