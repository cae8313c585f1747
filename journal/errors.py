"""Errors of the journal, grouped by what a caller does about them.

Every error has a `kind`, a short name that never changes once it was released. Programs match on it or on the
class, never on the text. `message` says what was expected and what was found, `hint` how to fix it.
"""

import errno
from collections.abc import Mapping
from enum import Enum
from typing import ClassVar, Final

_SHORTAGES: Final = frozenset({errno.EAGAIN, errno.EINTR, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_MAKE_ROOM: Final = (
    "end other programs or raise the limits (ulimit; a journal takes 64 GiB of address space, which is no memory),"
    " then run it again"
)


class ErrorKind(str, Enum):  # `StrEnum` came with Python 3.11
    """Stable names of the errors. Names are added, never changed or reused."""

    __str__ = str.__str__

    JOURNAL = "journal"
    DAMAGED = "journal-damaged"
    FULL = "journal-full"
    PERMISSION = "journal-permission"
    FILESYSTEM = "journal-filesystem"
    VERSION = "journal-version"
    MISSING = "journal-missing"
    EXISTS = "journal-exists"
    HEAD_MOVED = "journal-head-moved"
    LOCK_HELD = "build-lock-held"
    MISUSE = "journal-misuse"
    CLOSED = "journal-closed"
    IO = "journal-io"
    RECORD = "journal-record"
    RESOURCES = "resources"


class JournalError(Exception):
    """Something is wrong with a journal, a record or the build lock.

    Attributes:
        kind: Stable name of the class of errors.
        category: What a handler does about it, which decides the exit code: the value of a
            `store.errors.Category`. It is text, because the journal imports nothing of the packages above it.
        message: What was expected and what was found.
        hint: How to fix it; empty if nothing can be said in general.
    """

    kind: ClassVar[ErrorKind] = ErrorKind.JOURNAL
    category: str = "damaged"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class JournalDamagedError(JournalError):
    """The file is not a sound journal, or no longer the same journal. Keep it as evidence, then rebuild.

    Attributes:
        seq: Place of the first record that cannot be trusted; None if the damage is not in a record.
        problems: Findings of the structural check, if there was one.
    """

    kind = ErrorKind.DAMAGED

    def __init__(
        self, message: str, *, hint: str = "", seq: int | None = None, problems: tuple[str, ...] = ()
    ) -> None:
        super().__init__(
            message, hint=hint or "keep the file as evidence and rebuild the journal from its segments"
        )
        self.seq = seq
        self.problems = problems


class JournalFullError(JournalError):
    """No space left on the file system, in the quota or in the reserved map. Nothing was appended."""

    kind = ErrorKind.FULL
    category = "disk-full"


class JournalPermissionError(JournalError):
    """This user may not read or write the journal or its folder."""

    kind = ErrorKind.PERMISSION
    category = "refused"


class JournalFilesystemError(JournalError):
    """The file system cannot hold a journal: it is remote, unknown, or without hard links."""

    kind = ErrorKind.FILESYSTEM
    category = "refused"


class JournalVersionError(JournalError):
    """A newer release wrote this journal; this one may read it and must not write."""

    kind = ErrorKind.VERSION
    category = "refused"


class JournalMissingError(JournalError):
    """There is no journal under this name."""

    kind = ErrorKind.MISSING
    category = "refused"


class JournalExistsError(JournalError):
    """Another process created a journal under this name first."""

    kind = ErrorKind.EXISTS
    category = "refused"


class HeadMovedError(JournalError):
    """The journal has another head than the caller expected. Read again, decide again.

    Attributes:
        expected: Seq and chain that the caller expected.
        found: Seq and chain in the journal.
    """

    kind = ErrorKind.HEAD_MOVED
    category = "internal"

    def __init__(self, message: str, *, expected: tuple[int, bytes], found: tuple[int, bytes]) -> None:
        super().__init__(message, hint="read the new records and decide again")
        self.expected = expected
        self.found = found


class BuildLockHeldError(JournalError):
    """Another process holds the build lock and did not release it in time.

    Attributes:
        holder: The document the holder wrote (pid, host, boot_id, since, build, command); None if it wrote
            none yet.
    """

    kind = ErrorKind.LOCK_HELD
    category = "lock-held"

    def __init__(self, message: str, *, holder: Mapping[str, object] | None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.holder = None if holder is None else dict(holder)


class JournalMisuseError(JournalError):
    """The calling program broke a rule of this package; no retry helps."""

    kind = ErrorKind.MISUSE
    category = "internal"


class JournalClosedError(JournalMisuseError):
    """The journal was closed, perhaps after a disk error; open it again."""

    kind = ErrorKind.CLOSED


class JournalIOError(JournalError):
    """The operating system failed a read or write for a reason without its own class."""

    kind = ErrorKind.IO
    category = "refused"


class JournalResourcesError(JournalIOError):
    """This process lacks memory, address space, open files, processes or time. That says nothing of the journal."""

    kind = ErrorKind.RESOURCES

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint or _MAKE_ROOM)


def io_error(message: str, cause: OSError | MemoryError, *, hint: str = "") -> JournalIOError:
    """Return the error for what the system refused to do; `hint` is for a cause that is no shortage."""
    if isinstance(cause, MemoryError) or cause.errno in _SHORTAGES:
        return JournalResourcesError(message)
    return JournalIOError(message, hint=hint)


class RecordError(JournalError):
    """The bytes are no canonical record, or a record cannot hold a value, whose category is then "refused"."""

    kind = ErrorKind.RECORD
