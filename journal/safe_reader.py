"""Read a journal that may be busy, damaged or hostile, without risk to the process that asks.

LMDB ends the process that reads a damaged file, and the structural check cannot be believed while somebody commits.
So a file that is quiet and sound is read here, and every other one in a child process whose death is an answer. What a
child says is believed only as far as the digest chain holds, and the chain is computed again here.
"""

import math
import os
import signal
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from journal.errors import (
    JournalDamagedError,
    JournalError,
    JournalFilesystemError,
    JournalFullError,
    JournalIOError,
    JournalMissingError,
    JournalPermissionError,
)
from journal.record import EMPTY, Chain, Entry, Head, follow, unseal
from journal.safe_reader_child import HEAD, PROJECTION, RECORD, STATUS_ERROR
from journal.storage.environment import is_open, open_environment
from journal.storage.integrity import Quietness, require_sound
from journal.storage.meta_pages import read_meta_pages

if TYPE_CHECKING:
    import subprocess

TIMEOUT_S: Final = 60.0

_ATTEMPTS: Final = 3
_ERRORS: Final[dict[str, type[JournalError]]] = {
    error.kind: error
    for error in (
        JournalPermissionError,
        JournalFilesystemError,
        JournalMissingError,
        JournalIOError,
        JournalFullError,
    )
}
_START_CHILD: Final = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from journal.safe_reader_child import main; sys.exit(main(sys.argv[2:]))"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One consistent state of a journal; every link of it was checked here.

    Attributes:
        head: The newest record.
        entries: All entries.
        projections: Named values, their digests checked.
        damaged: Names of projections whose digest does not fit; they can be made again from the records.
    """

    head: Head
    entries: tuple[Entry, ...]
    projections: dict[bytes, bytes]
    damaged: tuple[bytes, ...] = ()


def snapshot(path: Path | str, *, foreign: bool = False, timeout_s: float = TIMEOUT_S) -> Snapshot:
    """Read a journal in one consistent state, even if the file is damaged or being written.

    Args:
        path: The file.
        foreign: The file comes from elsewhere and nobody writes it: its lock file is not trusted and it is never mapped
            into this process.
        timeout_s: Limit for a child process, in seconds of wall time and of processor time.

    Raises:
        JournalMissingError: There is no such file.
        JournalPermissionError: This user may not read it.
        JournalDamagedError: The file is not sound: its structure, its chain, or because reading it killed the child or
            took too long. The loss of the newest records cannot be noticed; compare `head` with one kept elsewhere.
    """
    path = Path(path)
    if foreign:
        read_meta_pages(path)
    elif not is_open(path) and require_sound(path) is Quietness.HEALTHY:
        try:
            return _read_here(path)
        except (JournalPermissionError, JournalFullError):
            # On a read-only or full file system, or one this user may not write, LMDB cannot make its lock file. Without
            # one a writer is not noticed, so that the child reads and the chain alone is believed.
            foreign = True
    return _read_with_retry(path, foreign=foreign, timeout_s=timeout_s)


def head_in_child(path: Path, *, timeout_s: float = TIMEOUT_S) -> Head:
    """Check the chain of a journal in a child process, and return its head.

    Raises:
        JournalDamagedError: As for `snapshot`.
    """
    return _read_with_retry(path, foreign=False, timeout_s=timeout_s).head


def salvage_records(
    path: Path | str, *, after: Head = EMPTY, timeout_s: float = TIMEOUT_S
) -> tuple[Entry, ...]:
    """Read the records that still follow a trusted head in a file that nobody writes, however damaged it is.

    Args:
        path: The file; neither it nor its lock file is written.
        after: The head that is trusted; `EMPTY` for the beginning of a journal.
        timeout_s: Limit for the child process, in seconds of wall time and of processor time.

    Returns:
        The entries after `after`, as far as they read and the chain holds; none where nothing does. A child that dies
        in the middle has written what it read before.

    Raises:
        JournalPermissionError: This user may not read it.
        JournalIOError: Something else than the file kept it from being read, so that more may be there.
    """
    path = Path(path)
    try:
        read_meta_pages(path)
        written = _read_in_dying_child(path, after, timeout_s)
    except (JournalDamagedError, JournalMissingError):
        return ()
    found: list[Entry] = []
    with suppress(JournalDamagedError):
        for entry in follow(after, _whole_records(written)):
            found.append(entry)  # noqa: PERF402 - what came before the break in the chain is kept
    return tuple(found)


def _read_in_dying_child(path: Path, after: Head, timeout_s: float) -> bytes:
    """What a child said before it ended, if it was the file that ended it.

    A child that was killed may have run out of memory or, on a tree that leads in circles, out of time. That is not
    written apart, so that it gets a second chance.
    """
    import subprocess  # noqa: PLC0415 - as in `_child_process`

    again = False
    while True:
        try:
            child = _child_process(path, after, "salvage", timeout_s)
        except subprocess.TimeoutExpired as error:
            return error.stdout or b""
        except OSError as error:
            raise JournalIOError(f"{path}: a child process to read it expected, found: {error}") from error
        if child.returncode == STATUS_ERROR:
            found = _child_error(path, child.stderr)
            if not isinstance(found, JournalDamagedError):
                raise found
        elif child.returncode > 0:
            raise JournalIOError(f"{path}: reading it in a child process failed: {child.stderr[-200:]!r}")
        if again or child.returncode != -signal.SIGKILL:
            return child.stdout
        again = True


def _whole_records(written: bytes) -> Iterator[tuple[int, bytes]]:
    """The record frames at the beginning of what a child said, up to the first that is cut short."""
    at = 0
    while written[at : at + 1] == b"R" and at + RECORD.size <= len(written):
        _, seq, length = RECORD.unpack_from(written, at)
        at += RECORD.size
        if at + length > len(written):
            return
        yield seq, written[at : at + length]
        at += length


def _read_here(path: Path) -> Snapshot:
    environment = open_environment(path, readonly=True)
    try:
        with environment.read() as reader:
            values = list(reader.records(1))
            sealed = list(reader.projections())
    finally:
        environment.close()
    return _checked(values, sealed)


def _checked(values: list[tuple[int, bytes]], sealed: list[tuple[bytes, bytes]]) -> Snapshot:
    entries = tuple(follow(EMPTY, values))
    head = entries[-1].head if entries else EMPTY
    projections, damaged = {}, []
    for name, value in sealed:
        try:
            projections[name] = unseal(name, value)
        except JournalDamagedError:
            damaged.append(name)
    return Snapshot(head=head, entries=entries, projections=projections, damaged=tuple(damaged))


def _read_with_retry(path: Path, *, foreign: bool, timeout_s: float) -> Snapshot:
    """Read in a child process. A failure during a concurrent write counts only if it repeats."""
    for _ in range(_ATTEMPTS - 1):
        before = read_meta_pages(path).transactions
        try:
            return _read_in_child(path, foreign=foreign, timeout_s=timeout_s)
        except JournalDamagedError:
            if foreign or read_meta_pages(path).transactions == before:
                raise
    return _read_in_child(path, foreign=foreign, timeout_s=timeout_s)


def _read_in_child(path: Path, *, foreign: bool, timeout_s: float) -> Snapshot:
    import subprocess  # noqa: PLC0415 - as in `_child_process`

    try:
        child = _child_process(path, EMPTY, "foreign" if foreign else "live", timeout_s)
    except subprocess.TimeoutExpired as error:
        raise JournalDamagedError(
            f"{path}: reading it within {timeout_s:g} s expected, it took longer"
        ) from error
    if child.returncode < 0:
        name = signal.strsignal(-child.returncode) or f"signal {-child.returncode}"
        raise JournalDamagedError(f"{path}: reading it ended the child process: {name}")
    if child.returncode == STATUS_ERROR:
        raise _child_error(path, child.stderr)
    values, sealed, head = _parse(path, child.stdout, child.stderr)
    found = _checked(values, sealed)
    if child.returncode != 0 or found.head != head:
        raise JournalDamagedError(f"{path}: reading it in a child process gave no complete answer")
    return found


def _child_process(
    path: Path, after: Head, mode: str, timeout_s: float
) -> "subprocess.CompletedProcess[bytes]":
    import subprocess  # noqa: PLC0415 - a journal that is quiet is read without it

    arguments = [
        *(sys.executable, "-P", "-c", _START_CHILD, str(Path(__file__).resolve().parent.parent)),
        *(str(path.absolute()), mode, str(after.seq), after.chain.hex()),
        *(str(math.ceil(timeout_s)), str(os.getpid())),
    ]
    return subprocess.run(
        arguments,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=timeout_s,
        check=False,
        close_fds=True,
    )


def _child_error(path: Path, text: bytes) -> JournalError:
    import json  # noqa: PLC0415 - as in `_child_process`

    try:
        written = json.loads(text)
        kind, message, hint, seq = written["kind"], written["message"], written["hint"], written["seq"]
    except (ValueError, KeyError, TypeError):
        return JournalDamagedError(f"{path}: reading it in a child process failed: {text[-200:]!r}")
    if kind in _ERRORS:
        return _ERRORS[kind](message, hint=hint)
    return JournalDamagedError(f"{path}: {message}", hint=hint, seq=seq)


def _parse(
    path: Path, data: bytes, complaint: bytes
) -> tuple[list[tuple[int, bytes]], list[tuple[bytes, bytes]], Head]:
    """Take the frames of `journal.safe_reader_child` apart."""
    values: list[tuple[int, bytes]] = []
    sealed: list[tuple[bytes, bytes]] = []
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
                sealed.append((name, _slice(data, at, length)))
                _expect(mark == b"P")
            at += length
        _, seq, chain = HEAD.unpack_from(data, at)
        _expect(at + HEAD.size == len(data))
    except (struct.error, ValueError) as error:
        raise JournalDamagedError(
            f"{path}: reading it in a child process gave no complete answer: {complaint[-200:]!r}"
        ) from error
    return values, sealed, Head(seq, Chain(chain))


def _slice(data: bytes, at: int, length: int) -> bytes:
    _expect(at + length <= len(data))
    return data[at : at + length]


def _expect(holds: bool) -> None:  # noqa: FBT001  (it is a condition, not a flag)
    if not holds:
        raise ValueError("the frames of the child do not fit together")
