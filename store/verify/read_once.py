"""The artifacts of a cache while it is verified: what is needed again after its check is not read again.

The bytes that are used are the bytes that were hashed, whatever happens to the file in between: tables of the head
stay in memory, and what the reader loads was hashed while it was copied into the sealed memory that it loads.
When it is an artifact's turn to be hashed, the file that has its name must still be the one that was read, since that
file flies; another one is hashed.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeAlias

from store.base.values import ArtifactRef
from store.disk.artifacts import Artifacts
from store.errors import ArtifactError, CacheUnusableError, NoGoError
from store.manifest.manifest import Manifest
from store.reader.artifact_files import ArtifactFiles

_FileState: TypeAlias = tuple[int, int, int, int, int]
"""Device, inode, size, and the times of modification and change in ns: another file, or a write, changes it."""


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
    _intact: dict[str, _FileState | None] = field(default_factory=dict)

    def keep_tables(self, manifest: Manifest) -> None:
        """Keep the bytes of the tables of a manifest, once they are read."""
        tables = [manifest.tiles, manifest.index.blocks]
        if manifest.carried is not None:
            tables.append(manifest.carried.packs)
        self._kept.update((ref.sha256, None) for ref in tables)

    def damage(self, ref: ArtifactRef) -> str | None:
        """Hash an artifact unless that is done, and return what is wrong with it; see `Artifacts.damage`."""
        if ref.sha256 not in self._intact:
            if self.files is not None and ref.sha256 in self.loaded:
                # What cannot be sealed is hashed to say what is wrong; the reader then tries again.
                with suppress(NoGoError):
                    before = _state(self.files.status(ref))
                    self.files.seal(self.loaded[ref.sha256], ref)
                    self._intact[ref.sha256] = before
            elif ref.sha256 in self._kept and self.present(ref):
                with suppress(ArtifactError, CacheUnusableError):
                    self.read(ref)
        read = self._intact.get(ref.sha256)
        if read is not None and read == self._named(ref):
            return None
        return Artifacts.damage(self, ref)

    def read(self, ref: ArtifactRef) -> bytes:
        """Return the bytes of an artifact after checking them; see `Artifacts.read`."""
        data = self._kept.get(ref.sha256)
        if data is None:
            if self.files is not None and ref.sha256 in self._intact and ref.sha256 in self.loaded:
                return bytes(self.files.view(self.loaded[ref.sha256], ref))
            # Taken before the bytes are read: what is written meanwhile then shows.
            before = self._named(ref)
            data = Artifacts.read(self, ref)
            self._intact[ref.sha256] = before
            if ref.sha256 in self._kept:
                self._kept[ref.sha256] = data
        return data

    def _named(self, ref: ArtifactRef) -> _FileState | None:
        """Return the state of the file that has the name of an artifact, or None if it cannot be looked at."""
        try:
            return _state(os.lstat(self.layout.artifact_file(ref.sha256)))
        except OSError:
            return None


def _state(found: os.stat_result) -> _FileState:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
