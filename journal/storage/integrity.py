"""Check the structure of a journal file at rest, on its raw bytes.

LMDB trusts the pages it maps: reading a damaged file can end this process with a signal, which no `except`
catches. So nothing is mapped before `read_meta_pages` and `check_structure` have checked the raw bytes. A
file that they cannot check is read in another process (`journal.safe_reader`). This module knows pages, not
records or chains.
"""

import time
from pathlib import Path
from typing import Final

from lmdb import verify

from journal.errors import JournalDamagedError, io_error
from journal.storage.meta_pages import open_journal, read_open_meta_pages

_ATTEMPTS: Final = 3
_RETRY_PAUSE_S: Final = 0.005
_IDLE_S: Final = 0.002


def check_structure(path: Path, *, attempts: int = _ATTEMPTS) -> tuple[str, ...] | None:
    """Return the structural problems of a journal file; None if other processes kept committing.

    Safe on any file: nothing is mapped. A commit during the check would make a sound file look damaged.

    Raises:
        JournalMissingError: There is no such file.
        JournalPermissionError: It cannot be read.
        JournalDamagedError: Its meta pages are not valid.
        JournalIOError: Memory, open files or the disk did not suffice to check it.
    """
    with open_journal(path) as fd:
        for attempt in range(attempts):
            if attempt:
                time.sleep(_RETRY_PAUSE_S)
            before = read_open_meta_pages(fd, path)
            # The check takes long for a large file, so start it only if nobody commits just now.
            time.sleep(_IDLE_S)
            if read_open_meta_pages(fd, path) != before:
                continue
            try:
                problems = _find_problems(fd)
            except (OSError, MemoryError) as error:
                # A shortage says nothing about the file: a sound journal must not be called damaged for it.
                what = f"{path}: its structure could not be checked: {type(error).__name__}: {error}"
                raise io_error(what, error, hint="check the system log for disk errors") from error
            if read_open_meta_pages(fd, path) == before:
                return problems
    return None


def require_sound(path: Path) -> bool:
    """Refuse a damaged file; return False if it could not be checked because others kept committing.

    Raises:
        JournalDamagedError: The structure or the meta pages are damaged.
        JournalMissingError, JournalPermissionError, JournalIOError: As for `check_structure`.
    """
    problems = check_structure(path)
    if problems:
        raise JournalDamagedError(
            f"{path}: a sound structure expected, {len(problems)} problems found, first: {problems[0]}",
            problems=problems,
        )
    return problems is not None


def _find_problems(fd: int) -> tuple[str, ...]:
    try:
        # By descriptor, so that this is the file whose meta pages were read.
        problems: list[str] = verify.verify(f"/proc/self/fd/{fd}", subdir=False)  # type: ignore[no-untyped-call]
    except (OSError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001  (damaged bytes may raise anything; each error is a finding)
        return (f"{type(error).__name__}: {error}",)
    return tuple(problems)
