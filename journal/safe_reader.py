"""Read a journal that may be busy, damaged or hostile, without risk to the calling process.

LMDB ends a process that reads a damaged file, and the structural check is not reliable while another process
commits. So a file that passes the check is read here, and every other file in a child process, which may die.
The output of the child is trusted only as far as the digest chain holds, which is checked again here.
"""

import errno
import math
import os
import signal
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from journal import errors
from journal.record import EMPTY, Chain, Entry, Head, unpack_projection, verify_chain
from journal.safe_reader_child import HEAD, PROJECTION, RECORD, STATUS_ERROR
from journal.storage.environment import is_open, open_environment
from journal.storage.integrity import require_sound
from journal.storage.meta_pages import open_journal, read_meta_pages

if TYPE_CHECKING:
    import subprocess

TIMEOUT_S: Final = 60.0

_ATTEMPTS: Final = 3
_WALL_TIMES: Final = 5
"""A child may take this many times its processor time: a busy or suspended machine says nothing of a file."""

_SIGNALS_OF_DAMAGE: Final = frozenset(
    {signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV, signal.SIGXCPU}
)
"""What ends a process that reads a damaged file; other signals come from outside."""

_COPIES: Final = 50
_COPY_BYTES: Final = 1 << 20
_ERRORS: Final[dict[str, type[errors.JournalError]]] = {
    error.kind: error
    for error in (
        errors.JournalPermissionError,
        errors.JournalFilesystemError,
        errors.JournalMissingError,
        errors.JournalIOError,
        errors.JournalFullError,
        errors.JournalResourcesError,
    )
}
_START_CHILD: Final = (
    "import sys; sys.path[: sys.path[0] == ''] = [sys.argv[1]]; "
    "from journal.safe_reader_child import main; sys.exit(main(sys.argv[2:]))"
)
"""It imports nothing from the current folder; the option `-P` for that came with Python 3.11."""


class Snapshot(NamedTuple):
    """One consistent state of a journal; its chain was checked in this process.

    Attributes:
        head: The newest record.
        entries: All entries.
        projections: Named values, their digests checked.
        damaged: Names of projections whose digest is wrong; they can be computed again from the records.
    """

    head: Head
    entries: tuple[Entry, ...]
    projections: dict[bytes, bytes]
    damaged: tuple[bytes, ...] = ()


def snapshot(path: Path | str, *, foreign: bool = False, timeout_s: float = TIMEOUT_S) -> Snapshot:
    """Read a journal in one consistent state, even while other processes write it.

    Args:
        path: The file.
        foreign: The file comes from elsewhere and nobody writes it: its lock file is not trusted, and it is
            never mapped into this process.
        timeout_s: Limit of processor time for a child process, in seconds; of wall time it has five times that.

    Raises:
        JournalMissingError: There is no such file.
        JournalPermissionError: This user may not read it.
        JournalResourcesError: There was too little memory or time, or too few processes to read it.
        JournalDamagedError: The structure or the chain is damaged, or reading killed the child or took too much
            processor time. The loss of the newest records cannot be noticed; compare `head` with one kept elsewhere.
    """
    path = Path(path)
    if foreign:
        read_meta_pages(path)
        return _read_in_child(path, foreign=True, timeout_s=timeout_s)
    try:
        if not is_open(path) and require_sound(path):
            return _read_here(path)
        return _read_with_retry(path, timeout_s=timeout_s)
    except (errors.JournalPermissionError, errors.JournalFullError):
        # On a read-only or full file system, or without permission to write, LMDB cannot use its lock file.
        return _read_without_lock(path, timeout_s)


def head_in_child(path: Path, *, timeout_s: float = TIMEOUT_S) -> Head:
    """Check the chain of a journal in a child process, and return its head.

    Raises:
        JournalDamagedError: As for `snapshot`.
    """
    return _read_with_retry(path, timeout_s=timeout_s).head


def salvage_records(
    path: Path | str, *, after: Head = EMPTY, timeout_s: float = TIMEOUT_S
) -> tuple[Entry, ...]:
    """Read the intact records after a trusted head from a damaged file that nobody writes.

    Args:
        path: The file; neither it nor its lock file is written.
        after: The trusted head; `EMPTY` for the beginning of a journal.
        timeout_s: Limit for the child process, as for `snapshot`.

    Returns:
        The entries after `after`, as far as they can be read and the chain holds; none if nothing can be
        read.

    Raises:
        JournalPermissionError: This user may not read it.
        JournalIOError: It could not be read for a reason other than its content, so it may hold more.
    """
    path = Path(path)
    try:
        read_meta_pages(path)
        written = _salvage_in_child(path, after, timeout_s)
    except (errors.JournalDamagedError, errors.JournalMissingError):
        return ()
    found: list[Entry] = []
    with suppress(errors.JournalDamagedError):
        for entry in verify_chain(after, _whole_records(written)):
            found.append(entry)  # noqa: PERF402 - keep the entries before a break in the chain
    return tuple(found)


