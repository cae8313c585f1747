"""Content-addressed artifacts: write-once files named by their SHA-256.

`artifacts/ab/ab12...` exists only whole and durable. Putting bytes that are there already costs no second
copy, but the existing file is hashed again and made durable first: it may be damaged, and the process that linked it
may have died before syncing. A damaged file is never overwritten: it is linked into `quarantine/` as evidence, unlinked,
and the new bytes take the name.

Writers hold `artifacts/.lock` shared from their first put until the event that names it is committed;
collection holds it exclusively.
"""

import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import field
from pathlib import Path

from journal.lock_wait import LockWait
from store.base.canonical_json import Digest, is_digest
from store.base.valueclass import valueclass
from store.base.values import ArtifactRef
from store.disk.layout import Layout
from store.disk.quarantine import move_to_quarantine
from store.disk.repair_commands import repairing
from store.disk.write_once import Draft, draft, sync_existing
from store.errors import (
    ArtifactError,
    ArtifactsBusyError,
    CacheUnusableError,
    ErrorKind,
    TranslateOSErrors,
    describe_read_error,
    from_os_error,
    is_shortage,
)
from store.files.regular_file import hash_file, is_wrong_file_type, open_regular, read_regular

_CHUNK = 1 << 20
_CHECK_INTERVAL_S = 0.01


