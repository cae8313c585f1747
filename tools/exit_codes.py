"""Exit codes: one for each category of errors.

An error class names its category. To give an error another exit code, change the `category` of its class.
"""

from collections.abc import Mapping
from enum import IntEnum
from typing import Final

from store.errors import Category, category_of


class ExitCode(IntEnum):
    """Exit codes of `c10`. A number is never reused."""

    DONE = 0
    INTERNAL = 1
    REFUSED = 2
    BUILD_FAILED = 3
    LOCK_HELD = 4
    NO_GO = 5
    INCOMPATIBLE = 6
    DAMAGED = 7
    DISK_FULL = 8
    HUNG_UP = 129
    INTERRUPTED = 130
    TERMINATED = 143


MEANINGS: Final[Mapping[ExitCode, str]] = {
    ExitCode.DONE: "done",
    ExitCode.INTERNAL: "internal error",
    ExitCode.REFUSED: "bad request or usage, permission, file system, no cache; too little memory",
    ExitCode.BUILD_FAILED: "build failed; the cache still shows what it showed",
    ExitCode.LOCK_HELD: "another process holds the build lock",
    ExitCode.NO_GO: "verification says NO-GO",
    ExitCode.INCOMPATIBLE: "made for another device or library version",
    ExitCode.DAMAGED: "damaged journal or history",
    ExitCode.DISK_FULL: "disk full",
    ExitCode.HUNG_UP: "terminal closed (SIGHUP); recorded as failed",
    ExitCode.INTERRUPTED: "interrupted (Ctrl-C); recorded as failed",
    ExitCode.TERMINATED: "terminated (SIGTERM); recorded as failed",
}

CODES: Final[Mapping[Category, ExitCode]] = {
    Category.INTERNAL: ExitCode.INTERNAL,
    Category.REFUSED: ExitCode.REFUSED,
    Category.BUILD_FAILED: ExitCode.BUILD_FAILED,
    Category.LOCK_HELD: ExitCode.LOCK_HELD,
    Category.NO_GO: ExitCode.NO_GO,
    Category.INCOMPATIBLE: ExitCode.INCOMPATIBLE,
    Category.DAMAGED: ExitCode.DAMAGED,
    Category.DISK_FULL: ExitCode.DISK_FULL,
    Category.INTERRUPTED: ExitCode.INTERRUPTED,
    Category.TERMINATED: ExitCode.TERMINATED,
    Category.HUNG_UP: ExitCode.HUNG_UP,
}


class TerminatedError(KeyboardInterrupt):
    """SIGTERM arrived. Code that cleans up after Ctrl-C does so for this subclass too."""

    category = Category.TERMINATED
    kind = "terminated"
    message = "terminated by SIGTERM"


class HungUpError(TerminatedError):
    """SIGHUP arrived: the terminal was closed, or its connection was lost."""

    category = Category.HUNG_UP
    kind = "hung-up"
    message = "the terminal was closed (SIGHUP)"


def code_of(error: BaseException) -> ExitCode:
    """Return the exit code of an error that ended a command."""
    return CODES[category_of(error)]
