"""Copy verified bytes into sealed memory files, so that they cannot change afterwards.

Hashing a file and opening it again later is a race that anyone who can write to the card can win. So a file
is read once, hashed while it is copied into a memory file, and the memory file is sealed against writing,
growing and shrinking. Parsers get that memory, under a path of this process.
"""

import fcntl
import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from store.base.values import ArtifactRef
from store.errors import Category, TranslateOSErrors, TranslateShortages, from_os_error, is_shortage
from store.files.regular_file import NotRegularError, hash_file, open_below

_BESIDE_FROM = 16 << 20
"""Bytes; writing is a third of the time of sealing, and a thread starts in a tenth of a millisecond."""

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class SealError(Exception):
    """The file is not the expected one; the message says what was expected and found.

    Attributes:
        denied: Whether this user may not read it, so that its content is unknown.
    """

    category = Category.NO_GO

    def __init__(self, message: str, *, denied: bool = False) -> None:
        super().__init__(message)
        self.denied = denied


@dataclass(slots=True)
class SealedMemory:
    """A sealed memory file, open until `close`."""

    fd: int

    @property
    def path(self) -> str:
        """A path of these bytes, valid in this process."""
        return f"/proc/self/fd/{self.fd}"

    def view(self) -> memoryview:
        """Return all bytes, mapped and not copied; the mapping lasts as long as the view.

        Raises:
            CacheUnusableError: This process lacks memory or open files.
        """
        size = os.fstat(self.fd).st_size
        if size == 0:
            return memoryview(b"")
        with TranslateOSErrors("sealed memory"):
            return memoryview(mmap.mmap(self.fd, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ))

    def close(self) -> None:
        """Free the memory, as soon as nothing maps it any more."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def open_expected(name: str, *, folder: int, size: int | None = None, limit: int | None = None) -> int:
    """Open a regular file of the expected size for reading, below a folder, never through a symbolic link.

    Args:
        name: Path below the folder; no part may be a link.
        folder: Descriptor of an open folder.
        size: Its exact size in bytes, if known.
        limit: Its greatest size in bytes, if bounded.

    Raises:
        SealError: There is no such file, it is something else, or it has another size.
        CacheUnusableError: This process lacks memory or open files to find out.
    """
    try:
        fd = open_below(name, folder)
    except NotRegularError as error:
        raise SealError("expected a regular file, found something else") from error
    except OSError as error:
        _raise_if_shortage(error, name)
        denied = isinstance(error, PermissionError)
        raise SealError(f"expected a regular file, found: {error.strerror}", denied=denied) from error
    found, wrong = os.fstat(fd).st_size, ""
    if size is not None and found != size:
        wrong = f"expected {size:,} bytes, found {found:,}"
    elif limit is not None and found > limit:
        wrong = f"expected at most {limit:,} bytes, found {found:,}"
    if wrong:
        os.close(fd)
        raise SealError(wrong)
    return fd


def check_digest(fd: int, ref: ArtifactRef) -> None:
    """Hash an open file and compare it with a reference.

    Raises:
        SealError: It has other content, or the disk fails.
        CacheUnusableError: This process lacks memory.
    """
    _hash_and_copy(fd, ref)


def seal_file(fd: int, ref: ArtifactRef) -> SealedMemory:
    """Copy an open file into sealed memory while hashing it.

    Raises:
        SealError: It has other content, or the disk fails.
        CacheUnusableError: This process lacks memory or open files.
    """
    try:
        memory = os.memfd_create(ref.sha256[:16], os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError as error:
        _raise_if_shortage(error, "a memory file")
        raise SealError(f"expected a memory file, found: {error.strerror}") from error
    sealed = SealedMemory(memory)
    try:
        with _writing(memory, ref.size) as write:
            _hash_and_copy(fd, ref, keep=write)
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        sealed.close()
        raise
    return sealed


def _hash_and_copy(fd: int, ref: ArtifactRef, keep: Callable[[bytes], object] | None = None) -> None:
    try:
        digest, done = hash_file(fd, limit=ref.size, keep=keep)
    except OSError as error:
        _raise_if_shortage(error, f"artifact {ref.sha256}")
        raise SealError(f"expected a disk that can be read, found: {error.strerror}") from error
    if done != ref.size or digest != ref.sha256:
        raise SealError(
            f"expected {ref.size:,} bytes with SHA-256 {ref.sha256[:12]}, found {done:,} with {digest[:12]}"
        )


@contextmanager
def _writing(memory: int, size: int) -> Iterator[Callable[[bytes], object]]:
    """Yield what writes pieces to a memory file: those of a large one beside the caller, who hashes the next."""
    if size < _BESIDE_FROM:
        yield partial(_write_all, memory)
        return
    from concurrent.futures import Future, ThreadPoolExecutor  # noqa: PLC0415 - small caches do not need it

    with TranslateShortages("sealed memory"), ThreadPoolExecutor(1) as pool:
        pending = list[Future[None]]()

        def write(piece: bytes) -> None:
            # One piece waits at most, whatever the size of the file.
            if pending:
                pending.pop().result()
            pending.append(pool.submit(_write_all, memory, piece))

        yield write
        for last in pending:
            last.result()


def _raise_if_shortage(error: OSError, what: str) -> None:
    if is_shortage(error):
        raise from_os_error(error, what) from error


def _write_all(memory: int, chunk: bytes) -> None:
    view = memoryview(chunk)
    with TranslateOSErrors("sealed memory"):
        while view:
            view = view[os.write(memory, view) :]