def _salvage_in_child(path: Path, after: Head, timeout_s: float) -> bytes:
    """Return the output of a child process, which the damaged file may have ended at any point."""
    child = _run_child(path, after, "salvage", timeout_s)
    if child.returncode == STATUS_ERROR:
        found = _child_error(path, child.stderr)
        if not isinstance(found, errors.JournalDamagedError):
            raise found
    return child.stdout


def _whole_records(written: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the record frames at the beginning of a child's output, up to the first that is cut short."""
    at = 0
    while written[at : at + 1] == b"R" and at + RECORD.size <= len(written):
        _, seq, length = RECORD.unpack_from(written, at)
        at += RECORD.size
        if at + length > len(written):
            return
        yield seq, written[at : at + length]
        at += length


def _read_here(path: Path) -> Snapshot:
    try:
        environment = open_environment(path, readonly=True)
        try:
            with environment.read() as reader:
                values = list(reader.records(1))
                packed = list(reader.projections())
        finally:
            environment.close()
    except errors.JournalFilesystemError:
        # In two containers LMDB takes two processes of the same number for one. A child has another number.
        return _read_in_child(path, foreign=False, timeout_s=TIMEOUT_S)
    return _verify(values, packed)


def _verify(values: list[tuple[int, bytes]], packed: list[tuple[bytes, bytes]]) -> Snapshot:
    entries = tuple(verify_chain(EMPTY, values))
    head = entries[-1].head if entries else EMPTY
    projections, damaged = {}, []
    for name, value in packed:
        try:
            projections[name] = unpack_projection(name, value)
        except errors.JournalDamagedError:
            damaged.append(name)
    return Snapshot(head=head, entries=entries, projections=projections, damaged=tuple(damaged))


def _read_with_retry(path: Path, *, timeout_s: float) -> Snapshot:
    """Read in a child process; retry a failure that may come from a concurrent write."""
    for _ in range(_ATTEMPTS - 1):
        before = read_meta_pages(path)
        try:
            return _read_in_child(path, foreign=False, timeout_s=timeout_s)
        except errors.JournalDamagedError:
            if read_meta_pages(path) == before:
                raise
    return _read_in_child(path, foreign=False, timeout_s=timeout_s)


def _read_without_lock(path: Path, timeout_s: float) -> Snapshot:
    """Read in a child process, unnoticed by writers; they may use pages again that are still being read.

    So a result counts only if nobody committed meanwhile. A copy takes less time than reading.
    """
    before = read_meta_pages(path)
    try:
        found = _read_in_child(path, foreign=True, timeout_s=timeout_s)
    except errors.JournalDamagedError:
        if read_meta_pages(path) == before:
            raise
    else:
        if read_meta_pages(path) == before:
            return found
    import tempfile  # noqa: PLC0415 - the owner of a journal does not need it

    try:
        return _read_copy(path, timeout_s)
    except OSError as error:
        what = f"{path}: a copy of it in {tempfile.tempdir or 'a temporary folder'} expected, found: {error}"
        hint = "free space there, or let TMPDIR name another folder"
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise errors.JournalFullError(what, hint=hint) from error
        raise errors.io_error(what, error, hint=hint) from error


def _read_copy(path: Path, timeout_s: float) -> Snapshot:
    """Read a copy that was made while nobody committed."""
    import shutil  # noqa: PLC0415 - as above
    import tempfile  # noqa: PLC0415 - as above

    with tempfile.NamedTemporaryFile(prefix="c10-") as copy:
        for _ in range(_COPIES):
            before = read_meta_pages(path)
            with open_journal(path) as fd, open(fd, "rb", closefd=False) as file:
                copy.seek(0)
                copy.truncate()
                shutil.copyfileobj(file, copy, _COPY_BYTES)
            copy.flush()
            if read_meta_pages(path) == before:
                return _read_in_child(Path(copy.name), foreign=True, timeout_s=timeout_s)
    raise errors.JournalIOError(
        f"{path}: a moment without commits expected, found that it is written all the time",
        hint="run it again, or run it as the owner of the cache, whose locks keep what is being read",
    )


def _read_in_child(path: Path, *, foreign: bool, timeout_s: float) -> Snapshot:
    child = _run_child(path, EMPTY, "foreign" if foreign else "live", timeout_s)
    if child.returncode < 0:
        name = signal.strsignal(-child.returncode) or f"signal {-child.returncode}"
        raise errors.JournalDamagedError(f"{path}: reading it ended the child process: {name}")
    if child.returncode == STATUS_ERROR:
        raise _child_error(path, child.stderr)
    values, packed, head = _parse_frames(path, child.stdout, child.stderr)
    found = _verify(values, packed)
    if found.head != head:
        raise errors.JournalDamagedError(f"{path}: reading it in a child process gave no complete answer")
    return found


def _run_child(path: Path, after: Head, mode: str, timeout_s: float) -> "subprocess.CompletedProcess[bytes]":
    """Run a child process until it ends by itself or by the file that it reads.

    Raises:
        JournalResourcesError: It took too long, was ended from outside (twice), or could not work.
        JournalIOError: It could not be started for another reason.
    """
    import subprocess  # noqa: PLC0415 - not needed for a journal that is read in this process

    arguments = [
        *(sys.executable, "-c", _START_CHILD, str(Path(__file__).resolve().parent.parent)),
        *(str(path.absolute()), mode, str(after.seq), after.chain.hex()),
        *(str(math.ceil(timeout_s)), str(os.getpid())),
    ]
    ended = ""
    for _ in range(2):
        try:
            child = subprocess.run(
                arguments,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_WALL_TIMES * timeout_s,
                check=False,
                close_fds=True,
            )
        except subprocess.TimeoutExpired as error:
            raise errors.JournalResourcesError(
                f"{path}: reading it within {_WALL_TIMES * timeout_s:g} s expected, it took longer"
            ) from error
        except (MemoryError, OSError) as error:
            what = f"{path}: a child process to read it expected, found: {error}"
            raise errors.io_error(what, error, hint=f"check the permissions of {sys.executable}") from error
        if child.returncode in {0, STATUS_ERROR} or -child.returncode in _SIGNALS_OF_DAMAGE:
            return child
        ended = f"{child.returncode}, {child.stderr[-200:]!r}"
    raise errors.JournalResourcesError(f"{path}: a child process that reads it was ended: {ended}")


def _child_error(path: Path, text: bytes) -> errors.JournalError:
    import json  # noqa: PLC0415 - as in `_run_child`

    try:
        written = json.loads(text)
        kind, message, hint, seq = written["kind"], written["message"], written["hint"], written["seq"]
    except (ValueError, KeyError, TypeError):
        return errors.JournalDamagedError(f"{path}: reading it in a child process failed: {text[-200:]!r}")
    if kind in _ERRORS:
        return _ERRORS[kind](message, hint=hint)
    return errors.JournalDamagedError(f"{path}: {message}", hint=hint, seq=seq)


def _parse_frames(
    path: Path, data: bytes, stderr: bytes
) -> tuple[list[tuple[int, bytes]], list[tuple[bytes, bytes]], Head]:
    """Return the records, projections and head in the frames of `journal.safe_reader_child`."""
    values: list[tuple[int, bytes]] = []
    packed: list[tuple[bytes, bytes]] = []
    at = 0
    try:
        while (kind := data[at : at + 1]) != b"H":
            if kind == b"R":
                _, seq, length = RECORD.unpack_from(data, at)
                at += RECORD.size
                values.append((seq, _slice(data, at, length)))
            else:
                mark, name_length, length = PROJECTION.unpack_from(data, at)
                name = _slice(data, at + PROJECTION.size, name_length)
                at += PROJECTION.size + name_length
                packed.append((name, _slice(data, at, length)))
                _require(mark == b"P")
            at += length
        _, seq, chain = HEAD.unpack_from(data, at)
        _require(at + HEAD.size == len(data))
    except (struct.error, ValueError) as error:
        raise errors.JournalDamagedError(
            f"{path}: reading it in a child process gave no complete answer: {stderr[-200:]!r}"
        ) from error
    return values, packed, Head(seq, Chain(chain))


def _slice(data: bytes, at: int, length: int) -> bytes:
    _require(at + length <= len(data))
    return data[at : at + length]


def _require(holds: bool) -> None:  # noqa: FBT001  (it is a condition, not a flag)
    if not holds:
        raise ValueError("the frames of the child do not fit together")
