"""Content-addressed artifacts: write-once files named by their SHA-256.

`artifacts/ab/ab12...` exists only whole and durable. Putting bytes that are there already costs no second
copy, but the existing file is hashed again and made durable first: it may be damaged, and whoever linked it may
have died before syncing. A damaged object is never overwritten: it is linked into `quarantine/` as evidence,
unlinked, and the new bytes take the name.

Writers hold `artifacts/.lock` shared from their first put until the event that names it is committed;
collection holds it exclusively.
"""

import fcntl
import hashlib
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from journal.durable import fsync_dir
from store.canonical import Digest, is_digest
from store.errors import ArtifactError, ArtifactsBusyError, ErrorKind, from_os_error
from store.events import ArtifactRef
from store.layout import Layout
from store.writeonce import Draft, draft, sync_existing

_CHUNK = 1 << 20
_CHECK_INTERVAL_S = 0.01


@dataclass(slots=True)
class Artifacts:
    """The artifact folder of one cache.

    Attributes:
        layout: Where it lies.
        created: How many files were made through this object.
        replaced: Digest and place in quarantine of damaged objects that were replaced through this object.
    """

    layout: Layout
    created: int = 0
    replaced: list[tuple[str, str]] = field(default_factory=list)

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """Keep collection away while artifacts are written and their events are under way.

        Raises:
            StoreError: The lock file cannot be opened.
        """
        fd = self._open_lock()
        try:
            fcntl.flock(fd, fcntl.LOCK_SH)
            yield
        finally:
            _let_go(fd)

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Try, without waiting, to be the only one who may write or remove artifacts; yields whether it worked."""
        fd = self._open_lock()
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            _let_go(fd)

    @contextmanager
    def excluding(self, timeout_s: float) -> Iterator[None]:
        """Be the only one who may write or remove artifacts, waiting for others so many seconds.

        Raises:
            ArtifactsBusyError: Others did not finish in time.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            with self.alone() as alone:
                if alone:
                    yield
                    return
            left = deadline - time.monotonic()
            if left <= 0:
                raise ArtifactsBusyError(
                    ErrorKind.BUSY,
                    f"expected nobody to write artifacts for a moment within {timeout_s:g} s, found"
                    f" {self.layout.artifacts_lock} held, by an engine run or an opened cache",
                    hint="wait for it to finish, then run it again",
                )
            time.sleep(min(_CHECK_INTERVAL_S, left))

    def _open_lock(self) -> int:
        try:
            return os.open(self.layout.artifacts_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise from_os_error(error, f"lock file {self.layout.artifacts_lock}") from error

    @contextmanager
    def draft(self) -> Iterator[Draft]:
        """Open a nameless file on the cache's file system, to be given to `publish`."""
        try:
            with draft(self.layout.scratch) as new:
                yield new
        except OSError as error:
            raise from_os_error(error, f"artifact in {self.layout.artifacts}") from error

    def put(self, data: bytes | memoryview) -> ArtifactRef:
        """Store bytes durably.

        Raises:
            DiskFullError: No space.
            CacheUnusableError: The folder cannot be written.
        """
        with self.draft() as new:
            new.write(data)
            ref = ArtifactRef(sha256=hashlib.sha256(data).hexdigest(), size=memoryview(data).nbytes)
            return self._publish(new, ref)

    def publish(self, new: Draft) -> ArtifactRef:
        """Store what was written to a draft; it is hashed from the file itself."""
        return self._publish(new, _hash(new.fd))

    def _publish(self, new: Draft, ref: ArtifactRef) -> ArtifactRef:
        folder = self.layout.artifact_folder(ref.sha256)
        try:
            new.publish(folder, ref.sha256)
        except FileExistsError:
            if self.damage(ref) is None:
                sync_existing(folder, ref.sha256)
                return ref
            self.replaced.append((ref.sha256, self.quarantine(ref.sha256)))
            new.publish(folder, ref.sha256)
        self.created += 1
        return ref

    def present(self, ref: ArtifactRef) -> bool:
        """Whether a regular file of the right size has this name; looks at no content."""
        return self.size(ref.sha256) == ref.size

    def size(self, digest: str) -> int | None:
        """Return the size of the object, or nothing if there is none or it is no regular file."""
        try:
            found = os.lstat(self.layout.artifact(digest))
        except OSError:
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def damage(self, ref: ArtifactRef) -> str | None:
        """Hash the object and say what is wrong with it, or nothing."""
        try:
            fd = os.open(
                self.layout.artifact(ref.sha256), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            )
        except FileNotFoundError:
            return "missing"
        except OSError as error:
            return f"unreadable ({error.strerror})"
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                return "not a regular file"
            if found.st_size != ref.size:
                return f"expected {ref.size} bytes, found {found.st_size}"
            actual = _hash(fd).sha256
        except OSError as error:
            return f"unreadable ({error.strerror})"
        finally:
            os.close(fd)
        return None if actual == ref.sha256 else f"expected SHA-256 {ref.sha256[:12]}, found {actual[:12]}"

    def read(self, ref: ArtifactRef) -> bytes:
        """Return the bytes of an artifact after checking them.

        Raises:
            ArtifactError: It is missing or damaged.
        """
        if not self.present(ref):
            raise self._error(ref, self.damage(ref) or "changed while it was looked at")
        try:
            data = self.layout.artifact(ref.sha256).read_bytes()
        except OSError as error:
            raise from_os_error(error, f"artifact {ref.sha256}") from error
        if hashlib.sha256(data).hexdigest() != ref.sha256:
            raise self._error(ref, "other bytes")
        return data

    @contextmanager
    def opened(self, ref: ArtifactRef) -> Iterator[str]:
        """Open an artifact and yield a path of this process that leads to it, whatever its own path looks like.

        Raises:
            CacheUnusableError: It cannot be opened.
        """
        try:
            fd = os.open(
                self.layout.artifact(ref.sha256), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            )
        except OSError as error:
            raise from_os_error(error, f"artifact {ref.sha256}") from error
        try:
            yield f"/proc/self/fd/{fd}"
        finally:
            os.close(fd)

    def names(self) -> Iterator[tuple[str, os.stat_result, Path]]:
        """Yield (digest, lstat, path) of every well-named object; anything else has an empty digest."""
        for folder in sorted(self.layout.artifacts.iterdir()):
            if folder == self.layout.artifacts_lock:
                continue
            if len(folder.name) != 2 or folder.is_symlink() or not folder.is_dir():
                yield "", os.lstat(folder), folder
                continue
            for path in sorted(folder.iterdir()):
                well = is_digest(path.name) and path.name[:2] == folder.name
                yield Digest(path.name if well else ""), os.lstat(path), path

    def quarantine(self, digest: str) -> str:
        """Keep a damaged object as evidence and free its name; returns where it lies, relative to the cache."""
        path = self.layout.artifact(digest)
        number = 0
        while True:
            kept = self.layout.quarantine / f"{digest}.{number}"
            try:
                os.link(path, kept, follow_symlinks=False)
                break
            except FileExistsError:
                number += 1
        fsync_dir(self.layout.quarantine)
        path.unlink()
        fsync_dir(path.parent)
        return f"{self.layout.quarantine.name}/{kept.name}"

    @staticmethod
    def _error(ref: ArtifactRef, found: str) -> ArtifactError:
        kind = ErrorKind.ARTIFACT_MISSING if found == "missing" else ErrorKind.ARTIFACT_DAMAGED
        return ArtifactError(
            kind, f"artifact {ref.sha256[:12]}: {found}", hint="c10 build (runs the damaged step again)"
        )


def _let_go(fd: int) -> None:
    """Close a lock file: nothing was written to it, and closing frees it even on a disk that fails."""
    with suppress(OSError):
        os.close(fd)


def _hash(fd: int) -> ArtifactRef:
    state, size = hashlib.sha256(), 0
    while chunk := os.pread(fd, _CHUNK, size):
        state.update(chunk)
        size += len(chunk)
    return ArtifactRef(sha256=state.hexdigest(), size=size)
