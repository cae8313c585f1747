"""The structural check of a journal file at rest, on its raw bytes.

LMDB trusts the pages it maps: reading a damaged file in this process can end it with a signal, which no `except` sees.
So nothing is mapped before `journal.storage.meta_pages` and `check_structure_when_quiet` have looked at the raw bytes, and what cannot be checked is
read elsewhere (`journal.safe_reader`). The result holds for the moment: during a writer that keeps committing it
says nothing. It knows pages; it does not know records or chains.
"""

import time
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Final

from lmdb import verify

from journal.errors import JournalDamagedError, JournalIOError
from journal.storage.meta_pages import open_journal, read_open_meta_pages

_QUIET_ATTEMPTS: Final = 3
_QUIET_PAUSE_S: Final = 0.005
_GLANCE_S: Final = 0.002


class Quietness(Enum):
    """Outcome of `check_structure_when_quiet`."""

    HEALTHY = auto()
    DAMAGED = auto()
    BUSY = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What the structural check found.

    Attributes:
        outcome: Healthy; damaged; or busy, if somebody kept committing and nothing can be said.
        problems: What is damaged; empty otherwise.
    """

    outcome: Quietness
    problems: tuple[str, ...] = ()


def check_structure_when_quiet(path: Path, *, attempts: int = _QUIET_ATTEMPTS) -> Check:
    """Check the structure of a journal file on raw bytes; trust the result only if nobody committed meanwhile.

    Safe on any file: nothing is mapped. A writer that commits during the check makes sound files look damaged.

    Raises:
        JournalMissingError: There is no such file.
        JournalPermissionError: It cannot be read.
        JournalDamagedError: The gate refused it.
        JournalIOError: Memory, open files or the disk did not suffice to check it.
    """
    with open_journal(path) as fd:
        for attempt in range(attempts):
            if attempt:
                time.sleep(_QUIET_PAUSE_S)
            before = read_open_meta_pages(fd, path).transactions
            # The walk takes as long as the file is large; a writer that commits within this pause would spoil it.
            time.sleep(_GLANCE_S)
            if read_open_meta_pages(fd, path).transactions != before:
                continue
            try:
                problems = _structure(fd)
            except (OSError, MemoryError) as error:
                # It says nothing about the file: a sound journal must not be called damaged because memory was short.
                raise JournalIOError(
                    f"{path}: its structure could not be checked: {type(error).__name__}: {error}",
                    hint="check memory, open files and the system log, then run it again",
                ) from error
            if read_open_meta_pages(fd, path).transactions == before:
                return Check(outcome=Quietness.DAMAGED if problems else Quietness.HEALTHY, problems=problems)
    return Check(outcome=Quietness.BUSY)


def require_sound(path: Path) -> Quietness:
    """`check_structure_when_quiet` with damage as an error: what is left is healthy or busy.

    Raises:
        JournalDamagedError: The structure is damaged, or the gate refused the file.
        JournalMissingError: There is no such file.
        JournalPermissionError: It cannot be read.
    """
    check = check_structure_when_quiet(path)
    if check.outcome is Quietness.DAMAGED:
        raise JournalDamagedError(
            f"{path}: a sound structure expected, {len(check.problems)} problems found, first: {check.problems[0]}",
            problems=check.problems,
        )
    return check.outcome


def _structure(fd: int) -> tuple[str, ...]:
    try:
        # By descriptor, so that the file that is checked is the file that passed the gate.
        problems: list[str] = verify.verify(f"/proc/self/fd/{fd}", subdir=False)  # type: ignore[no-untyped-call]
    except (OSError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001  (a walker over hostile bytes; whatever else stops it is a finding)
        return (f"{type(error).__name__}: {error}",)
    return tuple(problems)
