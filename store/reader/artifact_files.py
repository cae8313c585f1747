"""The artifacts of one generation: all opened at once, and copied into sealed memory when they are used."""

import os
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NoReturn

from store.base.values import ArtifactRef
from store.errors import ErrorKind, RequestRefusedError, is_shortage
from store.files.regular_file import read_at
from store.files.sealed_memory import SealedMemory, SealError, check_digest, open_expected, seal_file
from store.manifest.manifest import Manifest
from store.reader.manifest_files import damaged, denied


@dataclass(slots=True)
class ArtifactFiles:
    """Open files below the folder of a cache, and their verified copies in memory.

    It owns the descriptor of the folder, and closes it with the files.
    """

    _folder: int
    _files: dict[str, int] = field(default_factory=dict)
    _sealed: dict[str, SealedMemory] = field(default_factory=dict)

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied: the numbers of open files mean others in another process.

        Raises:
            TypeError: Always.
        """
        raise TypeError("an open cache cannot be pickled or copied; open it where it is used")

    def __del__(self) -> None:
        """Close the files of an object that nothing holds any more.

        An interrupt may come when the files are open and their owner has not taken them over yet.
        """
        with suppress(AttributeError):  # it was interrupted before it had any
            self.close()

    def open_all(self, manifest: Manifest) -> None:
        """Open all artifacts that a manifest names.

        Raises:
            NoGoError: Some are missing, of another size, or may not be read.
            CacheUnusableError: This process lacks memory or open files.
        """
        problems, all_denied = list[str](), True
        for role, ref in manifest.artifacts():
            try:
                if ref.sha256 not in self._files:
                    self._files[ref.sha256] = self._open(ref)
            except SealError as error:
                problems.append(f"{role}: {error}")
                all_denied &= error.denied
        if problems:
            raise denied(problems) if all_denied else damaged(problems)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._folder < 0

    def close(self) -> None:
        """Close all files, and free the memory that nothing maps any more."""
        # What is closed is forgotten first: its number may be another file's by the time of a second call.
        while self._files:
            os.close(self._files.popitem()[1])
        while self._sealed:
            self._sealed.popitem()[1].close()
        folder, self._folder = self._folder, -1
        if folder >= 0:
            os.close(folder)

    def require_open(self) -> None:
        """Refuse to go on after `close`.

        Raises:
            RequestRefusedError: `close` was called.
        """
        if self.closed:
            raise RequestRefusedError(
                "expected an open cache, found one that was closed",
                kind=ErrorKind.CLOSED,
                hint="use it inside of its with block; engines and indexes that it handed out live on",
            )

    def seal(self, role: str, ref: ArtifactRef) -> SealedMemory:
        """Return an artifact in sealed memory, hashed while it was copied.

        Raises:
            NoGoError: It is damaged.
        """
        self.require_open()
        if ref.sha256 not in self._sealed:
            try:
                self._sealed[ref.sha256] = seal_file(self._files[ref.sha256], ref)
            except SealError as error:
                raise damaged([f"{role}: {error}"]) from error
        return self._sealed[ref.sha256]

    def status(self, ref: ArtifactRef) -> os.stat_result:
        """Return the status of the file of an artifact that was opened."""
        self.require_open()
        return os.fstat(self._files[ref.sha256])

    def view(self, role: str, ref: ArtifactRef) -> memoryview:
        """Return the bytes of an artifact in sealed memory.

        Raises:
            NoGoError: It is damaged.
        """
        return self.seal(role, ref).view()

    def sealed_sizes(self) -> dict[str, int]:
        """Return the sizes of what is in sealed memory, bytes, by digest."""
        self.require_open()
        return {digest: os.fstat(sealed.fd).st_size for digest, sealed in self._sealed.items()}

    def check(self, role: str, ref: ArtifactRef, *, keep: bool) -> None:
        """Hash an artifact; with `keep`, while it is copied into sealed memory, unless that holds it already.

        Raises:
            SealError, NoGoError: It is damaged.
        """
        self.require_open()
        if keep and ref.sha256 not in self._sealed:
            self.seal(role, ref)
        else:
            check_digest(self._files[ref.sha256], ref)

    def check_block(self, ref: ArtifactRef) -> None:
        """Hash a block, which is not kept open.

        Raises:
            SealError: It is missing or damaged.
        """
        fd = self._open(ref)
        try:
            check_digest(fd, ref)
        finally:
            os.close(fd)

    def read_part(self, role: str, ref: ArtifactRef, offset: int, length: int) -> bytes:
        """Return a part of a file that is not kept open, not hashed; fewer bytes if the file became shorter.

        Raises:
            NoGoError: It is missing, of another size, or cannot be read.
            CacheUnusableError: This process lacks memory or open files.
        """
        self.require_open()
        try:
            fd = self._open(ref)
        except SealError as error:
            raise damaged([f"{role}: {error}"]) from error
        try:
            return read_at(fd, offset, length)
        except OSError as error:
            if is_shortage(error):
                raise
            raise damaged([f"{role}: expected a disk that can be read, found: {error.strerror}"]) from error
        finally:
            os.close(fd)

    def read_block(self, ref: ArtifactRef) -> memoryview:
        """Return the bytes of a block, hashed; nothing of it is kept.

        Raises:
            SealError: It is missing or damaged.
            CacheUnusableError: This process lacks memory or open files.
        """
        self.require_open()
        fd = self._open(ref)
        try:
            sealed = seal_file(fd, ref)
        finally:
            os.close(fd)
        try:
            return sealed.view()
        finally:
            sealed.close()

    def _open(self, ref: ArtifactRef) -> int:
        path = f"artifacts/{ref.sha256[:2]}/{ref.sha256}"
        return open_expected(path, folder=self._folder, size=ref.size)