@valueclass(slots=True)
class Artifacts:
    """The artifact folder of one cache.

    Attributes:
        layout: Where the cache is.
        created: How many files were made through this object, copies in quarantine among them.
        replaced: Digest and place in quarantine of damaged objects that were replaced through this object.
    """

    layout: Layout
    created: int = 0
    replaced: list[tuple[str, str]] = field(default_factory=list)

    @contextmanager
    def shared_lock(self) -> Iterator[None]:
        """Hold the artifact lock shared: no collection while artifacts are written and their events are appended.

        Raises:
            StoreError: The lock file cannot be opened.
        """
        fd = self._open_lock()
        try:
            fcntl.flock(fd, fcntl.LOCK_SH)
            yield
        finally:
            _close_quietly(fd)

    @contextmanager
    def try_exclusive_lock(self) -> Iterator[bool]:
        """Try to take the artifact lock exclusively, without waiting; yield whether it worked."""
        fd = self._open_lock()
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            _close_quietly(fd)

    @contextmanager
    def exclusive_lock(self, timeout_s: float) -> Iterator[None]:
        """Hold the artifact lock exclusively, waiting for others at most so many seconds.

        A wait of more than half a second is logged once, as a warning: without a handler for it, on standard error.

        Raises:
            ArtifactsBusyError: Others did not finish in time.
        """
        holder = f"{str(self.layout.artifacts_lock)!a}, held by an engine run or an opened cache"
        wait = LockWait(timeout_s, check_interval_s=_CHECK_INTERVAL_S, describe=lambda: holder)
        while True:
            with self.try_exclusive_lock() as alone:
                if alone:
                    yield
                    return
            if not wait.pause():
                raise ArtifactsBusyError(
                    f"expected nobody to write artifacts for a moment within {timeout_s:g} s, found"
                    f" {self.layout.artifacts_lock} held, by an engine run or an opened cache",
                    kind=ErrorKind.BUSY,
                    hint="wait for it to finish, then run it again",
                )

    def _open_lock(self) -> int:
        path = self.layout.artifacts_lock
        try:
            return open_regular(path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            if is_wrong_file_type(error):
                raise CacheUnusableError(
                    f"expected a regular file as lock {path}, found something else",
                    kind=ErrorKind.FILE_SYSTEM,
                    hint=repairing(self.layout),
                ) from error
            raise from_os_error(error, f"lock file {path}") from error

    @contextmanager
    def draft(self) -> Iterator[Draft]:
        """Open a nameless file on the file system of the cache, for `publish`."""
        with TranslateOSErrors(f"artifact in {self.layout.artifacts}"), draft(self.layout.scratch) as new:
            yield new

    def put(self, data: bytes | memoryview) -> ArtifactRef:
        """Store bytes durably.

        Raises:
            DiskFullError: No space.
            CacheUnusableError: The folder cannot be written.
        """
        with self.draft() as new:
            new.write(data)
            return self.publish(new, ref_of(data))

    def take(self, ref: ArtifactRef, pieces: Iterable[bytes]) -> None:
        """Store an artifact that arrives in pieces, if its bytes are those that were named.

        Raises:
            ArtifactError: The bytes are others, or more; nothing was stored.
            DiskFullError: No space.
            CacheUnusableError: The folder cannot be written.
        """
        with self.draft() as new:
            state, size = hashlib.sha256(), 0
            for piece in pieces:
                state.update(piece)
                size += len(piece)
                if size > ref.size:
                    break
                new.write(piece)
            if size != ref.size:
                found = "more" if size > ref.size else f"{size:,}"
                raise self._error(ref, f"expected {ref.size:,} bytes, found {found}")
            if state.hexdigest() != ref.sha256:
                raise self._error(ref, f"expected SHA-256 {ref.sha256[:12]}, found {state.hexdigest()[:12]}")
            self.publish(new, ref)

    def publish(self, new: Draft, ref: ArtifactRef) -> ArtifactRef:
        """Store a draft; the caller knows that `ref` is what it holds."""
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
        """Return whether a regular file of the right size has this name; its content is not read."""
        return self.size(ref.sha256) == ref.size

    def size(self, digest: str) -> int | None:
        """Return the size of an artifact in bytes, or None if there is no regular file of this name."""
        try:
            found = os.lstat(self.layout.artifact_file(digest))
        except OSError as error:
            if is_shortage(error):
                raise from_os_error(error, f"artifact {digest}") from error
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def damage(self, ref: ArtifactRef) -> str | None:
        """Hash an artifact and return what is wrong with it, or None.

        Raises:
            CacheUnusableError: This process lacks memory or open files, so the answer is unknown.
        """
        try:
            fd = open_regular(self.layout.artifact_file(ref.sha256))
        except (FileNotFoundError, NotADirectoryError):
            return "missing"
        except OSError as error:
            return self._unopened(ref, error)
        try:
            size = os.fstat(fd).st_size
            if size != ref.size:
                return f"expected {ref.size:,} bytes, found {size:,}"
            actual, _ = hash_file(fd, limit=ref.size)
        except OSError as error:
            if is_shortage(error):
                raise from_os_error(error, f"artifact {ref.sha256}") from error
            return describe_read_error(error)
        finally:
            os.close(fd)
        return None if actual == ref.sha256 else f"expected SHA-256 {ref.sha256[:12]}, found {actual[:12]}"

    def _unopened(self, ref: ArtifactRef, error: OSError) -> str:
        """Return why an artifact could not be opened.

        Raises:
            CacheUnusableError: This process lacks memory or open files, which says nothing about the artifact.
        """
        if is_shortage(error):
            raise from_os_error(error, f"artifact {ref.sha256}") from error
        if is_wrong_file_type(error):
            return "not a regular file"
        return describe_read_error(error)

    def read(self, ref: ArtifactRef) -> bytes:
        """Return the bytes of an artifact after checking them.

        Raises:
            ArtifactError: It is missing, damaged, or the disk fails.
            CacheUnusableError: Permissions, or a lack of memory or open files.
        """
        if not self.present(ref):
            raise self._error(ref, self.damage(ref) or "changed while it was read")
        try:
            data = read_regular(self.layout.artifact_file(ref.sha256), limit=ref.size)
        except FileNotFoundError:
            data = None
        except OSError as error:
            if error.errno == errno.EIO:
                raise self._error(ref, describe_read_error(error)) from error
            raise from_os_error(error, f"artifact {ref.sha256}") from error
        if data is None:
            raise self._error(ref, "changed while it was read")
        if hashlib.sha256(data).hexdigest() != ref.sha256:
            raise self._error(ref, "other bytes")
        return data

    def pieces(self, ref: ArtifactRef) -> Iterator[bytes]:
        """Yield the bytes of an artifact of any size; they are verified only when the last piece was taken.

        Raises:
            ArtifactError: It is missing, damaged, or the disk fails; do not use what was yielded before.
            CacheUnusableError: This process lacks memory or open files.
        """
        if not self.present(ref):
            raise self._error(ref, self.damage(ref) or "changed while it was read")
        state, done = hashlib.sha256(), 0
        with self.opened(ref) as path, open(path, "rb", buffering=0) as file:  # noqa: PTH123 - a path of this process
            while done <= ref.size:
                try:
                    piece = file.read(_CHUNK)
                except OSError as error:
                    if is_shortage(error):
                        raise from_os_error(error, f"artifact {ref.sha256}") from error
                    raise self._error(ref, describe_read_error(error)) from error
                if not piece:
                    break
                state.update(piece)
                done += len(piece)
                yield piece
        if done != ref.size or state.hexdigest() != ref.sha256:
            raise self._error(ref, "other bytes")

    @contextmanager
    def opened(self, ref: ArtifactRef) -> Iterator[str]:
        """Open an artifact and yield a path below /proc/self/fd that leads to it.

        Raises:
            CacheUnusableError: It cannot be opened.
        """
        with TranslateOSErrors(f"artifact {ref.sha256}"):
            fd = open_regular(self.layout.artifact(ref.sha256))
        try:
            yield f"/proc/self/fd/{fd}"
        finally:
            os.close(fd)

    def names(self) -> Iterator[tuple[str, os.DirEntry[str]]]:
        """Yield digest and entry of every well-named file; anything else has an empty digest.

        Yield nothing if there is no artifact folder, or something else in its place.
        """
        if self.layout.artifacts.is_symlink() or not self.layout.artifacts.is_dir():
            return
        lock = self.layout.artifacts_lock.name
        for folder in _entries(self.layout.artifacts):
            if folder.name == lock and folder.is_file(follow_symlinks=False):
                continue
            if len(folder.name) != 2 or not folder.is_dir(follow_symlinks=False):
                yield "", folder
                continue
            for entry in _entries(folder.path):
                well = is_digest(entry.name) and entry.name[:2] == folder.name
                yield Digest(entry.name if well else ""), entry

    def quarantine(self, digest: str) -> str:
        """Move a damaged file to quarantine; return its new path relative to the cache."""
        kept = move_to_quarantine(self.layout, self.layout.artifact(digest))
        self.created += 1
        return kept

    @staticmethod
    def _error(ref: ArtifactRef, found: str) -> ArtifactError:
        kind = ErrorKind.ARTIFACT_MISSING if found == "missing" else ErrorKind.ARTIFACT_DAMAGED
        return ArtifactError(
            f"artifact {ref.sha256[:12]}: {found}", kind=kind, hint="c10 build (runs the damaged step again)"
        )


def ref_of(data: bytes | memoryview) -> ArtifactRef:
    """Return the reference of bytes: their SHA-256 and size."""
    return ArtifactRef(sha256=hashlib.sha256(data).hexdigest(), size=memoryview(data).nbytes)


def ref_of_draft(new: Draft) -> ArtifactRef:
    """Return the reference of what was written to a draft; the file itself is hashed."""
    digest, size = hash_file(new.fd)
    return ArtifactRef(sha256=digest, size=size)


def _entries(folder: Path | str) -> list[os.DirEntry[str]]:
    """List a folder, sorted by name. `Path` objects for 257 folders would take most of the time."""
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def counted(pieces: Iterable[bytes], on_bytes: Callable[[int], None] | None) -> Iterator[bytes]:
    """Yield pieces, and report the length of each after it was taken."""
    for piece in pieces:
        yield piece
        if on_bytes is not None:
            on_bytes(len(piece))


def _close_quietly(fd: int) -> None:
    """Close a lock file, ignoring disk errors: nothing was written to it, and closing releases the lock anyway."""
    with suppress(OSError):
        os.close(fd)
