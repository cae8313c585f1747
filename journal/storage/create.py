"""Create a journal file completely or not at all.

LMDB writes the first pages of a new file in one step that a power cut can tear, and never accepts a torn page
again. So the file is written in a scratch folder, with its first records, synced, closed, and then linked to
its name.
"""

import errno
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from journal.errors import JournalExistsError, JournalFilesystemError
from journal.fsync import fsync_dir, link_durably
from journal.record import EMPTY, Head, Record, encode, link, pack_projection
from journal.storage.environment import ENGINE, open_environment
from journal.storage.error_mapping import translating_errors
from journal.storage.filesystem import filesystem_type, require_supported_filesystem
from journal.storage.open_environment import MAP_BYTES

FORMAT: Final = 1

_SCRATCH: Final = "journal-"
_NO_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.EXDEV, errno.ENOSYS})


def create_journal(
    path: Path,
    records: Sequence[Record],
    *,
    scratch: Path,
    projections: Mapping[bytes, bytes],
    allow_unknown_filesystem: bool,
    map_bytes: int = MAP_BYTES,
) -> Head:
    """Create a journal with its first records; see `Journal.create`."""
    raws = [encode(record) for record in records]
    if os.path.lexists(path):
        raise _exists_error(path)
    with translating_errors(path, "creating a journal"):
        require_supported_filesystem(
            filesystem_type(path.parent), path, allow_unknown=allow_unknown_filesystem
        )
        scratch.mkdir(parents=True, exist_ok=True)
        import tempfile  # noqa: PLC0415 - most commands create no journal

        folder = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=scratch))
        try:
            head = _write_journal(folder / path.name, raws, projections, map_bytes)
            _link_durably(folder / path.name, path)
            # The folder of the journal may be new, too; its name is made durable by syncing its parent.
            with suppress(PermissionError):
                fsync_dir(path.parent.resolve().parent)
        finally:
            for left in folder.iterdir():
                left.unlink()
            folder.rmdir()
    return head


def require_one_name(path: Path, scratch: Path) -> None:
    """Refuse to write to a journal, or with a lock file, that has another name.

    A copy by hard links is no copy: what is written in one folder is written in the other, without what belongs to it.

    Raises:
        JournalFilesystemError: It has another name outside of the scratch folder, where creating it leaves one
            until it is complete.
    """
    with translating_errors(path, "asking for its names"):
        for file in (path, path.with_name(f"{path.name}-lock")):
            if not file.is_file() or file.stat().st_nlink == 1:
                continue
            # These names are counted first: they may go meanwhile, and none may come.
            unfinished = sum(_same_file(found, file) for found in scratch.glob(f"{_SCRATCH}*/{file.name}"))
            names = file.stat().st_nlink - unfinished
            if names > 1:
                import shlex  # noqa: PLC0415 - only this error needs it

                raise JournalFilesystemError(
                    f"{file}: one name expected, found {names}: a copy by hard links is no copy",
                    hint="give this folder a file of its own while nothing uses it: cd"
                    f" {shlex.quote(str(path.parent))} && cp -p {path.name} own && mv own {path.name}"
                    f" && rm -f {path.name}-lock",
                )


def _same_file(found: Path, file: Path) -> bool:
    try:
        return found.samefile(file)
    except FileNotFoundError:
        return False


def _write_journal(
    path: Path, raws: Sequence[bytes], projections: Mapping[bytes, bytes], map_bytes: int
) -> Head:
    environment = open_environment(path, readonly=False, create=True, map_bytes=map_bytes)
    try:
        seq, chain = EMPTY
        with environment.write() as txn:
            txn.put_meta(b"format", b"%d" % FORMAT)
            txn.put_meta(b"engine", ENGINE)
            for raw in raws:
                seq, chain = seq + 1, link(chain, raw)
                txn.put_record(seq, chain + raw)
            for name, value in projections.items():
                txn.put_projection(name, pack_projection(name, value))
        environment.sync()
    finally:
        environment.close()
    return Head(seq, chain)


def _link_durably(source: Path, path: Path) -> None:
    try:
        link_durably(source, path)
    except FileExistsError as error:
        raise _exists_error(path) from error
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        raise JournalFilesystemError(
            f"{path}: a hard link from {source.parent.parent} expected to work, found: {error.strerror}",
            hint="keep cache and scratch folder on one local file system with hard links",
        ) from error


def _exists_error(path: Path) -> JournalExistsError:
    return JournalExistsError(
        f"{path}: no journal expected, another process created one before", hint="open that one"
    )
