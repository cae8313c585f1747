"""Write-once files: a name appears with all of its bytes, durable, or not at all, and never changes meaning.

A draft is a file without a name (`O_TMPFILE`), or, where the file system knows no such thing, a file in the
scratch folder. Publishing makes its bytes durable, links it under its name and makes the folder durable. A
link never replaces anything: a name that is taken is reported, not overwritten, and there is no moment at
which a reader could see half a file. Nothing here renames.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import field
from pathlib import Path

from journal.fsync import fsync_dir, fsync_file
from store.base.valueclass import valueclass
from store.files.regular_file import open_folder, read_regular

_NO_TMPFILE = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT})


@valueclass(slots=True)
class Draft:
    """A file being written. `path` names its open descriptor for libraries that want a path.

    `mode` are the permissions that publishing gives it: in a cache, the folders say who may read.
    """

    fd: int
    scratch_name: Path | None = None
    mode: int = 0o444
    _published: bool = field(default=False, init=False)

    @property
    def path(self) -> str:
        """A path that leads to this file within this process."""
        return f"/proc/self/fd/{self.fd}"

    def write(self, data: bytes | memoryview) -> None:
        """Append all bytes.

        Raises:
            OSError: The bytes do not fit or cannot be written.
        """
        view = memoryview(data).cast("B")
        while view:
            view = view[os.write(self.fd, view) :]

    def publish(self, folder: Path, name: str) -> None:
        """Make the bytes durable and give them their name, read-only.

        Raises:
            FileExistsError: The name is taken; whatever it names was not touched.
            OSError: Anything else; the folder is a link, among others.
        """
        os.fchmod(self.fd, self.mode)
        os.fsync(self.fd)
        target = open_folder(folder)
        try:
            # Only with a folder descriptor does Python call linkat with AT_SYMLINK_FOLLOW, which the path
            # under /proc needs.
            os.link(self.path, name, dst_dir_fd=target, follow_symlinks=True)
            os.fsync(target)
        finally:
            os.close(target)


@contextmanager
def draft(scratch: Path) -> Iterator[Draft]:
    """Open a draft on the file system of `scratch`; without `publish` it leaves nothing behind."""
    fd, scratch_name = _open(scratch)
    try:
        yield Draft(fd, scratch_name)
    finally:
        os.close(fd)
        if scratch_name is not None:
            scratch_name.unlink(missing_ok=True)


def write_once(folder: Path, name: str, data: bytes, *, scratch: Path) -> bool:
    """Publish `data` as `folder/name`. An existing file with the same bytes is made durable and kept.

    Returns:
        Whether the file is new.

    Raises:
        FileExistsError: The name is taken by other bytes, or by something that is no regular file.
        OSError: Anything else.
    """
    with draft(scratch) as new:
        new.write(data)
        try:
            new.publish(folder, name)
        except FileExistsError:
            if read_regular(folder / name, limit=len(data)) != data:
                raise
            sync_existing(folder, name)
            return False
    return True


def sync_existing(folder: Path, name: str) -> None:
    """Make an existing file and its name durable: whoever linked it may have died before doing so."""
    fsync_file(folder / name)
    fsync_dir(folder)


def _open(scratch: Path) -> tuple[int, Path | None]:
    try:
        return os.open(scratch, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600), None
    except OSError as error:
        if error.errno not in _NO_TMPFILE or not scratch.is_dir():
            raise
    name = scratch / f"draft-{os.getpid()}-{os.urandom(8).hex()}"
    return os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600), name
